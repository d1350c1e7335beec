/* What every test image has: types, byte order, memory, text output, time, the device tree. */
#ifndef LIB_H
#define LIB_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define barrier() __asm__ volatile("sync" ::: "memory")

/* ---- byte order ---- */
#ifdef __LITTLE_ENDIAN__
#define CPU_LITTLE true
#else
#define CPU_LITTLE false
#endif

/* Swaps the low `size` (1, 2, 4 or 8) bytes of value. */
static inline u64 swap(u64 value, int size)
{
	return size == 1 ? value : __builtin_bswap64(value) >> (64 - 8 * size);
}

/* Between the CPU's order and little- or big-endian memory, either way. */
static inline u64 in_order(bool little, u64 value, int size)
{
	return little == CPU_LITTLE ? value : swap(value, size);
}

static inline u32 be32(u32 value) { return in_order(false, value, 4); }
static inline u64 be64(u64 value) { return in_order(false, value, 8); }

/* ---- memory and strings ---- */
void *memset(void *to, int byte, size_t count);
void *memcpy(void *to, const void *from, size_t count);
int memcmp(const void *a, const void *b, size_t count);
size_t strlen(const char *s);
bool streq(const char *a, const char *b);
bool starts_with(const char *s, const char *prefix);
u64 parse_number(const char *s);	/* decimal, or hexadecimal after 0x */

/* Zeroed memory for rings and buffers; heap_reset() gives all of it back. */
void *alloc(size_t size, size_t align);
void heap_reset(void);

/* ---- text output: %s %c %d %u %x (all integers as 64 bits) ---- */
void print(const char *format, ...);
void vprint(const char *format, va_list args);

/* ---- parameters: words "name=value" of the image or of /chosen/bootargs ---- */
void parameters_init(void);
/* Copies the value of a parameter (empty if there is none); true if there is one. */
bool parameter(const char *name, char *value, size_t size);
bool parameter_is(const char *name, const char *value);

/* ---- time ---- */
u64 timebase(void);			/* 512 MHz */
#define SECONDS(n) ((n) * 512000000ul)

/* ---- device tree; a node is the offset of its FDT_BEGIN_NODE ---- */
#define FDT_NONE (-1)
void fdt_init(const void *fdt);
u32 fdt_size(void);			/* of the whole blob, in bytes */
int fdt_next(int node);			/* the next node in the tree's order; fdt_next(FDT_NONE) = root */
const char *fdt_name(int node);
const void *fdt_property(int node, const char *name, int *length);
bool fdt_compatible(int node, const char *name);
int fdt_find(const char *compatible, int after);
int fdt_named(const char *name);	/* the first node of that name (unit address included) */
u64 fdt_cells(const void *cell, int count);

#endif

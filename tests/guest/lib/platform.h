/* The two boards: pseries (hypercalls, RTAS) and virtmmio (flat memory map). */
#ifndef PLATFORM_H
#define PLATFORM_H

#include "lib.h"

enum {
	H_ENTER = 0x08,
	H_LOGICAL_CI_LOAD = 0x3c,
	H_LOGICAL_CI_STORE = 0x40,
	H_GET_TERM_CHAR = 0x54,
	H_PUT_TERM_CHAR = 0x58,
	H_EOI = 0x64,
	H_CPPR = 0x68,
	H_XIRR = 0x74,
	H_REGISTER_PROC_TBL = 0x37c,
	H_RTAS = 0xf000,
	H_TEST_EXIT = 0x7e570000,	/* ppc64emu's, see docs/runner.md */
};

void platform_init(const void *fdt);
bool platform_is_pseries(void);
bool board_line(u32 line);		/* virtmmio: is the interrupt line high? */
void console_put(char c);
void console_write(const char *text, u32 size);
void power_off(int status) __attribute__((noreturn));
/* Ends the emulator with that status; where that is not possible, as power_off() does. */
void test_exit(int status) __attribute__((noreturn));
void machine_check(void);		/* one that has no handler: MSR[ME] is clear */

/* A hypercall; *out (may be NULL) gets r4. Returns r3. */
long hcall(u64 *out, u64 number, u64 r4, u64 r5, u64 r6, u64 r7, u64 r8);
long hcall_toggled(u64 number, u64 r4, u64 r5, u64 r6);
void store8_toggled(u64 address, u64 value);
void store32_toggled(u64 address, u64 value);

/*
 * An RTAS call by name with 32-bit cells. result gets the cells after the status.
 * Returns the status, or -1 if the platform has no such service.
 */
int rtas(const char *service, int inputs, const u32 *input, int outputs, u32 *result);

/*
 * MMIO. The value is the bytes on the bus read as a big-endian number: what a big-endian CPU's
 * load gives. Little-endian registers take swap() in either order of CPU.
 */
u64 bus_read(u64 address, int size);
void bus_write(u64 address, int size, u64 value);
/* The same store made with MSR[LE] the other way. Sizes 1 and 4. */
void bus_write_toggled(u64 address, int size, u64 value);

static inline u64 le_read(u64 address, int size) { return swap(bus_read(address, size), size); }
static inline void le_write(u64 address, int size, u64 value)
{
	bus_write(address, size, swap(value, size));
}

/* Translation: TRANSLATION_OFF reaches MMIO through hypercalls on pseries. */
enum translation { TRANSLATION_OFF, TRANSLATION_HASH, TRANSLATION_RADIX };
void mmu_init(enum translation kind);	/* maps the image and the heap 1:1 */
void mmu_map_memory(u64 address, u64 size);
void mmu_map_io(u64 address, u64 size);	/* cache-inhibited, 1:1 */
void mmu_on(void);
void mmu_off(void);
bool mmu_is_on(void);
void set_translation(int on);

/* Interrupts of the XICS, taken by polling: MSR[EE] stays 0. */
void irq_enable(u32 irq);
void irq_disable(u32 irq);
u32 irq_poll(void);			/* the pending source, 0 if none; finish with irq_done() */
void irq_done(u32 irq);
void irq_drain(void);			/* takes all that is pending, to no effect */

#endif

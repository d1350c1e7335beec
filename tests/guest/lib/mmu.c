/*
 * Effective = real addresses under the hash table (H_ENTER, Power ISA 2.07 Book III 5.7) or a
 * radix tree (Power ISA 3.0B Book III 5.7.10). 4 KiB pages with hash, 2 MiB with radix.
 */
#include "layout.h"
#include "platform.h"

#define PAGE 4096ul
#define RADIX_PAGE (1ul << 21)
#define SEGMENT_SHIFT 28
#define HPTE_VALID 1ul
#define HPTE_R_C 0x180ul
#define HPTE_MEMORY 0x10ul		/* WIMG = 0010 */
#define HPTE_IO 0x28ul			/* WIMG = 0101 */
#define H_REGISTER_RADIX 0x1cul		/* new table, radix, guest does tlbie */
#define RADIX_VALID (1ul << 63)
#define RADIX_LEAF (1ul << 62)
#define RADIX_IO (2ul << 4)
#define RADIX_RIGHTS (0x180ul | 0xful)	/* referenced, changed, privileged, read, write, execute */

static enum translation kind;
static bool on;
static u64 tables_used;
static u64 *root;
static u64 segments[16];
static unsigned int segment_count;

static void *table(u64 size)
{
	u64 at = (TABLES_BASE + tables_used + size - 1) & -size;

	tables_used = at + size - TABLES_BASE;
	return memset((void *)at, 0, size);
}

static void segment_map(u64 esid)
{
	for (unsigned int i = 0; i < segment_count; i++)
		if (segments[i] == esid)
			return;
	u64 rb = esid << SEGMENT_SHIFT | 1ul << 27 | segment_count;
	u64 rs = esid << 12;		/* VSID = ESID, 256 MiB, 4 KiB pages, privileged key 0 */
	segments[segment_count++] = esid;
	__asm__ volatile("slbmte %0, %1; isync" :: "r"(rs), "r"(rb) : "memory");
}

static void hash_map(u64 address, u64 attributes)
{
	static u64 mask;
	u64 esid = address >> SEGMENT_SHIFT, slot;

	if (!mask) {
		int cpu = FDT_NONE;
		const u32 *size = NULL;
		while (!size && (cpu = fdt_next(cpu)) != FDT_NONE)
			size = fdt_property(cpu, "ibm,pft-size", NULL);
		mask = (1ul << (fdt_cells(size + 1, 1) - 7)) - 1;
	}
	segment_map(esid);
	u64 page = (address >> 12) & 0xffff;
	u64 group = (esid ^ page) & mask;
	u64 avpn = (esid << 28 | page << 12) >> 23;
	hcall(&slot, H_ENTER, 0, group * 8, avpn << 7 | HPTE_VALID,
	      (address & -PAGE) | HPTE_R_C | attributes, 0);
}

/* A level of the tree: the table below the entry, made on demand. */
static u64 *radix_level(u64 *entry, int bits)
{
	if (!*entry)
		*entry = be64(RADIX_VALID | (u64)table(8ul << bits) | bits);
	return (u64 *)(be64(*entry) & 0x0fffffffffffff00ul);
}

static void radix_map(u64 address, u64 attributes)
{
	u64 *upper = radix_level(&root[(address >> 39) & 0x1fff], 9);
	u64 *middle = radix_level(&upper[(address >> 30) & 0x1ff], 9);

	middle[(address >> 21) & 0x1ff] = be64(RADIX_VALID | RADIX_LEAF |
		(address & 0x01ffffffffe00000ul) | attributes | RADIX_RIGHTS);
}

static void radix_init(void)
{
	u64 *process_table = table(PAGE);

	root = table(8ul << 13);
	/* RTS = 21 (52-bit space: 31 + 21), root of 2^13 entries; process 0 is the kernel too */
	process_table[0] = be64(2ul << 61 | 5ul << 5 | (u64)root | 13);
	hcall(NULL, H_REGISTER_PROC_TBL, H_REGISTER_RADIX, (u64)process_table, 0, 0, 0);
	__asm__ volatile("mtspr 48, %0; isync" :: "r"(0ul));
}

static void map(u64 address, u64 size, u64 hash_attributes, u64 radix_attributes)
{
	u64 page = kind == TRANSLATION_RADIX ? RADIX_PAGE : PAGE;

	for (u64 at = address & -page; at < address + size; at += page) {
		if (kind == TRANSLATION_RADIX)
			radix_map(at, radix_attributes);
		else if (kind == TRANSLATION_HASH)
			hash_map(at, hash_attributes);
	}
	barrier();
}

void mmu_map_memory(u64 address, u64 size)
{
	map(address, size, HPTE_MEMORY, 0);
}

void mmu_map_io(u64 address, u64 size)
{
	map(address, size, HPTE_IO, RADIX_IO);
}

void mmu_init(enum translation wanted)
{
	kind = wanted;
	on = false;
	tables_used = 0;
	segment_count = 0;
	if (kind == TRANSLATION_RADIX)
		radix_init();
	else if (kind == TRANSLATION_HASH)
		__asm__ volatile("slbmte %0, %0; slbia; isync" :: "r"(0ul) : "memory");
	mmu_map_memory(0, MAPPED_END);
}

void mmu_on(void)
{
	if (kind == TRANSLATION_OFF)
		return;
	on = true;
	set_translation(1);
}

void mmu_off(void)
{
	on = false;
	set_translation(0);
}

bool mmu_is_on(void)
{
	return on;
}

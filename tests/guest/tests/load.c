/*
 * A guest that never ends and notices when anything of it is lost or doubled: for migration.
 * Each round changes some of its memory, counts with lwarx/stwcx., writes to the disk if there is
 * one, checks what earlier rounds left, and says
 *	TICK <round> <checksum of everything so far>
 * Parameters: pace=<milliseconds between rounds> (5), interface=modern (of the disk; else legacy).
 */
#include "check.h"
#include "devices.h"
#include "platform.h"

#define FIELD 0x1000000ul		/* pages of known contents */
#define PAGES 512
#define PAGES_A_ROUND 48
#define PAGE_WORDS 512
#define INCREMENTS 2000
#define BLOCKS 64			/* of the disk, behind the sectors blk.c knows */
#define BLOCK_SECTORS 8
#define FIRST_SECTOR 64
#define SECTOR 512
#define BLOCK_WORDS (BLOCK_SECTORS * SECTOR / 8)
enum { READ = 0, WRITE = 1, FLUSH = 4 };

static u64 page_round[PAGES], block_round[BLOCKS];
static volatile u32 counter;
static u64 sum;
static struct virtio disk;
static bool have_disk;

static u64 word(u64 place, u64 round, u64 index)
{
	u64 x = place * 0x9e3779b97f4a7c15ul ^ round * 0xc2b2ae3d27d4eb4ful ^ index;

	x ^= x >> 29;
	x *= 0xbf58476d1ce4e5b9ul;
	return x ^ x >> 32;
}

static void fill(u64 *to, u64 words, u64 place, u64 round)
{
	for (u64 i = 0; i < words; i++)
		to[i] = word(place, round, i);
}

static void verify(const u64 *data, u64 words, u64 place, u64 round, const char *what)
{
	for (u64 i = 0; i < words; i++) {
		if (data[i] != word(place, round, i)) {
			check_equal(data[i], word(place, round, i), "%s %u, word %u", what, place, i);
			return;
		}
		sum = (sum << 1 | sum >> 63) ^ data[i];
	}
}

static void memory(u64 round)
{
	for (int i = 0; i < PAGES_A_ROUND; i++) {
		u64 page = (round * PAGES_A_ROUND + i) % PAGES;
		u64 *data = (u64 *)(FIELD + 8 * PAGE_WORDS * page);

		verify(data, PAGE_WORDS, page, page_round[page], "page");
		page_round[page] = round;
		fill(data, PAGE_WORDS, page, round);
	}
}

/*
 * Interrupted anywhere, by a migration too, each stwcx. counts once or not at all. The branch lets
 * the emulator stop between the two.
 */
static void count(u64 round)
{
	u32 value;

	for (int i = 0; i < INCREMENTS; i++)
		__asm__ volatile("1: lwarx %0, 0, %1; addi %0, %0, 1; b 2f; nop; 2: stwcx. %0, 0, %1; bne- 1b"
			: "=&b"(value) : "b"(&counter) : "cr0", "memory");
	check_equal(counter, (u32)(round * INCREMENTS), "counter");
}

static void transfer(u32 type, u64 sector, void *data, u32 length)
{
	static struct { u32 type, reserved; u64 sector; } header;
	static volatile u8 status;
	struct buffer buffers[3] = { { &header, sizeof(header) } };
	struct queue *queue = &disk.queues[0];
	int buffer_count = 1;
	u16 head, id = 0;
	u32 written;

	header.type = dev_order(&disk, type, 4);
	header.sector = dev_order(&disk, sector, 8);
	status = 0xff;
	if (length)
		buffers[buffer_count++] = (struct buffer){ data, length };
	buffers[buffer_count++] = (struct buffer){ (void *)&status, 1 };
	int out = type == READ ? 1 : buffer_count - 1;
	head = queue_add(&disk, queue, buffers, out, buffer_count - out);
	queue_kick(&disk, queue);
	check(queue_wait(&disk, queue, SECONDS(60), &id, &written), "the disk answers");
	check_equal(id, head, "used id");
	check_equal(status, 0, "status of request %u for sector %u", type, sector);
	while (virtio_interrupt_pending(&disk, queue))
		;
}

static void use_disk(u64 round)
{
	static u64 data[BLOCK_WORDS];
	u64 block = round % BLOCKS, other = (round * 7 + 3) % BLOCKS;

	fill(data, BLOCK_WORDS, ~block, round);
	transfer(WRITE, FIRST_SECTOR + block * BLOCK_SECTORS, data, sizeof(data));
	block_round[block] = round;
	if (round % 16 == 0)
		transfer(FLUSH, 0, NULL, 0);
	if (!block_round[other])
		return;
	memset(data, 0, sizeof(data));
	transfer(READ, FIRST_SECTOR + other * BLOCK_SECTORS, data, sizeof(data));
	verify(data, BLOCK_WORDS, ~other, block_round[other], "block");
}

static bool find_disk(void)
{
	static struct virtio found;
	int devices = 0, node = FDT_NONE;

	if (!platform_is_pseries()) {
		while ((node = fdt_find("virtio,mmio", node)) != FDT_NONE)
			if (virtio_mmio_probe(&disk, node) && disk.type == VIRTIO_BLK)
				return true;
		return false;
	}
	struct pci_device *device = pci_scan(&devices);
	for (; devices--; device++) {
		if (!virtio_pci_probe(&found, device) || found.type != VIRTIO_BLK)
			continue;
		disk = found;
		return virtio_pci_use(&disk, parameter_is("interface", "modern"));
	}
	return false;
}

static void start_disk(void)
{
	static const struct options plain = { "plain", F_EVENT_IDX, false, false };

	have_disk = find_disk() && virtio_negotiate(&disk, &plain, blk_test.features) &&
		    virtio_queue(&disk, 0);
	if (have_disk)
		virtio_ready(&disk);
}

static void load(void)
{
	u64 start, last = timebase();
	char pace[16];

	cell_begin("load");
	mmu_map_memory(FIELD, 8ul * PAGE_WORDS * PAGES);
	mmu_on();
	parameter("pace", pace, sizeof(pace));
	u64 ticks = SECONDS(1) / 1000 * (pace[0] ? parse_number(pace) : 5);
	for (u64 page = 0; page < PAGES; page++)
		fill((u64 *)(FIELD + 8 * PAGE_WORDS * page), PAGE_WORDS, page, 0);
	start_disk();
	print("LOAD disk=%u\n", (u64)have_disk);
	for (u64 round = 1;; round++) {
		memory(round);
		count(round);
		if (have_disk)
			use_disk(round);
		start = timebase();
		check(start >= last, "the timebase runs forward");
		last = start;
		print("TICK %u %x\n", round, sum);
		while (timebase() - start < ticks)
			;
	}
}
TEST("load", load);

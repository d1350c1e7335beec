/* The endian matrix: every virtio device x interface x variant, in this payload's byte order. */
#include "devices.h"
#include "platform.h"

static const struct device_test *const device_tests[] = { &blk_test, &net_test, &console_test,
	&rng_test, &balloon_test };
static const struct options variants[] = {
	{ "plain", 0, false, false },
	{ "event", F_EVENT_IDX, false, false },
	{ "indirect", F_INDIRECT, true, false },
	{ "both", F_EVENT_IDX | F_INDIRECT, true, false },
	{ "cross", F_EVENT_IDX, false, true },
};
typedef void each_fn(struct virtio *dev, const struct device_test *test, const struct options *how);

static each_fn *each;
static unsigned int interfaces;	/* driven so far */

static void begin(const struct virtio *dev, const struct device_test *test,
		  const struct options *how)
{
	cell_begin("%s %s %s %s %s", test->name, dev->transport->name, dev->kind,
		   dev->modern ? "modern" : "legacy", how->name);
}

/* All variants of a device through one interface. */
static void run_interface(struct virtio *dev)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(device_tests); i++) {
		const struct device_test *test = device_tests[i];
		char only[16];

		if (test->type != dev->type ||
		    (parameter("only", only, sizeof(only)) && !streq(only, test->name)))
			continue;
		interfaces++;
		for (unsigned int v = 0; v < ARRAY_SIZE(variants); v++) {
			begin(dev, test, &variants[v]);
			each(dev, test, &variants[v]);
		}
		virtio_reset(dev, false);
	}
}

static void each_pci_device(void)
{
	struct virtio dev;
	int count;
	struct pci_device *devices = pci_scan(&count);

	mmu_on();
	for (struct pci_device *device = devices; device < devices + count; device++) {
		cell_begin("probe pci");
		if (!virtio_pci_probe(&dev, device))
			continue;
		for (int modern = 0; modern < 2; modern++)
			if (virtio_pci_use(&dev, modern))
				run_interface(&dev);
	}
}

static void each_mmio_device(void)
{
	struct virtio dev;
	int node = FDT_NONE;

	mmu_on();
	while ((node = fdt_find("virtio,mmio", node)) != FDT_NONE) {
		cell_begin("probe mmio");
		if (virtio_mmio_probe(&dev, node))
			run_interface(&dev);
	}
}

static void each_device(each_fn *fn)
{
	each = fn;
	if (platform_is_pseries())
		each_pci_device();
	else
		each_mmio_device();
	cell_begin("devices");
	check(interfaces > 0, "there is a device to test");
}

static void drive(struct virtio *dev, const struct device_test *test, const struct options *how)
{
	test->run(dev, how);
	cell_end();
}

static void matrix(void)
{
	each_device(drive);
}
TEST("matrix", matrix);

/* Each device up to its first request, for a migration in the middle of that. */
static void start(struct virtio *dev, const struct device_test *test, const struct options *how)
{
	test->start(dev, how);
	cell_end();
}

static void setup(void)
{
	each_device(start);
}
TEST("setup", setup);

/* ---- hostile rings ---- */

#define OUTSIDE 0x0000700000000000ul
#define NEXT 1
#define WRITE 2
#define INDIRECT 4

/* Data no device makes sense of; zeros would give page 0 to the balloon. */
static u64 junk(void)
{
	return (u64)memset(alloc(64, 16), 0xff, 64);
}

static void index_out_of_range(struct virtio *dev, struct queue *queue)
{
	put_available(dev, queue, queue->size + 5);
}

static void loop(struct virtio *dev, struct queue *queue)
{
	u64 data = junk();

	put_descriptor(dev, queue->descriptors, 0, data, 16, NEXT, 1);
	put_descriptor(dev, queue->descriptors, 1, data, 16, NEXT, 0);
	put_available(dev, queue, 0);
}

static void next_out_of_range(struct virtio *dev, struct queue *queue)
{
	put_descriptor(dev, queue->descriptors, 0, junk(), 16, NEXT, queue->size);
	put_available(dev, queue, 0);
}

static void outside_memory(struct virtio *dev, struct queue *queue)
{
	put_descriptor(dev, queue->descriptors, 0, OUTSIDE, 16, NEXT, 1);
	put_descriptor(dev, queue->descriptors, 1, OUTSIDE, 512, WRITE, 0);
	put_available(dev, queue, 0);
}

static void index_jump(struct virtio *dev, struct queue *queue)
{
	(void)dev;
	queue->added += queue->size + 10;
}

static void odd_indirect_table(struct virtio *dev, struct queue *queue)
{
	put_descriptor(dev, queue->descriptors, 0, junk(), 24, INDIRECT, 0);
	put_available(dev, queue, 0);
}

static void nested_indirect_table(struct virtio *dev, struct queue *queue)
{
	u8 *table = alloc(64, 16);

	put_descriptor(dev, table, 0, junk(), 16, INDIRECT, 0);
	put_descriptor(dev, queue->descriptors, 0, (u64)table, 16, INDIRECT, 0);
	put_available(dev, queue, 0);
}

static const struct {
	const char *name;
	u64 features;
	void (*make)(struct virtio *dev, struct queue *queue);
} attacks[] = {
	{ "index-out-of-range", 0, index_out_of_range },
	{ "loop", 0, loop },
	{ "next-out-of-range", 0, next_out_of_range },
	{ "outside-memory", 0, outside_memory },
	{ "index-jump", 0, index_jump },
	{ "odd-indirect", F_INDIRECT, odd_indirect_table },
	{ "nested-indirect", F_INDIRECT, nested_indirect_table },
};

/* The device may break or ignore it; it must not answer for ever, and a reset must cure it. */
static void attack(struct virtio *dev, const struct device_test *test, unsigned int which)
{
	struct options how = { attacks[which].name, attacks[which].features, false, false };
	struct queue *queue = &dev->queues[test->hostile_queue];
	u64 start;

	begin(dev, test, &how);
	if (test->start(dev, &how)) {
		attacks[which].make(dev, queue);
		publish(dev, queue, queue->added);
		dev->transport->notify(dev, queue);
		for (start = timebase(); timebase() - start < SECONDS(1) / 50;)
			;
		u8 status = dev->transport->status(dev);
		bool may_break = dev->modern && (status & NEEDS_RESET);
		check_equal(status & ~(may_break ? NEEDS_RESET : 0),
			    ACKNOWLEDGE | DRIVER | DRIVER_OK | (dev->modern ? FEATURES_OK : 0),
			    "status after %s", how.name);
	}
	test->run(dev, &variants[0]);
	cell_end();
}

static void attack_device(struct virtio *dev, const struct device_test *test,
			  const struct options *how)
{
	if (how != variants)
		return;
	for (unsigned int which = 0; which < ARRAY_SIZE(attacks); which++)
		attack(dev, test, which);
}

static void hostile(void)
{
	each_device(attack_device);
}
TEST("hostile", hostile);

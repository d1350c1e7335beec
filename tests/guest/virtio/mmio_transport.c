/* Virtio over MMIO: virtio 1.2 section 4.2, legacy interface 4.2.4. Registers are little-endian. */
#include "check.h"
#include "platform.h"
#include "virtio.h"

enum { MAGIC = 0x000, VERSION = 0x004, DEVICE_ID = 0x008, FEATURES = 0x010, FEATURES_SELECT = 0x014,
	DRIVER_FEATURES = 0x020, DRIVER_SELECT = 0x024, GUEST_PAGE_SIZE = 0x028, QUEUE_SELECT = 0x030,
	QUEUE_SIZE_MAX = 0x034, QUEUE_SIZE = 0x038, QUEUE_ALIGN = 0x03c, QUEUE_PFN = 0x040,
	QUEUE_READY = 0x044, QUEUE_NOTIFY = 0x050, INTERRUPT_STATUS = 0x060, INTERRUPT_ACK = 0x064,
	STATUS = 0x070, QUEUE_DESC = 0x080, QUEUE_DRIVER = 0x090, QUEUE_DEVICE = 0x0a0,
	GENERATION = 0x0fc, CONFIG = 0x100 };
#define MAGIC_VALUE 0x74726976

bool virtio_mmio_probe(struct virtio *dev, int node)
{
	u64 base = fdt_cells(fdt_property(node, "reg", NULL), 2);

	*dev = (struct virtio){ .base = base };
	const void *interrupts = fdt_property(node, "interrupts", NULL);
	dev->irq = interrupts ? fdt_cells(interrupts, 1) : 0;
	mmu_map_io(base, 0x200);
	if (!check_equal(le_read(base + MAGIC, 4), MAGIC_VALUE, "magic at %x", base))
		return false;
	u32 version = le_read(base + VERSION, 4);
	dev->type = le_read(base + DEVICE_ID, 4);
	if (!dev->type)
		return false;		/* an empty slot */
	dev->modern = version == 2;
	dev->kind = dev->modern ? "modern" : "legacy";
	dev->transport = dev->modern ? &mmio_modern : &mmio_legacy;
	return check(version == 1 || version == 2, "version %u", version);
}

static u64 features(struct virtio *dev)
{
	u64 value = 0;

	for (int word = 0; word < (dev->modern ? 2 : 1); word++) {
		le_write(dev->base + FEATURES_SELECT, 4, word);
		value |= le_read(dev->base + FEATURES, 4) << (32 * word);
	}
	return value;
}

static void set_features(struct virtio *dev, u64 value)
{
	for (int word = 0; word < (dev->modern ? 2 : 1); word++) {
		le_write(dev->base + DRIVER_SELECT, 4, word);
		le_write(dev->base + DRIVER_FEATURES, 4, (u32)(value >> (32 * word)));
	}
	if (!dev->modern)
		le_write(dev->base + GUEST_PAGE_SIZE, 4, 4096);
}

static u8 status(struct virtio *dev)
{
	return le_read(dev->base + STATUS, 4);
}

static void set_status(struct virtio *dev, u8 value, bool toggled)
{
	(toggled ? bus_write_toggled : bus_write)(dev->base + STATUS, 4, swap(value, 4));
}

static u64 config(struct virtio *dev, int offset, int size)
{
	return bus_read(dev->base + CONFIG + offset, size);
}

static void set_config(struct virtio *dev, int offset, int size, u64 value)
{
	bus_write(dev->base + CONFIG + offset, size, value);
}

static u16 queue_size(struct virtio *dev, int index)
{
	le_write(dev->base + QUEUE_SELECT, 4, index);
	return le_read(dev->base + QUEUE_SIZE_MAX, 4);
}

static bool legacy_queue_start(struct virtio *dev, struct queue *queue)
{
	u32 pfn = (u64)queue->descriptors >> 12;

	le_write(dev->base + QUEUE_SIZE, 4, queue->size);
	le_write(dev->base + QUEUE_ALIGN, 4, 4096);
	le_write(dev->base + QUEUE_PFN, 4, pfn);
	return le_read(dev->base + QUEUE_PFN, 4) == pfn;
}

static void write_address(u64 at, const void *address)
{
	le_write(at, 4, (u32)(u64)address);
	le_write(at + 4, 4, (u64)address >> 32);
}

static bool modern_queue_start(struct virtio *dev, struct queue *queue)
{
	le_write(dev->base + QUEUE_SIZE, 4, queue->size);
	write_address(dev->base + QUEUE_DESC, queue->descriptors);
	write_address(dev->base + QUEUE_DRIVER, queue->available);
	write_address(dev->base + QUEUE_DEVICE, queue->used);
	le_write(dev->base + QUEUE_READY, 4, 1);
	return le_read(dev->base + QUEUE_READY, 4) == 1;
}

static void notify(struct virtio *dev, struct queue *queue)
{
	le_write(dev->base + QUEUE_NOTIFY, 4, queue->index);
}

static u8 isr(struct virtio *dev)
{
	u32 pending = le_read(dev->base + INTERRUPT_STATUS, 4);

	le_write(dev->base + INTERRUPT_ACK, 4, pending);
	return pending;
}

const struct transport mmio_legacy = {
	"mmio", features, set_features, status, set_status, config, set_config, queue_size,
	legacy_queue_start, notify, isr,
};

const struct transport mmio_modern = {
	"mmio", features, set_features, status, set_status, config, set_config, queue_size,
	modern_queue_start, notify, isr,
};

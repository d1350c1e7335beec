/* Virtio over PCI: virtio 1.2 section 4.1, legacy interface 4.1.4.10. */
#include "check.h"
#include "platform.h"
#include "virtio.h"

#define VENDOR 0x1af4
#define CAP_VENDOR 9
enum { CFG_COMMON = 1, CFG_NOTIFY, CFG_ISR, CFG_DEVICE };
static const u16 transitional_type[] = { VIRTIO_NET, VIRTIO_BLK, VIRTIO_BALLOON, VIRTIO_CONSOLE, 0,
	VIRTIO_RNG };

/* ---- discovery ---- */

static void find_regions(struct virtio *dev)
{
	struct pci_device *device = dev->pci;

	for (int at = 0; (at = pci_capability(device, CAP_VENDOR, at));) {
		u64 bar = device->bar[pci_read(device, at + 4, 1) % 6];
		u64 region = bar + pci_read(device, at + 8, 4);
		if (!bar)
			continue;
		switch (pci_read(device, at + 3, 1)) {
		case CFG_COMMON: dev->common = region; break;
		case CFG_ISR: dev->isr = region; break;
		case CFG_DEVICE: dev->config = region; break;
		case CFG_NOTIFY:
			dev->notify = region;
			dev->notify_multiplier = pci_read(device, at + 16, 4);
			break;
		}
	}
}

bool virtio_pci_probe(struct virtio *dev, struct pci_device *device)
{
	bool old = device->id >= 0x1000 && device->id < 0x1006;

	if (device->vendor != VENDOR || (!old && device->id <= 0x1040))
		return false;
	*dev = (struct virtio){ .pci = device, .irq = device->lsi };
	dev->type = old ? transitional_type[device->id - 0x1000] : device->id - 0x1040;
	find_regions(dev);
	dev->base = old ? device->bar[0] : 0;
	dev->kind = !old ? "modern" : dev->common ? "transitional" : "legacy";
	check(old ? device->revision == 0 : device->revision >= 1, "revision %u", device->revision);
	if (old)
		check_equal(device->subsystem, dev->type, "subsystem id");
	return true;
}

bool virtio_pci_use(struct virtio *dev, bool modern)
{
	dev->modern = modern;
	dev->transport = modern ? &pci_modern : &pci_legacy;
	return modern ? dev->common && dev->isr && dev->notify : dev->base;
}

/* ---- legacy: little-endian registers in an I/O BAR, then the config space ---- */

enum { L_FEATURES = 0, L_DRIVER_FEATURES = 4, L_PFN = 8, L_SIZE = 12, L_SELECT = 14, L_NOTIFY = 16,
	L_STATUS = 18, L_ISR = 19, L_CONFIG_VECTOR = 20, L_QUEUE_VECTOR = 22 };

static u64 legacy_features(struct virtio *dev)
{
	return le_read(dev->base + L_FEATURES, 4);
}

static void legacy_set_features(struct virtio *dev, u64 features)
{
	le_write(dev->base + L_DRIVER_FEATURES, 4, features);
	if (!dev->vectors)
		return;
	le_write(dev->base + L_CONFIG_VECTOR, 2, 0);
	check_equal(le_read(dev->base + L_CONFIG_VECTOR, 2), 0, "config vector");
}

static u8 legacy_status(struct virtio *dev)
{
	return le_read(dev->base + L_STATUS, 1);
}

static void legacy_set_status(struct virtio *dev, u8 status, bool toggled)
{
	(toggled ? bus_write_toggled : bus_write)(dev->base + L_STATUS, 1, status);
}

/* The config space moves when MSI-X is enabled: its vectors come first. */
static u64 legacy_config_at(struct virtio *dev, int offset)
{
	return dev->base + (dev->vectors ? 24 : 20) + offset;
}

static u64 legacy_config(struct virtio *dev, int offset, int size)
{
	return bus_read(legacy_config_at(dev, offset), size);
}

static void legacy_set_config(struct virtio *dev, int offset, int size, u64 value)
{
	bus_write(legacy_config_at(dev, offset), size, value);
}

static u16 legacy_queue_size(struct virtio *dev, int index)
{
	le_write(dev->base + L_SELECT, 2, index);
	return le_read(dev->base + L_SIZE, 2);
}

static bool legacy_queue_start(struct virtio *dev, struct queue *queue)
{
	u32 pfn = (u64)queue->descriptors >> 12;

	le_write(dev->base + L_PFN, 4, pfn);
	if (dev->vectors) {
		le_write(dev->base + L_QUEUE_VECTOR, 2, virtio_vector(dev, queue));
		check_equal(le_read(dev->base + L_QUEUE_VECTOR, 2), virtio_vector(dev, queue), "queue vector");
	}
	return le_read(dev->base + L_PFN, 4) == pfn;
}

static void legacy_notify(struct virtio *dev, struct queue *queue)
{
	le_write(dev->base + L_NOTIFY, 2, queue->index);
}

static u8 legacy_isr(struct virtio *dev)
{
	return le_read(dev->base + L_ISR, 1);
}

const struct transport pci_legacy = {
	"pci", legacy_features, legacy_set_features, legacy_status, legacy_set_status, legacy_config,
	legacy_set_config, legacy_queue_size, legacy_queue_start, legacy_notify, legacy_isr,
};

/* ---- modern: the regions the capabilities name, all little-endian ---- */

enum { M_FEATURE_SELECT = 0, M_FEATURE = 4, M_DRIVER_SELECT = 8, M_DRIVER_FEATURE = 12,
	M_CONFIG_VECTOR = 16, M_QUEUES = 18, M_STATUS = 20, M_GENERATION = 21, M_SELECT = 22, M_SIZE = 24,
	M_QUEUE_VECTOR = 26, M_ENABLE = 28, M_NOTIFY_OFFSET = 30, M_DESC = 32, M_DRIVER = 40,
	M_DEVICE = 48 };

static u64 modern_features(struct virtio *dev)
{
	u64 features = 0;

	for (int word = 0; word < 2; word++) {
		le_write(dev->common + M_FEATURE_SELECT, 4, word);
		features |= le_read(dev->common + M_FEATURE, 4) << (32 * word);
	}
	return features;
}

static void modern_set_features(struct virtio *dev, u64 features)
{
	for (int word = 0; word < 2; word++) {
		le_write(dev->common + M_DRIVER_SELECT, 4, word);
		le_write(dev->common + M_DRIVER_FEATURE, 4, (u32)(features >> (32 * word)));
	}
	u16 vector = dev->vectors ? 0 : NO_VECTOR;
	le_write(dev->common + M_CONFIG_VECTOR, 2, vector);
	check_equal(le_read(dev->common + M_CONFIG_VECTOR, 2), vector, "config vector");
}

static u8 modern_status(struct virtio *dev)
{
	return le_read(dev->common + M_STATUS, 1);
}

static void modern_set_status(struct virtio *dev, u8 status, bool toggled)
{
	(toggled ? bus_write_toggled : bus_write)(dev->common + M_STATUS, 1, status);
}

static u64 modern_config(struct virtio *dev, int offset, int size)
{
	return bus_read(dev->config + offset, size);
}

static void modern_set_config(struct virtio *dev, int offset, int size, u64 value)
{
	bus_write(dev->config + offset, size, value);
}

static u16 modern_queue_size(struct virtio *dev, int index)
{
	le_write(dev->common + M_SELECT, 2, index);
	return le_read(dev->common + M_SIZE, 2);
}

static void write_address(u64 at, const void *address)
{
	le_write(at, 4, (u32)(u64)address);
	le_write(at + 4, 4, (u64)address >> 32);
}

static bool modern_queue_start(struct virtio *dev, struct queue *queue)
{
	u16 vector = virtio_vector(dev, queue);

	le_write(dev->common + M_SIZE, 2, queue->size);
	le_write(dev->common + M_QUEUE_VECTOR, 2, vector);
	check_equal(le_read(dev->common + M_QUEUE_VECTOR, 2), vector, "queue vector");
	write_address(dev->common + M_DESC, queue->descriptors);
	write_address(dev->common + M_DRIVER, queue->available);
	write_address(dev->common + M_DEVICE, queue->used);
	queue->notify = dev->notify +
		le_read(dev->common + M_NOTIFY_OFFSET, 2) * dev->notify_multiplier;
	le_write(dev->common + M_ENABLE, 2, 1);
	return le_read(dev->common + M_ENABLE, 2) == 1 &&
		le_read(dev->common + M_DESC, 4) == (u32)(u64)queue->descriptors;
}

static void modern_notify(struct virtio *dev, struct queue *queue)
{
	(void)dev;
	le_write(queue->notify, 2, queue->index);
}

static u8 modern_isr(struct virtio *dev)
{
	return bus_read(dev->isr, 1);
}

const struct transport pci_modern = {
	"pci", modern_features, modern_set_features, modern_status, modern_set_status, modern_config,
	modern_set_config, modern_queue_size, modern_queue_start, modern_notify, modern_isr,
};

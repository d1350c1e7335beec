/* The life of a device: virtio 1.2 sections 2.1, 2.2 and 3.1, in every transport and mode. */
#include "virtio.h"

#include "check.h"
#include "platform.h"

#define MODERN_QUEUE_MAX 64

void virtio_reset(struct virtio *dev, bool toggled)
{
	u64 start = timebase();

	dev->transport->set_status(dev, 0, toggled);
	dev->little = CPU_LITTLE ^ toggled;
	while (dev->transport->status(dev) && timebase() - start < SECONDS(2))
		;
	check_equal(dev->transport->status(dev), 0, "status after reset");
	dev->features = 0;
	if (dev->pci) {
		irq_drain();
		irq_disable(dev->irq);
		pci_msix_off(dev->pci);
	}
	dev->vectors = 0;
	dev->dead = false;
	memset(dev->queues, 0, sizeof(dev->queues));
	heap_reset();
}

/* A device without MSI-X (QEMU's balloon) runs with INTx in every variant. */
static bool setup_interrupts(struct virtio *dev, bool msix)
{
	if (!dev->pci)
		return true;
	if (msix && pci_capability(dev->pci, PCI_CAP_MSIX, 0)) {
		dev->vectors = pci_msix_on(dev->pci, 4);
		if (!check(dev->vectors >= 2, "%u MSI-X vectors", dev->vectors))
			return false;
		for (int i = 0; i < dev->vectors; i++)
			irq_enable(dev->pci->msi + i);
	} else if (dev->irq) {
		irq_enable(dev->irq);
	}
	return true;
}

bool virtio_negotiate(struct virtio *dev, const struct options *options, u64 wanted)
{
	const struct transport *transport = dev->transport;
	u8 status = ACKNOWLEDGE | DRIVER;

	virtio_reset(dev, options->toggled);
	if (!setup_interrupts(dev, options->msix))
		return false;
	transport->set_status(dev, ACKNOWLEDGE, false);
	transport->set_status(dev, status, false);
	u64 offered = transport->features(dev);
	check_equal(!!(offered & F_VERSION_1), dev->modern, "VERSION_1 offered");
	u64 must = options->ring_features;
	check_equal(offered & must, must, "ring features offered");
	dev->features = offered & (wanted | must | F_VERSION_1);
	transport->set_features(dev, dev->features);
	if (dev->modern)
		status |= FEATURES_OK;
	transport->set_status(dev, status, false);
	return check_equal(transport->status(dev), status, "status after features");
}

bool virtio_queue(struct virtio *dev, int index)
{
	struct queue *queue = &dev->queues[index];
	u16 size = dev->transport->queue_size(dev, index);

	if (!check(size && !(size & (size - 1)), "size %u of queue %u", size, index))
		return false;
	if (dev->modern && size > MODERN_QUEUE_MAX)
		size = MODERN_QUEUE_MAX;
	queue_allocate(dev, queue, size);
	return check(dev->transport->queue_start(dev, queue), "queue %u starts", index);
}

void virtio_ready(struct virtio *dev)
{
	u8 status = ACKNOWLEDGE | DRIVER | DRIVER_OK | (dev->modern ? FEATURES_OK : 0);

	dev->transport->set_status(dev, status, false);
	check_equal(dev->transport->status(dev), status, "status when ready");
}

/* 8-byte fields are read as two 4-byte ones: virtio 1.2 section 2.5.1. */
static u64 config_number(struct virtio *dev, int offset, int size, bool little)
{
	if (size == 8) {
		u64 first = config_number(dev, offset, 4, little);
		u64 second = config_number(dev, offset + 4, 4, little);
		return little ? second << 32 | first : first << 32 | second;
	}
	u64 value = dev->transport->config(dev, offset, size);
	u64 bytes = 0;
	for (int i = 0; i < size; i++)
		bytes = bytes << 8 | dev->transport->config(dev, offset + i, 1);
	/* QEMU swaps wide reads of a little-endian legacy device; Linux never makes them */
	if (!(parameter_is("emulator", "qemu") && !dev->modern && dev->little))
		check_equal(value, bytes, "wide config read at %u", offset);
	return little ? swap(bytes, size) : bytes;
}

u64 virtio_config(struct virtio *dev, int offset, int size)
{
	return config_number(dev, offset, size, dev_little(dev));
}

u64 virtio_config_le(struct virtio *dev, int offset, int size)
{
	return config_number(dev, offset, size, true);
}

void virtio_set_config_le(struct virtio *dev, int offset, int size, u64 value)
{
	/* by bytes in the legacy interface, as all drivers do */
	for (int i = 0; i < size && !dev->modern; i++)
		dev->transport->set_config(dev, offset + i, 1, value >> (8 * i) & 0xff);
	if (dev->modern)
		dev->transport->set_config(dev, offset, size, swap(value, size));
}

u16 virtio_vector(const struct virtio *dev, const struct queue *queue)
{
	return dev->vectors ? 1 + queue->index % (dev->vectors - 1) : NO_VECTOR;
}

bool virtio_interrupt_pending(struct virtio *dev, struct queue *queue)
{
	if (!dev->pci) {
		bool high = board_line(dev->irq);
		return (dev->transport->isr(dev) & 1) && high;
	}
	u32 irq = irq_poll();
	if (!irq)
		return false;
	bool ours = irq == (dev->vectors ? dev->pci->msi + virtio_vector(dev, queue) : dev->irq);
	if (!dev->vectors)
		ours &= dev->transport->isr(dev) & 1;
	irq_done(irq);
	return ours;
}

bool virtio_interrupt(struct virtio *dev, struct queue *queue)
{
	u64 start = timebase();

	while (!dev->dead && timebase() - start < SECONDS(1))
		if (virtio_interrupt_pending(dev, queue))
			return true;
	return false;
}

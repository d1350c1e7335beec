/* A driver of our own for virtio 1.2 and its legacy interface, split rings, one byte order apart. */
#ifndef VIRTIO_H
#define VIRTIO_H

#include "lib.h"
#include "pci.h"

enum { VIRTIO_NET = 1, VIRTIO_BLK, VIRTIO_CONSOLE, VIRTIO_RNG, VIRTIO_BALLOON };
enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8, NEEDS_RESET = 64 };
#define F_INDIRECT (1ul << 28)
#define F_EVENT_IDX (1ul << 29)
#define F_VERSION_1 (1ul << 32)
#define NO_VECTOR 0xffff
#define MAX_QUEUES 8

struct buffer {
	void *data;
	u32 length;
};

struct queue {
	u16 index, size;
	u16 head;			/* the descriptor the next chain starts at */
	u16 added, kicked, seen;	/* available indexes made and told; used index consumed */
	u8 *descriptors, *available, *used;
	u8 *tables;			/* indirect tables, one per descriptor */
	u64 notify;			/* modern PCI: address of the doorbell */
};

struct virtio {
	const struct transport *transport;
	const char *kind;		/* legacy, transitional or modern: what the device is */
	u16 type;
	bool modern;			/* how it is driven */
	bool little;			/* order of what the legacy interface leaves to the guest */
	int vectors;			/* MSI-X vectors in use; 0: INTx */
	bool dead;			/* it has not answered in time: nothing waits for it again */
	u64 features;			/* negotiated */
	struct pci_device *pci;
	u64 common, isr, config, notify;	/* modern PCI: addresses of the regions */
	u32 notify_multiplier;
	u64 base;			/* legacy PCI and MMIO: address of the registers */
	u32 irq;			/* interrupt source of INTx, or line of MMIO */
	struct queue queues[MAX_QUEUES];
};

/* Registers. Values are in CPU order; config values are the bytes as a big-endian number. */
struct transport {
	const char *name;		/* pci or mmio */
	u64 (*features)(struct virtio *dev);
	void (*set_features)(struct virtio *dev, u64 features);
	u8 (*status)(struct virtio *dev);
	void (*set_status)(struct virtio *dev, u8 status, bool toggled);
	u64 (*config)(struct virtio *dev, int offset, int size);
	void (*set_config)(struct virtio *dev, int offset, int size, u64 value);
	u16 (*queue_size)(struct virtio *dev, int index);	/* selects the queue; 0: none */
	bool (*queue_start)(struct virtio *dev, struct queue *queue);
	void (*notify)(struct virtio *dev, struct queue *queue);
	u8 (*isr)(struct virtio *dev);				/* reads and acknowledges */
};

extern const struct transport pci_legacy, pci_modern, mmio_legacy, mmio_modern;

/* What start() is asked for. */
struct options {
	const char *name;
	u64 ring_features;		/* F_INDIRECT, F_EVENT_IDX */
	bool msix;
	bool toggled;			/* reset with MSR[LE] the other way */
};

/* ---- discovery ---- */
bool virtio_pci_probe(struct virtio *dev, struct pci_device *device);
bool virtio_pci_use(struct virtio *dev, bool modern);	/* false: the device has no such interface */
bool virtio_mmio_probe(struct virtio *dev, int node);

/* ---- life of a device: each step checks what the specification promises (check.h) ---- */
void virtio_reset(struct virtio *dev, bool toggled);
/* Reset to FEATURES_OK, accepting `wanted` and the options' features if offered. */
bool virtio_negotiate(struct virtio *dev, const struct options *options, u64 wanted);
bool virtio_queue(struct virtio *dev, int index);
void virtio_ready(struct virtio *dev);

/* ---- byte order: between CPU order and the memory or config field ---- */
static inline bool dev_little(const struct virtio *dev) { return dev->modern || dev->little; }
static inline u64 dev_order(const struct virtio *dev, u64 value, int size)
{
	return in_order(dev_little(dev), value, size);
}
u64 virtio_config(struct virtio *dev, int offset, int size);
u64 virtio_config_le(struct virtio *dev, int offset, int size);
void virtio_set_config_le(struct virtio *dev, int offset, int size, u64 value);

/* ---- split ring ---- */
size_t queue_allocate(struct virtio *dev, struct queue *queue, u16 size);	/* bytes of the ring */
/* Adds a chain: `out` buffers for the device to read, then `in` to write. Returns its head. */
u16 queue_add(struct virtio *dev, struct queue *queue, const struct buffer *buffers, int out, int in);
void queue_kick(struct virtio *dev, struct queue *queue);
/* Waits up to `ticks` of the timebase; the id and written length of the next used element. */
bool queue_wait(struct virtio *dev, struct queue *queue, u64 ticks, u16 *id, u32 *length);
/* Add, kick, wait for just that chain, check the interrupt. */
bool queue_call(struct virtio *dev, struct queue *queue, const struct buffer *buffers, int out, int in,
		u32 *length);
u16 available_event(struct virtio *dev, struct queue *queue);
void set_no_interrupt(struct virtio *dev, struct queue *queue, bool quiet);
/* Raw access for hostile rings: a descriptor, an entry of the available ring, its index. */
void put_descriptor(struct virtio *dev, u8 *table, u16 index, u64 address, u32 length, u16 flags,
		    u16 next);
void put_available(struct virtio *dev, struct queue *queue, u16 head);
void publish(struct virtio *dev, struct queue *queue, u16 index);

/* The MSI-X vector of a queue: 0 is the configuration's, the queues share the rest. */
u16 virtio_vector(const struct virtio *dev, const struct queue *queue);

/* True when the interrupt the options asked for came within a second; it is acknowledged. */
bool virtio_interrupt(struct virtio *dev, struct queue *queue);
/* Drops what is pending, and tells whether something was. */
bool virtio_interrupt_pending(struct virtio *dev, struct queue *queue);

#endif

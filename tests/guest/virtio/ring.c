/* Split virtqueues: virtio 1.2 section 2.7. */
#include "virtio.h"

#include "check.h"

enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };
#define INDIRECT_ENTRIES 8
#define RING_ALIGN 4096
#define NO_INTERRUPT 1
#define NO_NOTIFY 1

static u16 get16(struct virtio *dev, const u8 *at)
{
	return dev_order(dev, *(volatile const u16 *)at, 2);
}

static void put16(struct virtio *dev, u8 *at, u16 value)
{
	*(volatile u16 *)at = dev_order(dev, value, 2);
}

static void put32(struct virtio *dev, u8 *at, u32 value)
{
	*(volatile u32 *)at = dev_order(dev, value, 4);
}

size_t queue_allocate(struct virtio *dev, struct queue *queue, u16 size)
{
	size_t available = 16ul * size;
	size_t used = (available + 2 * (3 + size) + RING_ALIGN - 1) & -RING_ALIGN;
	size_t total = used + 2 * 3 + 8ul * size;
	u8 *ring = alloc(total, RING_ALIGN);

	*queue = (struct queue){ .index = queue - dev->queues, .size = size, .descriptors = ring,
		.available = ring + available, .used = ring + used };
	queue->tables = alloc(16ul * INDIRECT_ENTRIES * size, 16);
	return total;
}

void put_descriptor(struct virtio *dev, u8 *table, u16 index, u64 address, u32 length, u16 flags,
		    u16 next)
{
	u8 *descriptor = table + 16 * index;

	*(volatile u64 *)descriptor = dev_order(dev, address, 8);
	put32(dev, descriptor + 8, length);
	put16(dev, descriptor + 12, flags);
	put16(dev, descriptor + 14, next);
}

void put_available(struct virtio *dev, struct queue *queue, u16 head)
{
	put16(dev, queue->available + 4 + 2 * (queue->added++ % queue->size), head);
}

void publish(struct virtio *dev, struct queue *queue, u16 index)
{
	barrier();
	put16(dev, queue->available + 2, index);
	barrier();
}

/* used_event: tell us when the next element is used. */
static void ask_for_interrupt(struct virtio *dev, struct queue *queue)
{
	if (dev->features & F_EVENT_IDX)
		put16(dev, queue->available + 4 + 2 * queue->size, queue->seen);
}

u16 queue_add(struct virtio *dev, struct queue *queue, const struct buffer *buffers, int out, int in)
{
	u16 head = queue->head, at = head;
	bool indirect = dev->features & F_INDIRECT;
	u8 *table = indirect ? queue->tables + 16ul * INDIRECT_ENTRIES * head : queue->descriptors;
	u16 wrap = indirect ? INDIRECT_ENTRIES : queue->size;

	if (indirect)
		at = 0;
	for (int i = 0; i < out + in; i++) {
		u16 flags = (i < out ? 0 : WRITE) | (i + 1 < out + in ? NEXT : 0);
		u16 next = (at + 1) % wrap;
		put_descriptor(dev, table, at, (u64)buffers[i].data, buffers[i].length, flags, next);
		at = next;
	}
	if (indirect) {
		put_descriptor(dev, queue->descriptors, head, (u64)table, 16 * (out + in), INDIRECT, 0);
		at = (head + 1) % queue->size;
	}
	queue->head = at;
	put_available(dev, queue, head);
	return head;
}

u16 available_event(struct virtio *dev, struct queue *queue)
{
	return get16(dev, queue->used + 4 + 8 * queue->size);
}

void set_no_interrupt(struct virtio *dev, struct queue *queue, bool quiet)
{
	if (dev->features & F_EVENT_IDX)
		put16(dev, queue->available + 4 + 2 * queue->size,
		      quiet ? queue->seen + 0x8000 : queue->seen);
	else
		put16(dev, queue->available, quiet ? NO_INTERRUPT : 0);
	barrier();
}

void queue_kick(struct virtio *dev, struct queue *queue)
{
	u16 before = queue->kicked, now = queue->added;

	publish(dev, queue, now);
	queue->kicked = now;
	if (dev->features & F_EVENT_IDX) {
		u16 event = available_event(dev, queue);
		if ((u16)(now - event - 1) >= (u16)(now - before))
			return;
	} else if (get16(dev, queue->used) & NO_NOTIFY) {
		return;
	}
	dev->transport->notify(dev, queue);
}

bool queue_wait(struct virtio *dev, struct queue *queue, u64 ticks, u16 *id, u32 *length)
{
	u64 start = timebase();

	while (get16(dev, queue->used + 2) == queue->seen)
		if (dev->dead || timebase() - start > ticks) {
			dev->dead = true;
			return false;
		}
	barrier();
	u8 *element = queue->used + 4 + 8 * (queue->seen % queue->size);
	*id = dev_order(dev, *(volatile u32 *)element, 4);
	*length = dev_order(dev, *(volatile u32 *)(element + 4), 4);
	queue->seen++;
	return true;
}

bool queue_call(struct virtio *dev, struct queue *queue, const struct buffer *buffers, int out, int in,
		u32 *length)
{
	u16 head, id;

	ask_for_interrupt(dev, queue);
	head = queue_add(dev, queue, buffers, out, in);
	queue_kick(dev, queue);
	if (!check(queue_wait(dev, queue, SECONDS(2), &id, length), "queue %u answers", queue->index))
		return false;
	check_equal(id, head, "used id");
	check(virtio_interrupt(dev, queue), "interrupt of queue %u", queue->index);
	return true;
}

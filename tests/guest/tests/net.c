/* Network device: virtio 1.2 section 5.1. The peer is user-mode NAT, which answers ARP as 10.0.2.2. */
#include "devices.h"

#define F_MTU (1ul << 3)
#define F_MAC (1ul << 5)
#define F_MRG_RXBUF (1ul << 15)
#define F_STATUS (1ul << 16)
#define RECEIVE 0
#define TRANSMIT 1
#define BUFFERS 4
#define BUFFER_SIZE 2048
#define FRAME 60

static const u8 peer[4] = { 10, 0, 2, 2 }, own[4] = { 10, 0, 2, 15 };
static u8 *receive_buffers;

static u32 header_size(const struct virtio *dev)
{
	return dev->modern || dev->features & F_MRG_RXBUF ? 12 : 10;
}

static void post(struct virtio *dev, int slot)
{
	u8 *data = receive_buffers + slot * BUFFER_SIZE;
	u32 header = header_size(dev);
	struct buffer buffers[2] = { { data, header }, { data + header, BUFFER_SIZE - header } };

	/* a legacy device may want the header in a descriptor of its own */
	queue_add(dev, &dev->queues[RECEIVE], buffers, 0, 2);
}

static bool start(struct virtio *dev, const struct options *options)
{
	u64 features = net_test.features;

	if (options->ring_features == 0)
		features &= ~F_MRG_RXBUF;
	if (!virtio_negotiate(dev, options, features) || !virtio_queue(dev, RECEIVE) ||
	    !virtio_queue(dev, TRANSMIT))
		return false;
	receive_buffers = alloc(BUFFERS * BUFFER_SIZE, 16);
	virtio_ready(dev);
	return true;
}

static void check_config(struct virtio *dev, u8 *mac)
{
	static const u8 vendor[3] = { 0x52, 0x54, 0x00 };

	for (int i = 0; i < 6; i++)
		mac[i] = dev->transport->config(dev, i, 1);
	check(dev->features & F_MAC && !memcmp(mac, vendor, 3), "MAC address");
	if (dev->features & F_STATUS)
		check_equal(virtio_config(dev, 6, 2), 1, "status (link up)");
	if (dev->features & F_MTU)
		check_equal(virtio_config(dev, 10, 2), 1400, "mtu");
}

static void make_arp(u8 *frame, const u8 *mac)
{
	static const u8 kind[8] = { 0, 1, 8, 0, 6, 4, 0, 1 };	/* Ethernet, IPv4, request */

	memset(frame, 0, FRAME);
	memset(frame, 0xff, 6);
	memcpy(frame + 6, mac, 6);
	frame[12] = 8;
	frame[13] = 6;
	memcpy(frame + 14, kind, 8);
	memcpy(frame + 22, mac, 6);
	memcpy(frame + 28, own, 4);
	memcpy(frame + 38, peer, 4);
}

static bool is_reply(const u8 *frame, const u8 *mac)
{
	return frame[12] == 8 && frame[13] == 6 && frame[21] == 2 && !memcmp(frame, mac, 6) &&
		!memcmp(frame + 28, peer, 4);
}

/* Waits for the reply, giving other frames back. */
static bool receive(struct virtio *dev, const u8 *mac)
{
	struct queue *queue = &dev->queues[RECEIVE];
	u32 header = header_size(dev), length;
	u16 id;

	for (int frames = 0; frames < 16; frames++) {
		if (!check(queue_wait(dev, queue, SECONDS(2), &id, &length), "a frame arrives"))
			return false;
		u8 *slot = NULL;
		for (int i = 0; i < BUFFERS; i++)
			if (is_reply(receive_buffers + i * BUFFER_SIZE + header, mac))
				slot = receive_buffers + i * BUFFER_SIZE;
		if (!slot) {
			post(dev, frames % BUFFERS);
			queue_kick(dev, queue);
			continue;
		}
		check(length >= header + 42 && length <= header + 64, "received length %u", length);
		/* QEMU 7.2 leaves it 0 when buffers cannot be merged */
		bool merge = dev->features & F_MRG_RXBUF;
		if (merge || (dev->modern && !parameter_is("emulator", "qemu")))
			check_equal(dev_order(dev, *(u16 *)(slot + 10), 2), 1, "num_buffers");
		return true;
	}
	return false;
}

static void run(struct virtio *dev, const struct options *options)
{
	u8 mac[6];
	u32 written;

	if (!start(dev, options))
		return;
	check_config(dev, mac);
	for (int i = 0; i < BUFFERS; i++)
		post(dev, i);
	queue_kick(dev, &dev->queues[RECEIVE]);
	u8 *header = alloc(16, 16), *frame = alloc(FRAME, 16);
	make_arp(frame, mac);
	struct buffer buffers[2] = { { header, header_size(dev) }, { frame, FRAME } };
	/* the interrupt may be the receive queue's: not checked through queue_call */
	u16 id;
	u16 head = queue_add(dev, &dev->queues[TRANSMIT], buffers, 2, 0);
	queue_kick(dev, &dev->queues[TRANSMIT]);
	if (check(queue_wait(dev, &dev->queues[TRANSMIT], SECONDS(2), &id, &written), "frame is sent"))
		check_equal(id, head, "used id");
	if (check(receive(dev, mac), "the ARP reply"))
		check(virtio_interrupt(dev, &dev->queues[RECEIVE]), "receive interrupt");
}

const struct device_test net_test = { "net", VIRTIO_NET, TRANSMIT,
	F_MAC | F_MTU | F_MRG_RXBUF | F_STATUS, run, start };

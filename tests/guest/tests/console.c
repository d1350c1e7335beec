/* Console: virtio 1.2 section 5.3. Port 0 is a virtconsole whose host side echoes every byte. */
#include "devices.h"

#define F_SIZE (1ul << 0)
#define F_MULTIPORT (1ul << 1)
enum { INPUT, OUTPUT, CONTROL_INPUT, CONTROL_OUTPUT };
enum { DEVICE_READY = 0, PORT_ADD = 1, PORT_READY = 3, CONSOLE_PORT = 4, PORT_OPEN = 6 };
#define CONTROL_BUFFERS 8
#define CONTROL_SIZE 64

struct control {
	u32 id;
	u16 event, value;
};

static u8 *control_buffers;

static bool multiport(const struct virtio *dev)
{
	return dev->features & F_MULTIPORT;
}

static bool start(struct virtio *dev, const struct options *options)
{
	u64 features = console_test.features;

	if (options->ring_features == 0)
		features &= ~F_MULTIPORT;
	if (!virtio_negotiate(dev, options, features))
		return false;
	for (int i = 0; i < (multiport(dev) ? 4 : 2); i++)
		if (!virtio_queue(dev, i))
			return false;
	virtio_ready(dev);
	return true;
}

static void check_config(struct virtio *dev)
{
	if (dev->features & F_SIZE)
		check(virtio_config(dev, 0, 2) < 1000, "cols %u", virtio_config(dev, 0, 2));
	if (!multiport(dev))
		return;
	u32 ports = virtio_config(dev, 4, 4);
	check(ports >= 2 && ports <= 511, "max_nr_ports %u", ports);
}

static void post_control(struct virtio *dev, int slot)
{
	struct buffer buffer = { control_buffers + slot * CONTROL_SIZE, CONTROL_SIZE };

	queue_add(dev, &dev->queues[CONTROL_INPUT], &buffer, 0, 1);
}

static void send_control(struct virtio *dev, u32 id, u16 event, u16 value)
{
	static struct control message;
	struct buffer buffer = { &message, sizeof(message) };
	u32 length;
	u16 head;
	struct queue *queue = &dev->queues[CONTROL_OUTPUT];

	message.id = dev_order(dev, id, 4);
	message.event = dev_order(dev, event, 2);
	message.value = dev_order(dev, value, 2);
	queue_add(dev, queue, &buffer, 1, 0);
	queue_kick(dev, queue);
	check(queue_wait(dev, queue, SECONDS(2), &head, &length), "control message %u taken", event);
}

/* Waits for the event about port 0; other messages are passed over. */
static bool expect_control(struct virtio *dev, u16 event)
{
	static int slot;
	u16 id;
	u32 length;

	if (!dev->queues[CONTROL_INPUT].seen)
		slot = 0;
	for (int messages = 0; messages < 16; messages++) {
		if (!queue_wait(dev, &dev->queues[CONTROL_INPUT], SECONDS(2), &id, &length))
			return false;
		struct control *message =
			(struct control *)(control_buffers + slot * CONTROL_SIZE);
		bool found = length >= sizeof(*message) && dev_order(dev, message->id, 4) == 0 &&
			dev_order(dev, message->event, 2) == event;
		post_control(dev, slot);
		queue_kick(dev, &dev->queues[CONTROL_INPUT]);
		slot = (slot + 1) % CONTROL_BUFFERS;
		if (found)
			return true;
	}
	return false;
}

static void open_port(struct virtio *dev)
{
	control_buffers = alloc(CONTROL_BUFFERS * CONTROL_SIZE, 16);
	for (int i = 0; i < CONTROL_BUFFERS; i++)
		post_control(dev, i);
	queue_kick(dev, &dev->queues[CONTROL_INPUT]);
	send_control(dev, 0, DEVICE_READY, 1);
	check(expect_control(dev, PORT_ADD), "PORT_ADD of port 0");
	send_control(dev, 0, PORT_READY, 1);
	check(expect_control(dev, CONSOLE_PORT), "CONSOLE_PORT of port 0");
	send_control(dev, 0, PORT_OPEN, 1);
}

/* Reads until `expected` has come. The host may cut the stream, and older text may be in it. */
static bool read_echo(struct virtio *dev, const char *expected)
{
	u8 *data = alloc(64, 16);
	size_t matched = 0, wanted = strlen(expected);
	u16 id;

	while (matched < wanted) {
		struct buffer buffer = { data, 64 };
		u32 length;
		queue_add(dev, &dev->queues[INPUT], &buffer, 0, 1);
		queue_kick(dev, &dev->queues[INPUT]);
		if (!queue_wait(dev, &dev->queues[INPUT], SECONDS(2), &id, &length) || length > 64)
			return false;
		/* the first character is nowhere else in the text */
		for (u32 i = 0; i < length && matched < wanted; i++)
			matched = data[i] == expected[matched] ? matched + 1 : data[i] == expected[0];
	}
	return true;
}

static void run(struct virtio *dev, const struct options *options)
{
	static char text[] = "Echo me 0";
	struct buffer buffer = { text, sizeof(text) - 1 };
	u32 length;
	u16 id;

	if (!start(dev, options))
		return;
	check_config(dev);
	if (multiport(dev))
		open_port(dev);
	text[8] = text[8] == '9' ? '0' : text[8] + 1;
	queue_add(dev, &dev->queues[OUTPUT], &buffer, 1, 0);
	queue_kick(dev, &dev->queues[OUTPUT]);
	check(queue_wait(dev, &dev->queues[OUTPUT], SECONDS(2), &id, &length), "text is taken");
	check(read_echo(dev, text), "the echo of \"%s\"", text);
	check(virtio_interrupt(dev, &dev->queues[INPUT]), "receive interrupt");
}

const struct device_test console_test = { "console", VIRTIO_CONSOLE, OUTPUT, F_SIZE | F_MULTIPORT,
	run, start };

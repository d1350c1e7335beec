/* Block device: virtio 1.2 section 5.2. The disk is the one tests/support/guest_images.py makes. */
#include "devices.h"

#define F_BLK_SIZE (1ul << 6)
#define F_FLUSH (1ul << 9)
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPPORTED = 2 };
#define SECTOR 512
#define SCRATCH_SECTOR 9

struct request {
	u32 type, reserved;
	u64 sector;
};

/* One request; returns its status, 0xff if there was no answer. */
static u8 request(struct virtio *dev, u32 type, u64 sector, void *data, u32 length)
{
	static struct request header;
	static volatile u8 status;
	bool in = type == T_IN || type == T_GET_ID;
	struct buffer buffers[3] = { { &header, sizeof(header) } };
	int count = 1;
	u32 written;

	header.type = dev_order(dev, type, 4);
	header.sector = dev_order(dev, sector, 8);
	status = 0xff;
	if (length)
		buffers[count++] = (struct buffer){ data, length };
	buffers[count++] = (struct buffer){ (void *)&status, 1 };
	int inputs = in ? count - 1 : 1;
	if (!queue_call(dev, &dev->queues[0], buffers, count - inputs, inputs, &written))
		return 0xff;
	check_equal(written, in ? length + 1 : 1, "written length");
	return status;
}

static bool start(struct virtio *dev, const struct options *options)
{
	if (!virtio_negotiate(dev, options, blk_test.features) || !virtio_queue(dev, 0))
		return false;
	virtio_ready(dev);
	return true;
}

/* Sector 0 is text: "ppc64emu disk sectors=N". */
static void check_capacity(struct virtio *dev, u8 *sector)
{
	static const char text[] = "ppc64emu disk sectors=";
	u64 capacity = virtio_config(dev, 0, 8);

	check_equal(request(dev, T_IN, 0, sector, SECTOR), S_OK, "status of reading sector 0");
	if (check(starts_with((char *)sector, text), "sector 0 is the test disk's"))
		check_equal(capacity, parse_number((char *)sector + sizeof(text) - 1), "capacity");
	if (dev->features & F_BLK_SIZE)
		check_equal(virtio_config(dev, 20, 4), SECTOR, "blk_size");
	check_equal(request(dev, T_IN, capacity, sector, SECTOR), S_IOERR, "status past the end");
}

/* Byte j of sector i of the disk is i * 7 + j, sectors 1 to 8. */
static void check_read(struct virtio *dev, u8 *data)
{
	bool same = true;

	check_equal(request(dev, T_IN, 1, data, 8 * SECTOR), S_OK, "status of reading");
	for (int i = 0; i < 8 * SECTOR; i++)
		same &= data[i] == (u8)((1 + i / SECTOR) * 7 + i % SECTOR);
	check(same, "sectors 1 to 8 have the pattern");
}

static void check_write(struct virtio *dev, u8 *data, u8 seed)
{
	u8 *back = data + 2 * SECTOR;

	for (int i = 0; i < 2 * SECTOR; i++)
		data[i] = seed + 3 * i;
	memset(back, 0, 2 * SECTOR);
	check_equal(request(dev, T_OUT, SCRATCH_SECTOR, data, 2 * SECTOR), S_OK, "status of writing");
	if (dev->features & F_FLUSH)
		check_equal(request(dev, T_FLUSH, 0, NULL, 0), S_OK, "status of flush");
	check_equal(request(dev, T_IN, SCRATCH_SECTOR, back, 2 * SECTOR), S_OK, "status of reading");
	check(!memcmp(data, back, 2 * SECTOR), "what was written is read");
}

static void check_quiet(struct virtio *dev, struct queue *queue)
{
	static u8 name[20];
	static volatile u8 status;
	static struct request header;
	struct buffer buffers[3] = { { &header, sizeof(header) }, { name, 20 },
		{ (void *)&status, 1 } };
	u16 id;
	u32 length;

	header.type = dev_order(dev, T_GET_ID, 4);
	set_no_interrupt(dev, queue, true);
	queue_add(dev, queue, buffers, 1, 2);
	queue_kick(dev, queue);
	check(queue_wait(dev, queue, SECONDS(2), &id, &length), "answers without interrupt");
	check(!virtio_interrupt_pending(dev, queue), "no interrupt when none is wanted");
	set_no_interrupt(dev, queue, false);
}

/* More requests than the ring has entries: all indexes wrap. */
static void check_wrap(struct virtio *dev, u8 *name)
{
	for (int i = 0; i < dev->queues[0].size + 3; i++) {
		memset(name, 0, 20);
		if (request(dev, T_GET_ID, 0, name, 20) != S_OK || !starts_with((char *)name, "disk")) {
			check(false, "identity in request %u", i);
			return;
		}
	}
	check(true, "requests");
}

static void run(struct virtio *dev, const struct options *options)
{
	static u8 seed;

	if (!start(dev, options))
		return;
	u8 *data = alloc(8 * SECTOR, 16);
	check_capacity(dev, data);
	check_read(dev, data);
	check_write(dev, data, seed += 11);
	check_quiet(dev, &dev->queues[0]);
	check_wrap(dev, data);
	check_equal(request(dev, 77, 0, NULL, 0), S_UNSUPPORTED, "status of an unknown request");
}

const struct device_test blk_test = { "blk", VIRTIO_BLK, 0, F_FLUSH | F_BLK_SIZE, run, start };

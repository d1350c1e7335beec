/* Entropy device: virtio 1.2 section 5.4. */
#include "devices.h"

#define BYTES 256

static bool start(struct virtio *dev, const struct options *options)
{
	if (!virtio_negotiate(dev, options, 0) || !virtio_queue(dev, 0))
		return false;
	virtio_ready(dev);
	return true;
}

static void run(struct virtio *dev, const struct options *options)
{
	u32 got = 0, zeros = 0;

	if (!start(dev, options))
		return;
	u8 *data = alloc(BYTES + 16, 16);
	/* a request may be answered in part */
	for (int tries = 0; got < BYTES && tries < BYTES; tries++) {
		u32 half = (BYTES - got + 1) / 2, length;
		struct buffer buffers[2] = { { data + got, half },
			{ data + got + half, BYTES - got - half } };
		int count = buffers[1].length ? 2 : 1;
		if (!queue_call(dev, &dev->queues[0], buffers, 0, count, &length) ||
		    !check(length && length <= BYTES - got, "length %u", length))
			return;
		got += length;
	}
	check_equal(got, BYTES, "bytes got");
	for (int i = 0; i < BYTES; i++)
		zeros += !data[i];
	check(zeros < 32, "random bytes, %u are zero", zeros);
	for (int i = 0; i < 16; i++)
		check_equal(data[BYTES + i], 0, "byte %u after the buffer", i);
}

const struct device_test rng_test = { "rng", VIRTIO_RNG, 0, 0, run, start };

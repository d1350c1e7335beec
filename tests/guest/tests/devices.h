/* One driver test per device type; virtio_tests.c runs each over all interfaces and variants. */
#ifndef DEVICES_H
#define DEVICES_H

#include "check.h"
#include "virtio.h"

struct device_test {
	const char *name;
	u16 type;
	u16 hostile_queue;		/* the queue that gets malformed rings */
	u64 features;			/* accepted if offered */
	/* Drives the device from reset on. plain: without the features that change the protocol. */
	void (*run)(struct virtio *dev, const struct options *options);
	/* Negotiates and starts all queues, for the hostile rings. */
	bool (*start)(struct virtio *dev, const struct options *options);
};

extern const struct device_test blk_test, net_test, console_test, rng_test, balloon_test;

#endif

/* Memory balloon: virtio 1.2 section 5.5. Its config space is little-endian in every mode. */
#include "devices.h"
#include "layout.h"
#include "platform.h"

enum { INFLATE, DEFLATE };
enum { NUM_PAGES = 0, ACTUAL = 4 };
#define PAGES 4
#define PAGE 4096ul

static bool start(struct virtio *dev, const struct options *options)
{
	if (!virtio_negotiate(dev, options, 0) || !virtio_queue(dev, INFLATE) ||
	    !virtio_queue(dev, DEFLATE))
		return false;
	virtio_ready(dev);
	return true;
}

/* The spare pages are not mapped: they are reached in real mode. */
static void fill(void)
{
	bool mapped = mmu_is_on();

	mmu_off();
	for (u64 *p = (u64 *)SPARE_PAGES; p < (u64 *)(SPARE_PAGES + 3 * PAGES * PAGE); p++)
		*p = 0x5555aaaa5555aaaaul;
	if (mapped)
		mmu_on();
}

static bool page_is(u64 page, u64 word)
{
	bool mapped = mmu_is_on(), same = true;

	mmu_off();
	for (u64 *p = (u64 *)page; p < (u64 *)(page + PAGE); p++)
		same &= *p == word;
	if (mapped)
		mmu_on();
	return same;
}

/* Every second page from the third on, so that a wrong page shows. */
static u64 spare(int i)
{
	return SPARE_PAGES + (2 + 2 * i) * PAGE;
}

static void run(struct virtio *dev, const struct options *options)
{
	u32 length;

	if (!start(dev, options))
		return;
	check_equal(virtio_config_le(dev, NUM_PAGES, 4), 0, "num_pages");
	fill();
	u32 *pages = alloc(4 * PAGES, 16);
	for (int i = 0; i < PAGES; i++)
		pages[i] = dev_order(dev, spare(i) / PAGE, 4);
	struct buffer buffer = { pages, 4 * PAGES };
	if (!queue_call(dev, &dev->queues[INFLATE], &buffer, 1, 0, &length))
		return;
	virtio_set_config_le(dev, ACTUAL, 4, PAGES);
	check_equal(virtio_config_le(dev, ACTUAL, 4), PAGES, "actual after inflation");
	if (!queue_call(dev, &dev->queues[DEFLATE], &buffer, 1, 0, &length))
		return;
	virtio_set_config_le(dev, ACTUAL, 4, 0);
	check_equal(virtio_config_le(dev, ACTUAL, 4), 0, "actual after deflation");
	for (int i = 0; i < PAGES; i++) {
		check(page_is(spare(i), 0), "page %u was given back", i);
		check(page_is(spare(i) - PAGE, 0x5555aaaa5555aaaaul), "page before %u was kept", i);
	}
}

const struct device_test balloon_test = { "balloon", VIRTIO_BALLOON, INFLATE, 0, run, start };

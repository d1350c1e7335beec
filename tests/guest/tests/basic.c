/* Tests of the support library itself: the shortest example of an image test. */
#include "check.h"
#include "platform.h"

static void hello(void)
{
	cell_begin("hello");
	check_equal(be32(0x01020304), in_order(false, 0x01020304, 4), "be32");
	check(timebase() <= timebase(), "the timebase runs forward");
	cell_end();
}
TEST("hello", hello);

/* Prints EXCEPTION and powers off: the runner looks for that line. */
static void trap(void)
{
	mmu_on();
	__builtin_trap();
}
TEST("trap", trap);

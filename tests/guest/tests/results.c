/*
 * What test images do to their runner: each kind of result lines, of endings and of trouble.
 * "print" is for lines; these tests end the machine themselves where main.c's DONE line would
 * change the result.
 */
#include "check.h"
#include "platform.h"

#define FLOOD_SIZE (100ul << 20)

static void say(const char *text)
{
	print("%s", text);
}

static void tap_pass(void)
{
	say("TAP version 14\n1..3\nok 1 - first\n# a remark\nok 2 - second # SKIP no such device\n"
	    "    ok 1 - of a subtest\n    not ok 2 - of a subtest\n    1..2\n"
	    "not ok 3 - third # TODO later\n");
	power_off(0);
}
TEST("tap-pass", tap_pass);

static void tap_fail(void)
{
	say("1..3\nok 1 - first\nnot ok 2 - second\nok 3 - third\n");
	power_off(0);
}
TEST("tap-fail", tap_fail);

static void tap_short(void)
{
	say("1..3\nok 1 - first\nok 2 - second\n");
	power_off(0);
}
TEST("tap-short", tap_short);

static void tap_skip(void)
{
	say("1..0 # SKIP nothing to test here\n");
	power_off(0);
}
TEST("tap-skip", tap_skip);

static void tap_bail(void)
{
	say("1..2\nok 1 - first\nBail out! the device is gone\n");
	power_off(0);
}
TEST("tap-bail", tap_bail);

static void unit_pass(void)
{
	say("PASS: one: two\nINFO: a remark\nXFAIL: three\nSKIP: four\n"
	    "SUMMARY: 3 tests, 1 expected failures, 1 skipped\n\nEXIT: STATUS=1\n");
	power_off(0);
}
TEST("unit-pass", unit_pass);

static void unit_fail(void)
{
	say("PASS: one\nFAIL: two\nSUMMARY: 2 tests, 1 unexpected failures\n\nEXIT: STATUS=3\n");
	power_off(0);
}
TEST("unit-fail", unit_fail);

static void unit_abort(void)
{
	say("PASS: one\nABORT: two: no memory\nSUMMARY: 1 tests\n");
	power_off(0);
}
TEST("unit-abort", unit_abort);

static void unit_skip(void)
{
	say("SKIP: one: not on this CPU\nSUMMARY: 1 tests, 1 skipped\n\nEXIT: STATUS=77\n");
	power_off(0);
}
TEST("unit-skip", unit_skip);

/* Ends with the status that the parameter gives, after a good line. */
static void status(void)
{
	char text[8];

	say("PASS: one\n");
	parameter("status", text, sizeof(text));
	test_exit(parse_number(text));
}
TEST("status", status);

/* Asks to be migrated, in kvm-unit-tests' words, and goes on at a key. */
static void migrate(void)
{
	u64 length = 0;

	say("PASS: before\nNow migrate the VM (quiet)\n");
	while (!length)
		hcall(&length, H_GET_TERM_CHAR, 0, 0, 0, 0, 0);
	say("PASS: after\nSUMMARY: 2 tests\n\nEXIT: STATUS=1\n");
	power_off(0);
}
TEST("migrate", migrate);

/* The platform's date: year, month, day. */
static void clock(void)
{
	u32 date[7] = { 0 };

	rtas("get-time-of-day", 0, NULL, 8, date);
	print("PASS: clock %u %u %u\n", (u64)date[0], (u64)date[1], (u64)date[2]);
	power_off(0);
}
TEST("clock", clock);

static void silent(void)
{
	power_off(0);
}
TEST("silent", silent);

static void hang(void)
{
	say("PASS: one\n");
	for (;;)
		;
}
TEST("hang", hang);

/* Its kernel gives up: os-term on pseries, a machine check without a handler on virtmmio. */
static void panic(void)
{
	static const char reason[] = "the guest gives up";
	u32 address = (u32)(u64)reason;

	say("PASS: one\n");
	if (platform_is_pseries())
		rtas("ibm,os-term", 1, &address, 1, NULL);
	for (;;)
		machine_check();
}
TEST("panic", panic);

/* Every byte there is, no newline, escape codes, broken UTF-8; and a result after a newline. */
static void garbage(void)
{
	static const char escapes[] = "\x1b[2J\x1b]0;title\x07\x1b[31m\xc3\x28\xf0\x9f\xff";

	for (int turn = 0; turn < 20; turn++)
		for (int byte = 0; byte < 256; byte++)
			console_put(byte == '\n' ? ' ' : byte);
	say(escapes);
	say("PASS: not at the start of a line\n\x1b[32mPASS\x1b[0m: one\r\n");
	say("FAIL");
	say(escapes);
	power_off(0);
}
TEST("garbage", garbage);

/* 100 MB, most of it in lines, and the result in the middle. */
static void flood(void)
{
	static const char line[] = "0123456789abcdef0123456789abcde\n";

	for (u64 done = 0; done < FLOOD_SIZE; done += sizeof(line) - 1) {
		if (done == FLOOD_SIZE / 2)
			say("PASS: in the middle of the flood\n");
		console_write(line, sizeof(line) - 1);
	}
	power_off(0);
}
TEST("flood", flood);

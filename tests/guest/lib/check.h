/*
 * Results. A cell (one device, mode and variant in one byte order) is a line
 *	PASS: <phase> <order> <cell> checks=<n>
 * or, for each check that fails,
 *	FAIL: <phase> <order> <cell>: <check>
 */
#ifndef CHECK_H
#define CHECK_H

#include "lib.h"

void cell_begin(const char *format, ...);
bool cell_end(void);			/* true if all its checks held */

/* Both return whether the check held; the text says what should be true. */
bool check(bool holds, const char *format, ...);
bool check_equal(u64 actual, u64 expected, const char *format, ...);


extern int phase;			/* the number of this payload's turn */

/* A test the image runs when the parameter test= names it. */
struct test {
	const char *name;
	void (*run)(void);
};
#define TEST(test_name, function) \
	static const struct test test_##function \
	__attribute__((used, section(".tests"))) = { test_name, function }

#endif

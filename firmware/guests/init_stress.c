/* Mixed load whose every result is checked: each part runs in its own process, all at once. */
#include "init.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { DATA_SIZE = 256 << 10, WINDOW = 1 << 15, MIN_MATCH = 4, MAX_MATCH = 255, STORM = 30 };

/* What the first round gave; shared with the processes of the parts. */
struct first {
	char compressed[65];
	char storm[65];
};

static struct first *first;
static char why[128];

/* A part that is to go wrong spoils one byte before the check, to prove the check works. */
static int spoil;

static int differs(const char *what, char expected[65], const char *got)
{
	if (!*expected)
		memcpy(expected, got, 65);
	if (!strcmp(expected, got))
		return 0;
	snprintf(why, sizeof(why), "%s is %.16s, was %.16s", what, got, expected);
	return 1;
}

/* Text-like data: few symbols, with repeats at random distances. */
static void fill(uint8_t *out, size_t length)
{
	uint64_t state = 0x1234567;

	for (size_t i = 0; i < length;) {
		uint64_t r = next_random(&state);
		size_t back = 1 + (r >> 8) % WINDOW;
		size_t count = 4 + (r >> 40) % 28;
		if (r % 3 == 0 && back <= i)
			for (; count && i < length; count--, i++)
				out[i] = out[i - back];
		else
			out[i++] = 'a' + r % 26;
	}
}

static uint32_t hash4(const uint8_t *at)
{
	uint32_t x = at[0] | at[1] << 8 | at[2] << 16 | (uint32_t)at[3] << 24;

	return x * 2654435761u >> 18;
}

/* Dictionary coding: 0 BYTE, or LENGTH DISTANCE-HIGH DISTANCE-LOW. Returns the coded length. */
static size_t encode(const uint8_t *in, size_t length, uint8_t *out)
{
	static int32_t last[1 << 14];
	size_t done = 0;

	memset(last, -1, sizeof(last));
	for (size_t i = 0; i < length;) {
		size_t match = 0;
		int32_t at = -1;
		if (i + MIN_MATCH <= length) {
			uint32_t slot = hash4(in + i);
			at = last[slot];
			last[slot] = i;
		}
		if (at >= 0 && i - at < WINDOW)
			while (match < MAX_MATCH && i + match < length && in[at + match] == in[i + match])
				match++;
		if (match >= MIN_MATCH) {
			out[done++] = match;
			out[done++] = (i - at) >> 8;
			out[done++] = i - at;
			i += match;
		} else {
			out[done++] = 0;
			out[done++] = in[i++];
		}
	}
	return done;
}

/* Returns the decoded length, 0 if the code is not valid. */
static size_t decode(const uint8_t *in, size_t length, uint8_t *out, size_t room)
{
	size_t done = 0;

	for (size_t i = 0; i + 1 < length;) {
		size_t count = in[i++];
		if (count == 0) {
			if (done == room)
				return 0;
			out[done++] = in[i++];
			continue;
		}
		size_t back = (size_t)in[i] << 8 | in[i + 1];
		i += 2;
		if (back == 0 || back > done || count > room - done)
			return 0;
		for (; count; count--, done++)
			out[done] = out[done - back];
	}
	return done;
}

static int part_compress(void)
{
	uint8_t *plain = malloc(DATA_SIZE), *coded = malloc(2 * DATA_SIZE), *back = malloc(DATA_SIZE);
	char hex[65];

	fill(plain, DATA_SIZE);
	size_t length = encode(plain, DATA_SIZE, coded);
	coded[length / 2] ^= spoil;
	sha256_of(coded, length, hex);
	if (differs("compressed data", first->compressed, hex))
		return 1;
	if (decode(coded, length, back, DATA_SIZE) != DATA_SIZE || memcmp(plain, back, DATA_SIZE)) {
		snprintf(why, sizeof(why), "decompressed data differs");
		return 1;
	}
	return 0;
}

/* The hash of a million letters a is a test value of the standard. */
static int part_sha256(void)
{
	static char expected[65] =
		"cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
	uint8_t *letters = malloc(1000000);
	char hex[65];

	memset(letters, 'a', 1000000);
	letters[500000] ^= spoil;
	sha256_of(letters, 1000000, hex);
	return differs("sha256", expected, hex);
}

/* Many children at once, each exits with a number of its own. */
static int part_forks(void)
{
	int pids[STORM];
	uint8_t got[STORM];
	char hex[65];

	for (int i = 0; i < STORM; i++) {
		pids[i] = fork();
		if (pids[i] == 0)
			_exit(run_self("true") == 0 ? (i * i) & 127 : 255);
	}
	for (int i = 0; i < STORM; i++)
		got[i] = pids[i] < 0 ? 254 : wait_status(pids[i]);
	got[0] ^= spoil;
	for (int i = 0; i < STORM; i++)
		if (got[i] != ((i * i) & 127)) {
			snprintf(why, sizeof(why), "child %d gave %d", i, got[i]);
			return 1;
		}
	sha256_of(got, sizeof(got), hex);
	return differs("the children's numbers", first->storm, hex);
}

/* Fresh pages hold zeros; then what was written, in an order that jumps about. */
static int part_memory(void)
{
	size_t size = 8 << 20, step = 4096 + 64;
	uint8_t *area =
		mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t expected[64];

	if (area == MAP_FAILED) {
		snprintf(why, sizeof(why), "no memory");
		return 1;
	}
	for (size_t at = 0; at + 64 <= size; at += step) {
		for (int i = 0; i < 64; i++)
			if (area[at + i])
				goto bad;
		pattern(area + at, 64, at, 7);
	}
	area[step] ^= spoil;
	for (size_t at = 0; at + 64 <= size; at += step) {
		pattern(expected, 64, at, 7);
		if (memcmp(area + at, expected, 64))
			goto bad;
	}
	munmap(area, size);
	return 0;
bad:
	snprintf(why, sizeof(why), "a page holds other bytes than were written");
	return 1;
}

static const struct part {
	const char *name;
	int (*run)(void);
} parts[] = {
	{ "compress", part_compress },
	{ "sha256", part_sha256 },
	{ "forks", part_forks },
	{ "memory", part_memory },
};

enum { PARTS = sizeof(parts) / sizeof(parts[0]) };

static int start_part(const struct part *part)
{
	int pid = fork();

	if (pid != 0)
		return pid;
	int result = part->run();
	if (result)
		say("STRESS-FAIL %s: %s", part->name, why);
	_exit(result);
}

/* Returns 0 if all parts of a round found what they should. */
static int stress_round(int round, const char *fault)
{
	int pids[PARTS], bad = 0;

	for (int i = 0; i < PARTS; i++) {
		/* The first round sets what later ones are compared with. */
		spoil = round > 1 && !strcmp(fault, parts[i].name);
		pids[i] = start_part(&parts[i]);
	}
	for (int i = 0; i < PARTS; i++) {
		int status = pids[i] < 0 ? -1 : wait_status(pids[i]);
		if (status != 0 && status != 1)
			say("STRESS-FAIL %s: status %d", parts[i].name, status);
		bad |= status != 0;
	}
	return bad;
}

void stress_all(double seconds, const char *fault)
{
	double end = uptime_seconds() + seconds;
	int rounds = 0;

	first = mmap(NULL, sizeof(*first), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (first == MAP_FAILED) {
		say("STRESS-FAIL no memory");
		return;
	}
	do {
		if (stress_round(++rounds, fault))
			return;
		say("STRESS round=%d uptime=%.2f", rounds, uptime_seconds());
	} while (uptime_seconds() < end);
	say("STRESS-DONE rounds=%d", rounds);
}

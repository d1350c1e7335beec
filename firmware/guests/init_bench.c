/* Benchmark rows. The amounts of work match the busybox guest's where both have the row. */
#include "init.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MIB = 1 << 20 };

/* A result nobody reads could be optimised away. */
static volatile double sink;

static void bench_sha256(void)
{
	uint8_t *zeros = calloc(1, MIB);
	struct sha256 hash;
	char hex[65];

	sha256_start(&hash);
	for (int i = 0; i < 32; i++)
		sha256_add(&hash, zeros, MIB);
	sha256_end(&hash, hex);
	free(zeros);
}

static void bench_float(void)
{
	double x = 0;

	for (int i = 0; i < 30000000; i++)
		x = x * 0.5 + i * 1.25;
	sink = x;
}

static void bench_integer(void)
{
	uint64_t state = 1;

	for (int i = 0; i < 200000000; i++)
		next_random(&state);
	sink = state;
}

static void bench_forkexec(void)
{
	for (int i = 0; i < 200; i++)
		if (run_self("true") != 0)
			say("guest: a child failed");
}

/* Copy between two files, `count` times `size` bytes: two system calls each. */
static void copy_blocks(const char *from, const char *to, size_t size, int count)
{
	uint8_t *block = malloc(size);
	int in = open(from, O_RDONLY);
	int out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	if (in < 0 || out < 0)
		say("guest: cannot copy %s to %s", from, to);
	else
		for (int i = 0; i < count; i++)
			if (read(in, block, size) < 0 || write(out, block, size) < 0)
				break;
	close(in);
	close(out);
	free(block);
}

static void bench_syscalls(void)
{
	copy_blocks("/dev/zero", "/dev/null", 1, 300000);
}

static void bench_memory(void)
{
	copy_blocks("/dev/zero", "/dev/null", MIB, 2048);
}

static void bench_tmpfs(void)
{
	copy_blocks("/dev/zero", "/tmp/bench", 65536, 1024);
	copy_blocks("/tmp/bench", "/dev/null", 65536, 1024);
	unlink("/tmp/bench");
}

/* Rows that need a device run only when they are named. */
static const struct {
	const char *name;
	void (*run)(void);
	int device;
} rows[] = {
	{ "sha256", bench_sha256 },	{ "float", bench_float },   { "integer", bench_integer },
	{ "forkexec", bench_forkexec }, { "syscalls", bench_syscalls },
	{ "memory", bench_memory },	{ "tmpfs", bench_tmpfs },
	{ "disk_read", bench_disk_read, 1 },
	{ "disk_write", bench_disk_write, 1 },
	{ "disk_random", bench_disk_random, 1 },
	{ "net_ping", bench_net_ping, 1 },
};

static int listed(const char *list, const char *name)
{
	size_t size = strlen(name);

	for (const char *at = list; *at; at += strcspn(at, ","), at += *at == ',')
		if (strcspn(at, ",") == size && !strncmp(at, name, size))
			return 1;
	return 0;
}

void bench_all(const char *wanted)
{
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		if (*wanted ? !listed(wanted, rows[i].name) : rows[i].device)
			continue;
		double start = uptime_seconds();
		rows[i].run();
		say("BENCH name=%s seconds=%.2f", rows[i].name, uptime_seconds() - start);
	}
	say("BENCH-DONE");
}

/* The commands of the small guests' shell. To add one: write it, then name it in `commands`. */
#include "init.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

enum { KLOG_READ_ALL = 3, BLOCK = 64 << 10 };

static uint8_t block[BLOCK], expected[BLOCK];

static int failed(const char *what)
{
	say("%s: %s", what, strerror(errno));
	return 1;
}

static int usage(char **argv)
{
	for (const struct command *c = commands; c->name; c++)
		if (!strcmp(c->name, argv[0]))
			say("usage: %s %s", c->name, c->help);
	return 2;
}

static int run_echo(int argc, char **argv)
{
	char line[1024] = "";

	for (int i = 1; i < argc; i++)
		snprintf(line + strlen(line), sizeof(line) - strlen(line), "%s%s",
			 i > 1 ? " " : "", argv[i]);
	strcat(line, strlen(line) < sizeof(line) - 1 ? "\n" : "");
	return write_all(STDOUT_FILENO, line, strlen(line)) < 0 ? failed("echo") : 0;
}

static int run_cat(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (copy_to(argv[i], STDOUT_FILENO) < 0)
			return failed(argv[i]);
	return argc > 1 ? 0 : usage(argv);
}

static int run_ls(int argc, char **argv)
{
	const char *where = argc > 1 ? argv[1] : ".";
	struct dirent **names;
	int count = scandir(where, &names, NULL, alphasort);

	if (count < 0)
		return failed(where);
	for (int i = 0; i < count; i++) {
		char path[4096];
		struct stat st;
		snprintf(path, sizeof(path), "%s/%s", where, names[i]->d_name);
		if (names[i]->d_name[0] != '.' && lstat(path, &st) == 0)
			say("%06o %10lld %s", st.st_mode, (long long)st.st_size, names[i]->d_name);
	}
	return 0;
}

static int run_mount(int argc, char **argv)
{
	const char *type = "ext4", *options = NULL;
	unsigned long flags = 0;
	int c;

	if (argc == 1)
		return copy_to("/proc/mounts", STDOUT_FILENO) < 0 ? failed("/proc/mounts") : 0;
	while ((c = getopt(argc, argv, "rt:o:")) != -1)
		if (c == 't')
			type = optarg;
		else if (c == 'o')
			options = optarg;
		else if (c == 'r')
			flags = MS_RDONLY;
		else
			return usage(argv);
	if (argc - optind != 2)
		return usage(argv);
	mkdir(argv[optind + 1], 0755);
	if (mount(argv[optind], argv[optind + 1], type, flags, options) < 0)
		return failed(argv[optind]);
	return 0;
}

static int run_umount(int argc, char **argv)
{
	if (argc != 2)
		return usage(argv);
	return umount(argv[1]) < 0 ? failed(argv[1]) : 0;
}

static int run_dmesg(int argc, char **argv)
{
	static char text[1 << 20];
	int length = klogctl(KLOG_READ_ALL, text, sizeof(text));

	(void)argc;
	if (length < 0 || write_all(STDOUT_FILENO, text, length) < 0)
		return failed(argv[0]);
	return 0;
}

static int run_uptime(int argc, char **argv)
{
	(void)argc, (void)argv;
	say("uptime=%.2f", uptime_seconds());
	return 0;
}

static int run_power(int argc, char **argv)
{
	(void)argc;
	power(argv[0]);
}

static int run_sync(int argc, char **argv)
{
	(void)argc, (void)argv;
	sync();
	return 0;
}

static int run_sleep(int argc, char **argv)
{
	if (argc != 2)
		return usage(argv);
	usleep(atof(argv[1]) * 1e6);
	return 0;
}

static int run_mkdir(int argc, char **argv)
{
	if (argc != 2)
		return usage(argv);
	return mkdir(argv[1], 0755) < 0 ? failed(argv[1]) : 0;
}

static int run_rm(int argc, char **argv)
{
	if (argc != 2)
		return usage(argv);
	return remove(argv[1]) < 0 ? failed(argv[1]) : 0;
}

static int run_sha256(int argc, char **argv)
{
	struct sha256 hash;
	char hex[65];
	ssize_t got;

	int in = argc == 2 ? open(argv[1], O_RDONLY) : -1;
	if (argc != 2)
		return usage(argv);
	if (in < 0)
		return failed(argv[1]);
	sha256_start(&hash);
	while ((got = read(in, block, BLOCK)) > 0)
		sha256_add(&hash, block, got);
	if (got < 0)
		return failed(argv[1]);
	sha256_end(&hash, hex);
	say("%s  %s", hex, argv[1]);
	return 0;
}

/* copy FROM TO BLOCKSIZE COUNT [SKIP [SEEK]]: positions in blocks. */
static int run_copy(int argc, char **argv)
{
	if (argc < 5 || argc > 7)
		return usage(argv);
	size_t size = strtoul(argv[3], NULL, 0), moved = 0;
	long count = strtol(argv[4], NULL, 0);
	off_t skip = argc > 5 ? strtoll(argv[5], NULL, 0) : 0;
	off_t seek = argc > 6 ? strtoll(argv[6], NULL, 0) : 0;
	uint8_t *data = malloc(size ? size : 1);
	int in = open(argv[1], O_RDONLY), out = open(argv[2], O_WRONLY | O_CREAT, 0644);
	ssize_t got = 0;

	if (in < 0 || out < 0)
		return failed(in < 0 ? argv[1] : argv[2]);
	if ((skip && lseek(in, skip * size, SEEK_SET) < 0) ||
	    (seek && lseek(out, seek * size, SEEK_SET) < 0))
		return failed("seek");
	for (; count && (got = read(in, data, size)) > 0; count--, moved += got)
		if (write_all(out, data, got) < 0)
			return failed(argv[2]);
	if (got < 0)
		return failed(argv[1]);
	if (fsync(out) < 0 && errno != EINVAL)
		return failed(argv[2]);
	say("copied %zu", moved);
	return 0;
}

/* write FILE BYTES SEED and verify FILE BYTES SEED: what one wrote the other must find. */
static int run_write(int argc, char **argv)
{
	int verify = !strcmp(argv[0], "verify");

	if (argc != 4)
		return usage(argv);
	uint64_t size = strtoull(argv[2], NULL, 0), seed = strtoull(argv[3], NULL, 0);
	int fd = open(argv[1], verify ? O_RDONLY : O_WRONLY | O_CREAT, 0644);
	if (fd < 0)
		return failed(argv[1]);
	for (uint64_t at = 0; at < size;) {
		size_t take = size - at < BLOCK ? size - at : BLOCK;
		pattern(expected, take, at, seed);
		if (!verify && write_all(fd, expected, take) < 0)
			return failed(argv[1]);
		for (size_t have = 0; verify && have < take;) {
			ssize_t got = read(fd, block + have, take - have);
			if (got <= 0) {
				say("MISMATCH %s ends at %llu", argv[1], (unsigned long long)(at + have));
				return 1;
			}
			have += got;
		}
		for (size_t i = 0; verify && i < take; i++)
			if (block[i] != expected[i]) {
				say("MISMATCH %s at %llu", argv[1], (unsigned long long)(at + i));
				return 1;
			}
		at += take;
	}
	if (!verify && fsync(fd) < 0 && errno != EINVAL)
		return failed(argv[1]);
	say("%s %llu", verify ? "verified" : "wrote", (unsigned long long)size);
	return 0;
}

/* Without echo, programs see nothing of what was typed between what they print. */
static int run_stty(int argc, char **argv)
{
	struct termios settings;
	int off = argc == 2 && !strcmp(argv[1], "-echo");

	if (argc != 2 || strcmp(argv[1] + off, "echo"))
		return usage(argv);
	if (tcgetattr(STDIN_FILENO, &settings) < 0)
		return failed("stty");
	settings.c_lflag = off ? settings.c_lflag & ~ECHO : settings.c_lflag | ECHO;
	return tcsetattr(STDIN_FILENO, TCSANOW, &settings) < 0 ? failed("stty") : 0;
}

static int run_help(int argc, char **argv)
{
	(void)argc, (void)argv;
	for (const struct command *c = commands; c->name; c++)
		say("%s %s", c->name, c->help);
	say("cd DIR\nexit [STATUS]");
	return 0;
}

const struct command commands[] = {
	{ "help", run_help, "" },
	{ "echo", run_echo, "WORD..." },
	{ "cat", run_cat, "FILE..." },
	{ "ls", run_ls, "[DIR]" },
	{ "mkdir", run_mkdir, "DIR" },
	{ "rm", run_rm, "FILE|DIR" },
	{ "mount", run_mount, "[-r] [-t TYPE] [-o OPTIONS] DEVICE DIR" },
	{ "umount", run_umount, "DIR" },
	{ "dmesg", run_dmesg, "" },
	{ "uptime", run_uptime, "" },
	{ "sleep", run_sleep, "SECONDS" },
	{ "sync", run_sync, "" },
	{ "sha256", run_sha256, "FILE" },
	{ "copy", run_copy, "FROM TO BLOCKSIZE COUNT [SKIP [SEEK]]" },
	{ "write", run_write, "FILE BYTES SEED" },
	{ "verify", run_write, "FILE BYTES SEED" },
	{ "stty", run_stty, "echo|-echo" },
	{ "address", run_address, "INTERFACE ADDRESS" },
	{ "ping", run_ping, "ADDRESS [COUNT]" },
	{ "send", run_send, "ADDRESS PORT FILE" },
	{ "receive", run_receive, "PORT FILE" },
	{ "poweroff", run_power, "" },
	{ "reboot", run_power, "" },
	{ "halt", run_power, "" },
	{ NULL, NULL, NULL },
};

/* Small helpers: lines, options, files, processes, fixed pseudo-random data. */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

void say(const char *format, ...)
{
	char line[512];
	va_list arguments;

	va_start(arguments, format);
	int length = vsnprintf(line, sizeof(line) - 1, format, arguments);
	va_end(arguments);
	if (length > (int)sizeof(line) - 2)
		length = sizeof(line) - 2;
	line[length++] = '\n';
	write_all(STDOUT_FILENO, line, length);
}

const char *option(const char *name, const char *fallback)
{
	static char line[4096];
	static char value[256];
	size_t size = strlen(name);
	const char *found = fallback;

	int in = open("/proc/cmdline", O_RDONLY);
	ssize_t length = in < 0 ? 0 : read(in, line, sizeof(line) - 1);
	close(in);
	line[length > 0 ? length : 0] = '\0';
	for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n"))
		if (!strncmp(word, name, size) && word[size] == '=') {
			snprintf(value, sizeof(value), "%s", word + size + 1);
			found = value;
		}
	/* The caller may ask for another option before it is done with this one. */
	return found == fallback ? fallback : strdup(found);
}

double uptime_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

int write_all(int out, const void *data, size_t length)
{
	const uint8_t *at = data;

	while (length > 0) {
		ssize_t done = write(out, at, length);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return -1;
		at += done;
		length -= done;
	}
	return 0;
}

int copy_to(const char *path, int out)
{
	static uint8_t buffer[65536];
	ssize_t got;

	int in = open(path, O_RDONLY);
	if (in < 0)
		return -1;
	while ((got = read(in, buffer, sizeof(buffer))) > 0)
		if (write_all(out, buffer, got) < 0) {
			got = -1;
			break;
		}
	int error = errno;
	close(in);
	errno = error;
	return got < 0 ? -1 : 0;
}

int write_file(const char *path, const char *text)
{
	int out = open(path, O_WRONLY);
	if (out < 0)
		return -1;
	int result = write_all(out, text, strlen(text));
	close(out);
	return result;
}

void power(const char *verb)
{
	sync();
	if (!strcmp(verb, "reboot"))
		reboot(RB_AUTOBOOT);
	else if (!strcmp(verb, "halt"))
		reboot(RB_HALT_SYSTEM);
	else
		reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

int wait_status(int pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int run_self(const char *applet)
{
	int pid = fork();

	if (pid == 0) {
		execl("/init", "init", applet, (char *)NULL);
		_exit(127);
	}
	return pid < 0 ? -1 : wait_status(pid);
}

uint64_t next_random(uint64_t *state)
{
	uint64_t x = *state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return *state = x;
}

static uint64_t mixed(uint64_t seed, uint64_t index)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15u + index + 1;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

void pattern(uint8_t *out, size_t length, uint64_t offset, uint64_t seed)
{
	uint64_t word = 0;

	for (size_t i = 0; i < length; i++, offset++) {
		if (i == 0 || offset % 8 == 0)
			word = mixed(seed, offset / 8);
		out[i] = word >> (offset % 8 * 8);
	}
}

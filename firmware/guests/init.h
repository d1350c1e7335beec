/* Shared by the parts of the small guests' first process. */
#ifndef GUEST_INIT_H
#define GUEST_INIT_H

#include <stddef.h>
#include <stdint.h>

/* init_util.c */

/* Print one line in one write, so that the kernel's own messages cannot cut it. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The value of the last NAME=value on the kernel command line, or `fallback`. */
const char *option(const char *name, const char *fallback);
/* Seconds since the machine started. */
double uptime_seconds(void);
/* Copy a whole file to a descriptor; 0, or -1 with errno set. */
int copy_to(const char *path, int out);
/* Write a string to an existing file; 0, or -1 with errno set. */
int write_file(const char *path, const char *text);
/* Write all of a buffer; 0, or -1 with errno set. */
int write_all(int out, const void *data, size_t length);
/* End the machine: "poweroff", "reboot" or "halt". */
void power(const char *verb) __attribute__((noreturn));
/* Fork, run this program again as `applet`, wait; its exit status, -1 if that failed. */
int run_self(const char *applet);
/* Wait for a process; its exit status, or 128 + the signal that ended it. */
int wait_status(int pid);

/* The next number of a fixed sequence (xorshift); state must not be 0. */
uint64_t next_random(uint64_t *state);
/* Fill a buffer with bytes that depend on the seed and on their offset in the whole only,
 * in either byte order. */
void pattern(uint8_t *out, size_t length, uint64_t offset, uint64_t seed);

/* init_sha256.c */

struct sha256 {
	uint32_t state[8];
	uint64_t length;
	uint8_t block[64];
};

void sha256_start(struct sha256 *hash);
void sha256_add(struct sha256 *hash, const void *data, size_t length);
/* Finish; writes 64 hexadecimal digits and a NUL. */
void sha256_end(struct sha256 *hash, char hex[65]);
/* Hash one buffer. */
void sha256_of(const void *data, size_t length, char hex[65]);

/* init_bench.c: run the rows named in a comma-separated list, or all if it is empty. */
void bench_all(const char *rows);

/* init_io.c: rows of the first disk and network card. */
void bench_disk_read(void);
void bench_disk_write(void);
void bench_disk_random(void);
void bench_net_ping(void);

struct sockaddr_in;
/* Give an interface an address and switch it on; 0, or -1 with errno set. */
int interface_up(const char *name, const char *address, const char *mask);
/* Send one echo request on a raw socket and wait for its reply; 0 if it came. */
int ping(int raw, const struct sockaddr_in *to, int number);

/* init_net.c: commands. */
int run_address(int argc, char **argv);
int run_ping(int argc, char **argv);
int run_send(int argc, char **argv);
int run_receive(int argc, char **argv);

/* init_stress.c: mixed checked load for that many seconds; `fault` names a part to go wrong. */
void stress_all(double seconds, const char *fault);

/* init_shell.c: read and run commands from standard input until its end or `exit`. */
int shell(void);

/* init_commands.c */

struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *help;
};

/* All commands, ended by one without a name. */
extern const struct command commands[];

#endif

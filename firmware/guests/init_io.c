/*
 * Benchmark rows of virtio devices: the first disk, through O_DIRECT, and round trips to the
 * gateway of user-mode networking. A row without its device prints why and counts for nothing.
 */
#define _GNU_SOURCE
#include "init.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/ip_icmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MIB = 1 << 20, SMALL = 4096, DISK_MIB = 256, RANDOM_READS = 20000, PINGS = 5000 };

static int open_disk(int flags)
{
	int disk = open("/dev/vda", flags | O_DIRECT);

	if (disk < 0)
		say("guest: cannot open /dev/vda");
	return disk;
}

static void *aligned(size_t size)
{
	void *block = NULL;

	if (posix_memalign(&block, MIB, size) != 0)
		return NULL;
	memset(block, 0x5a, size);
	return block;
}

static void transfer(int flags, ssize_t (*move)(int, void *, off_t))
{
	int disk = open_disk(flags);
	void *block = aligned(MIB);

	for (int i = 0; disk >= 0 && i < DISK_MIB; i++)
		if (move(disk, block, (off_t)i * MIB) != MIB) {
			say("guest: short transfer at %d MiB", i);
			break;
		}
	free(block);
	close(disk);
}

static ssize_t get(int disk, void *block, off_t at)
{
	return pread(disk, block, MIB, at);
}

static ssize_t put(int disk, void *block, off_t at)
{
	return pwrite(disk, block, MIB, at);
}

void bench_disk_read(void)
{
	transfer(O_RDONLY, get);
}

void bench_disk_write(void)
{
	transfer(O_WRONLY, put);
}

void bench_disk_random(void)
{
	int disk = open_disk(O_RDONLY);
	void *block = aligned(SMALL);
	uint64_t state = 1;

	for (int i = 0; disk >= 0 && i < RANDOM_READS; i++) {
		off_t page = next_random(&state) % (DISK_MIB * (MIB / SMALL));

		if (pread(disk, block, SMALL, page * SMALL) != SMALL) {
			say("guest: short read of page %ld", (long)page);
			break;
		}
	}
	free(block);
	close(disk);
}

int interface_up(const char *name, const char *address, const char *mask)
{
	int control = socket(AF_INET, SOCK_DGRAM, 0);
	struct ifreq request = { 0 };
	struct sockaddr_in *in = (struct sockaddr_in *)&request.ifr_addr;
	int bad;

	strcpy(request.ifr_name, name);
	in->sin_family = AF_INET;
	in->sin_addr.s_addr = inet_addr(address);
	bad = ioctl(control, SIOCSIFADDR, &request);
	in->sin_addr.s_addr = inet_addr(mask);
	bad |= ioctl(control, SIOCSIFNETMASK, &request);
	request.ifr_flags = IFF_UP | IFF_RUNNING;
	bad |= ioctl(control, SIOCSIFFLAGS, &request);
	close(control);
	return bad ? -1 : 0;
}

static uint16_t checksum(const void *data, size_t size)
{
	const uint8_t *bytes = data;
	uint32_t sum = 0;
	uint16_t half;

	for (size_t i = 0; i < size; i += sizeof(half)) {
		memcpy(&half, bytes + i, sizeof(half));
		sum += half;
	}
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

int ping(int raw, const struct sockaddr_in *to, int number)
{
	struct icmphdr echo = { .type = ICMP_ECHO, .un.echo.sequence = htons(number) };
	uint8_t answer[256];

	echo.un.echo.id = htons(0x4242);
	echo.checksum = checksum(&echo, sizeof(echo));
	if (sendto(raw, &echo, sizeof(echo), 0, (const void *)to, sizeof(*to)) < 0)
		return -1;
	for (int tries = 0; tries < 16; tries++) {
		ssize_t size = recv(raw, answer, sizeof(answer), 0);
		const struct icmphdr *got = (const void *)(answer + (answer[0] & 15) * 4);

		if (size < 28)
			return -1;
		if (got->type == ICMP_ECHOREPLY && got->un.echo.sequence == echo.un.echo.sequence)
			return 0;
	}
	return -1;
}

void bench_net_ping(void)
{
	struct sockaddr_in gateway = { .sin_family = AF_INET };
	struct timeval patience = { .tv_sec = 5 };
	int raw = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);

	gateway.sin_addr.s_addr = inet_addr("10.0.2.2");
	if (interface_up("eth0", "10.0.2.15", "255.255.255.0") < 0)
		say("guest: cannot set up eth0");
	setsockopt(raw, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	for (int i = 0; i < PINGS; i++)
		if (ping(raw, &gateway, i & 0xffff) < 0) {
			say("guest: no answer to ping %d", i);
			break;
		}
	close(raw);
}

/* Network commands: an address for an interface, ping, and files sent and received over TCP. */
#include "init.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PATIENCE_SECONDS = 10, BLOCK = 64 << 10 };

static uint8_t block[BLOCK];

static int failed(const char *what)
{
	say("%s: %s", what, strerror(errno));
	return 1;
}

/* An address and port; port 0 for none. */
static struct sockaddr_in place(const char *address, const char *port)
{
	struct sockaddr_in where = { .sin_family = AF_INET };

	where.sin_addr.s_addr = inet_addr(address);
	where.sin_port = htons(atoi(port));
	return where;
}

/* Copy from one descriptor to another until the end; bytes, or -1 with errno set. */
static long long move_all(int in, int out)
{
	long long moved = 0;
	ssize_t got;

	while ((got = read(in, block, BLOCK)) > 0) {
		if (write_all(out, block, got) < 0)
			return -1;
		moved += got;
	}
	return got < 0 ? -1 : moved;
}

int run_address(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	return interface_up(argv[1], argv[2], "255.255.255.0") < 0 ? failed(argv[1]) : 0;
}

int run_ping(int argc, char **argv)
{
	struct timeval patience = { .tv_sec = PATIENCE_SECONDS };
	int count = argc > 2 ? atoi(argv[2]) : 1, answers = 0;

	if (argc < 2)
		return 2;
	struct sockaddr_in to = place(argv[1], "0");
	int raw = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
	if (raw < 0)
		return failed("socket");
	setsockopt(raw, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	for (int i = 0; i < count; i++)
		answers += ping(raw, &to, i & 0xffff) == 0;
	close(raw);
	say("%d of %d answered", answers, count);
	return answers != count;
}

int run_send(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	struct sockaddr_in to = place(argv[1], argv[2]);
	int in = open(argv[3], O_RDONLY), out = socket(AF_INET, SOCK_STREAM, 0);
	if (in < 0 || out < 0)
		return failed(argv[3]);
	if (connect(out, (const void *)&to, sizeof(to)) < 0)
		return failed(argv[1]);
	long long moved = move_all(in, out);
	if (moved < 0 || close(out) < 0)
		return failed("send");
	say("sent %lld", moved);
	return 0;
}

int run_receive(int argc, char **argv)
{
	int yes = 1;

	if (argc != 3)
		return 2;
	struct sockaddr_in where = place("0.0.0.0", argv[1]);
	int out = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC, 0644);
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	if (out < 0 || listener < 0)
		return failed(argv[2]);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (bind(listener, (const void *)&where, sizeof(where)) < 0 || listen(listener, 1) < 0)
		return failed(argv[1]);
	say("listening on %s", argv[1]);
	int in = accept(listener, NULL, NULL);
	long long moved = in < 0 ? -1 : move_all(in, out);
	if (moved < 0)
		return failed("receive");
	say("received %lld", moved);
	return 0;
}

/* First process of the small guests: mounts, the ready line, then what the kernel command line
 * asks for (autotest=poweroff|reboot|panic|bench|stress|shell). */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { KLOG_CONSOLE_LEVEL = 8 };

static const struct {
	const char *type, *where;
} basics[] = {
	{ "proc", "/proc" },	  { "sysfs", "/sys" }, { "devtmpfs", "/dev" },
	{ "devpts", "/dev/pts" }, { "tmpfs", "/tmp" },
};

static void mount_basics(void)
{
	for (size_t i = 0; i < sizeof(basics) / sizeof(basics[0]); i++) {
		mkdir(basics[i].where, 0755);
		if (mount(basics[i].type, basics[i].where, basics[i].type, 0, NULL) < 0 &&
		    errno != ENODEV && errno != EBUSY)
			say("guest: mount %s: %s", basics[i].where, strerror(errno));
	}
}

/* Make the real console the controlling terminal, which Ctrl-C and job control need:
 * /dev/console itself cannot be one. */
static void take_console(void)
{
	char names[128] = "";
	char path[160];
	int in = open("/sys/class/tty/console/active", O_RDONLY);

	if (in >= 0 && read(in, names, sizeof(names) - 1) > 0) {
		names[strcspn(names, "\n")] = '\0';
		const char *last = strrchr(names, ' ');
		snprintf(path, sizeof(path), "/dev/%s", last ? last + 1 : names);
	} else {
		strcpy(path, "/dev/console");
	}
	if (in >= 0)
		close(in);
	setsid();
	int console = open(path, O_RDWR);
	if (console < 0)
		return;
	ioctl(console, TIOCSCTTY, 1);
	for (int fd = 0; fd < 3; fd++)
		dup2(console, fd);
	if (console > 2)
		close(console);
}

static void run_shell(void)
{
	take_console();
	if (access("/bin/busybox", X_OK) == 0)
		execl("/bin/busybox", "sh", "-l", (char *)NULL);
	_exit(shell());
}

/* Start a shell whenever there is none, and collect orphans. */
static void run_shells(void)
{
	for (;;) {
		int pid = fork();
		if (pid == 0)
			run_shell();
		if (pid < 0)
			say("guest: fork: %s", strerror(errno));
		for (int ended = 0; ended != pid;) {
			ended = wait(NULL);
			if (ended < 0)
				sleep(1);
			if (ended < 0)
				break;
		}
	}
}

static void act(const char *what)
{
	if (!strcmp(what, "poweroff") || !strcmp(what, "reboot")) {
		power(what);
	} else if (!strcmp(what, "panic")) {
		write_file("/proc/sysrq-trigger", "c");
		/* Without the magic keys, the kernel panics when its first process ends. */
		exit(1);
	} else if (!strcmp(what, "bench")) {
		bench_all(option("bench", ""));
		power("poweroff");
	} else if (!strcmp(what, "stress")) {
		stress_all(atof(option("stress_seconds", "60")), option("stress_fault", ""));
		power("poweroff");
	} else if (*what && strcmp(what, "shell")) {
		say("guest: autotest=%s is not known", what);
	}
}

int main(int argc, char **argv)
{
	/* Run again by ourselves: the cheapest program there is. */
	if (getpid() != 1)
		return argc > 1 && !strcmp(argv[1], "true") ? 0 : 2;
	setenv("PATH", "/sbin:/usr/sbin:/bin:/usr/bin", 1);
	setenv("HOME", "/root", 1);
	setenv("TERM", "vt100", 1);
	mount_basics();
	/* Warnings and errors still reach the console; chatter would mix with our lines. */
	klogctl(KLOG_CONSOLE_LEVEL, NULL, 5);
	say("GUEST-READY uptime=%.2f", uptime_seconds());
	copy_to("/proc/partitions", STDOUT_FILENO);
	act(option("autotest", ""));
	run_shells();
}

/* A small command interpreter: words, `;` between commands, `>` and `>>` to files.
 * Every command runs in its own foreground process group, so that Ctrl-C ends it. */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_WORDS = 64 };

static const struct command *find(const char *name)
{
	for (const struct command *c = commands; c->name; c++)
		if (!strcmp(c->name, name))
			return c;
	return NULL;
}

/* Take `> FILE` or `>> FILE` off the end of the words and open the file; -1 if that failed. */
static int redirect(int *argc, char **argv)
{
	if (*argc < 3 || argv[*argc - 2][0] != '>')
		return 0;
	int more = !strcmp(argv[*argc - 2], ">>");
	int flags = O_WRONLY | O_CREAT | (more ? O_APPEND : O_TRUNC);
	int out = open(argv[*argc - 1], flags, 0644);
	if (out < 0) {
		say("%s: %s", argv[*argc - 1], strerror(errno));
		return -1;
	}
	dup2(out, STDOUT_FILENO);
	close(out);
	*argc -= 2;
	argv[*argc] = NULL;
	return 0;
}

static int in_child(int argc, char **argv)
{
	setpgid(0, 0);
	tcsetpgrp(STDIN_FILENO, getpid());
	signal(SIGINT, SIG_DFL);
	signal(SIGTTOU, SIG_DFL);
	if (redirect(&argc, argv) < 0)
		return 1;
	const struct command *command = find(argv[0]);
	if (command)
		return command->run(argc, argv);
	execvp(argv[0], argv);
	say("%s: no such command; try help", argv[0]);
	return 127;
}

static int run(int argc, char **argv)
{
	if (!strcmp(argv[0], "cd")) {
		if (chdir(argc > 1 ? argv[1] : "/") == 0)
			return 0;
		say("cd: %s", strerror(errno));
		return 1;
	}
	int pid = fork();
	if (pid == 0)
		exit(in_child(argc, argv));
	int status = pid < 0 ? -1 : wait_status(pid);
	tcsetpgrp(STDIN_FILENO, getpgrp());
	return status;
}

/* Split into words and run; the words are changed in place. */
static void run_one(char *text)
{
	char *argv[MAX_WORDS + 1];
	int argc = 0;

	for (char *at, *word = strtok_r(text, " \t", &at); word && argc < MAX_WORDS;
	     word = strtok_r(NULL, " \t", &at))
		argv[argc++] = word;
	argv[argc] = NULL;
	if (argc == 0)
		return;
	if (!strcmp(argv[0], "exit"))
		exit(argc > 1 ? atoi(argv[1]) : 0);
	int status = run(argc, argv);
	if (status)
		say("%s: status %d", argv[0], status);
}

int shell(void)
{
	static char line[1024];

	signal(SIGINT, SIG_IGN);
	/* Taking the terminal back from a command is done from the background. */
	signal(SIGTTOU, SIG_IGN);
	say("Commands: help");
	for (;;) {
		write_all(STDOUT_FILENO, "guest# ", 7);
		if (!fgets(line, sizeof(line), stdin))
			return 0;
		line[strcspn(line, "\r\n")] = '\0';
		for (char *at, *part = strtok_r(line, ";", &at); part;
		     part = strtok_r(NULL, ";", &at))
			run_one(part);
	}
}

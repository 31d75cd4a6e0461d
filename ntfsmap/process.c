// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "msg.h"
#include "process.h"

#define SYSTEM_PATH "/usr/sbin:/usr/bin:/sbin:/bin"

extern char **environ;

/* Where one is closed, the next file that is opened would get the messages: an image, with
 * `check --repair`. A folder can be neither read nor written, and is there before /dev is. */
static void take_standard(void)
{
	int fd;

	do
		fd = open("/", O_RDONLY | O_DIRECTORY);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

void process_guard(void)
{
	mode_t mask = umask(S_IRWXG | S_IRWXO);

	umask(mask | S_IWGRP | S_IWOTH);
	take_standard();
}

/* As a path, glibc and others would open it. */
static bool may_be_path(const char *value)
{
	return value[0] == '/' || (value[0] && value[1] == '/') || strstr(value, "..");
}

/* What is not for us, but for mount(8) and the file systems that it starts, TZ, the documented
 * switch of libdevmapper, and where a build that counts lines puts its counts. */
static void clean_environment(void)
{
	static const char *const names[] = {
		"LANG", "LANGUAGE",	   "LC_ALL",	  "LC_CTYPE",	      "LC_MESSAGES",
		"TZ",	"DM_DISABLE_UDEV", "GCOV_PREFIX", "GCOV_PREFIX_STRIP"
	};
	char *values[sizeof(names) / sizeof(names[0])] = { NULL };
	bool failed;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		const char *value = getenv(names[i]);

		if (value && (!may_be_path(value) || !strncmp(names[i], "GCOV_", 5)))
			values[i] = text_copy(value);
	}
	failed = clearenv() || setenv("PATH", SYSTEM_PATH, 1);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		failed |= values[i] && setenv(names[i], values[i], 1);
		free(values[i]);
	}
	if (failed)
		out_of_memory();
}

int process_start(void)
{
	process_guard();
	if (getuid() != geteuid() || getgid() != getegid())
		return fail(
			REFUSED,
			"it runs as user %u and group %u for user %u and group %u: ntfsmap does "
			"what its command line says and must not be set-user-ID or "
			"set-group-ID. chmod ug-s takes that away; sudo runs it as root",
			geteuid(), getegid(), getuid(), getgid());
	clean_environment();
	return DONE;
}

int process_run(const char *const argv[])
{
	posix_spawn_file_actions_t actions;
	int status, error = posix_spawn_file_actions_init(&actions);
	pid_t child;

	if (error)
		return fail_errno(error, "cannot run %s", argv[0]);
	/* libraries have descriptors open, too, and a file system that is mounted stays */
	error = posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1);
	if (!error)
		error = posix_spawnp(&child, argv[0], &actions, NULL, (char **)argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (error)
		return fail_errno(error, "cannot run %s", argv[0]);
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return fail_errno(errno, "lost %s", argv[0]);
	return WIFEXITED(status) && !WEXITSTATUS(status) ? DONE : SYSTEM;
}

/* view.c: looks around in a file view. Usage: view VERB PATH ... ; for each pair the text that was found, in lines that
 * begin with a bar, and one verdict named NUMBER:VERB. Without arguments it does nothing. */
#define _GNU_SOURCE
#include "probe.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static long try_read(const char *path)
{
	char line[4096];
	FILE *file = fopen(path, "re");

	if (!file)
		return -1;
	errno = 0;
	while (fgets(line, sizeof line, file))
		printf("| %s%s", line, strchr(line, '\n') ? "" : "\n");
	return ferror(file) | fclose(file) ? -1 : 0;
}

static long opened(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600);

	return fd < 0 ? -1 : close(fd);
}

static long try_open(const char *path)
{
	return opened(path, O_RDONLY);
}

static long try_write(const char *path)
{
	return opened(path, O_WRONLY);
}

static long try_create(const char *path)
{
	return opened(path, O_WRONLY | O_CREAT | O_EXCL);
}

static long try_fill(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0)
		return -1;
	return write(fd, "inside", 6) == 6 ? close(fd) : -1;
}

static long try_mkdir(const char *path)
{
	return mkdir(path, 0700);
}

static long try_remove(const char *path)
{
	return remove(path);
}

static long try_mode(const char *path)
{
	return chmod(path, 0640);
}

static int named(const struct dirent *entry)
{
	return strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
}

static long try_list(const char *path)
{
	struct dirent **found;
	int count = scandir(path, &found, named, alphasort);

	for (int i = 0; i < count; i++)
		printf("| %s\n", found[i]->d_name);
	return count < 0 ? -1 : 0;
}

static long try_link(const char *path)
{
	char target[4096];
	ssize_t size = readlink(path, target, sizeof target);

	if (size < 0)
		return -1;
	printf("| %.*s\n", (int)size, target);
	return 0;
}

static long try_stat(const char *path)
{
	struct stat status;

	if (stat(path, &status) < 0)
		return -1;
	printf("| %o\n", status.st_mode);
	return 0;
}

static long try_user(const char *path)
{
	(void)path;
	printf("| %u %u\n", geteuid(), getegid());
	return 0;
}

/* What a child exits with is its errno. */
static long waited(pid_t pid)
{
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -2;
	errno = WIFEXITED(status) ? WEXITSTATUS(status) : 255;
	return errno ? -1 : 0;
}

static long try_execute(const char *path)
{
	char *const arguments[] = {(char *)path, NULL};
	pid_t pid = fork();

	if (pid == 0) {
		execv(path, arguments);
		_exit(errno);
	}
	return waited(pid);
}

/* ---- attempts to change the view ---- */

static long try_umount(const char *path)
{
	return umount2(path, MNT_DETACH);
}

static long try_remount(const char *path)
{
	return mount(NULL, path, NULL, MS_REMOUNT | MS_BIND, NULL);
}

static long try_setattr(const char *path)
{
	struct mount_attr writable = {.attr_clr = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC};

	return raw(SYS_mount_setattr, (uint64_t)AT_FDCWD, (uint64_t)path, 0, (uint64_t)&writable, sizeof writable, 0);
}

static long try_cover(const char *path)
{
	return mount("none", path, "tmpfs", 0, NULL);
}

static long try_chroot(const char *path)
{
	return chroot(path);
}

/* The same from a user namespace of one's own, with all capabilities there. */
static long with_capabilities(const char *path, long (*call)(const char *path))
{
	pid_t pid = fork();

	if (pid == 0) {
		if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
			_exit(254);
		_exit(call(path) < 0 ? errno : 0);
	}
	return waited(pid);
}

static long try_own_umount(const char *path)
{
	return with_capabilities(path, try_umount);
}

static long try_own_remount(const char *path)
{
	return with_capabilities(path, try_remount);
}

static long try_own_setattr(const char *path)
{
	return with_capabilities(path, try_setattr);
}

static long try_own_cover(const char *path)
{
	return with_capabilities(path, try_cover);
}

static const struct verb {
	const char *name;
	long (*call)(const char *path);
} verbs[] = {
	{"read", try_read},
	{"open", try_open},
	{"write", try_write},
	{"create", try_create},
	{"fill", try_fill},
	{"mkdir", try_mkdir},
	{"remove", try_remove},
	{"mode", try_mode},
	{"list", try_list},
	{"link", try_link},
	{"stat", try_stat},
	{"user", try_user},
	{"execute", try_execute},
	{"umount", try_umount},
	{"remount", try_remount},
	{"setattr", try_setattr},
	{"cover", try_cover},
	{"chroot", try_chroot},
	{"own-umount", try_own_umount},
	{"own-remount", try_own_remount},
	{"own-setattr", try_own_setattr},
	{"own-cover", try_own_cover},
};

int main(int argc, char **argv)
{
	probe_open();
	for (int at = 1; at + 1 < argc; at += 2) {
		const struct verb *verb = verbs;
		const struct verb *end = verbs + sizeof verbs / sizeof verbs[0];
		char name[64];
		long result;

		while (verb < end && strcmp(verb->name, argv[at]) != 0)
			verb++;
		if (verb == end)
			return 91;
		errno = 0;
		result = verb->call(argv[at + 1]);
		snprintf(name, sizeof name, "%d:%s", at / 2, verb->name);
		verdict(name, result);
	}
	return 0;
}

/* cells.c: every operation on what a descriptor stands for. Usage: cells NUMBER file|folder|pipe */
#define _GNU_SOURCE
#include "probe.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>

static long opened(int folder, const char *path, int flags)
{
	int fd = openat(folder, path, flags | O_CLOEXEC, 0600);

	if (fd >= 0)
		close(fd);
	return fd < 0 ? -1 : 0;
}

static long mapped(int fd, int protection, int kind)
{
	return mmap(NULL, 1, protection, kind, fd, 0) == MAP_FAILED ? -1 : 0;
}

/* In a process of its own: the exit code is 0 when it was executed, else errno. */
static long executed(int fd, const char *name)
{
	char *words[] = {"x", NULL};
	int status = 0;
	pid_t child = fork();

	if (child == 0) {
		syscall(SYS_execveat, fd, name, words, words + 1, *name ? 0 : AT_EMPTY_PATH);
		_exit(errno);
	}
	waitpid(child, &status, 0);
	errno = WEXITSTATUS(status);
	return errno ? -1 : 0;
}

/* What needs the object's owner, or write access to its mount. Put back what it changes. */
static void metadata(int fd)
{
	struct stat status;
	struct timespec times[2] = {{1, 0}, {1, 0}};
	int flags = 0;

	fstat(fd, &status);
	verdict("chmod", fchmod(fd, status.st_mode & 07777));
	verdict("chown", fchown(fd, (uid_t)-1, getegid()));
	verdict("utimes", futimens(fd, times));
	verdict("xattr", fsetxattr(fd, "user.probe", "1", 1, 0));
	verdict("getflags", ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0 ? -1 : 0);
	flags |= FS_NODUMP_FL;
	verdict("setflags", ioctl(fd, FS_IOC_SETFLAGS, &flags));
}

static void file(int fd, const char *link)
{
	struct flock lock = {.l_type = F_RDLCK};
	char byte;

	verdict("read", pread(fd, &byte, 1, 0) < 0 ? -1 : 0);
	verdict("seek", lseek(fd, 0, SEEK_SET));
	verdict("lock", flock(fd, LOCK_EX));
	verdict("record-lock", fcntl(fd, F_SETLK, &lock));
	verdict("map-read", mapped(fd, PROT_READ, MAP_SHARED));
	verdict("map-write", mapped(fd, PROT_READ | PROT_WRITE, MAP_SHARED));
	verdict("map-execute", mapped(fd, PROT_READ | PROT_EXEC, MAP_PRIVATE));
	verdict("reopen-read", opened(AT_FDCWD, link, O_RDONLY));
	verdict("reopen-write", opened(AT_FDCWD, link, O_WRONLY));
	verdict("reopen-truncate", opened(AT_FDCWD, link, O_WRONLY | O_TRUNC));
	verdict("truncate-by-link", truncate(link, 4));
	metadata(fd);
	verdict("link", linkat(AT_FDCWD, link, AT_FDCWD, "linked", AT_SYMLINK_FOLLOW));
	unlink("linked");
	verdict("link-empty", linkat(fd, "", AT_FDCWD, "linked", AT_EMPTY_PATH));
	unlink("linked");
	verdict("execute", executed(fd, ""));
	verdict("parent", opened(fd, "..", O_RDONLY));
	verdict("write", write(fd, "W", 1) < 0 ? -1 : 0);
	verdict("truncate", ftruncate(fd, 4));
	verdict("punch", fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1));
}

/* The folder holds: text, tool (executable), sub/inner. Above it: secret. */
static void folder(int fd)
{
	struct stat above, here;

	verdict("list", opened(fd, ".", O_RDONLY | O_DIRECTORY));
	verdict("read", opened(fd, "text", O_RDONLY));
	verdict("read-below", opened(fd, "sub/inner", O_RDONLY));
	verdict("above", opened(fd, "../secret", O_RDONLY));
	verdict("above-twice", opened(fd, "sub/../../secret", O_RDONLY));
	fstat(fd, &here);
	verdict("parent-is-itself",
		fstatat(fd, "..", &above, 0) == 0 && above.st_ino == here.st_ino && above.st_dev == here.st_dev ? 0 : -1);
	verdict("change-above", fchdir(fd) < 0 || chdir("..") < 0 ? -1 : opened(AT_FDCWD, "secret", O_RDONLY));
	verdict("write", opened(fd, "text", O_WRONLY));
	verdict("truncate", opened(fd, "text", O_WRONLY | O_TRUNC));
	verdict("execute", executed(fd, "tool"));
	verdict("make", opened(fd, "new", O_RDONLY | O_CREAT | O_EXCL));
	verdict("make-folder", mkdirat(fd, "new-folder", 0700));
	verdict("link", linkat(fd, "text", fd, "linked", 0));
	verdict("symlink", symlinkat("/", fd, "symlink"));
	verdict("rename", renameat(fd, "text", fd, "sub/text"));
	verdict("rename-back", renameat(fd, "sub/text", fd, "text"));
	verdict("remove", unlinkat(fd, "sub/inner", 0));
	verdict("device", mknodat(fd, "device", S_IFCHR | 0600, 0x103));
	verdict("chmod-within", fchmodat(fd, "text", 0600, 0));
	metadata(fd);
}

/* An end of a pipe. What has no verdict of its own the caller sees afterwards on the end that is its own. */
static void pipe_end(int fd, const char *link)
{
	int same = fcntl(fd, F_GETFL) & O_ACCMODE, other = same == O_RDONLY ? O_WRONLY : O_RDONLY, end;
	const struct timespec times[2] = {{1, 0}, {1, 0}};
	char bytes[64];

	verdict("read", read(fd, bytes, 1) < 0 ? -1 : 0);
	verdict("write", write(fd, "W", 1) < 0 ? -1 : 0);
	verdict("seek", lseek(fd, 0, SEEK_SET));
	verdict("truncate", ftruncate(fd, 0));
	verdict("punch", fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1));
	verdict("map-read", mapped(fd, PROT_READ, MAP_SHARED));
	verdict("map-write", mapped(fd, PROT_READ | PROT_WRITE, MAP_SHARED));
	verdict("xattr", fsetxattr(fd, "user.probe", "1", 1, 0));
	verdict("link", linkat(AT_FDCWD, link, AT_FDCWD, "linked", AT_SYMLINK_FOLLOW));
	verdict("link-empty", linkat(fd, "", AT_FDCWD, "linked", AT_EMPTY_PATH));
	verdict("execute", executed(fd, ""));
	verdict("parent", opened(fd, "..", O_RDONLY));
	verdict("reopen", opened(AT_FDCWD, link, same | O_NONBLOCK));
	end = open(link, other | O_NONBLOCK | O_CLOEXEC);
	verdict("reopen-other", end < 0 ? -1 : 0);
	if (other == O_WRONLY ? write(end, "B", 1) < 0 : read(end, bytes, sizeof bytes) < 0)
		errno = 0;
	flock(fd, LOCK_EX);
	fcntl(fd, F_SETPIPE_SZ, 8192);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	fchmod(fd, 0700);
	futimens(fd, times);
}

int main(int argc, char **argv)
{
	char link[32];

	probe_open();
	if (argc != 3)
		return 91;
	snprintf(link, sizeof link, "/proc/self/fd/%s", argv[1]);
	if (strcmp(argv[2], "file") == 0)
		file(atoi(argv[1]), link);
	else if (strcmp(argv[2], "pipe") == 0)
		pipe_end(atoi(argv[1]), link);
	else
		folder(atoi(argv[1]));
	return 0;
}

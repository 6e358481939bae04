/* landlock.c: tries what a ruleset may refuse. Usage: landlock VERB OBJECT [OBJECT] ... ; one verdict for each verb,
 * named NUMBER:VERB, in the order of the arguments. */
#define _GNU_SOURCE
#include "probe.h"

#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>

static long opened(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK, 0600);

	if (fd < 0)
		return -1;
	close(fd);
	return 0;
}

static long try_read(char **object)
{
	return opened(object[0], O_RDONLY);
}

static long try_write(char **object)
{
	return opened(object[0], O_WRONLY);
}

static long try_empty(char **object)
{
	return opened(object[0], O_WRONLY | O_TRUNC);
}

static long try_create(char **object)
{
	return opened(object[0], O_WRONLY | O_CREAT | O_EXCL);
}

/* Without write access to the file's content: what `truncate` adds to `write_file`. */
static long try_truncate(char **object)
{
	return truncate(object[0], 1);
}

static long try_list(char **object)
{
	return opened(object[0], O_RDONLY | O_DIRECTORY);
}

static long try_mkdir(char **object)
{
	return mkdir(object[0], 0700);
}

static long try_rmdir(char **object)
{
	return rmdir(object[0]);
}

static long try_unlink(char **object)
{
	return unlink(object[0]);
}

static long try_symlink(char **object)
{
	return symlink("nowhere", object[0]);
}

static long try_fifo(char **object)
{
	return mknod(object[0], S_IFIFO | 0600, 0);
}

static long try_socket(char **object)
{
	return mknod(object[0], S_IFSOCK | 0600, 0);
}

/* 0, 0 is the whiteout device: the one that anybody may make. mknod(2) */
static long try_char(char **object)
{
	return mknod(object[0], S_IFCHR | 0600, 0);
}

static long try_block(char **object)
{
	return mknod(object[0], S_IFBLK | 0600, makedev(7, 0));
}

static long try_rename(char **object)
{
	return rename(object[0], object[1]);
}

static long try_link(char **object)
{
	return link(object[0], object[1]);
}

static long waited(pid_t pid)
{
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -2;
	errno = WIFEXITED(status) ? WEXITSTATUS(status) : 255;
	return errno ? -1 : 0;
}

static long try_execute(char **object)
{
	char *const arguments[] = {object[0], NULL};
	pid_t pid = fork();

	if (pid == 0) {
		execv(object[0], arguments);
		_exit(errno);
	}
	return waited(pid);
}

/* What is no terminal says ENOTTY: the driver was asked. */
static long try_ioctl(char **object)
{
	int fd = open(object[0], O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct termios settings;
	long result;

	if (fd < 0)
		return -2;
	result = tcgetattr(fd, &settings);
	close(fd);
	return result;
}

/* The same through the caller's descriptor of a folder: `read-at 77/name`. */
static long try_read_at(char **object)
{
	char *name = strchr(object[0], '/');
	int fd = openat(atoi(object[0]), name ? name + 1 : ".", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -1;
	close(fd);
	return 0;
}

static struct sockaddr_in local(const char *port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return address;
}

static long with_inet(int type, const char *port, int (*call)(int, const struct sockaddr *, socklen_t))
{
	struct sockaddr_in address = local(port);
	int on = 1, fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
	long result;

	if (fd < 0)
		return -2;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	result = call(fd, (const struct sockaddr *)&address, sizeof address);
	close(fd);
	return result;
}

static long try_bind(char **object)
{
	return with_inet(SOCK_STREAM, object[0], bind);
}

static long try_connect(char **object)
{
	return with_inet(SOCK_STREAM, object[0], connect);
}

static long try_bind_udp(char **object)
{
	return with_inet(SOCK_DGRAM, object[0], bind);
}

/* Without bind(2) the kernel chooses a port. */
static long try_listen(char **object)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	long result = listen(fd, atoi(object[0])); /* the length of its queue */

	close(fd);
	return result;
}

static socklen_t abstract(struct sockaddr_un *address, const char *name)
{
	memset(address, 0, sizeof *address);
	address->sun_family = AF_UNIX;
	snprintf(address->sun_path + 1, sizeof address->sun_path - 1, "%s", name);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name));
}

static long try_abstract(char **object)
{
	struct sockaddr_un address;
	socklen_t size = abstract(&address, object[0]);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	long result = connect(fd, (struct sockaddr *)&address, size);

	close(fd);
	return result;
}

static long try_abstract_datagram(char **object)
{
	struct sockaddr_un address;
	socklen_t size = abstract(&address, object[0]);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	long result = sendto(fd, "x", 1, 0, (struct sockaddr *)&address, size);

	close(fd);
	return result < 0 ? -1 : 0;
}

/* Between two sockets of our own, the name being ours. */
static long try_own_abstract(char **object)
{
	struct sockaddr_un address;
	socklen_t size = abstract(&address, object[0]);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (bind(fd, (struct sockaddr *)&address, size) < 0 || listen(fd, 1) < 0)
		return -2;
	return try_abstract(object);
}

static long try_kill(char **object)
{
	return kill(atoi(object[0]), SIGTERM);
}

static long try_kill_child(char **object)
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		for (;;)
			pause();
	if (kill(pid, atoi(object[0])) < 0)
		return -1;
	waitpid(pid, &status, 0);
	return WIFSIGNALED(status) && WTERMSIG(status) == atoi(object[0]) ? 0 : -2;
}

static const struct verb {
	const char *name;
	int objects;
	long (*call)(char **object);
} verbs[] = {
	{"read", 1, try_read},
	{"read-at", 1, try_read_at},
	{"write", 1, try_write},
	{"empty", 1, try_empty},
	{"create", 1, try_create},
	{"truncate", 1, try_truncate},
	{"list", 1, try_list},
	{"execute", 1, try_execute},
	{"mkdir", 1, try_mkdir},
	{"rmdir", 1, try_rmdir},
	{"unlink", 1, try_unlink},
	{"symlink", 1, try_symlink},
	{"fifo", 1, try_fifo},
	{"socket", 1, try_socket},
	{"char", 1, try_char},
	{"block", 1, try_block},
	{"rename", 2, try_rename},
	{"link", 2, try_link},
	{"ioctl", 1, try_ioctl},
	{"bind", 1, try_bind},
	{"connect", 1, try_connect},
	{"listen", 1, try_listen},
	{"bind-udp", 1, try_bind_udp},
	{"abstract", 1, try_abstract},
	{"abstract-datagram", 1, try_abstract_datagram},
	{"own-abstract", 1, try_own_abstract},
	{"kill", 1, try_kill},
	{"kill-child", 1, try_kill_child},
};

int main(int argc, char **argv)
{
	int at = 1;

	probe_open();
	for (int number = 0; at < argc; number++) {
		const struct verb *verb = verbs;
		const struct verb *end = verbs + sizeof verbs / sizeof verbs[0];
		char name[64];
		long result;

		while (verb < end && strcmp(verb->name, argv[at]) != 0)
			verb++;
		if (verb == end || at + verb->objects >= argc)
			return 91;
		errno = 0;
		result = verb->call(argv + at + 1);
		snprintf(name, sizeof name, "%d:%s", number, verb->name);
		verdict(name, result);
		at += 1 + verb->objects;
	}
	return 0;
}

/* wall.c: tries to reach what lies outside a sandbox. Usage: wall VERB OBJECT [OBJECT] ... ; one verdict for each verb,
 * named NUMBER:VERB, in the order of the arguments. What a call returns beside -1 comes as 0. */
#define _GNU_SOURCE
#include "probe.h"

#include <fcntl.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

static long opened_at(int folder, const char *path, int flags)
{
	int fd = openat(folder, path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600);

	if (fd < 0)
		return -1;
	close(fd);
	return 0;
}

/* ---- files ---- */

static long try_read(char **object)
{
	return opened_at(AT_FDCWD, object[0], O_RDONLY);
}

static long try_write(char **object)
{
	return opened_at(AT_FDCWD, object[0], O_WRONLY);
}

static long try_create(char **object)
{
	return opened_at(AT_FDCWD, object[0], O_WRONLY | O_CREAT | O_EXCL);
}

static long try_exists(char **object)
{
	return faccessat(AT_FDCWD, object[0], F_OK, AT_SYMLINK_NOFOLLOW);
}

static long try_touch(char **object)
{
	return utimensat(AT_FDCWD, object[0], NULL, 0);
}

static long try_link(char **object)
{
	return link(object[0], object[1]);
}

/* Through a symlink of its own making. */
static long try_through_link(char **object)
{
	unlink(object[1]);
	return symlink(object[0], object[1]) < 0 ? -2 : opened_at(AT_FDCWD, object[1], O_RDONLY);
}

/* From a descriptor that the caller has left open. */
static long try_read_at(char **object)
{
	return opened_at(atoi(object[0]), object[1], O_RDONLY);
}

static long try_fchdir(char **object)
{
	int before = open(".", O_PATH | O_CLOEXEC);
	long result;

	if (fchdir(atoi(object[0])) < 0)
		return -1;
	result = opened_at(AT_FDCWD, object[1], O_RDONLY);
	return fchdir(before) < 0 ? -2 : result;
}

/* From a folder that comes over a socket: `received 3 name`. */
static long try_received(char **object)
{
	char byte, space[CMSG_SPACE(sizeof(int))];
	struct iovec data = {&byte, 1};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
	int folder = -1;

	if (recvmsg(atoi(object[0]), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT | MSG_PEEK) < 0 || !CMSG_FIRSTHDR(&message))
		return -2;
	memcpy(&folder, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof folder);
	return opened_at(folder, object[1], O_RDONLY);
}

static long try_chmod(char **object)
{
	return chmod(object[0], (mode_t)strtol(object[1], NULL, 8));
}

/* Born with its mode, and without a call that changes it. */
static long try_born(char **object)
{
	struct stat found;
	int fd;

	unlink(object[0]);
	umask(0);
	fd = open(object[0], O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, (mode_t)strtol(object[1], NULL, 8));
	if (fd < 0 || fstat(fd, &found) < 0)
		return -1;
	close(fd);
	return (found.st_mode & 07777) == (mode_t)strtol(object[1], NULL, 8) ? 0 : -2;
}

/* 0: set-uid bits count in the file system. */
static long try_set_uid_counts(char **object)
{
	struct statvfs found;

	if (statvfs(object[0], &found) < 0)
		return -2;
	errno = EPERM;
	return found.f_flag & ST_NOSUID ? -1 : 0;
}

/* 0: the program runs as that user. It is this one, set-uid. */
static long try_runs_as(char **object)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		char *const words[] = {object[0], "euid", object[1], NULL};

		if (!freopen("/dev/null", "w", stdout))
			_exit(255);
		execv(object[0], words);
		_exit(255);
	}
	waitpid(pid, &status, 0);
	errno = EPERM;
	if (!WIFEXITED(status) || WEXITSTATUS(status) > 1)
		return -2;
	return WEXITSTATUS(status) ? -1 : 0;
}

static long try_euid(char **object)
{
	if (geteuid() != (uid_t)atoi(object[0]))
		exit(1);
	return 0;
}

/* ---- processes ---- */

static long try_signal(char **object)
{
	return kill(atoi(object[0]), atoi(object[1]));
}

/* To its own group, itself left out. */
static long try_signal_group(char **object)
{
	signal(atoi(object[0]), SIG_IGN);
	return kill(0, atoi(object[0]));
}

static long try_own_child(char **object)
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		for (;;)
			pause();
	if (kill(pid, atoi(object[0])) < 0)
		return -1;
	waitpid(pid, &status, 0);
	return WIFSIGNALED(status) ? 0 : -2;
}

static long try_limits(char **object)
{
	struct rlimit found;

	return prlimit(atoi(object[0]), RLIMIT_CORE, NULL, &found);
}

static long try_affinity(char **object)
{
	unsigned long mask[16];

	return syscall(SYS_sched_getaffinity, atoi(object[0]), sizeof mask, mask) < 0 ? -1 : 0;
}

static long try_pidfd(char **object)
{
	long fd = syscall(SYS_pidfd_open, atoi(object[0]), 0);

	return fd < 0 ? -1 : close((int)fd);
}

/* Of the init's parent: the supervisor, where its processes are shared. */
static long try_supervisor(char **object)
{
	char path[64], line[256];
	FILE *status;
	int parent = 0;

	snprintf(path, sizeof path, "/proc/%d/status", getppid());
	status = fopen(path, "re");
	while (status && !parent && fgets(line, sizeof line, status))
		sscanf(line, "PPid: %d", &parent);
	if (!status || parent < 1)
		return -2;
	fclose(status);
	snprintf(path, sizeof path, "/proc/%d/%s", parent, object[0]);
	return opened_at(AT_FDCWD, path, O_RDONLY);
}

/* 0: the session is one of the sandbox's PID namespace; any other has the number 0 there. */
static long try_own_session(char **object)
{
	(void)object;
	errno = EPERM;
	return getsid(0) > 0 ? 0 : -1;
}

static long try_foreign_session(char **object)
{
	errno = EPERM;
	return try_own_session(object) < 0 ? 0 : -1;
}

/* 0: it has a capability, or could still get one. */
static long try_capable(char **object)
{
	FILE *status = fopen("/proc/self/status", "re");
	unsigned long long set, all = 0;
	char line[256];

	(void)object;
	while (status && fgets(line, sizeof line, status))
		if (sscanf(line, "Cap%*3c: %llx", &set) == 1)
			all |= set;
	if (!status || fclose(status))
		return -2;
	errno = EPERM;
	return all ? 0 : -1;
}

/* 0: the namespace is the one with that inode number. */
static long try_namespace(char **object)
{
	char path[64];
	struct stat found;

	snprintf(path, sizeof path, "/proc/self/ns/%s", object[0]);
	if (stat(path, &found) < 0)
		return -2;
	errno = ENOENT;
	return found.st_ino == (ino_t)atoll(object[1]) ? 0 : -1;
}

static long try_hostname(char **object)
{
	char name[256];

	errno = ENOENT;
	return gethostname(name, sizeof name) == 0 && strcmp(name, object[0]) == 0 ? 0 : -1;
}

/* 0: the soft limit is that one. */
static long try_limit(char **object)
{
	struct rlimit found;

	if (getrlimit(atoi(object[0]), &found) < 0)
		return -2;
	errno = ENOENT;
	return found.rlim_cur == strtoull(object[1], NULL, 10) ? 0 : -1;
}

/* ---- network ---- */

static long connected(int family, int type, const void *address, socklen_t size)
{
	int fd = socket(family, type | SOCK_CLOEXEC, 0);
	long result;

	if (fd < 0)
		return -2;
	result = connect(fd, address, size);
	if (result == 0 && type == SOCK_DGRAM)
		result = send(fd, "inside", 6, 0) < 0 ? -1 : 0;
	close(fd);
	return result;
}

static long with_port(int type, const char *port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return connected(AF_INET, type, &address, sizeof address);
}

static long try_tcp(char **object)
{
	return with_port(SOCK_STREAM, object[0]);
}

static long try_udp(char **object)
{
	return with_port(SOCK_DGRAM, object[0]);
}

static long try_unix(char **object)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	strncpy(address.sun_path, object[0], sizeof address.sun_path - 1);
	return connected(AF_UNIX, SOCK_STREAM, &address, sizeof address);
}

static long try_abstract(char **object)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	strncpy(address.sun_path + 1, object[0], sizeof address.sun_path - 2);
	return connected(AF_UNIX, SOCK_STREAM, &address, (socklen_t)(sizeof(sa_family_t) + 1 + strlen(object[0])));
}

/* To a listener of its own. */
static long try_own_tcp(char **object)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t size = sizeof address;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char port[8];

	(void)object;
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(fd, (struct sockaddr *)&address, size) < 0 || listen(fd, 1) < 0)
		return -1;
	getsockname(fd, (struct sockaddr *)&address, &size);
	snprintf(port, sizeof port, "%d", ntohs(address.sin_port));
	return with_port(SOCK_STREAM, port);
}

/* ---- IPC: find, make or drop an object ---- */

static int creating(const char *verb)
{
	return strcmp(verb, "make") == 0 ? IPC_CREAT | IPC_EXCL | 0600 : 0;
}

static long try_shm(char **object)
{
	int id = shmget(atoi(object[1]), 1, creating(object[0]));

	return id < 0 ? -1 : strcmp(object[0], "drop") == 0 ? shmctl(id, IPC_RMID, NULL) : 0;
}

static long try_sem(char **object)
{
	int id = semget(atoi(object[1]), 1, creating(object[0]));

	return id < 0 ? -1 : strcmp(object[0], "drop") == 0 ? semctl(id, 0, IPC_RMID) : 0;
}

static long try_msg(char **object)
{
	int id = msgget(atoi(object[1]), creating(object[0]));

	return id < 0 ? -1 : strcmp(object[0], "drop") == 0 ? msgctl(id, IPC_RMID, NULL) : 0;
}

static long try_mq(char **object)
{
	mqd_t queue;

	if (strcmp(object[0], "drop") == 0)
		return mq_unlink(object[1]);
	queue = mq_open(object[1], creating(object[0]) ? O_RDWR | O_CREAT | O_EXCL : O_RDWR, 0600, NULL);
	return queue < 0 ? -1 : mq_close(queue);
}

static long try_posix_shm(char **object)
{
	int fd;

	if (strcmp(object[0], "drop") == 0)
		return shm_unlink(object[1]);
	fd = shm_open(object[1], creating(object[0]) ? O_RDWR | O_CREAT | O_EXCL : O_RDWR, 0600);
	return fd < 0 ? -1 : close(fd);
}

static const struct verb {
	const char *name;
	int objects;
	long (*call)(char **object);
} verbs[] = {
	{"read", 1, try_read},
	{"write", 1, try_write},
	{"create", 1, try_create},
	{"exists", 1, try_exists},
	{"touch", 1, try_touch},
	{"link", 2, try_link},
	{"through-link", 2, try_through_link},
	{"read-at", 2, try_read_at},
	{"fchdir", 2, try_fchdir},
	{"received", 2, try_received},
	{"chmod", 2, try_chmod},
	{"born", 2, try_born},
	{"set-uid-counts", 1, try_set_uid_counts},
	{"runs-as", 2, try_runs_as},
	{"euid", 1, try_euid},
	{"signal", 2, try_signal},
	{"signal-group", 1, try_signal_group},
	{"own-child", 1, try_own_child},
	{"limits", 1, try_limits},
	{"affinity", 1, try_affinity},
	{"pidfd", 1, try_pidfd},
	{"supervisor", 1, try_supervisor},
	{"own-session", 0, try_own_session},
	{"foreign-session", 0, try_foreign_session},
	{"capable", 0, try_capable},
	{"namespace", 2, try_namespace},
	{"hostname", 1, try_hostname},
	{"limit", 2, try_limit},
	{"tcp", 1, try_tcp},
	{"udp", 1, try_udp},
	{"unix", 1, try_unix},
	{"abstract", 1, try_abstract},
	{"own-tcp", 0, try_own_tcp},
	{"shm", 2, try_shm},
	{"sem", 2, try_sem},
	{"msg", 2, try_msg},
	{"mq", 2, try_mq},
	{"posix-shm", 2, try_posix_shm},
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

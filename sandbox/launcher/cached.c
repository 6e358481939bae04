/* cached.c: plans that were made before: which start one is for, and whether it still is. Nothing here fails: what does not
 * fit is no plan, and Python makes one. */
#include "cached.h"

#include "sha256.h"
#include "sys.h"
#include "text.h"

#include <linux/mman.h>
#include <linux/stat.h>

#define CACHE_MAGIC "SBXCACH1"

enum { MAX_ENTRY = PLAN_MAX_SIZE + (4 << 20), CHUNK = 4096 };

/* Kinds of what an entry depends on: a file's content; that there is nothing; what a folder, link or file is, and whose;
 * that a library, a folder's list or a file that said nothing is the same. */
enum { DEPENDS_CONTENT = 1, DEPENDS_ABSENT = 2, DEPENDS_OWNER = 3, DEPENDS_VERSION = 4 };

struct cache_header {
	char magic[8];
	uint64_t checksum;
	uint32_t size, dependencies; /* number of those, which follow; then the template */
	uint32_t plan, plan_size, notice_size; /* the notice stands behind the template */
	uint32_t reserved;
	unsigned char key[KEY_SIZE];
};

struct dependency {
	uint32_t kind, path_size; /* of the path with its NUL; data stands behind it, and zeros up to a multiple of 8 */
	uint64_t data_size;
};

struct owner {
	uint64_t device, inode;
	uint32_t mode, user;
};

struct version {
	uint64_t device, inode, size;
	uint64_t changed, changed_ns, status, status_ns;
};

_Static_assert(sizeof(struct cache_header) == 72 && sizeof(struct dependency) == 16, "docs/template-format.md");
_Static_assert(sizeof(struct owner) == 24 && sizeof(struct version) == 56, "docs/template-format.md");

/* Those that a plan is made from, besides all that begin with the words below: caller.py, carried.py, build.py,
 * profile_files.py. What a profile keeps of others is taken from the environment at the start. */
static const char *const variables[] = {
	"PATH", "HOME", "XDG_RUNTIME_DIR", "TMPDIR", "XDG_CONFIG_HOME",
	"LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "LISTEN_PIDFDID", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "FPM_SOCKETS",
	"MAKEFLAGS", "MFLAGS", "CARGO_MAKEFLAGS", "NODE_CHANNEL_FD", "WAYLAND_SOCKET", "NGINX", "GUNICORN_FD", "UNICORN_FD",
	"APT_HOOK_INFO_FD", "SANDBOX_PASS_FDS",
};
static const char *const starts[] = {"SANDBOX_FD_", "PYTHON", "LD_"};

static void add_text(struct sha256 *hash, const char *text)
{
	sha256_add(hash, text, text_length(text) + 1);
}

static bool counts(const char *variable)
{
	for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++)
		if (text_starts(variable, starts[i]))
			return true;
	for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++)
		if (text_starts(variable, variables[i]) && variable[text_length(variables[i])] == '=')
			return true;
	return false;
}

/* Which build of ours: the wheel's files are new ones at each installation. */
static bool add_own_version(struct sha256 *hash)
{
	struct stat status;
	struct version own = {0};

	if (sys2(__NR_stat, addr("/proc/self/exe"), addr(&status)) < 0)
		return false;
	own = (struct version){status.st_dev, status.st_ino, (uint64_t)status.st_size, (uint64_t)status.st_mtime,
			       (uint64_t)status.st_mtime_nsec, (uint64_t)status.st_ctime, (uint64_t)status.st_ctime_nsec};
	sha256_add(hash, &own, sizeof own);
	return true;
}

bool cached_key(unsigned char key[KEY_SIZE], const struct facts *facts)
{
	struct sha256 hash;
	const int64_t numbers[] = {sys0(__NR_getuid),  facts->uid,	       sys0(__NR_getgid),    facts->gid,
				   facts->interactive, facts_is_terminal(2), facts->landlock_abi};

	sha256_begin(&hash);
	add_text(&hash, CACHE_MAGIC);
	if (!*facts->cwd || !add_own_version(&hash))
		return false;
	sha256_add(&hash, numbers, sizeof numbers);
	add_text(&hash, facts->cwd);
	for (char **argument = facts->arguments; *argument; argument++) {
		add_text(&hash, "argument");
		add_text(&hash, *argument);
	}
	for (char **variable = facts->environment; *variable; variable++) {
		if (counts(*variable)) {
			add_text(&hash, "variable");
			add_text(&hash, *variable);
		}
	}
	sha256_end(&hash, key);
	return true;
}

void cached_key_text(char text[KEY_TEXT], const unsigned char key[KEY_SIZE])
{
	for (int i = 0; i < KEY_SIZE; i++) {
		text[2 * i] = "0123456789abcdef"[key[i] >> 4];
		text[2 * i + 1] = "0123456789abcdef"[key[i] & 15];
	}
	text[2 * KEY_SIZE] = '\0';
}

/* Nobody but us and root can put anything else there. In a folder with the sticky bit only owners replace entries. */
static bool is_ours(const struct stat *status, uint32_t user)
{
	bool sticky = (status->st_mode & S_IFMT) == S_IFDIR && status->st_mode & S_ISVTX;

	return (status->st_uid == user || status->st_uid == 0) && (sticky || !(status->st_mode & (S_IWGRP | S_IWOTH)));
}

/* Walk to a folder by descriptors, one component after the other, none of them a link. Returns it, or -1. */
static int open_trusted(const char *path, uint32_t user)
{
	int folder = sys_open("/", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
	struct stat status;
	char part[256];

	while (folder >= 0) {
		size_t length = 0;
		int next;

		if (sys2(__NR_fstat, folder, addr(&status)) < 0 || !is_ours(&status, user))
			break;
		while (*path == '/')
			path++;
		if (!*path)
			return folder;
		while (*path && *path != '/' && length < sizeof part - 1)
			part[length++] = *path++;
		part[length] = '\0';
		next = (int)sys4(__NR_openat, folder, addr(part), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
		sys_close(folder);
		folder = next;
	}
	if (folder >= 0)
		sys_close(folder);
	return -1;
}

/* Whose folder it is by the XDG Base Directory Specification: a relative one is to be ignored. */
static int open_cache(const struct facts *facts)
{
	const char *cache = facts_variable(facts->environment, "XDG_CACHE_HOME"), *rest = "/sandbox";
	char path[FACT_PATH];
	size_t length;

	if (!cache || *cache != '/') {
		cache = facts_variable(facts->environment, "HOME");
		rest = "/.cache/sandbox";
	}
	length = cache ? text_length(cache) : 0;
	if (!cache || *cache != '/' || length + text_length(rest) >= sizeof path)
		return -1;
	__builtin_memcpy(path, cache, length);
	__builtin_memcpy(path + length, rest, text_length(rest) + 1);
	return open_trusted(path, facts->uid);
}

static const void *map_entry(int folder, const char *name, uint32_t user, size_t *size)
{
	int fd = (int)sys4(__NR_openat, folder, addr(name), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0);
	struct stat status;
	long mapped = -1;

	if (fd < 0)
		return NULL;
	if (sys2(__NR_fstat, fd, addr(&status)) == 0 && (status.st_mode & S_IFMT) == S_IFREG && status.st_uid == user &&
	    is_ours(&status, user) && status.st_size >= (long)sizeof(struct cache_header) && status.st_size <= MAX_ENTRY &&
	    status.st_size % 8 == 0) {
		*size = (size_t)status.st_size;
		mapped = sys6(__NR_mmap, 0, status.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
	}
	sys_close(fd);
	return mapped < 0 && mapped >= -SYS_MAX_ERRNO ? NULL : (const void *)mapped;
}

static bool same_content(const char *path, const char *data, uint64_t size)
{
	int fd = sys_open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0);
	char chunk[CHUNK];
	struct stat status;
	bool same;

	if (fd < 0)
		return false;
	same = sys2(__NR_fstat, fd, addr(&status)) == 0 && (status.st_mode & S_IFMT) == S_IFREG;
	while (same) {
		long found = sys_read(fd, chunk, sizeof chunk);

		if (found <= 0) {
			same = found == 0 && size == 0;
			break;
		}
		same = (uint64_t)found <= size && text_same(chunk, data, (size_t)found);
		data += found;
		size -= (uint64_t)found;
	}
	sys_close(fd);
	return same;
}

static bool is_absent(const char *path)
{
	struct stat status;
	long failed = sys2(__NR_lstat, addr(path), addr(&status));

	return failed == -ENOENT || failed == -ENOTDIR;
}

static bool same_owner(const char *path, const struct owner *known)
{
	struct stat status;

	return sys2(__NR_lstat, addr(path), addr(&status)) == 0 && status.st_dev == known->device && status.st_ino == known->inode &&
	       status.st_mode == known->mode && status.st_uid == known->user;
}

static bool same_version(const char *path, const struct version *known)
{
	struct stat status;

	return sys2(__NR_stat, addr(path), addr(&status)) == 0 && status.st_dev == known->device && status.st_ino == known->inode &&
	       (uint64_t)status.st_size == known->size && (uint64_t)status.st_mtime == known->changed &&
	       status.st_mtime_nsec == known->changed_ns && (uint64_t)status.st_ctime == known->status &&
	       status.st_ctime_nsec == known->status_ns;
}

static bool still_holds(const struct dependency *dependency, const char *path, const char *data)
{
	switch (dependency->kind) {
	case DEPENDS_CONTENT: return same_content(path, data, dependency->data_size);
	case DEPENDS_ABSENT: return is_absent(path);
	case DEPENDS_OWNER: return dependency->data_size == sizeof(struct owner) && same_owner(path, (const void *)data);
	case DEPENDS_VERSION: return dependency->data_size == sizeof(struct version) && same_version(path, (const void *)data);
	default: return false;
	}
}

static size_t rounded(uint64_t size)
{
	return (size_t)(size + 7) & ~(size_t)7;
}

static bool all_hold(const struct cache_header *header)
{
	const char *next = (const char *)(header + 1), *end = (const char *)header + header->plan;

	for (uint32_t left = header->dependencies; left > 0; left--) {
		const struct dependency *dependency = (const void *)next;
		const char *path = (const char *)(dependency + 1), *data;

		if (end - next < (long)sizeof *dependency)
			return false;
		if (!dependency->path_size || dependency->path_size > FACT_PATH || dependency->data_size > MAX_ENTRY ||
		    rounded(dependency->path_size) + rounded(dependency->data_size) > (size_t)(end - path) ||
		    path[dependency->path_size - 1] != '\0')
			return false;
		data = path + rounded(dependency->path_size);
		if (!still_holds(dependency, path, data))
			return false;
		next = data + rounded(dependency->data_size);
	}
	return next == end;
}

static bool is_whole(const struct cache_header *header, size_t size, const unsigned char key[KEY_SIZE])
{
	return text_same(header->magic, CACHE_MAGIC, sizeof header->magic) && header->size == size &&
	       text_same((const char *)header->key, (const char *)key, KEY_SIZE) && header->plan >= sizeof *header &&
	       header->plan % 8 == 0 && header->plan <= size && header->plan_size <= size - header->plan &&
	       header->notice_size <= size - header->plan - header->plan_size && header->reserved == 0 &&
	       plan_checksum(header, size, offsetof(struct cache_header, checksum)) == header->checksum;
}

bool cached_find(struct cached *found, const unsigned char key[KEY_SIZE], const struct facts *facts)
{
	int folder = open_cache(facts);
	const struct cache_header *header = NULL;
	char name[KEY_TEXT];

	cached_key_text(name, key);
	if (folder >= 0) {
		header = map_entry(folder, name, facts->uid, &found->size);
		sys_close(folder);
	}
	found->bytes = header;
	if (!header || !is_whole(header, found->size, key) || !all_hold(header))
		return false;
	found->notice = (const char *)header + header->plan + header->plan_size;
	found->notice_size = header->notice_size;
	return !plan_check_template(&found->template, (const char *)header + header->plan, header->plan_size);
}

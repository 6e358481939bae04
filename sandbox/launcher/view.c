/* view.c: the file view: what the plan names, in the order of the real paths, put into an empty root. */
#include "view.h"

#include "fd.h"
#include "mount.h"
#include "report.h"
#include "sys.h"
#include "text.h"

#include <linux/openat2.h>
#include <linux/stat.h>

#define MNT_DETACH 2 /* include/linux/fs.h */

enum { PATH_SIZE = 4096, TEXT_ROOM = 1 << 17 };
enum { DEVICES_KIB = 64, HIDDEN_KIB = 256 };

struct entry {
	const struct op *op;
	const char *path; /* the real one: no symlink of the host is on it */
	int source;	  /* what is there, O_PATH; -1 where it does not matter */
	uint32_t kind;	  /* 0: another entry of the same path does it */
	uint32_t mode;	  /* of source */
	uint16_t flags;
	uint64_t device; /* of a new file system, in which mount points may be made; 0 otherwise */
};

/* Apart from what has a value at the start, so that the file holds none of them. */
static struct entry all_entries[MAX_MOUNTS + MAX_TEXT_FILES + 1];
static char all_texts[TEXT_ROOM];

static struct view {
	int root;	  /* the view's root; -1 until it is made */
	bool own;	  /* the root is ours, and not the host's */
	uint64_t device;  /* of the root, if it is ours */
	int devices;	  /* a /dev that is a mount of its own, or -1 */
	int hidden;	  /* where the hidden ones are made, or -1 */
	int hidden_folder, hidden_file;
	int socket; /* what the command tells a service manager comes there, or -1 */
	bool filled;
	uint32_t count;
	struct entry *const entries;
	char *const texts; /* the real paths that are not in the plan */
	size_t used;
} view = {.root = -1, .devices = -1, .hidden = -1, .hidden_folder = -1, .hidden_file = -1, .socket = -1,
	  .entries = all_entries, .texts = all_texts};

static int open_at(int folder, const char *path, uint64_t flags, uint64_t resolve)
{
	const struct open_how how = {.flags = flags | O_PATH | O_CLOEXEC, .resolve = resolve};

	int fd = (int)sys4(__NR_openat2, folder, addr(path), addr(&how), sizeof how);

	if (fd == -ENOSYS)
		fail(op_index(plan_find(reporter.plan, OP_MOUNT)), REASON_NO_OPENAT2, 0);
	return fd;
}

static _Noreturn void fail_entry(const struct entry *entry, int error)
{
	fail(op_index(entry->op), error, 0);
}

static const char *declared(const struct entry *entry)
{
	return op_text(reporter.plan, entry->op);
}

/* A path without empty parts, "." and ".."; sorting and comparing rely on it. */
static bool is_normal(const char *path)
{
	if (path[1] == '\0')
		return true;
	for (; *path; path++) {
		if (*path != '/')
			continue;
		if (path[1] == '\0' || path[1] == '/')
			return false;
		if (path[1] == '.' && (path[2] == '\0' || path[2] == '/'))
			return false;
		if (path[1] == '.' && path[2] == '.' && (path[3] == '\0' || path[3] == '/'))
			return false;
	}
	return true;
}

static bool lies_in(const char *path, const char *folder)
{
	size_t length = text_length(folder);

	return length == 1 || (text_starts(path, folder) && path[length] == '/');
}

/* The order of paths part by part, so that a folder is followed by all that lies in it. */
static bool comes_before(const char *left, const char *right)
{
	while (*left && *left == *right)
		left++, right++;
	return (*left == '/' ? 1 : (unsigned char)*left) < (*right == '/' ? 1 : (unsigned char)*right);
}

/* ---- what the plan names, on the host ---- */

static const char *real_path(const struct entry *entry, int fd, const char *rest)
{
	char link[NUMBERED_PATH];
	char *text = view.texts + view.used;
	size_t room = TEXT_ROOM - view.used, length = text_length(rest);
	long size;

	fd_link(link, fd);
	size = must(entry->op, sys4(__NR_readlinkat, AT_FDCWD, addr(link), addr(text), (long)room));
	if (text[0] != '/')
		fail_entry(entry, ENOENT);
	if (size == 1 && length > 0)
		size = 0; /* the root, and rest begins with a slash */
	if ((size_t)size + length >= room)
		fail_entry(entry, ENAMETOOLONG);
	__builtin_memcpy(text + size, rest, length + 1);
	view.used += (size_t)size + length + 1;
	return text;
}

/* Open what the path leads to, and find its real path when there are symlinks on the way. */
static int open_source(struct entry *entry)
{
	const char *path = entry->path;
	int fd = open_at(AT_FDCWD, path, 0, RESOLVE_NO_SYMLINKS);

	if (fd != -ELOOP)
		return fd;
	fd = open_at(AT_FDCWD, path, 0, 0);
	if (fd >= 0)
		entry->path = real_path(entry, fd, "");
	return fd;
}

/* A new file system needs nothing at its path; what is there of the folders above may still have symlinks. */
static void resolve_folders(struct entry *entry)
{
	static char start[PATH_SIZE];
	const char *path = entry->path;
	size_t end = text_length(path);
	int fd;

	if (end >= sizeof start)
		fail_entry(entry, ENAMETOOLONG);
	__builtin_memcpy(start, path, end + 1);
	while (end > 1) {
		start[end] = '\0';
		fd = open_at(AT_FDCWD, start, 0, RESOLVE_NO_SYMLINKS);
		if (fd == -ELOOP) {
			fd = open_at(AT_FDCWD, start, 0, 0);
			if (fd >= 0)
				entry->path = real_path(entry, fd, path + end);
		}
		if (fd >= 0) {
			sys_close(fd);
			return;
		}
		while (start[--end] != '/')
			;
	}
}

/* Nobody would see what covers the host's root: we stand below it already. */
static bool may_be_root(const struct plan *plan, const struct entry *entry)
{
	return entry->path[1] != '\0' || (plan_find(plan, OP_ROOT) && entry->kind != MOUNT_HIDE);
}

/* Whether the entry is about what is at its path; a tmpfs is only if it is to be left out where nothing is. */
static bool has_source(const struct entry *entry)
{
	switch (entry->kind) {
	case MOUNT_BIND:
	case MOUNT_COPY:
	case MOUNT_HIDE:
	case MOUNT_TEXT: return true;
	case MOUNT_TMPFS: return entry->flags & MOUNT_OPTIONAL;
	default: return false;
	}
}

static void add_entry(const struct plan *plan, const struct op *op)
{
	struct entry *entry = &view.entries[view.count];
	struct stat status;

	*entry = (struct entry){.op = op, .path = op_text(plan, op), .source = -1, .kind = op->a, .flags = op->flags};
	if (op->code == OP_TEXT_FILE)
		entry->kind = MOUNT_TEXT;
	if (op->code == OP_MANAGER)
		entry->kind = MOUNT_SOCKET;
	if (!is_normal(entry->path) || !may_be_root(plan, entry))
		fail_entry(entry, EINVAL);
	if (entry->kind == MOUNT_TMPFS || entry->kind == MOUNT_SOCKET)
		resolve_folders(entry);
	if (has_source(entry)) {
		entry->source = open_source(entry);
		if (entry->flags & MOUNT_OPTIONAL &&
		    (entry->source == -ENOENT || entry->source == -ENOTDIR || entry->source == -EACCES))
			return;
		if (entry->kind == MOUNT_TEXT && entry->source == -ENOENT) { /* in a folder of ours it can be made */
			view.count++;
			return;
		}
		must(op, entry->source);
		must(op, sys2(__NR_fstat, entry->source, addr(&status)));
		entry->mode = status.st_mode;
	}
	view.count++;
}

/* Of one path's entries the strongest kind stays, and has the rights of all: socket, text, hide, copy, tmpfs, bind. */
static void merge(struct entry *first, struct entry *second)
{
	struct entry *stays = second->kind > first->kind ? second : first;
	struct entry *goes = stays == first ? second : first;

	stays->flags |= goes->flags & (MOUNT_WRITE | MOUNT_EXECUTE);
	goes->kind = 0;
}

static bool by_path(const struct entry *left, const struct entry *right)
{
	return comes_before(left->path, right->path);
}

static bool by_declared(const struct entry *left, const struct entry *right)
{
	return comes_before(declared(left), declared(right));
}

/* The plan is nearly sorted, so insertion is quick. Equal ones keep their order. */
static void sort(bool (*before)(const struct entry *left, const struct entry *right))
{
	for (uint32_t i = 1; i < view.count; i++) {
		struct entry moved = view.entries[i];
		uint32_t at = i;

		for (; at > 0 && before(&moved, &view.entries[at - 1]); at--)
			view.entries[at] = view.entries[at - 1];
		view.entries[at] = moved;
	}
}

/* In the order of the real paths: what a symlink leads to may lie in a folder that comes later in the plan, and a mount
 * there would cover this one. */
static void sort_entries(void)
{
	struct entry *last = NULL;

	sort(by_path);
	for (uint32_t i = 0; i < view.count; i++) {
		struct entry *entry = &view.entries[i];

		if (last && text_equal(last->path, entry->path))
			merge(last, entry);
		if (entry->kind)
			last = entry;
	}
}

/* ---- places in the view ---- */

/* Whether files may be made in a folder: it is in a file system that is new here, and not the host's. */
static bool is_ours(const struct entry *entry, int folder)
{
	struct stat status;

	if (folder == view.root && view.own)
		return true;
	must(entry->op, sys2(__NR_fstat, folder, addr(&status)));
	if (view.own && status.st_dev == view.device)
		return true;
	for (uint32_t i = 0; i < view.count; i++)
		if (view.entries[i].device == status.st_dev)
			return true;
	return false;
}

static void release(int folder)
{
	if (folder != view.root)
		sys_close(folder);
}

/* Make folders from `at` down, one for each part that `path` still has. */
static int make_folders(const struct entry *entry, int at, char *path)
{
	while (*path) {
		char *next = path;
		int below;

		while (*next && *next != '/')
			next++;
		if (*next)
			*next++ = '\0';
		if (!is_ours(entry, at))
			fail_entry(entry, ENOENT);
		must(entry->op, sys3(__NR_mkdirat, at, addr(path), 0755));
		below = (int)must(entry->op, open_at(at, path, O_DIRECTORY | O_NOFOLLOW, 0));
		release(at);
		at = below;
		path = next;
	}
	return at;
}

/* Open the folder that holds `path`, and make what is missing on the way. name: the last part. To be released. */
static int open_folder(const struct entry *entry, const char *path, uint64_t resolve, const char **name)
{
	static char start[PATH_SIZE];
	size_t end = text_length(path), length;
	int fd;

	while (path[end - 1] != '/')
		end--;
	*name = path + end;
	if (end == 1)
		return view.root;
	if (end > sizeof start)
		fail_entry(entry, ENAMETOOLONG);
	length = end - 2; /* without the slashes at both ends */
	__builtin_memcpy(start, path + 1, length);
	start[length] = '\0';
	for (end = length;;) {
		fd = open_at(view.root, start, O_DIRECTORY, resolve | RESOLVE_IN_ROOT);
		if (fd != -ENOENT)
			break;
		while (end > 0 && start[--end] != '/')
			;
		if (end == 0) {
			fd = view.root;
			break;
		}
		start[end] = '\0';
	}
	must(entry->op, fd);
	if (end == length)
		return fd;
	for (size_t at = 0; at < length; at++)
		if (start[at] == '\0')
			start[at] = '/';
	return make_folders(entry, fd, start + (end ? end + 1 : 0));
}

static void make_mount_point(const struct entry *entry, int folder, const char *name, bool is_folder)
{
	int failed = is_folder ? (int)sys3(__NR_mkdirat, folder, addr(name), 0755)
			       : (int)sys4(__NR_mknodat, folder, addr(name), S_IFREG | 0644, 0);

	if (failed != -EEXIST)
		must(entry->op, failed);
}

/* Move a mount to its place. Takes the descriptor over. */
static void attach(const struct entry *entry, int mount, bool is_folder)
{
	const char *name;
	int folder;

	if (entry->path[1] == '\0') { /* the host's whole tree becomes the root; only ever the first one */
		mount_move(entry->op, mount, AT_FDCWD, "/");
		view.root = mount;
		return;
	}
	folder = open_folder(entry, entry->path, RESOLVE_NO_SYMLINKS, &name);
	if (is_ours(entry, folder))
		make_mount_point(entry, folder, name, is_folder);
	mount_move(entry->op, mount, folder, name);
	release(folder);
	sys_close(mount);
}

/* ---- the kinds of entries ---- */

/* The folder of the view that an entry lies in, and that is an entry itself; NULL: only the root. */
static const struct entry *above(const struct entry *entry)
{
	for (const struct entry *each = entry; each-- > view.entries;)
		if (each->kind && lies_in(entry->path, each->path))
			return each;
	return NULL;
}

static bool is_device(const struct entry *entry)
{
	return S_ISCHR(entry->mode) || S_ISBLK(entry->mode);
}

static void put_bind(const struct entry *entry)
{
	const uint16_t rights = MOUNT_WRITE | MOUNT_EXECUTE;
	const struct entry *folder = above(entry);
	uint64_t attributes = mount_attributes(entry->flags);

	if (is_device(entry))
		attributes &= ~(uint64_t)MOUNT_ATTR_NODEV;
	else if (folder && folder->kind == MOUNT_BIND && ((folder->flags ^ entry->flags) & rights) == 0)
		return; /* it is there already, and so */
	attach(entry, mount_clone(entry->op, entry->source, "", attributes), S_ISDIR(entry->mode));
}

static void note_device(struct entry *entry, int mount)
{
	struct stat status;

	must(entry->op, sys2(__NR_fstat, mount, addr(&status)));
	entry->device = status.st_dev;
}

static void put_new(struct entry *entry, int mount, bool is_folder)
{
	if (is_folder)
		note_device(entry, mount);
	attach(entry, mount, is_folder);
}

static void put_device(const struct entry *entry, int folder, const char *path)
{
	const uint64_t attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC; /* files, not the devices */
	const char *name = path + sizeof "/dev/" - 1;
	int mount = mount_clone(entry->op, AT_FDCWD, path, attributes);

	make_mount_point(entry, folder, name, false);
	mount_move(entry->op, mount, folder, name);
	sys_close(mount);
}

/* A folder of the root where that is ours, which is cheaper, else a file system of its own. */
static int devices_folder(struct entry *entry)
{
	const char *name;
	int folder, made;

	if (!view.own) {
		view.devices = mount_tmpfs(entry->op, 0755, DEVICES_KIB, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
		note_device(entry, view.devices);
		attach(entry, (int)must(entry->op, sys_fcntl(view.devices, F_DUPFD_CLOEXEC, 0)), true);
		return view.devices;
	}
	folder = open_folder(entry, entry->path, RESOLVE_NO_SYMLINKS, &name);
	make_mount_point(entry, folder, name, true);
	made = (int)must(entry->op, open_at(folder, name, O_DIRECTORY | O_NOFOLLOW, 0));
	release(folder);
	return made;
}

static void put_devices(struct entry *entry)
{
	static const char *const devices[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"};
	static const char *const links[][2] = {
		{"/proc/self/fd", "fd"},
		{"/proc/self/fd/0", "stdin"},
		{"/proc/self/fd/1", "stdout"},
		{"/proc/self/fd/2", "stderr"},
	};
	int folder = devices_folder(entry);

	for (size_t i = 0; i < sizeof devices / sizeof devices[0]; i++)
		put_device(entry, folder, devices[i]);
	for (size_t i = 0; i < sizeof links / sizeof links[0]; i++)
		must(entry->op, sys3(__NR_symlinkat, addr(links[i][0]), folder, addr(links[i][1])));
	if (entry->flags & MOUNT_TERMINALS) {
		int terminals = mount_terminals(entry->op);

		put_device(entry, folder, "/dev/tty");
		make_mount_point(entry, folder, "pts", true);
		mount_move(entry->op, terminals, folder, "pts");
		sys_close(terminals);
		must(entry->op, sys3(__NR_symlinkat, addr("pts/ptmx"), folder, addr("ptmx")));
	}
	if (folder != view.devices)
		sys_close(folder);
}

static void make_hidden(const struct entry *entry)
{
	if (view.hidden >= 0)
		return;
	view.hidden = mount_tmpfs(entry->op, 0700, HIDDEN_KIB, MOUNT_PLAIN);
	mount_move(entry->op, view.hidden, AT_FDCWD, "/");
}

/* A file with the op's text, which cannot be changed: its mount is read-only, and the one that is not goes away. */
static void put_text(const struct entry *entry)
{
	const char *content = declared(entry) + text_length(declared(entry)) + 1;
	char name[NUMBERED_PATH];
	int fd;

	make_hidden(entry);
	text_numbered_path(name, "text", op_index(entry->op));
	fd = (int)must(entry->op, sys4(__NR_openat, view.hidden, addr(name), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
	must(entry->op, sys_write_all(fd, content, text_length(content)));
	sys_close(fd);
	attach(entry, mount_clone(entry->op, view.hidden, name, mount_attributes(0)), false);
}

/* Who connects to the path talks to us: the socket there is ours, and not the host's of that path. */
static void put_socket(const struct entry *entry)
{
	struct {
		uint16_t family;
		char path[NUMBERED_PATH + sizeof "/manager"];
	} address = {.family = FAMILY_UNIX};
	static const char name[] = "/manager";
	size_t length;

	make_hidden(entry);
	fd_link(address.path, view.hidden);
	length = text_length(address.path);
	__builtin_memcpy(address.path + length, name, sizeof name);
	view.socket = (int)must(entry->op, sys3(__NR_socket, FAMILY_UNIX, SOCKET_DATAGRAM | O_CLOEXEC | O_NONBLOCK, 0));
	must(entry->op, sys3(__NR_bind, view.socket, addr(&address), (long)(FAMILY_SIZE + length + sizeof name)));
	attach(entry, mount_clone(entry->op, view.hidden, name + 1, mount_attributes(0)), false);
}

int view_socket(void)
{
	return view.socket;
}

/* An empty folder or file of mode 0, made once and cloned for each place. It keeps its name, since what has none cannot
 * be mounted; so it lies in a file system of its own, which then goes away. */
static int hidden_source(const struct entry *entry, bool is_folder)
{
	int *kept = is_folder ? &view.hidden_folder : &view.hidden_file;
	const char *name = is_folder ? "folder" : "file";

	if (*kept >= 0)
		return *kept;
	make_hidden(entry);
	must(entry->op, is_folder ? sys3(__NR_mkdirat, view.hidden, addr(name), 0)
				  : sys4(__NR_mknodat, view.hidden, addr(name), S_IFREG, 0));
	*kept = (int)must(entry->op, open_at(view.hidden, name, O_NOFOLLOW, 0));
	return *kept;
}

static void put_hidden(const struct entry *entry)
{
	bool is_folder = S_ISDIR(entry->mode);
	int place = open_at(view.root, entry->path + 1, O_NOFOLLOW, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS);
	int mount;

	if (place == -ENOENT || place == -ENOTDIR)
		return; /* no entry shows it */
	must(entry->op, place);
	mount = mount_clone(entry->op, hidden_source(entry, is_folder), "", mount_attributes(0));
	must(entry->op, sys5(__NR_move_mount, mount, addr(""), place, addr(""),
			     MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH));
	sys_close(place);
	sys_close(mount);
}

static void put(struct entry *entry)
{
	const struct op *op = entry->op;
	uint64_t attributes = mount_attributes(entry->flags);

	switch (entry->kind) {
	case MOUNT_BIND: put_bind(entry); break;
	case MOUNT_TMPFS: put_new(entry, mount_tmpfs(op, op->b, mount_size(op), attributes), true); break;
	case MOUNT_COPY: put_new(entry, mount_copy(op, entry->source, entry->mode, attributes), S_ISDIR(entry->mode)); break;
	case MOUNT_DEV: put_devices(entry); break;
	case MOUNT_PROC: attach(entry, mount_proc(op), true); break;
	case MOUNT_HIDE: put_hidden(entry); break;
	case MOUNT_TEXT: put_text(entry); break;
	case MOUNT_SOCKET: put_socket(entry); break;
	default: break;
	}
	if (entry->source >= 0)
		sys_close(entry->source);
}

/* Where a declared path had symlinks on it, make it lead to the real one, unless what is in the view does so. */
static void put_link(const struct entry *entry)
{
	const char *path = declared(entry), *name;
	int found = open_at(view.root, path + 1, 0, RESOLVE_IN_ROOT);
	int folder;

	if (found != -ENOENT) {
		sys_close((int)must(entry->op, found));
		return;
	}
	folder = open_folder(entry, path, 0, &name);
	if (!is_ours(entry, folder))
		fail_entry(entry, ENOENT);
	must(entry->op, sys3(__NR_symlinkat, addr(entry->path), folder, addr(name)));
	release(folder);
}

/* A folder that is a link comes before what lies in it: else it would be made for that, and be no link. */
static void put_links(void)
{
	sort(by_declared);
	for (uint32_t i = 0; i < view.count; i++)
		if (view.entries[i].op->a != MOUNT_HIDE && !text_equal(view.entries[i].path, declared(&view.entries[i])))
			put_link(&view.entries[i]);
}

/* ---- the ops ---- */

/* Without a mount namespace of our own all this would happen to the host. */
static void prepare(const struct op *op)
{
	const struct mount_attr private = {.propagation = MS_PRIVATE};
	bool own = false;

	for_ops(reporter.plan, each, OP_NAMESPACE) own = own || each->a == CLONE_NEWNS;
	if (!own)
		fail(op_index(op), EPERM, 0);
	must(op, sys5(__NR_mount_setattr, AT_FDCWD, addr("/"), AT_RECURSIVE, addr(&private), sizeof private));
	sys1(__NR_umask, 0);
}

/* Only the launcher ever writes to it, so its size needs no limit: ENTER makes it read-only. */
static void make_root(const struct op *op)
{
	struct stat status;

	view.root = mount_tmpfs(op, 0755, 0, mount_attributes(MOUNT_WRITE));
	view.own = true;
	must(op, sys2(__NR_fstat, view.root, addr(&status)));
	view.device = status.st_dev;
	mount_move(op, view.root, AT_FDCWD, "/"); /* paths still lead into the host's tree: it is under this mount */
}

static void make_read_only(const struct op *op, int mount)
{
	const struct mount_attr read_only = {.attr_set = MOUNT_ATTR_RDONLY};

	must(op, sys5(__NR_mount_setattr, mount, addr(""), AT_EMPTY_PATH, addr(&read_only), sizeof read_only));
}

/* One that is still in the host's tree, of which paths are looked up here; -1 where no entry is a folder. */
static int host_folder(void)
{
	int folder = -1;

	for (uint32_t i = 0; i < view.count && folder < 0; i++)
		if (S_ISDIR(view.entries[i].mode) && view.entries[i].path[1])
			folder = open_at(AT_FDCWD, view.entries[i].path, O_DIRECTORY, 0);
	return folder;
}

/* To below a folder of the host's tree, with which it goes (view_enter): each umount2() waits until no processor walks a
 * path (synchronize_rcu), a tenth of a start. */
static void drop_hidden(const struct op *op)
{
	int folder = plan_find(reporter.plan, OP_ROOT) ? host_folder() : -1;

	if (folder < 0) {
		mount_drop(op, view.hidden);
		return;
	}
	must(op, sys5(__NR_move_mount, view.hidden, addr(""), folder, addr(""), MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH));
	sys_close(folder);
	sys_close(view.hidden);
}

static void finish(const struct op *op)
{
	if (view.hidden_folder >= 0)
		sys_close(view.hidden_folder);
	if (view.hidden_file >= 0)
		sys_close(view.hidden_file);
	if (view.hidden >= 0)
		drop_hidden(op);
	if (view.devices >= 0) {
		make_read_only(op, view.devices);
		sys_close(view.devices);
	}
}

/* In the host's tree: the working directory is what its path leads to now, and not what lies below a mount of ours. */
static void leave_covered(const struct op *op)
{
	static char path[PATH_SIZE];
	long size = sys2(__NR_getcwd, addr(path), sizeof path);

	sys_close(view.root);
	if (size < 0 || path[0] != '/' || sys1(__NR_chdir, addr(path)) < 0)
		must(op, sys1(__NR_chdir, addr("/")));
}

void view_begin(const struct op *op)
{
	prepare(op);
}

/* All entries, at the first op. Without op ROOT they go into the host's tree, as this mount namespace has it. */
void view_mount(const struct plan *plan, const struct op *op)
{
	const struct op *root = plan_find(plan, OP_ROOT);

	if (view.filled)
		return;
	view.filled = true;
	if (!root)
		prepare(op);
	for_ops(plan, each, OP_MOUNT) add_entry(plan, each);
	for_ops(plan, each, OP_TEXT_FILE) add_entry(plan, each);
	for_ops(plan, each, OP_MANAGER) add_entry(plan, each);
	sort_entries();
	if (!root)
		view.root = (int)must(op, open_at(AT_FDCWD, "/", O_DIRECTORY, 0));
	else if (view.count == 0 || view.entries[0].path[1] != '\0')
		make_root(root);
	for (uint32_t i = 0; i < view.count; i++)
		put(&view.entries[i]);
	put_links();
	finish(op);
	if (!root)
		leave_covered(op);
}

/* The old root comes to lie over the new one, and is taken away. pivot_root(2), NOTES. */
void view_enter(const struct op *op)
{
	if (view.root < 0) /* a plan without any MOUNT */
		make_root(op);
	if (view.own)
		make_read_only(op, view.root);
	must(op, sys1(__NR_fchdir, view.root));
	must(op, sys2(__NR_pivot_root, addr("."), addr(".")));
	must(op, sys2(__NR_umount2, addr("."), MNT_DETACH));
	must(op, sys1(__NR_chdir, addr("/")));
	sys_close(view.root);
}

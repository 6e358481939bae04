/* main.c: the launcher from its start to the fork: map and check the plan, drop what it does not name, obtain what it
 * grants, fork. */
#include "main.h"

#include "attributes.h"
#include "cgroup.h"
#include "fd.h"
#include "grant.h"
#include "init.h"
#include "manager.h"
#include "message.h"
#include "namespace.h"
#include "netcall.h"
#include "probe.h"
#include "relay.h"
#include "report.h"
#include "seal.h"
#include "socket.h"
#include "supervise.h"
#include "sys.h"
#include "terminal.h"
#include "text.h"

#include <linux/memfd.h>
#include <linux/mman.h>
#include <linux/prctl.h>
#include <linux/stat.h>

void launcher_use(struct plan *plan, const void *bytes, size_t size)
{
	reporter.plan_error = plan_check(plan, bytes, size);
	if (reporter.plan_error)
		fail_step(STEP_PLAN, REASON_PLAN, 0);
	reporter.plan = plan;
	reporter.quiet = plan->header->flags & PLAN_QUIET;
	reporter.trace = plan_find(plan, OP_TRACE) ? plan_find(plan, OP_TRACE)->a : 0;
}

/* Map a sealed memfd: a plan that somebody can still write to is not a plan. */
static void map_plan(int fd, struct plan *plan)
{
	const int seals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
	int found = sys_fcntl(fd, F_GET_SEALS, 0);
	struct stat status;
	long mapped;

	if (found < 0 || (found & seals) != seals)
		fail_step(STEP_PLAN, found == -EBADF ? REASON_NO_PLAN : REASON_NOT_SEALED, 0);
	if (sys2(__NR_fstat, fd, addr(&status)) < 0 || status.st_size <= 0 || status.st_size > PLAN_MAX_SIZE) {
		reporter.plan_error = "its size is impossible";
		fail_step(STEP_PLAN, REASON_PLAN, 0);
	}
	mapped = sys6(__NR_mmap, 0, status.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
	if (mapped < 0 && mapped >= -SYS_MAX_ERRNO)
		fail_step(STEP_PLAN, (int)-mapped, 0);
	launcher_use(plan, (const void *)mapped, (size_t)status.st_size);
	sys_close(fd);
}

/* From here on failures are told on the status descriptor too. */
static void find_status(const struct plan *plan, unsigned filled)
{
	const struct op *op = plan_find(plan, OP_STATUS);

	if (!op)
		return;
	fd_require(op, op->a, filled);
	reporter.status_json = op->b == 2;
	reporter.told = op->c;
	reporter.status_fd = (int)op->a;
}

/* Move the status descriptor out of the way and keep it from the child. */
static void park_status(const struct plan *plan)
{
	const struct op *op = plan_find(plan, OP_STATUS);

	if (!op)
		return;
	reporter.status_fd = (int)must(op, fd_park(plan, (int)op->a));
	if (op->a > 2)
		sys_close((int)op->a);
}

static int watch_parent(const struct plan *plan)
{
	const struct op *op = plan_find(plan, OP_DIE_WITH_PARENT);
	int fd;

	if (!op)
		return -1;
	fd = (int)must(op, sys2(__NR_pidfd_open, op->a, 0));
	/* Asked after the pidfd is open: if it is still our parent, the pidfd is that process and no later one. */
	if (sys0(__NR_getppid) != op->a)
		fail(op_index(op), REASON_PARENT_GONE, 0);
	return fd;
}

/* All signals wait in a signalfd. SIGCHLD may have come ignored from the caller, and then nothing could be reaped. */
static int take_signals(void)
{
	uint64_t all = ~(uint64_t)0;
	long fd = sys4(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, addr(&all), 0, sizeof all);

	if (fd == 0)
		fd = sys_default_action(SIGNAL_CHILD);
	if (fd == 0)
		fd = sys4(__NR_signalfd4, -1, addr(&all), sizeof all, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		fail_step(STEP_START, (int)-fd, 0);
	return (int)fd;
}

static void raise_limit(struct rlimit64 *before)
{
	struct rlimit64 raised;
	long failed = sys4(__NR_prlimit64, 0, RLIMIT_NOFILE, 0, addr(before));

	raised = *before;
	raised.rlim_cur = raised.rlim_max;
	if (failed == 0 && raised.rlim_cur != before->rlim_cur)
		failed = sys4(__NR_prlimit64, 0, RLIMIT_NOFILE, addr(&raised), 0);
	if (failed < 0)
		fail_step(STEP_START, (int)-failed, 0);
}

static struct progress_page *shared_page(void)
{
	long page = sys6(__NR_mmap, 0, sizeof(struct progress_page), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (page < 0 && page >= -SYS_MAX_ERRNO)
		fail_step(STEP_START, (int)-page, 0);
	return (struct progress_page *)page;
}

static void obtain(const struct plan *plan, const struct op *op, char **environment)
{
	int *slots = reporter.shared->slots;

	switch (op->code) {
	case OP_STDIO: fd_check_stdio(op); return;
	case OP_INHERIT: slots[op->a] = grant_inherit(plan, op); return;
	case OP_SECRET_FILE: slots[op->a] = grant_secret_file(plan, op); return;
	case OP_SECRET_ENV: slots[op->a] = grant_secret_env(plan, op, environment); return;
	case OP_LISTEN: slots[op->a] = socket_listen(plan, op); return;
	case OP_CONNECT: slots[op->a] = socket_connect(plan, op); return;
	case OP_DATA: slots[op->a] = grant_data(plan, op); return;
	case OP_TERMINAL: terminal_keep(op); return;
	default: return;
	}
}

/* Whether the op's object is opened through a mount of its own. Pre: INHERIT ops have been carried out. */
static bool is_detached(const struct op *op)
{
	if (op->code == OP_STDIO)
		return relay_opens_anew(op, 0) || relay_opens_anew(op, 1) || relay_opens_anew(op, 2);
	if (op->code == OP_INHERIT)
		return !(op->flags & OPEN_RAW) && !relay_takes(op) && must(op, fd_type(reporter.shared->slots[op->a])) == FD_FILE;
	return op->code == OP_DIRECTORY || (op->code == OP_FILE && !(op->flags & OPEN_RAW));
}

/* A stream that cannot be opened anew is relayed. */
static void open_streams_anew(const struct plan *plan, const struct op *op)
{
	for (int stream = 0; stream < STREAMS; stream++) {
		int opened = relay_opens_anew(op, stream) ? grant_reopen(stream) : -1;

		if (opened < 0)
			continue;
		reporter.shared->streams[stream] = (int)must(op, fd_park(plan, opened));
		sys_close(opened);
	}
}

static void obtain_detached(const struct plan *plan)
{
	int *slots = reporter.shared->slots;

	for (const struct op *op = plan->ops; op < plan->ops + plan->op_count; op++) {
		if (!is_detached(op))
			continue;
		reporter.shared->op = op_index(op);
		switch (op->code) {
		case OP_STDIO: open_streams_anew(plan, op); break;
		case OP_INHERIT: slots[op->a] = grant_open_anew(plan, op, slots[op->a]); break;
		case OP_FILE: slots[op->a] = grant_file(plan, op); break;
		default: slots[op->a] = grant_directory(plan, op); break;
		}
	}
}

static void obtain_scratch(const struct plan *plan)
{
	for_ops(plan, op, OP_SCRATCH)
	{
		reporter.shared->op = op_index(op);
		reporter.shared->slots[op->a] = grant_scratch(plan, op);
	}
}

/* Who may not make mounts here may in a namespace of their own. A process that shares our descriptors does it there, and
 * ends; the mounts stay as long as what is open. first: the first op that cannot do without, or NULL. identity: the IDs
 * that a new file takes; with them come capabilities over the user's own files, so what opens any does without. */
static void obtain_apart(const struct plan *plan, const struct op *first, void (*work)(const struct plan *plan),
			 const struct start *identity)
{
	struct clone_args args = {.flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_FILES, .exit_signal = SIGNAL_CHILD};
	long pid = sys_clone(&args);
	int status = 0;

	if (pid == 0) {
		reporter.page = reporter.shared;
		reporter.ending = NULL;
		if (identity) {
			reporter.page->op = op_index(first);
			namespace_map_own(first, identity);
		}
		work(plan);
		sys_exit(0);
	}
	if (pid < 0 && !first)
		return;
	if (pid < 0)
		fail(op_index(first), REASON_NO_MOUNT, 0);
	pid = sys4(__NR_wait4, pid, addr(&status), 0, 0);
	if (pid < 0 && first)
		fail(op_index(first), (int)-pid, 0);
	if (reporter.shared->failed)
		fail_with(&reporter.shared->failure);
	if (status)
		fail(reporter.shared->op, REASON_CHILD_VANISHED, 0);
}

static void obtain_all(const struct plan *plan, const struct start *start)
{
	const struct op *first = NULL, *stdio = plan_find(plan, OP_STDIO), *scratch = plan_find(plan, OP_SCRATCH);

	__builtin_memset(reporter.shared->streams, -1, sizeof reporter.shared->streams);
	for (const struct op *op = plan->ops; op < plan->ops + plan->op_count; op++) {
		obtain(plan, op, start->environment);
		if (op->code == OP_FILE && op->flags & OPEN_RAW)
			reporter.shared->slots[op->a] = grant_file(plan, op);
		else if (!first && op != stdio && is_detached(op))
			first = op;
	}
	if (first || (stdio && is_detached(stdio))) {
		if (namespace_may_mount())
			obtain_detached(plan);
		else
			obtain_apart(plan, first, obtain_detached, NULL);
	}
	if (scratch && namespace_may_mount())
		obtain_scratch(plan);
	else if (scratch)
		obtain_apart(plan, scratch, obtain_scratch, start);
}

static int start_timer(const struct plan *plan)
{
	const struct op *op = plan_find(plan, OP_TIMEOUT);
	struct __kernel_itimerspec limit = {0};
	int fd;

	if (!op)
		return -1;
	fd = (int)must(op, sys2(__NR_timerfd_create, CLOCK_BOOTTIME, O_CLOEXEC)); /* time asleep counts */
	limit.it_value.tv_sec = op->a / 1000;
	limit.it_value.tv_nsec = op->a % 1000 * 1000000;
	must(op, sys4(__NR_timerfd_settime, fd, 0, addr(&limit), 0));
	return fd;
}

/* What must not stay behind, however the launcher ends. */
static void clean_up(void)
{
	terminal_end();
	cgroup_end();
	socket_end();
}

static long fork_init(const struct plan *plan, const struct start *start)
{
	int cgroup = cgroup_make(plan);
	struct clone_args args = {
		.flags = namespace_flags(plan) | (plan_find(plan, OP_SIGNALS) ? CLONE_CLEAR_SIGHAND : 0) |
			 (cgroup >= 0 ? CLONE_INTO_CGROUP : 0),
		.exit_signal = SIGNAL_CHILD,
		.cgroup = (unsigned)cgroup,
	};
	long pid = sys_clone(&args);

	if (pid == 0) {
		reporter.page = start->page;
		if (cgroup >= 0 && !(args.flags & CLONE_INTO_CGROUP))
			cgroup_join(plan);
		init_run(plan, start);
	}
	if (pid < 0 && namespace_flags(plan))
		namespace_refused(plan, (int)-pid);
	if (pid < 0)
		fail_step(STEP_FORK, (int)-pid, 0);
	return pid;
}

/* Map the init's IDs, and let it go on. */
static void give_identity(const struct plan *plan, const struct watched *watched, const struct start *start)
{
	const struct op *op = plan_find(plan, OP_IDENTITY);

	if (!op || !start->own_user)
		return;
	namespace_map(op, watched->init);
	must(op, sys3(__NR_write, watched->socket, addr(""), 1));
}

/* The supervisor keeps no grant, no stream but standard error, and no secret. */
static void become_supervisor(const struct plan *plan, char **environment)
{
	int null = sys_open("/dev/null", O_RDWR | O_CLOEXEC, 0);

	for_ops(plan, op, OP_INHERIT) if (op->b > 2) sys_close((int)op->b);
	for_ops(plan, op, OP_PLACE) sys_close(reporter.shared->slots[op->a]);
	relay_attach();
	grant_forget_secrets(plan, environment);
	if (null >= 0) {
		sys3(__NR_dup3, null, 0, 0);
		sys3(__NR_dup3, null, 1, 0);
		sys_close(null);
	}
}

static int near_end(const struct plan *plan, int ends[2])
{
	long failed = sys4(__NR_socketpair, 1 /* AF_UNIX */, 5 /* SOCK_SEQPACKET */ | O_CLOEXEC, 0, addr(ends));
	int parked = failed < 0 ? (int)failed : fd_park(plan, ends[1]);

	if (parked < 0)
		fail_step(STEP_START, -parked, 0);
	sys_close(ends[1]);
	return parked;
}

/* Before the fork: nobody in the sandbox must find a moment in which it can look into its supervisor or init. The
 * command's own exec makes it dumpable again. Whoever in the sandbox loses its parent stays our descendant, and so open
 * to the gate (Yama, ptrace_scope 1). */
static void become_opaque(void)
{
	long failed = sys5(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);

	if (failed == 0)
		failed = sys5(__NR_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	if (failed < 0)
		fail_step(STEP_START, (int)-failed, 0);
}

/* Nothing is started: the same ops obtain, and their descriptors go to whoever started us, a message each. */
static int obtain_only(const struct plan *plan, unsigned filled, int socket, char **environment)
{
	struct start start = {.environment = environment};

	find_status(plan, filled);
	for_ops(plan, op, OP_INHERIT) fd_require(op, op->b, filled);
	start.page = reporter.shared = shared_page();
	start.uid = (uint32_t)sys0(__NR_geteuid);
	start.gid = (uint32_t)sys0(__NR_getegid);
	obtain_all(plan, &start);
	for (const struct op *op = plan->ops; op < plan->ops + plan->op_count; op++) {
		if (op_obtains(op) && relay_takes(op))
			fail(op_index(op), REASON_NO_RELAY, 0);
		if (op_obtains(op))
			must(op, message_send(socket, MESSAGE_GRANT, (int)op->a, start.page->slots[op->a]));
	}
	return 0;
}

_Noreturn void launcher_start(const struct plan *plan, unsigned filled, char **environment)
{
	static struct watched watched;
	struct rlimit64 nofile;
	struct start start = {.environment = environment, .nofile = &nofile};
	const struct op *terminal = plan_find(plan, OP_TERMINAL);
	int ends[2];

	find_status(plan, filled);
	/* Before we open anything: nothing of ours must be taken for a descriptor that the caller has closed. */
	for_ops(plan, op, OP_INHERIT) fd_require(op, op->b, filled);
	for_ops(plan, op, OP_NETNS)
	{
		fd_require(op, op->a, filled);
		if (op->b)
			fd_require(op, op->b, filled);
	}
	raise_limit(&nofile);
	fd_drop_undeclared(plan);
	park_status(plan);
	reporter.ending = clean_up;
	reporter.is_raw = terminal_is_raw;
	watched.parent_fd = watch_parent(plan);
	watched.signal_fd = take_signals();
	start.socket = near_end(plan, ends);
	start.far_end = watched.socket = ends[0];
	start.page = reporter.shared = shared_page();
	start.uid = (uint32_t)sys0(__NR_geteuid);
	start.gid = (uint32_t)sys0(__NR_getegid);
	start.own_user = namespace_flags(plan) & CLONE_NEWUSER;
	gate_prepare(&watched.gate, plan);
	obtain_all(plan, &start);
	relay_begin(plan, reporter.shared->streams);
	manager_begin(plan);
	attributes_oom_score(plan);
	if (start.uid == 0 && !plan_find(plan, OP_IDENTITY)) /* which leaves them itself */
		namespace_leave_groups();
	become_opaque();
	watched.child_fd = -1;
	watched.terminal = terminal ? terminal->a : 0;
	watched.own_group = terminal && terminal->a != TERMINAL_INHERIT;
	namespace_enter_network(plan);
	watched.init = (int)fork_init(plan, &start);
	namespace_leave_network(plan);
	attributes_oom_keep(plan);
	watched.timer_fd = reporter.timer_fd = start_timer(plan);
	sys_close(start.socket);
	give_identity(plan, &watched, &start);
	become_supervisor(plan, environment);
	netcall_prepare(plan);
	supervise(&watched);
}

/* A network namespace for whoever started us, to be made ready: its descriptor goes over the socket, or the errno. It
 * is this process that changes its namespace, and it ends. */
static int make_network(int socket)
{
	long made = sys1(__NR_unshare, CLONE_NEWNET);
	int fd = made < 0 ? (int)made : sys_open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC, 0);

	made = message_send(socket, MESSAGE_GRANT, fd < 0 ? -fd : 0, fd);
	return made < 0 ? 125 : 0;
}

/* "/dev/fd/N" names it for the exec gate of an outer sandbox, by the protocol dev-fd. */
static long plan_number(const char *text)
{
	return text_number(text_starts(text, "/dev/fd/") ? text + sizeof "/dev/fd/" - 1 : text);
}

/* Arguments after the plan's are there for that gate only: they name the other descriptors of the plan. */
static bool are_names(char **arguments)
{
	for (; *arguments; arguments++)
		if (!text_starts(*arguments, "/dev/fd/") || plan_number(*arguments) < 0)
			return false;
	return true;
}

int launcher_main(int argc, char **argv, char **environment, bool privileged)
{
	struct plan plan;
	unsigned filled;
	bool check_only, obtains;
	long fd, socket;

	if (privileged)
		fail_step(STEP_START, REASON_PRIVILEGED, 0);
	if (seal_is_there())
		seal_run(argc, argv, environment);
	filled = fd_fill_stdio();
	if (argc == 2 && text_equal(argv[1], "--dump-abi"))
		return probe_dump_abi();
	if (argc == 2 && text_equal(argv[1], "--probe"))
		return probe_kernel();
	if (argc == 3 && text_equal(argv[1], "--network") && plan_number(argv[2]) >= FIRST_NUMBER)
		return make_network((int)plan_number(argv[2]));
	check_only = argc == 3 && text_equal(argv[1], "--check-plan");
	obtains = argc >= 4 && text_equal(argv[1], "--obtain");
	fd = argc < 2 ? -1 : plan_number(argv[check_only || obtains ? 2 : 1]);
	socket = obtains ? plan_number(argv[3]) : 0;
	if (socket < 0 || (!check_only && fd >= 0 && !are_names(argv + (obtains ? 4 : 2))))
		fd = -1;
	if (fd < (check_only ? 0 : FIRST_NUMBER)) /* a plan on 0-2 would leave a hole there */
		fail_step(STEP_USAGE, EINVAL, 0);
	map_plan((int)fd, &plan);
	if (check_only)
		return 0;
	if (obtains != !!(plan.header->flags & PLAN_OBTAIN)) {
		reporter.plan_error = "it is for another use";
		fail_step(STEP_PLAN, REASON_PLAN, 0);
	}
	if (obtains)
		return obtain_only(&plan, filled, (int)socket, environment);
	launcher_start(&plan, filled, environment);
}

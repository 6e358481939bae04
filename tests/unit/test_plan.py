"""The plan as a value: what each constructor puts into an op's fields, and the line that describes it."""

from __future__ import annotations

import dataclasses
import os
from typing import Final

import pytest

from sandbox import ops
from sandbox.grants import SAFE_TYPES, STDIO_TYPES, Access, FdType
from sandbox.plan import (
    MANDATORY,
    OBTAINING,
    RULES,
    ListenFlag,
    ListFlag,
    MountFlag,
    MountKind,
    Namespace,
    NetFlag,
    Op,
    OpCode,
    Plan,
    SocketKind,
    StatusFormat,
    Streams,
    Terminal,
    Trace,
)
from sandbox.protocols import Place, ProtocolRule, Shape
from tests.support.plans import ALLOW_ALL, full_plan, plan_for

# op, its fields (code, a, b, c, flags, data), its step, its line
TCP: Final = b"\x02\0\x1f\x90\x7f\0\0\x01" + bytes(8)
TCP6: Final = b"\x0a\0\x1f\x90" + bytes(19) + b"\x01" + bytes(4)
UNIX: Final = b"\x01\0/s\0"
TABLE: list[tuple[Op, tuple[OpCode, int, int, int, int, bytes], str, str]] = [
    (
        ops.status(9, StatusFormat.JSON), (OpCode.STATUS, 9, 2, 0, 0, b""), "status",
        "status          write json to descriptor 9",
    ),
    (
        ops.status(9, StatusFormat.RECORDS, told=Trace.EXECS), (OpCode.STATUS, 9, 1, 1, 0, b""), "status",
        "status          write records to descriptor 9, of each exec too",
    ),
    (
        ops.status(9, StatusFormat.RECORDS, told=Trace.EXECS | Trace.NETWORK),
        (OpCode.STATUS, 9, 1, 3, 0, b""), "status",
        "status          write records to descriptor 9, of each exec too, of each network call too",
    ),
    (
        ops.trace(), (OpCode.TRACE, 1, 0, 0, 0, b""), "trace", "trace           tell each exec on standard error",
    ),
    (
        ops.trace(Trace.NETWORK), (OpCode.TRACE, 2, 0, 0, 0, b""), "trace",
        "trace           tell each network call on standard error",
    ),
    (
        ops.trace(Trace.EXECS | Trace.NETWORK), (OpCode.TRACE, 3, 0, 0, 0, b""), "trace",
        "trace           tell each exec and network call on standard error",
    ),
    (
        ops.allow_list(ListFlag.UDP | ListFlag.UNGOVERNED), (OpCode.ALLOW_LIST, 5, 0, 0, 0, b""), "network",
        "allow_list      the supervisor makes sockets, and connects and binds them by these rules",
    ),
    (
        ops.net_rule(TCP, 8, (80, 90), "r"), (OpCode.NET_RULE, 8, 80, 90, 0, TCP), "network",
        "net_rule        allow tcp 127.0.0.1/8 ports 80-90",
    ),
    (
        ops.net_rule(TCP6, 128, (0, 65535), "r", NetFlag.DENY | NetFlag.UDP),
        (OpCode.NET_RULE, 128, 0, 65535, 5, TCP6), "network", "net_rule        deny udp [::1]/128 ports 0-65535",
    ),
    (
        ops.net_rule(TCP, 0, (80, 80), "r", NetFlag.BIND), (OpCode.NET_RULE, 0, 80, 80, 2, TCP), "network",
        "net_rule        bind tcp 127.0.0.1/0 ports 80-80",
    ),
    (
        ops.text_file("/etc/a b", "é\n"), (OpCode.TEXT_FILE, 0, 0, 0, 0, b"/etc/a b\0\xc3\xa9\n\0"), "view",
        "text_file       a text of 3 bytes at '/etc/a b'",
    ),
    (
        ops.manager("/run/n"), (OpCode.MANAGER, 0, 0, 0, 0, b"/run/n"), "notify",
        "manager         a socket at '/run/n'; the supervisor hands on what tells how the service is",
    ),
    (
        ops.store("a b", {FdType.MEMFD}, "grant s"), (OpCode.STORE, 8, 0, 0, 0, b"a b"), "notify",
        "store           the manager may be given, as 'a b', one of: memfd",
    ),
    (
        ops.notify_program(ALLOW_ALL * 2), (OpCode.NOTIFY, 0, 0, 0, 0, ALLOW_ALL * 2), "filter",
        "notify          ask the supervisor by 2 instructions",
    ),
    (
        ops.protocol("p", ProtocolRule(Place.VARIABLE, Shape.LIST, "--auth=", "FLAGS", anywhere=True)),
        (OpCode.PROTOCOL, 1, 2, 0, 1, b"FLAGS\0--auth=\0"), "protocol", "protocol        p: FLAGS --auth=",
    ),
    (
        ops.protocol("p", ProtocolRule(Place.PROGRAM, Shape.FIXED, program="prog", numbers=(3, 4, 31))),
        (OpCode.PROTOCOL, 4, 4, 1 << 3 | 1 << 4 | 1 << 31, 0, b"prog\0\0"), "protocol", "protocol        p: prog",
    ),
    (
        ops.protocol("p", ProtocolRule(Place.NEXT_ARGUMENT, Shape.NUMBER, "--fd")),
        (OpCode.PROTOCOL, 3, 1, 0, 0, b"\0--fd\0"), "protocol", "protocol        p: --fd",
    ),
    (
        ops.gate(), (OpCode.GATE, 0, 0, 0, 0, b""), "gate",
        "gate            close at every exec what is not declared or named",
    ),
    (
        ops.gate(observe=True), (OpCode.GATE, 1, 0, 0, 0, b""), "gate",
        "gate            report what goes along",
    ),
    (
        ops.place(3, 7, "g", propagate=True), (OpCode.PLACE, 3, 7, 0, 1, b""), "place",
        "place           slot 3 becomes descriptor 7, at every exec",
    ),
    (
        ops.die_with_parent(77), (OpCode.DIE_WITH_PARENT, 77, 0, 0, 0, b""), "parent",
        "die_with_parent end when process 77 ends",
    ),
    (
        ops.stdio([FdType.PIPE, FdType.TTY]), (OpCode.STDIO, 1 << 1 | 1 << 6, 0, 0, 0, b""), "stdio",
        "stdio           0, 1, 2 exist and are each one of: pipe, tty",
    ),
    (
        ops.stdio([FdType.TTY], Streams.SAFE), (OpCode.STDIO, 1 << 6, 0, 0, 1, b""), "stdio",
        "stdio           0, 1, 2 exist and are each one of: tty; files opened anew or relayed",
    ),
    (
        ops.stdio([FdType.TTY], Streams.RELAY, 5 << 32 | 1), (OpCode.STDIO, 1 << 6, 1, 5, 2, b""), "stdio",
        "stdio           0, 1, 2 exist and are each one of: tty; relayed; at most 21474836481 bytes of output",
    ),
    (
        ops.inherit(2, 5, frozenset({FdType.SOCKET}), None, "g"), (OpCode.INHERIT, 2, 5, 1 << 2, 0, b""), "inherit",
        "inherit         slot 2: the caller's 5, if it is one of: socket",
    ),
    (
        ops.inherit(2, 5, frozenset({FdType.FILE}), Access.APPEND, "g"), (OpCode.INHERIT, 2, 5, 1, 3, b""), "inherit",
        "inherit         slot 2: the caller's 5, if it is one of: file, append",
    ),
    (
        ops.file(1, "/a b", Access.READ, create=False, truncate=False, label="g"),
        (OpCode.FILE, 1, os.O_RDONLY, 0, 0, b"/a b"), "open", "file            slot 1: open '/a b' for read",
    ),
    (
        ops.file(1, "/a", Access.READ_WRITE, create=True, truncate=True, label="g"),
        (OpCode.FILE, 1, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666, 0, b"/a"), "open",
        "file            slot 1: open '/a' for read-write, create, truncate",
    ),
    (
        ops.file(1, "/a", Access.APPEND, create=False, truncate=False, label="g"),
        (OpCode.FILE, 1, os.O_WRONLY | os.O_APPEND, 0, 0, b"/a"), "open",
        "file            slot 1: open '/a' for append, relayed",
    ),
    (
        ops.file(1, "/a", Access.APPEND, create=False, truncate=False, label="g", raw=True),
        (OpCode.FILE, 1, os.O_WRONLY | os.O_APPEND, 0, 8, b"/a"), "open",
        "file            slot 1: open '/a' for append, raw",
    ),
    (
        ops.file(1, "/a", Access.READ, create=False, truncate=False, label="g", raw=True),
        (OpCode.FILE, 1, os.O_RDONLY, 0, 8, b"/a"), "open", "file            slot 1: open '/a' for read, raw",
    ),
    (
        ops.inherit(2, 5, frozenset({FdType.FILE}), Access.APPEND, "g", raw=True), (OpCode.INHERIT, 2, 5, 1, 11, b""),
        "inherit", "inherit         slot 2: the caller's 5, if it is one of: file, append, raw",
    ),
    (
        ops.inherit(2, 5, frozenset({FdType.PIPE}), Access.READ, "g", relay=True), (OpCode.INHERIT, 2, 5, 2, 17, b""),
        "inherit", "inherit         slot 2: the caller's 5, if it is one of: pipe, read, relayed",
    ),
    (
        ops.directory(1, "/d", write=False, execute=False, label="g"), (OpCode.DIRECTORY, 1, 0, 0, 0, b"/d"), "open",
        "directory       slot 1: open folder '/d', r--",
    ),
    (
        ops.directory(1, "/d", write=True, execute=True, label="g"), (OpCode.DIRECTORY, 1, 0, 0, 3, b"/d"), "open",
        "directory       slot 1: open folder '/d', rwx",
    ),
    (
        ops.folder_rule(9, 5), (OpCode.PATH_RULE, 5, 0, 9, 3, b"/proc/self/fd/9"), "landlock",
        "path_rule       '/proc/self/fd/9': file rights 0x5",
    ),
    (
        ops.secret_file(3, "/s", "g"), (OpCode.SECRET_FILE, 3, 0, 0, 0, b"/s"), "secret",
        "secret_file     slot 3: copy '/s' into a sealed memfd",
    ),
    (
        ops.secret_env(3, "TOKEN", "g"), (OpCode.SECRET_ENV, 3, 0, 0, 0, b"TOKEN"), "secret",
        "secret_env      slot 3: copy variable TOKEN into a sealed memfd",
    ),
    (
        ops.socket_owner(3, 33, 34, "g"), (OpCode.SOCKET_OWNER, 3, 33, 34, 0, b""), "listen",
        "socket_owner    slot 3: its file belongs to user 33, group 34",
    ),
    (
        ops.listen(3, TCP, "g", backlog=16, flags=ListenFlag.REUSE_PORT), (OpCode.LISTEN, 3, 0, 16, 1, TCP), "listen",
        "listen          slot 3: listen at 127.0.0.1:8080, backlog 16, reuse_port",
    ),
    (
        ops.listen(3, UNIX, "g", backlog=1, flags=ListenFlag.MODE, mode=0o60),
        (OpCode.LISTEN, 3, 0o60, 1, 8, UNIX), "listen",
        "listen          slot 3: listen at unix:/s, backlog 1, mode 060",
    ),
    (
        ops.listen(3, TCP6, "g", backlog=0, flags=ListenFlag.DATAGRAM | ListenFlag.IPV6_ONLY),
        (OpCode.LISTEN, 3, 0, 0, 6, TCP6), "listen",
        "listen          slot 3: receive at [::1]:8080, ipv6_only",
    ),
    (
        ops.connect(3, TCP6 + TCP, "g", kind=SocketKind.STREAM, milliseconds=1500),
        (OpCode.CONNECT, 3, 1, 1500, 0, TCP6 + TCP), "connect",
        "connect         slot 3: connect to [::1]:8080 or 127.0.0.1:8080 within 1.5 s",
    ),
    (
        ops.connect(3, b"\x01\0\0n", "g", kind=SocketKind.DATAGRAM),
        (OpCode.CONNECT, 3, 2, 0, 0, b"\x01\0\0n"), "connect",
        "connect         slot 3: datagrams to and from unix:@n",
    ),
    (
        ops.data_text(3, "é", "g"), (OpCode.DATA, 3, 0, 0, 0, b"\xc3\xa9"), "data",
        "data            slot 3: a sealed memfd with a text of 2 bytes",
    ),
    (
        ops.data_file(3, "/d", 1 << 20, "g"), (OpCode.DATA, 3, 1 << 20, 0, 1, b"/d"), "data",
        "data            slot 3: copy '/d', at most 1048576 bytes, into a sealed memfd",
    ),
    (
        ops.scratch(3, 4097, "g"), (OpCode.SCRATCH, 3, 5, 0, 0, b""), "scratch",
        "scratch         slot 3: an empty file in memory that grows to 5 KiB",
    ),
    (
        ops.netns(20, 21, "a network"), (OpCode.NETNS, 20, 21, 0, 0, b""), "network",
        "netns           join a network, and keep 21 open to the end",
    ),
    (
        ops.netns(20, 0, "a network"), (OpCode.NETNS, 20, 0, 0, 0, b""), "network", "netns           join a network",
    ),
    (ops.place(3, 7, "g"), (OpCode.PLACE, 3, 7, 0, 0, b""), "place", "place           slot 3 becomes descriptor 7"),
    (
        ops.sweep(), (OpCode.SWEEP, 0, 0, 0, 0, b""), "sweep",
        "sweep           close every descriptor but 0, 1, 2 and the placed ones",
    ),
    (
        ops.verify(), (OpCode.VERIFY, 0, 0, 0, 0, b""), "verify",
        "verify          read the table back and compare it with this plan",
    ),
    (
        ops.signals(), (OpCode.SIGNALS, 0, 0, 0, 0, b""), "signals",
        "signals         default dispositions, nothing blocked",
    ),
    (ops.umask(0o27), (OpCode.UMASK, 0o27, 0, 0, 0, b""), "umask", "umask           027"),
    (ops.chdir("/d"), (OpCode.CHDIR, 0, 0, 0, 0, b"/d"), "chdir", "chdir           '/d'"),
    (ops.env_keep("LC_*"), (OpCode.ENV_KEEP, 0, 0, 0, 0, b"LC_*"), "environment", "env_keep        keep LC_*"),
    (ops.env_set("A", "b=c"), (OpCode.ENV_SET, 0, 0, 0, 0, b"A=b=c"), "environment", "env_set         set A=b=c"),
    (
        ops.env_drop("A"), (OpCode.ENV_DROP, 0, 0, 0, 0, b"A"), "environment",
        "env_drop        drop A, whatever keeps it",
    ),
    (
        ops.env_pid("A"), (OpCode.ENV_PID, 0, 0, 0, 0, b"A"), "environment",
        "env_pid         set A to the command's process ID, as it sees that itself",
    ),
    (
        ops.no_new_privs(), (OpCode.NO_NEW_PRIVS, 0, 0, 0, 0, b""), "no_new_privs",
        "no_new_privs    set; set-uid files and file capabilities give nothing",
    ),
    (
        ops.exec_once(), (OpCode.EXEC_ONCE, 0, 0, 0, 0, b""), "exec_once",
        "exec_once       the command itself, and no program after it",
    ),
    (
        ops.filter_program(ALLOW_ALL * 2), (OpCode.FILTER, 0, 0, 0, 0, ALLOW_ALL * 2), "filter",
        "filter          load 2 instructions",
    ),
    (ops.command("/bin/x", "x"), (OpCode.COMMAND, 0, 0, 0, 0, b"/bin/x"), "exec", "command         try '/bin/x'"),
    (
        ops.execute(["x", "a b", ""], "x"), (OpCode.EXEC, 3, 0, 0, 0, b"x\0a b\0\0"), "exec",
        "exec            with arguments 'x' 'a b' ''",
    ),
    (
        ops.timeout(1500), (OpCode.TIMEOUT, 1500, 0, 0, 0, b""), "timeout",
        'timeout         end everything after 1.5 s',
    ),
    (
        ops.terminal(Terminal.NONE), (OpCode.TERMINAL, 1, 0, 0, 0, b""), "terminal",
        'terminal        a session of its own, without a terminal',
    ),
    (
        ops.terminal(Terminal.PRIVATE), (OpCode.TERMINAL, 2, 0, 0, 0, b""), "terminal",
        'terminal        a pseudo-terminal of its own, which the supervisor relays',
    ),
    (
        ops.terminal(Terminal.INHERIT), (OpCode.TERMINAL, 3, 0, 0, 0, b""), "terminal",
        "terminal        the caller's terminal and session",
    ),
    (
        ops.cgroup("/sys/fs/cgroup/a"), (OpCode.CGROUP, 0, 0, 0, 0, b'/sys/fs/cgroup/a'), "cgroup",
        "cgroup          a cgroup of its own below '/sys/fs/cgroup/a', removed at the end",
    ),
    (
        ops.cgroup_set("pids.max", "64"), (OpCode.CGROUP_SET, 0, 0, 0, 0, b'pids.max\x0064\x00'), "cgroup",
        'cgroup_set      pids.max = 64',
    ),
    (
        ops.oom_score(-7), (OpCode.OOM_SCORE, 993, 0, 0, 0, b""), "oom_score",
        'oom_score       oom_score_adj -7',
    ),
    (
        ops.namespace(Namespace.USER), (OpCode.NAMESPACE, 268435456, 0, 0, 0, b""), "namespace",
        'namespace       user: of its own',
    ),
    (
        ops.namespace(Namespace.MOUNT), (OpCode.NAMESPACE, 131072, 0, 0, 0, b""), "namespace",
        'namespace       mount: of its own',
    ),
    (
        ops.identity(1000, 1001), (OpCode.IDENTITY, 1000, 1001, 0, 0, b""), "identity",
        'identity        user 1000, group 1001, no other groups',
    ),
    (
        ops.hostname("box"), (OpCode.HOSTNAME, 0, 0, 0, 0, b'box'), "hostname",
        "hostname        'box'",
    ),
    (
        ops.loopback(), (OpCode.LOOPBACK, 0, 0, 0, 0, b""), "loopback",
        'loopback        lo is up',
    ),
    (
        ops.root(), (OpCode.ROOT, 0, 0, 0, 0, b""), "view",
        'root            an empty root',
    ),
    (
        ops.mount(MountKind.BIND, "/a b", MountFlag.EXECUTE | MountFlag.OPTIONAL),
        (OpCode.MOUNT, 1, 0, 0, 6, b"/a b"), "view",
        "mount           bind r-x '/a b', if it is there",
    ),
    (
        ops.mount(MountKind.TMPFS, "/tmp", MountFlag.WRITE, mode=0o1777, size=64),
        (OpCode.MOUNT, 2, 1023, 64, 1, b"/tmp"), "view",
        "mount           tmpfs rw- '/tmp'",
    ),
    (
        ops.enter(), (OpCode.ENTER, 0, 0, 0, 0, b""), "view",
        "enter           make it the root, read-only; the host's tree is gone",
    ),
    (
        ops.capabilities(), (OpCode.CAPABILITIES, 0, 0, 0, 0, b""), "capabilities",
        'capabilities    none, now and at any exec',
    ),
    (
        ops.reset(), (OpCode.RESET, 0, 0, 0, 0, b""), "attributes",
        'reset           own session keyring; default personality and timer slack; no real-time priority',
    ),
    (
        ops.rlimit(7, (5 << 32) + 9), (OpCode.RLIMIT, 7, 9, 5, 0, b""), "limit",
        'rlimit          nofile at most 21474836489',
    ),
    (
        ops.scheduling(3, -5), (OpCode.SCHEDULING, 3, 15, 0, 0, b""), "scheduling",
        'scheduling      policy 3, niceness -5',
    ),
    (
        ops.affinity("0-3,8"), (OpCode.AFFINITY, 0, 0, 0, 0, b'0-3,8'), "affinity",
        'affinity        processors 0-3,8',
    ),
    (
        ops.ruleset(0x1_0000_0003, 2, 1), (OpCode.RULESET, 3, 1, 65538, 0, b""), "landlock",
        'ruleset         Landlock handles file rights 0x100000003, net and scopes 0x10002',
    ),
    (
        ops.path_rule("/usr", 0x2_0000_0005), (OpCode.PATH_RULE, 5, 2, 0, 0, b'/usr'), "landlock",
        "path_rule       '/usr': file rights 0x200000005",
    ),
    (
        ops.path_rule("/usr", 5, optional=True), (OpCode.PATH_RULE, 5, 0, 0, 1, b'/usr'), "landlock",
        "path_rule       '/usr': file rights 0x5, if it is there",
    ),
    (
        ops.port_rule(443, 2), (OpCode.PORT_RULE, 2, 443, 0, 0, b""), "landlock",
        'port_rule       TCP port 443: rights 0x2',
    ),
    (
        ops.restrict(), (OpCode.RESTRICT, 0, 0, 0, 0, b""), "landlock",
        'restrict        the ruleset holds from here on',
    ),
]  # fmt: skip


@pytest.mark.parametrize(("op", "fields", "step", "line"), TABLE, ids=[line for *_, line in TABLE])
def test_op_constructor_gives_fields_step_and_line(
    op: Op, fields: tuple[OpCode, int, int, int, int, bytes], step: str, line: str
) -> None:
    assert (op.code, op.a, op.b, op.c, op.flags, op.data) == fields
    assert (op.step, op.describe()) == (step, line)


def test_op_table_above_has_every_op() -> None:
    assert {op.code for op, *_ in TABLE} == set(OpCode) == set(RULES)


@pytest.mark.parametrize("op", [op for op, *_ in TABLE if op.code is not OpCode.SIGNALS])
def test_op_messages_name_an_object(op: Op) -> None:
    assert op.label


def test_op_paths_that_are_no_utf8_keep_their_bytes() -> None:
    path = os.fsdecode(b"/\xff\xfe")
    assert ops.chdir(path).data == b"/\xff\xfe"
    assert ops.execute([path], "x").data == b"/\xff\xfe\0"


def test_op_protocol_with_a_number_twice_counts_it_once() -> None:
    rule = ProtocolRule(Place.PROGRAM, Shape.FIXED, program="x", numbers=(3, 3))
    assert ops.protocol("p", rule).c == 1 << 3


def test_plan_codes_are_in_the_order_of_the_enum() -> None:
    assert list(OpCode) == sorted(OpCode) == list(RULES)


def test_plan_mandatory_ops_are_these() -> None:
    assert {code.name for code in MANDATORY} == {
        "STDIO", "CAPABILITIES", "SWEEP", "VERIFY", "SIGNALS", "UMASK", "RESET", "NO_NEW_PRIVS", "FILTER", "COMMAND",
        "EXEC",
    }  # fmt: skip


def test_plan_obtaining_ops_are_all_that_fill_a_slot() -> None:
    assert {code.name for code in OBTAINING} == {
        "INHERIT", "FILE", "SECRET_FILE", "SECRET_ENV", "DIRECTORY",
        "LISTEN", "CONNECT", "DATA", "SCRATCH",
    }  # fmt: skip


def test_plan_describe_gives_one_line_per_op() -> None:
    plan = full_plan()
    assert plan.describe() == tuple(op.describe() for op in plan.ops)
    assert all("\n" not in line for line in plan.describe())


def test_plan_only_gives_the_ops_of_that_code_in_order() -> None:
    plan = full_plan()
    assert [op.b for op in plan.only(OpCode.PLACE)] == [3, 4, 5, 9, 10, 11, 12, 13, 70, 71, 72, 73, 74, 75]
    assert plan_for(["x"]).only(OpCode.PLACE) == ()


@pytest.mark.parametrize("value", [ops.sweep(), Plan(())])
def test_plan_values_are_frozen(value: Op | Plan) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, None)


def test_type_mask_bits_are_the_types_order() -> None:
    assert ops.mask_of(list(FdType)) == (1 << 27) - 1
    assert [ops.mask_of([fd_type]) for fd_type in FdType] == [1 << bit for bit in range(27)]
    assert ops.mask_of([FdType.FILE, FdType.FILE]) == 1
    assert ops.mask_of([]) == 0


def test_safe_types_hold_nothing_that_must_be_asked_for_by_name() -> None:
    dangerous = {"directory", "path", "block-device", "char-device", "namespace", "pidfd", "io_uring",
                 "seccomp-listener", "bpf", "userfaultfd", "epoll", "fanotify", "other"}  # fmt: skip
    assert {str(fd_type) for fd_type in STDIO_TYPES} & dangerous == set()
    assert {FdType.TTY} == STDIO_TYPES - SAFE_TYPES

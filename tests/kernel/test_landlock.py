"""Landlock against the real kernel: each right refused where no rule gives it and allowed where one does."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from sandbox import landlock
from sandbox.filesystem import FilesystemPolicy, View
from sandbox.landlock import (
    ALL_FILE_RIGHTS,
    ALL_NET_RIGHTS,
    ALL_SCOPES,
    NEWEST_ABI,
    FileRight,
    LandlockPolicy,
    NetRight,
    PathRule,
    PortRule,
    Ruleset,
    Scope,
)
from sandbox.ops import path_rule as path_rule_op
from sandbox.ops import ruleset as ruleset_op
from sandbox.plan import Op, OpCode, Plan
from sandbox.probe import probe
from tests.support.callers import Ended, launch
from tests.support.native import build_launcher
from tests.support.plans import less, plan_for
from tests.support.probes import Probes, Verdict, table, verdicts

OK: Final = Verdict(0, 0)
EACCES: Final = Verdict(-1, errno.EACCES)
EPERM: Final = Verdict(-1, errno.EPERM)
EXDEV: Final = Verdict(-1, errno.EXDEV)
ENOTTY: Final = Verdict(-1, errno.ENOTTY)
LEAKED: Final = 77

F: Final = FileRight
# What the probe tries in a folder, and the rights that it needs there.
NEEDS: Final[Mapping[str, FileRight]] = {
    "execute {0}/program": F.EXECUTE | F.READ_FILE,
    "write {0}/file": F.WRITE_FILE,
    "read {0}/file": F.READ_FILE,
    "list {0}": F.READ_DIR,
    "list {0}/sub": F.READ_DIR,
    "rmdir {0}/empty": F.REMOVE_DIR,
    "unlink {0}/old": F.REMOVE_FILE,
    "char {0}/char": F.MAKE_CHAR,
    "mkdir {0}/folder": F.MAKE_DIR,
    "create {0}/new": F.MAKE_REG | F.WRITE_FILE,
    "socket {0}/socket": F.MAKE_SOCK,
    "fifo {0}/fifo": F.MAKE_FIFO,
    "block {0}/block": F.MAKE_BLOCK,
    "symlink {0}/symlink": F.MAKE_SYM,
    "rename {0}/one {0}/two": F.REMOVE_FILE | F.MAKE_REG,
    "rename {0}/moving {0}/sub/moved": F.REMOVE_FILE | F.MAKE_REG | F.REFER,
    "link {0}/file {0}/link": F.MAKE_REG,
    "link {0}/file {0}/sub/link": F.MAKE_REG | F.REFER,
    "truncate {0}/file": F.TRUNCATE,
    "empty {0}/file": F.TRUNCATE | F.WRITE_FILE,
}
# On a folder; devices have a test of their own.
TRIED: Final = [right for right in FileRight if right is not F.IOCTL_DEV]


@pytest.fixture(autouse=True)
def _kernel_has_it() -> None:
    if (abi := probe()["landlock_abi"]) < NEWEST_ABI:
        pytest.skip(f"kernel lacks: Landlock ABI {NEWEST_ABI}, it has {abi}")


@pytest.fixture(scope="module")
def partial() -> Path:
    return build_launcher(defines=("TEST_PARTIAL_PLANS",))


def folder(path: Path, program: str) -> Path:
    """Make a folder with all that the probe looks for."""
    (path / "sub").mkdir(parents=True)
    (path / "empty").mkdir()
    for name in ("file", "old", "one", "moving"):
        (path / name).write_text("content")
    (path / "program").write_bytes(Path(program).read_bytes())
    (path / "program").chmod(0o755)
    return path


def words(*tries: str) -> list[str]:
    """Return the probe's arguments for tries such as `read /some/file`; no path holds a space."""
    return [word for one in tries for word in one.split(" ")]


def plan_with(of: Ruleset, command: Sequence[str]) -> Plan:
    return plan_for(command, confinement=list(landlock.ruleset_ops(of)))


def tried(ended: Ended, tries: Sequence[str]) -> dict[str, Verdict]:
    """Return the verdict on each try."""
    assert (ended.code, ended.err) == (0, ""), ended
    found = verdicts(ended.out)
    assert len(found) == len(tries), ended.out
    return {one: found[f"{number}:{one.split(' ')[0]}"] for number, one in enumerate(tries)}


def outcome(probes: Probes, of: Ruleset, *tries: str, setup: Callable[[], object] | None = None) -> dict[str, Verdict]:
    """Try everything under a ruleset that lets the probe itself be executed."""
    own = PathRule(probes["landlock"], F.EXECUTE | F.READ_FILE)
    given = Ruleset(of.files, of.net, of.scopes, (*of.paths, own) if of.files else (), of.ports)
    return tried(launch(plan_with(given, [probes["landlock"], *words(*tries)]), setup=setup), tries)


@pytest.mark.parametrize("right", TRIED, ids=lambda right: str(right.name).lower())
def test_file_right_is_refused_where_it_is_not_given_and_the_others_are_not(
    probes: Probes, tmp_path: Path, right: FileRight
) -> None:
    folders = {name: folder(tmp_path / name, probes["landlock"]) for name in ("whole", "less", "none")}
    given = Ruleset(
        ALL_FILE_RIGHTS,
        paths=(
            PathRule(str(folders["whole"]), ALL_FILE_RIGHTS),
            PathRule(str(folders["less"]), ALL_FILE_RIGHTS & ~right),
        ),
    )
    found = {
        name: outcome(probes, given, *(one.format(path) for one in NEEDS)).values() for name, path in folders.items()
    }
    # Without CAP_MKNOD the kernel refuses a block device, after Landlock has let it.
    assert [one for one, verdict in zip(NEEDS, found["whole"], strict=True) if verdict not in (OK, EPERM)] == []
    assert set(found["none"]) == {EACCES}
    for (one, needs), verdict in zip(NEEDS.items(), found["less"], strict=True):
        refused = EXDEV if right is F.REFER else EACCES
        allowed = EPERM if one.startswith("block") and verdict == EPERM else OK
        assert verdict == (refused if right & needs else allowed), one


def test_nothing_is_refused_without_a_ruleset(probes: Probes, tmp_path: Path) -> None:
    path = folder(tmp_path / "free", probes["landlock"])
    tries = [one.format(path) for one in NEEDS]
    ended = launch(plan_for([probes["landlock"], *words(*tries)]))
    assert {one for one, verdict in tried(ended, tries).items() if verdict != OK} <= {f"block {path}/block"}


def test_device_ioctls_are_refused_without_the_right(probes: Probes) -> None:
    def found(rights: FileRight) -> list[Verdict]:
        rules = tuple(PathRule(f"/dev/{name}", rights) for name in ("null", "ptmx"))
        return list(
            outcome(probes, Ruleset(ALL_FILE_RIGHTS, paths=rules), "ioctl /dev/null", "ioctl /dev/ptmx").values()
        )

    access = F.READ_FILE | F.WRITE_FILE
    assert found(access) == [EACCES, EACCES]
    assert found(access | F.IOCTL_DEV) == [ENOTTY, OK]


def test_rule_on_a_file_gives_what_a_file_can_have(probes: Probes, tmp_path: Path) -> None:
    """The kernel refuses a folder's rights on a file; the launcher leaves them out."""
    path = folder(tmp_path / "some", probes["landlock"])
    given = Ruleset(ALL_FILE_RIGHTS, paths=(PathRule(f"{path}/file", ALL_FILE_RIGHTS),))
    tries = [f"read {path}/file", f"write {path}/file", f"empty {path}/file", f"truncate {path}/file"]
    refused = [f"read {path}/old", f"unlink {path}/file", f"list {path}", f"create {path}/new"]
    found = outcome(probes, given, *tries, *refused)
    assert {one: found[one] for one in tries} == dict.fromkeys(tries, OK)
    assert {one: found[one] for one in refused} == dict.fromkeys(refused, EACCES)


def test_rule_with_a_folders_rights_only_gives_a_file_nothing(probes: Probes, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    given = Ruleset(ALL_FILE_RIGHTS, paths=(PathRule(f"{tmp_path}/file", F.READ_DIR),))
    assert outcome(probes, given, f"read {tmp_path}/file") == {f"read {tmp_path}/file": EACCES}


def test_rule_follows_a_symlink(probes: Probes, tmp_path: Path) -> None:
    real = folder(tmp_path / "real", probes["landlock"])
    (tmp_path / "name").symlink_to("real")
    given = Ruleset(ALL_FILE_RIGHTS, paths=(PathRule(f"{tmp_path}/name", F.READ_FILE),))
    found = outcome(probes, given, f"read {real}/file", f"read {tmp_path}/name/file", f"write {real}/file")
    assert list(found.values()) == [OK, OK, EACCES]


@pytest.mark.parametrize("missing", ["absent", "file/absent"])
def test_rule_on_what_is_not_there_is_skipped_only_if_optional(probes: Probes, tmp_path: Path, missing: str) -> None:
    path = folder(tmp_path / "some", probes["landlock"])
    rule = PathRule(f"{path}/{missing}", F.READ_FILE, optional=True)
    there = PathRule(f"{path}/file", F.READ_FILE)
    found = outcome(probes, Ruleset(ALL_FILE_RIGHTS, paths=(rule, there)), f"read {path}/file", f"read {path}/old")
    assert list(found.values()) == [OK, EACCES]
    required = PathRule(rule.path, rule.rights)
    ended = launch(plan_with(Ruleset(ALL_FILE_RIGHTS, paths=(required, there)), [probes["landlock"]]))
    reason = os.strerror(errno.ENOTDIR if "/" in missing else errno.ENOENT)
    assert ended == Ended(
        125, "", f"sandbox: landlock: {rule.path}: {reason}; check the path and who may open it\n"
    )  # fmt: skip


def test_rule_on_what_may_not_be_looked_at_is_an_error_even_if_optional(probes: Probes, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("needs an ordinary user: root may look into every folder")
    closed = tmp_path / "closed"
    (closed / "in").mkdir(parents=True)
    rule = PathRule(f"{closed}/in", F.READ_FILE, optional=True)
    plan = plan_with(Ruleset(ALL_FILE_RIGHTS, paths=(rule, PathRule("/", ALL_FILE_RIGHTS))), [probes["landlock"]])
    assert launch(plan) == Ended(0, "", "")
    closed.chmod(0)
    ended = launch(plan)
    assert (ended.code, ended.err.split("; ")[0]) == (125, f"sandbox: landlock: {closed}/in: Permission denied")


@pytest.mark.parametrize(
    "begin",
    [ruleset_op(1 << 40, 0, 0), ruleset_op(1, 1 << 9, 0), ruleset_op(1, 0, 1 << 9)],
    ids=["file", "net", "scope"],
)
def test_right_that_the_kernel_does_not_know_is_an_error(probes: Probes, marker: Path, begin: Op) -> None:
    rules = list(landlock.ruleset_ops(Ruleset(F.MAKE_CHAR)))
    whole = plan_for([probes["mark"], str(marker)], confinement=rules)
    assert launch(whole) == Ended(0, "", "")
    marker.unlink()
    ended = launch(plan_for([probes["mark"], str(marker)], confinement=[begin, *rules[1:]]))
    assert (ended.code, ended.out) == (125, "")
    assert ended.err.startswith("sandbox: landlock: ruleset: Invalid argument; the kernel needs Landlock")
    assert not marker.exists()


def test_rule_with_a_right_that_is_not_governed_is_an_error(probes: Probes, marker: Path) -> None:
    rules = list(landlock.ruleset_ops(Ruleset(F.MAKE_CHAR)))
    wrong = path_rule_op("/", int(F.MAKE_DIR))
    ended = launch(plan_for([probes["mark"], str(marker)], confinement=[*rules, wrong]))
    assert (ended.code, ended.err.split(";")[0]) == (125, "sandbox: landlock: /: Invalid argument")
    assert not marker.exists()


def test_launcher_leaves_no_descriptor_of_its_own(probes: Probes) -> None:
    plan = plan_with(Ruleset(ALL_FILE_RIGHTS, paths=(PathRule("/", ALL_FILE_RIGHTS),)), [probes["fds"]])
    assert set(table(launch(plan).out).numbers) == {0, 1, 2}


RULESET_OPS: Final = (OpCode.RULESET, OpCode.PATH_RULE, OpCode.PORT_RULE, OpCode.RESTRICT)


def test_descriptor_of_a_folder_that_leaked_gives_nothing(probes: Probes, partial: Path, tmp_path: Path) -> None:
    """Without sweep and gate a descriptor of the caller is there, and Landlock stands alone."""
    path = folder(tmp_path / "outside", probes["landlock"])
    tries = [f"read-at {LEAKED}/file", f"read-at {LEAKED}/sub", f"read-at {LEAKED}/../outside/file"]
    given = Ruleset(ALL_FILE_RIGHTS, paths=(PathRule(probes["landlock"], F.EXECUTE | F.READ_FILE),))
    plan = plan_with(given, [probes["landlock"], *words(*tries)])

    def leak() -> None:
        os.dup2(os.open(path, os.O_RDONLY | os.O_DIRECTORY), LEAKED)

    def found(*codes: OpCode) -> set[Verdict]:
        open_wide = less(plan, OpCode.SWEEP, OpCode.VERIFY, OpCode.GATE, *codes)
        return set(tried(launch(open_wide, launcher=partial, setup=leak), tries).values())

    assert found() == {EACCES}
    assert found(*RULESET_OPS) == {OK}
    assert found(OpCode.RESTRICT) == {OK}  # so that each of the two is seen to be needed
    # The folder itself is of use where a rule gives it: a descriptor is no way around, and no hindrance.
    allowed = Ruleset(ALL_FILE_RIGHTS, paths=(*given.paths, PathRule(str(path), F.READ_FILE | F.READ_DIR)))
    plan = plan_with(allowed, [probes["landlock"], *words(*tries)])
    assert found() == {OK}


def test_without_no_new_privs_an_ordinary_user_is_refused(probes: Probes, partial: Path, marker: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("needs an ordinary user: the kernel lets root restrict itself without")
    plan = plan_with(Ruleset(F.MAKE_CHAR), [probes["mark"], str(marker)])
    assert launch(less(plan), launcher=partial) == Ended(0, "", "")
    marker.unlink()
    ended = launch(less(plan, OpCode.NO_NEW_PRIVS), launcher=partial)
    assert (ended.code, ended.err) == (125, "sandbox: landlock: ruleset: Operation not permitted\n")
    assert not marker.exists()


def test_without_the_ruleset_nothing_is_executed(probes: Probes, partial: Path, marker: Path) -> None:
    plan = plan_with(Ruleset(F.MAKE_CHAR), [probes["mark"], str(marker)])
    ended = launch(less(plan, OpCode.RULESET), launcher=partial)
    assert (ended.code, ended.err) == (125, "sandbox: landlock: ruleset: Bad file descriptor\n")
    assert not marker.exists()


def free_ports(count: int) -> list[int]:
    """Return ports that nobody uses now."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def test_tcp_ports_are_refused_where_they_are_not_given(probes: Probes) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as one, closing(socket.create_server(("127.0.0.1", 0))) as two:
        to_one, to_two = one.getsockname()[1], two.getsockname()[1]
        own, other = free_ports(2)
        tries = [f"connect {to_one}", f"connect {to_two}", f"bind {own}", f"bind {other}", "bind 0", "listen 1"]
        rules = (PortRule(to_one, NetRight.CONNECT_TCP), PortRule(own, NetRight.BIND_TCP))
        found = outcome(probes, Ruleset(net=ALL_NET_RIGHTS, ports=rules), *tries, f"bind-udp {other}")
        # A port that the kernel chooses, and UDP, are not governed: `describe` says so.
        assert list(found.values()) == [OK, EACCES, OK, EACCES, EACCES, OK, OK]
        none = outcome(probes, Ruleset(net=ALL_NET_RIGHTS), *tries[:4])
        assert set(none.values()) == {EACCES}
        only_bind = outcome(probes, Ruleset(net=NetRight.BIND_TCP, ports=rules[1:]), *tries[:4])
        assert list(only_bind.values()) == [OK, OK, OK, EACCES]


@pytest.fixture
def abstract_names() -> Iterator[tuple[str, str]]:
    """Yield the names of a stream and of a datagram socket outside."""
    names = f"sandbox-test-{os.getpid()}-stream", f"sandbox-test-{os.getpid()}-datagram"
    kinds = socket.SOCK_STREAM, socket.SOCK_DGRAM
    with (
        closing(socket.socket(socket.AF_UNIX, kinds[0])) as one,
        closing(socket.socket(socket.AF_UNIX, kinds[1])) as two,
    ):
        one.bind(f"\0{names[0]}")
        one.listen()
        two.bind(f"\0{names[1]}")
        yield names


def test_abstract_sockets_of_others_are_out_of_scope(probes: Probes, abstract_names: tuple[str, str]) -> None:
    stream, datagram = abstract_names
    tries = [f"abstract {stream}", f"abstract-datagram {datagram}", f"own-abstract sandbox-own-{os.getpid()}"]
    assert list(outcome(probes, Ruleset(scopes=Scope.ABSTRACT_UNIX_SOCKET), *tries).values()) == [EPERM, EPERM, OK]
    assert list(outcome(probes, Ruleset(scopes=Scope.SIGNAL), *tries).values()) == [OK, OK, OK]


def test_signals_to_others_are_out_of_scope(probes: Probes) -> None:
    def found(scopes: Scope) -> tuple[list[Verdict], bool]:
        with subprocess.Popen(["sleep", "60"]) as outside:
            tries = [f"kill {outside.pid}", "kill-child 15"]
            result = list(outcome(probes, Ruleset(scopes=scopes), *tries).values())
            try:
                outside.wait(0.2 if scopes & Scope.SIGNAL else 10)
            except subprocess.TimeoutExpired:
                return result, True
            finally:
                outside.kill()
        return result, False

    assert found(Scope.SIGNAL) == ([EPERM, OK], True)
    assert found(Scope.ABSTRACT_UNIX_SOCKET) == ([OK, OK], False)


@pytest.mark.parametrize("abi", range(1, NEWEST_ABI + 1))
def test_kernel_takes_what_is_left_of_a_ruleset_for_each_abi(probes: Probes, tmp_path: Path, abi: int) -> None:
    """An older kernel's ruleset, on this one: what it has is refused, what it lacks is not."""
    some, other = (folder(tmp_path / name, probes["landlock"]) for name in ("some", "other"))
    wanted = Ruleset(
        ALL_FILE_RIGHTS, ALL_NET_RIGHTS, ALL_SCOPES,
        (
            PathRule(probes["landlock"], F.EXECUTE | F.READ_FILE),
            PathRule(str(some), ALL_FILE_RIGHTS & ~F.REFER),
            PathRule("/dev/null", F.READ_FILE | F.WRITE_FILE),
        ),
        (PortRule(9, NetRight.CONNECT_TCP),),
    )  # fmt: skip
    kept, lost = landlock.downgrade(wanted, abi)
    (port,) = free_ports(1)
    tries = {
        f"read {other}/file": EACCES,
        f"read {some}/file": OK,
        f"rename {some}/moving {some}/sub/moved": EXDEV,
        f"truncate {other}/file": OK if "truncate" in lost else EACCES,
        f"bind {port}": OK if "bind_tcp" in lost else EACCES,
        "ioctl /dev/null": ENOTTY if "ioctl_dev" in lost else EACCES,
    }
    assert outcome(probes, kept, *tries) == tries


HOST: Final = FilesystemPolicy(view=View.HOST, read=("/etc",), execute=("/usr", "-/bin", "-/lib", "-/lib64"))


def test_ruleset_of_a_declared_host_view_runs_a_program_and_keeps_the_rest_out(tmp_path: Path) -> None:
    secret, given = tmp_path / "secret", tmp_path / "given"
    secret.write_text("secret")
    given.write_text("given")
    policy = FilesystemPolicy(HOST.view, (*HOST.read, str(given)), execute=HOST.execute)
    kept, lost = landlock.fit(landlock.ruleset(policy), probe()["landlock_abi"], LandlockPolicy())
    assert lost == frozenset()
    for path, expected in ((given, Ended(0, "given", "")), (secret, None)):
        ended = launch(plan_with(kept, ["/usr/bin/cat", str(path)]))
        assert ended == expected if expected else (ended.code, ended.out) == (1, "")
    bare = launch(plan_for(["/usr/bin/cat", str(secret)]))
    assert bare == Ended(0, "secret", "")


def test_ruleset_of_a_declared_host_view_lets_the_usual_devices_be_used() -> None:
    kept, _ = landlock.downgrade(landlock.ruleset(HOST), probe()["landlock_abi"])
    script = "echo x >/dev/null && head -c 8 /dev/zero | wc -c && head -c 8 /dev/urandom | wc -c && cat /proc/self/comm"
    assert launch(plan_with(kept, ["/usr/bin/sh", "-c", script])) == Ended(0, "8\n8\ncat\n", "")


def test_program_outside_the_declared_paths_is_not_executed(probes: Probes) -> None:
    kept, _ = landlock.downgrade(landlock.ruleset(HOST), probe()["landlock_abi"])
    ended = launch(plan_with(kept, [probes["landlock"]]))
    assert (ended.code, "Permission denied" in ended.err) == (126, True)
    allowed = landlock.ruleset(FilesystemPolicy(HOST.view, execute=(*HOST.execute, probes["landlock"])))
    assert launch(plan_with(allowed, [probes["landlock"]])) == Ended(0, "", "")

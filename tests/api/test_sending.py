"""Values go to other processes and come back as they were; what is of this process stays here, and says so."""

from __future__ import annotations

import copy
import enum
import inspect
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

import sandbox
from sandbox import (
    Access,
    Additions,
    Caller,
    CommandNotExecutableError,
    CommandNotFoundError,
    ConnectGrant,
    Connection,
    CopyGrant,
    DatagramGrant,
    DataGrant,
    Descriptor,
    DirectoryGrant,
    Executed,
    Exited,
    Failed,
    FdType,
    FileGrant,
    FilesystemPolicy,
    GrantError,
    InheritGrant,
    InternalError,
    LandlockPolicy,
    LaunchError,
    Limits,
    ListenGrant,
    NetworkCall,
    NetworkMode,
    NetworkPolicy,
    NetworkVerdict,
    Plan,
    PlanError,
    Profile,
    ProfileError,
    Received,
    SandboxError,
    ScratchGrant,
    SecretGrant,
    Started,
    StatusFormat,
    Survey,
    Trail,
    UnsupportedError,
    UsageError,
    Wrapper,
)
from sandbox.caller import Joined
from sandbox.exports import Export, docker
from sandbox.filtering import FilterPolicy
from sandbox.survey import Leak

LIBRARY: Final = sandbox.default_search_path({})
CALLER: Final = Caller.of_process(parent_pid=os.getpid())
UNTRUSTED: Final = sandbox.load("untrusted", search=LIBRARY)
GIVEN: Final = InheritGrant(name="given", inherit=9)


def planned(*grants: sandbox.Grant, status: tuple[int, StatusFormat] | None = None) -> Plan:
    chosen = sandbox.for_caller(UNTRUSTED, CALLER, Additions(grants=grants, chdir="/"))
    return sandbox.build_plan(chosen, ["true"], CALLER, status=status)


def noted(error: SandboxError) -> SandboxError:
    error.add_note("seen on a host")
    return error


# Of each public class, values that say something in every field that can be anything.
SAMPLES: Final[dict[type, list[Any]]] = {
    Additions: [Additions(grants=(DataGrant(name="x", data="y"),), variables={"A": "b"}, chdir="/", limits={"cpu": 1})],
    sandbox.BindRule: [sandbox.parse_bind("tcp:8000-8010"), sandbox.parse_bind("udp:127.0.0.1:53")],
    Caller: [CALLER, replace(CALLER, hosts={"a.example": ("192.0.2.1",)}, owners={"me": (1, 2)})],
    CommandNotExecutableError: [
        CommandNotExecutableError("exec", "x", 13, hint="look"), CommandNotExecutableError("exec", "x", 8)
    ],
    CommandNotFoundError: [CommandNotFoundError("exec", "x", 2, hint="look")],
    ConnectGrant: [ConnectGrant(name="x", connect="tcp:192.0.2.1:5432", number=7)],
    Connection: [
        Connection(1, 2, "/bin/x", NetworkCall.CONNECT, "tcp:[::1]:443", NetworkVerdict.ALLOWED, "tcp:[::1]:443", 115)
    ],
    CopyGrant: [CopyGrant(name="x", copy="/etc/hosts")],
    DataGrant: [DataGrant(name="x", data="y\n\udcff")],
    DatagramGrant: [DatagramGrant(name="x", datagram="udp:192.0.2.1:53")],
    Descriptor: [Descriptor(1, 2, 3, "/file", "dev-fd"), Descriptor(1, 2, 3, "pipe:[1]", None)],
    DirectoryGrant: [DirectoryGrant(name="x", directory="/usr", propagate=True)],
    Executed: [Executed(1, 2, "/bin/x", "/bin/sh", 0)],
    Exited: [Exited(1, 2, None, 9, timed_out=True), Exited(1, 2, 3, None)],
    Failed: [Failed(1, CommandNotFoundError("exec", "x", 2)), Failed(1, PlanError("op 1", "none"))],
    FileGrant: [FileGrant(name="x", file="/log", access=Access.APPEND, create=True)],
    FilesystemPolicy: [UNTRUSTED.filesystem],
    GrantError: [GrantError("x", "doubled", "once")],
    InheritGrant: [InheritGrant(name="x", inherit="systemd:web", type=FdType.LISTENER)],
    InternalError: [InternalError("x", "broken")],
    LandlockPolicy: [UNTRUSTED.landlock],
    LaunchError: [LaunchError("open", "x", 2), noted(LaunchError("open", "grant x", 13, "not this\nhere", "look"))],
    Limits: [Limits(memory=1 << 30, cpu=0.5, timeout=2500)],
    ListenGrant: [ListenGrant(name="x", listen="unix:web", mode="600")],
    NetworkPolicy: [NetworkPolicy(NetworkMode.NONE, allow=(sandbox.parse_peer("tcp:a.example:1"),), dns=True)],
    sandbox.PeerRule: [sandbox.parse_peer("tcp:192.0.2.0/24:443"), sandbox.parse_peer("udp:[::1]:53")],
    Plan: [planned(), Plan((), quiet=True, point=True)],
    PlanError: [PlanError("op 1", "out of order")],
    Profile: [sandbox.load(found.name, search=LIBRARY) for found in sandbox.available(LIBRARY)],
    ProfileError: [ProfileError("a.toml", "limits.memory", "no size", "512M")],
    Received: [Received(b"\0\xff")],
    SandboxError: [SandboxError("step", "object", "reason", "hint")],
    ScratchGrant: [ScratchGrant(name="x", scratch=1 << 20)],
    SecretGrant: [SecretGrant(name="x", secret="env:TOKEN")],
    Started: [Started(1, 2)],
    Survey: [Survey(3, 2, 1, 1, (("dev-fd", 1),), (Leak("/bin/sh", "/bin/x", 7, "/file", 2),))],
    Trail: [Trail(contents={"/a": b"\xff"}, absent={"/b": None}, passed={"/": os.stat("/")}, is_complete=False)],
    UnsupportedError: [UnsupportedError("landlock", "ABI 3", "ABI 1", "a newer kernel")],
    UsageError: [UsageError("net='lan'", "no such word", "one of none, loopback")],
    Wrapper: [Wrapper(Path("/bin/git"), "git", "/usr/bin/git")],
}  # fmt: skip
# What no other process has.
HELD: Final[list[tuple[Any, str]]] = [
    (GIVEN, "pickle InheritGrant: it holds the number of a descriptor (9), which no other process has"),
    (replace(UNTRUSTED, grants=(GIVEN,)), "pickle InheritGrant"),
    (Additions(grants=(GIVEN,)), "pickle InheritGrant"),
    (InheritGrant(name="x", inherit="systemd:web", passed_fd=0), "the number of a descriptor (0)"),
    (Received(b"x", (5,)), "pickle Received: it holds descriptors"),
    (Joined(5), "the descriptors of a network"),
    (replace(CALLER, joined=Joined(5, 6)), "pickle Joined: it holds the descriptors of a network"),
    (planned(GIVEN), "pickle Plan: it holds the numbers of descriptors"),
    (planned(status=(0, StatusFormat.RECORDS)), "pickle Plan"),
]  # fmt: skip


def public_values() -> Iterator[tuple[str, Any]]:
    """Yield every public name's values. A new name has to be of a kind that is known here, or be given a sample."""
    for name in sandbox.__all__:
        public = getattr(sandbox, name)
        if public is sandbox.Popen:  # no value: test_running_process_stays_here
            continue
        if isinstance(public, type) and issubclass(public, enum.Enum):
            yield from ((name, member) for member in public)
        elif isinstance(public, type):
            assert public in SAMPLES, f"sandbox.{name} is new: give it a sample here"
            yield from ((name, value) for value in SAMPLES[public])
        else:
            assert isinstance(public, types.FunctionType | types.UnionType) or public is sandbox.PROTOCOLS, name
            yield name, public


VALUES: Final = [*public_values()]


def there_and_back(value: Any, protocol: int | None = None) -> Any:  # noqa: ANN401
    return pickle.loads(pickle.dumps(value, protocol))  # noqa: S301 - our own


def seen(value: Any) -> Any:  # noqa: ANN401
    """Return what can be compared of a value: of an error, every field, also those that no dictionary has."""
    if isinstance(value, Failed):
        return value.time_ns, seen(value.error)
    if not isinstance(value, BaseException):
        return value
    return type(value), str(value), value.args, value.__dict__, getattr(value, "errno", None)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_public_values_come_back_as_they_were(protocol: int) -> None:
    for name, value in VALUES:
        back = there_and_back(value, protocol)
        assert type(back) is type(value), name
        assert seen(back) == seen(value), name


def test_samples_are_of_their_class() -> None:
    for kind, values in SAMPLES.items():
        assert values, kind
        assert all(type(value) is kind for value in values), kind


def test_functions_and_tables_come_back_as_the_same() -> None:
    for name in sandbox.__all__:
        public = getattr(sandbox, name)
        if inspect.isfunction(public) or inspect.isclass(public) or public is sandbox.PROTOCOLS:
            assert there_and_back(public) is public, name
    assert sandbox.PROTOCOLS["dev-fd"].name == "dev-fd"
    assert len(sandbox.PROTOCOLS) == len([*sandbox.PROTOCOLS])


@pytest.mark.parametrize(("value", "words"), HELD, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_what_holds_a_descriptor_stays_here(value: Any, words: str, protocol: int) -> None:  # noqa: ANN401
    with pytest.raises(UsageError) as caught:
        pickle.dumps([value], protocol)
    assert words in str(caught.value)


def test_copy_within_this_process_may_hold_descriptors() -> None:
    for value, _ in HELD:
        assert copy.deepcopy(value) == copy.copy(value) == value


def test_running_process_stays_here() -> None:
    with sandbox.Popen(["cat"], stdin=subprocess.PIPE) as process:
        for attempt in (lambda: pickle.dumps(process), lambda: copy.copy(process), lambda: copy.deepcopy(process)):
            with pytest.raises(UsageError, match="pickle Popen: it holds a running process and its descriptors"):
                attempt()
        process.communicate()
    assert process.returncode == 0
    assert there_and_back(process.events) == process.events  # the twin: what it told can be sent


def test_exported_filter_comes_back_as_it_was() -> None:
    made = docker(UNTRUSTED, FilterPolicy(allow=frozenset({"read"})))
    assert made.lost
    assert there_and_back(made) == made
    assert isinstance(made, Export)


# Started as a program, whose functions other processes find however they are started.
PROGRAM: Final = """
import concurrent.futures, json, multiprocessing, pickle, subprocess, sys
import sandbox


def same(value):
    return value


def job(profile, script, **options):
    return sandbox.run(["sh", "-c", script], profile=profile, capture_output=True, text=True, **options)


def start(profile, command):
    return sandbox.run(command, profile=profile)


def told(profile):
    with sandbox.Popen(["sh", "-c", "exit 3"], profile=profile) as process:
        pass
    return process.events


def raised(future):
    try:
        return repr(future.result())
    except Exception as error:
        names = ("step", "object", "errno", "returncode", "timeout", "stdout")
        shown = {name: getattr(error, name, None) for name in names}
        return [type(error).__name__, str(error), shown]


def main():
    method, given = sys.argv[1:]
    context = multiprocessing.get_context(method)
    with open(given, "rb") as file:
        values = file.read()
    profile = sandbox.load("untrusted", search=sandbox.default_search_path({}))
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        back = pool.submit(pickle.loads, values)
        again = [*pool.map(same, back.result())]
        said = [
            repr(pool.submit(job, profile, "echo here; exit 3").result()),
            raised(pool.submit(job, profile, "echo x; exit 3", check=True)),
            raised(pool.submit(job, profile, "echo x; sleep 60", timeout=1)),
            raised(pool.submit(start, profile, ["no-such-program"])),
            raised(pool.submit(start, profile, ["/etc/passwd"])),
            raised(pool.submit(start, sandbox.InheritGrant(name="x", inherit=0), ["true"])),
            raised(pool.submit(job, profile, "true", read=["/nowhere"])),
            [type(event).__name__ for event in pool.submit(told, profile).result()],
        ]
    with context.Pool(1) as pool:
        said.append(pool.apply(job, (profile, "echo pool")).stdout)
    with open(given, "wb") as file:
        pickle.dump(again, file)
    print(json.dumps(said, default=repr))


if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_values_go_through_pools_of_processes(method: str, tmp_path: Path) -> None:
    assert {"fork", "spawn", "forkserver"} == set(multiprocessing.get_all_start_methods())
    program, values = tmp_path / "program.py", tmp_path / "values"
    program.write_text(PROGRAM)
    values.write_bytes(pickle.dumps([value for _, value in VALUES]))
    done = subprocess.run(
        [sys.executable, "-P", program, method, values],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    back = pickle.loads(values.read_bytes())  # noqa: S301 - our own
    assert [seen(value) for value in back] == [seen(value) for _, value in VALUES]
    ended, checked, timed, missing, not_executable, refused, unseen, events, pooled = json.loads(done.stdout)
    assert "returncode=3, stdout='here\\n'" in ended
    assert (checked[0], checked[2]["returncode"], checked[2]["stdout"]) == ("CalledProcessError", 3, "x\n")
    assert (timed[0], timed[2]["timeout"]) == ("TimeoutExpired", 1)
    assert missing == [
        "CommandNotFoundError",
        "exec: no-such-program: No such file or directory; check the name and PATH, or show it: --execute PATH",
        {"step": "exec", "object": "no-such-program", "errno": 2, "returncode": None, "timeout": None, "stdout": None},
    ]
    assert (not_executable[0], not_executable[2]["errno"]) == ("CommandNotExecutableError", 13)
    assert refused[0] == "UsageError"
    assert "pickle InheritGrant" in refused[1]
    assert (unseen[0], unseen[2]["step"], unseen[2]["errno"]) == ("LaunchError", "view", 2)
    assert events == ["Started", "Exited"]
    assert pooled == "pool\n"

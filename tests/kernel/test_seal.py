"""Sealed files: they start what `sandbox run` would, resolve at the start, and refuse what is damaged."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import shutil
import struct
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox import seccomp, wire
from sandbox.allowlist import parse_bind, parse_peer
from sandbox.build import build
from sandbox.caller import Caller
from sandbox.errors import SandboxError
from sandbox.filesystem import FilesystemPolicy, Proc, View
from sandbox.grants import parse_grant
from sandbox.limits import Delegated
from sandbox.plan import OpCode, Plan
from sandbox.probe import launcher_path
from sandbox.profile import PATH_LISTS, ExecPolicy, NetworkMode, Profile, Scheduling, SharedNamespace, Tty
from sandbox.profile_files import default_search_path, load
from sandbox.resolve import Additions, for_caller
from sandbox.seal import assemble, take_apart
from tests.support.callers import niceness
from tests.support.processes import all_end, wait_for_descendants, watched
from tests.support.sealing import comparable, planned, sealed, sealed_file

SEARCH: Final = default_search_path({})
UNTRUSTED: Final = load("untrusted", search=SEARCH)
SEALED: Final = load("sealed", search=SEARCH)


def start(file: Path | str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401
    defaults: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "cwd": "/usr",
        "env": {"PATH": "/usr/bin:/bin", "HOME": "/x"},
    }
    return subprocess.run(
        [file, *arguments], capture_output=True, text=True, timeout=60, check=False, **{**defaults, **options}
    )  # fmt: skip


# The same plan as of `sandbox run`.

# Pure, slow, and of no interest here: each policy once.
seccomp_compile = functools.cache(seccomp.compile)


@pytest.fixture(autouse=True, scope="module")
def compiled_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seccomp, "compile", seccomp_compile)
        yield


def plan_of_run(
    loaded: Profile, command: Sequence[str], added: Additions, env: dict[str, str], cwd: str,
    delegated: Delegated | None = None,
) -> Plan | str:  # fmt: skip
    """Return what `sandbox run` would carry out in that folder and environment, or what it would refuse it with."""
    before = os.getcwd()
    os.chdir(cwd)
    try:
        caller = Caller.of_process(parent_pid=os.getpid(), environ=env)
        caller = replace(caller, interactive=False, delegated=delegated)
        return build(for_caller(loaded, caller, added), command, caller)
    except SandboxError as error:
        return str(error)
    finally:
        os.chdir(before)


def agree(tmp_path: Path, loaded: Profile, added: Additions, env: dict[str, str], cwd: str) -> Plan | str:
    """Hold a sealed file's plan against that of `sandbox run`; refused is refused."""
    file = sealed_file(tmp_path / "sealed", loaded, ["ls", "-l"], added)
    ours = planned(file, env=env, cwd=cwd)
    theirs = plan_of_run(loaded, ["ls", "-l"], added, env, cwd)
    if isinstance(ours, Plan) and isinstance(theirs, Plan):
        assert comparable(ours) == comparable(theirs)
    else:
        assert isinstance(ours, str), theirs
        assert isinstance(theirs, str), ours
    return ours


ENV: Final = {"PATH": "/usr/bin:/bin", "HOME": "/home/somebody"}


@pytest.mark.parametrize("name", ["untrusted", "sealed", "nested"])
@pytest.mark.parametrize("cwd", ["/usr", "/tmp", "/", "/usr/bin"])
def test_sealed_plan_is_that_of_run(tmp_path: Path, name: str, cwd: str) -> None:
    assert isinstance(agree(tmp_path, load(name, search=SEARCH), Additions(), ENV, cwd), Plan) or name == "nested"


@pytest.mark.parametrize(
    "env",
    [
        {}, {"PATH": ""}, {"PATH": "/a::/b/:/a"}, {"HOME": "/"}, {"HOME": ""}, {"HOME": "relative"}, {"HOME": "/usr"},
        {"TMPDIR": "/var/tmp", "XDG_RUNTIME_DIR": "/run/some"},
        {"PATH": "/bin", "MAKEFLAGS": "w", "SANDBOX_FD_X": "3", "LISTEN_FDS": "1", "NOTIFY_SOCKET": "/run/n"},
    ],
    ids=str,
)  # fmt: skip
def test_sealed_plan_follows_the_environment(tmp_path: Path, env: dict[str, str]) -> None:
    for keep in ((), ("MAKEFLAGS", "SANDBOX*", "LISTEN_FDS")):
        agree(tmp_path, UNTRUSTED, Additions(keep=keep), env, "/usr/share")


ADDED: Final = {
    "grants": Additions(grants=tuple(map(parse_grant, (
        "a=file:data", "b@9=file:/etc/hosts:append,create", "c=secret:env:TOKEN", "d=data:{home}", "e=copy:x/y",
        "f=inherit:7:read", "g=scratch:1M", "h=directory:.", "i=listen:unix:run.sock", "j=connect:unix:@name",
        "k=connect:tcp:127.0.0.1:80",
    )))),
    "view": Additions(filesystem=FilesystemPolicy(
        read=("a", "/etc"), write=("/var/tmp", "-gone"), tmpfs=("/tmp/x", "t"), private=("p/../q",), hide=("/etc/a",))),
    "chdir": Additions(chdir="/usr/lib", filesystem=FilesystemPolicy(read=("/usr/lib",))),
    "chdir below": Additions(chdir="lib"),
    "network": Additions(network=NetworkMode.LOOPBACK, limits={"memory": "1G", "timeout": "5s", "open_files": 99}),
    "variables": Additions(variables={"A": "/{home}", "PATH": "/bin:/usr/bin"}, keep=("TERM",)),
    "rules": Additions(
        allow=tuple(map(parse_peer, ("tcp:192.0.2.0/24:80-90", "udp:*:53"))), bind=(parse_bind("tcp:1"),)),
    "rules of ports": Additions(network=NetworkMode.HOST, allow=(parse_peer("tcp:*:443"),)),
    "terminal": Additions(tty=Tty.INHERIT, delegate=("dev-fd",)),
    "activation": Additions(activation=True, grants=(parse_grant("s=listen:unix:run.sock"),)),
}  # fmt: skip


@pytest.mark.parametrize("added", ADDED.values(), ids=ADDED)
def test_sealed_plan_has_what_the_command_line_adds(tmp_path: Path, added: Additions) -> None:
    assert isinstance(agree(tmp_path, UNTRUSTED, added, ENV, "/usr"), Plan)


@pytest.mark.parametrize(
    ("nice", "scheduling"), [(niceness(5), None), (None, Scheduling.BATCH), (niceness(5), Scheduling.IDLE)]
)
def test_sealed_priority_is_the_callers_where_the_profile_says_none(
    tmp_path: Path, nice: int | None, scheduling: Scheduling | None
) -> None:
    process = replace(UNTRUSTED.process, nice=nice, scheduling=scheduling, die_with_parent=True)
    agree(tmp_path, replace(UNTRUSTED, process=process), Additions(), ENV, "/usr")


def test_sealed_view_of_the_host_and_shared_namespaces(tmp_path: Path) -> None:
    host = FilesystemPolicy(view=View.HOST, read=("/usr", "{cwd}"), write=("{home}/w",))
    agree(tmp_path, replace(UNTRUSTED, filesystem=host), Additions(), ENV, "/usr/share")
    shared = replace(UNTRUSTED, filesystem=host, share=(SharedNamespace.MOUNT, SharedNamespace.PID))
    agree(tmp_path, shared, Additions(), ENV, "/usr/share")


@pytest.mark.parametrize(
    ("lists", "covered"),
    [
        ({"read": ("/usr",), "tmpfs": ("/usr/share",)}, False), ({"tmpfs": ("/usr",)}, True),
        ({"tmpfs": ("/usr",), "read": ("/usr/share",)}, False),
        ({"private": ("/usr",), "execute": ("/usr/bin",)}, False),
        ({"read": ("/",), "hide": ("/usr",)}, True), ({"hide": ("/usr/share/doc",)}, False),
        ({"tmpfs": ("/usr",), "hide": ("/usr/lib",), "read": ("/usr/lib/x", "/usr/share")}, False),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("chdir", [None, "/usr/share"])
def test_sealed_view_of_the_host_shows_what_lies_in_empty_folders(
    tmp_path: Path, lists: dict[str, tuple[str, ...]], covered: bool, chdir: str | None
) -> None:
    host = FilesystemPolicy(view=View.HOST, **lists)  # type: ignore[arg-type]
    process = replace(UNTRUSTED.process, chdir=chdir)
    cwd = "/" if chdir else "/usr/share"
    found = agree(tmp_path, replace(UNTRUSTED, filesystem=host, process=process), Additions(), ENV, cwd)
    reason = "sandbox: resolve: view: the working directory lies in what it hides or replaces; show that folder"
    assert isinstance(found, str) is covered
    assert not covered or str(found).startswith(reason)


_PATHS = st.sampled_from(
    ["{home}", "{cwd}", "{home}/a", "{cwd}/a", "{tmp}", "{runtime_dir}/s", "/", "/usr", "/usr/lib", "/usr/../usr/./a/",
     "/usr-x", "/tmp", "/dev", "/dev/shm", "/dev/null", "/proc", "/etc", "/etc/shadow", "/home", "/home/u", "/run/lock"]
)  # fmt: skip
_ENTRIES = st.tuples(st.sampled_from(["", "-"]), _PATHS).map("".join)
_LISTS = st.lists(_ENTRIES, max_size=3).map(tuple)
_OWN = st.builds(FilesystemPolicy, **dict.fromkeys(PATH_LISTS, _LISTS), proc=st.sampled_from(list(Proc))).filter(
    lambda view: not {"/", "-/"} & set(view.hide)  # such a view is refused when it is sealed
)
_ADDED_LISTS = st.lists(
    st.sampled_from(["/usr", "/home/u", "a", "b/../a", "/dev/shm", "/tmp", "-/etc", ".", "/usr/share", "/"]), max_size=2
).map(tuple)
_ADDED = st.builds(FilesystemPolicy, **dict.fromkeys(PATH_LISTS, _ADDED_LISTS)).filter(
    lambda view: "/" not in view.hide
)


@settings(max_examples=200)
@given(
    own=_OWN,
    added=_ADDED,
    home=st.sampled_from(["/usr", "/usr/share", "/home/u", "/", "/root"]),
    cwd=st.sampled_from(["/", "/usr", "/usr/share", "/tmp"]),
    chdir=st.sampled_from([None, None, "/usr", "share"]),
)
def test_sealed_view_is_that_of_run_whatever_lies_in_what(
    tmp_path_factory: pytest.TempPathFactory,
    own: FilesystemPolicy, added: FilesystemPolicy, home: str, cwd: str, chdir: str | None,
) -> None:  # fmt: skip
    loaded = replace(SEALED, filesystem=own, process=replace(SEALED.process, chdir=None))
    extra = Additions(filesystem=added, chdir=chdir)
    env = {"HOME": home, "TMPDIR": "/var/tmp"}
    agree(tmp_path_factory.mktemp("view"), loaded, extra, env, cwd)


# What it does.


def test_sealed_file_alone_starts_its_command_anywhere(tmp_path: Path) -> None:
    """Copied to where nothing else of ours is, and started from there: it needs neither Python nor a profile."""
    file = sealed_file(tmp_path / "sealed", UNTRUSTED, ["sh", "-c", 'pwd; cat numbers; echo "$@"; ls -A ~', "sh"])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "numbers").write_text("1 2\n")
    moved = shutil.copy(file, elsewhere / "command")
    done = start(
        "./command", "more", "--sandbox-explain", cwd=elsewhere, env={"HOME": "/home/nobody", "PATH": "/usr/bin"}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{elsewhere}\n1 2\nmore --sandbox-explain\n"
    assert Path(moved).exists()


def test_sealed_file_without_a_command_takes_that_of_the_start(tmp_path: Path) -> None:
    file = sealed_file(tmp_path / "sealed", UNTRUSTED)
    assert start(file, "echo", "{fd:x}").stdout == "{fd:x}\n"
    assert start(file, "/usr/bin/env", "true").returncode == 0
    missing = start(file, "no-such-program")
    assert (missing.returncode, missing.stdout) == (127, "")
    none = start(file)
    assert (none.returncode, none.stdout) == (125, "")
    assert none.stderr == "sandbox: resolve: command: there is none; give one: FILE COMMAND [ARGUMENT ...]\n"


def test_sealed_file_gives_grants_and_closes_the_rest(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("granted\n")
    added = Additions(grants=(parse_grant("d@5=file:data"),))
    file = sealed_file(
        tmp_path / "sealed", UNTRUSTED, ["sh", "-c", "cat <&5; ls /proc/self/fd | sort -n | tr '\\n' ' '"], added
    )
    with open("/etc/hosts", "rb") as leaked:
        done = start(file, cwd=tmp_path, pass_fds=[leaked.fileno()])
    assert (done.stdout, done.returncode) == ("granted\n0 1 2 3 ", 0)
    missing = start(file, cwd="/usr")
    assert (missing.returncode, missing.stdout) == (125, "")
    assert "grant d: file /usr/data: No such file or directory" in missing.stderr


@pytest.mark.parametrize("number", [3, 4, 5])
def test_sealed_file_finds_a_closed_descriptor_missing_whatever_it_has_open_itself(tmp_path: Path, number: int) -> None:
    added = Additions(grants=(parse_grant(f"in=inherit:{number}"),))
    file = sealed_file(tmp_path / "sealed", UNTRUSTED, ["true"], added)
    done = start(file)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith(f"sandbox: inherit: grant in: descriptor {number}: Bad file descriptor")
    assert start("sh", "-c", f"exec {file} {number}</dev/null").returncode == 0


def test_sealed_file_with_closed_streams_has_the_null_device(tmp_path: Path) -> None:
    file = sealed_file(tmp_path / "sealed", UNTRUSTED, ["sh", "-c", "readlink /proc/self/fd/0 /proc/self/fd/2"])
    assert start("sh", "-c", f"exec {file} <&- 2>&-").stdout == "/dev/null\n/dev/null\n"


def test_sealed_rules_let_their_peer_be_reached_and_no_other(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(2):
            server = stack.enter_context(http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            ports.append(server.server_port)
        added = Additions(allow=(parse_peer(f"tcp:127.0.0.1:{ports[0]}"),))
        curl = ["curl", "--noproxy", "*", "-sS", "-o", "/dev/null", "-w", "%{http_code}"]
        file = sealed_file(tmp_path / "sealed", UNTRUSTED, curl, added)
        reached, refused = (start(file, f"http://127.0.0.1:{port}/") for port in ports)
    assert (reached.returncode, reached.stdout, reached.stderr) == (0, "200", "")
    assert (refused.returncode, refused.stdout) == (7, "000")  # could not connect


def test_sealed_command_that_executes_nothing_more(tmp_path: Path) -> None:
    once = replace(UNTRUSTED, process=replace(UNTRUSTED.process, exec=ExecPolicy.ONCE))
    shell = ["sh", "-c", "echo started; /bin/true && echo executed"]
    assert start(sealed_file(tmp_path / "once", once, shell)).stdout == "started\n"
    assert start(sealed_file(tmp_path / "more", UNTRUSTED, shell)).stdout == "started\nexecuted\n"


def test_sealed_file_in_a_home_folder_refuses_to_show_it(tmp_path: Path) -> None:
    file = sealed_file(tmp_path / "sealed", UNTRUSTED, ["ls"])
    project = tmp_path / "project"
    project.mkdir()
    shown = start(file, cwd=project, env={"HOME": str(tmp_path), "PATH": "/usr/bin"})
    assert shown.returncode == 0
    refused = start(file, cwd=tmp_path, env={"HOME": str(tmp_path), "PATH": "/usr/bin"})
    assert (refused.returncode, refused.stdout) == (125, "")
    assert "the working directory would show all of your home folder" in refused.stderr


def test_sealed_file_where_the_working_directory_is_gone(tmp_path: Path) -> None:
    file = sealed_file(tmp_path / "sealed", UNTRUSTED, ["ls"])
    gone = tmp_path / "gone"
    gone.mkdir()
    done = start("sh", "-c", f"cd {gone} && rmdir {gone} && exec {file}")
    assert (done.returncode, done.stdout) == (125, "")
    assert "the working directory is gone" in done.stderr


def test_sealed_profile_that_cannot_hold_root_refuses_root(tmp_path: Path) -> None:
    limited = Additions(limits={"processes": 20})
    for loaded, added in ((load("nested", search=SEARCH), Additions()), (UNTRUSTED, limited)):
        done = start(sealed_file(tmp_path / "sealed", loaded, ["true"], added))
        if os.geteuid() == 0:
            assert (done.returncode, done.stdout) == (125, "")
            assert "hold root" in done.stderr or "hold for root" in done.stderr
        else:
            assert done.returncode == 0, done.stderr


def test_sealed_user_is_whom_root_becomes_and_nobody_else(tmp_path: Path) -> None:
    added = Additions(user="65533", group="65532")
    done = start(sealed_file(tmp_path / "sealed", UNTRUSTED, ["id", "-u"], added))
    if os.geteuid() == 0:
        assert (done.returncode, done.stdout) == (0, "65533\n")
    else:
        assert (done.returncode, done.stdout) == (125, "")
        assert "only root can become another" in done.stderr
    own = Additions(user=str(os.geteuid()), group=str(os.getegid()))
    assert start(sealed_file(tmp_path / "own", UNTRUSTED, ["id", "-u"], own)).stdout == f"{os.geteuid()}\n"


def test_sealed_file_takes_what_a_service_manager_passes(tmp_path: Path) -> None:
    added = Additions(grants=(parse_grant("web@7=inherit:systemd:http"),), activation=False)
    file = sealed_file(tmp_path / "sealed", UNTRUSTED, ["sh", "-c", "readlink /proc/self/fd/7"], added)

    def passed(names: str, count: int = 2, pid: str = "$$") -> subprocess.CompletedProcess[str]:
        script = f"export LISTEN_FDS={count} LISTEN_PID={pid} LISTEN_FDNAMES={names}; exec {file} 3</dev/null 4<&0"
        return start("sh", "-c", script, stdin=subprocess.PIPE)

    assert passed("http:other").stdout == "/dev/null\n"
    assert passed("other:http").stdout.startswith("pipe:")
    for refused in (passed("a:b"), passed("http:http"), passed("http"), passed("http:b:c"), passed("http:b", pid="1")):
        assert (refused.returncode, refused.stdout) == (125, "")
        assert "no service manager has passed one descriptor of that name" in refused.stderr


def test_sealed_file_ends_with_its_parent_where_the_profile_says_so(tmp_path: Path) -> None:
    loaded = replace(UNTRUSTED, process=replace(UNTRUSTED.process, die_with_parent=True))
    file = sealed_file(tmp_path / "sealed", loaded, ["sleep", "1000"])
    with (
        subprocess.Popen(["sh", "-c", f"{file} & wait"]) as parent,
        watched(*wait_for_descendants(parent.pid, "sleep")) as ends,
    ):
        parent.kill()
        assert all_end(ends)


# Explaining, and being taken apart again.


def test_sealed_file_explains_itself_and_starts_nothing(tmp_path: Path) -> None:
    file = sealed_file(tmp_path / "sealed", UNTRUSTED, ["touch", "/var/tmp/x"])
    done = start(file, "--sandbox-explain")
    assert (done.returncode, done.stderr, done.stdout) == (
        0,
        "",
        sealed(UNTRUSTED, ["touch", "/var/tmp/x"]).explanation,
    )
    assert "{cwd}: read, execute" in done.stdout
    full = start("sh", "-c", f"exec {file} --sandbox-explain >/dev/full")
    assert (full.returncode, full.stderr) == (125, "sandbox: seal: No space left on device\n")


def test_sealing_is_reproducible_and_reversible() -> None:
    launcher = launcher_path().read_bytes()
    one, other = (assemble(launcher, sealed(UNTRUSTED, ["ls"], ADDED["grants"])) for _ in range(2))
    assert one == other
    assert take_apart(one, "file") == sealed(UNTRUSTED, ["ls"], ADDED["grants"])


def test_sealed_profile_sealed_again_is_the_same_template(tmp_path: Path) -> None:
    """What unseal prints is a profile, and it grants just what the file does."""
    text = sealed(UNTRUSTED, ["ls"], ADDED["grants"]).profile
    (tmp_path / "again.toml").write_text(text)
    again = load(str(tmp_path / "again.toml"), search=SEARCH)
    env = {**ENV, "TOKEN": "x"}
    ours = planned(sealed_file(tmp_path / "again", again, ["ls"]), env=env, cwd="/usr")
    theirs = planned(sealed_file(tmp_path / "first", UNTRUSTED, ["ls"], ADDED["grants"]), env=env, cwd="/usr")
    assert isinstance(ours, Plan)
    assert isinstance(theirs, Plan)
    assert comparable(ours) == comparable(theirs)


# Damage.


def test_sealed_file_with_any_byte_changed_starts_nothing(tmp_path: Path) -> None:
    """Each tenth of the parts behind the launcher, and places in the launcher that no check of its own runs through."""
    whole = assemble(launcher_path().read_bytes(), sealed(UNTRUSTED, ["echo", "started"]))
    first = len(launcher_path().read_bytes())
    file = tmp_path / "sealed"
    for at in (*range(first, len(whole), (len(whole) - first) // 40), len(whole) - 1, whole.find(b"sandbox: ")):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :])
        file.chmod(0o755)
        done = start(file)
        assert (done.returncode, done.stdout) == (125, ""), at
        assert done.stderr.endswith(": seal: this file was changed, cut short or added to since it was sealed\n"), at
        with pytest.raises(SandboxError, match="was changed, cut short or added to"):
            take_apart(file.read_bytes(), "sealed")
    file.write_bytes(whole)
    assert start(file).stdout == "started\n"


@pytest.mark.parametrize("cut", [1, 8, 5000, -1, -8])
def test_sealed_file_cut_short_or_added_to_starts_nothing(tmp_path: Path, cut: int) -> None:
    whole = assemble(launcher_path().read_bytes(), sealed(UNTRUSTED, ["echo", "started"]))
    file = tmp_path / "sealed"
    file.write_bytes(whole[:-cut] if cut > 0 else whole + b"\0" * -cut)
    file.chmod(0o755)
    done = start(file)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == "sandbox: seal: this file was changed, cut short or added to since it was sealed\n"
    with pytest.raises(SandboxError, match="was changed, cut short or added to"):
        take_apart(file.read_bytes(), "sealed")


def with_field(whole: bytes, index: int, value: int) -> bytes:
    """Return a sealed file with one number of its seal replaced, and a checksum that is right."""
    data = bytearray(whole)
    place = data.find(b"sandbox-sealed:\n")
    struct.pack_into("<Q", data, place + 16 + 8 * index, value)
    struct.pack_into("<Q", data, place + 40, 0)
    struct.pack_into("<Q", data, place + 40, wire.checksum(bytes(data), skipped=(place + 40) // 8))
    return bytes(data)


@pytest.mark.parametrize(
    ("index", "value", "reason"),
    [
        (0, 2, "it was sealed in another format"),
        (4, 1 << 40, "its parts do not fit"),
        (4, 8 * 5 + 1, "its parts do not fit"),
        (5, 1 << 40, "its parts do not fit"),
        (6, 1 << 63, "its parts do not fit"),
        (7, 1 << 63, "its parts do not fit"),
        (4, 0, "this is not a plan"),
        (5, 8, "its size is impossible"),
    ],
)
def test_sealed_file_of_another_make_starts_nothing(tmp_path: Path, index: int, value: int, reason: str) -> None:
    whole = assemble(launcher_path().read_bytes(), sealed(UNTRUSTED, ["echo", "started"]))
    file = tmp_path / "sealed"
    file.write_bytes(with_field(whole, index, value))
    file.chmod(0o755)
    done = start(file)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr in (f"sandbox: seal: {reason}\n", f"sandbox: plan: {reason}\n")
    file.write_bytes(with_field(whole, 0, 1))
    assert start(file).stdout == "started\n"


def test_sealed_file_needs_the_kernel_that_it_was_sealed_for(tmp_path: Path) -> None:
    made = sealed(UNTRUSTED, ["echo", "started"])
    records = tuple(
        replace(line, a=99) if line.describe().startswith("needs") else line for line in made.template.records
    )
    newer = replace(made, template=replace(made.template, records=records))
    file = tmp_path / "sealed"
    file.write_bytes(assemble(launcher_path().read_bytes(), newer))
    file.chmod(0o755)
    done = start(file)
    assert (done.returncode, done.stdout) == (125, "")
    assert "an older kernel than the one that it was sealed for; its Landlock ABI is " in done.stderr


def test_launcher_itself_is_not_sealed(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="it is no sealed file"):
        take_apart(launcher_path().read_bytes(), "launcher")
    plan = planned(sealed_file(tmp_path / "sealed", UNTRUSTED, ["ls"]), env=ENV, cwd="/usr")
    assert isinstance(plan, Plan)
    assert [op.data for op in plan.only(OpCode.COMMAND)] == [b"/usr/bin/ls", b"/bin/ls"]

"""Whatever goes wrong before the command runs: one line, the right code, no traceback, nothing started."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import pytest

Run: TypeAlias = Callable[..., "subprocess.CompletedProcess[str]"]
# sandbox: <step>: <object>: <reason>; <hint>
FORM = re.compile(r"sandbox: [a-z_]+: .+: .+; .+\n\Z")


COMMANDS: Final = (
    "run, learn, check, diff, explain, seal, unseal, unit, export, survey, probe, profiles, install, cache, "
    "completion, man"
)


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        ([], 125, f"usage: sandbox COMMAND: missing; one of {COMMANDS}"),
        (["rnu"], 125, "usage: rnu: no such command; did you mean run?"),
        (["zzz"], 125, f"usage: zzz: no such command; one of {COMMANDS}"),
        (["--nothing"], 125, "usage: --nothing: no such option; see 'sandbox --help'"),
        (["run"], 125, "usage: COMMAND: missing; see 'sandbox run --help'"),
        (["run", "--"], 125, "usage: COMMAND: missing; see 'sandbox run --help'"),
        (["run", "--grnat", "x", "true"], 125, "usage: --grnat: no such option; did you mean --grant?"),
        (["run", "-p"], 125, "usage: -p: it requires an argument; see 'sandbox *--help'"),
        (["run", "--status-fd", "x", "true"], 125, "usage: --status-fd: 'x' is not a valid integer; *"),
        (["run", "--status-fd", "-1", "true"], 125, "usage: --status-fd: -1 is not a descriptor; *"),
        (["run", "--status-fd", "99", "true"], 125, "status: status descriptor 99: Bad file descriptor; *"),
        (["run", "--status-fd", "3", "true"], 125, "status: status descriptor 3: Bad file descriptor; *"),
        (["run", "-p", "untrustd", "true"], 125, "profile: untrustd: *; did you mean 'untrusted'? *"),
        (["run", "-p", "./x.toml", "true"], 125, "profile: *x.toml: No such file or directory; *"),
        (["run", "--grant", "log", "true"], 125, "grant: log: cannot read 'log'; write NAME*"),
        (["run", "--grant", "log=flie:/x", "true"], 125, "grant: log: cannot read 'log=flie:/x'; write NAME*"),
        (["run", "--grant", "log=inherit:77", "true"], 125, "inherit: grant log: descriptor 77: Bad file *; *"),
        (["run", "--grant", "log=inherit:3", "true"], 125, "inherit: grant log: descriptor 3: Bad file *; *"),
        (["run", "--grant", "log=file:/x/y", "true"], 125, "open: grant log: file /x/y: No such file or directory; *"),
        (["run", "--grant", "log=file:/etc", "true"], 125, "open: grant log: file /etc: *; *"),
        (["run", "--grant", "a=inherit:1", "--grant", "a=inherit:2", "true"], 125, "grant: a: *twice*; *"),
        (["run", "--grant", "a@9=file:/etc/passwd", "--grant", "b@9=inherit:0", "true"], 125, "grant: b: *twice*; *"),
        (["run", "--grant", "s=secret:env:ABSENT", "true"], 125, "secret: grant s: variable ABSENT: *not set; *"),
        (["run", "echo", "{fd:nope}"], 125, "grant: nope: no such grant, in argument '{fd:nope}'; declared: none"),
        (["run", "--env", "=x", "true"], 125, "profile: command line: *; *"),
        (["run", "--chdir", "/nowhere", "true"], 125, "view: /nowhere: No such file or directory; *"),
        (["run", "-p", "sealed", "--chdir", "/home/", "true"], 125, "chdir: /home: it is not in the view; show it: *"),
        *((["run", f"--{name}", "/no/where", "true"], 125, "view: /no/where: No such file or directory; *")
          for name in ("read", "write", "execute", "private", "hide")),
        *((["run", f"--{name}", "", "true"], 125, "profile: command line: '' is no path; *")
          for name in ("read", "write", "execute", "tmpfs", "private", "hide")),
        (["run", "--tmpfs", "/usr/no/where", "true"], 125, "view: /usr/no/where: No such file or directory; *make it*"),
        (["run", "--tmpfs", "/etc/passwd", "true"], 125, "view: /etc/passwd: Invalid argument; it takes a folder*"),
        (["run", "--net", "nat", "true"], 125, "usage: --net: 'nat' is not one of 'none', 'loopback', 'host', *; *"),
        (["run", "--net-allow", "db:80", "true"], 125, "usage: --net-allow db:80: 'db' is neither tcp nor udp; *"),
        (["run", "--net-allow", "tcp:a:0", "true"], 125, "usage: --net-allow tcp:a:0: '0': not 1 to 65535*; *"),
        (["run", "--net-allow", "tcp:*:1", "--net-allow", "tcp:::1:1", "true"], 125,
         "usage: --net-allow tcp:::1:1: '::1': brackets are for IPv6 *; *"),
        (["run", "--net-bind", "tcp:a:1", "true"], 125, "usage: --net-bind tcp:a:1: 'a' is no address; *"),
        (["run", "--net-allow", "tcp:no.such.invalid:1", "true"], 125,
         "usage: network.allow: tcp:no.such.invalid:1: host no.such.invalid: *; give its address*"),
        (["run", "--net-allow", "tcp:localhost:1", "true"], 125,
         "usage: network.allow: tcp:localhost:1: host localhost is *: this host itself; no name leads there; *"),
        (["run", "--net", "host", "--dns", "true"], 125, "profile: *untrusted.toml: network.dns: with mode host *; *"),
        (["run", "--net", "host", "--net-allow", "tcp:127.0.0.1:1", "true"], 125,
         "profile: *untrusted.toml: network.allow[0]: 'tcp:127.0.0.1:1': in mode host *; *"),
        (["run", "--net", "host", "--net-bind", "udp:1", "true"], 125,
         "profile: *untrusted.toml: network.allow_bind[0]: 'udp:1': in mode host *; *"),
        (["run", "--net", "host", "--net-allow", "tcp:*:1-2000", "true"], 125,
         "usage: network.allow: they are 2000 ports, *; name fewer ports, or * for all"),
        (["run", "--tty", "own", "true"], 125, "usage: --tty: 'own' is not one of 'none', 'private', *; *"),
        (["run", "--share", "net", "true"], 125, "usage: --share: 'net' is not one of 'user', 'mount', *; *"),
        (["run", "--share", "pid", "true"], 125, "profile: *untrusted.toml: namespaces.share: /proc shows *; *"),
        (["run", "--share", "mount", "true"], 125, "profile: *untrusted.toml: namespaces.share: the view needs *; *"),
        (["run", "--limit", "memory", "true"], 125, "usage: --limit memory: it is no NAME=VALUE; *"),
        (["run", "--limit", "memroy=1G", "true"], 125, "usage: limit memroy: there is no such limit; known here: *"),
        (["run", "--limit", "memory=much", "true"], 125, "usage: limit memory: 'much': it is not a size; *512M"),
        (["run", "--limit", "memory=1", "true"], 125, "usage: limit memory: 1 is out of range; from 4K to *"),
        (["run", "--limit", "open_files=few", "true"], 125, "usage: limit open_files: 'few': it is no number *; *"),
        (["run", "--limit", "cpu_time=1500ms", "true"], 125, "usage: limit cpu_time: '1500ms': *whole seconds; *"),
        (["run", "--timeout", "soon", "true"], 125, "usage: limit timeout: 'soon': it is not a duration; *30s"),
        (["run", "--timeout", "0", "true"], 125, "usage: limit timeout: 0ms is out of range; from 1ms *"),
        (["run", "--user", "", "true"], 125, "usage: --user : a name is missing; as in --user nobody *"),
        (["run", "--user", "nobody:", "true"], 125, "usage: --user nobody:: a name is missing; as in *"),
        (["run", "--user", "no-such-user", "true"], 125, "usage: user no-such-user: there is no such user; *"),
        (["run", "--user", "nobody:no-such", "true"], 125, "usage: group no-such: there is no such group; *"),
        (["run", "--user", "4000001", "true"], 125, "usage: user 4000001: *group; name one: 4000001:GROUP"),
        (["run", ""], 125, "usage: command: it is empty; *"),
        (["run", "no-such-program"], 127, "exec: no-such-program: No such file or directory; *"),
        (["run", "/no/such/program"], 127, "exec: /no/such/program: No such file or directory; *"),
        (["run", "/etc/passwd"], 126, "exec: /etc/passwd: Permission denied; *"),
        (["run", "/etc"], 126, "exec: /etc: Permission denied; *"),
        (["run", "-p", "base", "--chdir", "/", "true"], 127, "exec: true: No such file or directory; *"),
        (["run", "-p", "base", "true"], 125, "chdir: /*: it is not in the view; show it: --read /*; or *"),
        (["check", "sealde"], 125, "profile: sealde: *; did you mean 'sealed'? *"),
        (["explain", "-p", "sealde"], 125, "profile: sealde: *; did you mean 'sealed'? *"),
        (["explain", "--", ""], 125, "usage: command: it is empty; *"),
        (["profiles", "lst"], 125, "usage: lst: no such command; did you mean list?"),
        (["profiles", "show", "sealde"], 125, "profile: sealde: *"),
        (["survey"], 125, "usage: COMMAND: missing; see 'sandbox survey --help'"),
        (["survey", "no-such-program"], 127, "exec: no-such-program: No such file or directory; *"),
        (["survey", "/etc/passwd"], 126, "exec: /etc/passwd: Permission denied; *"),
        (["survey", "-o", "/no/file", "true"], 125, "usage: --output: /no/file: No such file or directory; *"),
        (["probe", "extra"], 125, "usage: arguments: got unexpected extra argument (extra); *"),
        (["completion", "csh"], 125, "usage: SHELL: 'csh' is not one of 'bash', 'zsh', 'fish'; *"),
    ],
)  # fmt: skip
def test_error_is_one_line_in_our_form(sandbox: Run, arguments: list[str], code: int, line: str) -> None:
    done = sandbox(*arguments)
    assert done.returncode == code
    assert done.stdout == ""
    assert FORM.match(done.stderr), done.stderr
    wanted = ".*".join(re.escape(part) for part in f"sandbox: {line}\n".split("*"))
    assert re.fullmatch(wanted, done.stderr), done.stderr


def test_error_holds_no_control_characters(sandbox: Run) -> None:
    done = sandbox("run", "-p", "x\n\x1b[31m", "true")
    assert done.returncode == 125
    assert done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr


def test_error_with_a_name_that_is_no_text_is_no_traceback(sandbox: Run) -> None:
    for arguments in (["run", b"\xff"], ["run", "-p", b"\xff", "true"], [b"\xff"], ["explain", "--", b"\xff"]):
        done = sandbox(*arguments, errors="surrogateescape")
        assert "Traceback" not in done.stderr
        assert done.stderr.count("\n") == (0 if arguments[0] == "explain" else 1)


def test_error_starts_nothing(sandbox: Run, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    touch = ["--write", str(tmp_path), "--", "sh", "-c", f"echo ran >{mark}"]
    assert sandbox("run", "--grant", "x=file:/nowhere", *touch).returncode == 125
    assert sandbox("run", "--read", "/nowhere", *touch).returncode == 125
    assert sandbox("run", "--dry-run", *touch).returncode == 0
    assert sandbox("explain", *touch).returncode == 0
    assert sandbox("survey", "-o", "/nowhere/file", *touch[2:]).returncode == 125
    assert not mark.exists()
    assert sandbox("run", *touch).returncode == 0
    assert mark.exists()


# ---- output that cannot be written


@pytest.mark.parametrize(
    "command",
    [
        "explain", "probe", "profiles list", "check sealed", "completion bash", "run --dry-run true", "survey true",
        "--help",
    ],
)  # fmt: skip
@pytest.mark.parametrize("stdout", [">&-", ">/dev/full"])
def test_output_that_is_lost_is_an_error(shell: Run, command: str, stdout: str) -> None:
    done = shell(f"sandbox {command} {stdout}")
    assert done.returncode == 125
    assert re.fullmatch(r"sandbox: output: standard output: .*; .*\n", done.stderr)
    assert shell(f"sandbox {command} >/dev/null").returncode == 0


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
def test_message_that_is_lost_leaves_the_code(shell: Run, stderr: str) -> None:
    assert shell(f"sandbox run -p nothing true {stderr}").returncode == 125
    assert shell(f"sandbox nothing {stderr}").returncode == 125
    assert shell(f"sandbox run no-such-program {stderr}").returncode == 127
    assert shell(f"sandbox run sh -c 'exit 3' {stderr}").returncode == 3


def test_output_into_a_pipe_that_ends_is_silent(shell: Run) -> None:
    done = shell("sandbox explain | head -1; echo ${PIPESTATUS[0]}")
    assert done.stderr == ""
    assert done.stdout.splitlines()[1] in {"0", "141"}
    done = shell("set -o pipefail; sandbox explain | cat >/dev/null")
    assert (done.returncode, done.stderr) == (0, "")


# ---- interrupted


def test_interrupt_before_the_start_ends_without_traceback(
    sandbox_command: Sequence[str], environment: Mapping[str, str]
) -> None:
    # It hangs writing its table: the pipe is full and nobody reads.
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write_end, b"x" * 4096)
    os.set_blocking(write_end, True)
    process = subprocess.Popen([*sandbox_command, "run", "-v", "true"], stderr=write_end, env=dict(environment))
    os.close(write_end)
    deadline = time.monotonic() + 60
    while not Path(f"/proc/{process.pid}/syscall").read_text().startswith("1 0x2 "):  # write(2, ...)
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == -signal.SIGINT  # a shell shows 130
    with open(read_end) as file:
        assert set(file.read()) == {"x"}


def test_interrupt_shows_as_130_in_a_shell(shell: Run) -> None:
    assert shell("sandbox run sh -c 'kill -INT $$'; echo $?").stdout == "130\n"

"""Delegation protocols: the known ways in which an exec names the descriptors that it passes, as data.

A protocol is a list of rules; each says where a number stands and in what form. The launcher matches them against the
arguments and the environment of every exec (names.c); what is named goes along, everything else is closed.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final


class Place(enum.IntEnum):
    """What a rule looks at (plan.h, enum name_place)."""

    VARIABLE = 1
    ARGUMENT = 2
    NEXT_ARGUMENT = 3
    PROGRAM = 4
    CALLER_ARGUMENT = 5


class Shape(enum.IntEnum):
    """How the numbers stand behind the needle (plan.h, enum name_shape).

    number: one. list: several, separated by comma, semicolon, colon or blank. count: how many, from 3 up. fixed: the
    rule's own numbers, whatever stands there. all: everything that the program left open; for programs that mark what
    they do not mean to pass, and name what they do only inside their own data.
    """

    NUMBER = 1
    LIST = 2
    COUNT = 3
    FIXED = 4
    ALL = 5


@dataclass(frozen=True, slots=True)
class ProtocolRule:
    """One place where a descriptor may be named.

    needle: the text before the numbers; for NEXT_ARGUMENT the whole argument before. program: the last component of
    the executed path, or, for CALLER_ARGUMENT, of the path of the program that executes; "" for any. anywhere: the
    needle may stand inside the text, not only at its start.
    """

    place: Place
    shape: Shape
    needle: str = ""
    variable: str = ""
    program: str = ""
    anywhere: bool = False
    numbers: tuple[int, ...] = ()

    def describe(self) -> str:
        """Return the rule in words."""
        numbers = "all that is open" if self.shape is Shape.ALL else ", ".join(map(str, self.numbers))
        form = {Shape.NUMBER: "N", Shape.LIST: "N,N...", Shape.COUNT: "COUNT"}.get(self.shape, "")
        before = ("..." if self.anywhere else "") + self.needle
        argument = f"argument {before}{form}" if before or form else "any argument"
        where = {
            Place.VARIABLE: f"variable {self.variable}={before}{form}",
            Place.ARGUMENT: argument,
            Place.NEXT_ARGUMENT: f"argument {form} after {self.needle}" if form else f"argument after {self.needle}",
            Place.PROGRAM: "any exec",
            Place.CALLER_ARGUMENT: f"{argument} of the caller",
        }[self.place]
        kept = " " if self.place is Place.CALLER_ARGUMENT else " of "
        of = kept + self.program if self.program else ""
        return f"{where}{of}" + (f": {numbers}" if numbers else "")


@dataclass(frozen=True, slots=True)
class Protocol:
    """A named protocol; `source` says where it is documented or which program's behaviour it is.

    names: its rules go by what is named; otherwise by who executes, and what was left open by carelessness passes too.
    """

    name: str
    purpose: str
    source: str
    rules: tuple[ProtocolRule, ...]
    names: bool = True


def _variables(*names: str, needle: str = "", shape: Shape = Shape.LIST) -> tuple[ProtocolRule, ...]:
    return tuple(ProtocolRule(Place.VARIABLE, shape, needle, name, anywhere=bool(needle)) for name in names)


def _options(*names: str) -> tuple[ProtocolRule, ...]:
    """`--name=N` and `--name N`."""
    return tuple(
        rule
        for name in names
        for rule in (
            ProtocolRule(Place.ARGUMENT, Shape.NUMBER, f"{name}="),
            ProtocolRule(Place.NEXT_ARGUMENT, Shape.NUMBER, name),
        )
    )


def _inside(*needles: str, shape: Shape = Shape.NUMBER) -> tuple[ProtocolRule, ...]:
    return tuple(ProtocolRule(Place.ARGUMENT, shape, needle, anywhere=True) for needle in needles)


def _whatever_starts(program: str) -> ProtocolRule:
    """All that a program left open, at every exec that it makes."""
    return ProtocolRule(Place.CALLER_ARGUMENT, Shape.ALL, program=program)


_JOBSERVER_VARIABLES: Final = ("MAKEFLAGS", "MFLAGS", "CARGO_MAKEFLAGS")
_ALL: Final = (
    Protocol(
        "pass-fds",
        "the explicit act for new programs: SANDBOX_PASS_FDS=3,5",
        "docs/descriptors.md",
        _variables("SANDBOX_PASS_FDS"),
    ),
    Protocol(
        "dev-fd",
        "process substitution and descriptors named as files",
        "bash(1) and zsh(1), process substitution; proc_pid_fd(5)",
        _inside("/dev/fd/", "/proc/self/fd/"),
    ),
    Protocol(
        "jobserver",
        "make's token pipe, for sub-makes, cargo and compilers",
        "GNU make manual, POSIX Jobserver Interaction; jobserver crate",
        (
            *_variables(*_JOBSERVER_VARIABLES, needle="--jobserver-auth="),
            *_variables(*_JOBSERVER_VARIABLES, needle="--jobserver-fds="),
        ),
    ),
    Protocol(
        "listen-fds",
        "socket activation",
        "sd_listen_fds(3)",
        (ProtocolRule(Place.VARIABLE, Shape.COUNT, "", "LISTEN_FDS"),),
    ),
    Protocol(
        "gpg",
        "GnuPG's status, passphrase, command, logger and attribute descriptors",
        "gpg(1), --status-fd and the like",
        _options(
            "--status-fd",
            "--passphrase-fd",
            "--command-fd",
            "--logger-fd",
            "--attribute-fd",
            "--override-session-key-fd",
        ),
    ),
    Protocol(
        "fd-value",
        "fd:N as a value: openssl -passin fd:N",
        "openssl-passphrase-options(1)",
        (ProtocolRule(Place.ARGUMENT, Shape.NUMBER, "fd:"), ProtocolRule(Place.ARGUMENT, Shape.NUMBER, "FD:")),
    ),
    Protocol(
        "node-channel",
        "Node's channel between parent and forked child",
        "nodejs.org, child_process, NODE_CHANNEL_FD",
        (ProtocolRule(Place.VARIABLE, Shape.NUMBER, "", "NODE_CHANNEL_FD"),),
    ),
    Protocol(
        "python-multiprocessing",
        "Python's multiprocessing: spawn, forkserver, resource tracker",
        "CPython Lib/multiprocessing: popen_spawn_posix.py, forkserver.py, resource_tracker.py",
        (
            # The pickled arguments hold numbers of their own, which nothing outside can read; what a Python process
            # does not pass on purpose is close-on-exec (PEP 446).
            ProtocolRule(Place.ARGUMENT, Shape.ALL, "--multiprocessing-fork"),
            *_inside("multiprocessing.resource_tracker import main;main("),
            *_inside("multiprocessing.forkserver import main; main(", shape=Shape.LIST),
        ),
    ),
    Protocol(
        "wayland-socket",
        "a connected Wayland display",
        "wayland(7), WAYLAND_SOCKET",
        (ProtocolRule(Place.VARIABLE, Shape.NUMBER, "", "WAYLAND_SOCKET"),),
    ),
    Protocol("displayfd", "an X server tells its display number", "Xserver(1), -displayfd", _options("-displayfd")),
    Protocol(
        "git-remote-fd",
        "git remote fd::R,W",
        "git-remote-fd(1); transport-helper.c",
        (
            ProtocolRule(Place.ARGUMENT, Shape.LIST, "fd::"),
            # It starts its helper with the address but for "fd::": a list that could be anything.
            ProtocolRule(Place.CALLER_ARGUMENT, Shape.LIST, "fd::", program="git"),
        ),
    ),
    Protocol(
        "apt",
        "dpkg's and apt's status and hook descriptors",
        "dpkg(1) --status-fd; apt.conf(5) DPkg::Pre-Install-Pkgs, APT::Status-Fd",
        (
            *_options("--status-fd"),
            *_inside("APT::Status-Fd=", "APT::Keep-Fds::="),
            ProtocolRule(Place.VARIABLE, Shape.NUMBER, "", "APT_HOOK_INFO_FD"),
        ),
    ),
    Protocol(
        "java-spawn",
        "the JVM's helper that starts processes: it is told its numbers over a pipe, and closes all from 3 up",
        "OpenJDK, ProcessImpl_md.c, childproc.c, jspawnhelper.c",
        (ProtocolRule(Place.PROGRAM, Shape.ALL, program="jspawnhelper"),),
    ),
    Protocol(
        "shell-redirect",
        "a shell's -c text that uses a number: >&3, <&3",
        "sh(1), redirection",
        _inside(">&", "<&"),
    ),
    Protocol(
        "flock",
        "flock(1) locks the number that it is given",
        "flock(1), flock [options] number",
        (ProtocolRule(Place.ARGUMENT, Shape.NUMBER, program="flock"),),
    ),
    Protocol(
        "sshd",
        "sshd executes itself for each connection, with its configuration on fixed numbers",
        "OpenSSH sshd.c, REEXEC_STARTUP_PIPE_FD and its neighbours; later sshd-session.c and sshd-auth.c",
        tuple(
            ProtocolRule(Place.ARGUMENT, Shape.FIXED, "-R", program=program, numbers=(3, 4, 5))
            for program in ("sshd", "sshd-session", "sshd-auth")
        ),
    ),
    Protocol(
        "dbus",
        "dbus-daemon tells its address and process ID",
        "dbus-daemon(1), --print-address, --print-pid",
        _options("--print-address", "--print-pid"),
    ),
    Protocol(
        "server-restart",
        "listening sockets handed to a server's next version",
        "nginx NGINX, gunicorn GUNICORN_FD, unicorn UNICORN_FD, php-fpm FPM_SOCKETS",
        (
            *_variables("NGINX", "GUNICORN_FD", "UNICORN_FD"),
            ProtocolRule(Place.VARIABLE, Shape.NUMBER, "=", "FPM_SOCKETS", anywhere=True),
        ),
    ),
    Protocol(
        "devtools-pipe",
        "Chromium driven over a pipe: reads 3, writes 4",
        "Chromium, --remote-debugging-pipe",
        (ProtocolRule(Place.ARGUMENT, Shape.FIXED, "--remote-debugging-pipe", numbers=(3, 4)),),
    ),
    Protocol(
        "erlang-port",
        "Erlang's child starter, and ports that leave standard input and output alone: 3 and 4",
        "erl_child_setup.c; erlang:open_port, nouse_stdio",
        (
            ProtocolRule(Place.PROGRAM, Shape.FIXED, program="erl_child_setup", numbers=(3,)),
            ProtocolRule(Place.CALLER_ARGUMENT, Shape.FIXED, program="erl_child_setup", numbers=(3, 4)),
        ),
    ),
    Protocol(
        "socat",
        "socat's EXEC and SYSTEM addresses with numbers of their own; it never tells them to what it starts",
        "socat(1), fdin, fdout",
        # Debian's socat is a link to socat1 since 1.8.
        tuple(
            ProtocolRule(Place.CALLER_ARGUMENT, Shape.NUMBER, needle, program=program, anywhere=True)
            for program in ("socat", "socat1")
            for needle in ("fdin=", "fdout=")
        ),
    ),
    Protocol(
        "chromium",
        "the processes of a Chromium: zygote, renderers, crash reporter; it closes all else before",
        "Chromium, base/process/launch_posix.cc, CloseSuperfluousFds",
        tuple(_whatever_starts(program) for program in ("chromium", "chromium-browser", "chrome", "headless_shell")),
    ),
    Protocol(
        "python-inherit",
        "what a Python program left inheritable: pass_fds, os.set_inheritable, os.dup2; it names nothing",
        "PEP 446; CPython Modules/_posixsubprocess.c",
        tuple(_whatever_starts(f"python3{minor}") for minor in ("", *(f".{n}" for n in range(9, 17)))),
        names=False,
    ),
)


class _Known(Mapping[str, Protocol]):
    """Protocols by name. Pickled, it is its own name: another process has its own."""

    def __init__(self, protocols: Mapping[str, Protocol]) -> None:
        self._protocols = protocols

    def __getitem__(self, name: str) -> Protocol:
        return self._protocols[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._protocols)

    def __len__(self) -> int:
        return len(self._protocols)

    def __reduce__(self) -> str:
        return "PROTOCOLS"


PROTOCOLS: Final[Mapping[str, Protocol]] = _Known({protocol.name: protocol for protocol in _ALL})

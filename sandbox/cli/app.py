"""The command group, the options that several commands share, and click's errors as ours."""

from __future__ import annotations

import difflib
import functools
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from sandbox import (
    PROTOCOLS,
    Additions,
    BindRule,
    Caller,
    FilesystemPolicy,
    Grant,
    Limits,
    NetworkMode,
    PeerRule,
    Profile,
    SharedNamespace,
    StreamsPolicy,
    Trail,
    Tty,
    available,
    default_search_path,
    for_caller,
    for_command,
    load,
    looked_up,
    parse_bind,
    parse_grant,
    parse_peer,
)
from sandbox.cli.output import failing_as_ours
from sandbox.errors import EXIT_SIGNAL_BASE, SandboxError, UsageError

F = TypeVar("F", bound=Callable[..., Any])
E = TypeVar("E", bound=StrEnum)
T = TypeVar("T")
KINDS: Final = (
    "inherit", "file", "directory", "secret",
    "listen", "connect", "datagram",
    "data", "copy", "scratch",
)  # fmt: skip
COMMANDS: Final = (
    "run", "learn", "check", "diff", "explain", "seal", "unseal", "unit", "export", "survey", "probe", "profiles",
    "install", "cache", "completion", "man",
)  # fmt: skip
DEFAULT_PROFILE: Final = "untrusted"
KEY_OPTION: Final = "--plan-key="  # first of the arguments, from the native part of this command (front.c)


class CommandGroup(click.Group):
    """A group that answers an unknown command with the nearest right one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:  # fmt: skip
        """Return name, command and the arguments that are left.

        Raises: UsageError if there is no such command.
        """
        found = self.get_command(ctx, args[0])
        if found is None and not ctx.resilient_parsing:
            raise UsageError(args[0], "no such command", _nearest(args[0], self.list_commands(ctx)))
        return args[0], found, args[1:]


def keeping_lines(command: click.Command) -> click.Command:
    """Let the lines of examples stay lines: click knows them by a backspace, which a raw docstring spells out."""
    command.help = (command.help or "").replace("\\b\n", "\b\n")
    return command


class LazyGroup(CommandGroup):
    """A group whose commands are imported when they are used: a start costs only what it needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help text."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command and return its `command`."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"sandbox.cli.{cmd_name}").command
        return keeping_lines(command)


def complete_profile(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the names of the profiles that can be found; files where a path has been begun."""
    if "/" in incomplete or incomplete.startswith("."):
        return [CompletionItem(incomplete, type="file")]
    found = [entry for entry in available(default_search_path(os.environ)) if not entry.shadowed]
    return [CompletionItem(entry.name, help=entry.description) for entry in found if entry.name.startswith(incomplete)]


_VALUES: Final = {
    "listen": ("tcp:", "udp:", "unix:"),
    "connect": ("tcp:", "unix:"),
    "datagram": ("udp:", "unix:"),
    "scratch": ("64M", "1G"),
    "inherit": ("0", "systemd:"),
    "secret": ("env:",),
}
_OF_PATHS: Final = frozenset({"file", "directory", "secret", "copy"})
_ACCESS: Final = ("read", "write", "append", "read-write")


def complete_grant(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the names of the profile's grants, behind the name the kinds, behind the kind what it takes."""
    name, equals, rest = incomplete.partition("=")
    kind, colon, value = rest.partition(":")
    if not equals:
        words = [f"{each}=" for each in _grants_of(ctx.params.get("profile") or "untrusted")]
    elif not colon:
        words = [f"{name}={each}:" for each in KINDS]
    elif kind == "file" and os.path.isfile(value.rpartition(":")[0]):
        path = value.rpartition(":")[0]
        words = [f"{name}=file:{path}:{each}" for each in _ACCESS]
    else:
        found = _paths(value) if kind in _OF_PATHS else []
        words = [f"{name}={kind}:{each}" for each in (*_VALUES.get(kind, ()), *found)]
    return [CompletionItem(word) for word in words if word.startswith(incomplete)]


def _grants_of(reference: str) -> list[str]:
    try:
        return [grant.name for grant in load(reference, search=default_search_path(os.environ)).grants]
    except SandboxError:
        return []  # nothing is offered; the command itself will say what is wrong


def _paths(begun: str) -> list[str]:
    folder, _, _ = begun.rpartition("/")
    where = folder + "/" if "/" in begun else ""
    try:
        with os.scandir(where or ".") as entries:
            return sorted(where + entry.name + "/" * entry.is_dir() for entry in entries)
    except OSError:
        return []


def complete_limit(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the names of limits."""
    return [CompletionItem(f"{field.name}=") for field in fields(Limits) if field.name.startswith(incomplete)]


def complete_variable(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the caller's variables."""
    return [CompletionItem(name) for name in sorted(os.environ) if name.startswith(incomplete)]


def complete_protocol(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the built-in delegation protocols."""
    return [CompletionItem(name, help=p.purpose) for name, p in PROTOCOLS.items() if name.startswith(incomplete)]


def complete_file(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Leave it to the shell."""
    return [CompletionItem(incomplete, type="file")]


def parse_limits(
    ctx: click.Context, _param: click.Parameter, texts: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:  # fmt: skip
    """Split the values of `--limit`."""
    for text in () if ctx.resilient_parsing else texts:
        if "=" not in text:
            raise UsageError(f"--limit {text}", "it is no NAME=VALUE", "as in --limit memory=512M")
    return tuple((name, value) for name, _, value in (text.partition("=") for text in texts))


def parse_user(ctx: click.Context, _param: click.Parameter, text: str | None) -> str | None:
    """Refuse a value of `--user` that leaves a name out where it begins to say one."""
    if text is not None and not ctx.resilient_parsing and ("" in (text, text.rpartition(":")[2])):
        raise UsageError(f"--user {text}", "a name is missing", "as in --user nobody or --user nobody:nogroup")
    return text


def parse_rules(
    parse_rule: Callable[[str], T],
) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], tuple[T, ...]]:
    """Return a callback that parses rules; their errors name the option and the rule."""

    def parsed(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> tuple[T, ...]:
        if ctx.resilient_parsing:
            return ()
        try:
            return tuple(parse_rule(text) for text in texts)
        except UsageError as error:
            raise UsageError(f"{param.opts[0]} {error.object}", error.reason, error.hint) from error

    return parsed


def parse_grants(ctx: click.Context, _param: click.Parameter, texts: tuple[str, ...]) -> tuple[Grant, ...]:
    """Parse the values of `--grant`; errors are GrantError and name the grant."""
    return () if ctx.resilient_parsing else tuple(parse_grant(text) for text in texts)


@dataclass(frozen=True, slots=True)
class Choice:
    """What the options of `run` and `explain` say of the sandbox: a profile, and what is added to it."""

    profile: str | None
    grants: tuple[Grant, ...]
    env: tuple[str, ...]
    chdir: str | None
    read: tuple[str, ...]
    write: tuple[str, ...]
    execute: tuple[str, ...]
    tmpfs: tuple[str, ...]
    private: tuple[str, ...]
    hide: tuple[str, ...]
    net: NetworkMode | None
    net_allow: tuple[PeerRule, ...]
    net_bind: tuple[BindRule, ...]
    dns: bool
    netns: str | None
    limits: tuple[tuple[str, str], ...]
    timeout: str | None
    tty: Tty | None
    streams: StreamsPolicy | None
    share: tuple[SharedNamespace, ...]
    delegate: tuple[str, ...]
    activation: bool
    notify: bool
    user: str | None

    def found_for(
        self, command: Sequence[str], environ: Mapping[str, str], trail: Trail | None = None
    ) -> str | None:  # fmt: skip
        """Return the name of the profile that is for the command, if the options name none and there is one.

        trail: is told what that depends on.
        Raises: UsageError if there are several.
        """
        if self.profile is not None or not command:
            return None
        path = environ.get("PATH", os.defpath)
        return for_command(command[0], path, search=default_search_path(environ), trail=trail)

    def resolve(self, caller: Caller, trail: Trail | None = None) -> tuple[Profile, Caller]:
        """Load the profile and add what the options say; the caller with what its user is looked up to.

        trail: is told what the profile depends on.
        """
        loaded = load(self.profile or DEFAULT_PROFILE, search=default_search_path(caller.environ), trail=trail)
        profile = for_caller(loaded, caller, self.additions())
        caller = caller.becoming(profile.process.user, profile.process.group)
        return profile, looked_up(caller, profile.grants, profile.network)

    def additions(self) -> Additions:
        """Return what the options say beside the profile."""
        user, _, group = (self.user or "").partition(":")
        timeout = {} if self.timeout is None else {"timeout": self.timeout}
        return Additions(
            grants=self.grants,
            variables=dict(text.split("=", 1) for text in self.env if "=" in text),
            keep=tuple(text for text in self.env if "=" not in text),
            chdir=self.chdir,
            filesystem=FilesystemPolicy(
                read=self.read, write=self.write, execute=self.execute,
                tmpfs=self.tmpfs, private=self.private, hide=self.hide,
            ),
            network=self.net,
            allow=self.net_allow,
            bind=self.net_bind,
            dns=self.dns,
            netns=self.netns,
            share=self.share,
            delegate=self.delegate,
            limits=dict(self.limits) | timeout,
            tty=self.tty,
            streams=self.streams,
            activation=self.activation,
            notify=self.notify,
            user=user or None,
            group=group or None,
        )  # fmt: skip


def _path_option(name: str, text: str) -> Callable[[F], F]:
    return click.option(f"--{name}", multiple=True, metavar="PATH", shell_complete=complete_file, help=text)


def _word(kind: type[StrEnum]) -> click.Choice[Any]:
    return click.Choice([str(member) for member in kind])


def _members(kind: type[E]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Return a callback that turns words into members."""

    def convert(_ctx: click.Context, _param: click.Parameter, value: Any) -> Any:  # noqa: ANN401 - click's
        if isinstance(value, tuple):
            return tuple(kind(word) for word in value)
        return None if value is None else kind(value)

    return convert


def profile_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose a profile and what is added to it; the function gets them as one `choice`."""
    return _with_options(function, named=True)


def addition_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add those of profile_options() but the one that names the profile, which is an argument there."""
    return _with_options(function, named=False)


def _with_options(function: Callable[..., Any], *, named: bool) -> Callable[..., Any]:

    @functools.wraps(function)
    def gathered(**values: Any) -> Any:  # noqa: ANN401 - click's
        choice = Choice(**{entry.name: values.pop(entry.name) for entry in fields(Choice)})
        return function(choice=choice, **values)

    command: Callable[..., Any] = gathered
    naming = click.option(
        "-p", "--profile", "profile", shell_complete=complete_profile,
        help=f"A profile's name or path; without, the one that is for COMMAND, else {DEFAULT_PROFILE}.",
    )  # fmt: skip
    for option in (
        click.option("--notify", is_flag=True, help="Let it tell the service manager how it is (NOTIFY_SOCKET)."),
        click.option("--activation", is_flag=True, help="Tell it of its sockets as systemd does (LISTEN_FDS)."),
        click.option("--user", callback=parse_user, metavar="NAME[:GROUP]", help="Root only: who runs the command."),
        click.option(
            "--share", multiple=True, type=_word(SharedNamespace), callback=_members(SharedNamespace),
            help="A namespace that is the host's.",
        ),
        click.option(
            "--delegate", multiple=True, metavar="PROTOCOL", shell_complete=complete_protocol,
            help="A protocol by which an exec may name descriptors that it passes.",
        ),
        click.option(
            "--streams", type=_word(StreamsPolicy), callback=_members(StreamsPolicy),
            help="Your files on 0, 1 and 2: opened anew or relayed (safe), pipes too (relay), or as they are (raw).",
        ),
        click.option(
            "--tty", type=_word(Tty), callback=_members(Tty), help="The terminal: none, one of its own, yours."
        ),
        click.option("--timeout", metavar="TIME", help="End everything after 30s, 5m, ... with exit code 124."),
        click.option(
            "--limit", "limits", multiple=True, callback=parse_limits, metavar="NAME=VALUE",
            shell_complete=complete_limit,
            help="memory, processes, cpu, cpu_time, open_files, file_size, core_size, output or timeout, "
            "as in memory=512M.",
        ),
        click.option(
            "--net", type=_word(NetworkMode), callback=_members(NetworkMode),
            help="None, a loopback, yours, or (root) one of its own behind yours.",
        ),
        click.option("--netns", metavar="NAME", help="Root only, with --net veth: join the network of that name."),
        click.option("--dns", is_flag=True, help="Let it ask your resolvers; by them, anything can be told outside."),
        click.option(
            "--net-bind", multiple=True, callback=parse_rules(parse_bind), metavar="PROTOCOL:[ADDRESS:]PORTS",
            help="A port of your network that it may bind: tcp:8080.",
        ),
        click.option(
            "--net-allow", multiple=True, callback=parse_rules(parse_peer), metavar="PROTOCOL:HOST:PORTS",
            help="A peer that it may reach: tcp:HOST:443, tcp:10.0.0.0/8:443, udp:[2001:db8::/32]:*.",
        ),
        _path_option("hide", "Show nothing there."),
        _path_option("private", "Show it; changes are gone at the end."),
        _path_option("tmpfs", "An empty folder, gone at the end."),
        _path_option("execute", "Let it be read and executed."),
        _path_option("write", "Let it be read and written."),
        _path_option("read", "Let it be read. '-' before a path: where it is there."),
        click.option("--chdir", metavar="DIR", help="The child's working directory."),
        click.option(
            "--env", "env", multiple=True, metavar="NAME[=VALUE]", shell_complete=complete_variable,
            help="Set a variable, or keep the caller's.",
        ),
        click.option(
            "--grant", "grants", multiple=True, callback=parse_grants, shell_complete=complete_grant,
            metavar="NAME[@N]=KIND:VALUE[:WORDS]",
            help="Grant a descriptor: inherit:N[:read|...][,TYPE], file:PATH[:read|write|append|read-write]"
            "[,create][,truncate], secret:PATH or secret:env:VAR, data:TEXT, copy:PATH, scratch:SIZE; a socket:"
            " listen:ADDRESS[:backlog=N|mode=OCTAL|...], connect:ADDRESS[:timeout=SECONDS], datagram:ADDRESS, ADDRESS"
            " tcp:HOST:PORT, udp:HOST:PORT or unix:PATH. It gets number N, or the next from 3 up.",
        ),
        *([naming] if named else []),
    ):  # fmt: skip
        command = option(command)
    return command


@click.group(cls=LazyGroup, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sandbox-launcher", prog_name="sandbox")
def app() -> None:
    r"""Run programs so that authority reaches them only by what is declared, or by descriptors that are sent.

    \b
    sandbox run -- sh -c 'ls -l / ~ /proc/self/fd'
    sandbox run --write build --net host --timeout 5m -- make
    sandbox run --grant log=file:/tmp/log:append,create -- sh -c 'echo hello >&"$SANDBOX_FD_LOG"'
    sandbox explain -p sealed
    """


keeping_lines(app)


def run_app() -> int:
    """Run the command that the arguments name.

    Returns: an exit code; `run` does not return at all when it succeeds.
    Raises: SandboxError; click's own errors as UsageError.
    """
    first, *rest = sys.argv[1:] or [""]
    is_key = first.startswith(KEY_OPTION)
    try:
        # Only --help and --version write with click's own means, and so past output.put().
        with failing_as_ours():
            code = app.main(
                args=rest if is_key else sys.argv[1:], prog_name="sandbox", standalone_mode=False,
                obj=first.removeprefix(KEY_OPTION) if is_key else None,
            )  # fmt: skip
    except click.ClickException as error:
        raise usage_error(error) from error
    except click.Abort:
        return EXIT_SIGNAL_BASE + signal.SIGINT
    return code if isinstance(code, int) else 0


def usage_error(error: click.ClickException) -> UsageError:
    """Return an error of click's in our form: object, reason, and the nearest right word or where to read on."""
    context: click.Context | None = getattr(error, "ctx", None)
    help_hint = f"see '{context.command_path if context else 'sandbox'} --help'"
    reason = error.message[:1].lower() + error.message[1:].rstrip(".")
    match error:
        case click.NoSuchOption(option_name=name) if context is not None:
            known = [word for param in context.command.get_params(context) for word in param.opts]
            return UsageError(name, "no such option", _nearest(name, known, help_hint))
        case click.MissingParameter(param=click.Parameter() as param):
            return UsageError(_word_for(param), "missing", help_hint)
        case click.BadParameter(param=click.Parameter() as param):
            return UsageError(_word_for(param), reason, help_hint)
        case click.BadOptionUsage(option_name=name):
            return UsageError(name, reason.replace(f"option {name!r}", "it"), help_hint)
        case click.UsageError() if context is not None and isinstance(context.command, click.Group):
            known = context.command.list_commands(context)
            return UsageError(f"{context.command_path} COMMAND", "missing", "one of " + ", ".join(known))
    return UsageError("arguments", reason, help_hint)


def _word_for(param: click.Parameter) -> str:
    return max(param.opts, key=len) if isinstance(param, click.Option) else str(param.name).upper()


def _nearest(word: str, known: Iterable[str], otherwise: str = "") -> str:
    names = list(known)
    close = difflib.get_close_matches(word, names, 1)
    return f"did you mean {close[0]}?" if close else otherwise or "one of " + ", ".join(names)

"""The command group, and the options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from sandbox.caller import Caller
from sandbox.grants import Grant, parse_grant
from sandbox.profile import Profile, for_caller
from sandbox.profile_files import available, default_search_path, load

F = TypeVar("F", bound=Callable[..., Any])


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used: a start costs only what it needs."""

    commands_in = {
        "run": "run",
        "check": "check",
        "explain": "explain",
        "probe": "probe",
        "profiles": "profiles",
        "completion": "completion",
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help text."""
        return list(self.commands_in)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command and return its `command`."""
        if cmd_name not in self.commands_in:
            return None
        import importlib

        command: click.Command = importlib.import_module(f"sandbox.cli.{self.commands_in[cmd_name]}").command
        return command


class ProfileName(click.ParamType):
    """A profile: a name that is looked up, or a path."""

    name = "profile"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer the names of the profiles that can be found."""
        found = available(default_search_path(os.environ))
        return [
            CompletionItem(entry.name, help=entry.description) for entry in found if entry.name.startswith(incomplete)
        ]


class GrantType(click.ParamType):
    """A grant in its command-line form."""

    name = "grant"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Grant:
        """Parse the text; errors are GrantError and name the grant."""
        return value if not isinstance(value, str) else parse_grant(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer the kinds behind the name."""
        name, equals, _ = incomplete.partition("=")
        kinds = [f"{name}={kind}:" for kind in ("inherit", "file", "secret")] if equals else []
        return [CompletionItem(kind) for kind in kinds if kind.startswith(incomplete)]


def profile_options(function: F) -> F:
    """The options that choose a profile and what is added to it; `chosen_profile` reads them."""
    for option in (
        click.option("--chdir", metavar="DIR", help="The child's working directory."),
        click.option(
            "--env", "env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable, or keep the caller's."
        ),
        click.option(
            "--grant", "grants", multiple=True, type=GrantType(), metavar="NAME[@N]=KIND:VALUE[:ACCESS]",
            help="Grant a descriptor: inherit:N, file:PATH[:read|write|append|read-write] or secret:PATH|env:VAR.",
        ),
        click.option(
            "-p", "--profile", "profile", type=ProfileName(), default="untrusted", show_default=True,
            help="A profile's name or path.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def chosen_profile(
    caller: Caller, profile: str, grants: tuple[Grant, ...], env: tuple[str, ...], chdir: str | None
) -> Profile:  # fmt: skip
    """Load the profile and add what the command line says."""
    loaded = load(profile, search=default_search_path(caller.environ))
    variables = dict(text.split("=", 1) for text in env if "=" in text)
    kept = [text for text in env if "=" not in text]
    return for_caller(loaded, caller, grants=grants, set_variables=variables, keep=kept, chdir=chdir)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sandbox-launcher", prog_name="sandbox")
def app() -> None:
    """Run programs so that authority reaches them only by declared descriptors."""

"""`sandbox learn`: run a command, and write the profile that lets it do the same again."""

from __future__ import annotations

import difflib
import errno
import json
import os
from contextlib import nullcontext
from pathlib import Path

import click

from sandbox import Caller, check, default_search_path, load, network_for, open_descriptors, original_environment
from sandbox.cli.app import Choice, complete_file, profile_options
from sandbox.cli.output import printable, say
from sandbox.cli.progress import progress
from sandbox.errors import UsageError
from sandbox.learned import Learned, as_text, from_text, named, size_of
from sandbox.learning import Lesson, default_name, learn_command


@click.command(
    "learn",
    short_help="Run a command, and write the profile that it needs.",
    context_settings={"allow_interspersed_args": False},
)
@profile_options
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Write the profile there, not to your profiles.")
@click.option("--permissive", is_flag=True, help="Refuse nothing meanwhile: the command can do all that you can.")
@click.option("--update", is_flag=True, help="Add to a profile that was learned before: shows the difference and asks.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Tell what was learned as a JSON object, on standard error.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, shell_complete=complete_file)
def command(
    choice: Choice,
    output: str | None,
    permissive: bool,
    update: bool,
    yes: bool,
    as_json: bool,
    command: tuple[str, ...],
) -> int:
    r"""Run COMMAND and write the smallest profile that lets it do the same again.

    It runs within the profile that -p and the other options say, `untrusted` otherwise; what that refuses is in the
    new profile, too. With --permissive it runs without a sandbox. Secrets, and sockets that speak for you, are named
    in the profile and not granted. The exit code is COMMAND's.

    \b
    sandbox learn --permissive -- make
    sandbox learn -o ./tool.toml -- ./tool input.dat
    sandbox learn --update -o ./tool.toml -- ./tool --other input.dat
    """
    caller = Caller.of_process(parent_pid=os.getpid(), environ=original_environment())
    path = _target(output, command)
    before = path.read_text("utf-8") if path.exists() else None
    if before is not None and not update:
        raise UsageError(str(path), "it exists", "add to it: --update; or name another file: -o FILE")
    # Before the run, which may take long:
    old = None if before is None else from_text(before, path.stem)
    _refuse_unwritable(path)
    base, name = None, printable(command[0])
    if not permissive:
        base, caller = choice.resolve(caller)
    with (
        nullcontext(caller) if base is None else network_for(base, caller) as caller,
        progress(f"learning {name}") as tell,
    ):
        lesson = learn_command(
            command, path.stem, caller, base, open_descriptors(),
            tell=lambda calls, execs: tell(f"learning {name}: {calls} calls, {execs} programs"),
        )  # fmt: skip
    learned = lesson.learned if old is None else old.merged(named(lesson.learned, old.name))
    text = as_text(learned)
    written = before != text and _write(path, before, text, ask=not yes)
    within = None if base is None else base.name
    if as_json:
        click.echo(json.dumps(_told(path, learned, lesson, within, written=written)), err=True)
    elif written:
        _tell(path, learned, lesson, within)
    elif before == text:
        say(f"learn: {path}: it needs no change")
    return lesson.code


def _target(output: str | None, command: tuple[str, ...]) -> Path:
    if output is not None:
        return Path(output)
    return default_search_path(os.environ).folders[0] / f"{default_name(command)}.toml"


def _refuse_unwritable(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(path if path.exists() else path.parent, os.W_OK) else os.strerror(errno.EACCES)
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise UsageError("--output", f"{path}: {reason}", "give a file that can be written")


def _write(path: Path, before: str | None, text: str, *, ask: bool) -> bool:
    """Write the profile, if it is new or the caller agrees; it passes `check`, or an error says why not."""
    if before is not None:
        changes = difflib.unified_diff(before.splitlines(), text.splitlines(), str(path), "learned", lineterm="", n=1)
        for line in changes:
            click.echo(line, err=True)
        if ask and not click.confirm("sandbox: learn: write it?", err=True):
            return False
    path.write_text(text, "utf-8")
    profile = load(str(path.absolute()), search=default_search_path(os.environ))
    check(profile)
    return True


def _told(path: Path, learned: Learned, lesson: Lesson, within: str | None, *, written: bool) -> dict[str, object]:
    return {
        "profile": str(path), "written": written, "entries": size_of(learned), "calls": lesson.calls,
        "withheld": [*learned.withheld], "within": within, "refused": lesson.refused, "code": lesson.code,
    }  # fmt: skip


def _tell(path: Path, learned: Learned, lesson: Lesson, within: str | None) -> None:
    say(f"learn: wrote {path}: {size_of(learned)} entries, from {lesson.calls} calls; read it before you trust it")
    for line in learned.withheld:
        say(f"learn: used, and not granted: {line}")
    if within is not None and lesson.refused:
        calls = f"{lesson.refused} call{'s' * (lesson.refused > 1)}"
        say(
            f"learn: {within} has refused {calls}, so the command may not have done all of its work; learn again with"
            " --update and -p the new profile, or --permissive"
        )

"""`sandbox man`: manual pages, made of the same texts as `--help`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

import click

from sandbox.cli.app import COMMANDS
from sandbox.cli.output import put
from sandbox.errors import UsageError

_EXIT: Final = (
    ("0-124", "the command's own; 0 for the other commands"),
    ("124", "the time was up"),
    ("125", "a step failed before the command ran, and a message names it"),
    ("126, 127", "the command cannot be executed, is not found"),
    ("128+N", "signal N killed the command"),
)


@click.command("man", short_help="Print manual pages.")
@click.option("-o", "--output", type=click.Path(file_okay=False), help="Write all pages into this folder.")
@click.argument("command", required=False, type=click.Choice(COMMANDS))
def command(output: str | None, command: str | None) -> None:
    r"""Print the manual page of a COMMAND, or of sandbox itself; or write all of them.

    \b
    sandbox man run | man -l -
    sandbox man -o ~/.local/share/man/man1
    """
    from sandbox.cli.app import app

    if output is None:
        put(_page(app, () if command is None else (command,)))
        return
    if command is not None:
        raise UsageError("--output", "it takes all pages", "leave COMMAND out")
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    for words in ((), *((name,) for name in COMMANDS)):
        name = "-".join(("sandbox", *words))
        (folder / f"{name}.1").write_text("\n".join(_page(app, words)) + "\n", "utf-8")
        put([str(folder / f"{name}.1")])


def _page(app: click.Group, words: Sequence[str]) -> Iterator[str]:
    """Yield a page's lines, man(7)."""
    context = click.Context(app, info_name="sandbox")
    found: click.Command = app
    for word in words:
        assert isinstance(found, click.Group)
        found = found.get_command(context, word) or found
        context = click.Context(found, info_name=word, parent=context)
    name = "-".join(("sandbox", *words))
    # Beside what --help prints there is nothing: the first sentence, the usage, the text, the options.
    yield f'.TH "{name.upper()}" "1" "" "sandbox {version("sandbox-launcher")}" "User commands"'
    yield from (".SH NAME", f"{_safe(name)} \\- {_safe(_first_sentence(found))}")
    usage = " ".join(found.collect_usage_pieces(context))
    yield from (".SH SYNOPSIS", f".B {_safe(context.command_path)}", _safe(usage))
    yield from (".SH DESCRIPTION", *_text(found.help or ""))
    yield from _options(found, context)
    if isinstance(found, click.Group):
        yield ".SH COMMANDS"
        for each in found.list_commands(context):
            inner = found.get_command(context, each)
            yield from (".TP", f".B {_safe(each)}", _safe(inner.get_short_help_str(200) if inner else ""))
    yield ".SH EXIT STATUS"
    for code, meaning in _EXIT:
        yield from (".TP", f".B {_safe(code)}", _safe(meaning))
    others = [f"sandbox-{each}" for each in COMMANDS if (each,) != tuple(words)]
    yield from (".SH SEE ALSO", _see_also(others, words))


def _see_also(others: Sequence[str], words: Sequence[str]) -> str:
    return ",\n".join(f"\\fB{_safe(each)}\\fR(1)" for each in (*(("sandbox",) if words else ()), *others))


def _first_sentence(found: click.Command) -> str:
    text = " ".join(inspect.cleandoc(found.help or "").split("\n\n")[0].split())
    return text.partition(". ")[0].rstrip(".")


def _options(found: click.Command, context: click.Context) -> Iterator[str]:
    records = [record for param in found.get_params(context) if (record := param.get_help_record(context))]
    if records:
        yield ".SH OPTIONS"
    for names, text in records:
        yield from (".TP", f".B {_safe(names)}", _safe(text))


def _text(text: str) -> Iterator[str]:
    """Yield paragraphs; those that begin with a backspace keep their lines, as for click."""
    for index, paragraph in enumerate(inspect.cleandoc(text).split("\n\n")):
        if paragraph.startswith("\b"):
            yield from (".PP", ".nf", *(_safe(line.strip()) for line in paragraph.splitlines()[1:]), ".fi")
        else:
            yield from ((".PP",) if index else ())
            yield _safe(" ".join(paragraph.split()))


def _safe(text: str) -> str:
    """Return a text that troff prints as it stands: groff_char(7), a dot or quote at a line's start is a request."""
    escaped = text.replace("\\", "\\e")
    for char, name in (("-", "\\-"), ("'", "\\(aq"), ("~", "\\(ti"), ("^", "\\(ha")):
        escaped = escaped.replace(char, name)
    return f"\\&{escaped}" if escaped.startswith((".", "\\(aq")) else escaped

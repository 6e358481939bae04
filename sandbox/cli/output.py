"""What the command line prints: results on standard output, messages on standard error; a lost result is an error."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from sandbox.errors import SandboxError, UsageError


class _Closed(io.StringIO):
    """Stands where the caller has closed standard output: Python has None there, and then silence."""

    def write(self, text: str, /) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def prepare() -> None:
    """Let any name be printed, and make a closed standard output fail. Call it once, first."""
    if sys.stdout is None:
        sys.stdout = _Closed()
    elif isinstance(sys.stdout, io.TextIOWrapper):
        # File names are bytes, profiles are UTF-8, and the locale may be neither.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")


@contextlib.contextmanager
def failing_as_ours() -> Iterator[None]:
    """Turn an OSError of standard output into a SandboxError: a result that is lost is no success.

    Some errors of ours are an OSError as well, and one that names a file is not standard output's: both stay as they
    are.
    """
    try:
        yield
    except SandboxError:
        raise
    except OSError as error:
        if error.filename is not None:
            raise
        reason = error.strerror or str(error)
        raise SandboxError("output", "standard output", reason, "send it to a file, or to /dev/null") from error


def put(lines: Iterable[str]) -> None:
    """Print a result, one line each.

    Raises: SandboxError if standard output is closed or full.
    """
    with failing_as_ours():
        for line in lines:
            sys.stdout.write(line + "\n")


def put_table(headings: Sequence[str], rows: Sequence[Sequence[str]], plain: Iterable[str]) -> None:
    """Print a result as a table where standard output is a terminal, and as the `plain` lines where it is not.

    Raises: SandboxError as put().
    """
    if sys.stdout.isatty() and rows:
        try:
            # Here and not on top: it takes longer to load than all the rest, and most results are no tables.
            from rich import box
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text
        except ImportError:
            pass  # then it is less pretty
        else:
            table = Table(*headings, box=box.SIMPLE_HEAD)
            for row in rows:
                table.add_row(*(Text(printable(cell)) for cell in row))
            with failing_as_ours():
                Console(file=sys.stdout).print(table)
            return
    put(plain)


def printable(text: str) -> str:
    """Return a text that commands no terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def flush() -> None:
    """Write out what is still in memory.

    Raises: SandboxError as put().
    """
    with failing_as_ours():
        sys.stdout.flush()


def say(message: str) -> None:
    """Print a message, as one line that holds nothing but printable characters.

    The exit code has to do when standard error is closed or full.
    """
    _write_message(message, "\n")


def say_beside(message: str) -> None:
    """Print a message while a command may have the terminal: in raw mode a line needs its carriage return."""
    _write_message(message, "\r\n" if _is_raw() else "\n")


def line_of(message: str, end: str = "\n") -> bytes:
    """Return the line that say() writes."""
    return f"sandbox: {printable(message)}{end}".encode(errors="backslashreplace")


def _write_message(message: str, end: str) -> None:
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            # Past Python's buffer, which would be tried again at the end.
            os.write(sys.stderr.fileno(), line_of(message, end))


def _is_raw() -> bool:
    if sys.stderr is None or not sys.stderr.isatty():
        return False
    import termios

    output_modes = termios.tcgetattr(sys.stderr.fileno())[1]
    return not output_modes & termios.OPOST


def open_result(path: str) -> TextIO:
    """Open a file for a result before the long work whose result it is to hold.

    Raises: UsageError if it cannot be written.
    """
    try:
        return open(path, "w", encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UsageError("--output", f"{path}: {error.strerror}", "give a file that can be written") from error

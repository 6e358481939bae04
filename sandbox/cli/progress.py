"""Progress: how far long work is, for who waits at a terminal; nothing for pipes, logs and scripts."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

Tell: TypeAlias = Callable[[str], None]
_EVERY_SECONDS: Final = 0.1


@contextlib.contextmanager
def progress(text: str) -> Iterator[Tell]:
    """Show a line that moves on standard error while the block runs; yield what replaces its text.

    Only where standard error is a terminal and standard output is none: results, and what a command says, that come to
    the same terminal would be written into the line, and show by themselves that there is something going on.
    """
    if sys.stderr is None or not sys.stderr.isatty() or (sys.stdout is not None and sys.stdout.isatty()):
        yield _nothing
        return
    try:
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner
        from rich.text import Text
    except ImportError:  # then it is less pretty
        yield _nothing
        return
    spinner = Spinner("dots", Text(text))
    # Standard output is its own: rich would take what is printed there into the line's terminal.
    with Live(spinner, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False):
        told = 0.0

        def tell(text: str) -> None:
            nonlocal told
            now = time.monotonic()
            if now - told >= _EVERY_SECONDS:
                told = now
                spinner.update(text=Text(text))

        yield tell


def _nothing(_text: str) -> None:
    pass

"""The command line: click commands over the public API; errors become one line and an exit code."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

import click

from sandbox.errors import EXIT_FAILED, SandboxError


def main() -> NoReturn:
    """Run the command line and exit: the child's code, or 125-127 for errors of ours (docs: exit codes)."""
    # A reader that goes away ends us as it ends any tool, without a traceback.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    from sandbox.cli.app import app

    try:
        code = app.main(prog_name="sandbox", standalone_mode=False)
    except SandboxError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "sandbox"
        _say(f"usage: {error.format_message().rstrip('.')}; see '{command} --help'")
        sys.exit(EXIT_FAILED)
    except click.Abort:
        sys.exit(128 + signal.SIGINT)
    sys.exit(code if isinstance(code, int) else 0)


def _say(message: str) -> None:
    # The caller may have closed standard error; the exit code has to do then.
    if sys.stderr is not None:
        print("sandbox: " + " ".join(message.split("\n")), file=sys.stderr)

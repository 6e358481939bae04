"""The command line: click commands over the public API; errors become one line and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from typing import Final, NoReturn

HELD_OPTION: Final = "--interrupt-held"  # the first argument where the native command holds SIGINT back (front.c)


def main() -> NoReturn:
    """Run the command line and exit: the child's code, or 125-127 for errors of ours (docs/command-line.md)."""
    # A reader that goes away, or Ctrl-C, ends us as it ends any tool: without a traceback.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else the caller ignores it, and so do we
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.argv[1:2] == [HELD_OPTION]:
        del sys.argv[1]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # Imported only now, so that the above holds meanwhile.
    from sandbox.cli import output
    from sandbox.cli.app import run_app
    from sandbox.errors import EXIT_FAILED, InternalError, SandboxError

    output.prepare()
    try:
        code = run_app()
        output.flush()
    except SandboxError as error:
        output.say(str(error))
        code = error.exit_code
    except OSError as error:
        output.say(str(SandboxError("system", error.filename or "", error.strerror or str(error))))
        code = EXIT_FAILED
    except Exception as error:  # noqa: BLE001 - the last resort: a bug is a line and 125, never the child's code
        output.say(str(InternalError(type(error).__name__, str(error))))
        code = EXIT_FAILED
    # Not sys.exit: what could not be written would be tried again on the way, with a traceback and code 120.
    os._exit(code)

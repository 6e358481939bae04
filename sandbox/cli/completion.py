"""`sandbox completion`: the shell's completion script."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from sandbox.cli.output import put
from sandbox.errors import InternalError


@click.command("completion", short_help="Print a shell's completion script.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    r"""Print the completion script of a SHELL.

    \b
    eval "$(sandbox completion bash)"      for this shell; in ~/.bashrc for every one
    """
    from sandbox.cli.app import app

    found = get_completion_class(shell)
    if found is None:
        raise InternalError(shell, "click offers no completion for it")
    # source() would also start a shell to ask for its version.
    completion = found(app, {}, "sandbox", "_SANDBOX_COMPLETE")
    put([completion.source_template % completion.source_vars()])

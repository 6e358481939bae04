"""`sandbox completion`: the shell's completion script."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from sandbox.errors import InternalError


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of a SHELL; for bash: eval "$(sandbox completion bash)"."""
    from sandbox.cli.app import app

    found = get_completion_class(shell)
    if found is None:
        raise InternalError(shell, "click offers no completion for it")
    # source() alone: the version check of bash's class would start a program.
    completion = found(app, {}, "sandbox", "_SANDBOX_COMPLETE")
    click.echo(completion.source_template % completion.source_vars())

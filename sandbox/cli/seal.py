"""`sandbox seal`: one executable that holds launcher and plan."""

from __future__ import annotations

import contextlib
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

import click

from sandbox import default_search_path, load
from sandbox.cli.app import Choice, addition_options, complete_file, complete_profile
from sandbox.errors import UsageError
from sandbox.probe import launcher_path, probe
from sandbox.seal import assemble, is_sealed, seal_profile


@click.command("seal", short_help="Make one executable of a profile and a command.")
@addition_options
@click.option(
    "-o", "--output", metavar="FILE", shell_complete=complete_file,
    help="The file to make; by default the command's name, or the profile's, in this folder.",
)  # fmt: skip
@click.option(
    "--landlock-abi", type=click.IntRange(0, 255), metavar="N", help="Seal for kernels of this Landlock ABI and newer."
)
@click.argument("profile", shell_complete=complete_profile)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, shell_complete=complete_file)
def command(choice: Choice, output: str | None, landlock_abi: int | None, command: tuple[str, ...]) -> None:
    r"""Make one executable of a PROFILE and a COMMAND: it starts the command in the sandbox, by itself.

    The file holds launcher and plan, and needs neither Python nor the profile. Its arguments follow the command's;
    without COMMAND they are the command. User, folders, environment and descriptors are those of each start.
    FILE --sandbox-explain prints what it does.

    \b
    sandbox seal untrusted -o ~/bin/ls-here -- ls -l
    sandbox seal ./service.toml -o /usr/local/bin/service -- service --foreground
    """
    assert choice.profile is not None
    loaded = load(choice.profile, search=default_search_path(os.environ))
    abi = probe()["landlock_abi"] if landlock_abi is None else landlock_abi
    sealed = seal_profile(
        loaded, choice.additions(), command, landlock_abi=abi, version=version("sandbox-launcher")
    )  # fmt: skip
    name = os.path.basename(command[0]) if command else loaded.name
    _write(Path(output or name), assemble(launcher_path().read_bytes(), sealed))


def _write(path: Path, data: bytes) -> None:
    """Put a whole file in the place of none, or of one that was sealed; who is starting that one keeps it."""
    try:
        present = path.read_bytes()
    except FileNotFoundError:
        present = None
    if present is not None and not (present.startswith(b"\x7fELF") and is_sealed(present)):
        raise UsageError(str(path), "it is there, and no sealed file", "name another one: -o FILE")
    mask = os.umask(0)
    os.umask(mask)
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o777 & ~mask)
        os.rename(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise

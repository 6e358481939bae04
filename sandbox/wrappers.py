"""Wrappers: small scripts in a folder of the PATH that run a command under its profile; made, found and removed."""

from __future__ import annotations

import os
import shlex
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.errors import UsageError
from sandbox.profile_files import without_version

_FIRST: Final = "#!/bin/sh\n"
_MARK: Final = "# Made by `sandbox install`, and removed by `sandbox install --remove`; for the profile "
_MAX_BYTES: Final = 1 << 16
_MODE: Final = 0o755


@dataclass(frozen=True, slots=True)
class Wrapper:
    """A script that runs a command under a profile, and the real command, absolute."""

    path: Path
    profile: str
    command: str


def find_commands(names: Iterable[str], path_variable: str, *, versions: bool) -> dict[str, str]:
    """Return the commands of these names that the PATH has, each with its absolute path; wrappers are passed over.

    versions: also those that are called so with a version at the end, such as python3.11 for python.
    """
    wanted = set(names)
    found: dict[str, str] = {}
    for folder in path_variable.split(os.pathsep):
        for name in sorted(_entries(folder)):
            path = os.path.join(folder, name)
            called = name in wanted or (versions and without_version(name) in wanted)
            if called and name not in found and _is_command(path) and profile_of(Path(path)) is None:
                found[name] = path
    return found


def _entries(folder: str) -> list[str]:
    # An empty or relative entry means something else wherever one stands: no wrapper can name it.
    try:
        return os.listdir(folder) if folder.startswith("/") else []
    except OSError:
        return []


def _is_command(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def profile_of(path: Path) -> str | None:
    """Return the profile that a wrapper of ours names; None if the file is none of ours, or cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(fd, _MAX_BYTES) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)
    start = (_FIRST + _MARK).encode()
    if not text.startswith(start):
        return None
    try:
        words = shlex.split(os.fsdecode(text[len(start) :].partition(b"\n")[0]))
    except ValueError:
        return None
    return words[0] if len(words) == 1 else None


def install_wrappers(
    commands: dict[str, str], profile: str, folder: Path, *, starter: Sequence[str], options: Sequence[str] = ()
) -> Iterator[Wrapper]:
    """Make a wrapper for each command in the folder, one after the other; those that are ours are replaced.

    commands: name and absolute path of each; starter: the words that start `sandbox`, absolute; options: of `run`.
    Raises: UsageError, before anything is made, if a file of that name is there and is no wrapper of ours; OSError.
    """
    if not profile.isprintable():
        raise UsageError(f"install {profile!r}", "a wrapper cannot name this path", "rename the profile")
    for path in (folder / name for name in commands):
        if os.path.lexists(path) and profile_of(path) is None:
            raise _foreign(path)
    folder.mkdir(parents=True, exist_ok=True)
    for name, command in commands.items():
        wrapper = Wrapper(folder / name, profile, command)
        words = shlex.join([*starter, "run", "-p", profile, *options, "--", command])
        _write(wrapper.path, f'{_FIRST}{_MARK}{shlex.quote(profile)}\nexec {words} "$@"\n')
        yield wrapper


def _foreign(path: Path) -> UsageError:
    hint = "move it away, or choose another folder: --folder DIR"
    return UsageError(f"install {path}", "a file is there, and is no wrapper of ours", hint)


def _write(path: Path, text: str) -> None:
    """Put a wrapper in place whole: a shell never sees half of one, nor does a file that came meanwhile get lost."""
    fd, temporary = tempfile.mkstemp(prefix=".sandbox-", dir=path.parent)
    try:
        with open(fd, "wb") as file:
            file.write(os.fsencode(text))
            os.fchmod(fd, _MODE)
        if profile_of(path) is not None:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)  # not over a file of others
    except FileExistsError as error:
        raise _foreign(path) from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def remove_wrappers(profile: str, folder: Path, names: Iterable[str] = ()) -> Iterator[Path]:
    """Remove the wrappers of a profile from the folder: those of these names, or all.

    Raises: UsageError if one of the names is no wrapper of that profile; OSError.
    """
    chosen = [folder / name for name in names] or [
        folder / name for name in sorted(_entries(str(folder))) if profile_of(folder / name) == profile
    ]
    for path in chosen:
        if profile_of(path) != profile:
            raise UsageError(f"install {path}", f"it is no wrapper of profile {profile}", "what is not ours stays")
    if not chosen:
        raise UsageError(
            f"install {folder}", f"no wrapper of profile {profile} is there", "name its folder: --folder DIR"
        )
    for path in chosen:
        path.unlink()
        yield path

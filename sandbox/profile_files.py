"""Profile files: where they are looked for, who may have written them, and following `extends`."""

from __future__ import annotations

import difflib
import errno
import os
import stat
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.errors import ProfileError
from sandbox.profile import Draft, Profile, merge, parse

MAX_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 16
SUFFIX: Final = ".toml"


@dataclass(frozen=True, slots=True)
class SearchPath:
    """The folders that names are looked up in, first hit wins; `shipped` is the one that came with the package."""

    folders: tuple[Path, ...]
    shipped: Path


@dataclass(frozen=True, slots=True)
class Entry:
    """A profile that can be found; a shadowed one is hidden by an earlier folder's."""

    name: str
    path: Path
    description: str
    shadowed: bool


def shipped_folder() -> Path:
    """Return the folder of the shipped profiles: in the installed package, or beside it in a checkout."""
    installed = Path(__file__).parent / "profiles"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "profiles"


def default_search_path(environ: Mapping[str, str]) -> SearchPath:
    """Return the user's folder, the machine's, the shipped one."""
    config = environ.get("XDG_CONFIG_HOME", "")
    # A relative one is to be ignored, says the XDG Base Directory Specification.
    user = Path(config) if config.startswith("/") else Path(environ.get("HOME") or "/nonexistent") / ".config"
    shipped = shipped_folder()
    return SearchPath((user / "sandbox/profiles", Path("/etc/sandbox/profiles"), shipped), shipped)


def load(reference: str, *, search: SearchPath) -> Profile:
    """Find, read and merge a profile with all that it extends.

    reference: a path if it holds "/" or ends in ".toml", else a name that is looked up in `search`.
    Raises: ProfileError if it is not found, not to be trusted, not valid, or extends itself.
    """
    path = Path(reference) if _is_path(reference) else _find(reference, search)
    return merge(_with_parents(path, search, ()), path.name.removesuffix(SUFFIX))


def available(search: SearchPath) -> list[Entry]:
    """Return every profile that can be found, in the order of the search; unreadable ones say so."""
    entries: list[Entry] = []
    for folder in search.folders:
        for path in sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else ():
            name = path.name.removesuffix(SUFFIX)
            shadowed = any(entry.name == name for entry in entries)
            entries.append(Entry(name, path, _description(path), shadowed))
    return entries


def _description(path: Path) -> str:
    try:
        return str(tomllib.loads(path.read_text("utf-8")).get("description", ""))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return f"(cannot be read: {type(error).__name__})"


def _is_path(reference: str) -> bool:
    return "/" in reference or reference.endswith(SUFFIX)


def _find(reference: str, search: SearchPath) -> Path:
    for candidate in (folder / f"{reference}{SUFFIX}" for folder in search.folders):
        if os.path.lexists(candidate):
            return candidate
    names = sorted({entry.name for entry in available(search)})
    near = difflib.get_close_matches(reference, names, 1)
    hint = (f"did you mean {near[0]!r}? " if near else "") + "looked in " + ", ".join(map(str, search.folders))
    raise ProfileError(reference, "", "there is no such profile", hint)


def _with_parents(path: Path, search: SearchPath, chain: tuple[Path, ...]) -> Iterator[Draft]:
    """Yield what a profile extends, in order, then itself; each file at every place where it is named."""
    real = Path(os.path.realpath(path))
    if real in chain:
        names = " -> ".join(str(link) for link in (*chain, real))
        raise ProfileError(str(chain[-1]), "extends", f"a cycle: {names}", "take one of them out")
    if len(chain) >= MAX_DEPTH:
        raise ProfileError(str(path), "extends", f"more than {MAX_DEPTH} levels", "flatten it")
    draft = parse(read(path, trusted=real.parent == Path(os.path.realpath(search.shipped))), str(path))
    for reference in draft.extends:
        try:
            parent = path.parent / reference if _is_path(reference) else _find(reference, search)
        except ProfileError as error:
            raise ProfileError(str(path), "extends", f"{reference!r}: {error.reason}", error.hint) from error
        yield from _with_parents(parent, search, (*chain, real))
    yield draft


def read(path: Path, *, trusted: bool = False) -> str:
    """Read a profile's text: opened once; what is checked is what is read.

    trusted: skip the question of who may write, for the shipped profiles: who can write there can replace this code.
    Raises: ProfileError if it cannot be read, is no regular file, too large, not UTF-8, or, when run as root, if others
    could have written it or a folder on its way.
    """
    try:
        with ExitStack() as stack:
            fd = _open_trusted(path, stack) if os.geteuid() == 0 and not trusted else _open(path, None, stack)
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ProfileError(str(path), "", "not a regular file", "a profile is a TOML file")
            data = os.read(fd, MAX_BYTES + 1)
    except OSError as error:
        raise ProfileError(str(path), "", error.strerror or str(error), "give a profile's name or path") from error
    if len(data) > MAX_BYTES:
        raise ProfileError(str(path), "", f"larger than {MAX_BYTES} bytes", "is this a profile?")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ProfileError(str(path), "", f"not UTF-8 at byte {error.start}", "save it as UTF-8") from error


def _open(path: str | Path, folder: int | None, stack: ExitStack, flags: int = 0) -> int:
    # O_NONBLOCK: a fifo must not hold us up; on a regular file it means nothing.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags, dir_fd=folder)
    stack.callback(os.close, fd)
    return fd


def _open_trusted(path: Path, stack: ExitStack) -> int:
    """Walk down from / by descriptors; each folder, and the file, must be root's and writable by nobody else.

    A folder with the sticky bit may be writable: only owners can replace entries there, and each entry is root's.
    """
    parts = Path(os.path.realpath(path)).parts
    fd = _open("/", None, stack, os.O_DIRECTORY)
    _refuse_foreign(fd, path, Path("/"))
    for index, part in enumerate(parts[1:], 1):
        last = index == len(parts) - 1
        try:
            fd = _open(part, fd, stack, os.O_NOFOLLOW | (0 if last else os.O_DIRECTORY))
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise ProfileError(str(path), "", "a link appeared on the way", "try again") from error
            raise
        _refuse_foreign(fd, path, Path(*parts[: index + 1]))
    return fd


def _refuse_foreign(fd: int, path: Path, step: Path) -> None:
    status = os.fstat(fd)
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if status.st_uid != 0:
        raise ProfileError(str(path), "", f"{step} belongs to another user", f"for root it must be root's: chown root {step}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
        raise ProfileError(str(path), "", f"{step} can be written by others", f"chmod go-w {step}")

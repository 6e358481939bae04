"""Profile files: where they are looked for, how one is opened, whom root trusts to have written it, and `extends`."""

from __future__ import annotations

import difflib
import errno
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sandbox.errors import ProfileError, UsageError
from sandbox.profile import Profile
from sandbox.profile_text import Draft, merge, parse

MAX_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 16
SUFFIX: Final = ".toml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
_VERSION = re.compile(r"-?\d+(\.\d+)*\Z")
_CLOCK_STEPS: Final = 20_000_000  # nanoseconds; two jiffies of the slowest kernel
_MAX_LINKS = 40  # the kernel's own limit, path_resolution(7)
# O_PATH: looking at an entry neither blocks (a fifo) nor acts (a device).
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


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
    commands: tuple[str, ...]
    shadowed: bool


@dataclass(frozen=True, slots=True)
class Source:
    """A file's text, read once, and which file that was: device and inode."""

    path: Path
    text: str
    identity: tuple[int, int]


@dataclass(slots=True)
class Trail:
    """What a look-up has read, where it found nothing, and, as root, what it has passed: all that it depends on.

    Paths are absolute; in the order in which they were met. seen: folders that were listed, and files that were read
    and had nothing to say. is_complete: all of that can be compared later.
    """

    contents: dict[str, bytes] = field(default_factory=dict)
    absent: dict[str, None] = field(default_factory=dict)
    passed: dict[str, os.stat_result] = field(default_factory=dict)
    seen: dict[str, os.stat_result] = field(default_factory=dict)
    is_complete: bool = True

    def look(self, path: Path) -> None:
        """Note that a folder or file is about to be read, of which it will do to know that it is the same."""
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            self.absent[_absolute(path)] = None
        except OSError:
            self.is_complete = False
        else:
            self.seen[_absolute(path)] = status
            # The kernel's clock has coarse steps: within one of them a second change would not show.
            self.is_complete &= status.st_ctime_ns < time.time_ns() - _CLOCK_STEPS

    def still_holds(self) -> bool:
        """Tell whether the same look-up would find the same now; compared as sandbox/launcher/cached.c does it."""
        try:
            return (
                all(_is_absent(path) for path in self.absent)
                and all(_whose(os.lstat(path)) == _whose(status) for path, status in self.passed.items())
                and all(_version(os.stat(path)) == _version(status) for path, status in self.seen.items())
                and all(_holds(path, data) for path, data in self.contents.items())
            )
        except OSError:
            return False


def _is_absent(path: str) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    return False


def _whose(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_mode, status.st_uid


def _version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _holds(path: str, data: bytes) -> bool:
    """Tell whether a regular file has just that content; anything else is not opened for long."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        same = stat.S_ISREG(status.st_mode) and status.st_size == len(data)
        return same and os.read(fd, len(data) + 1) == data
    finally:
        os.close(fd)


def _absolute(path: Path | str) -> str:
    return str(path) if os.path.isabs(path) else os.path.join(os.getcwd(), path)


def shipped_folder() -> Path:
    """Return the folder of the shipped profiles: in the installed package, or beside it in a checkout."""
    installed = Path(__file__).parent / "profiles"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "profiles"


def default_search_path(environ: Mapping[str, str]) -> SearchPath:
    """Return the user's folder, the machine's, the shipped one."""
    config = environ.get("XDG_CONFIG_HOME", "")
    # A relative one is to be ignored, says the XDG Base Directory Specification; HOME deserves no more trust.
    if not config.startswith("/"):
        config = os.path.join(environ.get("HOME", ""), ".config")
    user = Path(config, "sandbox/profiles")
    shipped = shipped_folder()
    own = (user,) if user.is_absolute() and _is_open_to_us(user) else ()
    return SearchPath((*own, Path("/etc/sandbox/profiles"), shipped), shipped)


def _is_open_to_us(folder: Path) -> bool:
    """A folder that we may not look into is another user's, whose HOME was left in the environment (setpriv, su)."""
    try:
        os.stat(folder / ".")
    except PermissionError:
        return False
    except OSError:
        return True  # absent: then nothing is found there
    return True


def load(reference: str, *, search: SearchPath, trail: Trail | None = None) -> Profile:
    """Find, read and merge a profile with all that it extends.

    reference: a path if it holds "/" or ends in ".toml", else a name that is looked up in `search`. trail: is told what
    the result depends on.
    Raises: ProfileError if it is not found, not to be trusted, not valid, or extends itself.
    """
    trail = Trail() if trail is None else trail
    source = _find(reference, search, Path(), trail)
    return merge(_with_parents(source, search, (), set(), trail), source.path.name.removesuffix(SUFFIX))


def for_command(
    command: str, path_variable: str, *, search: SearchPath, trail: Trail | None = None
) -> str | None:  # fmt: skip
    """Return the name of the profile that says it is for a command; None if none does.

    command: a name, which is looked for as it is, then without the version at its end (python3.11); or the path of a
    command in one of the folders of `path_variable`: what lies elsewhere may be called git and be anything.
    The first folder with such a profile decides, as it does for names; a profile that an earlier folder hides says
    nothing. trail: is told what the result depends on.
    Raises: UsageError if two of that folder say so; ProfileError for one that may say so and cannot be used.
    """
    folder, name = os.path.split(command)
    if folder and not (folder.startswith("/") and folder in path_variable.split(os.pathsep)):
        return None
    plain = without_version(name)
    places: dict[Path, list[tuple[str, tuple[str, ...]]]] = {}
    for place, path, commands in _claims(search, (name, plain), Trail() if trail is None else trail):
        places.setdefault(place, []).append((path.name.removesuffix(SUFFIX), commands))
    for claims in places.values():
        for wanted in (name, plain):
            found = [profile for profile, commands in claims if wanted in commands]
            if len(found) > 1:
                raise UsageError(
                    f"command {wanted}", f"several profiles are for it: {', '.join(found)}", "name one: -p NAME"
                )
            if found:
                return found[0]
    return None


def without_version(name: str) -> str:
    """Return a command's name without the version at its end: python for python3.11, clang for clang-14."""
    return _VERSION.sub("", name)


def _claims(
    search: SearchPath, names: Iterable[str], trail: Trail
) -> Iterator[tuple[Path, Path, tuple[str, ...]]]:  # fmt: skip
    """Yield folder, path and commands of the profiles that can be found and whose text holds one of the names.

    Only these are parsed, since a start must not wait for all of them; in TOML a name can be spelt otherwise only by a
    backslash.
    """
    seen: set[str] = set()
    quoted = [f"{mark}{name}{mark}" for name in names for mark in "'\""]
    passed = Trail(passed=trail.passed)
    for folder, path in _files(search, trail):
        if path.name in seen:
            continue
        seen.add(path.name)
        trail.look(path)
        text = read(path, trusted=folder == search.shipped, trail=passed).text
        if "\\" in text or any(word in text for word in quoted):
            yield folder, path, parse(text, str(path)).commands


def available(search: SearchPath) -> list[Entry]:
    """Return every profile that can be found, in the order of the search; one that cannot be used says why."""
    entries: list[Entry] = []
    seen: set[str] = set()
    for folder, path in _files(search):
        name = path.name.removesuffix(SUFFIX)
        description, commands = _told(path, trusted=folder == search.shipped)
        entries.append(Entry(name, path, description, commands, name in seen))
        seen.add(name)
    return entries


def _files(search: SearchPath, trail: Trail | None = None) -> Iterator[tuple[Path, Path]]:
    """Yield folder and path of each profile, in the order of the look-up."""
    for folder in search.folders:
        if trail is not None:
            trail.look(folder)
        try:
            names = sorted(os.listdir(folder), key=lambda name: name.removesuffix(SUFFIX))
        except OSError:
            continue  # absent or closed to us: a look-up that leads there says so
        yield from ((folder, folder / name) for name in names if _is_profile(name))


def _is_profile(file_name: str) -> bool:
    return file_name.endswith(SUFFIX) and _NAME.match(file_name.removesuffix(SUFFIX)) is not None


def _told(path: Path, *, trusted: bool) -> tuple[str, tuple[str, ...]]:
    """Return what a profile says of itself: description and commands."""
    try:
        draft = parse(read(path, trusted=trusted).text, str(path))
    except ProfileError as error:
        return f"(not usable: {error.reason})", ()
    return draft.description or "", draft.commands


def _is_path(reference: str) -> bool:
    return "/" in reference or reference.endswith(SUFFIX)


def _find(reference: str, search: SearchPath, folder: Path, trail: Trail) -> Source:
    """Read the profile that a reference leads to; a relative path starts at `folder`."""
    if not reference or "\0" in reference:
        raise ProfileError(repr(reference), "", "not a profile's name or path", "give a name, or the path of a file")
    if _is_path(reference):
        return read(folder / reference, trail=trail)
    for place in search.folders if _NAME.match(reference) else ():
        path = place / f"{reference}{SUFFIX}"
        try:
            return _read(path, trail, trusted=place == search.shipped)
        except (FileNotFoundError, NotADirectoryError) as error:
            # A link that leads nowhere was meant to be something: the next folder's profile is not it.
            if path.is_symlink():
                raise _unreadable(path, error) from error
            trail.absent[_absolute(path)] = None
        except OSError as error:
            raise _unreadable(path, error) from error
    names = sorted({path.name.removesuffix(SUFFIX) for _, path in _files(search)})
    near = difflib.get_close_matches(reference, names, 1)
    hint = (f"did you mean {near[0]!r}? " if near else "") + "looked in " + ", ".join(map(str, search.folders))
    raise ProfileError(reference, "", "there is no such profile", hint)


def _with_parents(
    source: Source, search: SearchPath, chain: tuple[Source, ...], done: set[tuple[int, int]], trail: Trail
) -> Iterator[Draft]:
    """Yield what a profile extends, in order, then itself; each file once, where it is first needed.

    So the common base of two parents does not override what the first of them has set. What a shipped profile extends
    is a shipped one: a file of the user's that happens to be called `server` does not change those of the library.
    """
    places = SearchPath((search.shipped,), search.shipped) if source.path.parent == search.shipped else search
    if any(link.identity == source.identity for link in chain):
        names = " -> ".join(str(link.path) for link in (*chain, source))
        raise ProfileError(str(chain[-1].path), "extends", f"a cycle: {names}", "take one of them out")
    if len(chain) >= MAX_DEPTH:
        raise ProfileError(str(source.path), "extends", f"more than {MAX_DEPTH} levels", "flatten it")
    if source.identity in done:
        return
    draft = parse(source.text, str(source.path))
    for index, reference in enumerate(draft.extends):
        try:
            parent = _find(reference, places, source.path.parent, trail)
        except ProfileError as error:
            key = f"extends[{index}]"
            raise ProfileError(str(source.path), key, f"{reference!r}: {error.reason}", error.hint) from error
        yield from _with_parents(parent, search, (*chain, source), done, trail)
    done.add(source.identity)
    yield draft


def read(path: Path, *, trusted: bool = False, trail: Trail | None = None) -> Source:
    """Read a profile's text: opened once; what is checked is what is read.

    trusted: skip the question of who may write, for the shipped profiles: who can write there can replace this code.
    Raises: ProfileError if it cannot be read, is no regular file, too large, not UTF-8, or, when run as root, if others
    could have written it, or could have put a file, folder or link on its way.
    """
    try:
        return _read(path, Trail() if trail is None else trail, trusted=trusted)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> ProfileError:
    return ProfileError(str(path), "", error.strerror or str(error), "give a profile's name or path")


def _read(path: Path, trail: Trail, *, trusted: bool) -> Source:
    fd = _open(path, trail, only_root=not trusted and _is_root())
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ProfileError(str(path), "", f"larger than {MAX_BYTES} bytes", "is this a profile?")
    trail.contents[_absolute(path)] = data
    try:
        return Source(path, data.decode("utf-8"), (status.st_dev, status.st_ino))
    except UnicodeDecodeError as error:
        raise ProfileError(str(path), "", f"not UTF-8 at byte {error.start}", "save it as UTF-8") from error


def _is_root() -> bool:
    """Tell whether this is root, to whom files can belong.

    An ordinary user is root in a user namespace of its own (unshare --map-root-user). There the system's root has no
    number, its files belong to nobody (/proc/sys/kernel/overflowuid, user_namespaces(7)), and whoever is root is no
    more to the file system than that user.
    """
    if os.geteuid() != 0:
        return False
    ids = Path("/proc/self/uid_map").read_text().split()
    everybody = ids == ["0", "0", "4294967295"]
    return everybody or os.stat("/").st_uid != int(Path("/proc/sys/kernel/overflowuid").read_text())


def _open(path: Path, trail: Trail, *, only_root: bool) -> int:
    """Walk to a regular file by descriptors, one component after the other, following links itself, and open it.

    only_root: each folder and link that the walk passes, and the file, must be root's and writable by nobody else. A
    folder with the sticky bit may be writable: only owners can replace entries there, and each entry is root's.
    Returns: a descriptor that the caller owns.
    """
    # Checked from / on, unless nothing is checked: then a folder above may be closed to us, as with a plain open.
    start = os.path.join(os.getcwd(), path) if only_root else str(path)
    left = _components(start)
    at, links, entry = "", 0, -1
    folder = os.open("." if left[-1] != "/" else "/", _LOOK)
    try:
        while True:
            part = left.pop()
            at = os.path.join(at, part)
            # "/" makes openat(2) disregard the folder: an absolute link starts anew.
            entry = os.open(part, _LOOK, dir_fd=folder)
            status = os.fstat(entry)
            if only_root:
                _refuse_foreign(status, path, at)
                trail.passed[at] = status
            if stat.S_ISLNK(status.st_mode):
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                left += _components(os.readlink("", dir_fd=entry))
                at = os.path.dirname(at)
                os.close(entry)
            elif left:
                os.close(folder)
                folder = entry
            else:
                return _open_last(part, folder, status, path, at, only_root=only_root)
            entry = -1
    finally:
        for fd in {folder, entry} - {-1}:
            os.close(fd)


def _components(path: str) -> list[str]:
    """Return a path's parts, the first one last; the root is the part "/", an empty part is "."."""
    parts = [part or "." for part in path.removeprefix("/").split("/")]
    return [*parts[::-1], "/"] if path.startswith("/") else parts[::-1]


def _open_last(
    name: str, folder: int, seen: os.stat_result, path: Path, at: str, *, only_root: bool
) -> int:  # fmt: skip
    """Open for reading, and check again on that descriptor: the entry may have been replaced since it was seen."""
    _refuse_irregular(seen, path)
    fd = os.open(name, _READ, dir_fd=folder)
    try:
        status = os.fstat(fd)
        _refuse_irregular(status, path)
        if only_root:
            _refuse_foreign(status, path, at)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _refuse_irregular(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ProfileError(str(path), "", "not a regular file", "a profile is a TOML file")


def _refuse_foreign(status: os.stat_result, path: Path, at: str) -> None:
    if status.st_uid != 0:
        raise ProfileError(
            str(path), "", f"{at} belongs to another user", f"for root it must be root's: chown root {at}"
        )
    if stat.S_ISLNK(status.st_mode):
        return  # its mode means nothing, symlink(7)
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    # An access control list that lets others write shows in the group's bits, acl(5).
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
        raise ProfileError(str(path), "", f"{at} can be written by others", f"chmod go-w {at}")

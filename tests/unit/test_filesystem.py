"""The file view as a value: how lists of paths become entries, what each may, and which paths lie in the view."""

from __future__ import annotations

import itertools
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.filesystem import Entry, FilesystemPolicy, Kind, Rights, View, covers, entries, normal, split_optional

R, W, X = Rights.READ, Rights.WRITE, Rights.EXECUTE
LISTS: Final = {
    "read": (Kind.BIND, R),
    "write": (Kind.BIND, R | W),
    "execute": (Kind.BIND, R | X),
    "tmpfs": (Kind.TMPFS, R | W),
    "private": (Kind.COPY, R | W),
    "hide": (Kind.HIDE, Rights(0)),
}


@pytest.mark.parametrize(
    ("text", "path", "optional"),
    [("/a", "/a", False), ("-/a", "/a", True), ("/-a", "/-a", False), ("--/a", "-/a", True), ("", "", False)],
)
def test_split_optional_takes_one_mark(text: str, path: str, *, optional: bool) -> None:
    assert split_optional(text) == (path, optional)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/", "/"), ("//", "/"), ("/a/", "/a"), ("//a//b/", "/a/b"), ("/a/./b", "/a/b"), ("/a/../b", "/b"),
        ("/../..", "/"), ("/a b", "/a b"), ("/...", "/..."), ("/a/..b", "/a/..b"),
    ],
)  # fmt: skip
def test_normal_path_has_no_empty_parts_and_no_dots(path: str, wanted: str) -> None:
    assert normal(path) == wanted
    assert normal(wanted) == wanted


@pytest.mark.parametrize(("name", "kind", "rights"), [(name, *meaning) for name, meaning in LISTS.items()])
def test_entry_has_its_lists_kind_and_rights(name: str, kind: Kind, rights: Rights) -> None:
    assert entries(FilesystemPolicy(**{name: ("/a", "-/b")})) == (  # type: ignore[arg-type]
        Entry("/a", kind, rights),
        Entry("/b", kind, rights, optional=True),
    )


def test_entry_of_two_lists_has_the_rights_of_both_and_is_optional_in_neither() -> None:
    assert entries(FilesystemPolicy(write=("-/a/",), execute=("/a",))) == (Entry("/a", Kind.BIND, R | W | X),)
    assert entries(FilesystemPolicy(write=("-/a",), execute=("-//a",))) == (
        Entry("/a", Kind.BIND, R | W | X, optional=True),
    )


@pytest.mark.parametrize(("weak", "strong"), list(itertools.combinations(["read", "tmpfs", "private", "hide"], 2)))
def test_entry_of_two_kinds_is_of_the_stronger(weak: str, strong: str) -> None:
    (entry,) = entries(FilesystemPolicy(**{weak: ("/a",), strong: ("/a",)}))  # type: ignore[arg-type]
    assert entry.kind is LISTS[strong][0]


def test_entry_has_the_rights_of_binds_above_and_of_nothing_else() -> None:
    policy = FilesystemPolicy(
        read=("/a/b/c", "/ab", "/t/x", "/p/x"), write=("/a",), execute=("/a/b", "/"), tmpfs=("/t", "/a/t"),
        private=("/p", "/a/p"), hide=("/a/h",),
    )  # fmt: skip
    assert {entry.path: entry.rights for entry in entries(policy)} == {
        "/": R | X,
        "/a": R | W | X,
        "/a/b": R | W | X,
        "/a/b/c": R | W | X,
        "/a/h": Rights(0),
        "/a/p": R | W | X,  # what is executable there is so in its copy
        "/a/t": R | W,  # nothing is there that could be
        "/ab": R | X,
        "/p": R | W | X,
        "/p/x": R | X,  # that the copy may be changed says nothing of the host's
        "/t": R | W,
        "/t/x": R | X,
    }


def test_entries_of_an_empty_policy_are_none() -> None:
    assert entries(FilesystemPolicy()) == ()


_PATHS: Final = st.lists(st.sampled_from(["a", "b", "a-", "a.b", ".", ".."]), max_size=3).map(
    lambda x: "/" + "/".join(x)
)
_ENTRIES: Final = st.lists(st.tuples(st.sampled_from(["", "-"]), _PATHS).map("".join), max_size=3).map(tuple)
POLICIES: Final = st.builds(FilesystemPolicy, st.sampled_from(View), *[_ENTRIES] * 6)


def lists_of(policy: FilesystemPolicy, path: str) -> set[str]:
    """Return the names of the lists that have a path."""
    return {name for name in LISTS for text in getattr(policy, name) if normal(text.removeprefix("-")) == path}


def folders_of(path: str) -> list[str]:
    """Return the path and every folder above it."""
    parts = [part for part in path.split("/") if part]
    return ["/" + "/".join(parts[:count]) for count in range(len(parts) + 1)]


def is_bind(policy: FilesystemPolicy, path: str) -> bool:
    return not lists_of(policy, path) & {"tmpfs", "private", "hide"}


@given(POLICIES)
def test_entries_property_every_path_once_folders_first(policy: FilesystemPolicy) -> None:
    paths = [entry.path for entry in entries(policy)]
    named = {normal(text.removeprefix("-")) for name in LISTS for text in getattr(policy, name)}
    assert sorted(paths) == sorted(named)
    for before, after in itertools.combinations(paths, 2):
        assert after not in folders_of(before)
    for path in paths:  # what lies in a folder follows it without a gap
        below = [index for index, other in enumerate(paths) if path in folders_of(other)]
        assert below == list(range(below[0], below[-1] + 1))


@given(POLICIES)
def test_entries_property_rights_add_up(policy: FilesystemPolicy) -> None:
    for entry in entries(policy):
        wanted = Rights(0)
        for folder in folders_of(entry.path):
            new = entry.kind in {Kind.TMPFS, Kind.HIDE}
            if folder == entry.path or (is_bind(policy, folder) and not new):
                for name in lists_of(policy, folder):
                    wanted |= LISTS[name][1]
        assert entry.rights == wanted, entry
        texts = [text for name in LISTS for text in getattr(policy, name)]
        same = [text for text in texts if normal(text.removeprefix("-")) == entry.path]
        assert entry.optional == all(text.startswith("-") for text in same)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/", True), ("/srv", True), ("/srv/data", True), ("/srv/data/deep", True), ("/srv/other", False),
        ("/srv/datax", False), ("/srv/data/secret", False), ("/srv/data/secret/x", False), ("/srv/data/secretx", True),
        ("/srv/data/../other", False), ("/t/x", True), ("/c", True), ("/home", False), ("/gone", False),
        ("/dev", True), ("/dev/shm", True), ("/proc/self", True), ("/sys", False), ("/devx", False),
    ],
)  # fmt: skip
def test_covers_what_entries_show_and_the_way_to_them(path: str, *, wanted: bool) -> None:
    policy = FilesystemPolicy(
        read=("/srv/data/",), write=("-/opt",), tmpfs=("/t",), private=("/c",), hide=("/srv/data/secret", "/gone/x")
    )
    assert covers(policy, path) is wanted


def test_covers_nothing_below_what_is_hidden_not_even_an_entry() -> None:
    hidden = FilesystemPolicy(read=("/a", "/a/b/c"), hide=("/a/b",))
    assert not covers(hidden, "/a/b/c")
    assert covers(FilesystemPolicy(read=("/a", "/a/b/c")), "/a/b/c")
    assert covers(hidden, "/a/x")


def test_covers_all_of_the_hosts_tree_but_what_is_hidden() -> None:
    policy = FilesystemPolicy(View.HOST, hide=("/home/me/secret",))
    assert covers(policy, "/anything")
    assert covers(policy, "/home/me")
    assert not covers(policy, "/home/me/secret/x")

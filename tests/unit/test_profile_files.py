"""Finding, trusting and reading profile files, and `extends`: with real files, owners and modes."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from sandbox.errors import ProfileError, UsageError
from sandbox.profile_files import (
    MAX_BYTES,
    MAX_DEPTH,
    SearchPath,
    available,
    default_search_path,
    for_command,
    load,
    read,
)

IS_ROOT: Final = os.geteuid() == 0
NEEDS_ROOT: Final = pytest.mark.skipif(not IS_ROOT, reason="needs root: only root asks who could have written")
NEEDS_USER: Final = pytest.mark.skipif(IS_ROOT, reason="needs an ordinary user: root may look everywhere")
OTHER: Final = 65534


def search_in(*folders: Path, shipped: Path | None = None) -> SearchPath:
    shipped = shipped or folders[-1].parent / "shipped"
    return SearchPath((*folders, shipped), shipped)


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refusal(action: Callable[[], object]) -> ProfileError:
    with pytest.raises(ProfileError) as caught:
        action()
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


# Finding


def test_load_name_takes_the_first_folder_that_has_it(tmp_path: Path) -> None:
    user, system, shipped = (tmp_path / name for name in ("user", "system", "shipped"))
    search = SearchPath((user, system, shipped), shipped)
    for folder in (shipped, system, user):
        write(folder / "app.toml", f'description = "{folder.name}"')
        profile = load("app", search=search)
        assert (profile.name, profile.description) == ("app", folder.name)
        assert profile.source_path == str(folder / "app.toml")


def test_load_path_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "f" / "app.toml", 'description = "by path"')
    write(tmp_path / "f" / "plain", 'description = "no suffix"')
    write(tmp_path / "named" / "app.toml", 'description = "by name"')
    search = search_in(tmp_path / "named")
    monkeypatch.chdir(tmp_path / "f")
    for reference in ("app.toml", "./app.toml", "../f/app.toml", str(tmp_path / "f/app.toml"), "..//f/./app.toml"):
        assert load(reference, search=search).description == "by path"
    assert load("app", search=search).description == "by name"
    assert load("./plain", search=search).description == "no suffix"
    assert load("./plain", search=search).name == "plain"


def test_load_unknown_name_tells_the_nearest_and_where_it_looked(tmp_path: Path) -> None:
    write(tmp_path / "user" / "untrusted.toml")
    search = search_in(tmp_path / "user")
    error = refusal(lambda: load("untrustd", search=search))
    assert (error.path, error.reason) == ("untrustd", "there is no such profile")
    assert error.hint == f"did you mean 'untrusted'? looked in {tmp_path}/user, {tmp_path}/shipped"
    load("untrusted", search=search)


@pytest.mark.parametrize("reference", ["", ".", "..", "a b", "-x", "a\0", "./a\0.toml", ".hidden"])
def test_load_reference_that_is_no_name_is_refused(reference: str, tmp_path: Path) -> None:
    write(tmp_path / "user" / ".hidden.toml")
    write(tmp_path / "user" / "a.toml")
    refusal(lambda: load(reference, search=search_in(tmp_path / "user")))
    load("a", search=search_in(tmp_path / "user"))


def test_load_dangling_link_does_not_give_way_to_the_next_folder(tmp_path: Path) -> None:
    write(tmp_path / "system" / "app.toml")
    (tmp_path / "user").mkdir()
    search = search_in(tmp_path / "user", tmp_path / "system")
    load("app", search=search)
    (tmp_path / "user" / "app.toml").symlink_to("nowhere.toml")
    assert "No such file" in refusal(lambda: load("app", search=search)).reason


@NEEDS_USER
def test_load_closed_folder_does_not_give_way_to_the_next(tmp_path: Path) -> None:
    write(tmp_path / "system" / "app.toml")
    write(tmp_path / "user" / "app.toml")
    search = search_in(tmp_path / "user", tmp_path / "system")
    load("app", search=search)
    (tmp_path / "user").chmod(0)
    error = refusal(lambda: load("app", search=search))
    (tmp_path / "user").chmod(0o700)
    assert "Permission denied" in error.reason


def test_default_search_path_follows_the_environment() -> None:
    system, shipped = default_search_path({}).folders
    assert system == Path("/etc/sandbox/profiles")
    assert (shipped / "untrusted.toml").exists()
    assert default_search_path({}).shipped == shipped
    for environ, first in (
        ({"HOME": "/h"}, "/h/.config/sandbox/profiles"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": "/x"}, "/x/sandbox/profiles"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": ""}, "/h/.config/sandbox/profiles"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": "rel"}, "/h/.config/sandbox/profiles"),
    ):
        assert default_search_path(environ).folders == (Path(first), system, shipped)


@pytest.mark.parametrize("environ", [{}, {"HOME": ""}, {"HOME": "rel"}, {"XDG_CONFIG_HOME": "rel"}])
def test_default_search_path_relative_home_has_no_user_folder(environ: dict[str, str]) -> None:
    assert len(default_search_path(environ).folders) == 2


@NEEDS_USER
def test_default_search_path_leaves_out_another_users_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    assert len(default_search_path({"HOME": str(home)}).folders) == 3
    home.chmod(0)
    count = len(default_search_path({"HOME": str(home)}).folders)
    home.chmod(0o700)
    assert count == 2


def test_available_lists_all_and_marks_the_shadowed(tmp_path: Path) -> None:
    user, system = tmp_path / "user", tmp_path / "system"
    write(user / "b.toml", 'description = "mine"')
    write(user / "a.toml", 'extends = ["nowhere"]')
    write(user / "notes.txt")
    write(system / "b.toml", 'description = "theirs"')
    found = [(e.name, e.path, e.description, e.shadowed) for e in available(search_in(user, system))]
    assert found == [
        ("a", user / "a.toml", "", False),
        ("b", user / "b.toml", "mine", False),
        ("b", system / "b.toml", "theirs", True),
    ]


@pytest.mark.parametrize("text", ["x = [", 'description = "a\\nb"', "description = 3", "a = " + "[" * 20_000])
def test_available_profile_that_cannot_be_used_says_so(text: str, tmp_path: Path) -> None:
    write(tmp_path / "user" / "bad.toml", text)
    write(tmp_path / "user" / "good.toml", 'description = "fine"')
    bad, good = available(search_in(tmp_path / "user"))
    assert bad.description.startswith("(not usable: ")
    assert len(bad.description.splitlines()) == 1
    assert good.description == "fine"


def test_available_fifo_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    os.mkfifo(tmp_path / "user" / "fifo.toml")
    found: list[str] = []
    thread = threading.Thread(
        target=lambda: found.extend(e.description for e in available(search_in(tmp_path / "user"))), daemon=True
    )
    thread.start()
    thread.join(20)
    assert found == ["(not usable: not a regular file)"]


# Reading


def test_read_size_limit_is_one_mebibyte(tmp_path: Path) -> None:
    path = write(tmp_path / "big.toml", "#" * MAX_BYTES)
    assert len(read(path).text) == MAX_BYTES
    path.write_text("#" * (MAX_BYTES + 1))
    assert "larger than" in refusal(lambda: read(path)).reason


def test_read_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes("# é".encode())
    read(path)
    path.write_bytes("# é".encode("latin-1"))
    assert refusal(lambda: read(path)).reason == "not UTF-8 at byte 2"


@pytest.mark.parametrize("kind", ["folder", "fifo", "socket", "device", "slash"])
def test_read_what_is_no_regular_file_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    read(write(path))
    path.unlink()
    match kind:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as end:
                end.bind(str(path))
        case "device":
            path = Path("/dev/null")
        case _:
            path = Path("/")
    # trusted: anybody can write to /dev/null, which root is told first.
    assert refusal(lambda: read(path, trusted=True)).reason == "not a regular file"


def test_read_missing_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", write(tmp_path / "file") / "none.toml"):
        assert refusal(lambda path=path: read(path)).path == str(path)  # type: ignore[misc]


def test_read_follows_links(tmp_path: Path) -> None:
    real = write(tmp_path / "real" / "a.toml", "# here")
    (tmp_path / "folder").symlink_to("real/../real/.")
    (tmp_path / "absolute.toml").symlink_to(real)
    (tmp_path / "chain.toml").symlink_to("absolute.toml")
    for name in ("folder/a.toml", "absolute.toml", "chain.toml", "folder/../chain.toml"):
        assert read(tmp_path / name) == read(real).__class__(tmp_path / name, "# here", read(real).identity)


def test_read_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").symlink_to("b.toml")
    (tmp_path / "b.toml").symlink_to("a.toml")
    assert "symbolic links" in refusal(lambda: read(tmp_path / "a.toml")).reason


def test_read_follows_as_many_links_as_the_kernel(tmp_path: Path) -> None:
    tmp_path = tmp_path.resolve()
    write(tmp_path / "l0")
    for index in range(1, 42):
        (tmp_path / f"l{index}").symlink_to(f"l{index - 1}")
    assert read(tmp_path / "l40").text == (tmp_path / "l40").read_text()
    refusal(lambda: read(tmp_path / "l41"))
    with pytest.raises(OSError, match="symbolic links"):
        (tmp_path / "l41").read_text()


def test_read_leaves_no_descriptor_open(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "good.toml"), tmp_path / "bad.toml"
    (tmp_path / "link.toml").symlink_to("good.toml")
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    bad.mkdir()
    before = os.listdir("/proc/self/fd")
    for path in (good, tmp_path / "link.toml"):
        read(path)
    for path in (bad, tmp_path / "none.toml", tmp_path / "loop.toml"):
        refusal(lambda path=path: read(path))  # type: ignore[misc]
    assert os.listdir("/proc/self/fd") == before


@NEEDS_USER
def test_read_file_that_is_closed_to_us_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.toml")
    read(path)
    path.chmod(0)
    assert "Permission denied" in refusal(lambda: read(path)).reason


# Trust


def test_read_own_file_in_own_folder_is_trusted(tmp_path: Path) -> None:
    read(write(tmp_path / "a.toml", "# mine"))


@NEEDS_USER
def test_read_ordinary_user_is_asked_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "folder" / "a.toml")
    path.chmod(0o666)
    path.parent.chmod(0o777)
    read(path)


@NEEDS_ROOT
@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_read_root_file_that_others_can_write_is_refused(mode: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.toml")
    path.chmod(0o644)
    read(path)
    path.chmod(mode)
    error = refusal(lambda: read(path))
    assert (error.reason, error.hint) == (f"{path} can be written by others", f"chmod go-w {path}")
    read(path, trusted=True)


@NEEDS_ROOT
def test_read_root_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.toml")
    read(path)
    os.chown(path, OTHER, 0)
    error = refusal(lambda: read(path))
    assert (error.reason, error.hint) == (
        f"{path} belongs to another user",
        f"for root it must be root's: chown root {path}",
    )


@NEEDS_ROOT
@pytest.mark.parametrize("level", ["near", "far"])
@pytest.mark.parametrize("change", ["owner", "group", "world"])
def test_read_root_folder_that_others_can_change_is_refused(level: str, change: str, tmp_path: Path) -> None:
    path = write(tmp_path / "far" / "near" / "a.toml")
    folder = path.parent if level == "near" else path.parent.parent
    read(path)
    match change:
        case "owner":
            os.chown(folder, OTHER, 0)
        case "group":
            folder.chmod(0o775)
        case _:
            folder.chmod(0o757)
    assert str(folder) in refusal(lambda: read(path)).reason


@NEEDS_ROOT
def test_read_root_sticky_folder_is_trusted_with_what_is_roots_in_it(tmp_path: Path) -> None:
    path = write(tmp_path / "shared" / "a.toml")
    path.parent.chmod(0o1777)
    read(path)
    path.parent.chmod(0o777)
    refusal(lambda: read(path))
    path.parent.chmod(0o1777)
    os.chown(path, OTHER, 0)
    refusal(lambda: read(path))


@NEEDS_ROOT
def test_read_root_link_of_another_user_is_refused_wherever_it_leads(tmp_path: Path) -> None:
    write(tmp_path / "real" / "a.toml")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    for name, target in (("a.toml", "../real/a.toml"), ("folder", "../real")):
        link = shared / name
        link.symlink_to(target)
        path = link if name.endswith(".toml") else link / "a.toml"
        read(path)
        os.lchown(link, OTHER, 0)
        assert refusal(lambda path=path: read(path)).reason == f"{link} belongs to another user"  # type: ignore[misc]


@NEEDS_ROOT
def test_read_root_folder_on_a_links_way_is_checked(tmp_path: Path) -> None:
    real = write(tmp_path / "open" / "a.toml")
    (tmp_path / "link.toml").symlink_to(real)
    read(tmp_path / "link.toml")
    real.parent.chmod(0o777)
    assert str(real.parent) in refusal(lambda: read(tmp_path / "link.toml")).reason


@NEEDS_ROOT
def test_read_root_relative_path_is_checked_from_the_root_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "open" / "near" / "a.toml")
    monkeypatch.chdir(path.parent)
    read(Path("a.toml"))
    path.parent.parent.chmod(0o777)
    refusal(lambda: read(Path("a.toml")))


@NEEDS_ROOT
def test_load_root_every_extended_file_is_checked(tmp_path: Path) -> None:
    parent = write(tmp_path / "parent.toml")
    child = write(tmp_path / "child.toml", 'extends = ["./parent.toml"]')
    search = search_in(tmp_path / "none")
    load(str(child), search=search)
    parent.chmod(0o666)
    error = refusal(lambda: load(str(child), search=search))
    assert (error.path, error.key) == (str(child), "extends[0]")
    assert "can be written by others" in error.reason


@NEEDS_ROOT
def test_load_root_shipped_folder_is_trusted_and_links_to_it_are_not(tmp_path: Path) -> None:
    shipped, user = tmp_path / "shipped", tmp_path / "user"
    os.chown(write(shipped / "app.toml"), OTHER, 0)
    search = SearchPath((user, shipped), shipped)
    load("app", search=search)
    user.mkdir()
    (user / "app.toml").symlink_to(shipped / "app.toml")
    refusal(lambda: load("app", search=search))
    refusal(lambda: load(str(shipped / "app.toml"), search=search))


@NEEDS_ROOT
def test_available_root_says_which_profile_it_would_refuse(tmp_path: Path) -> None:
    write(tmp_path / "user" / "a.toml", 'description = "fine"')
    write(tmp_path / "user" / "b.toml").chmod(0o666)
    a, b = available(search_in(tmp_path / "user"))
    assert a.description == "fine"
    assert "can be written by others" in b.description


# extends


def test_extends_names_and_paths_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "named" / "one.toml", "[filter]\nallow = ['a']")
    write(tmp_path / "files" / "two.toml", "[filter]\nallow = ['b']")
    write(tmp_path / "files" / "sub" / "three.toml", "extends = ['../two.toml']\n[filter]\nallow = ['c']")
    app = write(
        tmp_path / "files" / "app.toml", "extends = ['one', 'two.toml', './sub/three.toml']\n[filter]\nallow=['d']"
    )
    monkeypatch.chdir("/")
    profile = load(str(app), search=search_in(tmp_path / "named"))
    assert profile.filter.allow == ("a", "b", "c", "d")
    assert (profile.name, profile.source_path) == ("app", str(app))


def test_extends_later_wins_and_lists_add_up(tmp_path: Path) -> None:
    write(
        tmp_path / "a.toml",
        "description='a'\n[process]\numask='077'\nchdir='/a'\n[filter]\nallow=['x']\n[grants.g]\nfile='/a'",
    )
    write(tmp_path / "b.toml", "[process]\numask='027'\n[filter]\nallow=['y','x']\n[grants.g]\nfile='/b'")
    app = write(tmp_path / "app.toml", "extends=['./a.toml','./b.toml']\n[environment.set]\nA='1'")
    profile = load(str(app), search=search_in(tmp_path))
    assert (profile.process.umask, profile.process.chdir, profile.description) == (0o27, "/a", "")
    assert profile.filter.allow == ("x", "y")
    assert [getattr(grant, "file", "") for grant in profile.grants] == ["/b"]


def test_extends_common_base_of_two_parents_does_not_undo_the_first(tmp_path: Path) -> None:
    write(tmp_path / "base.toml", "[process]\numask='022'\nchdir='/base'")
    write(tmp_path / "first.toml", "extends=['./base.toml']\n[process]\numask='077'")
    write(tmp_path / "second.toml", "extends=['./base.toml']\n[process]\nchdir='/second'")
    app = write(tmp_path / "app.toml", "extends=['./first.toml','./second.toml']")
    profile = load(str(app), search=search_in(tmp_path))
    assert (profile.process.umask, profile.process.chdir) == (0o77, "/second")


def test_extends_many_ways_to_one_file_read_it_a_bounded_number_of_times(tmp_path: Path) -> None:
    for level in range(MAX_DEPTH - 1):
        write(tmp_path / f"l{level}.toml", f"extends={['l' + str(level + 1)] * 10}\n[filter]\nallow=['n{level}']")
    write(tmp_path / f"l{MAX_DEPTH - 1}.toml")
    profile = load("l0", search=search_in(tmp_path))  # one file at each of its places would be 10^15 files
    assert profile.filter.allow == tuple(f"n{level}" for level in reversed(range(MAX_DEPTH - 1)))


def test_extends_cycle_is_refused_with_its_chain(tmp_path: Path) -> None:
    a, b, c = (tmp_path / f"{name}.toml" for name in "abc")
    write(a, "extends=['./b.toml']")
    write(b, "extends=['./c.toml']")
    write(c)
    load(str(a), search=search_in(tmp_path))
    write(c, "extends=['./a.toml']")
    error = refusal(lambda: load(str(a), search=search_in(tmp_path)))
    assert (error.path, error.key) == (str(c), "extends")
    assert error.reason == f"a cycle: {a} -> {b} -> {c} -> {a}"


def test_extends_itself_under_another_name_is_a_cycle(tmp_path: Path) -> None:
    write(tmp_path / "a.toml", "extends=['./link.toml']")
    (tmp_path / "link.toml").symlink_to("a.toml")
    error = refusal(lambda: load(str(tmp_path / "a.toml"), search=search_in(tmp_path)))
    assert error.reason == f"a cycle: {tmp_path}/a.toml -> {tmp_path}/link.toml"


def test_extends_depth_limit(tmp_path: Path) -> None:
    for level in range(MAX_DEPTH):
        write(tmp_path / f"l{level}.toml", f"extends=['./l{level + 1}.toml']")
    write(tmp_path / f"l{MAX_DEPTH}.toml")
    load(str(tmp_path / "l1.toml"), search=search_in(tmp_path))
    error = refusal(lambda: load(str(tmp_path / "l0.toml"), search=search_in(tmp_path)))
    assert (error.key, error.reason) == ("extends", f"more than {MAX_DEPTH} levels")


@pytest.mark.parametrize(
    ("reference", "reason"),
    [("bse", "there is no such profile"), ("./none.toml", "No such file"), ("./a\\u0000.toml", "not a profile's name")],
)
def test_extends_what_cannot_be_found_names_the_file_and_the_place(reference: str, reason: str, tmp_path: Path) -> None:
    write(tmp_path / "base.toml")
    app = write(tmp_path / "app.toml", f'extends=["base", "{reference}"]')
    error = refusal(lambda: load(str(app), search=search_in(tmp_path)))
    assert (error.path, error.key) == (str(app), "extends[1]")
    assert reason in error.reason
    write(app, 'extends=["base"]')
    load(str(app), search=search_in(tmp_path))


def test_extends_mistake_in_the_parent_names_the_parent(tmp_path: Path) -> None:
    parent = write(tmp_path / "parent.toml", "[process]\numask='999'")
    app = write(tmp_path / "app.toml", "extends=['./parent.toml']")
    error = refusal(lambda: load(str(app), search=search_in(tmp_path)))
    assert (error.path, error.key) == (str(parent), "process.umask")


def test_extends_of_a_shipped_profile_leads_to_shipped_ones(tmp_path: Path) -> None:
    user, shipped = tmp_path / "user", tmp_path / "shipped"
    for folder in (user, shipped):
        write(folder / "lower.toml", f'description = "x"\n[environment]\nset = {{ FROM = "{folder.name}" }}')
    write(shipped / "middle.toml", 'extends = ["lower"]')
    write(shipped / "app.toml", 'extends = ["middle"]')
    write(user / "mine.toml", 'extends = ["lower"]')
    search = SearchPath((user, shipped), shipped)
    found = {name: dict(load(name, search=search).environment.set) for name in ("lower", "app", "mine")}
    assert found == {"lower": {"FROM": "user"}, "app": {"FROM": "shipped"}, "mine": {"FROM": "user"}}


# Finding by command


PATHS: Final = "/usr/local/bin:/usr/bin:.:relative"


def test_for_command_takes_the_profile_that_names_it(tmp_path: Path) -> None:
    write(tmp_path / "user/mine.toml", 'commands = ["tool", "python", "a.b"]')
    write(tmp_path / "user/tool.toml", 'description = "a name alone says nothing"')
    search = search_in(tmp_path / "user")
    for command in (
        "tool",
        "/usr/bin/tool",
        "/usr/local/bin/tool4",
        "tool-4",
        "tool3.11",
        "python3",
        "python3.12",
        "a.b",
        "a.b12",
    ):
        assert for_command(command, PATHS, search=search) == "mine", command
    for command in (
        "",
        "/",
        "toolbox",
        "tool/",
        "tool-",
        "tool.",
        "mytool",
        "python3-config",
        "3",
        "a",
        "ython",
        "./tool",
        "relative/tool",
        "/bin/tool",
        "/tool",
    ):
        assert for_command(command, PATHS, search=search) is None, command


def test_for_command_exact_name_comes_before_the_one_without_version(tmp_path: Path) -> None:
    write(tmp_path / "user/any.toml", 'commands = ["lua"]')
    write(tmp_path / "user/five.toml", "commands = ['lua5.4']")
    search = search_in(tmp_path / "user")
    assert [for_command(f"lua{version}", PATHS, search=search) for version in ("", "5.4", "5.3")] == [
        "any",
        "five",
        "any",
    ]


def test_for_command_several_of_one_folder_are_an_error_and_the_first_folder_decides(tmp_path: Path) -> None:
    write(tmp_path / "system/one.toml", 'commands = ["tool"]')
    write(tmp_path / "system/two.toml", 'commands = ["tool", "other"]')
    search = search_in(tmp_path / "user", tmp_path / "system")
    assert for_command("other", PATHS, search=search) == "two"
    with pytest.raises(UsageError) as caught:
        for_command("tool", PATHS, search=search)
    assert (caught.value.object, caught.value.hint) == ("command tool", "name one: -p NAME")
    assert caught.value.reason.endswith(": one, two")
    write(tmp_path / "user/mine.toml", 'commands = ["tool"]')
    assert for_command("tool", PATHS, search=search) == "mine"


def test_for_command_profile_that_is_hidden_says_nothing(tmp_path: Path) -> None:
    write(tmp_path / "system/app.toml", 'commands = ["tool"]')
    search = search_in(tmp_path / "user", tmp_path / "system")
    assert for_command("tool", PATHS, search=search) == "app"
    write(tmp_path / "user/app.toml", 'extends = ["base"]')
    assert for_command("tool", PATHS, search=search) is None


def test_for_command_is_not_taken_over_by_extends(tmp_path: Path) -> None:
    write(tmp_path / "user/app.toml", 'commands = ["tool"]')
    write(tmp_path / "user/more.toml", 'extends = ["app"]')
    search = search_in(tmp_path / "user")
    assert for_command("tool", PATHS, search=search) == "app"
    assert (load("app", search=search).commands, load("more", search=search).commands) == (("tool",), ())


def test_for_command_spelt_by_escapes_is_found(tmp_path: Path) -> None:
    write(tmp_path / "user/app.toml", 'commands = ["\\u0074ool"]')
    assert for_command("tool", PATHS, search=search_in(tmp_path / "user")) == "app"


@pytest.mark.parametrize("text", ['commands = ["tool"', 'commands = "tool"', 'x = 1\ncommands = ["tool"]'])
def test_for_command_profile_that_may_be_for_it_and_cannot_be_used_is_an_error(tmp_path: Path, text: str) -> None:
    write(tmp_path / "user/bad.toml", text)
    search = search_in(tmp_path / "user")
    refusal(lambda: for_command("tool", PATHS, search=search))
    assert for_command("other", PATHS, search=search) is None, "it cannot be for this one"


@NEEDS_ROOT
def test_for_command_profile_of_another_user_is_an_error_for_root(tmp_path: Path) -> None:
    path = write(tmp_path / "user/app.toml", 'commands = ["tool"]')
    search = search_in(tmp_path / "user")
    assert for_command("tool", PATHS, search=search) == "app"
    os.chown(path, OTHER, OTHER)
    assert "belongs to another user" in refusal(lambda: for_command("tool", PATHS, search=search)).reason

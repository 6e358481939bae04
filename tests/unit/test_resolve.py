"""What a caller adds to a profile's walls, and what placeholders in a view come to."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest

from sandbox.allowlist import parse_bind, parse_peer
from sandbox.caller import Caller
from sandbox.errors import ProfileError, UsageError
from sandbox.filesystem import FilesystemPolicy
from sandbox.limits import Limits
from sandbox.profile import NetworkMode, NetworkPolicy, ProcessPolicy, Profile, SharedNamespace, Tty
from sandbox.resolve import Additions, for_caller

CALLER: Final = Caller(environ={}, cwd="/src/x", home="/home/u", runtime_dir="/run/u", tmp="/t", parent_pid=1)
HOME: Final = replace(CALLER, cwd="/home/u")
HERE: Final = Profile("p", filesystem=FilesystemPolicy(read=("{cwd}", "/etc"), tmpfs=("{home}",)))


def test_for_caller_placeholders_of_the_view_become_paths_and_marks_stay() -> None:
    files = FilesystemPolicy(
        read=("{cwd}/a", "-{home}/b"), write=("{runtime_dir}",), tmpfs=("{tmp}",), hide=("-{cwd}/c",)
    )
    assert for_caller(Profile("p", filesystem=files), CALLER).filesystem == FilesystemPolicy(
        read=("/src/x/a", "-/home/u/b"), write=("/run/u",), tmpfs=("/t",), hide=("-/src/x/c",)
    )


def test_for_caller_added_paths_come_after_the_profiles_and_start_at_the_working_directory() -> None:
    added = FilesystemPolicy(read=("-y", "/etc"), write=(".",), execute=("{cwd}",))
    files = for_caller(HERE, CALLER, Additions(filesystem=added)).filesystem
    assert files.read == ("/src/x", "/etc", "-/src/x/y")
    assert files.write == ("/src/x/.",)
    assert files.execute == ("/src/x/{cwd}",)


def test_for_caller_working_directory_is_the_one_that_the_command_starts_in() -> None:
    assert for_caller(HERE, CALLER, Additions(chdir="/srv")).filesystem.read == ("/srv", "/etc")
    assert for_caller(HERE, CALLER, Additions(chdir="sub")).filesystem.read == ("/src/x/sub", "/etc")
    own = replace(HERE, process=ProcessPolicy(chdir="{tmp}"))
    assert for_caller(own, CALLER).filesystem.read == ("/t", "/etc")


@pytest.mark.parametrize("cwd", ["/home/u", "/home", "/home/"])
def test_for_caller_home_folder_is_not_shown_by_being_the_working_directory(cwd: str) -> None:
    with pytest.raises(ProfileError, match="would show all of your home folder") as caught:
        for_caller(HERE, replace(CALLER, cwd=cwd))
    assert caught.value.key == "filesystem.read[0]"
    assert for_caller(HERE, replace(CALLER, cwd="/home/u/src")).filesystem.read == ("/home/u/src", "/etc")
    assert for_caller(HERE, replace(CALLER, cwd="/home/user2")).filesystem.read == ("/home/user2", "/etc")


def test_for_caller_home_folder_that_is_named_is_left_to_what_names_it() -> None:
    assert for_caller(HERE, HOME, Additions(chdir="/home/u")).filesystem.read == ("/etc",)
    shown = for_caller(HERE, HOME, Additions(filesystem=FilesystemPolicy(write=("src",))))
    assert (shown.filesystem.read, shown.filesystem.write) == (("/etc",), ("/home/u/src",))


@pytest.mark.parametrize("name", ["read", "write", "execute", "private"])
def test_for_caller_path_that_is_added_wins_over_an_empty_folder_of_the_profile(name: str) -> None:
    profile = replace(HERE, filesystem=FilesystemPolicy(tmpfs=("{home}", "/tmp"), hide=("/etc/key",)))
    for path in ("/home/u", "/home/u/.", "-/home/u/"):
        added = FilesystemPolicy(**{name: (path, "/etc/key")})  # type: ignore[arg-type]
        files = for_caller(profile, CALLER, Additions(filesystem=added)).filesystem
        assert (files.tmpfs, files.hide) == (("/tmp",), ("/etc/key",))
    below = FilesystemPolicy(**{name: ("/home/u/src",)})  # type: ignore[arg-type]
    assert for_caller(profile, CALLER, Additions(filesystem=below)).filesystem.tmpfs == ("/home/u", "/tmp")


def test_for_caller_root_folder_is_not_shown_by_being_the_working_directory() -> None:
    assert for_caller(HERE, replace(CALLER, cwd="/")).filesystem.read == ("/etc",)


def test_for_caller_user_without_a_home_has_no_folder_for_it() -> None:
    assert for_caller(HERE, replace(CALLER, home="/")).filesystem.tmpfs == ()


def test_for_caller_gone_working_directory_is_refused_where_it_is_to_be_shown() -> None:
    with pytest.raises(ProfileError, match="the working directory is gone"):
        for_caller(HERE, replace(CALLER, cwd=""))
    assert for_caller(Profile("p"), replace(CALLER, cwd="")).filesystem == FilesystemPolicy()


def test_for_caller_scalars_of_the_caller_win() -> None:
    profile = Profile(
        "p", process=ProcessPolicy(user="a", group="b"), limits=Limits(memory=1 << 30, processes=9),
        share=(SharedNamespace.IPC,),
    )  # fmt: skip
    assert for_caller(profile, CALLER) == profile
    added = Additions(
        network=NetworkMode.HOST, share=(SharedNamespace.UTS,), delegate=("apt",),
        limits={"memory": "1M", "timeout": 2}, tty=Tty.INHERIT,
        user="c",
    )  # fmt: skip
    result = for_caller(profile, CALLER, added)
    assert result.network.mode is NetworkMode.HOST
    assert result.share == (SharedNamespace.IPC, SharedNamespace.UTS)
    assert result.descriptors.delegate == ("apt",)
    assert result.limits == Limits(memory=1 << 20, processes=9, timeout=2000)
    assert (result.process.tty, result.process.user, result.process.group) == (Tty.INHERIT, "c", None)


def test_for_caller_rules_of_the_network_join_those_of_the_profile() -> None:
    own = NetworkPolicy(
        NetworkMode.LOOPBACK, (parse_peer("tcp:a:1"),), (parse_bind("tcp:1"),), resolvers=("192.0.2.1",)
    )
    profile = Profile("p", network=own)
    assert for_caller(profile, CALLER).network == own
    added = Additions(allow=(parse_peer("tcp:a:1"), parse_peer("udp:b:2")), bind=(parse_bind("udp:2"),), dns=True)
    result = for_caller(profile, CALLER, added).network
    assert result == NetworkPolicy(
        NetworkMode.LOOPBACK, (parse_peer("tcp:a:1"), parse_peer("udp:b:2")),
        (parse_bind("tcp:1"), parse_bind("udp:2")), dns=True, resolvers=("192.0.2.1",),
    )  # fmt: skip
    assert for_caller(Profile("p", network=result), CALLER, Additions()).network.dns, "nothing takes it back"


def test_for_caller_unknown_or_bad_limit_is_refused() -> None:
    with pytest.raises(UsageError, match="there is no such limit"):
        for_caller(Profile("p"), CALLER, Additions(limits={"mem": 1}))
    with pytest.raises(UsageError, match="is not a size"):
        for_caller(Profile("p"), CALLER, Additions(limits={"memory": "lots"}))

"""Real jobs by real programs: learned once, each is done under what was learned, and an impostor gets at nothing."""

from __future__ import annotations

import os
import shlex
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from tests.support.attack import ATTEMPTS
from tests.support.impostor import impostor
from tests.support.workloads import jobs, stage_command, staged, teach

# Of the jobs, those that take little time; so many have to be done at the first try.
CHOSEN: Final = [
    "awk-pipes",
    "build-fakeroot",
    "build-flexbison",
    "build-make-j2",
    "build-make-jobserver",
    "c-spawn",
    "crypto-gpg",
    "crypto-openssl",
    "crypto-ssh-keygen",
    "guile-pipe",
    "lua-popen",
    "media-imagemagick",
    "node-child",
    "node-fork",
    "perl-fdpass",
    "perl-prove",
    "perl-system",
    "php-procopen-fd3",
    "php-server",
    "py-httpserver",
    "py-mp-fork",
    "py-mp-spawn",
    "py-passfds",
    "py-pty",
    "py-pytest",
    "py-subprocess",
    "py-thread-exec",
    "ruby-fdpass",
    "ruby-spawn",
    "sh-bash-childfd",
    "sh-bash-execfd",
    "sh-bash-flockfd",
    "sh-bash-heredoc",
    "sh-bash-jobs",
    "sh-bash-loopfd",
    "sh-bash-procsub-out",
    "sh-bash-redirs",
    "sh-bash-varfd",
    "sh-busybox",
    "sh-dash",
    "sh-dash-childfd",
    "sh-zsh",
    "srv-lighttpd",
    "srv-memcached",
    "srv-nginx",
    "srv-redis",
    "tool-compress",
    "tool-coreutils",
    "tool-findutils",
    "tool-jq-rg",
    "tool-sed-bc",
    "tool-sqlite",
    "tool-tar",
    "vcs-git-basic",
    "vcs-git-clone",
]
LEAST: Final = 30
USER: Final = "nobody" if os.geteuid() == 0 else None


@pytest.fixture(scope="module")
def stage() -> Iterator[Path]:
    with staged(USER) as folder:
        yield folder


@pytest.fixture(scope="module")
def command(stage: Path) -> str:
    return stage_command(stage)


def test_jobs_are_done_under_what_was_learned_and_an_impostor_gets_at_nothing(stage: Path, command: str) -> None:
    chosen = [job for job in jobs(stage / "workloads") if job.name in CHOSEN]
    assert len(chosen) == len(CHOSEN)
    with ThreadPoolExecutor(2) as pool:
        every = pool.map(lambda job: (job.name, teach(job, command, stage, USER)), chosen)
        taught = {name: each for name, each in every if each is not None}
    assert len(taught) >= LEAST, sorted(taught)
    not_done = {name: each.again.said for name, each in taught.items() if not each.again.right}
    assert not_done == {}
    modes = {name: tomllib.loads(each.profile).get("network", {}) for name, each in taught.items()}
    assert {name for name, each in modes.items() if each.get("mode") == "host" or "allow" in each} == set()
    with impostor(stage, USER) as hostile:
        outside = hostile.attack()
        assert outside.ran, outside.said
        assert outside.done == set(ATTEMPTS), outside.said
        for name in taught:
            path = stage / "scratch" / f"{name}.toml"
            inside = hostile.attack(shlex.join([command, "run", "-p", str(path)]))
            assert inside.ran, (name, inside.said)
            assert inside.done == set(), (name, inside.said)


@pytest.mark.parametrize(
    ("option", "done"),
    [
        ("", set()),
        ("--read {home}/.ssh", {"reads"}),
        ("--write {folder}/outside", {"writes"}),
        ("--net host", {"connects"}),
        ("--read {folder}/aside", {"looks aside"}),
        ("--read {home}/.gnupg", {"speaks"}),
    ],
)
def test_impostor_is_seen_where_a_profile_lets_it(stage: Path, command: str, option: str, done: set[str]) -> None:
    """The test itself: what one option more grants shows."""
    with impostor(stage, USER) as hostile:
        found = hostile.attack(shlex.join([command, "run", "-p", "untrusted"]), option)
        assert found.ran, found.said
        assert found.done == done, found.said

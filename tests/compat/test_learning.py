"""Real jobs by real programs: learned once, each is done under what was learned, and an impostor gets at nothing."""

from __future__ import annotations

import os
import shlex
import socket
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from tests.support.workloads import Job, jobs, run, stage_command, staged, teach

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
TWIN: Final = """#!/bin/bash
# class: A
# looks for what the job that it stands for has no business with
[ -r {secret} ] && cat {secret} && exit 1
(echo x >{outside}) 2>/dev/null  # in an empty folder of its own it may; whether it is outside is looked at there
(exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null && exit 2
exit 0
"""


@pytest.fixture(scope="module")
def stage() -> Iterator[Path]:
    with staged(USER) as folder:
        yield folder


def test_jobs_are_done_under_what_was_learned_and_an_impostor_gets_at_nothing(stage: Path) -> None:
    command = stage_command(stage)
    secret, outside = stage / "secret", stage / "scratch" / "outside"
    secret.write_text("SECRET\n")
    twin = Job(stage / "workloads" / "jobs" / "twin.sh")
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
    # The impostor is executed as the job was: by the same words, under the job's own profile.
    with socket.create_server(("127.0.0.1", 0)) as server:
        twin.path.write_text(TWIN.format(secret=secret, outside=outside, port=server.getsockname()[1]))
        assert run(twin, stage, user=USER).code == 1, "without a profile it does find the secret"
        assert not outside.exists()
        for name in taught:
            path = stage / "scratch" / f"{name}.toml"
            shown = ["--read", str(twin.path)]  # all that it has more than the job
            done = run(twin, stage, launcher=shlex.join([command, "run", "-p", str(path), *shown, "--"]), user=USER)
            assert done.right, (name, done)
    assert not outside.exists()

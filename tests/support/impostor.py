"""An impostor: hostile code that is executed as a job was, by the same words, under what the job has taught."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.attack import Aim, Host, Verdict
from tests.support.workloads import Job, run

TEXT: Final = """#!/bin/bash
# class: A
# attempts what hostile code does
exec /usr/bin/python3 {folder}/attack.py
"""


@dataclass(frozen=True, slots=True)
class Impostor:
    """What attacks from a stage of jobs: staged() of workloads."""

    stage: Path
    user: str | None
    host: Host

    def attack(self, launcher: str = "", option: str = "") -> Verdict:
        """Attack as a job of the stage would be run by these words; without any, without a sandbox.

        option: one more; {folder} is what the attack is aimed at, {home} the home in it.
        """
        folder = Path(tempfile.mkdtemp(prefix="aim-", dir=self.stage))
        folder.chmod(0o755)
        code = folder / "code"
        code.mkdir()
        aim = Aim(folder, code, self.host, self.user)
        try:
            job = Job(code / "job.sh")
            job.path.write_text(TEXT.format(folder=code))
            # All that it has more than the job; the home is the one that it looks for secrets in.
            more = option.format(folder=folder, home=aim.home)
            words = f"{launcher} --read {shlex.quote(str(code))} {more} --" if launcher else ""
            environ = {"HOME": str(aim.home)}
            done = run(job, self.stage, launcher=words, user=self.user, environ=environ, apart=False)
            return aim.verdict(done.output)
        finally:
            aim.close()
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def impostor(stage: Path, user: str | None) -> Iterator[Impostor]:
    """Yield what attacks, with the host that it attacks."""
    host = Host()
    try:
        yield Impostor(stage, user, host)
    finally:
        host.close()

"""Sealed files for tests: made in this process, and what one would carry out at a start."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from sandbox import wire
from sandbox.plan import Op, OpCode, Plan
from sandbox.probe import launcher_path, probe
from sandbox.profile import Profile
from sandbox.resolve import Additions
from sandbox.seal import Sealed, assemble, seal_profile

ABI: Final = probe()["landlock_abi"]
VERSION: Final = "test"


def sealed(loaded: Profile, command: Sequence[str] = (), added: Additions | None = None) -> Sealed:
    return seal_profile(loaded, added or Additions(), command, landlock_abi=ABI, version=VERSION)


def sealed_file(
    path: Path, loaded: Profile, command: Sequence[str] = (), added: Additions | None = None
) -> Path:  # fmt: skip
    path.write_bytes(assemble(launcher_path().read_bytes(), sealed(loaded, command, added)))
    path.chmod(0o755)
    return path


def planned(
    file: Path, *arguments: str, env: Mapping[str, str], cwd: str | Path, prefix: Sequence[str] = ()
) -> Plan | str:
    """Return the plan of a start, or the message of its refusal."""
    done = subprocess.run(
        [*prefix, file, "--sandbox-plan", *arguments],
        env=dict(env), cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode:
        assert (done.returncode, done.stdout) == (125, b"")
        return done.stderr.decode()
    assert done.stderr == b""
    return wire.decode(done.stdout)


def comparable(plan: Plan) -> list[Op]:
    """Return a plan's ops less what does not count: advice, words, variables that nothing keeps, Landlock's order."""
    kept = [op.data.decode() for op in plan.only(OpCode.ENV_KEEP)]

    def is_kept(name: str) -> bool:
        return any(name.startswith(word[:-1]) if word.endswith("*") else word == name for word in kept)

    # What a sealed file says of a priority names the caller, not its number.
    ops = [replace(op, hint="", label="" if op.code is OpCode.SCHEDULING else op.label) for op in plan.ops]
    ops = [op for op in ops if op.code is not OpCode.ENV_DROP or is_kept(op.data.decode())]
    unordered = {OpCode.PATH_RULE, OpCode.ENV_DROP}
    return sorted(ops, key=lambda op: (op.code, (op.data, op.c, op.flags) if op.code in unordered else (b"", 0, 0)))

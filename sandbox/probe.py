"""Asking the running kernel, through the launcher, which features it has."""

from __future__ import annotations

import subprocess

from sandbox.errors import InternalError
from sandbox.kernel import FEATURES
from sandbox.launch import launcher_path


def probe() -> dict[str, int]:
    """Ask the launcher what the running kernel has.

    Returns: a value for each of FEATURES, 0 when it is missing.
    Raises: InternalError if the launcher answers otherwise than expected.
    """
    answer = subprocess.run([launcher_path(), "--probe"], capture_output=True, text=True, check=False)
    values = {name: int(value) for name, value, *_ in (line.split() for line in answer.stdout.splitlines())}
    if answer.returncode or set(values) != {feature.name for feature in FEATURES}:
        raise InternalError("sandbox-launch --probe", answer.stderr.strip() or "it knows other features than we do")
    return values

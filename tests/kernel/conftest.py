"""What the kernel tests share: the probes, and a place that the file of an executed command would show up in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.probes import Probes, public_folder


@pytest.fixture(scope="session")
def probes() -> Iterator[Probes]:
    """Yield the built probes, by name."""
    with public_folder() as folder:
        yield Probes(folder)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Return a path that exists after the test only if the command was executed."""
    return tmp_path / "executed"

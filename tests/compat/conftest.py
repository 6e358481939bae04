"""What tests of one subject share: the folder that a booted systemd sees."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with one for units."""
    (tmp_path / "units").mkdir()
    return tmp_path

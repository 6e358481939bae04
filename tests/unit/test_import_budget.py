"""What an import may cost: `sandbox run` replaces itself within milliseconds, so heavy libraries load when needed."""

from __future__ import annotations

import subprocess
import sys

import pytest


def loaded_by(statement: str) -> frozenset[str]:
    """Return the names in sys.modules after a statement in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    return frozenset(done.stdout.split())


# library -> milliseconds that it adds to the start, measured with Python 3.11: pyseccomp 13, pyroute2 100 and more.
@pytest.mark.parametrize("library", ["pyseccomp", "pyroute2", "asyncio", "ctypes", "jsonschema", "rich", "socket"])
@pytest.mark.parametrize("package", ["sandbox", "sandbox.cli", "sandbox.cli.app"])
def test_import_of_package_does_not_load_library(package: str, library: str) -> None:
    assert library not in loaded_by(f"import {package}")


def test_import_of_package_does_not_load_click() -> None:
    assert "click" not in loaded_by("import sandbox")


@pytest.mark.parametrize("library", ["pyseccomp", "asyncio", "click"])
def test_import_budget_sees_a_library_that_is_loaded(library: str) -> None:
    assert library in loaded_by(f"import {library}")

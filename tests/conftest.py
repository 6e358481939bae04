"""What all tests share: where things are, what counts as a skip, how hypothesis searches."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase

ROOT: Final = Path(__file__).resolve().parent.parent

# Children started with ROOT as working directory must import the installed package as well.
os.environ["PYTHONSAFEPATH"] = "1"

# No deadline: timing is the benches' subject. An ordinary user may be unable to write into the checkout.
settings.register_profile(
    "sandbox",
    deadline=None,
    print_blob=True,
    database=DirectoryBasedExampleDatabase(ROOT / ".hypothesis") if os.access(ROOT, os.W_OK) else None,
)
settings.load_profile("sandbox")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return a small environment: no profiles of whoever runs the tests, no locale."""
    home = tmp_path / "home"
    home.mkdir()
    # As an ordinary user the installed packages are a copy (tests/kernel/run-as-ordinary-user).
    packages = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    return {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONSAFEPATH": "1", **packages}


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the top folder of the checkout (or of its staged copy)."""
    return ROOT


@pytest.fixture(scope="session")
def launcher() -> Path:
    """Return the installed native launcher."""
    import sandbox

    return Path(sandbox.__file__).parent / "launcher" / "sandbox-launch"


@pytest.fixture(scope="session")
def sandbox_command() -> tuple[str, ...]:
    """Return the arguments that start the installed command line, wherever the console script lies."""
    return (sys.executable, "-P", "-m", "sandbox")


def skip_is_justified(reason: str) -> bool:
    """Tell whether a skip's reason is one of the four that count, and true where that can be looked at."""
    reason = reason.removeprefix("Skipped: ")
    kind, _, detail = reason.partition(": ")
    match kind:
        case "kernel lacks":
            return bool(detail)
        case "optional tool absent":
            return (
                detail in {"clang", "afl-fuzz", "nginx", "postgres", "systemd-socket-activate", "systemctl", "bwrap"}
                and shutil.which(detail) is None
            )
        case "needs root":
            return os.geteuid() != 0
        case "needs an ordinary user":
            return os.geteuid() == 0
    return False


def _refuse_unjustified_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or hasattr(report, "wasxfail") or not isinstance(report.longrepr, tuple):
        return
    path, line, reason = report.longrepr
    if not skip_is_justified(reason):
        report.outcome = "failed"
        report.longrepr = (
            f"{path}:{line}: skipped for {reason!r}; a skip is a failure unless it is 'kernel lacks: FEATURE', "
            "'optional tool absent: clang', 'needs root: WHY' or 'needs an ordinary user: WHY', and true"
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip without a good reason into a failure."""
    report = yield
    _refuse_unjustified_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the skip of a whole module without a good reason into a failure."""
    report = yield
    _refuse_unjustified_skip(report)
    return report

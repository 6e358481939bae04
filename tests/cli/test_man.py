"""Manual pages: of the same texts as --help, for each command, and such that troff has nothing to say about them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sandbox.cli.app import COMMANDS
from tests.cli.conftest import Run


def plain(page: str) -> str:
    """Return a page's text without what is troff's."""
    for name, char in ((r"\-", "-"), (r"\(aq", "'"), (r"\(ti", "~"), (r"\(ha", "^"), (r"\&", ""), (r"\e", "\\")):
        page = page.replace(name, char)
    return page


@pytest.mark.parametrize("name", COMMANDS)
def test_page_has_all_that_help_has(name: str, sandbox: Run) -> None:
    page, help_ = plain(sandbox("man", name).stdout), sandbox(name, "--help").stdout
    for option in re.findall(r"^  (?:-\w, )?(--[\w-]+)", help_, re.MULTILINE):
        assert option in page
    words = " ".join(page.replace("\n", " ").split())
    first = help_.split("\n\n")[1]
    assert " ".join(first.split()) in words
    for line in re.findall(r"^  (sandbox .*)$", help_, re.MULTILINE):
        assert f"\n{line.strip()}\n" in page, "an example keeps its line"


def test_pages_are_written_and_are_sound(sandbox: Run, tmp_path: Path) -> None:
    done = sandbox("man", "-o", str(tmp_path / "man1"))
    assert done.returncode == 0
    pages = sorted((tmp_path / "man1").iterdir())
    assert [page.name for page in pages] == sorted(["sandbox.1", *(f"sandbox-{name}.1" for name in COMMANDS)])
    assert done.stdout.splitlines() == [str(tmp_path / "man1" / name) for name in (
        "sandbox.1", *(f"sandbox-{name}.1" for name in COMMANDS)
    )]  # fmt: skip
    if shutil.which("groff") is None:
        pytest.skip("optional tool absent: groff")
    for page in pages:
        found = subprocess.run(
            ["groff", "-man", "-Tutf8", "-wall", "-z", page], capture_output=True, text=True, check=True
        )  # fmt: skip
        assert [line for line in found.stderr.splitlines() if "cannot adjust" not in line] == []


def test_output_takes_all_pages(sandbox: Run, tmp_path: Path) -> None:
    assert sandbox("man", "-o", str(tmp_path), "run").returncode == 125


def test_examples_keep_their_lines_in_help(sandbox: Run) -> None:
    assert "\n  sandbox run -- git status\n" in sandbox("run", "--help").stdout
    assert "\\b" not in sandbox("run", "--help").stdout


def test_list_of_commands_has_whole_sentences(sandbox: Run) -> None:
    lines = sandbox("--help").stdout.split("Commands:\n")[1].splitlines()
    assert [line.split()[0] for line in lines] == list(COMMANDS)
    assert [line for line in lines if line.endswith("...") or not line.endswith(".")] == []

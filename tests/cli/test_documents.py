"""The documents' examples: every console block is executed, and says what the document says."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.support.documents import assert_examples, examples, outputs, pattern_of

ROOT: Final = Path(__file__).resolve().parents[2]
ELSEWHERE: Final = {"fleet.md"}  # its examples need hosts: tests/compat/test_fleet.py
DOCUMENTS: Final = [
    path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if path.name not in ELSEWHERE
]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_document_examples_say_what_is_written(
    path: Path, sandbox_command: Sequence[str], environment: Mapping[str, str], tmp_path: Path
) -> None:
    assert_examples(path, sandbox_command, environment, tmp_path)


@pytest.mark.parametrize("name", ["README.md", "docs/command-line.md", "docs/python.md", "docs/descriptors.md"])
def test_document_has_examples(name: str) -> None:
    assert list(examples((ROOT / name).read_text()))


def test_documents_examples_are_compared() -> None:
    """The executor itself: a wrong output shows, a right one passes."""
    text = "```console\n$ echo a; \\\n> echo b\na\nb\n$ true\n$ seq 9\n1\n...\n9\n```\n"
    assert list(examples(text)) == [("echo a; \\\necho b", "a\nb"), ("true", ""), ("seq 9", "1\n...\n9")]
    assert re.fullmatch(pattern_of("1\n...\n9"), "1\n2\n3\n9\n")
    assert re.fullmatch(pattern_of("x ... y"), "x and y\n")
    assert not re.fullmatch(pattern_of("x ... y"), "x and z\n")
    assert not re.fullmatch(pattern_of(""), "said\n")


def test_outputs_keep_shell_state_and_exit_codes(tmp_path: Path) -> None:
    commands = ["cd /; x=5", "echo $x $PWD", "false", "echo $?", "exec 7</dev/null", "readlink /proc/self/fd/7"]
    assert outputs(commands, tmp_path, os.environ) == ["", "5 /\n", "", "1\n", "", "/dev/null\n"]


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 180

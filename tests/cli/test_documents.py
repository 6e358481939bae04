"""The documents' examples: every console block is executed, and says what the document says.

`$ ` starts a command, `> ` continues it; what follows is its output, standard error included. In it `...` stands for
any text, and a line of `...` alone for any lines. The blocks of one document share a shell and a folder.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
DOCUMENTS: Final = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if path.exists()]
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Output of one command ends here; $? stays what it was.
MARK: Final = "--- end of command ---"


def examples(text: str) -> Iterator[tuple[str, str]]:
    """Yield command and expected output."""
    for block in BLOCK.findall(text):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = part.splitlines()
            length = next((i for i, line in enumerate(lines[1:], 1) if not line.startswith("> ")), len(lines))
            yield "\n".join([lines[0], *(line[2:] for line in lines[1:length])]), "\n".join(lines[length:]).strip("\n")


def pattern_of(expected: str) -> str:
    """Return the expression that an output must match."""
    lines = expected.splitlines()
    return "".join(
        r"(.*\n)*" if line == "..." else ".*".join(map(re.escape, line.split("..."))) + "\n" for line in lines
    )


def outputs(commands: Sequence[str], folder: Path, env: Mapping[str, str]) -> list[str]:
    """Run commands in one bash and return what each has said."""
    mark = f"__code=$?; printf %s {shlex.quote(MARK)}; (exit $__code)"
    script = "".join(f"{command}\n{mark}\n" for command in commands)
    done = subprocess.run(
        ["bash", "--norc", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, cwd=folder, env=dict(env), timeout=300, check=False,
    )  # fmt: skip
    return done.stdout.split(MARK)[:-1]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_document_examples_say_what_is_written(
    path: Path, sandbox_command: Sequence[str], environment: Mapping[str, str], tmp_path: Path
) -> None:
    folder, programs = tmp_path / "folder", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    (programs / "sandbox").write_text(f'#!/bin/sh\nexec {" ".join(sandbox_command)} "$@"\n')
    (programs / "sandbox").chmod(0o755)
    found = list(examples(path.read_text()))
    # The interpreter itself and no script that starts it: to that, a grant goes along only if it propagates.
    path_variable = f"{programs}:{Path(sys.executable).parent}:{environment['PATH']}"
    said = outputs([command for command, _ in found], folder, {**environment, "PATH": path_variable})
    assert len(said) == len(found)
    for (command, expected), output in zip(found, said, strict=True):
        whole = output if output.endswith("\n") or not output else output + "\n"
        assert re.fullmatch(pattern_of(expected), whole), f"$ {command}\n{whole}--- wanted\n{expected}"


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

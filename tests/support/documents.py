"""Documents' examples: what stands in a console block is executed, and says what the document says.

`$ ` starts a command, `> ` continues it; what follows is its output, standard error included. In it `...` stands for
any text, and a line of `...` alone for any lines. The blocks of one document share a shell and a folder.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

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


def assert_examples(path: Path, command: Sequence[str], environment: Mapping[str, str], tmp_path: Path) -> None:
    """Execute a document's examples in a folder below tmp_path, with `sandbox` being the command."""
    folder, programs = tmp_path / "folder", tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    programs.mkdir()
    (programs / "sandbox").write_text(f'#!/bin/sh\nexec {" ".join(command)} "$@"\n')
    (programs / "sandbox").chmod(0o755)
    found = list(examples(path.read_text()))
    # The interpreter itself and no script that starts it: to that, a grant goes along only if it propagates.
    path_variable = f"{programs}:{Path(sys.executable).parent}:{environment['PATH']}"
    said = outputs([command for command, _ in found], folder, {**environment, "PATH": path_variable})
    assert len(said) == len(found)
    for (command_line, expected), output in zip(found, said, strict=True):
        whole = output if output.endswith("\n") or not output else output + "\n"
        assert re.fullmatch(pattern_of(expected), whole), f"$ {command_line}\n{whole}--- wanted\n{expected}"

"""Shell completion, in a real bash that sources the script."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

Run: TypeAlias = Callable[..., "subprocess.CompletedProcess[str]"]

# What readline does with a line: look up the function, set COMP_*, call it, take COMPREPLY.
COMPLETE = """
eval "$(sandbox completion bash)"
function=$(complete -p sandbox | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
compopt() {{ printf 'compopt %s %s\\n' "$@"; }}
"$function" sandbox
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def completions(shell: Run, words: str, prepare: str = "") -> list[str]:
    done = shell(prepare + COMPLETE.format(words=words))
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (
            "sandbox ''",
            [
                "run",
                "check",
                "explain",
                "seal",
                "unseal",
                "unit",
                "export",
                "survey",
                "probe",
                "profiles",
                "cache",
                "completion",
            ],
        ),
        ("sandbox pro", ["probe", "profiles"]),
        ("sandbox profiles ''", ["list", "path", "schema", "show"]),
        ("sandbox run -p ''", ["base", "nested", "sealed", "untrusted"]),
        ("sandbox run -p un", ["untrusted"]),
        ("sandbox explain --profile s", ["sealed"]),
        ("sandbox check ''", ["base", "nested", "sealed", "untrusted"]),
        ("sandbox run --st", ["--streams", "--status-fd"]),
        ("sandbox run --net ''", ["none", "loopback", "host"]),
        ("sandbox explain --tty p", ["private"]),
        ("sandbox run --share u", ["user", "uts"]),
        ("sandbox completion ''", ["bash", "zsh", "fish"]),
    ],
)
def test_completion_in_bash_offers(shell: Run, words: str, wanted: list[str]) -> None:
    assert completions(shell, words) == wanted


@pytest.mark.parametrize(
    "words",
    ["sandbox run --profile ./x", "sandbox run --read ./x", "sandbox run ''", "sandbox run -- l", "sandbox check /et"],
)
def test_completion_in_bash_leaves_files_to_the_shell(shell: Run, words: str) -> None:
    assert completions(shell, words)[0] == "compopt -o default"


def test_completion_offers_own_profiles(shell: Run, environment: dict[str, str]) -> None:
    folder = Path(environment["HOME"]) / ".config/sandbox/profiles"
    folder.mkdir(parents=True)
    (folder / "mine.toml").write_text('extends = ["untrusted"]\n')
    assert completions(shell, "sandbox run -p m") == ["mine"]


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_completion_script_is_printed_for(shell: Run, name: str) -> None:
    done = shell(f"sandbox completion {name}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "_SANDBOX_COMPLETE" in done.stdout

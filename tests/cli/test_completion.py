"""Shell completion, in a real bash that sources the script."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from sandbox.profile_files import shipped_folder

COMMANDS = (
    "run", "learn", "check", "diff", "explain", "seal", "unseal", "unit", "export", "survey", "probe", "profiles",
    "install", "cache", "completion", "man",
)  # fmt: skip
Run: TypeAlias = Callable[..., "subprocess.CompletedProcess[str]"]

SHIPPED: Final = sorted(path.stem for path in shipped_folder().glob("*.toml"))
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
        ("sandbox ''", [*COMMANDS]),
        ("sandbox pro", ["probe", "profiles"]),
        ("sandbox profiles ''", ["import", "list", "path", "schema", "show"]),
        ("sandbox run -p ''", SHIPPED),
        ("sandbox run -p unt", ["untrusted"]),
        ("sandbox explain --profile sea", ["sealed"]),
        ("sandbox check ''", SHIPPED),
        ("sandbox install pop", ["poppler"]),
        ("sandbox run --st", ["--streams", "--status-fd"]),
        ("sandbox run --net ''", ["none", "loopback", "host", "veth"]),
        ("sandbox explain --tty p", ["private"]),
        ("sandbox run --share u", ["user", "uts"]),
        ("sandbox completion ''", ["bash", "zsh", "fish"]),
        ("sandbox diff sea", ["sealed"]),
        ("sandbox learn -p untr", ["untrusted"]),
        ("sandbox check --accept whole", ["whole-network"]),
        ("sandbox man pro", ["probe", "profiles"]),
        ("sandbox run --limit t", ["timeout="]),
        ("sandbox run --env HOM", ["HOME"]),
        ("sandbox run --grant x=f", ["x=file:"]),
        ("sandbox run --grant x=listen:t", ["x=listen:tcp:"]),
        ("sandbox run --grant x=scratch:6", ["x=scratch:64M"]),
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
    assert completions(shell, "sandbox run -p min") == ["mine"]


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_completion_script_is_printed_for(shell: Run, name: str) -> None:
    done = shell(f"sandbox completion {name}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "_SANDBOX_COMPLETE" in done.stdout


def test_completion_offers_the_profiles_grants_and_the_paths_of_new_ones(shell: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[grants.input]\nfile = "/etc/hosts"\n[grants.log]\nfile = "/x"\n')
    (tmp_path / "data").write_text("")
    enter = f"cd {tmp_path}\n"
    assert completions(shell, "sandbox run -p ./mine.toml --grant ''", enter) == ["input=", "log="]
    assert completions(shell, "sandbox run -p ./mine.toml --grant l", enter) == ["log="]
    assert completions(shell, "sandbox run -p ./none.toml --grant ''", enter) == [""]
    assert completions(shell, "sandbox run --grant x=file:da", enter) == ["x=file:data"]
    assert completions(shell, "sandbox run --grant x=file:data:a", enter) == ["x=file:data:append"]
    assert completions(shell, "sandbox run --grant x=directory:ho", enter) == ["x=directory:home/"]

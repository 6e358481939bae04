"""`sandbox survey`: a command runs as without it, and what its execs let through is told."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest

Run: TypeAlias = Callable[..., "subprocess.CompletedProcess[str]"]
# Two execs: a leak from bash's own 7 at both, and a number that the first one names.
SCRIPT = "exec 7</etc/hosts; cat <(echo hello); /bin/true; exit 5"


def told(sandbox: Run, *command: str, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return what the survey of a command says as JSON; its own output goes past it."""
    done = sandbox("survey", "--json", "--", *command, **options)
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def test_survey_prints_a_table_and_exits_as_the_command(sandbox: Run) -> None:
    done = sandbox("survey", "bash", "-c", SCRIPT)
    assert (done.returncode, done.stderr) == (5, "")
    assert done.stdout == (
        "hello\n"
        "execs after the command's own: 2\n"
        "  with no descriptor from 3 up going along: 0 (0 %)\n"
        "  descriptors that went along: 3 (1.50 an exec)\n"
        "  of these named by the exec: 1 (33 %)\n"
        "         1  dev-fd\n"
        "not named by anything (a sandbox closes these):\n"
        "       1  bash -> cat: 7 /etc/hosts\n"
        "       1  bash -> true: 7 /etc/hosts\n"
    )


def test_survey_prints_json(sandbox: Run) -> None:
    leak = {"source": "bash", "number": 7, "object": "/etc/hosts", "times": 1}
    assert told(sandbox, "bash", "-c", f"({SCRIPT}) >/dev/null; :") == {
        "execs": 2,
        "execs_without": 0,
        "survivors": 3,
        "named": 1,
        "by_protocol": [["dev-fd", 1]],
        "leaks": [{**leak, "program": "cat"}, {**leak, "program": "true"}],
    }


@pytest.mark.parametrize("options", [("-o",), ("--json", "--output")])
def test_survey_output_goes_to_a_file(sandbox: Run, tmp_path: Path, options: tuple[str, ...]) -> None:
    file = tmp_path / "survey"
    done = sandbox("survey", *options, str(file), "--", "bash", "-c", SCRIPT)
    assert (done.returncode, done.stdout, done.stderr) == (5, "hello\n", "")
    text = file.read_text()
    if "--json" in options:
        assert json.loads(text)["execs"] == 2
    else:
        assert text.startswith("execs after the command's own: 2\n")


def test_survey_of_a_command_that_executes_nothing(sandbox: Run) -> None:
    done = sandbox("survey", "true")
    assert (done.returncode, done.stdout, done.stderr) == (0, "the command executed no other program\n", "")
    empty = {"execs": 0, "execs_without": 0, "survivors": 0, "named": 0, "by_protocol": [], "leaks": []}
    assert told(sandbox, "true") == empty


def test_survey_gives_the_callers_descriptors_and_tells_who_lets_them_on(shell: Run) -> None:
    done = shell("exec 9</etc/hosts; sandbox survey --json -- sh -c '/bin/true; exec ls /proc/self/fd'")
    listed, _, text = done.stdout.partition("{")
    assert {"0", "1", "2", "9"} <= set(listed.split())
    leaks = {(leak["program"], leak["number"], leak["object"]) for leak in json.loads("{" + text)["leaks"]}
    assert leaks == {("true", 9, "/etc/hosts"), ("ls", 9, "/etc/hosts")}


def test_survey_leaks_nothing_of_its_own(sandbox: Run) -> None:
    survey = told(sandbox, "sh", "-c", "/bin/true; /bin/true; exec /bin/true")
    assert (survey["execs"], survey["execs_without"], survey["leaks"]) == (3, 3, [])


def test_survey_counts_pipes_and_sockets_as_one_object_each(sandbox: Run) -> None:
    script = "import os, subprocess; r, w = os.pipe(); [os.set_inheritable(f, True) for f in (r, w)]\n"
    script += "for _ in range(3): subprocess.run(['true'], close_fds=False)"
    leaks = told(sandbox, "python3", "-c", script)["leaks"]
    assert {(leak["object"], leak["times"]) for leak in leaks} == {("pipe", 3)}
    assert len({leak["number"] for leak in leaks}) == 2


def test_survey_does_not_count_a_path_search(sandbox: Run, tmp_path: Path) -> None:
    """A search tries each folder; what fails there is no exec."""
    path = ":".join([*(f"{tmp_path}/{n}" for n in range(9)), "/usr/bin", "/bin"])
    found = told(sandbox, "/usr/bin/env", f"PATH={path}", "env", "env", "true")
    assert found["execs"] == 3
    assert told(sandbox, "/usr/bin/env", f"PATH={path}", "no-such-program")["execs"] == 0


def test_survey_changes_nothing_for_the_command(sandbox: Run, environment: Mapping[str, str], tmp_path: Path) -> None:
    """Working directory, environment, umask, input and signals' dispositions are the caller's; nothing is refused."""
    script = (
        "import fcntl, os, sys\n"
        "umask = os.umask(0)\n"
        "fcntl.fcntl(1, fcntl.F_SETFD, 0); os.dup2(os.open('/dev/null', 0), 9)\n"
        "print(os.getcwd(), umask, sorted(n for n in os.environ if n != '_'), sys.stdin.read())\n"
    )
    extra = {"SECRET": "x", "PWD": "/"}  # PWD, since a shell that starts the command would add it
    done = sandbox(
        "survey", "-o", str(tmp_path / "survey"), "python3", "-c", script,
        cwd="/", input="in", extra_env=extra, umask=0o27, stdin=None,
    )  # fmt: skip
    bare = subprocess.run(
        ["python3", "-c", script], cwd="/", input="in", env={**environment, **extra}, umask=0o27, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, bare.stdout, bare.stderr)


@pytest.mark.parametrize("number", [9, 15])
def test_survey_of_a_command_that_a_signal_kills(sandbox: Run, number: int) -> None:
    done = sandbox("survey", "sh", "-c", f"/bin/true; kill -{number} $$")
    assert done.returncode == 128 + number
    assert done.stdout.startswith("execs after the command's own: 1\n")


def test_survey_wrong_command_is_127_and_prints_no_survey(sandbox: Run) -> None:
    done = sandbox("survey", "no-such-program")
    assert (done.returncode, done.stdout) == (127, "")
    assert re.fullmatch(r"sandbox: exec: no-such-program: No such file or directory; .+\n", done.stderr)


def test_survey_options_after_the_command_belong_to_it(sandbox: Run) -> None:
    assert sandbox("survey", "echo", "--json", "-o", "x").stdout.splitlines()[0] == "--json -o x"
    assert not os.path.exists("x")


def test_survey_is_told_of_a_command_that_is_interrupted(
    sandbox_command: Sequence[str], environment: Mapping[str, str], tmp_path: Path
) -> None:
    """A server is ended so: the terminal sends the signal to all of its group, and the survey is what was wanted."""
    words = [*sandbox_command, "survey", "-o", "survey.txt", "sh", "-c", "/bin/true; echo ready; exec sleep 99"]
    with subprocess.Popen(
        words, cwd=tmp_path, env=dict(environment), start_new_session=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 128 + signal.SIGINT
    assert (tmp_path / "survey.txt").read_text().startswith("execs after the command's own: ")

"""The commands that only tell: help, explain, probe, profiles, check."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

import pexpect
import pytest

from sandbox.profile_files import shipped_folder
from sandbox.protocols import PROTOCOLS

Run: TypeAlias = Callable[..., "subprocess.CompletedProcess[str]"]
DATA: Final = Path(__file__).parent / "data"
COMMANDS: Final = (
    "run", "learn", "check", "diff", "explain", "seal", "unseal", "unit", "export", "survey", "probe", "profiles",
    "install", "cache", "completion", "man",
)  # fmt: skip


def test_help_lists_every_command_with_a_line(sandbox: Run) -> None:
    done = sandbox("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for command in COMMANDS:
        assert re.search(rf"^  {command} +[A-Z]\w+,? .+", done.stdout, re.MULTILINE)
    assert sandbox("-h").stdout == done.stdout


@pytest.mark.parametrize("command", [*((name,) for name in COMMANDS), ("profiles", "list"), ("profiles", "show")])
def test_help_of_each_command_has_usage_text_and_width(sandbox: Run, command: tuple[str, ...]) -> None:
    done = sandbox(*command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: sandbox {' '.join(command)} ")
    assert len(done.stdout.splitlines()) > 4
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_help_of_run_tells_exit_codes_and_grant_words(sandbox: Run) -> None:
    text = " ".join(sandbox("run", "--help").stdout.split())
    for word in ("125", "126", "127", "128+N", "inherit:N", "file:PATH", "secret:PATH", "{fd:NAME}", "SANDBOX_FD_NAME"):
        assert word in text


def test_version_is_one_line(sandbox: Run) -> None:
    assert re.fullmatch(r"sandbox, version \d+\.\d+\.\d+\n", sandbox("--version").stdout)


def test_explain_sealed_is_the_golden_text(sandbox: Run) -> None:
    """A change of the text shows here; after a look, write the new one to tests/cli/data/explain-sealed.txt."""
    done = sandbox("explain", "-p", "sealed")
    assert (done.returncode, done.stderr) == (0, "")
    first, rest = done.stdout.split("\n", 1)
    assert re.fullmatch(r"profile sealed \(/.*/profiles/sealed\.toml\): .+", first)
    # What Landlock holds depends on the kernel.
    assert re.sub(r"Landlock:\n(  .+\n)+\n", "", rest) == (DATA / "explain-sealed.txt").read_text()


def test_explain_names_grants_residue_plan_and_what_is_open(sandbox: Run) -> None:
    done = sandbox("explain", "--grant", "hosts=file:/etc/hosts", "--", "wc", "-l", "/dev/fd/{fd:hosts}")
    text = done.stdout
    assert "3        grant hosts: file /etc/hosts, read; told by SANDBOX_FD_HOSTS" in text
    assert "cannot: write, by 3 or /proc/self/fd/3" in text
    assert "EPERM: dup2, dup3 onto 3" in text
    assert "exec            with arguments 'wc' '-l' '/dev/fd/3'" in text
    assert "Plan:" not in sandbox("explain").stdout


def section(text: str, title: str) -> list[str]:
    """Return the lines of one section of an explanation, without their indentation."""
    after = text.split(f"\n{title}:\n", 1)[1]
    return [line.strip() for line in after.split("\n\n", 1)[0].splitlines()]


def test_explain_tells_what_passes_at_later_execs(sandbox: Run, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("""
        extends = ["base"]
        descriptors = { delegate = ["jobserver", "report"] }
        [protocols.report]
        description = "how far it is"
        rules = [
          { next_argument = "--report-fd", shape = "number" },
          { program = "tool", shape = "fixed", numbers = [3] },
        ]
    """)
    grants = ("--grant", "a+propagate=file:/etc/hosts", "--grant", "b=file:/etc/hosts")
    text = sandbox("explain", "-p", str(tmp_path / "p.toml"), "--chdir", "/", *grants, "true").stdout
    lines = section(text, "At later execs")
    assert lines[:3] == ["0, 1, 2 pass", "3 passes, while it still is grant a", "what the exec names passes, by:"]
    assert next(line for line in lines if "jobserver-auth" in line) == "variable MAKEFLAGS=...--jobserver-auth=N,N..."
    assert lines[-4:-1] == ["report: how far it is", "argument N after --report-fd", "any exec of tool: 3"]
    assert lines[-1] == "every other descriptor is closed, whatever the program did or forgot"
    assert not [line for line in lines if "grant b" in line]
    assert "  place           slot 0 becomes descriptor 3, at every exec\n" in text
    assert "  place           slot 1 becomes descriptor 4\n" in text
    assert "  protocol        report: --report-fd\n" in text
    assert "  gate            close at every exec what is not declared or named\n" in text


def test_explain_names_every_protocol_of_untrusted_and_none_of_the_others(sandbox: Run) -> None:
    lines = section(sandbox("explain").stdout, "At later execs")
    assert {line.partition(":")[0] for line in lines} >= {name for name, each in PROTOCOLS.items() if each.names}
    assert section(sandbox("explain", "-p", "sealed").stdout, "At later execs") == ["there are none"]
    base = section(sandbox("explain", "-p", "base").stdout, "At later execs")
    assert base == ["0, 1, 2 pass", "every other descriptor is closed, whatever the program did or forgot"]


SWITCHES: Final = {
    "reserve_stdio = true": (
        "reserved: nothing else can be put onto them (reserve_stdio)", "EPERM: dup2, dup3 onto 0-2: ",
    ),
    "strict = true": (
        "strict: no call creates a descriptor without close-on-exec",
        "EPERM: every call that creates a descriptor without close-on-exec",
    ),
    'scm_rights = "deny"': ("scm_rights denied: no Unix sockets, ", "EPERM: socket, socketpair of AF_UNIX"),
}  # fmt: skip


@pytest.mark.parametrize("switch", SWITCHES)
def test_explain_tells_of_a_switch_only_where_it_is_set(sandbox: Run, tmp_path: Path, switch: str) -> None:
    (tmp_path / "p.toml").write_text(f'extends = ["untrusted"]\n[descriptors]\n{switch}\n')
    text, plain = sandbox("explain", "-p", str(tmp_path / "p.toml")).stdout, sandbox("explain").stdout
    for words in SWITCHES[switch]:
        assert f" {words}" in text
        assert words not in plain
    assert ("threads: one that opens" in text) == (switch != "strict = true")


def test_explain_says_less_is_open_where_the_profile_closes_it(sandbox: Run) -> None:
    text = sandbox("explain", "-p", "sealed").stdout
    assert "exec: the command itself, and no program after it" in text
    assert "exec: the command itself" not in sandbox("explain").stdout
    opened = sandbox("explain", "--net", "host", "--tty", "inherit").stdout
    for words in ("network: every address that the host reaches", "terminal: settings and input are the caller's"):
        assert any(line.startswith(words) for line in section(opened, "Not protected"))
        assert words not in text


def test_explain_tells_the_view(sandbox: Run, environment: Mapping[str, str], tmp_path: Path) -> None:
    home, work = environment["HOME"], tmp_path / "work"
    work.mkdir()
    options = ("--write", "out", "--private", "-db", "--hide", "key", "--tmpfs", "scratch", "--read", "/srv")
    lines = section(sandbox("explain", *options, cwd=work).stdout, "Files")
    for line in (
        "/usr: read, execute",
        "/etc/shadow: hidden, where it is there",
        f"{home}: read, write, empty at first, gone at the end",
        f"{work}: read, execute",
        f"{work}/out: read, write, execute",
        f"{work}/db: read, write, execute, changes are gone at the end, where it is there",
        f"{work}/key: hidden",
        f"{work}/scratch: read, write, empty at first, gone at the end",
        "/srv: read",
    ):
        assert line in lines
    assert lines[-1] == "nothing else is there: no other path of the host can be named"
    (work / "p.toml").write_text('extends = ["base"]\nfilesystem = { view = "host" }\n')
    text = sandbox("explain", "-p", "./p.toml", cwd=work).stdout
    assert section(text, "Files") == ["the host's tree; /proc: the sandbox's processes"]


def test_explain_tells_namespaces_network_terminal_and_user(sandbox: Run) -> None:
    text = sandbox("explain").stdout
    assert section(text, "Namespaces") == [
        "its own: mount, cgroup, uts, ipc, user, pid, network",
        "the host's: none",
        "host name: sandbox",
        "network: none, not even a loopback",
    ]
    assert section(text, "Terminal") == [
        "none: a session of its own; /dev/tty cannot be opened; what 0, 1 and 2 are stays"
    ]
    assert not [line for line in section(text, "Process") if line.startswith("runs as")]
    options = ("--share", "uts", "--net", "host", "--tty", "private", "--user", f"{os.geteuid()}:{os.getegid()}")
    text = sandbox("explain", *options).stdout
    assert section(text, "Namespaces") == [
        "its own: mount, cgroup, ipc, user, pid",
        "the host's: uts, network",
        "network: the host's",
    ]
    assert section(text, "Terminal") == ["a pseudo-terminal of its own, which the supervisor relays to the caller's"]
    assert section(text, "Process")[0] == f"runs as user {os.geteuid()}, group {os.getegid()}, with no other group"
    loopback = section(sandbox("explain", "--net", "loopback").stdout, "Namespaces")
    assert loopback[-1] == "network: a loopback of its own, and nothing else"


def test_explain_tells_the_rules_of_the_network_and_what_they_do_not_cover(sandbox: Run) -> None:
    rules = ("--net-allow", "tcp:192.0.2.7:80", "--net-allow", "udp:*:9-10", "--net-bind", "tcp:8080", "--dns")
    names = "  names are those of the rules, looked up once at the start, in /etc/hosts"
    reached = [
        "  can reach tcp:192.0.2.7:80, in the caller's network",
        "  can reach udp:*:9-10, in the caller's network",
        "  can bind tcp:8080, in the caller's network",
        "  can ask the caller's resolvers: what is asked for can tell others outside",
        names,
    ]

    def told(*options: str) -> list[str]:
        lines = sandbox("explain", *options).stdout.splitlines()
        start = next(index for index, line in enumerate(lines) if line.startswith("  network: "))
        return [line[2:] for line in lines[start : start + 8] if line.startswith("  ")]

    assert told(*rules)[:6] == ["network: beside what the rules name, none, not even a loopback", *reached]
    assert told("--net", "loopback", *rules)[1:6] == reached
    assert told("--net", "loopback")[0] == "network: a loopback of its own, and nothing else"
    host = told("--net", "host", "--net-allow", "tcp:*:443", "--net-bind", "tcp:1-9")
    assert host[:4] == [
        "network: the host's",
        "  TCP ports that can be connected to, by Landlock: 443",
        "  TCP ports that can be bound, by Landlock: 1-9",
        "  not covered by that: other hosts' addresses, UDP and other protocols, Unix sockets",
    ]
    text = sandbox("explain", *rules).stdout
    assert "asked of the supervisor: sockets of the internet, connect, bind, listen" in text
    assert "asked of the supervisor: TCP sockets, connect" in sandbox("explain", *rules[:2]).stdout
    assert "asked of the supervisor" not in sandbox("explain").stdout


def test_explain_tells_landlock_and_what_it_does_not_hold(sandbox: Run) -> None:
    lines = section(sandbox("explain").stdout, "Landlock")
    if not lines[0].startswith("files: opened, executed, listed"):  # a kernel without it
        assert lines[-1].startswith("lost: ")
        return
    assert lines[1].startswith("not governed: mode, owner, times")
    (line,) = [line for line in section(sandbox("explain", "--net", "host").stdout, "Landlock") if "signals" in line]
    assert line == "signals: only to processes of the sandbox"


def test_explain_tells_what_holds_each_limit_as_run_does(sandbox: Run) -> None:
    options = ("--limit", "memory=1G", "--limit", "processes=50", "--limit", "cpu=0.5", "--timeout", "90s")
    rows = dict(line.split(": ", 1) for line in section(sandbox("explain", *options).stdout, "Limits"))
    assert rows["memory"].startswith("1G, by ")
    assert rows["timeout"] == "90s, by the supervisor: everything is ended, exit code 124"
    assert rows["core_size"] == "0, by RLIMIT_CORE: each crash"
    assert rows["the caller's own only"] == "cpu_time, open_files, file_size, output"
    for name, value in (("processes", "50"), ("cpu", "0.5")):
        refused = sandbox("run", "--limit", f"{name}={value}", "true").returncode == 125
        how = "refused here: needs a delegated cgroup" if refused else "by "
        assert rows[name].startswith(f"{value}, {how}")


def test_explain_error_prints_no_half_of_it(sandbox: Run) -> None:
    done = sandbox("explain", "--", "true", "{fd:none}")
    assert (done.returncode, done.stdout) == (125, "")


def test_probe_tells_features_and_what_profiles_lose(sandbox: Run) -> None:
    done = sandbox("probe")
    assert done.returncode == 0
    assert re.search(r"^  seccomp_filter +yes +\(since 3\.17; required\)", done.stdout, re.MULTILINE)
    shipped = list(shipped_folder().glob("*.toml"))
    assert done.stdout.endswith(f"\nprofiles, {len(shipped)}: nothing lost\n")


def test_probe_json(sandbox: Run) -> None:
    told = json.loads(sandbox("probe", "--json").stdout)
    assert told["features"]["no_new_privs"] == 1
    assert told["profiles"]["untrusted"] == []


def test_profiles_list_show_path_and_schema(sandbox: Run, environment: dict[str, str]) -> None:
    folder = Path(environment["HOME"]) / ".config/sandbox/profiles"
    folder.mkdir(parents=True)
    (folder / "sealed.toml").write_text('description = "mine"\nextends = ["base"]\n')
    names = ["sealed", *sorted(path.stem for path in shipped_folder().glob("*.toml"))]
    hidden = [index > 0 and name == "sealed" for index, name in enumerate(names)]
    listed = sandbox("profiles", "list").stdout.splitlines()
    assert sandbox("profiles").stdout.splitlines() == listed
    assert [line.split()[0] for line in listed] == names
    assert [line.endswith("(shadowed)") for line in listed] == hidden
    rows = json.loads(sandbox("profiles", "list", "--json").stdout)
    assert [row["shadowed"] for row in rows] == hidden
    assert {row["name"]: row["commands"] for row in rows}["jq"] == ["jq"]
    assert sandbox("profiles", "path", "sealed").stdout == f"{folder}/sealed.toml\n"
    assert sandbox("profiles", "show", "sealed", "--source").stdout == (folder / "sealed.toml").read_text()
    merged = tomllib.loads(sandbox("profiles", "show", "sealed").stdout)
    assert merged["filter"]["allow"] == ["@base"]
    assert json.loads(sandbox("profiles", "schema").stdout)["title"] == "sandbox profile"


def test_check_says_ok_for_valid_profiles_and_stops_at_the_first_that_is_not(sandbox: Run, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text('extends = ["untrusted"]\n')
    bad.write_text('extends = ["untrusted"]\n[process]\nunmask = "022"\n')
    done = sandbox("check", "untrusted", str(good))
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["ok", "untrusted"], ["ok", "good"]]
    done = sandbox("check", str(bad), str(good))
    assert (done.returncode, done.stdout) == (125, "")
    assert re.fullmatch(r"sandbox: profile: .*bad\.toml: process\.unmask: unknown key; .*'umask'.*\n", done.stderr)


def test_json_says_what_the_lines_say(sandbox: Run) -> None:
    explained = json.loads(sandbox("explain", "--json", "-p", "sealed", cwd="/").stdout)
    lines = sandbox("explain", "-p", "sealed", cwd="/").stdout.splitlines()
    assert lines[0] == f"profile {explained['profile']}"
    assert [f"{title}:" for title in list(explained)[1:]] == [line for line in lines[1:] if line and line[0] != " "]
    assert [f"  {line}" for line in explained["Files"]] == lines[lines.index("Files:") + 1 :][: len(explained["Files"])]
    shown = json.loads(sandbox("profiles", "show", "--json", "sealed").stdout)
    assert shown == tomllib.loads(sandbox("profiles", "show", "sealed").stdout)
    assert json.loads(sandbox("profiles", "path", "--json", "sealed").stdout) + "\n" == (
        sandbox("profiles", "path", "sealed").stdout
    )


@pytest.mark.parametrize("words", [("profiles", "list"), ("check", "nested"), ("diff", "sealed", "untrusted")])
def test_tables_are_for_terminals_and_plain_lines_for_all_else(
    words: tuple[str, ...], sandbox: Run, sandbox_command: list[str], environment: dict[str, str]
) -> None:
    plain = sandbox(*words).stdout
    child = pexpect.spawn(
        sandbox_command[0], [*sandbox_command[1:], *words], env={**environment, "TERM": "xterm"}, dimensions=(50, 240),
        encoding="utf-8", timeout=60,
    )  # fmt: skip
    child.expect(pexpect.EOF)
    assert "──" in str(child.before)
    assert "──" not in plain
    assert plain.isascii()
    # All that is said is said in both.
    told = " ".join(re.sub(r"\x1b\[[\d;]*m", "", str(child.before)).split())
    assert plain.splitlines()[-1].split()[-1] in told


def test_explain_takes_no_profile_for_a_command(sandbox: Run) -> None:
    done = sandbox("explain", "sealed")
    assert done.returncode == 125
    assert done.stderr == "sandbox: usage: sealed: it is a profile, and no command; sandbox explain -p sealed\n"
    for words in (("-p", "sealed"), ("true",), ("no-such-command",), ("-p", "untrusted", "sealed")):
        assert sandbox("explain", *words).returncode == 0

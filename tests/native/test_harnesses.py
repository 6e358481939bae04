"""Runs the C unit tests and the fuzzers of plans, protocols, network rules and messages, under sanitizers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from sandbox import wire
from sandbox.allowlist import compiled, parse_bind, parse_peer
from sandbox.protocols import PROTOCOLS
from tests.native.make_corpus import CORPUS, seeds
from tests.support import judging, naming
from tests.support.native import SANITIZE, SANITIZER_ENVIRONMENT, build_harness, can_compile

PLAN_FILES = ("plan", "text")
LIBFUZZER = ("-O1", "-g", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all")
RUNS = 200_000
NAMES_RUNS = 20_000
MESSAGES_RUNS = 8_000
PEERS = ("tcp:*:443", "udp:[fe80::1%2]:5-9", "tcp:127.0.0.1:80", "tcp:10.0.0.0/9:1-2", "udp:[2001:db8::/33]:*")


def run(command: list[str | Path], folder: Path, environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=240, check=False,
        env=os.environ | SANITIZER_ENVIRONMENT | {"TMPDIR": str(folder)} | dict(environment or {}),
        cwd=folder, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "files", "least"),
    [("unit_text", ("text",), 30), ("unit_fd", ("fd", "plan", "report", "terminal", "text"), 38)],
)
def test_unit_in_c_passes(name: str, files: tuple[str, ...], least: int, tmp_path: Path) -> None:
    lines = run([build_harness(name, files)], tmp_path).splitlines()
    passed = [line for line in lines if re.match(r"ok \d+ - ", line) and "# SKIP" not in line]
    assert lines[-1] == f"1..{len([line for line in lines if line.startswith('ok ')])}"
    # The kernel's settings may keep a few kinds of descriptors from an ordinary user; never many.
    assert len(passed) >= least, [line for line in lines if "# SKIP" in line]


def test_corpus_is_what_the_present_format_gives() -> None:
    assert {path.name: path.read_bytes() for path in CORPUS.iterdir()} == {
        f"{name}.plan": wire.encode(plan) for name, plan in seeds().items()
    }


def test_fuzz_plan_own_mutations_find_nothing(tmp_path: Path) -> None:
    program = build_harness("fuzz_plan", PLAN_FILES, (*SANITIZE, "-DSTANDALONE"))
    corpus = sorted(CORPUS.iterdir())
    assert run([program, f"-runs={RUNS}", *corpus], tmp_path) == f"{len(corpus)} seeds, {RUNS} mutations\n"


@pytest.mark.skipif(shutil.which("clang") is None, reason="optional tool absent: clang")
def test_fuzz_plan_libfuzzer_finds_nothing(tmp_path: Path) -> None:
    # A clang without its fuzzer runtime runs the same target with our own mutations.
    found = tmp_path / "corpus"
    shutil.copytree(CORPUS, found)
    if not can_compile("clang", LIBFUZZER):
        flags = ("-O1", "-g", "-DSTANDALONE")
        assert "mutations" in run([build_harness("fuzz_plan", PLAN_FILES, flags, "clang"), *found.iterdir()], tmp_path)
        return
    options = [f"-runs={RUNS}", "-max_total_time=20", "-max_len=4096", "-seed=1", "-timeout=5", "-print_final_stats=1"]
    output = run([build_harness("fuzz_plan", PLAN_FILES, LIBFUZZER, "clang"), *options, found], tmp_path)
    runs = re.search(r"number_of_executed_units: (\d+)", output)
    assert runs is not None, output
    assert int(runs[1]) > 10_000
    # It got behind the checks of the frame: inputs that reach new code were kept.
    assert len(list(found.iterdir())) > 50


@pytest.fixture
def names_plan(tmp_path: Path) -> Path:
    """Return a plan's file with the rules of every built-in protocol."""
    (tmp_path / "names.plan").write_bytes(wire.encode(naming.plan_of(PROTOCOLS.values())))
    return tmp_path / "names.plan"


def test_fuzz_names_own_texts_find_nothing(names_plan: Path, tmp_path: Path) -> None:
    program = build_harness("fuzz_names", naming.FILES, (*SANITIZE, "-DSTANDALONE"))
    assert run([program, f"-runs={NAMES_RUNS}"], tmp_path, {"FUZZ_PLAN": str(names_plan)}) == f"{NAMES_RUNS} inputs\n"


@pytest.mark.skipif(shutil.which("clang") is None, reason="optional tool absent: clang")
def test_fuzz_names_libfuzzer_finds_nothing(names_plan: Path, tmp_path: Path) -> None:
    if not can_compile("clang", LIBFUZZER):
        program = build_harness("fuzz_names", naming.FILES, ("-O1", "-g", "-DSTANDALONE"), "clang")
        assert "inputs" in run([program, f"-runs={NAMES_RUNS}"], tmp_path, {"FUZZ_PLAN": str(names_plan)})
        return
    found = tmp_path / "corpus"
    found.mkdir()
    options = [f"-runs={NAMES_RUNS}", "-max_total_time=20", "-max_len=4096", "-seed=1", "-timeout=5"]
    program = build_harness("fuzz_names", naming.FILES, LIBFUZZER, "clang")
    run([program, *options, found], tmp_path, {"FUZZ_PLAN": str(names_plan)})
    assert len(list(found.iterdir())) > 50


@pytest.fixture
def rules_plan(tmp_path: Path) -> Path:
    """Return a plan's file with rules of the network."""
    rules = compiled([*map(parse_peer, PEERS)], [parse_bind("tcp:8080"), parse_bind("udp:[::1]:53")], {})
    (tmp_path / "rules.plan").write_bytes(wire.encode(judging.plan_of(rules)))
    return tmp_path / "rules.plan"


def test_fuzz_network_own_addresses_find_nothing(rules_plan: Path, tmp_path: Path) -> None:
    program = build_harness("fuzz_network", judging.FILES, (*SANITIZE, "-DSTANDALONE"))
    assert run([program, f"-runs={RUNS}"], tmp_path, {"FUZZ_PLAN": str(rules_plan)}) == f"{RUNS} inputs\n"


def test_fuzz_message_own_memory_finds_nothing(tmp_path: Path) -> None:
    program = build_harness("fuzz_message", (), (*SANITIZE, "-DSTANDALONE"))
    found = re.match(
        r"(\d+) messages, (\d+) copied, (\d+) of them with descriptors\n\Z",
        run([program, f"-runs={MESSAGES_RUNS}"], tmp_path),
    )
    assert found is not None
    messages, copied, with_descriptors = map(int, found.groups())
    # Both answers occur often, so what stands behind them was looked at.
    assert messages == MESSAGES_RUNS
    assert MESSAGES_RUNS / 20 < copied < MESSAGES_RUNS / 2
    assert with_descriptors > MESSAGES_RUNS / 100


@pytest.mark.skipif(shutil.which("clang") is None, reason="optional tool absent: clang")
@pytest.mark.parametrize(("name", "files"), [("fuzz_network", judging.FILES), ("fuzz_message", ())])
def test_fuzz_network_and_message_libfuzzer_find_nothing(
    name: str, files: tuple[str, ...], rules_plan: Path, tmp_path: Path
) -> None:
    plan = {"FUZZ_PLAN": str(rules_plan)}
    if not can_compile("clang", LIBFUZZER):
        program = build_harness(name, files, ("-O1", "-g", "-DSTANDALONE"), "clang")
        assert run([program, f"-runs={MESSAGES_RUNS}"], tmp_path, plan).startswith(f"{MESSAGES_RUNS} ")
        return
    found = tmp_path / "corpus"
    found.mkdir()
    options = [f"-runs={RUNS}", "-max_total_time=10", "-max_len=512", "-seed=1", "-timeout=5"]
    run([build_harness(name, files, LIBFUZZER, "clang"), *options, found], tmp_path, plan)
    assert list(found.iterdir())

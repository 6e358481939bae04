"""Who may import whom: values at the bottom, effects at the edge, one importer for each third-party library."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

PACKAGE: Final = Path(__file__).resolve().parents[2] / "sandbox"

# module -> the modules of ours that it may import. A new module needs a row here: decide its layer before its code.
# `sandbox` stands for the public API (sandbox/__init__.py), `cli` for every module of sandbox/cli/.
MAY_IMPORT: Final[dict[str, frozenset[str]]] = {
    module: frozenset(names.split())
    for module, names in {
        # Values: no effects, but those of `probe`, which asks the kernel for the facts that a caller is made of.
        "errors": "",
        "probe": "errors kernel",
        "sockets": "errors",
        "carried": "",
        "sizes": "errors",
        "sending": "errors",
        "grants": "errors sending sizes sockets",
        "protocols": "",
        "allowlist": "errors sockets",
        "filesystem": "",
        "plan": "grants protocols sending sockets",
        "ops": "grants plan protocols",
        "limits": "errors ops plan sizes",
        "landlock": "errors filesystem ops plan",
        "caller": "errors cgroups limits probe sending",
        "profile": "errors allowlist caller filesystem grants landlock limits protocols sockets syscalls",
        "profile_text": "errors allowlist filesystem grants landlock limits protocols profile",
        "profile_format": "grants limits protocols profile sizes",
        "resolve": "allowlist carried caller errors filesystem grants limits profile",
        # Tables and pure functions over values.
        "syscall_table": "",
        "syscalls": "errors syscall_table",
        "kernel": "",
        "bpf": "errors",
        "filtering": "bpf errors sockets syscall_table syscalls",
        "filter_rules": "filtering sockets syscall_table syscalls",
        "seccomp": "bpf errors filter_rules filtering plan syscall_table syscalls",
        "mounts": "filesystem ops plan",
        "veth": "allowlist caller profile sockets",
        "walls": "allowlist caller errors filesystem grants landlock limits mounts ops plan profile sockets",
        "wire": "errors grants plan protocols sockets",
        "template": "errors plan wire",
        "units": "errors grants limits profile sockets",
        "peers": "grants landlock profile sockets walls",
        "build": (
            "errors carried caller filtering grants ops peers resolve profile plan seccomp sizes sockets syscalls walls"
        ),
        "events": "errors grants plan sending wire",
        # Effects.
        "profile_files": "errors profile profile_text",
        "cgroups": "limits",
        "addresses": "errors allowlist caller grants profile sockets",
        "wrappers": "errors profile_files",
        "cache": "caller grants limits plan profile profile_files template wire",
        "kept": "cache caller plan profile profile_files",
        "channel": "errors events",
        "network": "allowlist caller errors probe profile veth",
        "netns": "caller errors network profile",
        "launch": (
            "addresses allowlist channel errors caller filesystem grants kept netns probe profile profile_files plan "
            "resolve wire "
            "build events sending"
        ),
        "observe": "build caller events grants launch ops plan probe protocols survey wire",
        # Views: they look at values and at the machine, and tell what is so; they change nothing.
        "survey": "events",
        "lint": "build caller filesystem grants places profile protocols refusals resolve sockets syscalls",
        "compare": "build filesystem limits places profile profile_format syscalls",
        "explain": (
            "allowlist caller filesystem filter_rules grants landlock limits mounts peers profile plan syscalls build "
            "walls"
        ),
        "seal": (
            "build caller carried errors explain filesystem grants landlock limits mounts ops plan profile "
            "profile_format resolve template walls wire"
        ),
        # Refusals: what is told of calls is a value too; only the tracer, which tells it, has effects.
        "calls": "syscall_table",
        "places": "",
        "refusals": (
            "bpf build caller calls filesystem filter_rules filtering grants limits places profile profile_format "
            "syscall_table syscalls"
        ),
        "trace": "calls errors events launch plan probe wire",
        "endings": "build caller places profile refusals",
        "mentions": "",
        "explaining": "build caller calls cgroups endings errors events mentions plan profile refusals trace",
        "recording": "calls",
        "learned": "caller calls errors places profile recording refusals syscall_table syscalls",
        "learning": (
            "build caller calls events explaining learned mentions observe plan profile recording refusals trace"
        ),
        "exports": ("errors filesystem filter_rules filtering landlock limits plan profile syscalls units walls"),
        "pods": "caller exports filesystem landlock limits plan profile walls",
        "imports": "errors exports filter_rules filtering syscall_table syscalls",
        # The edge.
        "sandbox": (
            "allowlist errors caller filesystem grants landlock limits profile profile_files profile_format "
            "profile_text plan build events launch observe protocols resolve survey addresses wrappers"
        ),
        "cli": (
            "sandbox build errors exports imports kernel cli cache compare explain explaining learned learning lint "
            "pods probe profile refusals seal sizes units walls"
        ),
        "__main__": "cli",
    }.items()
}

# third-party library -> the one module, or folder, that imports it.
IMPORTER: Final = {
    "click": "cli",
    "msgspec": "profile_text",
    "pyroute2": "network",
    "pyseccomp": "seccomp",
    "rich": "cli",
}

# Standard modules that make an effect; who has none may not import them. ctypes is for nobody: system calls are the
# launcher's.
EFFECTS: Final = frozenset(
    {"asyncio", "fcntl", "mmap", "multiprocessing", "select", "socket", "subprocess", "threading"}
)
WITHOUT_EFFECTS: Final = frozenset(
    {
        "errors", "grants", "protocols", "caller", "profile", "profile_text", "profile_format", "plan", "ops",
        "syscall_table", "syscalls", "kernel", "bpf", "filtering", "filter_rules", "seccomp", "wire",
        "build", "events", "survey", "limits", "filesystem",
        "mounts", "landlock", "walls", "resolve",
        "carried", "peers", "sending", "sockets", "sizes", "allowlist", "veth", "calls", "places",
        "refusals", "endings", "recording", "learned", "lint", "compare", "exports", "imports", "pods",
    }
)  # fmt: skip


def module_of(path: Path) -> str:
    """Return the name that a source file has in MAY_IMPORT."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "sandbox" if parts == ("__init__",) else parts[0]


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted name of every import, lazy and type-checking ones included; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(module: str, source: str) -> list[str]:
    """Return what a module's imports break."""
    found = []
    for name in sorted(set(imports_of(ast.parse(source)))):
        top, _, rest = name.partition(".")
        if top == "sandbox":
            # `from sandbox import run` is the public API, `from sandbox import grants` the module.
            first = rest.partition(".")[0]
            target = first if first in MAY_IMPORT else "sandbox"
            if target not in MAY_IMPORT[module]:
                found.append(f"{module} may not import {target}: add it to MAY_IMPORT only if the layering holds")
        elif top == "ctypes" or (top in EFFECTS and module in WITHOUT_EFFECTS):
            found.append(f"{module} may not import {top}")
        elif top not in sys.stdlib_module_names and IMPORTER.get(top) != module:
            found.append(f"{module} may not import {top}: its one importer is {IMPORTER.get(top, 'not declared')}")
    return found


SOURCES: Final = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_layers_module_imports_only_what_its_row_allows(path: Path) -> None:
    module = module_of(path)
    assert module in MAY_IMPORT, f"sandbox.{module} is new: add its row to MAY_IMPORT in {__file__}"
    assert violations(module, path.read_text()) == []


def test_layers_table_has_no_row_without_a_module() -> None:
    assert set(MAY_IMPORT) == {module_of(path) for path in SOURCES}


def test_layers_table_has_no_cycle_between_modules() -> None:
    remaining = {module: set(names) - {module} for module, names in MAY_IMPORT.items()}
    while free := {module for module, names in remaining.items() if not names}:
        remaining = {module: names - free for module, names in remaining.items() if module not in free}
    assert remaining == {}


@pytest.mark.parametrize(
    ("module", "source", "allowed"),
    [
        ("grants", "from sandbox.errors import GrantError", True),
        ("grants", "from sandbox.profile import Profile", False),
        ("grants", "from sandbox import profile", False),
        ("errors", "import sandbox", False),
        ("cli", "import sandbox", True),
        ("cli", "from sandbox import run", True),
        ("cli", "from sandbox.launch import run", False),
        ("cli", "from sandbox.cli.output import table", True),
        ("seccomp", "def f():\n    import pyseccomp", True),
        ("launch", "def f():\n    import pyseccomp", False),
        ("launch", "import numpy", False),
        ("network", "from pyroute2 import IPRoute", True),
        ("netns", "from pyroute2 import IPRoute", False),
        ("launch", "import subprocess", True),
        ("plan", "import subprocess", False),
        ("profile_text", "import msgspec", True),
        ("profile", "import msgspec", False),
        ("cli", "def f():\n    from rich import print", True),
        ("survey", "from rich import print", False),
        ("observe", "from sandbox.survey import Survey", True),
        ("survey", "from sandbox.observe import survey_command", False),
        ("survey", "import subprocess", False),
        ("observe", "import subprocess", True),
        ("protocols", "from sandbox.grants import Access", False),
        ("launch", "import ctypes", False),
        ("launch", "from ctypes import CDLL", False),
    ],
)
def test_layers_rule_refuses_and_allows(module: str, source: str, allowed: bool) -> None:
    assert (violations(module, source) == []) is allowed

"""The public API is a fact: what the package exports, what of it is installed, and that no error class is unused."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import os
from pathlib import Path
from types import ModuleType
from typing import Final

import sandbox
from sandbox import errors

ROOT: Final = Path(__file__).resolve().parents[2]
INSTALLED: Final = Path(sandbox.__file__).parent


def test_package_under_test_is_the_installed_one() -> None:
    assert INSTALLED != ROOT / "sandbox", "the checkout was imported: use `make test`, or the environment it makes"
    assert importlib.metadata.version("sandbox-launcher")


def test_installed_package_holds_launcher_profiles_and_type_marker() -> None:
    launcher = INSTALLED / "launcher" / "sandbox-launch"
    assert os.access(launcher, os.X_OK)
    shipped = {path.name for path in (INSTALLED / "profiles").iterdir()}
    assert shipped == {path.name for path in (ROOT / "profiles").iterdir()}
    assert shipped
    assert (INSTALLED / "py.typed").exists()


def test_installed_package_holds_no_native_source() -> None:
    assert {path.name for path in (INSTALLED / "launcher").iterdir()} == {"sandbox-launch", "sandbox-trace"}


def test_launcher_is_static_and_has_no_interpreter() -> None:
    # ELF64 header, elf(5): e_phoff at 32, e_phentsize at 54, e_phnum at 56; p_type 3 is PT_INTERP, 2 PT_DYNAMIC.
    image = (INSTALLED / "launcher" / "sandbox-launch").read_bytes()
    assert image[:5] == b"\x7fELF\x02"
    start, size, count = (int.from_bytes(image[at : at + width], "little") for at, width in ((32, 8), (54, 2), (56, 2)))
    types = {int.from_bytes(image[start + size * i : start + size * i + 4], "little") for i in range(count)}
    assert 1 in types  # PT_LOAD: the table was read right
    assert not types & {2, 3}


def test_exports_all_is_the_sorted_public_contents() -> None:
    public = {
        name
        for name in dir(sandbox)
        if not name.startswith("_") and name != "annotations" and not isinstance(getattr(sandbox, name), ModuleType)
    }
    assert sandbox.__all__ == sorted(public, key=lambda name: (not name.isupper(), name))  # as ruff sorts them


def test_exports_every_error_class() -> None:
    tree = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert tree <= set(sandbox.__all__)


def test_errors_every_class_is_used() -> None:
    used: set[str] = set()
    for path in (ROOT / "sandbox").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            # Naming a class as a base, or in a re-export, is not using it.
            if isinstance(node, ast.ClassDef):
                node.bases = []
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                used.add(node.id)
    declared = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert declared - used == set()

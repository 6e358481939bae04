"""Rules of style that no linter knows: first lines, words, what tracked files may not mention, documents' links."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
# The one word for each of these is in CONTRIBUTING.md.
FORBIDDEN_WORDS: Final = frozenset({"jail", "container", "handle", "permission", "worker"})
# Joined here so that this file does not hold them.
FORBIDDEN_TEXTS: Final = tuple(
    "".join(parts)
    for parts in [
        ("/wo", "rk/"),
        ("/tm", "p/x/"),
        ("pypi", ".org"),
        ("files.python", "hosted"),
        ("npm", "js.org"),
        ("deb.", "debian"),
        ("proxy.gol", "ang"),
        ("cra", "tes.io"),
    ]
)


def tree_files() -> Iterator[Path]:
    """Yield the project's own files: all but what .gitignore's kinds of folders hold."""
    built = {".git", ".venv", ".hypothesis", "build", "dist", "__pycache__"}
    for folder, subfolders, names in os.walk(ROOT):
        subfolders[:] = [name for name in subfolders if name not in built and not name.endswith("_cache")]
        yield from (Path(folder, name) for name in names if name not in built and not name.endswith(".pyc"))


FILES: Final = sorted(tree_files())
MODULES: Final = [path for path in FILES if path.suffix == ".py"]
NATIVE: Final = [path for path in FILES if path.suffix in {".c", ".h", ".def"}]
DOCUMENTS: Final = [path for path in FILES if path.suffix == ".md"]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def words_of(identifier: str) -> set[str]:
    """Split snake_case and CamelCase into lower-case words, plurals as their singular."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", identifier)
    return {word.lower().removesuffix("s") for word in words}


def definitions(tree: ast.AST) -> Iterator[str]:
    """Yield every identifier that a module defines; what it takes from elsewhere is not its choice."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()):
                yield name


def native_identifiers(source: str) -> set[str]:
    """Return a C file's identifiers without comments, strings, included names and the kernel's own (`__NR_...`)."""
    bare = re.sub(r'/\*.*?\*/|//[^\n]*|"(\\.|[^"\\])*"|#include[^\n]*', " ", source, flags=re.DOTALL)
    return {name for name in re.findall(r"\b[A-Za-z_]\w*", bare) if not name.startswith("__NR_")}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_first_line_says_what_it_owns(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring is not None, "no docstring"
    assert docstring.splitlines()[0].endswith((".", ":", "?"))


@pytest.mark.parametrize("path", [path for path in NATIVE if path.suffix != ".def"], ids=name_of)
def test_native_source_first_line_says_what_it_owns(path: Path) -> None:
    assert path.read_text().startswith(f"/* {path.name}: ")


OWN: Final = [path for path in MODULES + NATIVE if path.relative_to(ROOT).parts[0] == "sandbox"]


@pytest.mark.parametrize("path", OWN, ids=name_of)
def test_source_identifiers_hold_no_forbidden_word(path: Path) -> None:
    text = path.read_text()
    names = set(definitions(ast.parse(text))) if path.suffix == ".py" else native_identifiers(text)
    assert {name for name in names if words_of(name) & FORBIDDEN_WORDS} == set()


def test_forbidden_words_are_found_in_any_spelling() -> None:
    source = "class JailHandle: ...\ndef open_containers(worker): my_permission = 1\nhandled = PermissionError"
    found = {name for name in definitions(ast.parse(source)) if words_of(name) & FORBIDDEN_WORDS}
    assert found == {"JailHandle", "open_containers", "worker", "my_permission"}
    assert native_identifiers('int fd_handle; /* jail */ call(__NR_name_to_handle_at, "worker");') == {
        "int",
        "fd_handle",
        "call",
    }


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_file_names_no_registry_and_no_private_place(path: Path) -> None:
    text = path.read_text(errors="replace")
    assert [needle for needle in FORBIDDEN_TEXTS if needle in text] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_document_relative_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_document_names_only_make_targets_that_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert "test" in targets
    assert set(re.findall(r"`make ([a-z]+)`", path.read_text())) <= targets


def audit_table() -> dict[str, tuple[list[str], int]]:
    """Return part -> (files, lines) as docs/audit.md has them."""
    rows = re.findall(
        r"^\| (\d+) [^|]*\| ([^|]*) \| ([\d,]+) \|", (ROOT / "docs/audit.md").read_text(), flags=re.MULTILINE
    )
    return {part: (re.findall(r"`(\w+)`", files), int(lines.replace(",", ""))) for part, files, lines in rows}


def launcher_lines(stem: str) -> int:
    files = (ROOT / "sandbox/launcher" / f"{stem}{suffix}" for suffix in (".c", ".h"))
    return sum(len(path.read_text().splitlines()) for path in files if path.exists())


def test_audit_guide_has_each_native_source_in_one_part() -> None:
    told = sorted(name for files, _ in audit_table().values() for name in files)
    assert told == sorted({path.stem for path in (ROOT / "sandbox/launcher").glob("*.[ch]")})


@pytest.mark.parametrize("part", audit_table())
def test_audit_guide_tells_the_size_of_each_part(part: str) -> None:
    files, told = audit_table()[part]
    assert abs(sum(map(launcher_lines, files)) - told) <= 100, sum(map(launcher_lines, files))


@pytest.mark.parametrize("document", ["README.md", "SECURITY.md"])
def test_document_tells_the_size_of_the_launcher(document: str) -> None:
    found = re.search(r"about ([\d,]+) lines", (ROOT / document).read_text())
    real = sum(launcher_lines(name) for files, _ in audit_table().values() for name in files)
    assert found is not None
    assert abs(int(found[1].replace(",", "")) - real) <= 500, real

"""The library: each application does a real job under its profile, and hostile code in its place gets nothing done."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from sandbox.profile_files import available, default_search_path, load, shipped_folder
from tests.support.attack import ATTEMPTS
from tests.support.library import (
    PAGE,
    PATH,
    App,
    Input,
    Library,
    apps,
    folder_rights,
    inputs,
    library,
    page_with_table,
    versions_of,
)

APPS: Final = apps()
LEAST: Final = 45
# Those that others build on, and those that are for no application.
OTHERS: Final = frozenset(
    {"base", "system", "reader", "writer", "builder", "client", "server", "untrusted", "sealed", "nested"}
)
BY_PROFILE: Final = {app.profile: app for app in APPS}
EACH: Final = pytest.mark.parametrize("app", APPS, ids=lambda app: str(app.profile) + "-client" * app.client)


@pytest.fixture(scope="module")
def shelf() -> Iterator[Library]:
    with library() as found:
        yield found


@EACH
def test_application_does_its_real_job(shelf: Library, app: App) -> None:
    assert shutil.which(app.program, path=PATH), (
        f"{app.program} is not installed: tests/setup-system tests/profiles/packages"
    )
    said = shelf.do_job(app)
    assert said.code == 0, said
    assert ("the profile for this command" in said.err) is not (app.named or bool(app.ask)), said.err


@EACH
def test_hostile_code_gets_nothing_done_that_it_does_without_the_profile(shelf: Library, app: App) -> None:
    outside = shelf.attack(app, inside=False)
    assert outside.ran, outside.said
    assert outside.done == set(ATTEMPTS), outside.said
    inside = shelf.attack(app, inside=True)
    assert inside.ran, inside.said
    assert inside.done == set(), inside.said
    assert (outside.changed, inside.changed) == (True, "write" in folder_rights(app.profile)), inside.said


@pytest.mark.parametrize("given", inputs(), ids=lambda given: f"{given.profile}-{given.input}")
def test_hostile_input_makes_the_application_do_what_it_cannot_under_its_profile(shelf: Library, given: Input) -> None:
    assert shelf.feed(given, inside=False) == given.attempts
    assert shelf.feed(given, inside=True) == set()


@pytest.mark.parametrize(
    ("options", "done"),
    [
        ("", set()),
        ("--read $HOME/.ssh", {"reads"}),
        ("--write $HOME/../outside", {"writes"}),
        ("--net host", {"connects"}),
    ],
)
def test_hostile_code_is_seen_where_a_profile_lets_it(shelf: Library, options: str, done: set[str]) -> None:
    """The test itself: what one option more grants shows."""
    assert shelf.attack(replace(BY_PROFILE["python"], options=options), inside=True).done == done


def test_job_that_is_not_done_is_told(shelf: Library) -> None:
    app = BY_PROFILE["jq"]
    assert shelf.do_job(replace(app, check="grep -qx 43 said")).code == 1
    assert shelf.do_job(replace(app, command="jq 'no such' in.json")).code != 0
    assert shelf.do_job(replace(BY_PROFILE["poppler"], options="")).code != 0, "it wrote where nothing says so"


def test_every_shipped_profile_is_tested() -> None:
    shipped = {path.stem for path in shipped_folder().glob("*.toml")}
    assert {app.profile for app in APPS} == shipped - OTHERS
    assert len(BY_PROFILE) >= LEAST


def test_shipped_profiles_are_for_different_commands() -> None:
    every = Counter(name for entry in available(default_search_path({})) for name in entry.commands)
    assert {name for name, count in every.items() if count > 1} == set()
    assert not any(load(name, search=default_search_path({})).commands for name in OTHERS)


@EACH
def test_profile_is_small_and_names_the_version(app: App) -> None:
    text = (shipped_folder() / f"{app.profile}.toml").read_text()
    lines = [line for line in text.split("\ndescription")[1].splitlines() if line and not line.startswith("#")]
    assert len(lines) <= 25
    assert any(character.isdigit() for character in versions_of(app.profile))


def test_page_has_the_table_of_these_tests() -> None:
    page = PAGE.read_text()
    assert page == page_with_table(page), "run `make library`"


def test_packages_of_the_applications_are_listed(root: Path) -> None:
    lines = (root / "tests/profiles/packages").read_text().splitlines()
    listed = " ".join(line for line in lines if not line.startswith("#")).split()
    assert len(listed) == len(set(listed)) >= LEAST - 10

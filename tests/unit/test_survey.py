"""The survey: sums over the events of an observed run, and how people read them."""

from __future__ import annotations

import errno

import pytest

from sandbox.events import Descriptor, Event, Executed, Exited, Started
from sandbox.survey import Leak, Survey, format_survey, kind_of_object, summarise


def executed(pid: int, program: str, source: str = "/bin/bash", error: int = 0) -> Executed:
    return Executed(1, pid, program, source, error)


def descriptor(pid: int, number: int, target: str, passed_by: str | None = None) -> Descriptor:
    return Descriptor(1, pid, number, target, passed_by)


EVENTS: list[Event] = [
    Started(1, 10),
    executed(11, "/bin/ls"),
    executed(12, "/usr/bin/cat"),
    descriptor(12, 63, "pipe:[100]", "dev-fd"),
    descriptor(12, 7, "/etc/passwd"),
    executed(13, "/usr/bin/cat"),
    descriptor(13, 7, "/etc/passwd"),
    descriptor(13, 5, "pipe:[101]", "jobserver"),
    descriptor(13, 6, "pipe:[101]", "jobserver"),
    executed(12, "/bin/true", "/usr/bin/cat"),
    descriptor(12, 9, "socket:[102]"),
    Exited(1, 10, 0, None),
]


def test_summarise_counts_execs_descriptors_and_names() -> None:
    survey = summarise(EVENTS)
    assert (survey.execs, survey.execs_without, survey.survivors, survey.named) == (4, 1, 6, 3)
    assert survey.by_protocol == (("jobserver", 2), ("dev-fd", 1))


def test_summarise_leaks_are_those_that_nothing_named_most_frequent_first() -> None:
    assert summarise(EVENTS).leaks == (
        Leak("bash", "cat", 7, "/etc/passwd", 2),
        Leak("cat", "true", 9, "socket", 1),
    )


def test_summarise_leaks_of_another_source_program_number_or_object_are_apart() -> None:
    events: list[Event] = []
    for pid, (source, program, number, target) in enumerate(
        [("/a", "/b", 3, "/f"), ("/c", "/b", 3, "/f"), ("/a", "/d", 3, "/f"), ("/a", "/b", 4, "/f"),
         ("/a", "/b", 3, "/g"), ("/x/a", "/y/b", 3, "/f")]
    ):  # fmt: skip
        events += [executed(pid, program, source), descriptor(pid, number, target)]
    survey = summarise(events)
    assert [leak.times for leak in survey.leaks] == [2, 1, 1, 1, 1]
    assert survey.leaks[0] == Leak("a", "b", 3, "/f", 2)


def test_summarise_pipes_differ_from_run_to_run_and_count_as_one() -> None:
    events: list[Event] = [
        executed(1, "/b"),
        descriptor(1, 3, "pipe:[1]"),
        executed(1, "/b"),
        descriptor(1, 3, "pipe:[2]"),
    ]
    assert summarise(events).leaks == (Leak("bash", "b", 3, "pipe", 2),)


@pytest.mark.parametrize("error", [errno.ENOENT, errno.EACCES])
def test_summarise_exec_that_failed_is_none(error: int) -> None:
    """A PATH search executes one program, however many folders it looks into."""
    search: list[Event] = [executed(1, "/usr/local/bin/x", error=error), executed(1, "/bin/x"), descriptor(1, 3, "/f")]
    assert summarise(search) == Survey(1, 0, 1, 0, (), (Leak("bash", "x", 3, "/f", 1),))
    assert summarise(search[:1]) == summarise([])


def test_summarise_of_a_command_that_executes_nothing() -> None:
    assert summarise([]) == summarise([Started(1, 2), Exited(1, 2, 0, None)]) == Survey(0, 0, 0, 0, (), ())


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("pipe:[4026]", "pipe"),
        ("socket:[4026]", "socket"),
        ("anon_inode:[eventpoll]", "anon_inode:[eventpoll]"),
        ("anon_inode:[eventfd]", "anon_inode:[eventfd]"),
        ("anon_inode:inotify", "anon_inode:inotify"),
        ("/a/file", "/a/file"),
        ("/a/pipe:[1]", "/a/pipe:[1]"),
        ("/a:b", "/a:b"),
        ("/memfd:x (deleted)", "/memfd:x (deleted)"),
        ("", ""),
    ],
)
def test_kind_of_object_drops_only_what_differs_from_run_to_run(target: str, kind: str) -> None:
    assert kind_of_object(target) == kind


def test_format_survey_gives_sums_shares_protocols_and_leaks() -> None:
    assert list(format_survey(summarise(EVENTS))) == [
        "execs after the command's own: 4",
        "  with no descriptor from 3 up going along: 1 (25 %)",
        "  descriptors that went along: 6 (1.50 an exec)",
        "  of these named by the exec: 3 (50 %)",
        "         2  jobserver",
        "         1  dev-fd",
        "not named by anything (a sandbox closes these):",
        "       2  bash -> cat: 7 /etc/passwd",
        "       1  cat -> true: 9 socket",
    ]


def test_format_survey_without_descriptors_divides_by_nothing() -> None:
    assert list(format_survey(summarise([executed(1, "/b")]))) == [
        "execs after the command's own: 1",
        "  with no descriptor from 3 up going along: 1 (100 %)",
        "  descriptors that went along: 0 (0.00 an exec)",
        "  of these named by the exec: 0 (0 %)",
    ]


def test_format_survey_without_execs_says_so() -> None:
    assert list(format_survey(summarise([]))) == ["the command executed no other program"]

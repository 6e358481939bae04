"""Variables that carry descriptor numbers: what becomes of each, and what a service manager's say."""

from __future__ import annotations

from typing import Final

import pytest

from sandbox.carried import NAMES, passed_by_manager, rewritten

NUMBERS: Final = {7: 3, 8: 4, 9: 30}

# variable -> value -> what it becomes with 7, 8 and 9 granted as 3, 4 and 30; None: dropped.
BECOMES: Final[dict[str, dict[str, str | None]]] = {
    "LISTEN_FDS": {"2": None},
    "LISTEN_FDNAMES": {"a:b": None},
    "LISTEN_PID": {"77": None},
    "LISTEN_PIDFDID": {"77": None},
    "NOTIFY_SOCKET": {"/run/systemd/notify": None, "@x": None},
    "WATCHDOG_USEC": {"100": None},
    "WATCHDOG_PID": {"1": None},
    "FPM_SOCKETS": {"/x=7": None},
    "MAKEFLAGS": {
        " -j4 --jobserver-auth=7,8": " -j4 --jobserver-auth=3,4",
        "--jobserver-fds=8,9 -j": "--jobserver-fds=4,30 -j",
        " -j4 --jobserver-auth=7,5": None,
        "k -j --jobserver-fds=5,6 -- A=-j3": "k  -- A=-j3",
        " -j4 --jobserver-auth=fifo:/tmp/f": " -j4 --jobserver-auth=fifo:/tmp/f",
        "ks": "ks",
        "": "",
        "--jobserver-auth=77,8": None,
        " -k --jobserver-auth=7,8 --jobserver-auth=1,2 -j2": " -k",
    },
    "MFLAGS": {"-j2 --jobserver-auth=7,8": "-j2 --jobserver-auth=3,4", "-j2 --jobserver-auth=5,8": None},
    "CARGO_MAKEFLAGS": {"-j --jobserver-fds=7,8 --jobserver-auth=7,8": "-j --jobserver-fds=3,4 --jobserver-auth=3,4"},
    "NODE_CHANNEL_FD": {"7": "3", "5": None, "": None, "x": None, "77": None},
    "WAYLAND_SOCKET": {"9": "30", "0": None},
    "NGINX": {"7;8;": "3;4;", "7;5;": None},
    "GUNICORN_FD": {"7,8": "3,4", "7, 8": None},
    "UNICORN_FD": {"8": "4", "-1": None},
    "APT_HOOK_INFO_FD": {"7": "3", "3": None},
    "SANDBOX_PASS_FDS": {"7,9": "3,30"},
    "SANDBOX_FD_OUTER": {"3": None},
}


def test_carried_every_variable_is_in_the_table_above() -> None:
    assert set(BECOMES) == {*NAMES, "SANDBOX_FD_OUTER"}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BECOMES.items() for value in values])
def test_carried_variable_is_rewritten_or_dropped_and_never_stale(name: str, value: str) -> None:
    new = BECOMES[name][value]
    wanted = {} if new == value else {name: new}
    assert rewritten({name: value, "OTHER": "7", f"X_{name}": value, "LISTEN": "7"}, NUMBERS) == wanted


def test_carried_number_that_is_the_same_in_the_child_stays() -> None:
    assert rewritten({"WAYLAND_SOCKET": "7"}, {7: 7}) == {}


ENVIRON: Final = {"LISTEN_FDS": "3", "LISTEN_PID": "42", "LISTEN_FDNAMES": "web:log:web"}


def test_passed_descriptors_by_name() -> None:
    assert passed_by_manager(ENVIRON, 42) == {"web": [3, 5], "log": [4]}
    without = {"LISTEN_FDS": "2", "LISTEN_PID": "42"}
    assert passed_by_manager(without, 42) == {"unknown": [3, 4]}
    assert passed_by_manager(without | {"LISTEN_FDS": "1", "LISTEN_FDNAMES": ""}, 42) == {"unknown": [3]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"LISTEN_PID": "41"}, "for process 41, and this is 42"),
        ({"LISTEN_FDS": "x"}, "LISTEN_FDS is no number"),
        ({"LISTEN_FDS": "2"}, "LISTEN_FDNAMES has 3 names, and LISTEN_FDS says 2"),
    ],
)
def test_passed_descriptors_that_are_not_ours_are_refused(change: dict[str, str], reason: str) -> None:
    found = passed_by_manager(ENVIRON | change, 42)
    assert isinstance(found, str)
    assert reason in found


def test_passed_descriptors_are_missed_where_nobody_passes_any() -> None:
    for name in ("LISTEN_FDS", "LISTEN_PID"):
        found = passed_by_manager({key: value for key, value in ENVIRON.items() if key != name}, 42)
        assert found == "no service manager has passed descriptors: LISTEN_FDS or LISTEN_PID is not set"

"""The way back from others' words: the names that an OCI or Docker seccomp profile allows, for filter.allow.

Pure. Sources: the OCI runtime specification, config-linux.md; Docker's profiles/seccomp for `includes` and `excludes`;
seccomp_rule_add(3) for the comparisons.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sandbox.errors import UsageError
from sandbox.exports import Box, Export, allowed_boxes
from sandbox.filter_rules import Rule, argument_rules
from sandbox.filtering import LOW32, FilterPolicy
from sandbox.syscall_table import NUMBERS
from sandbox.syscalls import ENOSYS_ALWAYS

KERNEL_FLOOR: Final = (6, 1)
_REFUSES: Final = re.compile(r"SCMP_ACT_(ERRNO|KILL|TRAP)")


def imported_filter(value: Any) -> Export:  # noqa: ANN401 - JSON
    """Return the names that the profile allows a program without capabilities on x86-64, and what was not taken.

    A call that it allows on a condition is taken where the rules on arguments that every filter here has refuse
    all that does not meet the condition.
    Raises: UsageError if it is none, or allows what it does not name.
    """
    found = value.get("linux", {}).get("seccomp", value) if isinstance(value, dict) else None
    if not isinstance(found, dict) or not isinstance(found.get("syscalls"), list):
        raise UsageError("seccomp profile", "it lists no syscalls", "give the JSON of linux.seccomp, or config.json")
    if not _REFUSES.match(str(found.get("defaultAction"))):
        reason = f"its default is {found.get('defaultAction')}"
        raise UsageError("seccomp profile", reason, "a profile here allows what it names only")
    try:
        return _taken(found["syscalls"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError("seccomp profile", f"an entry is none: {error!r}", "look at it with another tool") from error


def _taken(entries: Sequence[Mapping[str, Any]]) -> Export:
    lost: dict[str, set[str]] = {}
    allowed: dict[str, list[Sequence[Mapping[str, Any]]]] = {}  # name -> the conditions of each entry
    refused: dict[str, list[Sequence[Mapping[str, Any]]]] = {}
    for entry in entries:
        listed = [str(name) for name in entry.get("names") or [entry["name"]]]
        action, reason = str(entry.get("action")), _elsewhere(entry)
        if reason or not (action == "SCMP_ACT_ALLOW" or _REFUSES.match(action)):
            if not _REFUSES.match(action):
                lost.setdefault(reason or f"{action} is no answer here", set()).update(listed)
            continue
        kept = allowed if action == "SCMP_ACT_ALLOW" else refused
        for name in listed:
            kept.setdefault(name, []).append(entry.get("args") or ())
    unknown = {name for name in allowed if name not in NUMBERS or name in ENOSYS_ALWAYS}
    names = allowed.keys() - unknown
    rules = _rules(name for name in names if () in allowed[name])
    taken = {name for name in names if _is_held(allowed[name], refused.get(name, ()), rules.get(name, ()))}
    lost["unknown here, or never let through"] = unknown
    lost["allowed on a condition only"] = names - taken
    here = {reason: sorted(names - taken) for reason, names in lost.items()}
    return Export(
        sorted(taken), tuple(f"{', '.join(words)}: {reason}; not taken" for reason, words in here.items() if words)
    )


def _elsewhere(entry: Mapping[str, Any]) -> str:
    """Return why an entry does not count for a program here, "" if it does."""
    includes, excludes = entry.get("includes") or {}, entry.get("excludes") or {}
    if includes.get("caps"):
        return "allowed with capabilities only"
    if "amd64" not in (includes.get("arches") or ["amd64"]) or "amd64" in (excludes.get("arches") or ()):
        return "allowed on other machines only"
    if _version(includes.get("minKernel") or "0.0") > KERNEL_FLOOR:
        return "allowed on newer kernels only"
    if _version(excludes.get("minKernel") or "999.0") <= KERNEL_FLOOR:
        return "allowed on older kernels only"
    return ""


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))[:2]


def _rules(plain: Iterable[str]) -> dict[str, list[Rule]]:
    """Return the rules on arguments of the loosest filter that a profile here can have, by call."""
    found: dict[str, list[Rule]] = {}
    for rule in argument_rules(FilterPolicy(frozenset(plain), gated=True)):
        found.setdefault(rule.syscall, []).append(rule)
    return found


def _is_held(
    allowed: Sequence[Sequence[Mapping[str, Any]]],
    refused: Sequence[Sequence[Mapping[str, Any]]],
    rules: Sequence[Rule],
) -> bool:
    """Tell whether all that the rules leave of a call is allowed there, and nothing of it refused."""
    return all(
        any(all(_meets(box, condition) is True for condition in entry) for entry in allowed)
        and all(any(_meets(box, condition) is False for condition in entry) for entry in refused)
        for box in allowed_boxes(rules)
    )


def _meets(box: Box, condition: Mapping[str, Any]) -> bool | None:
    """Tell whether every call of a box meets a condition, or none does; None: some do, or it is not known.

    By the low half of the argument: more of it the kernel does not look at where a rule of ours is about it.
    """
    mask, known = box.get(int(condition["index"]), (0, 0))
    value, second = int(condition["value"]), int(condition.get("valueTwo") or 0)
    least, most = known, known | LOW32 & ~mask
    if max(value, second) > LOW32:
        return None
    match condition["op"]:
        case "SCMP_CMP_MASKED_EQ":
            return _equal(mask, known, value, second)
        case "SCMP_CMP_EQ":
            return _equal(mask, known, LOW32, value)
        case "SCMP_CMP_NE":
            equal = _equal(mask, known, LOW32, value)
            return None if equal is None else not equal
        case "SCMP_CMP_LT":
            return True if most < value else False if least >= value else None
        case "SCMP_CMP_LE":
            return True if most <= value else False if least > value else None
        case "SCMP_CMP_GT":
            return True if least > value else False if most <= value else None
        case "SCMP_CMP_GE":
            return True if least >= value else False if most < value else None
    return None


def _equal(mask: int, known: int, of: int, value: int) -> bool | None:
    if (known ^ value) & mask & of:
        return False
    return None if of & ~mask else True

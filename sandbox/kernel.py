"""Kernel features: which ones we need, what for, and since when they exist."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature, as `sandbox-launch --probe` names it. counted: its value is a version, not yes or no."""

    name: str
    since: str
    purpose: str
    required: bool = True
    counted: bool = False


FEATURES: Final = (
    Feature("no_new_privs", "3.5", "no privilege by exec; what lets an ordinary user load a filter"),
    Feature("seccomp_filter", "3.17", "the filter"),
    Feature("close_range", "5.9", "closing what is not declared, at any number"),
    Feature("clone3_clear_sighand", "5.5", "default signal dispositions in the child"),
    Feature("memfd_seals", "3.17", "sealed plans and secrets"),
    Feature("pidfd_open", "5.3", "ending with the parent process"),
    Feature("procfs", "2.6", "reading the descriptor table back"),
    Feature("seccomp_user_notify", "5.0", "the exec gate", required=False),
    Feature("pidfd_getfd", "5.6", "the exec gate", required=False),
    Feature("mount_setattr", "5.12", "read-only grants", required=False),
    Feature("landlock_abi", "5.13", "rulesets", required=False, counted=True),
)

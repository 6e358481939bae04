"""Run programs so that authority reaches them only by declared descriptors, or by those that somebody sent."""

from sandbox.errors import (
    CommandNotExecutableError,
    CommandNotFoundError,
    GrantError,
    InternalError,
    LaunchError,
    PlanError,
    ProfileError,
    SandboxError,
    UnsupportedError,
    UsageError,
)
from sandbox.events import Exited, Failed, Started
from sandbox.grants import Access, FdType, FileGrant, InheritGrant, SecretGrant, parse_grant
from sandbox.launch import Popen, run
from sandbox.profile import Profile

__all__ = [
    "Access",
    "CommandNotExecutableError",
    "CommandNotFoundError",
    "Exited",
    "Failed",
    "FdType",
    "FileGrant",
    "GrantError",
    "InheritGrant",
    "InternalError",
    "LaunchError",
    "PlanError",
    "Popen",
    "Profile",
    "ProfileError",
    "SandboxError",
    "SecretGrant",
    "Started",
    "UnsupportedError",
    "UsageError",
    "parse_grant",
    "run",
]

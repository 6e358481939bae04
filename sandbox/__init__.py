"""Run programs so that authority reaches them only by declared descriptors, or by those that somebody sent."""

from sandbox.addresses import looked_up
from sandbox.allowlist import BindRule, PeerRule, parse_bind, parse_peer
from sandbox.build import build as build_plan
from sandbox.caller import Caller
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
from sandbox.events import (
    Connection,
    Descriptor,
    Event,
    Executed,
    Exited,
    Failed,
    NetworkCall,
    NetworkVerdict,
    Received,
    Started,
)
from sandbox.filesystem import FilesystemPolicy, View
from sandbox.grants import (
    Access,
    ConnectGrant,
    CopyGrant,
    DatagramGrant,
    DataGrant,
    DirectoryGrant,
    FdType,
    FileGrant,
    Grant,
    InheritGrant,
    ListenGrant,
    ScratchGrant,
    SecretGrant,
    format_grant,
    parse_grant,
)
from sandbox.landlock import LandlockPolicy
from sandbox.launch import Popen, channel_grant, network_for, original_environment, replace_process, run
from sandbox.limits import Limits
from sandbox.observe import open_descriptors, survey_command
from sandbox.plan import Plan, StatusFormat, Trace
from sandbox.profile import NetworkMode, NetworkPolicy, Profile, SharedNamespace, StreamsPolicy, Tty, check
from sandbox.profile_files import Trail, available, default_search_path, for_command, load
from sandbox.profile_format import format_profile
from sandbox.profile_text import schema
from sandbox.protocols import PROTOCOLS
from sandbox.resolve import Additions, for_caller
from sandbox.survey import Survey, format_survey
from sandbox.wrappers import Wrapper, find_commands, install_wrappers, remove_wrappers

__all__ = [
    "PROTOCOLS",
    "Access",
    "Additions",
    "BindRule",
    "Caller",
    "CommandNotExecutableError",
    "CommandNotFoundError",
    "ConnectGrant",
    "Connection",
    "CopyGrant",
    "DataGrant",
    "DatagramGrant",
    "Descriptor",
    "DirectoryGrant",
    "Event",
    "Executed",
    "Exited",
    "Failed",
    "FdType",
    "FileGrant",
    "FilesystemPolicy",
    "Grant",
    "GrantError",
    "InheritGrant",
    "InternalError",
    "LandlockPolicy",
    "LaunchError",
    "Limits",
    "ListenGrant",
    "NetworkCall",
    "NetworkMode",
    "NetworkPolicy",
    "NetworkVerdict",
    "PeerRule",
    "Plan",
    "PlanError",
    "Popen",
    "Profile",
    "ProfileError",
    "Received",
    "SandboxError",
    "ScratchGrant",
    "SecretGrant",
    "SharedNamespace",
    "Started",
    "StatusFormat",
    "StreamsPolicy",
    "Survey",
    "Trace",
    "Trail",
    "Tty",
    "UnsupportedError",
    "UsageError",
    "View",
    "Wrapper",
    "available",
    "build_plan",
    "channel_grant",
    "check",
    "default_search_path",
    "find_commands",
    "for_caller",
    "for_command",
    "format_grant",
    "format_profile",
    "format_survey",
    "install_wrappers",
    "load",
    "looked_up",
    "network_for",
    "open_descriptors",
    "original_environment",
    "parse_bind",
    "parse_grant",
    "parse_peer",
    "remove_wrappers",
    "replace_process",
    "run",
    "schema",
    "survey_command",
]

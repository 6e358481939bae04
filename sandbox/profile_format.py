"""Profile -> text: TOML that merge([parse(text)]) gives back."""

from __future__ import annotations

import json
from collections.abc import Iterable

from sandbox.grants import (
    ConnectGrant,
    CopyGrant,
    DatagramGrant,
    DataGrant,
    DirectoryGrant,
    FileGrant,
    Grant,
    InheritGrant,
    ListenGrant,
    ScratchGrant,
    SecretGrant,
    SocketGrant,
    flags_of,
)
from sandbox.limits import NAMES as LIMITS
from sandbox.limits import format as format_limit
from sandbox.profile import PATH_LISTS, Profile
from sandbox.protocols import Place, ProtocolRule
from sandbox.sizes import format_size


def format_profile(profile: Profile) -> str:
    """Return a profile as TOML; merge([parse(text)]) gives it back."""
    process = profile.process
    lines = [f"description = {_quote(profile.description)}", f"commands = {_quote_list(profile.commands)}"]
    lines += ["", "[process]", f'umask = "{process.umask:03o}"']
    if process.chdir is not None:
        lines.append(f"chdir = {_quote(process.chdir)}")
    lines += [f"die_with_parent = {str(process.die_with_parent).lower()}", f'exec = "{process.exec}"']
    lines += [f'tty = "{process.tty}"', f'streams = "{process.streams}"', f"hostname = {_quote(process.hostname)}"]
    lines.append(f"notify = {str(process.notify).lower()}")
    for name in ("user", "group", "scheduling", "cpus"):
        if getattr(process, name) is not None:
            lines.append(f"{name} = {_quote(getattr(process, name))}")
    for name in ("nice", "oom_score_adj"):
        if getattr(process, name) is not None:
            lines.append(f"{name} = {getattr(process, name)}")
    lines += ["", "[environment]", f"keep = {_quote_list(profile.environment.keep)}"]
    if profile.environment.set:
        lines += ["", "[environment.set]"]
        lines += [f"{_quote(name)} = {_quote(value)}" for name, value in profile.environment.set]
    policy = profile.descriptors
    lines += ["", "[descriptors]", f"delegate = {_quote_list(policy.delegate)}"]
    lines += [f"reserve_stdio = {str(policy.reserve_stdio).lower()}", f"strict = {str(policy.strict).lower()}"]
    lines += [f'scm_rights = "{policy.scm_rights}"', f"activation = {str(policy.activation).lower()}"]
    lines += ["", "[filter]", f"allow = {_quote_list(profile.filter.allow)}"]
    lines += _format_walls(profile)
    for grant in profile.grants:
        lines += ["", f"[grants.{_quote(grant.name)}]", *grant_lines(grant)]
    for protocol in profile.protocols:
        lines += ["", f"[protocols.{_quote(protocol.name)}]", f"description = {_quote(protocol.purpose)}"]
        lines += ["rules = [", *(f"  {{ {_format_rule(rule)} }}," for rule in protocol.rules), "]"]
    return "\n".join(lines) + "\n"


def _format_walls(profile: Profile) -> Iterable[str]:
    files = profile.filesystem
    yield from ("", "[filesystem]", f'view = "{files.view}"', f'proc = "{files.proc}"')
    yield from (f"{name} = {_quote_list(getattr(files, name))}" for name in PATH_LISTS)
    network = profile.network
    yield from ("", "[network]", f'mode = "{network.mode}"')
    yield f"allow = {_quote_list(map(str, network.allow))}"
    yield f"allow_bind = {_quote_list(map(str, network.bind))}"
    yield from (f"dns = {str(network.dns).lower()}", f"resolvers = {_quote_list(network.resolvers)}")
    if network.netns is not None:
        yield f"netns = {_quote(network.netns)}"
    yield from ("", "[namespaces]", f"share = {_quote_list(profile.share)}", "", "[limits]")
    for name in LIMITS:
        if (value := getattr(profile.limits, name)) is not None:
            yield f"{name} = {_quote(format_limit(name, value))}"
    yield from ("", "[landlock]", f"files = {str(profile.landlock.files).lower()}")
    yield f"optional = {_quote_list(profile.landlock.optional)}"


def _format_rule(rule: ProtocolRule) -> str:
    key = {
        Place.VARIABLE: "variable", Place.ARGUMENT: "argument", Place.NEXT_ARGUMENT: "next_argument",
        Place.CALLER_ARGUMENT: "caller_argument",
    }.get(rule.place)  # fmt: skip
    words = [f'shape = "{rule.shape.name.lower()}"']
    if key is not None:
        words.append(f"{key} = {_quote(rule.variable or rule.needle)}")
    if rule.place is Place.VARIABLE and rule.needle:
        words.append(f"after = {_quote(rule.needle)}")
    if rule.program:
        words.append(f"program = {_quote(rule.program)}")
    if rule.anywhere:
        words.append("anywhere = true")
    if rule.numbers:
        words.append(f"numbers = [{', '.join(map(str, rule.numbers))}]")
    return ", ".join(words)


def grant_lines(grant: Grant) -> Iterable[str]:
    """Yield the keys of a grant's table, one a line."""
    match grant:
        case InheritGrant():
            yield f"inherit = {grant.inherit if isinstance(grant.inherit, int) else _quote(grant.inherit)}"
            if grant.type is not None:
                yield f'type = "{grant.type}"'
        case FileGrant():
            yield f"file = {_quote(grant.file)}"
        case DirectoryGrant():
            yield f"directory = {_quote(grant.directory)}"
        case SecretGrant():
            yield f"secret = {_quote(grant.secret)}"
        case ListenGrant() | ConnectGrant() | DatagramGrant():
            yield from _format_socket(grant)
        case DataGrant() | CopyGrant() | ScratchGrant():
            yield _format_memory(grant)
    if isinstance(grant, InheritGrant | FileGrant) and grant.access is not None:
        yield f'access = "{grant.access}"'
    yield from (f"{flag} = true" for flag in flags_of(grant))
    if grant.number is not None:
        yield f"number = {grant.number}"
    if grant.propagate:
        yield "propagate = true"


def _format_memory(grant: DataGrant | CopyGrant | ScratchGrant) -> str:
    match grant:
        case DataGrant():
            return f"data = {_quote(grant.data)}"
        case CopyGrant():
            return f"copy = {_quote(grant.copy)}"
        case ScratchGrant():
            return f'scratch = "{format_size(grant.scratch)}"'


def _format_socket(grant: SocketGrant) -> Iterable[str]:
    match grant:
        case ListenGrant():
            yield f"listen = {_quote(grant.listen)}"
            yield f"backlog = {grant.backlog}"
            yield from (f"{flag} = true" for flag in ("reuse_port", "ipv6_only") if getattr(grant, flag))
            texts = {"mode": grant.mode, "owner": grant.owner}
            yield from (f"{name} = {_quote(text)}" for name, text in texts.items() if text is not None)
        case ConnectGrant():
            yield f"connect = {_quote(grant.connect)}"
            yield f"timeout = {grant.timeout}"
        case DatagramGrant():
            yield f"datagram = {_quote(grant.datagram)}"


def _quote(text: str) -> str:
    # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _quote_list(words: Iterable[str]) -> str:
    return "[" + ", ".join(_quote(word) for word in words) + "]"

"""The profile model: what a text may say, what each mistake is told, merging, placeholders, schema, reference."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest
from msgspec import Struct

from sandbox import profile_text as model
from sandbox.allowlist import parse_bind, parse_peer
from sandbox.caller import Caller
from sandbox.errors import GrantError, ProfileError
from sandbox.filesystem import FilesystemPolicy, Proc, View
from sandbox.grants import (
    KINDS,
    Access,
    CopyGrant,
    DataGrant,
    FdType,
    FileGrant,
    Grant,
    InheritGrant,
    ScratchGrant,
    SecretGrant,
    parse_grant,
)
from sandbox.landlock import LandlockPolicy
from sandbox.limits import Limits
from sandbox.profile import (
    DescriptorPolicy,
    Environment,
    ExecPolicy,
    FilterSection,
    NetworkMode,
    NetworkPolicy,
    ProcessPolicy,
    Profile,
    Scheduling,
    ScmRights,
    SharedNamespace,
    Tty,
    check,
    delegated,
    ports_of,
)
from sandbox.profile_files import default_search_path, load, shipped_folder
from sandbox.profile_format import format_profile
from sandbox.profile_text import MAX_RULE_TEXT, ShapeWord, merge, parse, schema
from sandbox.protocols import PROTOCOLS, Place, Protocol, ProtocolRule, Shape
from sandbox.resolve import Additions, for_caller
from sandbox.syscalls import GROUPS, expand

ROOT: Final = Path(__file__).resolve().parents[2]
REFERENCE: Final = ROOT / "docs" / "profiles.md"
CALLER: Final = Caller(
    environ={"HOME": "/home/u"}, cwd="/work dir", home="/home/u", runtime_dir="/run/user/7", tmp="/tmp", parent_pid=1
)
COMPLETE: Final = """
description = "everything at once"
extends = ["base", "./other.toml"]
commands = ["app", "app-admin", "app"]

[process]
umask = "027"
chdir = "{home}/x"
die_with_parent = true
exec = "once"
tty = "private"
hostname = "box.example"
user = "nobody"
group = "65534"
nice = 5
scheduling = "batch"
cpus = "0-3,8"
oom_score_adj = 500

[filesystem]
view = "private"
proc = "processes"
read = ["/etc", "-/srv"]
write = ["{cwd}"]
execute = ["/usr"]
tmpfs = ["{tmp}"]
private = ["/var/lib/x"]
hide = ["-/etc/shadow"]

[network]
mode = "loopback"
allow = ["tcp:db.example:5432", "udp:[2001:db8::/32]:9000-9010"]
allow_bind = ["tcp:8080"]
dns = true
resolvers = ["192.0.2.53"]

[namespaces]
share = ["ipc"]

[limits]
memory = "512M"
processes = 64
cpu = 0.5
cpu_time = "30s"
open_files = 256
file_size = "1G"
output = "2G"
core_size = 0
timeout = "5m"

[landlock]
files = false
optional = ["ioctl_dev", "signal"]

[environment]
keep = ["PATH", "LC_*"]
set = { NAME = "value", EMPTY = "" }

[filter]
allow = ["@base", "openat"]

[descriptors]
delegate = ["jobserver", "report"]
reserve_stdio = true
strict = true
scm_rights = "deny"

[protocols.report]
description = "our own"
rules = [
  { next_argument = "--report-fd", shape = "number" },
  { caller_argument = "out=", program = "caller", anywhere = true, shape = "number" },
  { variable = "REPORT", after = "fds=", anywhere = true, shape = "list" },
  { argument = "", program = "tool", shape = "fixed", numbers = [4, 3, 3] },
  { argument = "count=", anywhere = true, shape = "count" },
  { program = "helper", shape = "all" },
]

[grants.in]
inherit = 5
type = "pipe"
access = "read"
propagate = true

[grants.feed]
inherit = 6
access = "write"
relay = true

[grants.log]
file = "{cwd}/log"
access = "append"
create = true
truncate = true
number = 5
propagate = true

[grants.key]
secret = "env:KEY"
propagate = true

[grants.other]
secret = "/etc/key"

[grants.words]
data = "some\\ntext"
number = 7

[grants.snapshot]
copy = "{home}/snapshot"
propagate = true

[grants.room]
scratch = "64M"

[grants.small]
scratch = 4096
"""


def one(text: str) -> Profile:
    return merge([parse(text, "x.toml")], "x")


def refusal(text: str) -> ProfileError:
    with pytest.raises(ProfileError) as caught:
        parse(text, "x.toml")
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.path == "x.toml"
    return caught.value


def test_parse_complete_text_gives_every_value() -> None:
    assert parse(COMPLETE, "x.toml").extends == ("base", "./other.toml")
    assert one(COMPLETE) == Profile(
        name="x",
        source_path="x.toml",
        description="everything at once",
        commands=("app", "app-admin"),
        process=ProcessPolicy(
            umask=0o27,
            chdir="{home}/x",
            die_with_parent=True,
            exec=ExecPolicy.ONCE,
            tty=Tty.PRIVATE,
            hostname="box.example",
            user="nobody",
            group="65534",
            nice=5,
            scheduling=Scheduling.BATCH,
            cpus="0-3,8",
            oom_score_adj=500,
        ),
        filesystem=FilesystemPolicy(
            View.PRIVATE,
            read=("/etc", "-/srv"),
            write=("{cwd}",),
            execute=("/usr",),
            tmpfs=("{tmp}",),
            private=("/var/lib/x",),
            hide=("-/etc/shadow",),
            proc=Proc.PROCESSES,
        ),
        network=NetworkPolicy(
            NetworkMode.LOOPBACK,
            allow=(parse_peer("tcp:db.example:5432"), parse_peer("udp:[2001:db8::/32]:9000-9010")),
            bind=(parse_bind("tcp:8080"),),
            dns=True,
            resolvers=("192.0.2.53",),
        ),
        share=(SharedNamespace.IPC,),
        limits=Limits(512 << 20, 64, 0.5, 30, 256, 1 << 30, 0, 300_000, 2 << 30),
        landlock=LandlockPolicy(("ioctl_dev", "signal"), files=False),
        environment=Environment(keep=("PATH", "LC_*"), set=(("NAME", "value"), ("EMPTY", ""))),
        filter=FilterSection(("@base", "openat")),
        grants=(
            InheritGrant(name="in", inherit=5, type=FdType.PIPE, access=Access.READ, propagate=True),
            InheritGrant(name="feed", inherit=6, access=Access.WRITE, relay=True),
            FileGrant(
                name="log", file="{cwd}/log", access=Access.APPEND, create=True, truncate=True, number=5, propagate=True
            ),
            SecretGrant(name="key", secret="env:KEY", propagate=True),
            SecretGrant(name="other", secret="/etc/key"),
            DataGrant(name="words", data="some\ntext", number=7),
            CopyGrant(name="snapshot", copy="{home}/snapshot", propagate=True),
            ScratchGrant(name="room", scratch=64 << 20),
            ScratchGrant(name="small", scratch=4096),
        ),
        descriptors=DescriptorPolicy(
            delegate=("jobserver", "report"), reserve_stdio=True, strict=True, scm_rights=ScmRights.DENY
        ),
        protocols=(REPORT,),
    )


REPORT: Final = Protocol(
    "report",
    "our own",
    "x.toml",
    (
        ProtocolRule(Place.NEXT_ARGUMENT, Shape.NUMBER, "--report-fd"),
        ProtocolRule(Place.CALLER_ARGUMENT, Shape.NUMBER, "out=", program="caller", anywhere=True),
        ProtocolRule(Place.VARIABLE, Shape.LIST, "fds=", "REPORT", anywhere=True),
        ProtocolRule(Place.ARGUMENT, Shape.FIXED, program="tool", numbers=(3, 4)),
        ProtocolRule(Place.ARGUMENT, Shape.COUNT, "count=", anywhere=True),
        ProtocolRule(Place.PROGRAM, Shape.ALL, program="helper"),
    ),
)


def test_parse_empty_text_grants_nothing() -> None:
    profile = one("")
    assert (profile.grants, profile.filter.allow, profile.environment) == ((), (), Environment())
    assert profile.protocols == ()
    assert profile.descriptors == DescriptorPolicy(
        delegate=(), reserve_stdio=False, strict=False, scm_rights=ScmRights.ALLOW
    )
    assert profile.process == ProcessPolicy(umask=0o022, chdir=None, die_with_parent=False, exec=ExecPolicy.ALLOW)


def parts_of(profile: Profile) -> tuple[Any, ...]:
    (protocol,) = profile.protocols
    sections = (
        profile.process, profile.environment, profile.filter, profile.descriptors,
        profile.filesystem, profile.limits, profile.landlock,
    )  # fmt: skip
    return (profile, *sections, protocol, *protocol.rules)


def test_model_values_are_frozen() -> None:
    profile = one(COMPLETE)
    for value in (*parts_of(profile), *profile.grants):
        name = dataclasses.fields(value)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, getattr(value, name))
    assert hash(profile) == hash(one(COMPLETE))


def rule(words: str) -> str:
    return f"[protocols.own]\nrules=[{{{words}}}]"


def own(words: str) -> str:
    return rule(f"program='a', {words}")


# text -> key, part of the reason, part of the hint; and the same text put right.
REFUSED: Final[dict[str, tuple[str, str, str, str, str]]] = {
    "allow-no-port": (
        "[network]\nallow=['tcp:h:80', 'tcp:h:']", "network.allow[1]", "'tcp:h:': '' is no port", "PORT 443",
        "[network]\nallow=['tcp:h:80', 'tcp:h:*']",
    ),
    "allow-protocol": (
        "[network]\nallow=['icmp:h:1']", "network.allow[0]", "'icmp' is neither tcp nor udp", "write tcp:HOST",
        "[network]\nallow=['udp:h:1']",
    ),
    "allow-network": (
        "[network]\nallow=['tcp:10.0.0.1/8:80']", "network.allow[0]", "'10.0.0.1/8' is an address in a network",
        "the network is 10.0.0.0/8", "[network]\nallow=['tcp:10.0.0.0/8:80']",
    ),
    "allow-mapped": (
        "[network]\nallow=['tcp:[::ffff:10.0.0.1]:80']", "network.allow[0]", "is IPv4 in IPv6",
        "write the IPv4 address", "[network]\nallow=['tcp:10.0.0.1:80']",
    ),
    "bind-name": (
        "[network]\nallow_bind=['tcp:h:80']", "network.allow_bind[0]", "'h' is no address", "tcp:ADDRESS:PORT",
        "[network]\nallow_bind=['tcp:127.0.0.1:80']",
    ),
    "dns-type": ("[network]\ndns='yes'", "network.dns", "expected `bool`", "", "[network]\ndns=true"),
    "syntax": ("a = @", "", "line 1, column 5", "quotes", ""),
    "syntax-line": ('description = "x"\n[process\n', "", "line 2, column 9", "quotes",
        'description = "x"\n[process]\n'),
    "double-key": ('description="a"\ndescription="b"', "", "not TOML", "", 'description="a"'),
    "deep-nesting": ("a = " + "[" * 20_000, "", "nested too deeply", "", "extends = []"),
    "long-number": ("a = " + "9" * 5_000, "", "too long", "", "extends = []"),
    "unknown-top": ("[enviroment]", "enviroment", "unknown key", "did you mean 'environment'?", "[environment]"),
    "unknown-lists": ("[zzz]", "zzz", "unknown key", "known here: commands, description, descriptors", "[filter]"),
    "unknown-process": ("[process]\numsk='022'", "process.umsk", "unknown key", "'umask'", "[process]\numask='022'"),
    "unknown-odd": ('"a\\nb" = 1', '"a\\nb"', "unknown key", "known here", "[process]"),
    "deny-list": ("[filter]\ndeny=[]", "filter.deny", "unknown key", "known here: allow", "[filter]\nallow=[]"),
    "unknown-grant-key": (
        "[grants.a]\nfile='/x'\nacces='read'", "grants.a.acces", "unknown key", "'access'",
        "[grants.a]\nfile='/x'\naccess='read'",
    ),
    "other-kind's-key": (
        "[grants.a]\nfile='/x'\ntype='pipe'", "grants.a.type", "unknown key", "known here: access, create",
        "[grants.a]\ninherit=5\ntype='pipe'",
    ),
    "section-type": ("process = 3", "process", "not a table", "write [process]", "[process]"),
    "grants-type": ("grants = 3", "grants", "not a table", "[grants.NAME]", "[grants]"),
    "grant-type": ("grants.a = 3", "grants.a", "not a table", "[grants.a]", "[grants.a]\nfile='/x'"),
    "description-type": ("description = 1", "description", "expected `str", "", "description = '1'"),
    "description-lines": ('description = "a\\nb"', "description", "newline", "one line", 'description = "a b"'),
    "description-escape": ('description = "\\u001b[2J"', "description", "control", "", 'description = "[2J"'),
    "extends-type": ("extends = 'base'", "extends", "expected `array`", "", "extends = ['base']"),
    "extends-item": ("extends = ['a', 1]", "extends[1]", "expected `str`", "", "extends = ['a', 'b']"),
    "commands-type": ("commands = 'git'", "commands", "expected `array`", "", "commands = ['git']"),
    "commands-path": ("commands = ['a', '/bin/b']", "commands[1]", "no command's name", "", "commands = ['a', 'b']"),
    "commands-empty": ("commands = ['']", "commands[0]", "no command's name", "without its folder", "commands = []"),
    "commands-blank": ("commands = ['a b']", "commands[0]", "no command's name", "", "commands = ['a-b']"),
    "umask-type": ("[process]\numask=22", "process.umask", "expected `str`", '"022"', "[process]\numask='22'"),
    "umask-digit": ("[process]\numask='089'", "process.umask", "'089' does not fit", '"022"', "[process]\numask='077'"),
    "umask-big": ("[process]\numask='1777'", "process.umask", "does not fit", '"022"', "[process]\numask='0777'"),
    "umask-newline": ('[process]\numask="022\\n"', "process.umask", "does not fit", "", '[process]\numask="022"'),
    "exec-word": ("[process]\nexec='onec'", "process.exec", "'onec'", "did you mean 'once'?", "[process]\nexec='once'"),
    "flag-type": (
        "[process]\ndie_with_parent=1", "process.die_with_parent", "expected `bool`", "",
        "[process]\ndie_with_parent=true",
    ),
    "chdir-relative": ("[process]\nchdir='x'", "process.chdir", "not absolute", "{home}", "[process]\nchdir='/x'"),
    "keep-star": ("[environment]\nkeep=['A', 'L*C']", "environment.keep[1]", "'L*C'", "end only",
                  "[environment]\nkeep=['A', 'LC*']"),
    "keep-empty": ("[environment]\nkeep=['']", "environment.keep[0]", "''", "", "[environment]\nkeep=['*']"),
    "keep-bracket": ("[environment]\nkeep=['A[B]']", "environment.keep[0]", "'A[B]'", "", "[environment]\nkeep=['AB']"),
    "keep-item": ("[environment]\nkeep=[3]", "environment.keep[0]", "expected `str`", "", "[environment]\nkeep=[]"),
    "set-name": ("[environment.set]\n'A=B'='c'", 'environment.set."A=B"', "not a variable", "'='",
                 "[environment.set]\nA='B=c'"),
    "set-nul": ('[environment.set]\nA="\\u0000"', "environment.set.A", "not a variable", "NUL",
        "[environment.set]\nA=''"),
    "set-type": ("[environment.set]\nA='1'\nB=2", "environment.set.B", "expected `str`", "",
                 "[environment.set]\nA='1'\nB='2'"),
    "allow-type": ("[filter]\nallow='@base'", "filter.allow", "expected `array`", "", "[filter]\nallow=['@base']"),
    "no-kind": ("[grants.a]\naccess='read'", "grants.a", "no kind", "exactly one of inherit, file, directory, secret",
                "[grants.a]\nfile='/x'\naccess='read'"),
    "kind-typo": ("[grants.a]\nfil='/x'", "grants.a", "no kind", "did you mean 'file'?", "[grants.a]\nfile='/x'"),
    "two-kinds": ("[grants.a]\nfile='/x'\nsecret='/y'", "grants.a", "2 kinds", "exactly one",
        "[grants.a]\nsecret='/y'"),
    "grant-name": ("[grants.'a b']\nfile='/x'", 'grants."a b"', "not a grant name", "a letter",
        "[grants.a-b]\nfile='/x'"),
    "access-word": ("[grants.a]\nfile='/x'\naccess='apend'", "grants.a.access", "'apend'", "did you mean 'append'?",
                    "[grants.a]\nfile='/x'\naccess='append'"),
    "type-word": ("[grants.a]\ninherit=5\ntype='sockets'", "grants.a.type", "'sockets'", "did you mean 'socket'?",
                  "[grants.a]\ninherit=5\ntype='socket'"),
    "number-low": ("[grants.a]\nfile='/x'\nnumber=2", "grants.a.number", ">= 3", "use 3 to 65535",
                   "[grants.a]\nfile='/x'\nnumber=3"),
    "number-high": ("[grants.a]\nfile='/x'\nnumber=65536", "grants.a.number", "<= 65535", "use 3 to 65535",
                    "[grants.a]\nfile='/x'\nnumber=65535"),
    "number-bool": ("[grants.a]\nfile='/x'\nnumber=true", "grants.a.number", "got `bool`", "",
                    "[grants.a]\nfile='/x'\nnumber=4"),
    "relay-kind": ("[grants.a]\nfile='/x'\nrelay=true", "grants.a.relay", "unknown key", "",
                   "[grants.a]\ninherit=5\nrelay=true"),
    "relay-raw": ("[grants.a]\ninherit=5\nrelay=true\nraw=true", "grants.a", "raw is the caller's own", "one of them",
                  "[grants.a]\ninherit=5\nrelay=true\nraw=false"),
    "inherit-low": ("[grants.a]\ninherit=-1", "grants.a.inherit", ">= 0", "", "[grants.a]\ninherit=0"),
    "inherit-text": ("[grants.a]\ninherit='5'", "grants.a", "'5' is not a descriptor", "systemd:NAME",
        "[grants.a]\ninherit='systemd:5'"),
    "inherit-float": ("[grants.a]\ninherit=5.5", "grants.a.inherit", "expected `int | str`", "",
        "[grants.a]\ninherit=5"),
    "listen-kind": ("[grants.a]\nlisten='80'", "grants.a", "it is no address", "tcp:HOST:PORT",
        "[grants.a]\nlisten='tcp:*:80'"),
    "listen-path": ("[grants.a]\nlisten='unix:run/x'", "grants.a.listen", "not absolute", "{cwd}",
        "[grants.a]\nlisten='unix:{cwd}/run/x'"),
    "listen-backlog": ("[grants.a]\nlisten='tcp:h:1'\nbacklog=0", "grants.a.backlog", ">= 1", "",
        "[grants.a]\nlisten='tcp:h:1'\nbacklog=1"),
    "listen-mode": ("[grants.a]\nlisten='unix:/x'\nmode=600", "grants.a.mode", "expected `str`", "",
        "[grants.a]\nlisten='unix:/x'\nmode='600'"),
    "listen-key": ("[grants.a]\nlisten='unix:/x'\ntimeout=1", "grants.a.timeout", "unknown key", "",
        "[grants.a]\nconnect='unix:/x'\ntimeout=1"),
    "connect-time": ("[grants.a]\nconnect='unix:/x'\ntimeout=0", "grants.a.timeout", "> 0", "",
        "[grants.a]\nconnect='unix:/x'\ntimeout=0.5"),
    "datagram-tcp": ("[grants.a]\ndatagram='tcp:h:1'", "grants.a", "tcp has no datagrams", "connect",
        "[grants.a]\ndatagram='udp:h:1'"),
    "path-empty": ("[grants.a]\nfile=''", "grants.a.file", "not absolute", "", "[grants.a]\nfile='/'"),
    "path-relative": ("[grants.a]\nfile='x/y'", "grants.a.file", "not absolute", "{cwd}",
        "[grants.a]\nfile='{cwd}/x/y'"),
    "path-nul": ('[grants.a]\nfile="/\\u0000"', "grants.a.file", "NUL", "", "[grants.a]\nfile='/0'"),
    "secret-relative": ("[grants.a]\nsecret='key'", "grants.a.secret", "not absolute", "", "[grants.a]\nsecret='/key'"),
    "data-nul": ("[grants.a]\ndata='a\\u0000'".replace("'", '"'), "grants.a", "NUL", "copy", "[grants.a]\ndata='a'"),
    "copy-relative": ("[grants.a]\ncopy='key'", "grants.a.copy", "not absolute", "", "[grants.a]\ncopy='/key'"),
    "scratch-size": ("[grants.a]\nscratch='much'", "grants.a", "'much': it is not", "512M", "[grants.a]\nscratch='4K'"),
    "scratch-zero": ("[grants.a]\nscratch=0", "grants.a", "of 0 bytes", "64M", "[grants.a]\nscratch=1"),
    "secret-unnamed": ("[grants.a]\nsecret='env:'", "grants.a", "no source", "env:NAME", "[grants.a]\nsecret='env:A'"),
    "placeholder-word": ("[grants.a]\nfile='{hom}/x'", "grants.a.file", "'{hom}/x': unknown placeholder", "'home'",
                         "[grants.a]\nfile='{home}/x'"),
    "placeholder-inside": ("[grants.a]\nfile='/x/{home}'", "grants.a.file", "out of place", "begin with it",
                           "[grants.a]\nfile='{tmp}/x'"),
    "placeholder-glued": ("[grants.a]\nfile='{home}x'", "grants.a.file", "out of place", "",
        "[grants.a]\nfile='{home}'"),
    "brace": ("[grants.a]\nfile='/x}'", "grants.a.file", "out of place", "", "[grants.a]\nfile='/x'"),
    "create-read": ("[grants.a]\nfile='/x'\ncreate=true", "grants.a", "need a writing access", 'access = "write"',
                    "[grants.a]\nfile='/x'\ncreate=true\naccess='write'"),
    "propagate-type": ("[grants.a]\nfile='/x'\npropagate=1", "grants.a.propagate", "expected `bool`", "",
                       "[grants.a]\nfile='/x'\npropagate=true"),
    "descriptors-type": ("descriptors = []", "descriptors", "not a table", "[descriptors]", "[descriptors]"),
    "descriptors-unknown": ("[descriptors]\ndelegates=[]", "descriptors.delegates", "unknown key", "'delegate'",
                            "[descriptors]\ndelegate=[]"),
    "delegate-type": ("[descriptors]\ndelegate='gpg'", "descriptors.delegate", "expected `array`", "",
                      "[descriptors]\ndelegate=['gpg']"),
    "delegate-item": ("[descriptors]\ndelegate=[3]", "descriptors.delegate[0]", "expected `str`", "",
                      "[descriptors]\ndelegate=['3']"),
    "strict-type": ("[descriptors]\nstrict='yes'", "descriptors.strict", "expected `bool`", "",
                    "[descriptors]\nstrict=true"),
    "stdio-type": ("[descriptors]\nreserve_stdio=1", "descriptors.reserve_stdio", "expected `bool`", "",
                   "[descriptors]\nreserve_stdio=false"),
    "scm-word": ("[descriptors]\nscm_rights='denied'", "descriptors.scm_rights", "'denied'", "did you mean 'deny'?",
                 "[descriptors]\nscm_rights='deny'"),
    "protocols-type": ("protocols = 3", "protocols", "not a table", "[protocols.NAME]", "[protocols]"),
    "protocol-type": ("protocols.own = 3", "protocols.own", "not a table", "[protocols.own]", own("shape='all'")),
    "protocol-name": ("[protocols.'a b']\nrules=[{program='a', shape='all'}]", 'protocols."a b"',
                      "not a protocol name", "a letter", "[protocols.a-b]\nrules=[{program='a', shape='all'}]"),
    "protocol-built-in": ("[protocols.gpg]\nrules=[{program='a', shape='all'}]", "protocols.gpg", "built-in",
                          "another", "[protocols.gpg2]\nrules=[{program='a', shape='all'}]"),
    "protocol-unknown": ("[protocols.own]\nrule=[]", "protocols.own.rule", "unknown key", "'rules'",
                         own("shape='all'")),
    "protocol-empty": ("[protocols.own]\nrules=[]", "protocols.own.rules", "length >= 1", "", own("shape='all'")),
    "protocol-no-rules": ("[protocols.own]", "protocols.own", "missing required field `rules`", "", own("shape='all'")),
    "protocol-lines": ('[protocols.own]\ndescription="a\\nb"\nrules=[{program="a", shape="all"}]',
                       "protocols.own.description", "newline", "one line", own("shape='all'")),
    "rule-type": ("[protocols.own]\nrules=[3]", "protocols.own.rules[0]", "not a table", "{ shape",
                  own("shape='all'")),
    "rule-unknown": (own("shape='all', prog='x'"), "protocols.own.rules[0].prog", "unknown key", "'program'",
                     own("shape='all'")),
    "rule-second": ("[protocols.own]\nrules=[{program='a', shape='all'}, {argument='x', shape='nummer'}]",
                    "protocols.own.rules[1].shape", "'nummer'", "did you mean 'number'?",
                    "[protocols.own]\nrules=[{program='a', shape='all'}, {argument='x', shape='number'}]"),
    "rule-no-shape": ("[protocols.own]\nrules=[{argument='x'}]", "protocols.own.rules[0]", "`shape`", "",
                      own("shape='all'")),
    "rule-no-place": ("[protocols.own]\nrules=[{shape='all'}]", "protocols.own.rules[0]", "one place", "next_argument",
                      own("shape='all'")),
    "rule-two-places": (own("argument='x', variable='X', shape='all'"), "protocols.own.rules[0]", "one place",
                        "use one", own("argument='x', shape='all'")),
    "rule-program-number": (own("shape='number'"), "protocols.own.rules[0]", "says no numbers", "fixed or all",
                            own("argument='x', shape='number'")),
    "rule-fixed-bare": (own("shape='fixed'"), "protocols.own.rules[0]", "go together", "numbers = [3, 4]",
                        own("shape='fixed', numbers=[3]")),
    "rule-numbers-bare": (own("shape='all', numbers=[3]"), "protocols.own.rules[0]", "go together", "fixed",
                          own("shape='fixed', numbers=[31]")),
    "rule-number-low": (own("shape='fixed', numbers=[2]"), "protocols.own.rules[0].numbers[0]", ">= 3", "",
                        own("shape='fixed', numbers=[3]")),
    "rule-number-high": (own("shape='fixed', numbers=[32]"), "protocols.own.rules[0].numbers[0]", "<= 31", "",
                         own("shape='fixed', numbers=[31]")),
    "rule-variable-program": (own("variable='X', shape='list'"), "protocols.own.rules[0]", "of every program",
                              "leave program out", rule("variable='X', shape='list'")),
    "rule-variable-name": (rule("variable='A=B', shape='list'"), "protocols.own.rules[0]", "a variable is named",
                           "no '='", rule("variable='A', after='B', shape='list'")),
    "rule-variable-empty": (rule("variable='', shape='list'"), "protocols.own.rules[0]", "a variable is named",
                            "not empty", rule("variable='A', shape='list'")),
    "rule-after-argument": (rule("argument='x', after='=', shape='list'"), "protocols.own.rules[0]",
                            "after is a variable's", "argument itself", rule("argument='x=', shape='list'")),
    "rule-anywhere-bare": (rule("variable='X', anywhere=true, shape='list'"), "protocols.own.rules[0]",
                           "anywhere needs a text", "after",
                           rule("variable='X', after='=', anywhere=true, shape='list'")),
    "rule-anywhere-next": (rule("next_argument='x', anywhere=true, shape='list'"), "protocols.own.rules[0]",
                           "anywhere needs a text", "argument", rule("argument='x', anywhere=true, shape='list'")),
    "rule-program-path": (rule("program='/bin/x', shape='all'"), "protocols.own.rules[0]", "a path", "last component",
                          rule("program='x', shape='all'")),
    "rule-long": (rule(f"argument='{'x' * 61}', shape='all'"), "protocols.own.rules[0]", "60 bytes", "shorten",
                  rule(f"argument='{'x' * 60}', shape='all'")),
    "rule-long-bytes": (rule(f"argument='{'é' * 31}', shape='all'"), "protocols.own.rules[0]", "60 bytes", "shorten",
                        rule(f"argument='{'é' * 30}', shape='all'")),
    "tty-word": ("[process]\ntty='own'", "process.tty", "invalid enum value 'own'", "private", "[process]\ntty='none'"),
    "hostname": ("[process]\nhostname='a b'", "process.hostname", "not a host name", "letters",
                 "[process]\nhostname='a-b'"),
    "cpus": ("[process]\ncpus='1-'", "process.cpus", "not a list of processors", "0-3,8", "[process]\ncpus='1-2'"),
    "nice": ("[process]\nnice=20", "process.nice", "<= 19", "", "[process]\nnice=19"),
    "oom": ("[process]\noom_score_adj=-1001", "process.oom_score_adj", ">= -1000", "",
            "[process]\noom_score_adj=-1000"),
    "view-word": ("[filesystem]\nview='own'", "filesystem.view", "invalid enum value", "host, private",
                  "[filesystem]\nview='host'"),
    "view-relative": ("[filesystem]\nread=['etc']", "filesystem.read[0]", "'etc' is not absolute", "start with /",
                      "[filesystem]\nread=['-/etc']"),
    "view-mark": ("[filesystem]\nwrite=['--/etc']", "filesystem.write[0]", "is not absolute", "start with /",
                  "[filesystem]\nwrite=['-{home}/x']"),
    "view-placeholder": ("[filesystem]\ntmpfs=['{hom}']", "filesystem.tmpfs[0]", "unknown placeholder", "'home'",
                         "[filesystem]\ntmpfs=['{home}']"),
    "view-number": ("[filesystem]\nhide=[1]", "filesystem.hide[0]", "expected `str`", "", "[filesystem]\nhide=['/a']"),
    "network-word": ("[network]\nmode='lo'", "network.mode", "invalid enum value 'lo'", "loopback",
                     "[network]\nmode='loopback'"),
    "share-word": ("[namespaces]\nshare=['net']", "namespaces.share[0]", "invalid enum value", "cgroup, ipc",
                   "[namespaces]\nshare=['ipc']"),
    "limit-name": ("[limits]\nmem='1G'", "limits.mem", "unknown key", "'memory'", "[limits]\nmemory='1G'"),
    "limit-text": ("[limits]\nmemory='much'", "limits.memory", "is not a size", "512M", "[limits]\nmemory='1G'"),
    "limit-range": ("[limits]\nopen_files=3", "limits.open_files", "out of range", "from 16",
                    "[limits]\nopen_files=16"),
    "limit-type": ("[limits]\nmemory=[]", "limits.memory", "expected `", "", "[limits]\nmemory=4096"),
    "rule-nul": ('[protocols.own]\nrules=[{argument="\\u0000", shape="all"}]', "protocols.own.rules[0]", "NUL", "",
                 rule("argument='0', shape='all'")),
}  # fmt: skip


@pytest.mark.parametrize(("text", "key", "reason", "hint", "right"), REFUSED.values(), ids=REFUSED)
def test_parse_mistake_is_refused_with_its_key_and_the_right_text_is_not(
    text: str, key: str, reason: str, hint: str, right: str
) -> None:
    error = refusal(text)
    assert error.key == key
    assert reason in error.reason
    assert hint in error.hint
    parse(right, "x.toml")


@pytest.mark.parametrize("char", ["\n", "\r", "\x0b", "\x1b", "\x85", "\u2028"])
def test_parse_message_stays_one_line_whatever_the_text_holds(char: str) -> None:
    escaped = f"\\u{ord(char):04x}"
    for text in (
        f'"a{escaped}" = 1', f'[process]\nexec = "a{escaped}"', f'[grants.a]\nfile = "{escaped}"',
        f'[grants.a]\nfile = "{{{escaped}}}"', f'[grants."a{escaped}"]\nfile = "/x"',
        f'[environment]\nkeep = ["{escaped}="]',
        f'[protocols."a{escaped}"]\nrules = [{{program = "a", shape = "all"}}]',
        f'[protocols.own]\nrules = [{{program = "a", shape = "{escaped}"}}]', f'[protocols.own]\n"{escaped}" = 1',
        f'[protocols.own]\ndescription = "{escaped}"\nrules = [{{program = "a", shape = "all"}}]',
        f'[process]\numask = "{escaped}"', f'description = "{escaped}"', f'[environment.set]\n"{escaped}=" = ""',
    ):  # fmt: skip
        assert char not in str(refusal(text))


def test_grant_tables_have_the_fields_of_the_grants() -> None:
    for word, table in model._GRANT_TABLES.items():
        fields = [field.name for field in dataclasses.fields(KINDS[word]) if field.name != "passed_fd"]  # not said
        assert ["name", *model._fields(table)] == fields


def test_section_tables_have_the_fields_of_the_values() -> None:
    values = {
        "process": ProcessPolicy, "environment": Environment, "filter": FilterSection, "descriptors": DescriptorPolicy,
        "filesystem": FilesystemPolicy, "limits": Limits, "landlock": LandlockPolicy,
    }  # fmt: skip
    assert values.keys() | {"network", "namespaces"} == model._SECTIONS.keys()
    for name, value in values.items():
        assert {field.name for field in dataclasses.fields(value)} == set(model._fields(model._SECTIONS[name]))
    fields = {field.name for field in dataclasses.fields(Profile)} - {"name", "source_path"}
    assert fields - {"share"} | {"extends", "namespaces"} == set(model._TOP_KEYS)


# Merging


def merged(*texts: str) -> Profile:
    return merge([parse(text, f"{index}.toml") for index, text in enumerate(texts)], "m")


def test_merge_later_scalar_wins_and_unsaid_one_does_not() -> None:
    first = "[process]\numask='077'\ndie_with_parent=true\nchdir='/a'\nexec='once'"
    assert merged(first, "").process == one(first).process
    assert merged(first, "[process]\numask='022'\ndie_with_parent=false\nexec='allow'").process == ProcessPolicy(
        umask=0o022, chdir="/a", die_with_parent=False, exec=ExecPolicy.ALLOW
    )


def test_merge_lists_add_up_in_order_without_doubles() -> None:
    profile = merged(
        "[filter]\nallow=['b','a']\n[environment]\nkeep=['Y','X']",
        "[filter]\nallow=['c','b']\n[environment]\nkeep=['X','Z']",
    )
    assert profile.filter.allow == ("b", "a", "c")
    assert profile.environment.keep == ("Y", "X", "Z")


def test_merge_later_variable_wins_and_others_stay() -> None:
    profile = merged("[environment.set]\nA='1'\nB='2'", "[environment.set]\nA='3'")
    assert profile.environment.set == (("A", "3"), ("B", "2"))


def test_merge_variable_kept_later_by_name_is_no_longer_set() -> None:
    first = "[environment.set]\nA='1'\nB='2'"
    assert merged(first, "[environment]\nkeep=['A']").environment == Environment(("A",), (("B", "2"),))
    assert merged("[environment]\nkeep=['A']", first).environment.set == (("A", "1"), ("B", "2"))
    assert merged("[environment]\nkeep=['A', 'B*']\nset={A='1'}").environment.set == (("A", "1"),)


def test_merge_grant_of_the_same_name_is_replaced_whole_in_its_place() -> None:
    profile = merged(
        "[grants.a]\nfile='/a'\naccess='append'\nnumber=9\n[grants.b]\nfile='/b'", "[grants.a]\nsecret='/s'"
    )
    assert profile.grants == (SecretGrant(name="a", secret="/s"), FileGrant(name="b", file="/b"))


def test_merge_result_describes_the_last_text_only() -> None:
    assert (merged("description='a'", "").description, merged("description='a'", "").source_path) == ("", "1.toml")
    assert merged("description='a'", "description='b'").description == "b"


def test_merge_descriptors_later_scalar_wins_and_delegate_adds_up() -> None:
    first = "[descriptors]\ndelegate=['gpg','apt']\nstrict=true\nreserve_stdio=true\nscm_rights='deny'"
    assert merged(first, "").descriptors == one(first).descriptors
    second = "[descriptors]\ndelegate=['dbus','gpg']\nstrict=false\nscm_rights='allow'"
    assert merged(first, second).descriptors == DescriptorPolicy(
        delegate=("gpg", "apt", "dbus"), reserve_stdio=True, strict=False, scm_rights=ScmRights.ALLOW
    )


def test_merge_protocol_of_the_same_name_is_replaced_whole() -> None:
    profile = merged(
        own("shape='all'"), "[protocols.x]\nrules=[{program='x', shape='all'}]", own("argument='y', shape='all'")
    )
    assert [(protocol.name, protocol.source) for protocol in profile.protocols] == [("own", "2.toml"), ("x", "1.toml")]
    assert profile.protocols[0].rules == (ProtocolRule(Place.ARGUMENT, Shape.ALL, "y", program="a"),)


# Placeholders and what the command line adds


def test_for_caller_placeholders_become_the_callers_paths() -> None:
    profile = one(
        "[process]\nchdir='{home}/x'\n[grants.a]\nfile='{cwd}/a'\n[grants.b]\nsecret='{runtime_dir}'\n"
        "[grants.c]\nfile='{tmp}/c'\n[grants.d]\nsecret='env:HOME'\n[grants.e]\nfile='/e'"
    )
    result = for_caller(profile, CALLER)
    assert result.process.chdir == "/home/u/x"
    assert [getattr(g, "file", None) or getattr(g, "secret", None) for g in result.grants] == [
        "/work dir/a", "/run/user/7", "/tmp/c", "env:HOME", "/e"
    ]  # fmt: skip


@pytest.mark.parametrize("home", ["", "relative"])
def test_for_caller_placeholder_without_an_absolute_value_is_refused(home: str) -> None:
    caller = dataclasses.replace(CALLER, home=home)
    for text, key in (("[process]\nchdir='{home}/x'", "process.chdir"), ("[grants.a]\nfile='{home}/x'", "grants.a")):
        with pytest.raises(ProfileError, match=r"\{home\} stands for '.*' here") as caught:
            for_caller(one(text), caller)
        assert (caught.value.path, caught.value.key) == ("x.toml", key)
        for_caller(one(text), CALLER)


def test_for_caller_value_that_looks_like_a_placeholder_is_taken_as_it_is() -> None:
    caller = dataclasses.replace(CALLER, home="/home/{cwd}")
    (grant,) = for_caller(one("[grants.a]\nfile='{home}/x'"), caller).grants
    assert grant == FileGrant(name="a", file="/home/{cwd}/x")


def test_for_caller_added_paths_are_literal_and_start_at_the_working_directory() -> None:
    added = [
        parse_grant("a=file:{home}"),
        parse_grant("b=file:/b"),
        parse_grant("c=secret:k"),
        parse_grant("d=secret:env:K"),
    ]
    result = for_caller(Profile("p"), CALLER, Additions(grants=tuple(added), chdir="x"))
    assert result.process.chdir == "/work dir/x"
    assert result.grants == (
        FileGrant(name="a", file="/work dir/{home}"), FileGrant(name="b", file="/b"),
        SecretGrant(name="c", secret="/work dir/k"), SecretGrant(name="d", secret="env:K"),
    )  # fmt: skip


def test_for_caller_relative_path_without_a_working_directory_is_refused() -> None:
    caller = dataclasses.replace(CALLER, cwd="")
    with pytest.raises(ProfileError, match="the working directory is gone"):
        for_caller(Profile("p"), caller, Additions(grants=(parse_grant("a=file:log:write"),)))
    with pytest.raises(ProfileError, match="the working directory is gone"):
        for_caller(Profile("p"), caller, Additions(chdir="x"))
    assert for_caller(Profile("p"), caller, Additions(grants=(parse_grant("a=file:/log:write"),))).grants


def test_for_caller_added_grant_replaces_its_namesake_and_doubled_ones_are_refused() -> None:
    profile = one("[grants.a]\nfile='/a'\nnumber=9\n[grants.b]\nfile='/b'")
    added: list[Grant] = [InheritGrant(name="a", inherit=7)]
    assert for_caller(profile, CALLER, Additions(grants=tuple(added))).grants == (
        added[0],
        FileGrant(name="b", file="/b"),
    )
    with pytest.raises(GrantError, match="grant: a: the name is used twice"):
        for_caller(profile, CALLER, Additions(grants=(*added, FileGrant(name="a", file="/x"))))


def test_for_caller_added_variables_win() -> None:
    profile = one("[environment]\nkeep=['K']\nset={A='1', B='2'}")
    result = for_caller(profile, CALLER, Additions(variables={"A": "3"}, keep=("B",)))
    assert result.environment == Environment(keep=("K", "B"), set=(("A", "3"),))


@pytest.mark.parametrize(("variables", "keep"), [({"A=B": ""}, ()), ({"": ""}, ()), ({"A": "\0"}, ()), ({}, ("A*B",))])
def test_for_caller_bad_variable_is_refused(variables: dict[str, str], keep: tuple[str, ...]) -> None:
    with pytest.raises(ProfileError, match="profile: command line: environment"):
        for_caller(Profile("p"), CALLER, Additions(variables=variables, keep=keep))


@pytest.mark.parametrize("chdir", ["", "/a\0"])
def test_for_caller_bad_folder_is_refused(chdir: str) -> None:
    with pytest.raises(ProfileError, match="is no path"):
        for_caller(Profile("p"), CALLER, Additions(chdir=chdir))


# check


def test_check_filter_without_a_mandatory_call_is_refused() -> None:
    base = "[filter]\nallow=['@base']"
    check(one(base))
    for call in ("write", "execve", "exit_group"):
        others = sorted(expand(["@base"]) - {call})
        with pytest.raises(ProfileError, match=f"{call} not allowed") as caught:
            check(one(f"[filter]\nallow={others}"))
        assert (caught.value.path, caught.value.key) == ("x.toml", "filter.allow")
        assert "@base" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "hint"), [("@netwrk", "'@network'"), ("base", "'@base'"), ("opnat", "'openat'"), ("clone3", "pointer")]
)
def test_check_unknown_syscall_or_group_is_refused_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ProfileError) as caught:
        check(one(f"[filter]\nallow=['@base', '{name}']"))
    assert (caught.value.path, caught.value.key) == ("x.toml", "filter.allow")
    assert hint in caught.value.hint


def test_check_grants_that_collide_are_refused() -> None:
    base = "[filter]\nallow=['@base']\n[grants.a]\nfile='/a'\nnumber=5\n[grants.b]\nfile='/b'\nnumber="
    check(one(base + "6"))
    with pytest.raises(GrantError, match="b: the number is used twice"):
        check(one(base + "5"))


BASE: Final = "[filter]\nallow=['@base']\n"
SHARED: Final = "[namespaces]\nshare=['mount', 'pid']\n[filesystem]\nview='host'\n[network]\n"


def test_check_protocol_that_does_not_exist_is_refused_with_the_nearest() -> None:
    check(one(BASE + "[descriptors]\ndelegate=['jobserver']"))
    with pytest.raises(ProfileError, match="no protocol 'jobservr'") as caught:
        check(one(BASE + "[descriptors]\ndelegate=['jobservr']"))
    assert (caught.value.path, caught.value.key) == ("x.toml", "descriptors.delegate")
    assert "did you mean 'jobserver'?" in caught.value.hint
    assert "pass-fds" in caught.value.hint


# what a profile says of the network and its namespaces -> the key that is wrong, words of the reason; and put right
NETWORK: Final[list[tuple[str, str, str, str]]] = [
    ("mode='host'\nallow=['tcp:h:80']", "network.allow[0]", "TCP ports only", "mode='host'\nallow=['tcp:*:80']"),
    (
        "mode='host'\nallow=['tcp:*:1', 'udp:*:80']", "network.allow[1]", "TCP ports only",
        "mode='none'\nallow=['tcp:*:1', 'udp:*:80']",
    ),
    (
        "mode='host'\nallow=['tcp:0.0.0.0/0:80']", "network.allow[0]", "TCP ports only",
        "mode='loopback'\nallow=['tcp:0.0.0.0/0:80']",
    ),
    (
        "mode='host'\nallow_bind=['tcp:127.0.0.1:80']", "network.allow_bind[0]", "TCP ports only",
        "mode='host'\nallow_bind=['tcp:80']",
    ),
    ("mode='host'\nallow_bind=['udp:80']", "network.allow_bind[0]", "TCP ports only", "allow_bind=['udp:80']"),
    ("mode='host'\ndns=true", "network.dns", "all resolvers can be asked", "dns=true"),
    ("resolvers=['192.0.2.53']", "network.resolvers", "dns is false", "dns=true\nresolvers=['192.0.2.53']"),
    (
        "dns=true\nresolvers=['192.0.2.53', 'dns.example']", "network.resolvers[1]", "'dns.example' is no address",
        "dns=true\nresolvers=['192.0.2.53', '2001:db8::53']",
    ),
    (
        SHARED + "allow=['tcp:h:80']", "namespaces.share", "a mount namespace of its own",
        SHARED + "allow=['tcp:192.0.2.7:80']",
    ),
    (SHARED + "dns=true", "namespaces.share", "a mount namespace of its own", "dns=true"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "key", "reason", "right"), NETWORK)
def test_check_rules_that_nothing_would_hold_are_refused(wrong: str, key: str, reason: str, right: str) -> None:
    def profile(text: str) -> Profile:
        return one(BASE + ("" if text.startswith("[") else "[network]\n") + text)

    check(profile(right))
    with pytest.raises(ProfileError) as caught:
        check(profile(wrong))
    assert (caught.value.path, caught.value.key) == ("x.toml", key)
    assert reason in caught.value.reason
    assert caught.value.hint


def test_supervised_is_a_network_with_rules_that_is_not_the_hosts() -> None:
    for text in ("allow=['tcp:h:1']", "allow_bind=['tcp:1']", "dns=true"):
        assert one("[network]\n" + text).network.is_supervised
        assert one("[network]\nmode='loopback'\n" + text).network.is_supervised
        assert not one("[network]\nmode='host'\n" + text).network.is_supervised
    assert not one("").network.is_supervised


def test_merge_joins_rules_and_the_later_words_win() -> None:
    first = parse("[network]\nmode='host'\nallow=['tcp:a:1', 'tcp:b:1']\ndns=true\nresolvers=['192.0.2.1']", "a")
    second = parse("[network]\nmode='none'\nallow=['tcp:b:1', 'tcp:c:1']\nallow_bind=['tcp:1']", "b")
    merged = merge([first, second], "x").network
    assert (merged.mode, merged.dns, merged.resolvers) == (NetworkMode.NONE, True, ("192.0.2.1",))
    assert list(map(str, merged.allow)) == ["tcp:a:1", "tcp:b:1", "tcp:c:1"]
    assert list(map(str, merged.bind)) == ["tcp:1"]
    assert merge([first, parse("[network]\ndns=false", "b")], "x").network.dns is False


@pytest.mark.parametrize(
    ("texts", "ports"),
    [
        ([], None),
        (["tcp:*:443"], (443,)),
        (["tcp:*:80-82", "tcp:*:81", "tcp:*:1"], (1, 80, 81, 82)),
        (["tcp:*:80", "tcp:*:*"], None),
    ],
)
def test_ports_of_rules_are_landlocks(texts: list[str], ports: tuple[int, ...] | None) -> None:
    assert ports_of([parse_peer(text) for text in texts]) == ports


def test_delegated_finds_built_in_and_own_protocols_in_the_order_of_the_profile() -> None:
    profile = one(BASE + "[descriptors]\ndelegate=['own', 'gpg']\n" + own("shape='all'"))
    assert delegated(profile) == (profile.protocols[0], PROTOCOLS["gpg"])
    assert delegated(one(BASE + own("shape='all'"))) == ()


@pytest.mark.parametrize(("kind", "accepted"), [("", False), ("type='socket'", False), ("type='pipe'", True)])
def test_check_inherited_socket_is_refused_where_nothing_may_be_sent(kind: str, accepted: bool) -> None:
    text = BASE + f"[grants.a]\ninherit=5\n{kind}\n[descriptors]\nscm_rights="
    check(one(text + "'allow'"))
    if accepted:
        check(one(text + "'deny'"))
        return
    with pytest.raises(GrantError, match="a: scm_rights is denied"):
        check(one(text + "'deny'"))


def test_shape_words_are_the_shapes() -> None:
    assert [word.name for word in ShapeWord] == [shape.name for shape in Shape]
    assert [str(word) for word in ShapeWord] == [shape.name.lower() for shape in Shape]


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_built_in_protocol_is_one_that_a_profile_could_declare(protocol: Protocol) -> None:
    mine = dataclasses.replace(protocol, name="own", source="x.toml", names=True)  # a profile's own always names
    assert one(format_profile(Profile("x", protocols=(mine,)))).protocols == (mine,)
    texts = [text for rule in mine.rules for text in (rule.needle, rule.variable, rule.program)]
    assert max(len(text) for text in texts) <= MAX_RULE_TEXT


# Text and back


def test_format_result_parses_to_the_same_profile() -> None:
    profile = one(COMPLETE)
    assert merge([parse(format_profile(profile), "x.toml")], "x") == profile
    assert one(format_profile(one(""))) == one("")


@pytest.mark.parametrize("name", ["base", "untrusted", "sealed"])
def test_shipped_profile_is_valid_and_survives_formatting(name: str) -> None:
    profile = load(name, search=default_search_path({}))
    check(profile)
    assert profile.description
    assert profile.grants == ()
    again = merge([parse(format_profile(profile), profile.source_path)], name)
    assert again == profile


@pytest.mark.parametrize("name", ["base", "untrusted", "sealed"])
def test_shipped_profile_allows_nothing_of_the_refused_groups(name: str) -> None:
    allowed = expand(load(name, search=default_search_path({})).filter.allow)
    refused = expand(group.name for group in GROUPS.values() if group.refused_by_default)
    assert refused
    assert allowed & refused == frozenset()


def test_sealed_refuses_what_untrusted_allows() -> None:
    sealed, untrusted = (load(name, search=default_search_path({})) for name in ("sealed", "untrusted"))
    assert (sealed.process.exec, untrusted.process.exec) == (ExecPolicy.ONCE, ExecPolicy.ALLOW)
    assert expand(sealed.filter.allow) < expand(untrusted.filter.allow)
    assert {"socket", "connect"} <= expand(untrusted.filter.allow) - expand(sealed.filter.allow)
    assert (sealed.descriptors.delegate, set(untrusted.descriptors.delegate)) == (
        (), {name for name, protocol in PROTOCOLS.items() if protocol.names}
    )  # fmt: skip


@pytest.mark.parametrize("path", sorted(shipped_folder().glob("*.toml")), ids=lambda path: str(path.name))
def test_shipped_profile_says_what_it_grants_and_what_not(path: Path) -> None:
    header = path.read_text().split("description =")[0]
    assert header.startswith(f"# {path.stem}: ")
    assert "Grants:" in header
    assert "Not granted:" in header
    assert "Not protected:" in header


# Schema


VALIDATOR: Final = jsonschema.Draft202012Validator(schema())


def test_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


def test_schema_is_published_as_it_is() -> None:
    """`sandbox profiles schema >docs/profile.schema.json` after a change."""
    published = Path(__file__).resolve().parents[2] / "docs" / "profile.schema.json"
    assert json.loads(published.read_text()) == json.loads(json.dumps(schema()))


def test_schema_accepts_what_parse_accepts() -> None:
    texts = [COMPLETE, "", *(path.read_text() for path in shipped_folder().glob("*.toml"))]
    for text in (*texts, *(right for *_, right in REFUSED.values())):
        parse(text, "x.toml")
        VALIDATOR.validate(tomllib.loads(text))


# What a schema cannot say, or the parser of TOML says before it.
BEYOND_SCHEMA: Final = {
    "syntax", "syntax-line", "double-key", "deep-nesting", "long-number", "create-read",
    "rule-no-place", "rule-two-places", "rule-program-number", "rule-fixed-bare", "rule-numbers-bare",
    "rule-variable-program", "rule-after-argument", "rule-anywhere-bare", "rule-anywhere-next", "rule-program-path",
    "rule-long", "rule-long-bytes", "rule-nul", "limit-text", "limit-range", "relay-raw",
    "allow-network", "allow-mapped", "bind-name",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(REFUSED.keys() - BEYOND_SCHEMA))
def test_schema_refuses_what_parse_refuses(name: str) -> None:
    assert not VALIDATOR.is_valid(tomllib.loads(REFUSED[name][0]))


def test_schema_has_a_description_for_every_key() -> None:
    for table in schema()["$defs"].values():
        for name, value in table.get("properties", {}).items():
            assert value.get("description"), (table["title"], name)


# The reference: each ```toml block is a valid profile, or is followed by a ```text block with the message it causes.

BLOCKS: Final = re.findall(
    r"^```toml\n(.*?)^```\n(?:\n```text\n(.*?)\n```\n)?", REFERENCE.read_text(), re.DOTALL | re.MULTILINE
)


@pytest.mark.parametrize(("text", "message"), BLOCKS, ids=[str(index) for index in range(len(BLOCKS))])
def test_reference_example_does_what_it_says(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "app.toml"
    path.write_text(text)

    def use() -> None:
        check(for_caller(load(str(path), search=default_search_path({})), CALLER))

    if not message:
        use()
        return
    with pytest.raises((ProfileError, GrantError)) as caught:
        use()
    assert "sandbox: " + str(caught.value).replace(str(tmp_path) + "/", "") == message


def test_reference_names_every_key_and_word() -> None:
    text = REFERENCE.read_text()
    tables: list[type[Struct]] = [
        *model._SECTIONS.values(),
        *model._GRANT_TABLES.values(),
        model.ProtocolTable,
        model.RuleTable,
    ]
    keys = {*model._TOP_KEYS, *(name for table in tables for name in model._fields(table))}
    words = {*keys, *(str(access) for access in Access), *(str(kind) for kind in FdType), *map(str, ExecPolicy)}
    words |= {*map(str, ScmRights), *map(str, ShapeWord), *PROTOCOLS}
    for kind in (Tty, Scheduling, NetworkMode, SharedNamespace, View, Proc):
        words |= {str(word) for word in kind}
    assert {word for word in words if f"`{word}`" not in text} == set()
    assert {group for group in GROUPS if f"`{group}`" not in text} == set()
    assert len(BLOCKS) >= 8

"""What a path is to its user: a secret, a cache, a socket that speaks for the user, a part of the system. Pure.

Tables, with the programs' documents as sources; who shows, learns or checks a profile asks here.
"""

from __future__ import annotations

import fnmatch
import posixpath
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

# Below the home folder: (pattern, what it is). A pattern of no wildcard also means all that lies in it.
_SECRETS: Final = (
    (".ssh", "SSH keys"),  # ssh(1), FILES
    (".gnupg", "GnuPG keys"),  # gpg(1)
    (".aws", "AWS credentials"),
    (".azure", "Azure credentials"),
    (".config/gcloud", "Google Cloud credentials"),
    (".kube", "Kubernetes credentials"),
    (".docker/config.json", "registry credentials"),
    (".netrc", "passwords of network accounts"),  # curl(1), ftp(1)
    (".git-credentials", "passwords of git remotes"),  # git-credential-store(1)
    (".config/git/credentials", "passwords of git remotes"),
    (".config/gh", "GitHub credentials"),
    (".npmrc", "npm credentials"),
    (".pypirc", "Python package credentials"),
    (".cargo/credentials*", "Cargo credentials"),
    (".password-store", "passwords"),  # pass(1)
    (".local/share/keyrings", "passwords"),
    (".mozilla", "a browser's passwords and sessions"),
    (".thunderbird", "mail and its passwords"),
    (".config/google-chrome", "a browser's passwords and sessions"),
    (".config/chromium", "a browser's passwords and sessions"),
    (".vault-token", "a Vault token"),
    (".pgpass", "database passwords"),  # libpq
    (".my.cnf", "database passwords"),
    (".*_history", "what was typed"),
)
_SECRET_NAMES: Final = (
    "id_rsa*",
    "id_ed25519*",
    "id_ecdsa*",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.kdbx",
    ".env",
    ".env.*",
)
_SYSTEM_SECRETS: Final = (
    "/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/sudoers", "/etc/sudoers.d",
    "/etc/ssl/private",
    "/etc/ssh/ssh_host_*_key", "/etc/krb5.keytab", "/etc/wireguard", "/etc/NetworkManager/system-connections",
)  # fmt: skip
_CACHES: Final = (".cache", ".npm/_cacache", ".cargo/registry", ".m2/repository", ".gradle/caches", ".ccache")
_CACHE_NAMES: Final = frozenset({"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache"})
_VARIABLES: Final = (
    "*TOKEN*",
    "*SECRET*",
    "*PASSW*",
    "*CREDENTIAL*",
    "*API_KEY*",
    "*APIKEY*",
    "*PRIVATE_KEY*",
    "AWS_*",
    "*_KEY",
)

# (pattern, what it speaks for). The first that fits counts.
_SOCKETS: Final = (
    (
        "*/docker.sock",
        "Docker: whoever speaks to it is root on this machine",
    ),  # docs.docker.com, "Docker daemon attack surface"
    ("*/podman.sock", "Podman: containers with all that you can reach"),
    ("*/containerd.sock", "containerd: whoever speaks to it is root on this machine"),
    ("*/lxd/unix.socket", "LXD: whoever speaks to it is root on this machine"),
    ("*/libvirt-sock*", "libvirt: starts virtual machines with this machine's disks"),
    ("/run/dbus/system_bus_socket", "the system D-Bus: what its services do for you"),
    ("/var/run/dbus/system_bus_socket", "the system D-Bus: what its services do for you"),
    ("/run/user/*/bus", "your D-Bus: starts programs outside, reads your keyring"),
    ("/run/user/*/systemd/private", "your service manager: starts programs outside"),
    ("/run/systemd/private", "the service manager: starts programs outside"),
    ("/run/user/*/gnupg/S.gpg-agent*", "gpg-agent: signs and decrypts with your keys"),
    ("*/.gnupg/S.gpg-agent*", "gpg-agent: signs and decrypts with your keys"),
    ("*/ssh-*/agent.*", "ssh-agent: signs with your keys"),  # ssh-agent(1)
    ("/run/user/*/keyring/ssh", "ssh-agent: signs with your keys"),
    ("/run/user/*/keyring*", "your keyring"),
    ("/tmp/.X11-unix*", "the X server: sees and types into every window"),  # noqa: S108 - a pattern
    ("/run/user/*/wayland-*", "the Wayland compositor: the screen's clipboard"),
    ("/run/user/*/pulse*", "the sound server: hears the microphone"),
    ("/run/user/*/pipewire-*", "PipeWire: hears the microphone, sees the screen"),
)
SPEAKING_VARIABLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "SSH_AUTH_SOCK": "ssh-agent: signs with your keys",
        "DBUS_SESSION_BUS_ADDRESS": "your D-Bus: starts programs outside, reads your keyring",
        "DOCKER_HOST": "Docker: whoever speaks to it is root on this machine",
    }
)
_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt")
TEMPORARY: Final = ("/tmp", "/var/tmp")  # noqa: S108 - names in a view
NEVER_WHOLE: Final = frozenset(
    {"/", "/etc", "/var", "/var/lib", "/run", "/run/user", "/home", "/root", "/mnt", "/media", "/srv", "/dev", "/proc",
     "/sys", "/boot", "/var/run", "/var/cache", "/var/log", "/var/spool", *TEMPORARY}
)  # fmt: skip
MANY: Final = 3
"""From so many paths in one folder on, the folder is meant."""


def secret(path: str, home: str) -> str:
    """Return what secret a path is or holds, "" for none that is known."""
    inside = below(path, home)
    for pattern, what in _SECRETS:
        if inside is not None and (fnmatch.fnmatch(inside, pattern) or fnmatch.fnmatch(inside, f"{pattern}/*")):
            return what
    if any(fnmatch.fnmatch(path, pattern) or path.startswith(pattern + "/") for pattern in _SYSTEM_SECRETS):
        return "a secret of the system"
    name = posixpath.basename(path)
    public = name.endswith(".pub") or is_system(path) or path.startswith("/etc/ssl/certs")
    if not public and any(fnmatch.fnmatch(name, pattern) for pattern in _SECRET_NAMES):
        return "a key, by its name"
    return ""


def cache(path: str, home: str) -> str | None:
    """Return the cache folder that a path is or lies in; None if it does in none that is known."""
    inside = below(path, home)
    for folder in _CACHES if inside is not None else ():
        rest = below(path, posixpath.join(home, folder))
        if rest is not None:
            # ~/.cache itself is many programs'.
            own = rest.split("/")[0] if folder == ".cache" else ""
            return posixpath.join(home, folder, own).rstrip("/")
    parts = path.split("/")
    for index, part in enumerate(parts):
        if part in _CACHE_NAMES:
            return "/".join(parts[: index + 1])
    return None


def is_secret_variable(name: str) -> bool:
    """Tell whether a variable is a secret, by its name."""
    return any(fnmatch.fnmatchcase(name.upper(), pattern) for pattern in _VARIABLES)


def speaks_for(path: str) -> str:
    """Return whom a socket at that path speaks for or to, "" for none that is known."""
    return next((what for pattern, what in _SOCKETS if fnmatch.fnmatch(path, pattern)), "")


def sockets_in(folder: str, found: Iterable[str]) -> list[str]:
    """Return those of `found` that lie in a folder and speak for the user."""
    return [path for path in found if below(path, folder) is not None and speaks_for(path)]


def is_system(path: str) -> bool:
    """Tell whether a path is the system's own programs and their data, which everybody may read."""
    return any(below(path, folder) is not None for folder in _SYSTEM)


def is_whole_home(path: str, home: str) -> bool:
    """Tell whether a path is the home folder, or one that holds it."""
    return home not in ("", "/") and below(home, path) is not None


def below(path: str, folder: str) -> str | None:
    """Return a path as seen from a folder, "" for the folder itself; None if it does not lie there."""
    if path == folder:
        return ""
    start = folder.rstrip("/") + "/"
    return path[len(start) :] if path.startswith(start) else None


def shortened(path: str, home: str, cwd: str) -> str:
    """Return a path as a profile writes it: from `{cwd}` or `{home}` where it lies there."""
    for folder, name in ((cwd, "{cwd}"), (home, "{home}")):
        if name == "{cwd}" and is_whole_home(folder, home):
            continue  # {cwd} is refused there
        rest = below(path, folder) if folder not in ("", "/") else None
        if rest is not None:
            return f"{name}/{rest}" if rest else name
    return path


def holds_secret(folder: str, home: str) -> bool:
    """Tell whether one of the places in which secrets are known to lie is below a folder."""
    inside = [posixpath.join(home, pattern) for pattern, _ in _SECRETS] if home not in ("", "/") else []
    return any(below(path, folder) for path in (*inside, *_SYSTEM_SECRETS))


def may_be_whole(folder: str, home: str, cwd: str) -> bool:
    """Tell whether a folder may be shown for some paths that lie in it: none that holds others' things, or secrets."""
    if folder in NEVER_WHOLE or is_whole_home(folder, home):
        return False
    if cwd and below(cwd, folder):
        return False  # what lies beside a project is none of its business
    return not secret(folder, home) and not holds_secret(folder, home)

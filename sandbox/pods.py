"""A profile as a Kubernetes pod, and as a policy for its network.

Pure. Source: the Kubernetes API reference, v1 Pod (PodSpec, SecurityContext, Container) and networking.k8s.io/v1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, Final

from sandbox import landlock, walls
from sandbox.caller import Caller
from sandbox.exports import Export, Start, lost_of_descriptors, lost_of_filter, lost_of_network, lost_of_process
from sandbox.filesystem import Kind, Rights, entries
from sandbox.limits import Limits
from sandbox.plan import Namespace
from sandbox.profile import NetworkMode, Profile

NOBODY: Final = 65534
TMPFS_SIZE: Final = "64Mi"
# Of these a pod has none; a node may have its own for all pods.
_NOBODY_S_LIMITS: Final = ("processes", "open_files", "file_size", "cpu_time", "core_size", "output")


def kubernetes(profile: Profile, start: Start, caller: Caller) -> Export:
    """Return a list of what `kubectl apply` takes. profile: as for_caller() returns it.

    The filter is a file on the node, which this names.
    """
    name = re.sub("[^a-z0-9]+", "-", profile.name.lower()).strip("-") or "sandbox"
    labels = {"sandbox-profile": name}
    spec = _pod(profile, start, _volumes(profile, caller))
    spec["securityContext"]["seccompProfile"] = {"type": "Localhost", "localhostProfile": f"sandbox/{name}.json"}
    metadata = {"name": name, "labels": labels}
    items: list[dict[str, Any]] = [{"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}]
    if profile.network.mode in (NetworkMode.NONE, NetworkMode.LOOPBACK):
        closed = {"podSelector": {"matchLabels": labels}, "policyTypes": ["Ingress", "Egress"]}
        policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name}}
        items.append({**policy, "spec": closed})
    return Export({"apiVersion": "v1", "kind": "List", "items": items}, tuple(_lost(profile, start, caller)))


def _pod(profile: Profile, start: Start, volumes: list[str]) -> dict[str, Any]:
    own, (uid, gid) = walls.own_namespaces(profile), _ids(start)
    started: dict[str, Any] = {
        "name": "command",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "env": [{"name": name, "value": _literal(text)} for name, text in start.environ.items()],
        "resources": {"limits": _resources(profile.limits)},
        "volumeMounts": [{"name": f"tmpfs-{number}", "mountPath": path} for number, path in enumerate(volumes)],
    }
    if start.command:
        started["command"] = [_literal(word) for word in start.command]
    if profile.process.chdir:
        started["workingDir"] = start.folder
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        **_shared(profile),
        "hostUsers": not _has_users(profile),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": uid,
            "runAsGroup": gid,
        },
        "containers": [started],
        "volumes": [
            {"name": f"tmpfs-{number}", "emptyDir": {"medium": "Memory", "sizeLimit": TMPFS_SIZE}}
            for number, _ in enumerate(volumes)
        ],
    }
    if Namespace.UTS in own:
        spec["hostname"] = profile.process.hostname
    if profile.limits.timeout is not None:
        spec["activeDeadlineSeconds"] = math.ceil(profile.limits.timeout / 1000)
    return spec


def _shared(profile: Profile) -> dict[str, bool]:
    own = walls.own_namespaces(profile)
    return {
        "hostNetwork": profile.network.mode is NetworkMode.HOST,
        "hostPID": Namespace.PID not in own,
        "hostIPC": Namespace.IPC not in own,
    }


def _has_users(profile: Profile) -> bool:
    """Tell whether the pod has users of its own, which Kubernetes takes beside no namespace of the node's."""
    return Namespace.USER in walls.own_namespaces(profile) and not any(_shared(profile).values())


def _ids(start: Start) -> tuple[int, int]:
    return start.ids if start.ids[0] else (NOBODY, NOBODY)


def _literal(text: str) -> str:
    """Return a text in which the kubelet replaces no $(NAME)."""
    return text.replace("$(", "$$(")


def _resources(limits: Limits) -> dict[str, str]:
    found = {} if limits.memory is None else {"memory": str(limits.memory)}
    return found if limits.cpu is None else found | {"cpu": f"{round(limits.cpu * 1000)}m"}


def _volumes(profile: Profile, caller: Caller) -> list[str]:
    return [
        entry.path
        for entry in entries(profile.filesystem)
        if entry.kind is Kind.TMPFS and not _is_ours(entry.path, caller)
    ]


def _is_ours(path: str, caller: Caller) -> bool:
    """Tell whether a path is this host's user's, and so means nothing in an image."""
    return any(f"{path}/".startswith(f"{folder}/") for folder in (caller.home, caller.runtime_dir))


def _lost(profile: Profile, start: Start, caller: Caller) -> Iterator[str]:
    yield "image: name one; its files are what is shown, and their rights are its own"
    yield from lost_of_filter(profile)
    yield from lost_of_descriptors(profile)
    yield from _lost_of_files(profile, caller)
    yield from lost_of_network(profile.network)
    if profile.network.mode in (NetworkMode.NONE, NetworkMode.LOOPBACK):
        held = "a policy, which the cluster's network has to hold; the pod has an address and a loopback"
        yield f"network {profile.network.mode}: {held}"
    for name in _NOBODY_S_LIMITS:
        if getattr(profile.limits, name) is not None:
            yield f"limits.{name}: no pod's; processes are the node's (podPidsLimit)"
    if _has_users(profile):
        yield "namespaces.user: hostUsers takes Kubernetes 1.30 or newer and a node that can; without, it is the node's"
    elif Namespace.USER in walls.own_namespaces(profile):
        yield "namespaces.user: a pod with a namespace of the node has none"
    if not start.ids[0]:
        yield f"user: root is {NOBODY} there"
    yield "umask, priority: the node's and the image's"
    yield "environment.keep: the variables of the image and the pod are all there"
    yield from lost_of_process(profile)


def _lost_of_files(profile: Profile, caller: Caller) -> Iterator[str]:
    for entry in entries(profile.filesystem):
        if entry.kind is Kind.BIND and Rights.WRITE in entry.rights:
            yield f"filesystem.write {entry.path}: give it a volume"
        elif entry.kind is Kind.COPY:
            yield f"filesystem.private {entry.path}: the image's, read-only"
        elif entry.kind is Kind.TMPFS and _is_ours(entry.path, caller):
            yield f"filesystem.tmpfs {entry.path}: this host's user's, and so left out"
    if any(entry.kind is Kind.HIDE for entry in entries(profile.filesystem)):
        yield "filesystem.hide: leave it out of the image"
    if landlock.governs_files(profile.filesystem) and profile.landlock.files:
        yield "landlock: files are held by the image's mount alone"

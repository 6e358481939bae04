"""Manifests, the document's and those that are exported, are what Kubernetes takes: held against its own schemas."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from tests.conftest import ROOT

SANDBOX: Final = (sys.executable, "-P", "-m", "sandbox")
# The oldest in which a pod's hostUsers is more than an experiment, and the newest whose schemas are known.
VERSIONS: Final = ("1.30", kubernetes_validate.latest_version())


def invalid(manifest: Any) -> list[str]:  # noqa: ANN401
    found = []
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(f"{version}: {error.message}")
    return found


def exported(*arguments: str) -> tuple[list[Any], str]:
    words = [*SANDBOX, "export", "--kubernetes", *arguments]
    done = subprocess.run(words, cwd="/usr", capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)["items"], done.stderr


def test_manifests_are_what_kubernetes_takes() -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "docs" / "fleet.md").read_text(), re.MULTILINE | re.DOTALL)
    manifests = [made for block in blocks for made in yaml.safe_load_all(block)]
    assert [made["kind"] for made in manifests] == ["DaemonSet", "Job", "NetworkPolicy"]
    for made in manifests:
        assert invalid(made) == []
    job = manifests[1]
    job["spec"]["template"]["spec"]["securityContext"]["seccompProfil"] = {}
    assert len(invalid(job)) == len(VERSIONS)


@pytest.mark.parametrize("profile", ["untrusted", "sealed", "nested", "reader", "builder", "client", "server", "nginx"])
def test_exported_pods_are_what_kubernetes_takes(profile: str) -> None:
    items, lost = exported("--limit", "memory=1G", "--limit", "cpu=0.5", profile, "--", "true")
    for item in items:
        assert invalid(item) == []
    assert "not expressed: image" in lost
    assert ("exec gate" in lost) or ('exec = "once"' in lost)


def test_exported_pod_has_what_the_profile_says() -> None:
    limits = ("--limit", "memory=1G", "--limit", "cpu=0.5", "--timeout", "1500ms", "--limit", "open_files=64")
    (pod, policy), lost = exported(*limits, "untrusted", "--", "sh", "-c", "echo $(id)")
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    assert spec["securityContext"]["seccompProfile"]["localhostProfile"] == "sandbox/untrusted.json"
    assert spec["securityContext"]["runAsUser"] == (os.geteuid() or 65534)
    assert spec["activeDeadlineSeconds"] == 2
    assert not any(spec[name] for name in ("hostNetwork", "hostPID", "hostIPC", "hostUsers"))
    assert container["resources"]["limits"] == {"memory": str(1 << 30), "cpu": "500m"}
    assert container["command"] == ["sh", "-c", "echo $$(id)"]  # which the kubelet would replace
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/tmp", "/var/tmp"}
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "limits.open_files: no pod's" in lost
    assert "network none: a policy" in lost


def test_exported_pod_says_what_it_has_no_words_for() -> None:
    (pod,), lost = exported(
        "--net", "host", "--share", "uts", "--write", "/usr/share", "--private", "/usr/lib",
        "--grant", "x=file:/etc/hosts", "untrusted",
    )  # fmt: skip
    assert pod["spec"]["hostNetwork"]
    assert pod["spec"]["hostUsers"]  # with the former, nothing else is taken
    assert "namespaces.user: a pod with a namespace of the node has none" in lost
    assert "hostname" not in pod["spec"]
    assert "command" not in pod["spec"]["containers"][0]
    for words in ("filesystem.write /usr/share: ", "filesystem.private /usr/lib: ", "grant x: ", "filesystem.hide: "):
        assert f"not expressed: {words}" in lost
    assert "a policy" not in lost

"""The manifests of contrib/kubernetes: what the official schemas say of them, and that they fit the program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from mopsjobs.cli.commands.report.serve import DEFAULT_PORT
from mopsjobs.cli.parser import build_parser
from mopsjobs.utils.hosts import LOOPBACK_NAMES, is_loopback
from mopsjobs.web.api.api import HEALTH

ROOT = Path(__file__).resolve().parents[2]
SERVE = ROOT / "contrib" / "kubernetes" / "serve.yaml"
KINDS = ("ServiceAccount", "Deployment", "Service", "NetworkPolicy")
NAME = {"app.kubernetes.io/name": "mops-jobs-serve"}


@pytest.fixture(name="objects", scope="module")
def _objects() -> dict[str, dict[str, Any]]:
    """Return the objects by their kinds."""
    return {one["kind"]: one for one in yaml.safe_load_all(SERVE.read_text(encoding="utf-8"))}


@pytest.fixture(name="pod")
def _pod(objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    pod: dict[str, Any] = objects["Deployment"]["spec"]["template"]["spec"]
    return pod


@pytest.mark.parametrize("version", ["1.29", kubernetes_validate.latest_version()])
def test_the_official_schemas_take_them(objects: dict[str, dict[str, Any]], version: str) -> None:
    """Strictly: no field that Kubernetes does not know."""
    assert tuple(objects) == KINDS
    for one in objects.values():
        kubernetes_validate.validate(one, version, strict=True)


def test_selectors_find_the_pod(objects: dict[str, dict[str, Any]]) -> None:
    """Those of the Deployment, the Service and the policy of the network."""
    assert objects["Deployment"]["spec"]["template"]["metadata"]["labels"].items() >= NAME.items()
    assert objects["Deployment"]["spec"]["selector"]["matchLabels"] == NAME
    assert objects["Service"]["spec"]["selector"] == NAME
    assert objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == NAME
    assert objects["ServiceAccount"]["metadata"]["name"] == "mops-jobs-serve"


def test_the_program_takes_the_arguments(objects: dict[str, dict[str, Any]], pod: dict[str, Any]) -> None:
    """It listens where the probes and the Service look, and answers the name that the probes send."""
    (container,) = pod["containers"]
    args = build_parser().parse_args(container["args"])
    assert (args.command, args.port, args.offline) == ("serve", DEFAULT_PORT, False)
    assert not is_loopback(args.host)
    assert objects["Service"]["metadata"]["name"] in args.allow_host
    assert container["ports"] == [{"name": "http", "containerPort": DEFAULT_PORT}]
    probe = container["readinessProbe"]["httpGet"]
    assert (probe["path"], probe["port"]) == (HEALTH, "http")
    assert [one["value"] in LOOPBACK_NAMES for one in probe["httpHeaders"]] == [True]


def test_the_pod_has_as_few_rights_as_it_needs(objects: dict[str, dict[str, Any]], pod: dict[str, Any]) -> None:
    """No root, no capabilities, no token of the cluster, a file system to read, and no Secret; policies both ways."""
    (container,) = pod["containers"]
    assert (pod["securityContext"]["runAsNonRoot"], pod["automountServiceAccountToken"]) == (True, False)
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "envFrom" not in container
    assert not [one for one in container["env"] if "valueFrom" in one]
    mounts = {one["mountPath"] for one in container["volumeMounts"]}
    assert mounts == {"/data", "/tmp"}
    env = {one["name"]: one["value"] for one in container["env"]}
    assert all(env[name].startswith(tuple(mounts)) for name in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "TMPDIR"))
    assert set(objects["NetworkPolicy"]["spec"]["policyTypes"]) == {"Ingress", "Egress"}

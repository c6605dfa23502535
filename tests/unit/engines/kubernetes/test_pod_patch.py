"""A patch of the pods: how it is merged, and what it may not change."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines.kubernetes.pod_patch import MAX_PATCH_BYTES, patch_template, read_pod_patch
from mopsjobs.errors import OptionError

RUNNER: dict[str, Any] = {
    "name": "runner",
    "image": "i:1",
    "command": ["mops-jobs"],
    "args": ["run", "seir-1"],
    "env": [{"name": "A", "value": "1"}],
    "envFrom": [{"secretRef": {"name": "keys"}}],
    "resources": {"limits": {"cpu": "1"}},
    "securityContext": {"capabilities": {"drop": ["ALL"]}},
}
TEMPLATE: dict[str, Any] = {
    "metadata": {"labels": {"mops-jobs/job-id": "seir-1"}, "annotations": {"mops-jobs/job-id": "seir-1"}},
    "spec": {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 60,
        "securityContext": {"runAsNonRoot": True},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "containers": [RUNNER],
    },
}


def _runner(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "runner", **fields}]}}


def test_a_patch_is_merged_as_kubectl_merges_it() -> None:
    """Objects and named items are merged, null removes, and other lists are replaced. The template stays as it was."""
    before = copy.deepcopy(TEMPLATE)
    sidecar = {"name": "proxy", "image": "p:1", "env": [{"name": "X", "value": None}]}
    patch = {
        "metadata": {"labels": {"team": "a"}},
        "spec": {
            "hostNetwork": True,
            "terminationGracePeriodSeconds": 300,
            "securityContext": {"runAsNonRoot": None, "runAsUser": 1000},
            "containers": [{"name": "runner", "env": [{"name": "B", "value": "2"}], "workingDir": "/work"}, sidecar],
        },
    }
    made = patch_template(TEMPLATE, patch)
    assert made["metadata"]["labels"] == {"mops-jobs/job-id": "seir-1", "team": "a"}
    assert made["spec"]["securityContext"] == {"runAsUser": 1000}
    assert (made["spec"]["hostNetwork"], made["spec"]["terminationGracePeriodSeconds"]) == (True, 300)
    runner, proxy = made["spec"]["containers"]
    assert runner == {
        **RUNNER,
        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
        "workingDir": "/work",
    }
    assert proxy == {"name": "proxy", "image": "p:1", "env": [{"name": "X"}]}
    assert before == TEMPLATE


@pytest.mark.parametrize(
    ("patch", "path"),
    [
        (_runner(command=["sh"]), "spec.containers[runner].command"),
        (_runner(image=None), "spec.containers[runner].image"),
        (_runner(env=[{"name": "A", "value": "2"}]), "spec.containers[runner].env[A].value"),
        (_runner(envFrom=[{"secretRef": {"name": "others"}}]), "spec.containers[runner].envFrom[0].secretRef.name"),
        (_runner(resources={"limits": {"cpu": "2"}}), "spec.containers[runner].resources.limits.cpu"),
        ({"metadata": {"labels": {"mops-jobs/job-id": "other"}}}, "metadata.labels.mops-jobs/job-id"),
        ({"spec": {"tolerations": [{"key": "b", "operator": "Exists"}]}}, "spec.tolerations[0].key"),
        ({"spec": {"containers": None}}, "spec.containers"),
    ],
)
def test_what_mops_jobs_sets_stays(patch: dict[str, Any], path: str) -> None:
    """Also if the patch removes it, or what it is in."""
    with pytest.raises(OptionError) as caught:
        patch_template(TEMPLATE, patch)
    assert str(caught.value) == f"invalid pod_patch: expected no change of {path}, which mops-jobs sets."
    assert caught.value.fields == ("pod_patch",)


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ({"spec": {"nodeSelectr": {"a": "b"}}}, "fields of a pod, not spec.nodeSelectr"),
        (_runner(volumeMount=[{"name": "a"}]), "fields of a pod, not spec.containers[runner].volumeMount"),
        ({"spec": {"volumes": "data"}}, "the fields of a pod, each with a value of its type"),
        ({"spec": {"containers": [{"image": "x"}]}}, "the field name in each item of spec.containers"),
        (_runner(**{"$patch": "delete"}), "no directive such as spec.containers.$patch; null removes a field"),
        ({"metadata": {"name": "x"}}, "labels and annotations in metadata"),
    ],
)
def test_an_unknown_or_misplaced_field_is_named(patch: dict[str, Any], expected: str) -> None:
    """A cluster would drop it, and say nothing."""
    with pytest.raises(OptionError) as caught:
        patch_template(TEMPLATE, patch)
    assert str(caught.value) == f"invalid pod_patch: expected {expected}."


def test_a_patch_is_read_from_yaml_or_json(tmp_path: Path) -> None:
    path = tmp_path / "patch"
    for text in ("spec:\n  hostNetwork: true\n", '{"spec": {"hostNetwork": true}}'):
        path.write_text(text)
        assert json.loads(read_pod_patch(str(path))) == {"spec": {"hostNetwork": True}}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, r"a file that can be read, not '.*patch' \(No such file or directory\)"),
        ("spec: [", r"YAML or JSON in '.*', which is not YAML .*"),
        ("template: {spec: {}}", "metadata, spec or both of a pod in '.*'"),
        ("spec: {a: .inf}", "values of JSON in '.*', no dates and no infinite numbers"),
        ("#" * (MAX_PATCH_BYTES + 1), "at most 65,536 bytes in '.*'"),
    ],
)
def test_a_file_that_is_not_a_patch_is_refused(tmp_path: Path, content: str | None, expected: str) -> None:
    path = tmp_path / "patch"
    if content is not None:
        path.write_text(content)
    with pytest.raises(OptionError, match=rf"^invalid pod_patch: expected {expected}\.$"):
        read_pod_patch(str(path))

"""The manifest of a Kubernetes Job: what the official schemas say of it, its name, and its options one by one."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopsjobs.engines.base import Launch
from mopsjobs.engines.kubernetes.manifest import MAX_NAME_LENGTH, build_manifest, complete_launch, job_name, label_value
from mopsjobs.engines.kubernetes.pod_patch import MAX_PATCH_BYTES, differences, patch_template, read_pod_patch
from mopsjobs.errors import OptionError, UsageError

JOB_IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,127}", fullmatch=True)
PATCH = {
    "metadata": {"labels": {"team": "a"}},
    "spec": {
        "imagePullSecrets": [{"name": "pull"}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "inputs"}}],
        "containers": [
            {
                "name": "runner",
                "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": True}],
                "env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "a"}}}],
                "securityContext": {"readOnlyRootFilesystem": True},
            }
        ],
    },
}
KUBERNETES_VERSIONS = ("1.29", "1.31", kubernetes_validate.latest_version())
EVERYTHING = {
    "image": "registry.example/mops-jobs:1",
    "namespace": "models",
    "parallelism": "3",
    "backoff_limit": "0",
    "ttl": "60s",
    "gpus": "2",
    "queue": "team-a",
    "priority_class": "batch-low",
    "node_selector": "pool=gpu,kubernetes.io/arch=amd64",
    "toleration": "sku=gpu:NoSchedule,nvidia.com/gpu,spot=true",
    "pod_patch": json.dumps(PATCH),
    "cpu": "2500m",
    "memory": "4Gi",
    "secret": "registry-credentials",
    "service_account": "simulations",
    "context": "aks-test",
}


def _launch(job_id: str = "seir-1", **changes: Any) -> Launch:
    return Launch(**{"job_id": job_id, "registry_url": "azure://job-registry", **changes})


def _manifest(launch: Launch | None = None, **options: str) -> dict[str, Any]:
    made = launch or _launch(options={"image": "mops-jobs:1", **options})
    return build_manifest(made, namespace="models", launch_id="0123456789abcdef", env={})


def _container(manifest: dict[str, Any]) -> dict[str, Any]:
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    return dict(container)


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("options", [{"image": "mops-jobs:1"}, EVERYTHING], ids=["least", "everything"])
def test_the_official_schemas_take_it(version: str, options: dict[str, str]) -> None:
    """Strictly: no field that Kubernetes does not know."""
    launch = _launch(shards=7, workers=2, python="/venv/bin/python", task_timeout=90.5, env={"A": "b"}, options=options)
    kubernetes_validate.validate(_manifest(launch), version, strict=True)


@pytest.mark.parametrize(
    ("changes", "options", "memory"),
    [
        ({"task_memory": 2**30, "workers": 1}, {}, "1280Mi"),
        ({"task_memory": 2**30, "workers": 2, "retries": 2, "retry_on": "died,oom"}, {}, "5376Mi"),
        ({"task_memory": 2**30, "workers": 2, "retries": 2, "retry_on": "died"}, {}, "2304Mi"),
        ({"task_memory": 2**30, "workers": 2}, {"memory": "8Gi"}, "8Gi"),
    ],
)
def test_a_pod_has_the_memory_that_its_tasks_may_have(
    changes: dict[str, Any], options: dict[str, str], memory: str
) -> None:
    """One of them at its last, doubled limit, and the runner. The runner in the pod enforces the limit of each."""
    container = _container(_manifest(_launch(options={"image": "i", **options}, **changes)))
    assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"] == memory
    words = container["args"]
    assert words[words.index("--task-memory") + 1] == "1GiB"
    assert ("--retry-on" in words) == ("retry_on" in changes)


def test_an_evicted_pod_is_no_failure_of_its_shard() -> None:
    """A runner that was called wrongly, or whose job has ended, ends the Job."""
    evicted, final = _manifest()["spec"]["podFailurePolicy"]["rules"]
    assert evicted == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    codes = {"containerName": "runner", "operator": "In", "values": [2, 6]}
    assert final == {"action": "FailJob", "onExitCodes": codes}


def test_the_runner_is_told_everything() -> None:
    launch = _launch(
        shards=2,
        workers=3,
        python="/venv/bin/python",
        task_timeout=90.5,
        first=0,
        max_failures="10%",
        max_cpu_hours=50.0,
        env={"B": "2", "A": "1"},
        options={name: value for name, value in EVERYTHING.items() if name != "pod_patch"},
    )
    container = _container(_manifest(launch))
    assert container["command"] == ["mops-jobs"]
    assert " ".join(container["args"]) == (
        "run seir-1 --registry azure://job-registry --shards 2 --echo --workers 3"
        " --python /venv/bin/python --task-timeout 90.5s --first 0 --max-failures 10% --max-cpu-hours 50"
    )
    assert container["env"] == [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
    assert container["envFrom"] == [{"secretRef": {"name": "registry-credentials"}}]


@pytest.mark.parametrize(("cpu", "workers"), [(None, "1"), ("4", "4"), ("2500m", "2"), ("0.5", "1"), ("3.9", "3")])
def test_the_default_number_of_workers_is_that_of_requested_cores(cpu: str | None, workers: str) -> None:
    """A process in a container finds the cores of the node, and would start a worker for each."""
    arguments = _container(_manifest(**({} if cpu is None else {"cpu": cpu})))["args"]
    assert arguments[arguments.index("--workers") + 1] == workers


@pytest.mark.claim("Pods have no token, no root and no capabilities")
def test_it_runs_as_nobody_in_particular() -> None:
    pod = _manifest()["spec"]["template"]["spec"]
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert pod["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False


@pytest.mark.claim("Pods sign in by workload identity")
def test_a_service_account_switches_workload_identity_on() -> None:
    template = _manifest(service_account="simulations")["spec"]["template"]
    assert template["spec"]["serviceAccountName"] == "simulations"
    assert template["metadata"]["labels"]["azure.workload.identity/use"] == "true"
    without = _manifest()["spec"]["template"]
    assert "serviceAccountName" not in without["spec"]
    assert "azure.workload.identity/use" not in without["metadata"]["labels"]


def test_labels_find_it_and_an_annotation_has_the_whole_id() -> None:
    job_id = "A" * 70 + "+b"
    manifest = _manifest(_launch(job_id, options={"image": "i"}))
    for metadata in (manifest["metadata"], manifest["spec"]["template"]["metadata"]):
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "mops-jobs"
        assert metadata["labels"]["mops-jobs/job-id"] == "A" * 63
        assert metadata["annotations"]["mops-jobs/job-id"] == job_id


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image", ""),
        ("parallelism", "0"),
        ("ttl", "70000d"),
        ("gpus", "0"),
        ("queue", "a" * 64),
        ("priority_class", "High"),
        ("node_selector", "pool"),
        ("node_selector", "Example.com/pool=a"),
        ("toleration", "sku=gpu:Never"),
        ("cpu", "0"),
        ("memory", "4 GB"),
        ("secret", "My_Secret"),
        ("service_account", "-x"),
    ],
)
def test_an_invalid_option_is_named(name: str, value: str) -> None:
    """The error has the field, so that the command can name its flag."""
    with pytest.raises(OptionError, match=rf"(invalid|missing) {name}\b.*: expected ") as caught:
        _manifest(**{name: value})
    assert caught.value.fields == (name,)


def test_selectors_and_tolerations_come_from_texts() -> None:
    """The value of a label and that of a taint may be empty; a toleration without `=` is for any value."""
    spec = _manifest(node_selector="pool=gpu,zone=", toleration="sku=gpu:NoSchedule,spot,a.b/c=:NoExecute")
    pod = spec["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"pool": "gpu", "zone": ""}
    assert pod["tolerations"] == [
        {"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"},
        {"key": "spot", "operator": "Exists"},
        {"key": "a.b/c", "operator": "Equal", "value": "", "effect": "NoExecute"},
    ]
    assert _container(_manifest(gpus="2"))["resources"]["limits"] == {"cpu": "1", "nvidia.com/gpu": "2"}


def test_a_job_of_a_queue_begins_suspended() -> None:
    """Kueue starts it. The label is on the Job alone: pods with it would be in the queue themselves."""
    made = _manifest(queue="team-a", ttl="1h")
    assert (made["spec"]["suspend"], made["spec"]["ttlSecondsAfterFinished"]) == (True, 3600)
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert "kueue.x-k8s.io/queue-name" not in made["spec"]["template"]["metadata"]["labels"]
    assert "suspend" not in _manifest()["spec"]


def test_the_environment_completes_a_launch() -> None:
    """The record then names image, namespace and context before the launch. Options come first."""
    env = {"MOPS_JOBS_IMAGE": "from-env:1", "MOPS_JOBS_KUBE_CONTEXT": "aks"}
    made = complete_launch(_launch(options={"cpu": "2"}), "models", env)
    assert made.options == {"cpu": "2", "image": "from-env:1", "namespace": "models", "context": "aks"}
    named = {"image": "named:1", "namespace": "others", "context": "prod"}
    assert complete_launch(_launch(options=named), "models", env).options == named
    with pytest.raises(OptionError, match="invalid cpu"):
        complete_launch(_launch(options={"cpu": "x"}), None, env)


@pytest.mark.parametrize(
    ("launch", "said"),
    [
        ({"registry_url": "sqlite:///registry.db"}, "is on this machine"),
        ({"shards": 0}, "shards"),
        ({"shards": 100_001}, "shards"),
    ],
)
def test_what_no_cluster_can_run_is_refused(launch: dict[str, Any], said: str) -> None:
    """Pods could not reach such a registry, and would wait for it for an hour."""
    with pytest.raises(UsageError, match=said):
        _manifest(_launch(options={"image": "i"}, **launch))


@given(JOB_IDS)
def test_every_job_id_gives_a_name_that_kubernetes_takes(job_id: str) -> None:
    """Also with an index of six digits behind it, as the host name of a pod."""
    name = job_name(job_id)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= MAX_NAME_LENGTH
    assert len(f"{name}-999999") <= 63
    assert name == (
        job_id if re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", job_id) and len(job_id) <= 56 else job_name(job_id)
    )
    assert re.fullmatch(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?", label_value(job_id))
    assert len(label_value(job_id)) <= 63
    kubernetes_validate.validate(_manifest(_launch(job_id, options={"image": "i"})), "1.31", strict=True)


def test_ids_that_look_alike_have_different_names() -> None:
    """Changed or shortened alike, a hash tells them apart."""
    ids = ["seir.1", "seir-1", "SEIR-1", "seir_1", "seir-1-", "seir--1", "x" * 57, "x" * 58]
    assert len({job_name(job_id) for job_id in ids}) == len(ids)


def test_marks_of_a_patch_are_those_of_the_job_too() -> None:
    """A policy of the cluster may want a label on each Job. Those of mops-jobs stay, and null adds none."""
    patch = {"metadata": {"labels": {"team": "a", "old": None}, "annotations": {"cost-centre": "7"}}}
    manifest = _manifest(queue="team-a", pod_patch=json.dumps(patch))
    plain = _manifest(queue="team-a")["metadata"]
    assert manifest["metadata"]["labels"] == {**plain["labels"], "team": "a"}
    assert manifest["metadata"]["annotations"] == {**plain["annotations"], "cost-centre": "7"}
    assert manifest["spec"]["template"]["metadata"]["labels"]["team"] == "a"


# --- A patch of the pods: how it is merged, and what it may not change -----------------------------------------------

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
        (_runner(env=[{"name": "A", "value": "2"}]), "spec.containers[runner].env[A].value"),
        (_runner(envFrom=[{"secretRef": {"name": "others"}}]), "spec.containers[runner].envFrom[0].secretRef.name"),
        ({"metadata": {"labels": {"mops-jobs/job-id": "other"}}}, "metadata.labels.mops-jobs/job-id"),
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


# --- Comparing what was sent with what came back ---------------------------------------------------------------------

SENT = {
    "limit": 3,
    "policy": {"rules": [{"action": "Ignore", "on": [{"type": "A"}]}]},
    "empty": [],
    "pods": [{"name": "r", "args": ["a"]}],
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"more": 1, "pods": [{"name": "proxy"}, {"name": "r", "args": ["a"], "tty": False}]}, []),
        ({"limit": 4}, [("limit", False)]),
        ({"limit": None}, [("limit", True)]),
        ({"policy": {"rules": []}}, [("policy.rules[0]", True)]),
        ({"pods": [{"name": "other"}]}, [("pods[r]", True)]),
    ],
)
def test_what_is_lacking_or_other_is_named(changes: dict[str, Any], expected: list[tuple[str, bool]]) -> None:
    """Further fields and items do not count, nor does the order of named items. An empty value may be left out."""
    found = {name: value for name, value in {**SENT, **changes}.items() if value is not None and name != "empty"}
    assert [tuple(one) for one in differences(SENT, found)] == expected


@pytest.mark.parametrize(
    ("sent", "found", "is_other"),
    [("0.5", "500m", False), ("1024Mi", "1Gi", False), ("2", 2, False), ("4Gi", "4G", True), ("2", "two", True)],
)
def test_a_quantity_is_compared_as_a_number(sent: str, found: object, *, is_other: bool) -> None:
    """An API server writes it in a form of its own. Another field is compared as a text."""
    paths = list(
        differences({"resources": {"cpu": sent}, "image": "a:1"}, {"resources": {"cpu": found}, "image": "a:1"}, "pod")
    )
    assert [one.path for one in paths] == (["pod.resources.cpu"] if is_other else [])
    assert list(differences({"version": "0.5"}, {"version": "500m"}, "pod"))

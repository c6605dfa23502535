"""Who has suspended a Job, and what it waits for, by an API server that answers as Kueue does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines.base import EngineState
from mopsjobs.engines.kubernetes.engine import KubernetesEngine
from mopsjobs.engines.kubernetes.suspension import VERSIONS
from support.kubernetes import Api, kubeconfig

RECORD = {"job_id": "seir-1", "k8s_name": "seir-1", "k8s_namespace": "models"}
WORKLOADS = "/apis/kueue.x-k8s.io/{}/namespaces/models/workloads"
PENDING = "/apis/visibility.kueue.x-k8s.io/{}/namespaces/models/localqueues/team-a/pendingworkloads"
DEACTIVATED = "its Workload is deactivated, and starts when someone activates it"
WAITS = "the Job waits in queue team-a of Kueue"


@pytest.fixture
def engine(api: Api, tmp_path: Path) -> KubernetesEngine:
    return KubernetesEngine({"KUBECONFIG": str(kubeconfig(tmp_path, api.url))})


def _put(api: Api, **metadata: Any) -> None:
    """Put a suspended Job."""
    own = {"name": "seir-1", "namespace": "models", "uid": "uid-1", "annotations": {"mops-jobs/job-id": "seir-1"}}
    job = {"metadata": {**own, **metadata}, "spec": {"template": {}, "suspend": True}, "status": {}}
    api.put("batch/v1/jobs", "seir-1", job)


def _workload(message: str, status: str = "False") -> dict[str, Any]:
    reserved = {"type": "QuotaReserved", "status": status, "reason": "Pending", "message": message}
    return {"metadata": {"name": "job-seir-1-ab"}, "status": {"conditions": [reserved]}}


def _checked(state: str, message: str = "") -> dict[str, Any]:
    """Return a Workload with a quota and an admission check."""
    workload = _workload("done", "True")
    workload["status"]["admissionChecks"] = [{"name": "x", "state": state, "message": message}]
    return workload


def test_the_program_that_has_suspended_a_job_is_named(engine: KubernetesEngine, api: Api) -> None:
    """The last one that set it, by the managed fields. Others set other fields."""
    _put(api)
    assert engine.state(RECORD)[:3] == ("pending", "Suspended", "the Job is suspended")
    fields = [
        {"manager": "controller", "fieldsV1": {"f:status": {}}},
        {"manager": "kubectl-edit", "fieldsV1": {"f:spec": {"f:parallelism": {}}}},
        {"manager": "kubectl-patch", "fieldsV1": {"f:spec": {"f:suspend": {}}}},
    ]
    _put(api, managedFields=fields)
    assert engine.state(RECORD).detail == "the Job is suspended by kubectl-patch"


def _answer(api: Api, path: str, payload: Any, *, status: int = 200, version: str = "v1beta2") -> str:
    """Give this answer, as a Kueue with one version of the API does. Return the path."""
    for one in VERSIONS:
        if one != version:
            api.answer(path.format(one), {"message": "the server could not find the requested resource"}, status=404)
    api.answer(path.format(version), payload, status=status)
    return path.format(version)


@pytest.mark.parametrize("version", VERSIONS)
def test_kueue_says_position_and_reason(engine: KubernetesEngine, api: Api, version: str) -> None:
    """The place counts from 1. Such a job is not stuck: it waits for its turn."""
    _put(api, labels={"kueue.x-k8s.io/queue-name": "team-a"})
    items = [_workload("insufficient quota for cpu,\n 2 more needed")]
    path = _answer(api, WORKLOADS, {"items": items}, version=version)
    others = [{"metadata": {"name": name}, "positionInLocalQueue": n} for n, name in enumerate(["x", "job-seir-1-ab"])]
    _answer(api, PENDING, {"items": others}, version=version)
    detail = f"{WAITS}, position 2 of 2: insufficient quota for cpu, 2 more needed"
    assert engine.state(RECORD) == EngineState("pending", "Suspended", detail)
    (request,) = api.requests("get", path)
    assert request.params["labelSelector"] == "kueue.x-k8s.io/job-uid=uid-1"


@pytest.mark.parametrize(
    ("workloads", "status", "expected"),
    [
        ({"message": "not found"}, 404, f"{WAITS}, which the cluster at URL does not have"),
        ({"items": []}, 200, f"{WAITS}, which does not know it"),
        ({"message": "forbidden"}, 403, WAITS),
        ({"items": [_workload("done", "True")]}, 200, WAITS),
        ({"items": [{"metadata": {"name": "x"}, "status": 7}]}, 200, WAITS),
        ({"items": [{**_workload("done"), "spec": {"active": False}}]}, 200, f"{WAITS}: {DEACTIVATED}"),
        (
            {"items": [_checked("Pending", "no\nnodes yet")]},
            200,
            f"{WAITS}: admission check x is Pending: no nodes yet",
        ),
        ({"items": [_checked("Ready")]}, 200, WAITS),
    ],
)
def test_what_kueue_does_not_tell_is_left_out(
    engine: KubernetesEngine, api: Api, workloads: Any, status: int, expected: str
) -> None:
    """No Kueue, no Workload yet, no permission to read one, or one of another form: the job is still suspended.

    What it tells is more than a quota: a Workload that nothing will start, and checks after the quota.
    """
    _put(api, labels={"kueue.x-k8s.io/queue-name": "team-a"})
    _answer(api, WORKLOADS, workloads, status=status)
    _answer(api, PENDING, {"message": "no such service"}, status=503)
    assert engine.state(RECORD)[:3] == ("pending", "Suspended", expected.replace("URL", api.url))

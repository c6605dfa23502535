"""The Kubernetes engine against an API server of another project: kmock's emulator, over HTTP, in a thread of its own.

kmock keeps objects and answers create, get, list and delete, 404 and 409 as Kubernetes does. What it does not know, a
controller and logs, is fed to it: pods with their status, and lines that come while they are read.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines.base import EngineState, Launch, RefusedError
from mopsjobs.engines.kubernetes import client as k8s_client
from mopsjobs.engines.kubernetes.engine import KubernetesEngine, kubectl_for
from mopsjobs.engines.kubernetes.manifest import preview_manifest
from mopsjobs.engines.trust import NotTrustedError, Trust
from mopsjobs.errors import EngineAccessError, EngineError, EnginePlaceError, EngineUnavailableError
from mopsjobs.utils.times import record_time
from support.cli import START, Clock
from support.kubernetes import EVENTS, JOBS, Api, kubeconfig, lines, log_path
from support.runs import PATIENCE
from support.stand_in import SERVICE

RECORD: dict[str, object] = {"job_id": "seir-1", "k8s_name": "seir-1", "k8s_namespace": "models", "k8s_uid": None}
LAUNCH = Launch(
    job_id="seir-1", registry_url="azure://job-registry", options={"image": "mops-jobs:1", "namespace": "models"}
)


def _condition(kind: str, reason: str = "", message: str = "", status: str = "True") -> dict[str, Any]:
    return {"conditions": [{"type": kind, "status": status, "reason": reason, "message": message}], "failed": 9}


@pytest.fixture
def env(tmp_path: Path, api: Api) -> dict[str, str]:
    """Return an environment with a kubeconfig for that server."""
    return {"KUBECONFIG": str(kubeconfig(tmp_path, api.url)), "HOME": str(tmp_path)}


@pytest.fixture
def engine(env: dict[str, str], clock: Clock) -> KubernetesEngine:
    return KubernetesEngine(env, now=clock.now, sleep=clock.sleep)


# --- launch -------------------------------------------------------------------------------------------------------


def test_a_launch_creates_one_job_and_says_how_to_see_it(engine: KubernetesEngine, api: Api) -> None:
    launched = engine.launch(LAUNCH)
    (request,) = api.requests("post", "/apis/batch/v1/namespaces/models/jobs")
    assert request.data["kind"] == "Job"
    assert request.data["spec"]["completionMode"] == "Indexed"
    assert request.headers["Authorization"] == "Bearer a-token"
    assert launched.show_command == "kubectl -n models get job seir-1"
    assert (launched.k8s_name, launched.k8s_namespace) == ("seir-1", "models")
    launched = engine.launch(Launch(job_id="a", registry_url="azure://x", options={"image": "i"}))
    assert launched.k8s_namespace == "from-kubeconfig"


def test_a_second_launch_of_a_job_starts_nothing(engine: KubernetesEngine, api: Api) -> None:
    """409, and the Job that is there is this job's."""
    engine.launch(LAUNCH)
    before = api.mock.objects[JOBS, "models", "seir-1"].raw
    with pytest.raises(EngineError, match="Job seir-1 is already launched; nothing was started") as raised:
        engine.launch(LAUNCH)
    assert raised.value.hint == "See it: kubectl -n models get job seir-1"
    assert raised.value.exit_code == 6
    assert api.mock.objects[JOBS, "models", "seir-1"].raw == before


def _apply(api: Api, launch: Launch, env: dict[str, str], **notes: str) -> None:
    """Create the printed Job by hand, as `kubectl apply` does."""
    job = preview_manifest(launch, env)
    job["metadata"] |= {"uid": "uid-1", "annotations": {**job["metadata"]["annotations"], **notes}}
    api.put(JOBS, "seir-1", {**job, "status": {"active": 1, "ready": 1}})


def test_a_job_that_was_applied_by_hand_is_that_of_the_launch(
    engine: KubernetesEngine, api: Api, env: dict[str, str]
) -> None:
    """It has the mark of its job, and none of a launch. What else is in it may have been changed."""
    _apply(api, dataclasses.replace(LAUNCH, options={**LAUNCH.options, "ttl": "2h"}), env)
    launched = engine.launch(LAUNCH)
    assert (launched.k8s_name, launched.k8s_uid) == ("seir-1", "uid-1")


@pytest.mark.parametrize(
    ("change", "notes", "said"),
    [
        ({"shards": 2}, {}, "differs in spec.completions, spec.template.spec.containers[runner].args;"),
        ({"registry_url": "azure://other"}, {}, "differs in spec.template.spec.containers[runner].args;"),
        (
            {"options": {**LAUNCH.options, "image": "mirror/mops-jobs:1", "cpu": "7"}},
            {},
            ", ".join(
                f"spec.template.spec.containers[runner].{field}"
                for field in ("image", "resources.limits.cpu", "resources.requests.cpu;")
            ),
        ),
        ({}, {"mops-jobs/job-id": "other"}, "Namespace models has another Job seir-1"),
    ],
)
def test_a_job_that_was_applied_for_something_else_is_refused(
    engine: KubernetesEngine, api: Api, env: dict[str, str], *, change: dict[str, Any], notes: dict[str, str], said: str
) -> None:
    """Other shards, another registry, image or resources than the record would name, another job or launch."""
    _apply(api, dataclasses.replace(LAUNCH, **change), env, **notes)
    with pytest.raises(RefusedError, match=re.escape(said)):
        engine.launch(LAUNCH)


@pytest.mark.parametrize("is_late", [False, True])
def test_a_launch_whose_reply_is_lost_is_no_failure(
    engine: KubernetesEngine, api: Api, monkeypatch: pytest.MonkeyPatch, *, is_late: bool
) -> None:
    """The Job was created, the reply was late or said otherwise: the Job that is there carries this launch's mark."""
    monkeypatch.setattr("mopsjobs.engines.kubernetes.engine.CREATE_READ_SECONDS", 1.0 if is_late else PATIENCE)
    reply = (200, lambda: asyncio.sleep(PATIENCE)) if is_late else (504, {"message": "etcd timed out"})
    api.answer("/apis/batch/v1/namespaces/models/jobs", reply[1], status=reply[0], method="post")
    launched = engine.launch(LAUNCH)
    assert launched.k8s_name == "seir-1"
    assert len(api.requests("post", "/apis/batch/v1/namespaces/models/jobs")) == 1


@pytest.mark.parametrize(("looks", "sent"), [(503, True), (404, False)])
def test_a_launch_without_a_reply_is_looked_for(
    engine: KubernetesEngine, api: Api, clock: Clock, monkeypatch: pytest.MonkeyPatch, *, looks: int, sent: bool
) -> None:
    """Once, since the API server has dropped the request by then. The error says whether the Job may be there."""
    monkeypatch.setattr("mopsjobs.engines.kubernetes.engine.CREATE_READ_SECONDS", 1.0)
    api.answer("/apis/batch/v1/namespaces/models/jobs", lambda: asyncio.sleep(PATIENCE), method="post")
    api.answer("/apis/batch/v1/namespaces/models/jobs/seir-1", {"kind": "Status", "message": "x"}, status=looks)
    with pytest.raises(EngineUnavailableError) as raised:
        engine.launch(LAUNCH)
    assert (raised.value.sent, sum(clock.slept)) == (sent, 0)
    assert raised.value.hint == "See whether it has started: kubectl -n models get job seir-1"


def test_a_job_that_a_webhook_has_renamed_is_that_of_the_launch(engine: KubernetesEngine, api: Api) -> None:
    """The record gets the new name, so that every later command finds the Job."""
    path = "/apis/batch/v1/namespaces/models/jobs"

    def renamed(request: Any) -> Any:
        metadata = request.data["metadata"]
        job = {**request.data, "metadata": {**metadata, "name": f"team-{metadata['name']}", "uid": "uid-1"}}
        api.mock.objects[JOBS, "models", job["metadata"]["name"]] = job
        return job

    api.mock[f"post {path}"] << renamed
    launched = engine.launch(LAUNCH)
    assert (launched.k8s_name, launched.k8s_uid) == ("team-seir-1", "uid-1")
    assert launched.show_command == "kubectl -n models get job team-seir-1"
    assert engine.state({**RECORD, "k8s_name": "team-seir-1", "k8s_uid": "uid-1"}).phase == "pending"


# --- state --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "phase", "reason"),
    [
        (_condition("Complete"), "succeeded", None),
        (_condition("Failed", "DeadlineExceeded", "Job was active longer"), "failed", "DeadlineExceeded"),
        (_condition("Failed", "BackoffLimitExceeded"), "failed", "BackoffLimitExceeded"),
        (_condition("FailureTarget", "FailedIndexes") | {"active": 1, "ready": 1}, "running", None),
        (_condition("FailureTarget", "FailedIndexes") | {"active": 0, "ready": 0}, "pending", "FailedIndexes"),
        (_condition("Complete", status="False") | {"active": 1, "ready": 1}, "running", None),
        ({"active": 2, "ready": 1, "failed": 5}, "running", None),
        ({"active": 2, "ready": 0}, "pending", "NoPods"),
        ({}, "pending", "NoPods"),
        (None, "pending", None),
    ],
)
def test_the_conditions_decide_and_never_a_count_of_failed_pods(
    engine: KubernetesEngine, api: Api, status: dict[str, Any] | None, phase: str, reason: str | None
) -> None:
    api.put_job(**({} if status is None else {"status": status}))
    found = engine.state(RECORD)
    assert (found.phase, found.reason) == (phase, reason)


def _container(begin: str) -> dict[str, Any]:
    """Return a container that began at that time, and was started again later."""
    later = {"running": {"startedAt": "2026-03-01T12:40:00Z"}}
    return {
        "name": "runner", "ready": True, "image": "i", "imageID": "i", "restartCount": 1, "state": later,
        "lastState": {"terminated": {"exitCode": 1, "startedAt": begin, "finishedAt": "2026-03-01T12:30:00Z"}},
    }  # fmt: skip


STARTED = {"startTime": "2026-03-01T12:00:00Z"}


@pytest.mark.parametrize(
    ("status", "has_pods", "started", "ended"),
    [
        ({**_condition("Complete"), **STARTED, "completionTime": "2026-03-01T13:00:00Z"}, True, "12:15", "13:00"),
        ({**_condition("Complete"), **STARTED, "completionTime": "2026-03-01T13:00:00Z"}, False, "12:00", "13:00"),
        ({**_condition("Failed"), **STARTED}, False, None, "13:10"),
        ({**STARTED, "active": 1, "ready": 1}, True, "12:15", None),
    ],
)
def test_the_cluster_has_the_times_of_a_job(
    engine: KubernetesEngine, api: Api, status: dict[str, Any], has_pods: bool, started: str | None, ended: str | None
) -> None:
    """The first container began the job. Without pods, only a Job that has succeeded is known to have run."""
    for condition in status.get("conditions", ()):
        condition["lastTransitionTime"] = "2026-03-01T13:10:00Z"
    api.put_job(status=status)
    if has_pods:
        api.put_pod(0, "Succeeded", containerStatuses=[_container("2026-03-01T12:20:00Z")])
        api.put_pod(1, "Succeeded", containerStatuses=[_container("2026-03-01T12:15:00Z")])
    else:  # or a role permits to read Jobs alone
        api.refuse(403, "pods is forbidden", "/api/v1/namespaces/models/pods")
    times = engine.times(RECORD)
    assert [None if at is None else at.strftime("%H:%M") for at in times] == [started, ended]


def test_another_job_by_the_name_is_not_taken_for_it(engine: KubernetesEngine, api: Api) -> None:
    """By its uid, and where the record has none, by the annotation."""
    api.put_job(status=_condition("Complete"))
    assert engine.state({**RECORD, "k8s_uid": "uid-0"})[:2] == ("gone", "Replaced")
    assert engine.state({**RECORD, "job_id": "other"})[:2] == ("gone", "Replaced")
    assert engine.state({**RECORD, "k8s_uid": "uid-1"}).phase == "succeeded"
    assert engine.state({**RECORD, "job_id": "other", "k8s_uid": "uid-1"})[:2] == ("gone", "Replaced")
    assert engine.state({**RECORD, "k8s_name": "other"})[:2] == ("gone", "K8sJobMissing")
    assert engine.state({"job_id": "seir-1", "k8s_namespace": "models"}).phase == "succeeded", "a launch not noted"


def test_a_job_of_another_program_is_found_by_its_name(env: dict[str, str], api: Api) -> None:
    """Where the user has named its namespace, or it is the current one."""
    api.put_job("their-name", job_id=None, status=_condition("Complete"))
    record = {"job_id": "theirs", "k8s_name": "their-name", "k8s_namespace": "models"}
    assert KubernetesEngine(env, trust=Trust(["namespace:models"])).state(record).phase == "succeeded"
    current = kubeconfig(Path(env["KUBECONFIG"]).parent, api.url, namespace="models")
    assert KubernetesEngine({"KUBECONFIG": str(current)}).state(record).phase == "succeeded"


@pytest.mark.claim("An unmarked Job in another namespace is left alone")
@pytest.mark.parametrize("uid", [None, "uid-1"])
def test_an_unmarked_job_elsewhere_is_left_alone(engine: KubernetesEngine, api: Api, uid: str | None) -> None:
    """Not read, its pods not listed, and not deleted: only the record, which any writer may have written, names it."""
    api.put_job(job_id=None, status={"active": 1, "ready": 1})
    api.answer(log_path(api.put_pod(0, "Running")), lines("a password"))
    record = {**RECORD, "k8s_uid": uid}
    acts: list[Callable[[], object]] = [
        lambda: engine.state(record),
        lambda: engine.cancel(record),
        lambda: list(engine.logs(record)),
        lambda: list(engine.logs(record, follow=True)),
    ]
    for act in acts:
        with pytest.raises(NotTrustedError, match="has no mark of job seir-1; it was left alone") as caught:
            act()
        assert str(caught.value.hint).endswith("add: --trust namespace:models")
    assert not api.requests("delete", "/apis/batch/v1/namespaces/models/jobs/seir-1")
    assert not api.requests("get", "/api/v1/namespaces/models/pods")


@pytest.mark.claim("A Job with the mark of another job is left alone")
def test_a_job_marked_as_of_another_is_left_alone(env: dict[str, str], api: Api) -> None:
    """Whatever its uid, and wherever the user has said that records may choose."""
    api.put_job(job_id="other", status={"active": 1, "ready": 1})
    api.answer(log_path(api.put_pod(0, "Running")), lines("a password"))
    engine = KubernetesEngine(env, trust=Trust(["namespace:models"]))
    record = {**RECORD, "k8s_uid": "uid-1"}
    assert engine.state(record)[:2] == ("gone", "Replaced")
    assert engine.times(record) == (None, None)
    assert not engine.cancel(record)
    assert not api.requests("delete", "/apis/batch/v1/namespaces/models/jobs/seir-1")
    assert list(engine.logs(record)) == list(engine.logs(record, follow=True)) == []


@pytest.mark.parametrize("run", ["state", "lastState"])
def test_a_pod_that_was_killed_for_its_memory_is_told_of(engine: KubernetesEngine, api: Api, run: str) -> None:
    """While another pod replaces it, and at the end of the Job, unless only other shards have ended that."""
    ended = {run: {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
    container = {"name": "runner", "image": "i", "imageID": "", "ready": False, "restartCount": 0, **ended}
    api.put_pod(0, "Failed", age=1, containerStatuses=[container])
    api.put_pod(0, "Running")
    api.put_job(status={"active": 1, "ready": 1, "failed": 1})
    detail = "1 of its pods exceeded the memory limit and were killed (exit code 137)"
    assert engine.state(RECORD)[:4] == ("running", "OOMKilled", detail, False)
    api.put_job(status=_condition("Failed", reason="FailedIndexes"))
    assert engine.state(RECORD)[:3] == ("failed", "OOMKilled", detail)
    exited = {"state": {"terminated": {"exitCode": 4}}, "lastState": {}}
    api.put_pod(1, "Failed", shards=3, containerStatuses=[{**container, **exited}])
    api.put_job(status={**_condition("Failed", reason="FailedIndexes"), "failedIndexes": "1,5-6"})
    shards = "shard 1 Error (exit code 4), shard 5 FailedIndexes, shard 6 FailedIndexes"
    assert engine.state(RECORD)[1:3] == ("FailedIndexes", shards)
    api.put_job(status={**_condition("Failed", reason="FailedIndexes"), "failedIndexes": "0-1"})
    shards = "shard 0 FailedIndexes, shard 1 Error (exit code 4)"
    assert engine.state(RECORD)[1:3] == ("OOMKilled", f"{detail}: {shards}")


def test_a_missing_command_is_the_reason_if_no_shard_could_start(engine: KubernetesEngine, api: Api) -> None:
    """Then there is no log. If others failed otherwise, theirs says why."""
    ended = {"state": {"terminated": {"exitCode": 128, "reason": "StartError", "message": "exec: not found"}}}
    container = {"name": "runner", "image": "i", "imageID": "", "ready": False, "restartCount": 0, **ended}
    api.put_pod(0, "Failed", containerStatuses=[container])
    api.put_job(status={**_condition("Failed", "FailedIndexes", "Job has failed indexes"), "failedIndexes": "0"})
    assert engine.state(RECORD).reason == "StartError"
    exited = {"state": {"terminated": {"exitCode": 4, "reason": "Error"}}}
    api.put_pod(1, "Failed", containerStatuses=[{**container, **exited}])
    assert engine.state(RECORD).reason == "FailedIndexes"


def test_the_start_of_the_newest_pod_is_told(engine: KubernetesEngine, api: Api) -> None:
    """If the record is silent: the pod that replaces another one has not reported yet. Pods that ended do not count."""
    for age, minute in ((1, 20), (0, 30)):
        running = {"running": {"startedAt": f"2026-03-01T12:{minute}:00Z"}}
        container = {"name": "runner", "image": "i", "imageID": "", "ready": True, "restartCount": 0, "state": running}
        api.put_pod(0, "Failed" if age else "Running", age=age, containerStatuses=[container])
    api.put_job(status={"active": 1, "ready": 1})
    silent = {**RECORD, "heartbeat_at": record_time(START - timedelta(minutes=1))}
    started = engine.state(silent).started_at
    assert started is not None
    assert started.strftime("%H:%M") == "12:30"
    assert engine.state({**RECORD, "heartbeat_at": record_time(START)}) == EngineState("running")


def test_a_job_that_fails_waits_for_its_pods_to_stop(engine: KubernetesEngine, api: Api) -> None:
    """They may still store outputs. A pod on a lost node keeps the Job from its end."""
    api.put_job(status=_condition("FailureTarget", "PodFailurePolicy", "Container runner failed."))
    words = "Container runner failed; it ends when its pods have stopped"
    assert engine.state(RECORD)[:4] == ("pending", "PodFailurePolicy", words, True)
    assert api.requests("get", "/api/v1/namespaces/models/pods") == []


def test_a_refusal_of_pods_is_told_without_their_names(engine: KubernetesEngine, api: Api) -> None:
    """Each refused pod has a new one. A text that is always new would be written and told again and again."""
    api.put_job(status={})
    told = set()
    for name in ("x7k2p", "9bd4q"):
        refused = f'Error creating: pods "seir-1-0-{name}" is forbidden: exceeded quota: sims'
        about = {"kind": "Job", "name": "seir-1", "namespace": "models"}
        metadata = {"name": "seir-1.1", "namespace": "models"}
        event = {"metadata": metadata, "involvedObject": about, "type": "Warning", "reason": "FailedCreate"}
        api.put(EVENTS, "seir-1.1", {**event, "message": refused, "lastTimestamp": "2026-03-01T12:01:00Z"})
        told.add(engine.state(RECORD).detail)
    assert told == {'Error creating: pods "seir-1-0" is forbidden: exceeded quota: sims'}


def test_events_tell_why_a_pod_cannot_begin(engine: KubernetesEngine, api: Api) -> None:
    """Those of a pod whose volumes are missing, and those of the Job if all its pods have ended; the newest counts."""

    def tell(kind: str, name: str, reason: str, at: str, *, severity: str = "Warning") -> None:
        about = {"kind": kind, "name": name, "namespace": "models"}
        metadata = {"name": f"{name}.{reason}", "namespace": "models"}
        event = {"metadata": metadata, "involvedObject": about, "type": severity, "reason": reason, "message": "why"}
        api.put(EVENTS, metadata["name"], {**event, "lastTimestamp": f"2026-03-01T{at}Z"})

    api.put_job(status={})
    waiting = {"waiting": {"reason": "ContainerCreating"}}
    container = {"name": "runner", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": waiting}
    tell("Job", "seir-1", "FailedCreate", "12:01:00")
    pod = api.put_pod(0, "Pending", containerStatuses=[container])
    starts = EngineState("pending", "ContainerCreating", "a pod is being started")
    assert engine.state(RECORD) == starts
    tell("Pod", pod, "FailedMount", "12:02:00")
    assert engine.state(RECORD)[:4] == ("pending", "FailedMount", "why", True)
    tell("Pod", pod, "Pulling", "12:02:01", severity="Normal")
    assert engine.state(RECORD) == starts
    api.put_pod(0, "Failed")
    assert engine.state(RECORD)[:4] == ("pending", "FailedCreate", "why", True)
    tell("Job", "seir-1", "SuccessfulCreate", "12:03:00", severity="Normal")
    assert engine.state(RECORD).reason == "FailedIndexes"


def test_an_event_that_goes_on_is_as_new_as_its_last_time(engine: KubernetesEngine, api: Api) -> None:
    """The scheduler writes such: no `lastTimestamp`, its first time in `eventTime`, and the last one in a series."""
    api.put_job(status={})
    pod = api.put_pod(0, "Pending")
    about = {"kind": "Pod", "name": pod, "namespace": "models"}
    event = {"metadata": {"name": "1", "namespace": "models"}, "involvedObject": about, "lastTimestamp": None}
    series = {"count": 9, "lastObservedTime": "2026-03-01T12:09:00.000000Z"}
    warning = {"type": "Warning", "reason": "FailedScheduling", "message": "no node", "series": series}
    api.put(EVENTS, "1", {**event, **warning, "eventTime": "2026-03-01T12:00:00.000000Z"})
    normal = {"type": "Normal", "reason": "NotTriggerScaleUp", "message": "", "lastTimestamp": "2026-03-01T12:05:00Z"}
    api.put(EVENTS, "2", {**event, **normal, "metadata": {"name": "2", "namespace": "models"}})
    assert engine.state(RECORD)[:3] == ("pending", "FailedScheduling", "no node")


def test_a_job_of_another_controller_has_its_pods_elsewhere(engine: KubernetesEngine, api: Api) -> None:
    """Such as MultiKueue, which keeps its status. That it has no pods here says nothing."""
    spec = {"managedBy": "kueue.x-k8s.io/multikueue"}
    api.put_job(status={}, spec=spec)
    words = "the Job is run by kueue.x-k8s.io/multikueue, maybe in another cluster"
    assert engine.state(RECORD) == EngineState("pending", "ManagedBy", words)
    api.put_job(status={"active": 1, "ready": 1}, spec=spec)
    assert engine.state(RECORD).phase == "running"


def test_cancelling_deletes_the_job_and_in_the_background_its_pods(engine: KubernetesEngine, api: Api) -> None:
    api.put_job()
    assert not engine.cancel({**RECORD, "k8s_uid": "uid-of-another"})
    assert engine.cancel(RECORD)
    (request,) = api.requests("delete", "/apis/batch/v1/namespaces/models/jobs/seir-1")
    assert request.params["propagationPolicy"] == "Background"
    assert not engine.cancel(RECORD)


# --- logs ---------------------------------------------------------------------------------------------------------


def test_logs_come_in_the_order_of_the_shards(engine: KubernetesEngine, api: Api) -> None:
    """A shard that was tried again shows both, the older first. Of a pod that is gone there is nothing.

    The shard is named as such, since a number in brackets is a task.
    """
    api.put_job()
    for index, age in ((10, 0), (2, 0), (2, 1)):
        pod = api.put_pod(index, "Succeeded", shards=11, age=age)
        api.answer(log_path(pod), lines(f"[{index}] age {age}"))
    gone = api.put_pod(3, "Running", shards=11)
    api.answer(log_path(gone), {"message": "pods not found"}, status=404)
    assert list(engine.logs(RECORD)) == ["shard 2: [2] age 1", "shard 2: [2] age 0", "shard 10: [10] age 0"]
    request = api.requests("get", log_path("seir-1-2-0"))[0]
    assert request.params["container"] == "runner"


def test_following_begins_before_the_pod_and_ends_with_the_job(
    engine: KubernetesEngine, api: Api, clock: Clock
) -> None:
    """No pod, then a pod that waits for its image, then one that writes, then the job's end."""
    api.put_job(status={"active": 1})

    def meanwhile(count: int) -> None:
        if count == 1:
            pod = api.put_pod(0, "Pending")
            api.answer(log_path(pod), lines("first", "second"))
        elif count == 2:
            api.put_pod(0, "Running")
        elif count == 3:
            api.put_pod(0, "Succeeded")
            api.put_job(status=_condition("Complete"))

    clock.on_sleep = meanwhile
    assert list(engine.logs(RECORD, follow=True)) == ["first", "second"]
    assert len(clock.slept) == 3


def test_following_a_job_that_is_deleted_ends_quietly(engine: KubernetesEngine, api: Api) -> None:
    """The Job is gone, the pod is being taken down, its log is gone before it."""
    pod = api.put_pod(0, "Running")
    api.answer(log_path(pod), {"message": "not found"}, status=404)
    assert list(engine.logs(RECORD, follow=True)) == []


# --- what goes wrong ----------------------------------------------------------------------------------------------

CALLS: dict[str, Callable[[KubernetesEngine], object]] = {
    "launch": lambda engine: engine.launch(LAUNCH),
    "state": lambda engine: engine.state(RECORD),
    "logs": lambda engine: list(engine.logs(RECORD)),
    "cancel": lambda engine: engine.cancel(RECORD),
}
REFUSALS: dict[int, tuple[type[EngineError], int]] = {
    401: (EngineAccessError, 4),
    403: (EngineAccessError, 4),
    429: (EngineUnavailableError, 5),
    500: (EngineUnavailableError, 5),
    503: (EngineUnavailableError, 5),
    422: (RefusedError, 6),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("code", REFUSALS)
def test_every_refusal_is_one_of_our_errors(
    engine: KubernetesEngine, api: Api, call: Callable[[KubernetesEngine], object], code: int
) -> None:
    """One sentence with what the cluster said, and the exit code that tells the kinds apart."""
    api.refuse(code, "because\nof this.")
    kind, exit_code = REFUSALS[code]
    with pytest.raises(EngineError) as raised:
        call(engine)
    assert str(raised.value).endswith(": because of this.")
    assert type(raised.value) is kind
    assert raised.value.exit_code == exit_code
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_cluster_that_goes_away_is_unreachable(
    engine: KubernetesEngine, api: Api, call: Callable[[KubernetesEngine], object]
) -> None:
    api.go_away()
    with pytest.raises(EngineUnavailableError, match="Cannot reach the cluster") as raised:
        call(engine)
    assert raised.value.exit_code == 5


def test_a_cluster_that_says_nothing_is_given_up_on(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the connection, and never answers. The two waits together stay below five seconds."""
    assert k8s_client.CONNECT_SECONDS + k8s_client.READ_SECONDS < 5
    monkeypatch.setattr(k8s_client, "READ_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        env = {"KUBECONFIG": str(kubeconfig(tmp_path, f"http://127.0.0.1:{mute.getsockname()[1]}"))}
        with pytest.raises(EngineUnavailableError, match="Cannot reach the cluster"):
            KubernetesEngine(env, sleep=clock.sleep).state(RECORD)


@pytest.mark.parametrize("call", [CALLS["state"], CALLS["logs"], CALLS["launch"]])
@pytest.mark.parametrize("answer", [b"<html>a proxy's page</html>", {}, {"metadata": 7, "items": 7}, [1]])
def test_an_answer_that_is_none_is_an_error_of_ours(
    engine: KubernetesEngine, api: Api, call: Callable[[KubernetesEngine], object], answer: Any
) -> None:
    api.mock[re.compile("^/.*")] << answer
    with pytest.raises(EngineError, match="does not answer as a Kubernetes API server"):
        call(engine)


def test_a_proxy_that_does_not_know_the_cluster_says_nothing_about_jobs(engine: KubernetesEngine, api: Api) -> None:
    """Its 404 is not that of an API server, which would mean that the Job is gone."""
    api.answer("/apis/batch/v1/namespaces/models/jobs/seir-1", {"message": "no such cluster"}, status=404)
    with pytest.raises(EngineError, match="does not answer as a Kubernetes API server"):
        engine.state(RECORD)


@pytest.mark.parametrize(
    "content", ["", "a: [", "[]", "{}", '{"contexts": [], "clusters": [], "current-context": "x"}']
)
def test_a_kubeconfig_that_is_none_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(content)
    with pytest.raises(EngineAccessError, match=re.escape(str(path))):
        KubernetesEngine({"KUBECONFIG": str(path)}).state(RECORD)


ELSEWHERE = [
    ("models", "../../../../../api/v1/namespaces/prod"),
    ("../../../apps/v1/namespaces/prod/deployments/seir-1?x=", "seir-1"),
    ("models", "seir-1?watch=1"),
    ("models/jobs/other#", "seir-1"),
    ("models", "--all"),
    ("--all-namespaces", "seir-1"),
    ("models", "a" * 254),
]


@pytest.mark.claim("A record leads to no object of a cluster but a Job")
@pytest.mark.parametrize(("namespace", "name"), ELSEWHERE)
def test_a_record_leads_nowhere_but_to_a_job(
    engine: KubernetesEngine, api: Api, env: dict[str, str], namespace: str, name: str
) -> None:
    """A writer of records lacks our rights on the cluster: no path to another object, no flag in a suggestion."""
    job: dict[str, object] = {**RECORD, "k8s_name": name, "k8s_namespace": namespace}
    for ask in (engine.state, engine.cancel, lambda job: list(engine.logs(job))):
        with pytest.raises(EnginePlaceError, match="in the record of the job: expected names that Kubernetes allows"):
            ask(job)
    assert not list(api.mock)
    assert kubectl_for("delete", job, env) == "kubectl delete job seir-1"


def test_without_any_configuration_it_says_where_one_belongs(tmp_path: Path) -> None:
    with pytest.raises(EngineAccessError, match=r"There is no cluster to talk to: ~/\.kube/config is missing"):
        KubernetesEngine({"HOME": str(tmp_path)}).state(RECORD)
    with pytest.raises(EngineAccessError, match="/nowhere is missing"):
        KubernetesEngine({"HOME": str(tmp_path), "KUBECONFIG": "/nowhere"}).state(RECORD)


def test_a_context_is_chosen_by_option_and_by_environment(env: dict[str, str], api: Api) -> None:
    """One without a user and without a namespace, too; and one that does not exist is named."""
    launch = Launch(job_id="a", registry_url="azure://x", options={"image": "i", "context": "userless"})
    launched = KubernetesEngine(env).launch(launch)
    assert launched.show_command == "kubectl --context userless -n default get job a"
    with pytest.raises(EngineError, match="has no context nowhere"):
        KubernetesEngine({**env, "MOPS_JOBS_KUBE_CONTEXT": "nowhere"}).state(RECORD)


def test_of_several_files_the_one_with_the_context_counts(tmp_path: Path, env: dict[str, str]) -> None:
    """As kubectl has it: the first file that names a current context chooses it, wherever it is."""
    first = tmp_path / "first"
    first.write_text(json.dumps({"contexts": [], "clusters": [], "users": [], "current-context": "here"}))
    several = {**env, "KUBECONFIG": f"{first}:{env['KUBECONFIG']}:/nowhere"}
    assert KubernetesEngine(several).state(RECORD).reason == "K8sJobMissing"
    launch = Launch(job_id="a", registry_url="azure://x", options={"image": "i", "context": "userless"})
    assert KubernetesEngine(several).launch(launch).k8s_namespace == "default"


def _signing_in(tmp_path: Path, api: Api, script: str, version: str = "v1") -> KubernetesEngine:
    """Return an engine whose kubeconfig names a shell script that signs in."""
    api_version = f"client.authentication.k8s.io/{version}"
    program = {
        "apiVersion": api_version,
        "command": "/bin/sh",
        "args": ["-c", script],
        "interactiveMode": "IfAvailable",
    }
    return KubernetesEngine({"KUBECONFIG": str(kubeconfig(tmp_path, api.url, token=None, exec=program))})


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_a_program_signs_in_once_and_again_when_its_token_is_refused(tmp_path: Path, api: Api, version: str) -> None:
    """Each process runs it for itself, not each request. It is told that there is no user to ask."""
    runs, info = tmp_path / "runs", tmp_path / "info"
    script = (
        f'echo >> {runs}; printf "%s" "$KUBERNETES_EXEC_INFO" > {info};'
        f' printf \'{{"status": {{"token": "token-%s"}}}}\' $(grep -c "" {runs})'
    )
    engine, path = _signing_in(tmp_path, api, script, version), "/apis/batch/v1/namespaces/models/jobs/seir-1"
    assert [engine.state(RECORD).phase for _ in range(2)] == ["gone", "gone"]
    assert json.loads(info.read_text())["spec"] == {"interactive": False}
    api.refuse(401, "no", path)
    with pytest.raises(EngineAccessError, match="does not accept the credentials"):
        engine.state(RECORD)
    sent = [request.headers["Authorization"] for request in api.requests("get", path)]
    assert sent == [f"Bearer token-{number}" for number in (1, 1, 1, 2)]


@pytest.mark.parametrize(
    ("program", "kind", "words"),
    [
        ("echo Traceback >&2; echo The token has expired. >&2; exit 3", EngineAccessError,
         "/bin/sh ended with 3: The token has expired."),
        ("echo '{}'", EngineAccessError, "/bin/sh printed no token."),
        ({"command": "/no/such"}, EngineAccessError, "/no/such cannot be started (No such file or directory)."),
        ({"command": "/bin/true", "env": [{"name": "A", "value": 1}]}, EngineAccessError,
         "/bin/true cannot be started (invalid user in the kubeconfig)."),
    ],
)  # fmt: skip
def test_a_sign_in_program_that_fails_is_a_matter_of_signing_in(
    tmp_path: Path, api: Api, monkeypatch: pytest.MonkeyPatch, program: Any, kind: type[EngineError], words: str
) -> None:
    """YAML makes numbers of some values."""
    monkeypatch.setattr(k8s_client, "SIGN_IN_SECONDS", PATIENCE)
    more = {"command": "/bin/sh", "args": ["-c", program]} if isinstance(program, str) else program
    how = {"apiVersion": "client.authentication.k8s.io/v1beta1", **more}
    path = kubeconfig(tmp_path, api.url, token=None, exec=how)
    with pytest.raises(EngineError) as raised:
        KubernetesEngine({"KUBECONFIG": str(path)}).state(RECORD)
    assert str(raised.value).partition("\n")[0] == f"Cannot sign in to the cluster at {api.url}: {words}"
    assert type(raised.value) is kind


def test_a_sign_in_program_that_waits_for_its_user_is_given_up_on(
    tmp_path: Path, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user cannot see it, and it would wait for each job. On a busy machine, it says later what it waits for."""
    engine, said = _signing_in(tmp_path, api, "echo open a page >&2; exec sleep 600", "v1"), ""
    for seconds in (0.2, 2.0, 20.0, PATIENCE):
        monkeypatch.setattr(k8s_client, "SIGN_IN_SECONDS", seconds)
        with pytest.raises(EngineUnavailableError) as raised:
            engine.state(RECORD)
        said, begin = str(raised.value).partition("\n")[0], f"/bin/sh did not answer within {seconds:g} s"
        assert said.startswith(f"Cannot sign in to the cluster at {api.url}: {begin}")
        if said != f"Cannot sign in to the cluster at {api.url}: {begin}.":
            break
    assert said.endswith(" s: open a page.")


def test_in_a_pod_its_service_account_is_used(tmp_path: Path, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a kubeconfig, and only where Kubernetes says that it is there."""
    from lightkube.config import kubeconfig as lightkube_config

    real = lightkube_config.KubeConfig.from_server(api.url, namespace="of-the-pod")
    monkeypatch.setattr(lightkube_config.KubeConfig, "from_service_account", lambda: real)
    engine = KubernetesEngine({"HOME": str(tmp_path), **SERVICE})
    launched = engine.launch(Launch(job_id="a", registry_url="azure://x", options={"image": "i"}))
    assert launched.k8s_namespace == "of-the-pod"


def test_in_a_pod_without_a_token_no_cluster_can_be_asked(tmp_path: Path) -> None:
    """Those of mops-jobs have none, and each container has the variables of its cluster."""
    with pytest.raises(EngineAccessError, match="The cluster's configuration of this pod cannot be used"):
        KubernetesEngine({"HOME": str(tmp_path), **SERVICE}).state(RECORD)

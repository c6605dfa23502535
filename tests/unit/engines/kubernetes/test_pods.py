"""What the pods of a Job tell: what is wrong now comes before what was wrong once, and how its shards ended."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from mopsjobs.engines.kubernetes.pods import describe_shards, last_stop, lost_shards, open_shards, present_problem

NOW = datetime(2026, 3, 1, 13, tzinfo=UTC)
EVICTED = {"phase": "Failed", "reason": "Evicted", "message": "low on memory"}
EVICTION = ("Evicted", "1 of its pods were evicted; the last: low on memory")
KILLED = ("OOMKilled", "1 of its pods exceeded the memory limit and were killed (exit code 137)")
MISSING = 'exec: "mops-jobs": executable file not found in $PATH'


def _container(name: str = "runner", **state: Any) -> dict[str, Any]:
    return {"name": name, "state": state}


def _ended(name: str = "runner", code: int = 1, **more: Any) -> dict[str, Any]:
    return _container(name, terminated={"exitCode": code, "reason": "Error", **more})


NO_IMAGE = _container(waiting={"reason": "ImagePullBackOff", "message": "no such image"})
WITHOUT_IMAGE = {"phase": "Pending", "containerStatuses": [NO_IMAGE]}
STARTING = {"phase": "Pending", "containerStatuses": [_container(waiting={"reason": "ContainerCreating"})]}
OOM = {"phase": "Failed", "containerStatuses": [_ended(code=137, reason="OOMKilled")]}
RUNNING = {"phase": "Running", "containerStatuses": [_container(running={"startedAt": "2026-03-01T12:00:00Z"})]}
DONE = {"phase": "Succeeded"}
PROXY = _container("proxy", running={"startedAt": "2026-03-01T12:00:00Z"})
OTHERS_OOM = {
    "phase": "Failed",
    "containerStatuses": [_ended(code=0), _ended("proxy", code=137, reason="OOMKilled")],
}
UNREADY = {"type": "Ready", "status": "False"}
ON_LOST_NODE = {**RUNNING, "conditions": [UNREADY]}
UNSCHEDULED = {
    "phase": "Pending",
    "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}],
}
INIT = {
    "phase": "Pending",
    "initContainerStatuses": [NO_IMAGE],
    "containerStatuses": [_container(waiting={"reason": "PodInitializing"})],
}


def _pod(shard: int, minute: int, status: dict[str, Any]) -> dict[str, Any]:
    metadata = {
        "name": f"a-{shard}-{minute}",
        "creationTimestamp": f"2026-03-01T12:{minute:02}:00Z",
        "labels": {"batch.kubernetes.io/job-completion-index": str(shard)},
    }
    return {"metadata": metadata, "status": status}


@pytest.mark.parametrize(
    ("pods", "expected"),
    [
        ([(0, 0, EVICTED), (0, 1, WITHOUT_IMAGE)], ("ImagePullBackOff", "no such image")),
        ([(0, 0, EVICTED), (0, 1, RUNNING), (1, 0, WITHOUT_IMAGE)], ("ImagePullBackOff", "no such image")),
        ([(0, 0, WITHOUT_IMAGE), (0, 1, RUNNING)], None),
        ([(0, 0, EVICTED), (0, 1, STARTING)], EVICTION),
        ([(0, 0, EVICTED), (0, 1, DONE), (1, 0, RUNNING)], None),
        ([(0, 0, OOM), (0, 1, RUNNING), (1, 1, EVICTED)], EVICTION),
        ([(0, 1, OOM), (0, 2, RUNNING), (1, 0, EVICTED)], KILLED),
        ([(0, 0, UNSCHEDULED)], ("Unschedulable", "0/3 nodes")),
        ([(0, 0, INIT)], ("Init:ImagePullBackOff", "no such image")),
        ([(0, 0, OTHERS_OOM)], None),
        ([(0, 0, ON_LOST_NODE)], ("NodeNotReady", "the node of pod a-0-0 does not answer; its runner may go on")),
        ([(0, 0, {**ON_LOST_NODE, "conditions": [{**UNREADY, "reason": "ContainersNotReady"}]})], None),
        (
            [(0, 0, {"phase": "Running", "containerStatuses": [_ended(code=4), PROXY]})],
            ("RunnerEnded", "the runner of pod a-0-0 ended (exit code 4), but container proxy runs on"),
        ),
    ],
)
def test_trouble_of_today_comes_before_an_old_eviction(pods: list[Any], expected: tuple[str, str] | None) -> None:
    """Of each shard, the newest pod matters. The last past trouble is told while its shard has not succeeded.

    Containers that a cluster adds do not run tasks.
    """
    made = [_pod(*one) for one in pods]
    assert (present_problem(made, NOW) or last_stop(made)) == expected


def test_a_pod_that_outlives_its_grace_period_is_reported() -> None:
    """Its node may be lost. The cluster replaces it when it has ended, or when its node is removed."""
    metadata = {"name": "a-0-x", "deletionTimestamp": "2026-03-01T12:00:00Z"}
    pod = {"metadata": metadata, "spec": {"nodeName": "node-7"}, "status": RUNNING}
    words = "pod a-0-x on node node-7 is being stopped, and no other takes its place before its end"
    assert present_problem([pod], NOW) == ("Terminating", words)
    in_time = datetime(2026, 3, 1, 11, 59, 59, tzinfo=UTC)
    assert present_problem([pod], in_time) is None


def test_a_shard_is_open_until_its_newest_pod_has_succeeded() -> None:
    """Whatever befell its earlier pods."""
    pods = [(0, 1, DONE), (0, 0, OOM), (1, 0, DONE), (1, 1, OOM), (2, 0, RUNNING)]
    assert open_shards([_pod(*one) for one in pods]) == {1, 2}


def _disrupted(reason: str) -> list[dict[str, str]]:
    return [{"type": "DisruptionTarget", "status": "True", "reason": reason}]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"containerStatuses": [_ended("proxy", 1), _ended(code=4)]}, "shard 2 Error (exit code 4)"),
        (
            {"containerStatuses": [_ended(code=128, reason="StartError", message=f"{'x' * 400} {MISSING}")]},
            MISSING,
        ),
        ({"initContainerStatuses": [_ended("fetch")]}, "shard 2 Init:Error (exit code 1: container fetch)"),
        ({"containerStatuses": [_ended(code=0), _ended("proxy", 137)]}, "Error (exit code 137: container proxy)"),
        (
            {"conditions": _disrupted("PreemptionByScheduler"), "containerStatuses": [_ended(code=143)]},
            "shard 2 PreemptionByScheduler (exit code 143)",
        ),
        ({"conditions": _disrupted("DeletionByPodGC")}, "shard 2 DeletionByPodGC"),
        (
            {"reason": "UnexpectedAdmissionError", "message": "Pod was rejected: no healthy GPU"},
            "shard 2 UnexpectedAdmissionError (Pod was rejected: no healthy GPU)",
        ),
        ({"reason": "Evicted", "conditions": _disrupted("TerminationByKubelet")}, "shard 2 Evicted"),
        (
            {"reason": "DeadlineExceeded", "containerStatuses": [_ended(code=143)]},
            "shard 2 DeadlineExceeded (exit code 143)",
        ),
        (None, "shard 2 FailedIndexes"),
    ],
)
def test_the_end_of_a_shard_is_that_of_its_last_pod(status: dict[str, Any] | None, words: str) -> None:
    """The runner's exit code counts, else that of another container. Without a pod, the Job alone knows of it.

    A long message keeps its end, which has the cause.
    """
    pods = [] if status is None else [_pod(2, 0, {"phase": "Failed", **status})]
    assert words in describe_shards(lost_shards({"failedIndexes": "2"}, pods))


@pytest.mark.parametrize(
    ("kind", "name", "is_oom"),
    [
        ("containerStatuses", "runner", True),
        ("containerStatuses", "proxy", False),
        ("initContainerStatuses", "fetch", False),
    ],
)
def test_tasks_exceed_their_memory_in_the_container_of_the_runner_alone(kind: str, name: str, *, is_oom: bool) -> None:
    pods = [_pod(2, 0, {"phase": "Failed", kind: [_ended(name, 137, reason="OOMKilled")]})]
    (lost,) = lost_shards({}, pods)
    assert (lost.exit_code, lost.is_out_of_memory) == (137, is_oom)

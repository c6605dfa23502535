"""What the pods of a Job tell: what is wrong now comes before what was wrong once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from lightkube.resources.core_v1 import Pod

from mopsjobs.engines.kubernetes.pods import open_shards, pod_problem

NOW = datetime(2026, 3, 1, 13, tzinfo=UTC)
EVICTED = {"phase": "Failed", "reason": "Evicted", "message": "low on memory"}
EVICTION = ("Evicted", "1 of its pods were evicted; the last: low on memory")
KILLED = ("OOMKilled", "1 of its pods exceeded the memory limit and were killed (exit code 137)")


def _container(**state: Any) -> dict[str, Any]:
    return {"name": "runner", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": state}


WITHOUT_IMAGE = {
    "phase": "Pending",
    "containerStatuses": [_container(waiting={"reason": "ImagePullBackOff", "message": "no such image"})],
}
STARTING = {"phase": "Pending", "containerStatuses": [_container(waiting={"reason": "ContainerCreating"})]}
OOM = {"phase": "Failed", "containerStatuses": [_container(terminated={"exitCode": 137, "reason": "OOMKilled"})]}
RUNNING = {"phase": "Running", "containerStatuses": [_container(running={"startedAt": "2026-03-01T12:00:00Z"})]}
DONE = {"phase": "Succeeded"}


def _pod(shard: int, minute: int, status: dict[str, Any]) -> Pod:
    metadata = {
        "name": f"a-{shard}-{minute}",
        "creationTimestamp": f"2026-03-01T12:{minute:02}:00Z",
        "labels": {"batch.kubernetes.io/job-completion-index": str(shard)},
    }
    pod: Pod = Pod.from_dict({"metadata": metadata, "status": status}, lazy=False)  # type: ignore[no-untyped-call]
    return pod


@pytest.mark.parametrize(
    ("pods", "expected"),
    [
        ([(0, 0, EVICTED), (0, 1, WITHOUT_IMAGE)], ("ImagePullBackOff", "no such image")),
        ([(0, 0, EVICTED), (0, 1, RUNNING), (1, 0, WITHOUT_IMAGE)], ("ImagePullBackOff", "no such image")),
        ([(0, 0, WITHOUT_IMAGE), (0, 1, RUNNING)], (None, None)),
        ([(0, 0, EVICTED), (0, 1, STARTING)], EVICTION),
        ([(0, 0, EVICTED), (0, 1, DONE), (1, 0, RUNNING)], (None, None)),
        ([(0, 0, OOM), (0, 1, RUNNING), (1, 1, EVICTED)], EVICTION),
        ([(0, 1, OOM), (0, 2, RUNNING), (1, 0, EVICTED)], KILLED),
    ],
)
def test_trouble_of_today_comes_before_an_old_eviction(
    pods: list[Any], expected: tuple[str | None, str | None]
) -> None:
    """Of each shard, the newest pod matters. The last past trouble is told while its shard has not succeeded."""
    made = [_pod(*one) for one in pods]
    for is_running in (True, False):
        assert pod_problem(made, is_running=is_running, now=NOW) == expected


def test_an_init_container_that_cannot_start_is_told_as_kubectl_does() -> None:
    """A patch or a webhook may add it. The containers after it wait for their initialization."""
    status = {
        "phase": "Pending",
        "initContainerStatuses": [_container(waiting={"reason": "ImagePullBackOff", "message": "no such image"})],
        "containerStatuses": [_container(waiting={"reason": "PodInitializing"})],
    }
    assert pod_problem([_pod(0, 0, status)], is_running=False, now=NOW) == ("Init:ImagePullBackOff", "no such image")


def test_a_pod_that_outlives_its_grace_period_is_reported() -> None:
    """Its node may be lost. The cluster replaces it when it has ended, or when its node is removed."""
    metadata = {"name": "a-0-x", "deletionTimestamp": "2026-03-01T12:00:00Z"}
    spec = {"nodeName": "node-7", "containers": []}
    content = {"metadata": metadata, "spec": spec, "status": RUNNING}
    pod: Pod = Pod.from_dict(content, lazy=False)  # type: ignore[no-untyped-call]
    words = "pod a-0-x on node node-7 is being stopped, and no other takes its place before its end"
    assert pod_problem([pod], is_running=False, now=NOW) == ("Terminating", words)
    in_time = datetime(2026, 3, 1, 11, 59, 59, tzinfo=UTC)
    assert pod_problem([pod], is_running=False, now=in_time) == (None, None)


def test_a_job_without_pods_says_so_unless_it_runs() -> None:
    assert pod_problem([], is_running=False, now=NOW) == ("NoPods", "it has no pods")
    assert pod_problem([], is_running=True, now=NOW) == (None, None)


def test_a_shard_is_open_until_its_newest_pod_has_succeeded() -> None:
    """Whatever befell its earlier pods."""
    pods = [(0, 1, DONE), (0, 0, OOM), (1, 0, DONE), (1, 1, OOM), (2, 0, RUNNING)]
    assert open_shards([_pod(*one) for one in pods]) == {1, 2}

"""How the shards of a Job ended, in the words of Kubernetes."""

from __future__ import annotations

from typing import Any

import pytest
from lightkube.models.batch_v1 import JobStatus
from lightkube.resources.core_v1 import Pod

from mopsjobs.engines.kubernetes.pods import describe_shards, lost_shards

MISSING = 'exec: "mops-jobs": executable file not found in $PATH'


def _ended(name: str = "runner", code: int = 1, **more: Any) -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "reason": "Error", **more}}
    return {"name": name, "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": state}


def _disrupted(reason: str) -> list[dict[str, str]]:
    return [{"type": "DisruptionTarget", "status": "True", "reason": reason}]


def _failed_pod(status: dict[str, Any]) -> Pod:
    labels = {"batch.kubernetes.io/job-completion-index": "2"}
    content = {"metadata": {"name": "a-2", "labels": labels}, "status": {"phase": "Failed", **status}}
    pod: Pod = Pod.from_dict(content, lazy=False)  # type: ignore[no-untyped-call]
    return pod


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"containerStatuses": [_ended(code=4)]}, "shard 2 Error (exit code 4)"),
        ({"containerStatuses": [_ended("proxy", 1), _ended(code=4)]}, "shard 2 Error (exit code 4)"),
        (
            {"containerStatuses": [_ended(code=128, reason="StartError", message=MISSING)]},
            f"shard 2 StartError (exit code 128: {MISSING})",
        ),
        ({"initContainerStatuses": [_ended("fetch")]}, "shard 2 Init:Error (exit code 1)"),
        (
            {"conditions": _disrupted("PreemptionByScheduler"), "containerStatuses": [_ended(code=143)]},
            "shard 2 PreemptionByScheduler (exit code 143)",
        ),
        ({"conditions": _disrupted("DeletionByPodGC")}, "shard 2 DeletionByPodGC"),
        ({"reason": "Evicted", "conditions": _disrupted("TerminationByKubelet")}, "shard 2 Evicted"),
        (
            {"reason": "DeadlineExceeded", "containerStatuses": [_ended(code=143)]},
            "shard 2 DeadlineExceeded (exit code 143)",
        ),
        (None, "shard 2 FailedIndexes"),
    ],
)
def test_the_end_of_a_shard_is_that_of_its_last_pod(status: dict[str, Any] | None, words: str) -> None:
    """The runner's exit code counts, else that of another container. Without a pod, the Job alone knows of it."""
    pods = [] if status is None else [_failed_pod(status)]
    assert describe_shards(lost_shards(JobStatus(failedIndexes="2"), pods)) == words


@pytest.mark.parametrize(
    ("kind", "name", "is_oom"),
    [
        ("containerStatuses", "runner", True),
        ("containerStatuses", "proxy", False),
        ("initContainerStatuses", "fetch", False),
    ],
)
def test_tasks_exceed_their_memory_in_the_container_of_the_runner_alone(kind: str, name: str, *, is_oom: bool) -> None:
    pods = [_failed_pod({kind: [_ended(name, 137, reason="OOMKilled")]})]
    (lost,) = lost_shards(JobStatus(), pods)
    assert (lost.exit_code, lost.is_out_of_memory) == (137, is_oom)

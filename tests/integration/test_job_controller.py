"""The rules of the stand-in for the Job controller, as Kubernetes has them: see tests/support/job_controller.py."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support.job_controller import FAILURES, FINALIZER, IGNORED, INDEX, Plan, condition_of, plan

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
IGNORE = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
DISRUPTED = [{"type": "DisruptionTarget", "status": "True"}]


def _on_codes(action: str, *codes: int) -> dict[str, Any]:
    return {"action": action, "onExitCodes": {"containerName": "runner", "operator": "In", "values": list(codes)}}


def _job(completions: int = 2, *rules: dict[str, Any], status: dict[str, Any] | None = None, **spec: Any) -> Any:
    policy = {"podFailurePolicy": {"rules": list(rules)}}
    spec = {"completions": completions, "parallelism": completions, "backoffLimitPerIndex": 1, **policy, **spec}
    return {"metadata": {"name": "a"}, "spec": spec, "status": status or {}}


def _pod(
    index: int, phase: str = "Failed", failures: int = 0, *, code: int = 1, at: str = "11:00:00", **status: Any
) -> dict[str, Any]:
    ended = {"terminated": {"exitCode": code, "finishedAt": f"2026-03-01T{at}Z"}}
    metadata: dict[str, Any] = {
        "name": f"a-{index}-{failures}-{phase}", "namespace": "models", "finalizers": [FINALIZER],
        "labels": {INDEX: str(index)}, "annotations": {FAILURES: str(failures)},
    }  # fmt: skip
    if status.pop("stopping", False):
        metadata["deletionTimestamp"] = "2026-03-01T11:59:00Z"
    containers = [{"name": "runner", "state": ended if phase in ("Failed", "Succeeded") else {}}]
    return {"metadata": metadata, "status": {"phase": phase, "containerStatuses": containers, **status}}


def _plan(job: Any, *pods: dict[str, Any], later: float = 0) -> Plan:
    return plan(job, pods, NOW + timedelta(seconds=later), 1.0)


def _end(done: Plan) -> str | None:
    end = condition_of(done.status, "Failed") or condition_of(done.status, "Complete")
    return None if end is None else str(end["reason"])


@pytest.mark.parametrize(
    ("job", "pods", "create", "end"),
    [
        (_job(), [], [(0, 0), (1, 0)], None),
        (_job(parallelism=1), [_pod(0, "Running")], [], None),
        (_job(), [_pod(0), _pod(1, "Succeeded")], [(0, 1)], None),
        (_job(), [_pod(0), _pod(0, failures=1), _pod(1, "Running")], [], None),
        (_job(), [_pod(0), _pod(0, failures=1), _pod(1, "Succeeded")], [], "FailedIndexes"),
        (_job(), [_pod(0, "Succeeded"), _pod(1, "Succeeded")], [], "CompletionsReached"),
        (_job(2, _on_codes("FailJob", 6)), [_pod(0, code=6)], [], "PodFailurePolicy"),
        (_job(1, IGNORE), [_pod(0, failures=1, conditions=DISRUPTED)], [(0, 1)], None),
        (_job(1, IGNORE, _on_codes("FailJob", 137)), [_pod(0, code=137, conditions=DISRUPTED)], [(0, 0)], None),
        (_job(1, suspend=True), [], [], None),
        (_job(1, IGNORE), [_pod(0, "Running", stopping=True)], [], None),
        # An index in its back-off takes the place of a later one.
        (_job(3, parallelism=1), [_pod(0, at="12:00:00")], [], None),
    ],
)
def test_what_the_controller_does_next(
    job: Any, pods: list[dict[str, Any]], create: list[tuple[int, int]], end: str | None
) -> None:
    done = _plan(job, *pods)
    assert ([(new.index, new.failures) for new in done.create], _end(done)) == (create, end)


def test_a_job_that_fails_stops_its_pods_first() -> None:
    """It has the condition FailureTarget until then."""
    job = _job(2, _on_codes("FailJob", 6))
    done = _plan(job, _pod(0, code=6), _pod(1, "Running"))
    assert list(done.delete) == ["a-1-0-Running"]
    assert (_end(done), condition_of(done.status, "FailureTarget") is not None) == (None, True)
    assert (done.status["failed"], done.status["terminating"]) == (2, 1)
    assert _end(_plan({**job, "status": done.status}, _pod(0, code=6))) == "PodFailurePolicy"


def test_counts_outlive_their_pods() -> None:
    """A failed pod counts when another one has its place. Then it has no finalizer, and may go."""
    job = _job(2)
    first = _plan(job, _pod(0), _pod(1, "Succeeded"))
    assert (first.status["failed"], first.status["succeeded"], list(first.release)) == (0, 1, ["a-1-0-Succeeded"])
    second = _plan({**job, "status": first.status}, _pod(0), _pod(0, "Running", failures=1))
    assert (second.status["failed"], list(second.release)) == (1, ["a-0-0-Failed"])
    third = _plan({**job, "status": second.status}, _pod(0, failures=1))
    assert (_end(third), third.status["failedIndexes"], third.status["completedIndexes"]) == ("FailedIndexes", "0", "1")


def test_a_resumed_job_begins_anew() -> None:
    """Its start is the time at which it was resumed. The pods that a suspension stops do not count."""
    suspended = _plan(_job(1, suspend=True), _pod(0, "Running"))
    assert (list(suspended.delete), list(suspended.release)) == (["a-0-0-Running"], ["a-0-0-Running"])
    assert (suspended.status["active"], suspended.status["failed"]) == (0, 0)
    resumed = _plan(_job(1, status=suspended.status), later=60).status
    assert condition_of(resumed, "Suspended", "False") is not None
    assert resumed["startTime"] == "2026-03-01T12:01:00Z"


def test_a_back_off_delays_a_retry() -> None:
    """It doubles with each failure, also with one that is ignored."""
    just_failed = _pod(0, at="12:00:00")
    assert list(_plan(_job(1), just_failed).create) == []
    assert list(_plan(_job(1), just_failed, later=1).create) == [(0, 1, 0)]
    just_failed["metadata"]["annotations"][IGNORED] = "2"
    assert list(_plan(_job(1), just_failed, later=3).create) == []
    assert list(_plan(_job(1), just_failed, later=4).create) == [(0, 1, 2)]

"""What Kubernetes' Job controller does with an Indexed Job, as a pure function of the Job, its pods and the time.

It follows pkg/controller/job of Kubernetes 1.31: `syncJob`, `backoff_utils.go`, `indexed_job_utils.go` and
`pod_failure_policy.go`, with their reasons and messages. It has neither finalizers nor elastic Jobs, and it counts from
pods that nothing removes. It stands in for a cluster: what a test shows with it holds for these rules alone.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from mopsjobs.utils.times import parse_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Json = dict[str, Any]

INDEX = "batch.kubernetes.io/job-completion-index"

FAILURES = "batch.kubernetes.io/job-index-failure-count"
"""Annotation of a pod: the counted failures of its index before it."""

DEFAULT_BACKOFF = 6

NEVER = 2**31 - 1


class Plan(NamedTuple):
    """The next steps of the controller."""

    status: Json
    create: Sequence[tuple[int, int]] = ()
    """Pods to make: the index, and the counted failures before."""
    delete: Sequence[str] = ()
    """Names of pods to stop."""


class _Failures(NamedTuple):
    """The counts of the failed pods of a Job."""

    counted: int
    indexes: set[int]
    """Those that are not tried again."""
    before: dict[int, int]
    """The counted failures of each index."""
    end: tuple[str, str] | None
    """Reason and message, if one of them ends the Job."""


def plan(job: Mapping[str, Any], pods: Sequence[Json], now: datetime, retry_seconds: float) -> Plan:
    """Return the next status of a Job, and the pods to make and to stop."""
    spec, status = job["spec"], dict(job.get("status") or {})
    if condition_of(status, "Complete") or condition_of(status, "Failed"):
        return Plan(status)
    alive = [pod for pod in pods if pod["status"]["phase"] in ("Pending", "Running")]
    active = [pod for pod in alive if "deletionTimestamp" not in pod["metadata"]]
    failures, succeeded = _failures(job, pods), {index_of(pod) for pod in pods if pod["status"]["phase"] == "Succeeded"}
    status |= {
        "active": len(active),
        "ready": sum(bool(condition_of(pod["status"], "Ready")) for pod in active),
        "terminating": len(alive) - len(active),
        "succeeded": len(succeeded),
        "failed": failures.counted,
        "completedIndexes": format_indexes(succeeded),
        "uncountedTerminatedPods": {},
    }
    if "backoffLimitPerIndex" in spec:
        status["failedIndexes"] = format_indexes(failures.indexes)
    if spec.get("suspend"):
        status.pop("startTime", None)
        return Plan(_with(status, now, "Suspended", "JobSuspended", "Job suspended"), delete=_names(active))
    status.setdefault("startTime", moment(now))
    end = failures.end or _deadline(spec, status, now) or _index_end(spec, failures.indexes, succeeded)
    if end is not None:
        status = _with(status, now, "FailureTarget", *end)
        return Plan(status if alive else _with(status, now, "Failed", *end), delete=_names(active))
    if len(succeeded) >= spec["completions"]:
        status["completionTime"] = moment(now)
        return Plan(_with(status, now, "Complete", "CompletionsReached", "Reached expected number of succeeded pods"))
    busy = {index_of(pod) for pod in alive} | succeeded | failures.indexes
    free = [
        index
        for index in range(spec["completions"])
        if index not in busy and _may_retry(index, pods, now, retry_seconds)
    ]
    room = max(0, spec["parallelism"] - len(alive))
    return Plan(status, create=[(index, failures.before.get(index, 0)) for index in free[:room]])


def _failures(job: Mapping[str, Any], pods: Iterable[Json]) -> _Failures:
    spec, counted, indexes, before, end = job["spec"], 0, set(), {}, None
    per_index = spec.get("backoffLimitPerIndex")
    for pod in pods:
        if pod["status"]["phase"] != "Failed":
            continue
        index, earlier = index_of(pod), int(pod["metadata"]["annotations"].get(FAILURES, 0))
        action, message = match_policy(spec.get("podFailurePolicy"), pod)
        if action == "FailJob":
            end = end or ("PodFailurePolicy", message)
        if action == "FailIndex" or (action != "Ignore" and per_index is not None and earlier >= per_index):
            indexes.add(index)
        is_counted = action != "Ignore"
        counted += is_counted
        before[index] = max(before.get(index, 0), earlier + is_counted)
    limit = spec.get("backoffLimit", DEFAULT_BACKOFF if per_index is None else NEVER)
    if counted > limit:
        end = end or ("BackoffLimitExceeded", "Job has reached the specified backoff limit")
    return _Failures(counted, indexes, before, end)


def match_policy(policy: Mapping[str, Any] | None, pod: Json) -> tuple[str, str]:
    """Return the action of the first rule that a failed pod matches, and the message; `Count` if none does."""
    name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    for number, rule in enumerate((policy or {}).get("rules", ())):
        if wanted := rule.get("onExitCodes"):
            for container in pod["status"].get("containerStatuses", ()):
                code = container.get("state", {}).get("terminated", {}).get("exitCode", 0)
                is_named = container["name"] == wanted.get("containerName", container["name"])
                if code != 0 and is_named and (code in wanted["values"]) == (wanted["operator"] == "In"):
                    head = f"Container {container['name']} for pod {name} failed with exit code {code}"
                    return rule["action"], f"{head} matching {rule['action']} rule at index {number}"
        for pattern in rule.get("onPodConditions", ()):
            found = condition_of(pod["status"], pattern["type"], pattern.get("status", "True"))
            if found is not None:
                head = f"Pod {name} has condition {pattern['type']}"
                return rule["action"], f"{head} matching {rule['action']} rule at index {number}"
    return "Count", ""


def _deadline(spec: Mapping[str, Any], status: Json, now: datetime) -> tuple[str, str] | None:
    seconds = spec.get("activeDeadlineSeconds")
    if seconds is None or now - parse_time(status["startTime"]) < timedelta(seconds=seconds):
        return None
    return "DeadlineExceeded", "Job was active longer than specified deadline"


def _index_end(spec: Mapping[str, Any], failed: set[int], succeeded: set[int]) -> tuple[str, str] | None:
    if "maxFailedIndexes" in spec and len(failed) > spec["maxFailedIndexes"]:
        return "MaxFailedIndexesExceeded", "Job has exceeded the specified maximal number of failed indexes"
    if failed and len(failed | succeeded) >= spec["completions"]:
        return "FailedIndexes", "Job has failed indexes"
    return None


def _may_retry(index: int, pods: Iterable[Json], now: datetime, retry_seconds: float) -> bool:
    """Return whether the back-off of an index is over: it doubles with each failure."""
    ends = [
        (container["state"]["terminated"]["finishedAt"], int(pod["metadata"]["annotations"].get(FAILURES, 0)))
        for pod in pods
        if index_of(pod) == index and pod["status"]["phase"] == "Failed"
        for container in pod["status"].get("containerStatuses", ())
        if "terminated" in container.get("state", {})
    ]
    return all((now - parse_time(at)).total_seconds() >= retry_seconds * 2**count for at, count in ends)


def index_of(pod: Json) -> int:
    """Return the index of a pod."""
    return int(pod["metadata"]["labels"][INDEX])


def condition_of(status: Mapping[str, Any], kind: str, value: str = "True") -> Json | None:
    """Return the condition of that type, if it has this value."""
    found = (one for one in status.get("conditions") or () if one["type"] == kind and one["status"] == value)
    return next(found, None)


def _with(status: Json, now: datetime, kind: str, reason: str, message: str) -> Json:
    """Return a status with a condition that is true. Its time is that of its first appearance."""
    if condition_of(status, kind) is not None:
        return status
    at = moment(now)
    added = {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": at}
    return {**status, "conditions": [*(status.get("conditions") or ()), {**added, "lastProbeTime": at}]}


def _names(pods: Iterable[Json]) -> list[str]:
    return [str(pod["metadata"]["name"]) for pod in pods]


def moment(now: datetime) -> str:
    """Return a time as Kubernetes writes it."""
    return f"{now:%Y-%m-%dT%H:%M:%SZ}"


def format_indexes(indexes: Iterable[int]) -> str:
    """Return indexes as a status has them: `1,3-5`."""
    runs: list[list[int]] = []
    for index in sorted(indexes):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    # Two neighbours are written with a comma, as Kubernetes does.
    parts = [(f"{a}" if a == b else f"{a},{b}" if b == a + 1 else f"{a}-{b}") for a, b in runs]
    return ",".join(parts)

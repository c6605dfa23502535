"""What Kubernetes' Job controller does with an Indexed Job, as a pure function of the Job, its pods and the time.

It follows pkg/controller/job of Kubernetes 1.31: `syncJob`, `backoff_utils.go`, `indexed_job_utils.go` and
`pod_failure_policy.go`, with their reasons and messages. A pod has a finalizer until the status counts it. So a deleted
pod counts too, and the counts outlive their pods. It knows Jobs as mops-jobs makes them: with `backoffLimitPerIndex`
and a `podFailurePolicy` that ignores pods or fails the Job. It does not scale Jobs, and makes all pods of a step at
once. It stands in for a cluster: what a test shows with it holds for these rules alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from mopsjobs.utils.times import parse_time

Json = dict[str, Any]

INDEX = "batch.kubernetes.io/job-completion-index"

FINALIZER = "batch.kubernetes.io/job-tracking"
"""Finalizer of a pod that the status of its Job does not count yet. Nothing removes such a pod."""

FAILURES = "batch.kubernetes.io/job-index-failure-count"
"""Annotation of a pod: the counted failures of its index before it."""

IGNORED = "batch.kubernetes.io/job-index-ignored-failure-count"
"""The same for the failures that the policy ignores. They only lengthen the back-off."""


MAX_BACKOFFS = 60
"""The longest back-off, as a multiple of the first one: 10 minutes, and 10 seconds."""

NEVER = 2**31 - 1


class NewPod(NamedTuple):
    """A pod to make: its index, and the failures of the index before it."""

    index: int
    failures: int = 0
    ignored: int = 0


class Plan(NamedTuple):
    """The next steps of the controller."""

    status: Json
    create: Sequence[NewPod] = ()
    delete: Sequence[str] = ()
    """Names of pods to stop."""
    release: Sequence[str] = ()
    """Names of pods that lose their finalizer."""


class _Failures(NamedTuple):
    """The failures that the status does not have yet, and what they mean."""

    counted: Sequence[Json]
    """The failed pods that count."""
    indexes: set[int]
    """All indexes that are not tried again."""
    latest: dict[int, Json]
    """The last failed pod of each index that waits for another one. It keeps its finalizer until there is one."""
    end: tuple[str, str] | None
    """Reason and message, if a rule of the policy ends the Job."""


def plan(job: Mapping[str, Any], pods: Sequence[Json], now: datetime, retry_seconds: float) -> Plan:
    """Return the next status of a Job, the pods to make and to stop, and those that the status counts from now on."""
    spec, status = job["spec"], dict(job.get("status") or {})
    if condition_of(status, "Complete") or condition_of(status, "Failed"):
        return Plan(status, release=_names(pods))
    alive = [pod for pod in pods if pod["status"]["phase"] in ("Pending", "Running")]
    active = [pod for pod in alive if "deletionTimestamp" not in pod["metadata"]]
    terminating = [pod for pod in alive if pod not in active]
    done = {index_of(pod) for pod in _uncounted(pods) if pod["status"]["phase"] == "Succeeded"}
    succeeded = parse_indexes(status.get("completedIndexes")) | done
    failures = _failures(job, pods, {index_of(pod) for pod in active} | succeeded)
    status |= {
        "active": len(active),
        "ready": sum(bool(condition_of(pod["status"], "Ready")) for pod in active),
        "terminating": len(terminating),
        "succeeded": len(succeeded),
        "completedIndexes": format_indexes(succeeded),
        "uncountedTerminatedPods": {},
        "failedIndexes": format_indexes(failures.indexes),
    }
    end = _end(spec, status, failures, len(succeeded))
    if end is not None:
        return _stop(job, status, pods, failures, end, now)
    kept = {pod["metadata"]["name"] for pod in failures.latest.values()}
    ended = [pod for pod in pods if pod["status"]["phase"] in ("Succeeded", "Failed")]
    release = [name for name in _names(ended) if name not in kept]
    status["failed"] = status.get("failed", 0) + sum(pod["metadata"]["name"] in release for pod in failures.counted)
    if spec.get("suspend"):
        status = _with(status, now, "Suspended", "JobSuspended", "Job suspended")
        counts = {"active": 0, "ready": 0, "terminating": len(alive)}
        return Plan({**status, **counts}, delete=_names(active), release=[*release, *_names(active)])
    if condition_of(status, "Suspended"):
        others = [one for one in status["conditions"] if one["type"] != "Suspended"]
        status = _with({**status, "conditions": others}, now, "Suspended", "JobResumed", "Job resumed", "False")
        status.pop("startTime", None)
    status.setdefault("startTime", moment(now))
    if len(succeeded) >= spec["completions"] and not active:
        words = ("CompletionsReached", "Reached expected number of succeeded pods")
        status = _with(status, now, "SuccessCriteriaMet", *words)
        if not terminating:
            status = _with({**status, "completionTime": moment(now)}, now, "Complete", *words)
        return Plan(status, release=release)
    create = _pods_to_create(job, pods, succeeded, failures, now, retry_seconds)
    return Plan(status, create=create, release=release)


def _stop(
    job: Mapping[str, Any], status: Json, pods: Sequence[Json], failures: _Failures, end: tuple[str, str], now: datetime
) -> Plan:
    """Return the steps of a Job that fails: its pods stop first, and count as failed."""
    alive = [pod for pod in pods if pod["status"]["phase"] in ("Pending", "Running")]
    policy = job["spec"]["podFailurePolicy"]
    stopped = [pod for pod in _uncounted(alive) if match_policy(policy, pod)[0] != "Ignore"]
    failed = status.get("failed", 0) + len(failures.counted) + len(stopped)
    status = _with(status, now, "FailureTarget", *end)
    status |= {"active": 0, "ready": 0, "terminating": len(alive), "failed": failed}
    if not alive:
        status = _with(status, now, "Failed", *end)
    active = [pod for pod in alive if "deletionTimestamp" not in pod["metadata"]]
    return Plan(status, delete=_names(active), release=_names(_uncounted(pods)))


def _end(spec: Mapping[str, Any], status: Json, failures: _Failures, succeeded: int) -> tuple[str, str] | None:
    """Return why a Job fails, as reason and message; None if it does not."""
    target = condition_of(status, "FailureTarget")
    if target is not None:
        return target["reason"], target["message"]
    if failures.end is None and failures.indexes and len(failures.indexes) + succeeded >= spec["completions"]:
        return "FailedIndexes", "Job has failed indexes"
    return failures.end


def _failures(job: Mapping[str, Any], pods: Sequence[Json], busy: set[int]) -> _Failures:
    """Return the failures among the pods.

    Args:
        job: the Job.
        pods: its pods.
        busy: the indexes that have succeeded or have an active pod.
    """
    spec, counted, end = job["spec"], [], None
    indexes = parse_indexes((job.get("status") or {}).get("failedIndexes"))
    failed = [pod for pod in pods if pod["status"]["phase"] == "Failed"]
    for pod in failed:
        action, message = match_policy(spec["podFailurePolicy"], pod)
        if action == "FailJob":
            end = end or ("PodFailurePolicy", message)
        if FINALIZER in pod["metadata"].get("finalizers", ()) and action != "Ignore":
            counted.append(pod)
            if note_of(pod, FAILURES) >= spec["backoffLimitPerIndex"]:
                indexes.add(index_of(pod))
    latest: dict[int, Json] = {}
    for pod in _uncounted(failed):
        index = index_of(pod)
        if index not in busy | indexes:
            latest[index] = max(latest.get(index, pod), pod, key=lambda one: (_tries(one), _finished_at(one)))
    return _Failures(counted, indexes, latest, end)


def _pods_to_create(
    job: Mapping[str, Any],
    pods: Sequence[Json],
    succeeded: set[int],
    failures: _Failures,
    now: datetime,
    retry_seconds: float,
) -> list[NewPod]:
    """Return the pods to make now. An index in its back-off takes the place of a later one.

    With a policy of pod failures, which needs exit codes, a pod that is being stopped keeps its place until its end.
    """
    spec = job["spec"]
    taken = [pod for pod in pods if pod["status"]["phase"] in ("Pending", "Running")]
    room = min(spec["completions"] - len(succeeded), spec["parallelism"]) - len(taken)
    busy = {index_of(pod) for pod in taken} | succeeded | failures.indexes
    found = []
    for index in [index for index in range(spec["completions"]) if index not in busy][: max(0, room)]:
        last = failures.latest.get(index)
        if last is None:
            found.append(NewPod(index))
        elif (now - _finished_at(last)).total_seconds() >= _backoff(_tries(last) + 1, retry_seconds):
            is_ignored = match_policy(spec["podFailurePolicy"], last)[0] == "Ignore"
            failed, ignored = note_of(last, FAILURES), note_of(last, IGNORED)
            found.append(NewPod(index, failed + (not is_ignored), ignored + is_ignored))
    return found


def match_policy(policy: Mapping[str, Any], pod: Json) -> tuple[str, str]:
    """Return the action of the first rule that a failed pod matches, and the message; `Count` if none does."""
    name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    for number, rule in enumerate(policy["rules"]):
        heads = [
            f"Pod {name} has condition {pattern['type']}"
            for pattern in rule.get("onPodConditions", ())
            if condition_of(pod["status"], pattern["type"], pattern["status"]) is not None
        ]
        wanted = rule.get("onExitCodes", {"containerName": None})
        for container in pod["status"].get("containerStatuses", ()):
            code = container.get("state", {}).get("terminated", {}).get("exitCode", 0)
            if container["name"] == wanted["containerName"] and code in wanted["values"]:
                heads.append(f"Container {container['name']} for pod {name} failed with exit code {code}")
        if heads:
            return rule["action"], f"{heads[0]} matching {rule['action']} rule at index {number}"
    return "Count", ""


def _backoff(failures: int, retry_seconds: float) -> float:
    """Return the seconds from a failure to the next pod. They double with each failure."""
    return retry_seconds * min(2 ** max(0, failures - 1), MAX_BACKOFFS) if failures else 0.0


def _tries(pod: Json) -> int:
    return note_of(pod, FAILURES) + note_of(pod, IGNORED)


def _finished_at(pod: Json) -> datetime:
    """Return when a pod ended: its last container, else when it was no longer ready, was deleted or was created."""
    states = [one.get("state", {}).get("terminated", {}) for one in pod["status"].get("containerStatuses", ())]
    ends = [state.get("finishedAt") for state in states]
    if ends and all(ends):
        return parse_time(max(ends))
    unready = condition_of(pod["status"], "Ready", "False") or {}
    metadata = pod["metadata"]
    if not unready.get("lastTransitionTime") and "deletionTimestamp" in metadata:
        grace = timedelta(seconds=metadata.get("deletionGracePeriodSeconds", 0))
        return parse_time(metadata["deletionTimestamp"]) - grace
    return parse_time(unready.get("lastTransitionTime") or metadata["creationTimestamp"])


def index_of(pod: Json) -> int:
    """Return the index of a pod."""
    return int(pod["metadata"]["labels"][INDEX])


def note_of(pod: Json, name: str) -> int:
    """Return the number in an annotation of a pod; 0 without it."""
    return int(pod["metadata"].get("annotations", {}).get(name, 0))


def condition_of(status: Mapping[str, Any], kind: str, value: str = "True") -> Json | None:
    """Return the condition of that type, if it has this value."""
    found = (one for one in status.get("conditions") or () if one["type"] == kind and one["status"] == value)
    return next(found, None)


def _uncounted(pods: Iterable[Json]) -> list[Json]:
    return [pod for pod in pods if FINALIZER in pod["metadata"].get("finalizers", ())]


def _with(status: Json, now: datetime, kind: str, reason: str, message: str, value: str = "True") -> Json:
    """Return a status with a condition. Its time is that of its first appearance."""
    if condition_of(status, kind, value) is not None:
        return status
    at = moment(now)
    added = {"type": kind, "status": value, "reason": reason, "message": message, "lastTransitionTime": at}
    return {**status, "conditions": [*(status.get("conditions") or ()), {**added, "lastProbeTime": at}]}


def _names(pods: Iterable[Json]) -> list[str]:
    return [str(pod["metadata"]["name"]) for pod in pods]


def moment(now: datetime) -> str:
    """Return a time as Kubernetes writes it."""
    return f"{now:%Y-%m-%dT%H:%M:%SZ}"


def parse_indexes(text: str | None) -> set[int]:
    """Return the indexes in a text like `1,3-5`."""
    found: set[int] = set()
    for part in filter(None, (text or "").split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


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

"""Tell from the pods of a Job why they do not run, or were stopped: what is wrong now before what was wrong once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from mopsjobs.engines.base import ShardEnd
from mopsjobs.engines.kubernetes.client import (
    Cluster,
    MissingError,
    Object,
    creation_time,
    field,
    shard_of,
    true_conditions,
)
from mopsjobs.engines.kubernetes.logs import has_ended
from mopsjobs.engines.kubernetes.manifest import CONTAINER, MAX_SHARDS, QUEUE
from mopsjobs.errors import EngineError
from mopsjobs.utils.text import cut_in_the_middle, parse_whole_number
from mopsjobs.utils.times import parse_time

OOM_KILLED = "OOMKilled"
"""The reason of Kubernetes for the end of a container that the kernel killed for its memory. Its exit code is 137."""

START_ERROR = "StartError"
"""The reason of Kubernetes for a container whose command could not be started. It has no log."""

EVICTED = "Evicted"

NO_PODS = "NoPods"
"""The reason of a Job that has no pods. An event of the Job may say why."""

STARTING = (None, "ContainerCreating", "PodInitializing")
"""Reasons of a container that waits, and is about to start."""


def container_starts(pod: Object) -> Iterator[datetime]:
    """Yield when the containers of a pod began, in their last and in their present run."""
    for state in _states(pod):
        for run in (state.get("running"), state.get("terminated")):
            if run and run.get("startedAt"):
                yield parse_time(run["startedAt"])


def memory_problem(pods: Iterable[Object]) -> tuple[str, str] | None:
    """Return that pods of a Job were killed for their memory, as a word and a sentence; None if none was."""
    killed = sum(_was_killed(pod) for pod in pods)
    if not killed:
        return None
    return OOM_KILLED, f"{killed} of its pods exceeded the memory limit and were killed (exit code 137)"


def open_shards(pods: Iterable[Object]) -> set[int]:
    """Return the shards whose newest pod has not succeeded."""
    return {shard for shard, pod in _newest(pods).items() if field(pod, "status.phase") != "Succeeded"}


def present_problem(pods: Sequence[Object], now: datetime) -> tuple[str, str | None] | None:
    """Return why a pod of a Job does not run now, as a word and a sentence; None if each runs or is about to."""
    return next(filter(None, (_pod_problem(pod, now) for pod in _newest(pods).values())), None)


def start_of(pods: Iterable[Object]) -> tuple[str, str] | None:
    """Return that a pod is about to start, as a word and a sentence; None if none is."""
    for pod in pods:
        if field(pod, "status.phase") == "Pending":
            reasons = (field(container, "state.waiting.reason") for container, _ in _containers(pod))
            return next(filter(None, reasons), "Pending"), "a pod is being started"  # each retry has another name
    return None


def _newest(pods: Iterable[Object]) -> dict[int, Object]:
    return {shard_of(pod): pod for pod in sorted(pods, key=creation_time)}


def _pod_problem(pod: Object, now: datetime) -> tuple[str, str | None] | None:
    """Return why a pod does not run, as a word of kubectl and a sentence.

    None if it is about to start, runs or has ended.
    """
    if has_ended(pod):
        return None
    # The time of a deletion is the end of the grace period. Until then, the pod stops as any other.
    delete_at = field(pod, "metadata.deletionTimestamp")
    name, node = field(pod, "metadata.name"), field(pod, "spec.nodeName")
    where = f"{name} on node {node}" if node else name
    if delete_at is not None and parse_time(delete_at) <= now:
        return "Terminating", f"pod {where} is being stopped, and no other takes its place before its end"
    for container, prefix in _containers(pod):
        waiting = field(container, "state.waiting")
        if waiting and waiting.get("reason") not in STARTING:
            return f"{prefix}{waiting['reason']}", waiting.get("message")
    for condition in field(pod, "status.conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return condition.get("reason") or "Unschedulable", condition.get("message")
        # A kubelet gives a reason. Without one, the control plane has not heard of the node for a while.
        is_lost = condition["type"] == "Ready" and condition["status"] == "False" and not condition.get("reason")
        if is_lost and field(pod, "status.phase") == "Running":
            return "NodeNotReady", f"the node of pod {where} does not answer; its runner may go on"
    return _left_over(pod, where)


def _left_over(pod: Object, where: str) -> tuple[str, str] | None:
    """Return that only containers of others run on in a pod, which keeps its shard from its end; None if not so."""
    states = {one.get("name"): one.get("state") or {} for one in field(pod, "status.containerStatuses") or ()}
    code = field(states.get(CONTAINER), "terminated.exitCode")
    others = [str(name) for name, state in states.items() if "running" in state]
    if code is None or not others:
        return None
    return "RunnerEnded", f"the runner of pod {where} ended (exit code {code}), but container {others[0]} runs on"


def _containers(pod: Object) -> list[tuple[Object, str]]:
    """Return the containers of a pod in the order of their start, and what kubectl puts in front of their reasons."""
    first = [(container, "Init:") for container in field(pod, "status.initContainerStatuses") or ()]
    return [*first, *((container, "") for container in field(pod, "status.containerStatuses") or ())]


def _states(pod: Object) -> Iterator[Object]:
    """Yield the states of the runner of a pod, of its last and of its present run; in a pod of another program, of all.

    A cluster adds containers, and their ends are not those of tasks.
    """
    containers = field(pod, "status.containerStatuses") or ()
    for container in [one for one in containers if one.get("name") == CONTAINER] or containers:
        yield from filter(None, (container.get("lastState"), container.get("state")))


def _was_killed(pod: Object) -> bool:
    return any(field(state, "terminated.reason") == OOM_KILLED for state in _states(pod))


def _disruption(pod: Object) -> str | None:
    """Return the reason for which the cluster removed a pod, such as `PreemptionByScheduler`; None if it did not."""
    reason: str | None = true_conditions(field(pod, "status") or {}).get("DisruptionTarget", {}).get("reason")
    return reason


def last_stop(pods: Sequence[Object]) -> tuple[str, str] | None:
    """Return why the cluster last stopped a pod, and how many it stopped for that reason.

    The ends of earlier pods of a shard no longer matter when a later one has succeeded.
    """
    shards = open_shards(pods)
    pods = [pod for pod in pods if shard_of(pod) in shards]
    evicted = [pod for pod in pods if field(pod, "status.reason") == EVICTED]
    killed = [pod for pod in pods if _was_killed(pod)]
    last = max(evicted, key=creation_time, default=None)
    if last is None or any(creation_time(pod) > creation_time(last) for pod in killed):
        return memory_problem(killed)
    reason = field(last, "status.message") or "no reason given"
    return EVICTED, f"{len(evicted)} of its pods were evicted; the last: {reason}"


MAX_SHOWN = 3
"""Shards that a sentence names."""

MAX_MESSAGE = 200
"""Characters of the words of a node for why a container ended."""

NO_POD = "FailedIndexes"
"""The reason of a failed shard whose pod is gone."""


def lost_shards(status: Object, pods: Sequence[Object]) -> tuple[ShardEnd, ...]:
    """Return the shards of a Job that ended before their tasks, by the Job and by the last pod of each.

    Args:
        status: the status of the Job.
        pods: its pods, by shard and by age.
    """
    last = {shard_of(pod): pod for pod in pods}
    failed = {shard for shard, pod in last.items() if field(pod, "status.phase") == "Failed"}
    failed |= set(_parse_indexes(status.get("failedIndexes") or ""))
    return tuple(_shard_end(shard, last.get(shard)) for shard in sorted(failed))


def ended_shards(status: Object, pods: Sequence[Object]) -> tuple[ShardEnd, ...]:
    """Return those of `lost_shards` that the Job does not try again."""
    final = set(_parse_indexes(status.get("failedIndexes") or ""))
    return tuple(end for end in lost_shards(status, pods) if end.shard in final)


def describe_shards(lost: Sequence[ShardEnd]) -> str:
    """Return how shards ended, the first ones by name."""
    shown = [end.describe() for end in lost[:MAX_SHOWN]]
    shown += [f"{len(lost) - MAX_SHOWN:,} more"] if len(lost) > MAX_SHOWN else []
    return ", ".join(shown)


def _shard_end(shard: int, pod: Object | None) -> ShardEnd:
    if pod is None:
        return ShardEnd(shard, NO_POD)
    pod_reason, disrupted = field(pod, "status.reason"), _disruption(pod)
    # The end of the runner is the one that counts, if it has begun.
    for container, prefix in sorted(_containers(pod), key=lambda one: one[0].get("name") != CONTAINER):
        ended = field(container, "state.terminated") or {}
        if code := ended.get("exitCode"):
            # That of the pod, such as `DeadlineExceeded`: its container does not know it, and was only stopped.
            reason = disrupted or pod_reason or prefix + (ended.get("reason") or "Error")
            # Of another container, no task is to blame.
            is_own, name = container.get("name") == CONTAINER, container.get("name")
            words = filter(None, (None if is_own else f"container {name}", _message(ended.get("message"))))
            is_oom = is_own and ended.get("reason") == OOM_KILLED
            return ShardEnd(shard, reason, code, is_oom, ": ".join(words) or None)
    return ShardEnd(shard, pod_reason or disrupted or NO_POD, message=_message(field(pod, "status.message")))


def _message(text: str | None) -> str | None:
    """Return the words of a node in one line; None if there are none."""
    return cut_in_the_middle(" ".join((text or "").split()), MAX_MESSAGE) or None


def _parse_indexes(text: str) -> Iterator[int]:
    """Yield the indexes in a text like `1,3-5`, as far as it is one."""
    for part in text.split(","):
        first, _, last = part.partition("-")
        begin, end = (parse_whole_number(word, 0, MAX_SHARDS) for word in (first, last or first))
        if begin is not None and end is not None:
            yield from range(begin, end + 1)


SUSPENDED = "Suspended"
"""The reason of a Job that may not run yet. Its pods are not gone: they do not exist yet."""

VERSIONS = ("v1beta2", "v1beta1")
"""Versions of Kueue's API, the newest first. Kueue 0.15 brought v1beta2, and Kueue 0.20 no longer serves v1beta1."""


def why_suspended(cluster: Cluster, job: Object, namespace: str) -> str:
    """Return what a suspended Job waits for, in a sentence. Kueue suspends the Jobs of its queues until there is room.

    What a role may not read is left out.
    """
    queue = (field(job, "metadata.labels") or {}).get(QUEUE)
    if queue is None:
        return "the Job is suspended"
    waits, selector = f"the Job waits in queue {queue} of Kueue", f"kueue.x-k8s.io/job-uid={field(job, 'metadata.uid')}"
    for version in VERSIONS:
        path = f"/apis/kueue.x-k8s.io/{version}/namespaces/{namespace}/workloads"
        try:
            workloads = cluster.items(path, {"labelSelector": selector})
        except MissingError:
            continue
        except EngineError:
            return waits
        reason = _reason(workloads[0]) if workloads else None
        return waits + ("" if reason is None else f": {reason}")
    return f"{waits}, which the cluster at {cluster.server} does not have"


def _reason(workload: Object) -> str | None:
    """Return why Kueue does not start a Workload; None if it gives no reason."""
    with contextlib.suppress(TypeError, AttributeError, LookupError):  # of another version
        for condition in workload["status"]["conditions"]:
            if condition["type"] == "QuotaReserved" and condition["status"] == "False":
                return " ".join(str(condition["message"]).split()) or None
    return None

"""Tell from the pods of a Job why they do not run, or were stopped: what is wrong now before what was wrong once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from mopsjobs.engines.base import ShardEnd
from mopsjobs.engines.kubernetes.client import Object, creation_time, field, shard_of, true_conditions
from mopsjobs.engines.kubernetes.logs import has_ended
from mopsjobs.engines.kubernetes.manifest import CONTAINER, MAX_SHARDS
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


def pod_problem(pods: Sequence[Object], *, is_running: bool, now: datetime) -> tuple[str | None, str | None]:
    """Return why the pods of a Job do not run now, else why the last one was stopped, as a word and a sentence."""
    problem = next(filter(None, (_start_problem(pod, now) for pod in _newest(pods).values())), None)
    if problem is None:
        # The ends of earlier pods of a shard no longer matter when a later one has succeeded.
        shards = open_shards(pods)
        problem = _last_stop([pod for pod in pods if shard_of(pod) in shards])
    if problem is None and not pods and not is_running:
        problem = NO_PODS, "it has no pods"
    return problem or (None, None)


def _newest(pods: Iterable[Object]) -> dict[int, Object]:
    return {shard_of(pod): pod for pod in sorted(pods, key=creation_time)}


def _start_problem(pod: Object, now: datetime) -> tuple[str, str | None] | None:
    """Return why a pod does not run, as a word of kubectl and a sentence.

    None if it is about to start, runs or has ended.
    """
    if has_ended(pod):
        return None
    # The time of a deletion is the end of the grace period. Until then, the pod stops as any other.
    delete_at = field(pod, "metadata.deletionTimestamp")
    if delete_at is not None and parse_time(delete_at) <= now:
        name, node = field(pod, "metadata.name"), field(pod, "spec.nodeName")
        where = f"{name} on node {node}" if node else name
        return "Terminating", f"pod {where} is being stopped, and no other takes its place before its end"
    for container, prefix in _containers(pod):
        waiting = field(container, "state.waiting")
        if waiting and waiting.get("reason") not in STARTING:
            return f"{prefix}{waiting['reason']}", waiting.get("message")
    for condition in field(pod, "status.conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return condition.get("reason") or "Unschedulable", condition.get("message")
    return None


def _containers(pod: Object) -> list[tuple[Object, str]]:
    """Return the containers of a pod in the order of their start, and what kubectl puts in front of their reasons."""
    first = [(container, "Init:") for container in field(pod, "status.initContainerStatuses") or ()]
    return [*first, *((container, "") for container in field(pod, "status.containerStatuses") or ())]


def _states(pod: Object) -> Iterator[Object]:
    """Yield the states of containers of a pod, of their last and of their present run."""
    for container in field(pod, "status.containerStatuses") or ():
        yield from filter(None, (container.get("lastState"), container.get("state")))


def _was_killed(pod: Object) -> bool:
    return any(field(state, "terminated.reason") == OOM_KILLED for state in _states(pod))


def _disruption(pod: Object) -> str | None:
    """Return the reason for which the cluster removed a pod, such as `PreemptionByScheduler`; None if it did not."""
    reason: str | None = true_conditions(field(pod, "status") or {}).get("DisruptionTarget", {}).get("reason")
    return reason


def _last_stop(pods: Sequence[Object]) -> tuple[str, str] | None:
    """Return why the cluster last stopped a pod, and how many it stopped for that reason."""
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
            message = cut_in_the_middle(" ".join((ended.get("message") or "").split()), MAX_MESSAGE) or None
            # Of another container, no task is to blame.
            is_oom = container.get("name") == CONTAINER and ended.get("reason") == OOM_KILLED
            return ShardEnd(shard, reason, code, is_oom, message)
    return ShardEnd(shard, pod_reason or disrupted or NO_POD)


def _parse_indexes(text: str) -> Iterator[int]:
    """Yield the indexes in a text like `1,3-5`, as far as it is one."""
    for part in text.split(","):
        first, _, last = part.partition("-")
        begin, end = (parse_whole_number(word, 0, MAX_SHARDS) for word in (first, last or first))
        if begin is not None and end is not None:
            yield from range(begin, end + 1)

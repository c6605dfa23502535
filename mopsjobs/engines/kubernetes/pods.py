"""Tell from the pods of a Job why they do not run, or were stopped: what is wrong now before what was wrong once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from mopsjobs.engines.base import EngineState, ShardEnd
from mopsjobs.engines.kubernetes.client import creation_time, shard_of
from mopsjobs.engines.kubernetes.manifest import CONTAINER, MAX_SHARDS
from mopsjobs.utils.text import cut_in_the_middle, parse_whole_number

if TYPE_CHECKING:
    from lightkube.models.batch_v1 import JobStatus
    from lightkube.models.core_v1 import ContainerStatus
    from lightkube.resources.core_v1 import Pod

OOM_KILLED = "OOMKilled"
"""The reason of Kubernetes for the end of a container that the kernel killed for its memory. Its exit code is 137."""

START_ERROR = "StartError"
"""The reason of Kubernetes for a container whose command could not be started. It has no log."""

EVICTED = "Evicted"

NO_PODS = "NoPods"
"""The reason of a Job that has no pods. An event of the Job may say why."""

STARTING = (None, "ContainerCreating", "PodInitializing")
"""Reasons of a container that waits, and is about to start."""


def container_starts(pod: Pod) -> Iterator[datetime]:
    """Yield when the containers of a pod began, in their last and in their present run."""
    for container in () if pod.status is None else pod.status.containerStatuses or ():
        for state in (container.lastState, container.state):
            for run in () if state is None else (state.running, state.terminated):
                if run is not None and run.startedAt is not None:
                    yield run.startedAt


def memory_problem(pods: Iterable[Pod]) -> tuple[str, str] | None:
    """Return that pods of a Job were killed for their memory, as a word and a sentence; None if none was."""
    killed = [pod for pod in pods if OOM_KILLED in _end_reasons(pod)]
    if not killed:
        return None
    return OOM_KILLED, f"{len(killed)} of its pods exceeded the memory limit and were killed (exit code 137)"


def open_shards(pods: Iterable[Pod]) -> set[int]:
    """Return the shards whose newest pod has not succeeded."""
    newest = {shard_of(pod): pod for pod in sorted(pods, key=creation_time)}
    return {shard for shard, pod in newest.items() if pod.status is None or pod.status.phase != "Succeeded"}


def pod_problem(pods: Sequence[Pod], *, is_running: bool, now: datetime) -> tuple[str | None, str | None]:
    """Return why the pods of a Job do not run now, else why the last one was stopped, as a word and a sentence."""
    newest = {shard_of(pod): pod for pod in sorted(pods, key=creation_time)}
    for pod in newest.values():
        reason, detail = _start_problem(pod, now)
        if reason is not None:
            return reason, detail
    # The ends of earlier pods of a shard no longer matter when a later one has succeeded.
    shards = open_shards(pods)
    problem = _last_stop([pod for pod in pods if shard_of(pod) in shards])
    if problem is not None:
        return problem
    return (NO_PODS, "it has no pods") if not pods and not is_running else (None, None)


def _start_problem(pod: Pod, now: datetime) -> tuple[str | None, str | None]:
    """Return why a pod does not run, as a word of kubectl and a sentence.

    None if it is about to start, runs or has ended.
    """
    if pod.status is None or has_ended(pod):
        return None, None
    # The time of a deletion is the end of the grace period. Until then, the pod stops as any other.
    delete_at = None if pod.metadata is None else pod.metadata.deletionTimestamp
    if pod.metadata is not None and delete_at is not None and delete_at.timestamp() <= now.timestamp():
        node = "" if pod.spec is None or pod.spec.nodeName is None else f" on node {pod.spec.nodeName}"
        return (
            "Terminating",
            f"pod {pod.metadata.name}{node} is being stopped, and no other takes its place before its end",
        )
    for container, prefix in container_statuses(pod):
        waiting = None if container.state is None else container.state.waiting
        if waiting is not None and waiting.reason not in STARTING:
            return prefix + str(waiting.reason), waiting.message
    for condition in pod.status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            return condition.reason, condition.message
    return None, None


def container_statuses(pod: Pod) -> list[tuple[ContainerStatus, str]]:
    """Return the containers of a pod in the order of their start, and what kubectl puts in front of their reasons."""
    if pod.status is None:
        return []
    first = [(container, "Init:") for container in pod.status.initContainerStatuses or ()]
    return [*first, *((container, "") for container in pod.status.containerStatuses or ())]


def has_ended(pod: Pod) -> bool:
    """Return True if all containers of a pod have ended for good."""
    return pod.status is not None and pod.status.phase in ("Succeeded", "Failed")


def disruption(pod: Pod) -> str | None:
    """Return the reason for which the cluster removed a pod, such as `PreemptionByScheduler`; None if it did not."""
    for condition in () if pod.status is None else pod.status.conditions or ():
        if condition.type == "DisruptionTarget" and condition.status == "True":
            return condition.reason
    return None


def _last_stop(pods: Sequence[Pod]) -> tuple[str, str] | None:
    """Return why the cluster last stopped a pod, and how many it stopped for that reason."""
    evicted = [pod for pod in pods if pod.status is not None and pod.status.reason == EVICTED]
    killed = [pod for pod in pods if OOM_KILLED in _end_reasons(pod)]
    last_evicted = max(evicted, key=creation_time, default=None)
    if last_evicted is None or any(creation_time(pod) > creation_time(last_evicted) for pod in killed):
        return memory_problem(killed)
    reason = (None if last_evicted.status is None else last_evicted.status.message) or "no reason given"
    return EVICTED, f"{len(evicted)} of its pods were evicted; the last: {reason}"


def _end_reasons(pod: Pod) -> set[str | None]:
    """Return why containers of a pod ended, in their last and in their present run."""
    containers = () if pod.status is None else pod.status.containerStatuses or ()
    states = [state for container in containers for state in (container.lastState, container.state)]
    return {state.terminated.reason for state in states if state is not None and state.terminated is not None}


MAX_SHOWN = 3
"""Shards that a sentence names."""

MAX_MESSAGE = 200
"""Characters of the words of a node for why a container ended."""

NO_POD = "FailedIndexes"
"""The reason of a failed shard whose pod is gone."""


def lost_shards(status: JobStatus, pods: Sequence[Pod]) -> tuple[ShardEnd, ...]:
    """Return the shards of a Job that ended before their tasks, by the Job and by the last pod of each.

    Args:
        status: the status of the Job.
        pods: its pods, by shard and by age.
    """
    last = {shard_of(pod): pod for pod in pods}
    failed = {shard for shard, pod in last.items() if pod.status is not None and pod.status.phase == "Failed"}
    failed |= set(_parse_indexes(status.failedIndexes or ""))
    return tuple(_shard_end(shard, last.get(shard)) for shard in sorted(failed))


def with_lost_shards(state: EngineState, lost: tuple[ShardEnd, ...]) -> EngineState:
    """Return the state of a failed Job with its failed shards, which the sentence names too."""
    if not lost:
        return state
    detail = ": ".join(filter(None, ((state.detail or "").rstrip("."), describe_shards(lost))))
    return state._replace(detail=detail, lost=lost)


def describe_shards(lost: Sequence[ShardEnd]) -> str:
    """Return how shards ended, the first ones by name."""
    shown = [end.describe() for end in lost[:MAX_SHOWN]]
    shown += [f"{len(lost) - MAX_SHOWN:,} more"] if len(lost) > MAX_SHOWN else []
    return ", ".join(shown)


def _shard_end(shard: int, pod: Pod | None) -> ShardEnd:
    if pod is None or pod.status is None:
        return ShardEnd(shard, NO_POD)
    disrupted = disruption(pod)
    # The end of the runner is the one that counts, if it has begun.
    statuses = sorted(container_statuses(pod), key=lambda one: one[0].name != CONTAINER)
    for container, prefix in statuses:
        ended = None if container.state is None else container.state.terminated
        if ended is not None and ended.exitCode:
            # As `DeadlineExceeded`, which a container does not know: it was only stopped.
            reason = pod.status.reason or prefix + (ended.reason or "Error")
            message = cut_in_the_middle(" ".join((ended.message or "").split()), MAX_MESSAGE) or None
            is_oom = container.name == CONTAINER and ended.reason == OOM_KILLED  # of another one, no task is to blame
            return ShardEnd(shard, disrupted or reason, ended.exitCode, is_oom, message)
    return ShardEnd(shard, pod.status.reason or disrupted or NO_POD)


def _parse_indexes(text: str) -> Iterator[int]:
    """Yield the indexes in a text like `1,3-5`, as far as it is one."""
    for part in text.split(","):
        first, _, last = part.partition("-")
        begin, end = (parse_whole_number(word, 0, MAX_SHARDS) for word in (first, last or first))
        if begin is not None and end is not None:
            yield from range(begin, end + 1)

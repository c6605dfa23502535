"""Read from a Job and its pods which shards failed, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mopsjobs.engines.base import EngineState, ShardEnd
from mopsjobs.engines.kubernetes.client import shard_of
from mopsjobs.engines.kubernetes.manifest import CONTAINER, MAX_SHARDS
from mopsjobs.engines.kubernetes.pods import OOM_KILLED, container_statuses, disruption
from mopsjobs.utils.text import cut_in_the_middle, parse_whole_number

if TYPE_CHECKING:
    from lightkube.models.batch_v1 import JobStatus
    from lightkube.resources.core_v1 import Pod

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

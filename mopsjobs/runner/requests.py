"""How many requests a job sends to a store across a network, from its submission to its end.

The counts of docs/reference/limits.md lie within these ranges, and tests/unit/runner/test_requests.py holds them to it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from mopsjobs.ledger.format import MAX_CHUNK_ATTEMPTS
from mopsjobs.ledger.writer import CHUNK_SECONDS, CHUNK_SHARE
from mopsjobs.runner.reporter import HEARTBEAT_SECONDS, PROGRESS_SECONDS
from mopsjobs.studies.costs import Range
from mopsjobs.studies.packs import MAX_PACKED_BYTES, PACK_BYTES

JOB_WRITES, JOB_LISTINGS, JOB_READS = Range(11, 20), Range(3, 5), Range(8, 18)
"""Of a job besides what its shards send: bundle, manifest, each status with its announcement and its event."""

SHARD_WRITES, SHARD_READS = Range(3, 6), Range(2, 5)
"""Of a shard besides what grows with its tasks: its environment, its first and last report, its events."""


class Requests(NamedTuple):
    """Ranges of counts, by what a bill counts."""

    writes: Range
    listings: Range
    reads: Range


class Load(NamedTuple):
    """The work ahead of the shards of a job."""

    tasks: Range
    seconds: Range
    """How long each of them works."""
    output_bytes: Range
    """Of all outputs together."""
    outputs_per_task: int
    is_packed: bool
    shards: int


def count_requests(load: Load) -> Requests:
    """Return how many requests the job sends. Retries after errors come on top."""
    low, high = (_shard_writes(load, place) for place in (0, 1))
    shards = load.shards
    return Requests(
        Range(JOB_WRITES.low + shards * SHARD_WRITES.low + low, JOB_WRITES.high + shards * SHARD_WRITES.high + high),
        Range(JOB_LISTINGS.low, JOB_LISTINGS.high + shards - 1),
        Range(
            JOB_READS.low + shards * (SHARD_READS.low + load.seconds.low // HEARTBEAT_SECONDS),
            JOB_READS.high + shards * (SHARD_READS.high + load.seconds.high / PROGRESS_SECONDS),
        ),
    )


def _shard_writes(load: Load, place: int) -> float:
    """Return the writes that grow with the tasks: the least (0) or the most (1)."""
    tasks, seconds, size = load.tasks[place], load.seconds[place], load.output_bytes[place]
    outputs = tasks * load.outputs_per_task
    by_size: float = math.ceil(size / PACK_BYTES)
    if not load.is_packed or (outputs and size / outputs > MAX_PACKED_BYTES):
        by_size = outputs
    least = by_size + math.ceil(tasks / MAX_CHUNK_ATTEMPTS)
    reports = load.shards * seconds / HEARTBEAT_SECONDS
    if place == 0:
        return least + math.floor(reports)
    # A pack and a chunk of the ledger at a time, and a report per second: each only if a task has ended since.
    at_times = load.shards * (2 * _waits(seconds) + seconds / PROGRESS_SECONDS)
    return least + math.ceil(min(3 * tasks, at_times) + reports + load.shards)


def _waits(seconds: float) -> float:
    """Return how often a writer of chunks writes in this time."""
    even = CHUNK_SECONDS / CHUNK_SHARE
    return seconds / CHUNK_SECONDS if seconds <= even else (1 + math.log(seconds / even)) / CHUNK_SHARE

"""Counters that only grow: how jobs ended, how long they waited and ran, which syncs failed.

They have rows of their own, so that removing or pruning jobs lowers none. They count what this cache has observed: a
job that had ended, or begun to run, before the first complete sync is not counted. The cache in place of a damaged one
starts at zero, which Prometheus handles as a reset. See docs/decisions/0022-sums-counters-and-pruning.md.
"""

from __future__ import annotations

import json
import sqlite3
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable

from mopsjobs.cache.job_row import JobRow

FINISHED = "finished"
"""Jobs that ended; labels: status, namespace."""
RUN = "run_seconds"
"""Jobs by their run time, from the first task to the end; labels: status, upper bound of the bucket."""
QUEUE = "queue_seconds"
"""Jobs by their waiting time, from the registration to the first task; label: upper bound of the bucket."""
SUM = "_sum"
"""Suffix for the sum of the seconds, without the label of the bucket."""
SYNC_ERRORS = "sync_errors"
"""Syncs that failed, or left records out; label: kind."""

BUCKETS = (60, 300, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400, 129600, 172800)
"""Upper bounds of durations in seconds, from a minute to two days. Longer ones are in the bucket `UNBOUNDED`."""

UNBOUNDED = "+Inf"

Labels = tuple[str | int, ...]
Increments = dict[tuple[str, Labels], float]


_Known = tuple[str, float | None]
"""The status of a job as the cache has it, and when its first task ran."""


def count_rows(connection: sqlite3.Connection, rows: Iterable[JobRow]) -> None:
    """Count what has happened to these jobs since the cache last saw them. Call it before their rows are written.

    The caller holds the transaction. A job that was pruned and comes back with a new version was counted before.
    """
    if connection.execute("SELECT 1 FROM meta WHERE name = 'synced_at'").fetchone() is None:
        return
    rows = list(rows)
    keys = [row.key for row in rows]
    marks = ", ".join("?" * len(keys))
    jobs = connection.execute(f"SELECT key, status, started_ts FROM job WHERE key IN ({marks})", keys)  # noqa: S608 - question marks
    known: dict[str, _Known] = {key: (status, started) for key, status, started in jobs}
    pruned = {key for (key,) in connection.execute(f"SELECT key FROM pruned WHERE key IN ({marks})", keys)}  # noqa: S608
    increments: Increments = defaultdict(float)
    for row in rows:
        if row.key not in pruned:
            _count_row(increments, row, *known.get(row.key, (None, None)))
    add(connection, increments)


def add(connection: sqlite3.Connection, increments: Increments) -> None:
    """Add increments to counters. The caller holds the transaction."""
    connection.executemany(
        "INSERT INTO counter (name, labels, value) VALUES (?, ?, ?)"
        " ON CONFLICT (name, labels) DO UPDATE SET value = value + excluded.value",
        [(name, json.dumps(labels), value) for (name, labels), value in increments.items()],
    )


def read(connection: sqlite3.Connection) -> dict[str, dict[Labels, float]]:
    """Return the values of all counters, by name and labels."""
    counters: dict[str, dict[Labels, float]] = {}
    for name, labels, value in connection.execute("SELECT name, labels, value FROM counter ORDER BY name, labels"):
        counters.setdefault(name, {})[tuple(json.loads(labels))] = value
    return counters


def _count_row(increments: Increments, row: JobRow, status: str | None, started: float | None) -> None:
    """Count what is new since the cache had a job with this status, and this time of its first task."""
    if row.started_ts is not None and row.has_history and started is None:
        _observe(increments, QUEUE, (), row.started_ts - row.created_ts)
    if row.is_active or status == row.status:
        return
    increments[FINISHED, (row.status, row.namespace or "")] += 1
    if row.started_ts is not None and row.ended_ts is not None:
        _observe(increments, RUN, (row.status,), row.ended_ts - row.started_ts)


def _observe(increments: Increments, name: str, labels: Labels, seconds: float) -> None:
    seconds = max(0.0, seconds)  # clocks differ
    index = bisect_left(BUCKETS, seconds)
    bound = BUCKETS[index] if index < len(BUCKETS) else UNBOUNDED
    increments[name, (*labels, bound)] += 1
    increments[name + SUM, labels] += seconds

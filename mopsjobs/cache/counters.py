"""Counts that only ever grow: how jobs ended, how long they waited and ran, which syncs failed.

Kept as rows of their own, so that removing or pruning jobs lowers none. They count what this cache has seen happen: a
job that had ended, or begun to run, before the first complete sync is in none. A rebuilt cache starts anew, which
Prometheus takes for what it is, a reset.
"""

from __future__ import annotations

import json
import sqlite3
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mopsjobs.cache.sync_state import transaction

FINISHED = "finished"
"""Jobs that ended; labels: status, namespace."""
RUN = "run_seconds"
"""Jobs by how long they ran, from the first task to the end; labels: status, upper bound of the bucket."""
QUEUE = "queue_seconds"
"""Jobs by how long they waited, from the registration to the first task; label: upper bound of the bucket."""
SUM = "_sum"
"""Added to a name of those: the seconds in all, without the label of the bucket."""
SYNC_ERRORS = "sync_errors"
"""Syncs that failed, or left records out; label: kind."""
CAS_CONFLICTS = "cas_conflicts"
"""Lost races for a record, of this machine's own writes; label: operation."""

BUCKETS = (60, 300, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400, 129600, 172800)
"""Upper bounds of durations in seconds, from a minute to two days; what is longer is in a bucket without one."""

LONGEST = "+Inf"

Labels = tuple[str | int, ...]
Grown = dict[tuple[str, Labels], float]
"""By how much counters have grown, by name and labels."""


class Seen(NamedTuple):
    """What a record tells that is counted."""

    key: str
    status: str
    is_active: bool
    namespace: str | None
    created: float
    started: float | None
    ended: float | None
    has_history: bool


class _Known(NamedTuple):
    status: str
    started: float | None


def count(connection: sqlite3.Connection, records: Iterable[Seen]) -> None:
    """Count what has happened to these jobs since the cache last saw them. Before their rows are written.

    The caller holds the transaction. A job that was pruned and comes back with a new version has been counted before.
    """
    if connection.execute("SELECT 1 FROM meta WHERE name = 'synced_at'").fetchone() is None:
        return
    records = list(records)
    known, pruned = _before(connection, [one.key for one in records])
    grown: Grown = defaultdict(float)
    for one in records:
        if one.key not in pruned:
            _grow(grown, one, known.get(one.key))
    add(connection, grown)


def add(connection: sqlite3.Connection, grown: Grown) -> None:
    """Add to counters, by name and labels. The caller holds the transaction."""
    connection.executemany(
        "INSERT INTO counter (name, labels, value) VALUES (?, ?, ?)"
        " ON CONFLICT (name, labels) DO UPDATE SET value = value + excluded.value",
        [(name, json.dumps(labels), value) for (name, labels), value in grown.items()],
    )


def add_conflicts(connection: sqlite3.Connection, conflicts: Mapping[str, int]) -> None:
    """Count lost races, by operation, in a transaction of their own."""
    with transaction(connection):
        add(connection, {(CAS_CONFLICTS, (operation,)): lost for operation, lost in conflicts.items()})


def read(connection: sqlite3.Connection) -> dict[str, dict[Labels, float]]:
    """All counters: their values by name and labels."""
    found: dict[str, dict[Labels, float]] = {}
    for name, labels, value in connection.execute("SELECT name, labels, value FROM counter ORDER BY name, labels"):
        found.setdefault(name, {})[tuple(json.loads(labels))] = value
    return found


def _before(connection: sqlite3.Connection, keys: list[str]) -> tuple[dict[str, _Known], set[str]]:
    """What the cache has of these keys, and which of them were pruned."""
    marks = ", ".join("?" * len(keys))
    jobs = connection.execute(f"SELECT key, status, started_ts FROM job WHERE key IN ({marks})", keys)  # noqa: S608 - question marks
    known = {key: _Known(status, started) for key, status, started in jobs}
    pruned = connection.execute(f"SELECT key FROM pruned WHERE key IN ({marks})", keys)  # noqa: S608
    return known, {key for (key,) in pruned}


def _grow(grown: Grown, one: Seen, known: _Known | None) -> None:
    if one.started is not None and one.has_history and (known is None or known.started is None):
        _observe(grown, QUEUE, (), one.started - one.created)
    if one.is_active or (known is not None and known.status == one.status):
        return
    grown[FINISHED, (one.status, one.namespace or "")] += 1
    if one.started is not None and one.ended is not None:
        _observe(grown, RUN, (one.status,), one.ended - one.started)


def _observe(grown: Grown, name: str, labels: Labels, seconds: float) -> None:
    seconds = max(0.0, seconds)  # clocks differ
    place = bisect_left(BUCKETS, seconds)
    bound = BUCKETS[place] if place < len(BUCKETS) else LONGEST
    grown[name, (*labels, bound)] += 1
    grown[name + SUM, labels] += seconds

"""Figures over the whole cache for charts: load over time, how jobs ended, how long they took, owners and labels.

Days are in UTC. All figures come from columns of the rows; no record is parsed.
"""

from __future__ import annotations

import contextlib
import sqlite3
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

from mopsjobs.cache.queries.filters import Filter, where_clauses
from mopsjobs.cache.queries.statistics import Spread, spread_of

DAY = 86400


class Level(NamedTuple):
    """The largest numbers of queued and of running jobs in a part of a window."""

    start: float
    queued: int
    running: int


class Day(NamedTuple):
    """The jobs that ended on a day."""

    start: float
    """When the day begins, in seconds since 1970."""
    ended: Mapping[str, int]
    """Jobs by their final status."""
    queued: Spread
    """Seconds from the registration to the first task, of the jobs that ended on this day."""
    ran: Spread
    """Seconds from the first task to the end."""

    @property
    def failure_rate(self) -> float | None:
        """Return the share of failed jobs among those that ended without being cancelled; None if there are none.

        A cancellation says nothing about how well jobs run.
        """
        counted = sum(self.ended.values()) - self.ended.get("cancelled", 0)
        return _failure_rate(self.ended.get("failed", 0), counted)


class Group(NamedTuple):
    """The jobs of an owner, or with a label."""

    name: str
    jobs: int
    active: int
    failed: int
    cancelled: int

    @property
    def failure_rate(self) -> float | None:
        """Return the share of failed jobs, as for a day."""
        return _failure_rate(self.failed, self.jobs - self.active - self.cancelled)


def _failure_rate(failed: int, counted: int) -> float | None:
    return failed / counted if counted else None


def window_start(days: int, now: float) -> float:
    """Return where a window of that many days begins: at midnight, since today is the last of them."""
    return (now // DAY - days + 1) * DAY


@contextlib.contextmanager
def charted_jobs(connection: sqlite3.Connection, job_filter: Filter) -> Iterator[None]:
    """Collect the times of the jobs that pass a filter in a temporary table of this connection, for the block.

    All figures below are of these jobs. They come from an index with all columns, so that no row with its record is
    read, unless labels are filtered.
    """
    index = "" if job_filter.labels else "INDEXED BY idx_job_created_ts"
    [(condition, values)] = where_clauses(connection, job_filter)
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(
        "CREATE TEMP TABLE charted (id INTEGER PRIMARY KEY, status TEXT, is_active INTEGER, owner TEXT,"
        " created_ts REAL, started_ts REAL, ended_ts REAL, has_history INTEGER)"
    )
    try:
        columns = "rowid, status, is_active, owner, created_ts, started_ts, ended_ts, has_history"
        connection.execute(
            f"INSERT INTO charted SELECT {columns} FROM main.job {index} WHERE {condition}",  # noqa: S608 - constant names
            values,
        )
        yield
    finally:
        connection.execute("DROP TABLE temp.charted")


def levels(connection: sqlite3.Connection, *, since: float, until: float, count: int) -> list[Level]:
    """Return the peaks of queued and of running jobs in each of `count` equal parts of a window.

    A job is queued from its registration until its first task ran, or until it ended without that, and then runs until
    its end. Jobs whose first task ran at an unknown time are left out: see `count_undated`.
    """
    created, left_queue, started, ended = [], [], [], []
    sql = "SELECT created_ts, started_ts, ended_ts FROM charted WHERE created_ts <= ? AND has_history = 1"
    for begin, start, end in connection.execute(sql, (until,)):
        created.append(begin)
        # The clock of one writer may be behind that of another, so no time counts as earlier than the one before.
        if start is not None:
            first_task = max(start, begin)
            left_queue.append(first_task)
            started.append(first_task)
            if end is not None:
                ended.append(max(end, first_task))
        elif end is not None:
            left_queue.append(max(end, begin))
    edges = [since + (until - since) * number / count for number in range(count + 1)]
    peaks = zip(_peaks(created, left_queue, edges), _peaks(started, ended, edges), strict=True)
    return [Level(edge, *peak) for edge, peak in zip(edges, peaks, strict=False)]


def _peaks(begins: list[float], ends: list[float], edges: list[float]) -> list[int]:
    """Return, for each part between two edges, how many intervals overlap at most. No interval includes its end."""
    begins.sort()
    ends.sort()
    peaks = []
    for left, right in pairwise(edges):
        first, last = bisect_right(begins, left), bisect_right(begins, right)
        at_left = first - bisect_right(ends, left)
        after_begins = (
            number - bisect_right(ends, begin) for number, begin in enumerate(begins[first:last], first + 1)
        )
        peaks.append(max(at_left, max(after_begins, default=0)))
    return peaks


def count_undated(connection: sqlite3.Connection) -> int:
    """Count the jobs that `levels` leaves out: their records do not tell when the first task ran, or that none has."""
    return int(connection.execute("SELECT count(*) FROM charted WHERE has_history = 0").fetchone()[0])


def days(connection: sqlite3.Connection, *, since: float, until: float) -> list[Day]:
    """Return what ended on each day from that of `since` to that of `until`, empty days included."""
    first, last = int(since // DAY), int(until // DAY)
    ended: dict[int, Counter[str]] = defaultdict(Counter)
    queued: dict[int, list[float]] = defaultdict(list)
    ran: dict[int, list[float]] = defaultdict(list)
    rows = connection.execute(
        "SELECT status, created_ts, started_ts, ended_ts FROM charted WHERE ended_ts >= ? AND ended_ts < ?",
        (first * DAY, (last + 1) * DAY),
    )
    for status, created, started, end in rows:
        day = int(end // DAY)
        ended[day][status] += 1
        if started is not None:
            queued[day].append(max(started - created, 0.0))
            ran[day].append(max(end - started, 0.0))
    return [Day(day * DAY, ended[day], spread_of(queued[day]), spread_of(ran[day])) for day in range(first, last + 1)]


_COUNTS = "count(*) AS jobs, sum(is_active), sum(status = 'failed'), sum(status = 'cancelled')"


def by_owner(connection: sqlite3.Connection, *, limit: int) -> list[Group]:
    """Return the owners with the most jobs. Jobs without an owner are under the empty name."""
    sql = f"SELECT coalesce(owner, '') AS name, {_COUNTS} FROM charted GROUP BY name ORDER BY jobs DESC, name LIMIT ?"  # noqa: S608
    return [Group(*row) for row in connection.execute(sql, (limit,))]


def by_label(connection: sqlite3.Connection, *, limit: int) -> list[Group]:
    """Return the labels, `key=value`, with the most jobs."""
    sql = (
        f"SELECT label || '=' || value, {_COUNTS} FROM job_label"  # noqa: S608 - constant names
        " CROSS JOIN (SELECT rowid AS id, job_id FROM job) USING (job_id) CROSS JOIN charted USING (id)"
        " GROUP BY label, value ORDER BY jobs DESC, label, value LIMIT ?"
    )
    return [Group(*row) for row in connection.execute(sql, (limit,))]

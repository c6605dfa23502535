"""Figures over the whole cache for charts: load over time, how jobs ended, how long they took, owners and labels.

Days are in UTC. All figures come from columns of the rows; no record is parsed.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mopsjobs.cache.queries.filters import Filter, where_clauses
from mopsjobs.cache.queries.statistics import Spread, spread_of

DAY = 86400


class Level(NamedTuple):
    """The numbers of queued and of running jobs at a moment."""

    at: float
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


@contextlib.contextmanager
def charted_jobs(connection: sqlite3.Connection, job_filter: Filter, since: float) -> Iterator[None]:
    """Collect the times of the jobs that pass a filter in a temporary table of this connection, for the block.

    All figures below are of these jobs: active ones, and those that ended since `since`. They come from an index with
    all columns, so that no row with its record is read, unless labels are filtered.
    """
    index = "" if job_filter.labels else "INDEXED BY idx_job_created_ts"
    [(condition, values)] = where_clauses(connection, job_filter)
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(
        "CREATE TEMP TABLE charted (id INTEGER PRIMARY KEY, status TEXT, is_active INTEGER, owner TEXT,"
        " created_ts REAL, started_ts REAL, ended_ts REAL)"
    )
    try:
        sql = (
            "INSERT INTO charted SELECT rowid, status, is_active, owner, created_ts, started_ts, ended_ts"  # noqa: S608
            f" FROM main.job {index} WHERE (is_active = 1 OR ended_ts >= ?) AND {condition}"
        )
        connection.execute(sql, (since, *values))
        yield
    finally:
        connection.execute("DROP TABLE temp.charted")


def levels(connection: sqlite3.Connection, *, since: float, until: float, step: float) -> list[Level]:
    """Return how many jobs were queued and running at moments `step` seconds apart, from `since` to `until`.

    A job is queued from its registration until its first task ran. A job without a history counts as queued until it
    ended.
    """
    count = max(1, round((until - since) / step))
    changes = {name: [0] * (count + 1) for name in ("queued", "running")}
    more_queued, more_running = changes["queued"], changes["running"]

    def step_of(at: float) -> int:
        """Return the step of a moment. Moments before `since` are in the first step."""
        return min(int((at - since) / step) + 1, count) if at > since else 0

    # Not by GROUP BY, which sorts the rows once per column.
    for created, started, ended in connection.execute("SELECT created_ts, started_ts, ended_ts FROM charted"):
        if created <= until:
            more_queued[step_of(created)] += 1
        if started is not None and started <= until:
            more_queued[step_of(started)] -= 1
            more_running[step_of(started)] += 1
        if ended is not None and ended <= until:
            (more_queued if started is None else more_running)[step_of(ended)] -= 1
    points = []
    queued = running = 0
    for index in range(count + 1):
        queued += changes["queued"][index]
        running += changes["running"][index]
        points.append(Level(since + index * step, max(queued, 0), max(running, 0)))
    return points


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

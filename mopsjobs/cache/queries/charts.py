"""Figures over the whole cache for charts: load over time, how jobs ended, how long they took, and what owners used.

Days are in UTC. All figures come from columns of the rows; no record is parsed.
"""

from __future__ import annotations

import contextlib
import copy
import sqlite3
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import count as count_from
from itertools import pairwise, repeat
from operator import sub
from typing import NamedTuple

from mopsjobs.cache.queries.filters import Filter, where_clauses
from mopsjobs.cache.queries.statistics import SECONDS_PER_DAY, USAGE_SUMS, Spread, UsageSum, spread_of
from mopsjobs.registry.usage import ShardUsage


class Level(NamedTuple):
    """The largest numbers of queued and of running jobs in a part of a window."""

    start: float
    queued: int
    running: int


class Peak(NamedTuple):
    """The largest number of jobs at the same time, and the first moment at which there were as many."""

    jobs: int
    at: float


class Levels(NamedTuple):
    """Queued and running jobs over a window."""

    parts: list[Level]
    queued: Peak
    running: Peak


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


class Owner(NamedTuple):
    """The jobs of an owner, and what they used."""

    name: str
    jobs: int
    active: int
    failed: int
    cancelled: int
    measured: int
    """Jobs whose records tell what they used. The sums are of these; a number is None if none of them has it."""
    cpu_seconds: float | None
    task_seconds: float | None
    held_core_seconds: float | None
    cpu_efficiency: float | None
    max_rss_bytes: int | None

    @property
    def failure_rate(self) -> float | None:
        """Return the share of failed jobs, as for a day."""
        return _failure_rate(self.failed, self.jobs - self.active - self.cancelled)


def _failure_rate(failed: int, counted: int) -> float | None:
    return failed / counted if counted else None


def window_start(days: int, now: float) -> float:
    """Return where a window of that many days begins: at midnight, since today is the last of them."""
    return (now // SECONDS_PER_DAY - days + 1) * SECONDS_PER_DAY


@contextlib.contextmanager
def charted_jobs(connection: sqlite3.Connection, job_filter: Filter) -> Iterator[None]:
    """Collect times and usage of the jobs that pass a filter in a temporary table of this connection, for the block.

    All figures below are of these jobs. They come from an index with all columns, in the order of ends: of a window,
    only its part is read. No row with its record is read, unless labels are filtered.
    """
    index = "" if job_filter.labels else "INDEXED BY idx_job_times"
    chosen = copy.copy(job_filter)
    chosen.ended_since = None
    [(condition, values)] = where_clauses(connection, chosen)
    # Apart, each of the two parts of a window is a range of the index. As one condition with OR, all of it is read.
    since = job_filter.ended_since
    parts = ["true"] if since is None else ["ended_ts IS NULL AND is_active = 1", f"ended_ts >= {since!r}"]
    found = ", ".join(f"json_extract(usage, '$.{name}')" for name in ShardUsage._fields)
    connection.execute("PRAGMA temp_store = MEMORY")
    times = "status, is_active, owner, created_ts, started_ts, ended_ts, has_history"
    try:
        connection.execute(f"CREATE TEMP TABLE charted ({times}, {', '.join(ShardUsage._fields)}, is_measured)")
        selects = (
            f"SELECT {times}, {found}, iif(usage IS NULL, NULL, 1) FROM main.job {index}"  # noqa: S608 - constant names
            f" WHERE {part} AND {condition}"
            for part in parts
        )
        connection.execute(f"INSERT INTO charted {' UNION ALL '.join(selects)}", values * len(parts))
        yield
    finally:
        connection.execute("DROP TABLE IF EXISTS temp.charted")


def levels(connection: sqlite3.Connection, *, since: float, until: float, count: int) -> Levels:
    """Return the peaks of queued and of running jobs in each of `count` equal parts of a window, and in all of it.

    A job is queued from its registration until its first task ran, or until it ended without that, and then runs until
    its end. Jobs whose first task ran at an unknown time are left out: see `count_undated`.
    """
    # The clock of one writer may be behind that of another, so no time counts as earlier than the one before.
    rows = connection.execute(
        "SELECT created_ts, max(started_ts, created_ts), max(ended_ts, created_ts, coalesce(started_ts, created_ts))"
        " FROM charted WHERE created_ts <= ? AND has_history = 1",
        (until,),
    )
    created: list[float] = []
    started: list[float] = []
    ended: list[float] = []
    ended_in_queue: list[float] = []
    for registered, first_task, end in rows:
        created.append(registered)
        if first_task is not None:
            started.append(first_task)
        if end is not None:
            (ended_in_queue if first_task is None else ended).append(end)
    edges = [since + (until - since) * number / count for number in range(count + 1)]
    running = peaks(started, ended, edges)
    queued = peaks(created, started + ended_in_queue, edges)
    parts = [Level(edge, *both) for edge, *both in zip(edges, queued[0], running[0], strict=False)]
    return Levels(parts, queued[1], running[1])


def peaks(begins: list[float], ends: list[float], edges: Sequence[float]) -> tuple[list[int], Peak]:
    """Return, for each part between two edges, how many intervals overlap at most, and the peak of all parts.

    No interval includes its end. The lists are sorted in place.
    """
    begins.sort()
    ends.sort()
    after_begin = list(map(sub, count_from(1), map(bisect_right, repeat(ends), begins)))
    places = [bisect_right(begins, edge) for edge in edges]
    parts = [
        max(first - bisect_right(ends, left), max(after_begin[first:last], default=0))
        for left, (first, last) in zip(edges, pairwise(places), strict=False)
    ]
    most = max(parts)
    part = parts.index(most)
    first = places[part]
    # Only in the first part may as many overlap at the left edge already: a part has its right edge too.
    is_at_edge = first - bisect_right(ends, edges[part]) == most
    return parts, Peak(most, edges[part] if is_at_edge else begins[after_begin.index(most, first)])


def by_status(connection: sqlite3.Connection) -> dict[str, int]:
    """Count the jobs per status."""
    return dict(connection.execute("SELECT status, count(*) FROM charted GROUP BY status").fetchall())


def count_undated(connection: sqlite3.Connection) -> int:
    """Count the jobs that `levels` leaves out: their records do not tell when the first task ran, or that none has."""
    return int(connection.execute("SELECT count(*) FROM charted WHERE has_history = 0").fetchone()[0])


def days(connection: sqlite3.Connection, *, since: float, until: float) -> list[Day]:
    """Return what ended on each day from that of `since` to that of `until`, empty days included."""
    first, last = int(since // SECONDS_PER_DAY), int(until // SECONDS_PER_DAY)
    ended: dict[int, Counter[str]] = defaultdict(Counter)
    queued: dict[int, list[float]] = defaultdict(list)
    ran: dict[int, list[float]] = defaultdict(list)
    rows = connection.execute(
        "SELECT CAST(ended_ts / ? AS INTEGER), status, max(started_ts - created_ts, 0.0),"
        " max(ended_ts - started_ts, 0.0) FROM charted WHERE ended_ts >= ? AND ended_ts < ?",
        (SECONDS_PER_DAY, first * SECONDS_PER_DAY, (last + 1) * SECONDS_PER_DAY),
    )
    for day, status, waited, took in rows:
        ended[day][status] += 1
        if waited is not None:
            queued[day].append(waited)
            ran[day].append(took)
    return [
        Day(day * SECONDS_PER_DAY, ended[day], spread_of(queued[day]), spread_of(ran[day]))
        for day in range(first, last + 1)
    ]


def total_usage(connection: sqlite3.Connection) -> UsageSum:
    """Return what all jobs used, as far as their records tell."""
    sql = f"SELECT NULL, count(*), {USAGE_SUMS} FROM charted WHERE is_measured"  # noqa: S608 - constant names
    return UsageSum(*connection.execute(sql).fetchone())


def by_owner(connection: sqlite3.Connection, *, limit: int) -> list[Owner]:
    """Return the owners with the most jobs, and those that used the most. Jobs without an owner have the empty name."""
    owners = (
        "SELECT coalesce(owner, '') AS name, count(*) AS jobs, sum(is_active), sum(status = 'failed'),"  # noqa: S608
        f" sum(status = 'cancelled'), count(is_measured) AS measured, {USAGE_SUMS} FROM charted GROUP BY name"
    )
    orders = ("jobs DESC, name", "measured > 0 DESC, cpu DESC, name")
    tops = (f"SELECT * FROM (SELECT * FROM owners ORDER BY {order} LIMIT ?)" for order in orders)  # noqa: S608
    sql = f"WITH owners AS MATERIALIZED ({owners}) {' UNION '.join(tops)}"
    return [Owner(*row) for row in connection.execute(sql, (limit, limit))]

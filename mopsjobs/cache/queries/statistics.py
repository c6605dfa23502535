"""Add up jobs of the cache that pass a filter: by status, owner and day, how long they took, and what they used.

The figures of the charts follow: load over time, and what owners used. Days are in UTC. All figures come
from columns of the rows. Only the records of jobs with a budget are parsed.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import sqlite3
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain, pairwise, repeat
from itertools import count as count_from
from operator import sub
from typing import NamedTuple

from mopsjobs.cache import totals
from mopsjobs.cache.job_json import NO_UPDATE
from mopsjobs.cache.queries.filters import Filter, is_suspect, where_clauses
from mopsjobs.registry.usage import ShardUsage, usage_from_json


class Tally(NamedTuple):
    """Jobs with the same status and namespace."""

    status: str
    namespace: str
    jobs: int
    verified: int
    missing: int
    unchecked: int


class ActiveTally(NamedTuple):
    """Active jobs with the same status."""

    status: str
    oldest_change: float
    """When the job that has not changed for longest was written, in seconds since 1970."""
    tasks_completed: int
    tasks_remaining: int


def tallies(connection: sqlite3.Connection) -> list[Tally]:
    """Return jobs and their outputs, per status and namespace."""
    rows = connection.execute(
        "SELECT status, namespace, sum(jobs), sum(verified), sum(missing), sum(unchecked) FROM tally WHERE jobs > 0"
        " GROUP BY status, namespace"
    )
    return [Tally(*row) for row in rows]


def active_tallies(connection: sqlite3.Connection) -> list[ActiveTally]:
    """Return sums of the active jobs per status."""
    rows = connection.execute(
        f"SELECT status, min(changed_ts), sum(min(tasks_completed, tasks_total, {totals.MAX_SUMMED})),"  # noqa: S608 - a number
        f" sum(min(max(tasks_total - tasks_completed, 0), {totals.MAX_SUMMED}))"
        " FROM job INDEXED BY idx_job_active_tallies WHERE is_active = 1 GROUP BY status"
    )
    return [ActiveTally(*row) for row in rows]


def suspects(connection: sqlite3.Connection, now: float) -> dict[str, int]:
    """Count the active jobs that may be stuck, by the reason; see `job_json`."""
    rows = connection.execute(
        f"SELECT coalesce(suspect, '{NO_UPDATE}'), count(*) FROM job INDEXED BY idx_job_active_tallies"  # noqa: S608
        f" WHERE is_active = 1 AND {is_suspect(connection, now)} GROUP BY 1"
    )
    return dict(rows.fetchall())


def count_unreadable_records(connection: sqlite3.Connection) -> int:
    """Count the records of the registry that cannot be read."""
    return int(connection.execute("SELECT count(*) FROM problem WHERE kind = 'unreadable'").fetchone()[0])


def cache_size(connection: sqlite3.Connection) -> int:
    """Return the size of the cache file in bytes, without its log."""
    (pages,), (page,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
    return int(pages * page)


class Spread(NamedTuple):
    """Durations of a number of jobs: median and 90th percentile are values of real jobs."""

    jobs: int
    median: float | None
    p90: float | None


class Duration(NamedTuple):
    """A duration of jobs, in seconds, and the condition for jobs of which it is known."""

    seconds: str
    condition: str


class OwnerCount(NamedTuple):
    """Counts of the jobs of one owner."""

    owner: str | None
    jobs: int
    active: int
    failed: int


class DayCount(NamedTuple):
    """A day in UTC: how many jobs were registered, and how many ended, by status."""

    day: str
    created: int
    succeeded: int
    partial: int
    failed: int
    cancelled: int


class UsageSum(NamedTuple):
    """The usage of some jobs. A number is None if it was measured of none of them."""

    group: str | None
    """What the jobs have in common: an owner."""
    jobs: int
    """Those that tell what they used."""
    cpu_seconds: float | None
    task_seconds: float | None
    held_core_seconds: float | None
    cpu_efficiency: float | None
    """Processor time per held time, 0 to 1, of the jobs that tell both."""
    max_rss_bytes: int | None


USAGE_SUMS = (
    "sum(1.0 * cpu_seconds) AS cpu, sum(1.0 * task_seconds), sum(1.0 * held_core_seconds),"
    " min(1.0, sum(1.0 * cpu_seconds) / nullif(sum(iif(cpu_seconds IS NULL, NULL, 1.0 * held_core_seconds)), 0)),"
    " max(max_rss_bytes)"
)
"""The usage of some jobs, from columns with that of each; see `UsageSum`."""

DAYS = 30

SECONDS_PER_DAY = 86_400

QUEUE = Duration("max(started_ts - created_ts, 0.0)", "started_ts IS NOT NULL AND has_history = 1")

RUN = Duration("max(ended_ts - started_ts, 0.0)", "started_ts IS NOT NULL AND ended_ts IS NOT NULL")


def by_status(connection: sqlite3.Connection, job_filter: Filter) -> dict[str, int]:
    """Count the jobs that pass a filter per status."""
    # `+`: the index of the condition is better than the index by status.
    sql, values = _select(connection, job_filter, "+status AS status")
    rows = connection.execute(f"SELECT status, count(*) FROM ({sql}) GROUP BY status", values)  # noqa: S608 - constant names
    return dict(rows.fetchall())


def by_owner(connection: sqlite3.Connection, job_filter: Filter) -> list[OwnerCount]:
    """Count the jobs that pass a filter per owner, most jobs first."""
    sql, values = _select(connection, job_filter, "nullif(owner, '') AS owner, is_active, status")
    rows = connection.execute(
        f"SELECT owner, count(*), sum(is_active), sum(status = 'failed') FROM ({sql})"  # noqa: S608
        " GROUP BY owner ORDER BY count(*) DESC, owner",
        values,
    )
    return [OwnerCount(*row) for row in rows]


def by_day(connection: sqlite3.Connection, job_filter: Filter, now: datetime) -> list[DayCount]:
    """Count the jobs that pass a filter by the days on which they began and ended, today last."""
    first = now.astimezone(UTC).date() - timedelta(days=DAYS - 1)
    begin = datetime(first.year, first.month, first.day, tzinfo=UTC).timestamp()
    counts = _count_by_day(connection, job_filter, begin)
    return [
        DayCount(f"{first + timedelta(days=day)}", *(counts[day, event] for event in DayCount._fields[1:]))
        for day in range(DAYS)
    ]


def _count_by_day(connection: sqlite3.Connection, job_filter: Filter, begin: float) -> Counter[tuple[int, str]]:
    """Count by day, from the first that begins then, and by `created` or the status in which jobs ended."""
    counts: Counter[tuple[int, str]] = Counter()
    for column, event in (("created_ts", "'created'"), ("ended_ts", "status")):
        columns = f"CAST(({column} - {begin!r}) / {SECONDS_PER_DAY!r} AS INTEGER) AS day, {event} AS event"
        sql, values = _select(connection, job_filter, columns, f"{column} >= {begin!r}")
        rows = connection.execute(f"SELECT day, event, count(*) FROM ({sql}) GROUP BY day, event", values)  # noqa: S608
        counts.update({(day, event): jobs for day, event, jobs in rows})
    return counts


def spread(connection: sqlite3.Connection, job_filter: Filter, duration: Duration) -> Spread:
    """Return median and 90th percentile, by the nearest rank, of `QUEUE` or `RUN` over the jobs that pass a filter."""
    sql, values = _select(connection, job_filter, duration.seconds, duration.condition)
    return spread_of(chain.from_iterable(connection.execute(sql, values)))


def spread_of(seconds: Iterable[float]) -> Spread:
    """Return median and 90th percentile of durations, by the nearest rank: always a duration of a real job."""
    durations = sorted(seconds)
    if not durations:
        return Spread(0, None, None)
    return Spread(len(durations), *(durations[_rank(share, len(durations)) - 1] for share in (0.5, 0.9)))


def _rank(share: float, jobs: int) -> int:
    """Return the nearest rank of a share, 1 for the least."""
    return math.ceil(share * jobs)


def usage(connection: sqlite3.Connection, job_filter: Filter) -> UsageSum | None:
    """Return what the jobs that pass a filter used; None if no job tells."""
    sql, values = _select(connection, job_filter, "job_id, usage", "usage IS NOT NULL")
    columns = ", ".join(f"json_extract(usage, '$.{name}') AS {name}" for name in ShardUsage._fields)
    row = connection.execute(f"SELECT NULL, count(*), {USAGE_SUMS} FROM (SELECT {columns} FROM ({sql}))", values)  # noqa: S608
    found = UsageSum(*row.fetchone())
    return found if found.jobs else None


def budget(connection: sqlite3.Connection, job_filter: Filter) -> tuple[int, float, float] | None:
    """Return how many of the jobs that pass a filter have a budget, the seconds that they used, and the hours of all.

    None if none has one.
    """
    from mopsjobs.registry.cpu_budget import budget_of  # here: charts need none

    sql, values = _select(connection, job_filter, "record, usage", "instr(record, '_max_cpu_hours')")
    jobs = [(budget_of(json.loads(record)), used) for record, used in connection.execute(sql, values)]
    found = [(hours, usage_from_json(used).cpu_seconds or 0.0) for hours, used in jobs if hours is not None]
    return (len(found), sum(used for _, used in found), sum(hours for hours, _ in found)) if found else None


def _select(
    connection: sqlite3.Connection, job_filter: Filter, columns: str, condition: str = "true"
) -> tuple[str, list[object]]:
    """Build a SELECT of columns over the jobs that pass a filter and a condition."""
    selects: list[str] = []
    values: list[object] = []
    for where, parameters in where_clauses(connection, job_filter):
        selects.append(f"SELECT {columns} FROM job WHERE {where} AND {condition}")  # noqa: S608 - constant names
        values += parameters
    return " UNION ALL ".join(selects), values


def problems(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """Return key, kind and reason of all invalid records and event chunks in the registry."""
    return connection.execute(
        "SELECT * FROM (SELECT key, kind, reason FROM problem ORDER BY key)"
        " UNION ALL SELECT * FROM (SELECT key, 'unreadable_events', reason FROM event_problems ORDER BY key)"
    ).fetchall()


class Level(NamedTuple):
    """The largest numbers of queued and of running jobs in a part of a window."""

    start: float
    queued: int
    running: int


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


def levels(connection: sqlite3.Connection, *, since: float, until: float, count: int) -> list[Level]:
    """Return the peaks of queued and of running jobs in each of `count` equal parts of a window.

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
    return [Level(edge, *both) for edge, *both in zip(edges, queued, running, strict=False)]


def peaks(begins: list[float], ends: list[float], edges: Sequence[float]) -> list[int]:
    """Return, for each part between two edges, how many intervals overlap at most.

    No interval includes its end. The lists are sorted in place.
    """
    begins.sort()
    ends.sort()
    after_begin = list(map(sub, count_from(1), map(bisect_right, repeat(ends), begins)))
    places = [bisect_right(begins, edge) for edge in edges]
    return [
        max(first - bisect_right(ends, left), max(after_begin[first:last], default=0))
        for left, (first, last) in zip(edges, pairwise(places), strict=False)
    ]


def charted_statuses(connection: sqlite3.Connection) -> dict[str, int]:
    """Count the jobs per status."""
    return dict(connection.execute("SELECT status, count(*) FROM charted GROUP BY status").fetchall())


def count_undated(connection: sqlite3.Connection) -> int:
    """Count the jobs that `levels` leaves out: their records do not tell when the first task ran, or that none has."""
    return int(connection.execute("SELECT count(*) FROM charted WHERE has_history = 0").fetchone()[0])


def total_usage(connection: sqlite3.Connection) -> UsageSum:
    """Return what all jobs used, as far as their records tell."""
    sql = f"SELECT NULL, count(*), {USAGE_SUMS} FROM charted WHERE is_measured"  # noqa: S608 - constant names
    return UsageSum(*connection.execute(sql).fetchone())


def owners_usage(connection: sqlite3.Connection, *, limit: int) -> list[UsageSum]:
    """Return the owners who used the most processor time. Jobs without an owner have the empty name."""
    sql = (
        f"SELECT coalesce(owner, '') AS name, count(*), {USAGE_SUMS} FROM charted WHERE is_measured"  # noqa: S608
        " GROUP BY name ORDER BY cpu DESC, name LIMIT ?"
    )
    return [UsageSum(*row) for row in connection.execute(sql, (limit,))]

"""Sums over jobs of the cache: over all of them from sums that it keeps, in no time; over chosen ones from indexes."""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import NamedTuple

from mopsjobs.cache.job_json import SILENT_SECONDS
from mopsjobs.cache.queries.filters import Filter, where_clauses
from mopsjobs.registry.status import TERMINAL


class Tally(NamedTuple):
    """Jobs that have status, namespace and owner in common."""

    status: str
    namespace: str
    """Empty where the record names none; the same with the owner."""
    owner: str
    jobs: int
    verified: int
    """Outputs that were looked for and are there."""
    missing: int
    """Outputs that were looked for and are not there."""
    unchecked: int
    """Outputs that nobody has looked for yet."""


class ActiveTally(NamedTuple):
    """Active jobs that have a status in common."""

    status: str
    oldest_change: float
    """When the one that has not changed for longest was written, in seconds since 1970."""
    tasks_completed: int
    tasks_remaining: int


class ActiveJob(NamedTuple):
    """An active job, for a series of its own."""

    job_id: str
    name: str | None
    owner: str | None
    created: float
    progress: float | None


def tallies(connection: sqlite3.Connection) -> list[Tally]:
    """How many jobs there are, and how complete their outputs, by status, namespace and owner."""
    rows = connection.execute(
        "SELECT status, namespace, owner, jobs, verified, missing, unchecked FROM tally WHERE jobs > 0"
    )
    return [Tally(*row) for row in rows]


def active_tallies(connection: sqlite3.Connection) -> list[ActiveTally]:
    """What the active jobs add up to, by status."""
    rows = connection.execute(
        "SELECT status, min(changed_ts), sum(min(tasks_completed, tasks_total)),"
        " sum(max(tasks_total - tasks_completed, 0))"
        " FROM job INDEXED BY idx_job_active_tallies WHERE is_active = 1 GROUP BY status"
    )
    return [ActiveTally(*row) for row in rows]


def suspects(connection: sqlite3.Connection, now: float) -> dict[str, int]:
    """How many active jobs may be stuck, by the reason; see `queries.job_view`."""
    rows = connection.execute(
        "SELECT coalesce(suspect, 'no_update'), count(*) FROM job INDEXED BY idx_job_active_tallies"
        " WHERE is_active = 1 AND (suspect IS NOT NULL OR heartbeat_ts < ?) GROUP BY 1",
        (now - SILENT_SECONDS,),
    )
    return dict(rows.fetchall())


def active_jobs(connection: sqlite3.Connection, limit: int) -> list[ActiveJob]:
    """The active jobs, at most so many: those that changed last."""
    rows = connection.execute(
        "SELECT job_id, name, owner, created_ts, progress FROM job WHERE is_active = 1"
        " ORDER BY changed_ts DESC, job_id LIMIT ?",
        (limit,),
    )
    return [ActiveJob(*row) for row in rows]


def unreadable_records(connection: sqlite3.Connection) -> int:
    """How many records of the registry cannot be read."""
    return int(connection.execute("SELECT count(*) FROM problem WHERE kind = 'unreadable'").fetchone()[0])


def size(connection: sqlite3.Connection) -> int:
    """The size of the cache file in bytes, without its log."""
    (pages,), (page,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
    return int(pages * page)


class Spread(NamedTuple):
    """How long something took, over so many jobs; median and 90th percentile are those of jobs there are."""

    jobs: int
    median: float | None
    p90: float | None


class OwnerCount(NamedTuple):
    """What one owner's jobs add up to."""

    owner: str | None
    jobs: int
    active: int
    failed: int


class Day(NamedTuple):
    """A day in UTC: how many jobs were registered, and how many ended in which way."""

    day: str
    created: int
    succeeded: int
    partial: int
    failed: int
    cancelled: int


DAYS = 30
"""Days that are counted one by one, back from today."""


QUEUE = ("started_ts - created_ts", "started_ts IS NOT NULL AND has_history = 1")
"""How long a job waited for its first task: the seconds, and of which jobs."""


RUN = ("ended_ts - started_ts", "started_ts IS NOT NULL AND ended_ts IS NOT NULL")


def by_status(connection: sqlite3.Connection, chosen: Filter) -> dict[str, int]:
    """How many of the chosen jobs have each status."""
    if chosen.is_everything:
        return dict(connection.execute("SELECT status, sum(jobs) FROM tally WHERE jobs > 0 GROUP BY status").fetchall())
    sql, values = _chosen(connection, chosen, "status")
    rows = connection.execute(f"SELECT status, count(*) FROM ({sql}) GROUP BY status", values)  # noqa: S608 - names of ours
    return dict(rows.fetchall())


def by_owner(connection: sqlite3.Connection, chosen: Filter) -> list[OwnerCount]:
    """How many of the chosen jobs each owner has; who has most comes first."""
    values: list[object]
    if chosen.is_everything:
        ended = ", ".join(f"'{status}'" for status in sorted(TERMINAL))
        columns = f"nullif(owner, '') AS owner, jobs, iif(status IN ({ended}), 0, jobs) AS active, status"
        sql, values = f"SELECT {columns} FROM tally WHERE jobs > 0", []  # noqa: S608 - names of ours
    else:
        sql, values = _chosen(connection, chosen, "nullif(owner, '') AS owner, 1 AS jobs, is_active AS active, status")
    rows = connection.execute(
        f"SELECT owner, sum(jobs), sum(active), sum(iif(status = 'failed', jobs, 0)) FROM ({sql})"  # noqa: S608
        " GROUP BY owner ORDER BY sum(jobs) DESC, owner",
        values,
    )
    return [OwnerCount(*row) for row in rows]


def by_day(connection: sqlite3.Connection, chosen: Filter, now: datetime) -> list[Day]:
    """The last days, today last: how many of the chosen jobs began and ended on each."""
    first = now.astimezone(UTC).date() - timedelta(days=DAYS - 1)
    begin = datetime(first.year, first.month, first.day, tzinfo=UTC).timestamp()
    found: Counter[tuple[int, str]] = Counter()
    for column, what in (("created_ts", "'created'"), ("ended_ts", "status")):
        columns = f"CAST(({column} - {begin!r}) / 86400 AS INTEGER) AS day, {what} AS what"
        sql, values = _chosen(connection, chosen, columns, f"{column} >= {begin!r}")
        rows = connection.execute(f"SELECT day, what, count(*) FROM ({sql}) GROUP BY day, what", values)  # noqa: S608
        found.update({(day, what): jobs for day, what, jobs in rows})
    return [
        Day(f"{first + timedelta(days=day)}", *(found[day, what] for what in Day._fields[1:])) for day in range(DAYS)
    ]


def spread(connection: sqlite3.Connection, chosen: Filter, what: tuple[str, str]) -> Spread:
    """Median and 90th percentile, by the nearest rank, of `QUEUE` or `RUN` over the chosen jobs."""
    seconds, condition = what
    sql, values = _chosen(connection, chosen, f"max({seconds}, 0.0)", condition)
    return spread_of(chain.from_iterable(connection.execute(sql, values)))


def spread_of(seconds: Iterable[float]) -> Spread:
    """Median and 90th percentile of durations, by the nearest rank: values that a job has had, never one in between."""
    took = sorted(seconds)
    if not took:
        return Spread(0, None, None)
    return Spread(len(took), *(took[math.ceil(share * len(took)) - 1] for share in (0.5, 0.9)))


def _chosen(
    connection: sqlite3.Connection, chosen: Filter, columns: str, condition: str = "true"
) -> tuple[str, list[object]]:
    """A SELECT of these columns of the chosen jobs for which the condition holds."""
    selects: list[str] = []
    values: list[object] = []
    for where, parameters in where_clauses(connection, chosen):
        selects.append(f"SELECT {columns} FROM job WHERE {where} AND {condition}")  # noqa: S608 - names of ours
        values += parameters
    return " UNION ALL ".join(selects), values


def problems(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """Key, kind and reason of everything in the registry that is no sound record, and no sound chunk of events."""
    return connection.execute(
        "SELECT * FROM (SELECT key, kind, reason FROM problem ORDER BY key)"
        " UNION ALL SELECT * FROM (SELECT key, 'unreadable_events', reason FROM event_problems ORDER BY key)"
    ).fetchall()

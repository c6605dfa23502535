"""Add up jobs of the cache: all of them from its sums, in no time; those that pass a filter from indexes."""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import NamedTuple

from mopsjobs.cache import totals
from mopsjobs.cache.job_json import NO_UPDATE
from mopsjobs.cache.pruning import count_ended
from mopsjobs.cache.queries.filters import Filter, is_suspect, where_clauses
from mopsjobs.registry.status import TERMINAL
from mopsjobs.registry.usage import ShardUsage


class Tally(NamedTuple):
    """Jobs with the same status and namespace."""

    status: str
    namespace: str
    """Empty if the record has none."""
    jobs: int
    verified: int
    """Outputs that were checked and exist."""
    missing: int
    """Outputs that were checked and are missing."""
    unchecked: int
    """Outputs that were not checked yet."""


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
        "SELECT status, min(changed_ts), sum(min(tasks_completed, tasks_total)),"
        " sum(max(tasks_total - tasks_completed, 0))"
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


class StoreCounts(NamedTuple):
    """Counts of the jobs in the registry's store, by the cache."""

    jobs: int
    jobs_ended: int
    """Jobs that ended before the limit that was asked for."""
    jobs_pruned: int
    """Jobs that the registry has and this cache has pruned. They are not among `jobs`."""


class MirroredSizes(NamedTuple):
    """Sizes of what the cache has mirrored."""

    record_bytes: int
    """Of the records as the cache has them."""
    event_chunks: int
    """Chunks of events whose names the cache knows."""
    ledger_chunks: int
    """The same for the ledgers of the jobs whose tasks a view has looked at."""


class Spread(NamedTuple):
    """Durations of a number of jobs: median and 90th percentile are values of real jobs."""

    jobs: int
    median: float | None
    p90: float | None


class Duration(NamedTuple):
    """A duration of jobs, in seconds: an index has just these."""

    seconds: str
    condition: str
    """For the jobs that have it."""
    total: str
    """The sum of `totals.COLUMNS` that counts those jobs."""


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
    """What the jobs have in common: an owner, the value of a label, or the day in UTC on which they were registered."""
    jobs: int
    """Those that tell what they used."""
    cpu_seconds: float | None
    task_seconds: float | None
    held_core_seconds: float | None
    cpu_efficiency: float | None
    """Processor time per held time, 0 to 1, of the jobs that tell both."""
    max_rss_bytes: int | None
    """The largest peak of a task."""


USAGE_GROUPS = {"owner": "nullif(owner, '')", "day": "date(created_ts, 'unixepoch')"}
"""By what usage is summed, besides labels."""

USAGE_SUMS = (
    "sum(cpu_seconds) AS cpu, sum(task_seconds), sum(held_core_seconds),"
    " min(1.0, 1.0 * sum(cpu_seconds) / nullif(sum(iif(cpu_seconds IS NULL, NULL, held_core_seconds)), 0)),"
    " max(max_rss_bytes)"
)
"""The usage of some jobs, from columns with that of each; see `UsageSum`."""

LABEL_GROUP = "label:"

DAYS = 30
"""Days that are counted, up to today."""

SECONDS_PER_DAY = 86_400

QUEUE = Duration("max(started_ts - created_ts, 0.0)", totals.WAS_QUEUED, "queued")
"""The wait for the first task."""

RUN = Duration("max(ended_ts - started_ts, 0.0)", totals.HAS_RUN, "ran")
"""The time from the first task to the end."""


def store_counts(connection: sqlite3.Connection, ended_before: float) -> StoreCounts:
    """Count the jobs of the registry, and those that ended before a time, in seconds since 1970. No row is read."""
    (jobs,) = connection.execute("SELECT coalesce(sum(jobs), 0) FROM tally").fetchone()
    (pruned,) = connection.execute("SELECT count(*) FROM pruned").fetchone()
    return StoreCounts(jobs, count_ended(connection, ended_before), pruned)


def mirrored_sizes(connection: sqlite3.Connection) -> MirroredSizes:
    """Add up the sizes of what is mirrored. This reads every record: some seconds per million."""
    row = connection.execute(
        "SELECT (SELECT coalesce(sum(length(CAST(record AS BLOB))), 0) FROM job),"
        " (SELECT count(*) FROM event_chunk), (SELECT count(*) FROM ledger_chunk)"
    )
    return MirroredSizes(*row.fetchone())


def by_status(connection: sqlite3.Connection, job_filter: Filter) -> dict[str, int]:
    """Count the jobs that pass a filter per status."""
    if job_filter.is_everything:
        return dict(connection.execute("SELECT status, sum(jobs) FROM tally WHERE jobs > 0 GROUP BY status").fetchall())
    # `+`: the index of the condition is better than the index by status.
    sql, values = _select(connection, job_filter, "+status AS status")
    rows = connection.execute(f"SELECT status, count(*) FROM ({sql}) GROUP BY status", values)  # noqa: S608 - constant names
    return dict(rows.fetchall())


def by_owner(connection: sqlite3.Connection, job_filter: Filter) -> list[OwnerCount]:
    """Count the jobs that pass a filter per owner, most jobs first."""
    values: list[object]
    if job_filter.is_everything:
        ended = ", ".join(f"'{status}'" for status in sorted(TERMINAL))
        columns = f"nullif(owner, '') AS owner, jobs, iif(status IN ({ended}), 0, jobs) AS active, status"
        sql, values = f"SELECT {columns} FROM tally WHERE jobs > 0", []  # noqa: S608 - constant names
    else:
        sql, values = _select(
            connection, job_filter, "nullif(owner, '') AS owner, 1 AS jobs, is_active AS active, status"
        )
    rows = connection.execute(
        f"SELECT owner, sum(jobs), sum(active), sum(iif(status = 'failed', jobs, 0)) FROM ({sql})"  # noqa: S608
        " GROUP BY owner ORDER BY sum(jobs) DESC, owner",
        values,
    )
    return [OwnerCount(*row) for row in rows]


def by_day(connection: sqlite3.Connection, job_filter: Filter, now: datetime) -> list[DayCount]:
    """Count the jobs that pass a filter by the days on which they began and ended, today last."""
    first = now.astimezone(UTC).date() - timedelta(days=DAYS - 1)
    begin = datetime(first.year, first.month, first.day, tzinfo=UTC).timestamp()
    count = _count_all_by_day if job_filter.is_everything else _count_by_day
    counts = count(connection, job_filter, begin)
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


def _count_all_by_day(connection: sqlite3.Connection, _: Filter, begin: float) -> Counter[tuple[int, str]]:
    """Return the same for all jobs, in a tenth of the time: a range of an index is counted without reading its rows."""
    counts: Counter[tuple[int, str]] = Counter()
    ended = "SELECT count(*) FROM job WHERE is_active = 0 AND status = ? AND ended_ts >= ? AND ended_ts < ?"
    for day in range(DAYS):
        edges = (begin + day * SECONDS_PER_DAY, begin + (day + 1) * SECONDS_PER_DAY)
        created = connection.execute("SELECT count(*) FROM job WHERE created_ts >= ? AND created_ts < ?", edges)
        (counts[day, "created"],) = created.fetchone()
        for status in DayCount._fields[2:]:
            (counts[day, status],) = connection.execute(ended, (status, *edges)).fetchone()
    return counts


def spread(connection: sqlite3.Connection, job_filter: Filter, duration: Duration) -> Spread:
    """Return median and 90th percentile, by the nearest rank, of `QUEUE` or `RUN` over the jobs that pass a filter."""
    if job_filter.is_everything:
        return _spread_of_all(connection, duration)
    sql, values = _select(connection, job_filter, duration.seconds, duration.condition)
    return spread_of(chain.from_iterable(connection.execute(sql, values)))


def _spread_of_all(connection: sqlite3.Connection, duration: Duration) -> Spread:
    """Return the spread of all jobs: an index has their durations in order."""
    seconds, condition, total = duration
    (jobs,) = connection.execute(f"SELECT coalesce(sum({total}), 0) FROM tally").fetchone()  # noqa: S608 - constants
    if not jobs:
        return Spread(0, None, None)
    ranked = f"SELECT {seconds} FROM job WHERE {condition} ORDER BY {seconds}"  # noqa: S608 - constants
    # The rank is counted from the nearer end.
    (median,) = connection.execute(f"{ranked} LIMIT 1 OFFSET ?", (_rank(0.5, jobs) - 1,)).fetchone()
    (p90,) = connection.execute(f"{ranked} DESC LIMIT 1 OFFSET ?", (jobs - _rank(0.9, jobs),)).fetchone()
    return Spread(jobs, median, p90)


def spread_of(seconds: Iterable[float]) -> Spread:
    """Return median and 90th percentile of durations, by the nearest rank: always a duration of a real job."""
    durations = sorted(seconds)
    if not durations:
        return Spread(0, None, None)
    return Spread(len(durations), *(durations[_rank(share, len(durations)) - 1] for share in (0.5, 0.9)))


def _rank(share: float, jobs: int) -> int:
    """Return the nearest rank of a share, 1 for the least."""
    return math.ceil(share * jobs)


def usage(connection: sqlite3.Connection, job_filter: Filter, by: str | None = None) -> list[UsageSum]:
    """Return what the jobs that pass a filter used, most processor time first.

    Args:
        connection: the cache.
        job_filter: which jobs.
        by: `owner`, `day`, or `label:KEY`; None for one sum of all jobs, or for none if no job tells.
    """
    if by in (None, "owner") and job_filter.is_everything:
        return _usage_of_all(connection, by)
    label = by.removeprefix(LABEL_GROUP) if by is not None and by.startswith(LABEL_GROUP) else None
    group = "NULL" if by is None or label is not None else USAGE_GROUPS[by]
    # `+`: the index of peaks has the jobs with usage, but not the columns.
    sql, values = _select(connection, job_filter, f"job_id, {group} AS grp, usage", "+usage IS NOT NULL")
    if label is not None:
        labels = "(SELECT job_id, value FROM job_label WHERE label = ?)"
        sql = f"SELECT value AS grp, usage FROM ({sql}) LEFT JOIN {labels} USING (job_id)"  # noqa: S608
        values = [*values, label]
    columns = ", ".join(f"json_extract(usage, '$.{name}') AS {name}" for name in ShardUsage._fields)
    rows = connection.execute(
        f"SELECT grp, count(*), {USAGE_SUMS} FROM (SELECT grp, {columns} FROM ({sql}))"  # noqa: S608
        " GROUP BY grp ORDER BY sum(cpu_seconds) DESC, sum(held_core_seconds) DESC, grp",
        values,
    )
    return [UsageSum(*row) for row in rows]


def _usage_of_all(connection: sqlite3.Connection, by: str | None) -> list[UsageSum]:
    """Return what all jobs used, also per owner, from the sums. The largest peak of an owner is found in an index."""
    group = "NULL" if by is None else USAGE_GROUPS[by]
    seconds = [f"iif(sum({name}_jobs), total({name}) / {totals.PER_SECOND}, NULL)" for name in ("cpu", "task", "held")]
    peak = "json_extract(usage, '$.max_rss_bytes')"
    # `+`: as a column of text, it would not be compared with an expression of the index.
    peaks = f"SELECT max({peak}) FROM job WHERE coalesce(owner, '') = +tally.owner AND usage IS NOT NULL"  # noqa: S608 - constant names
    rows = connection.execute(
        f"SELECT {group} AS grp, sum(measured), {', '.join(seconds)},"  # noqa: S608
        f" min(1.0, total(cpu) / nullif(total(held_with_cpu), 0.0)), max(({peaks}))"
        f" FROM tally WHERE measured > 0 GROUP BY grp ORDER BY {seconds[0]} DESC, {seconds[2]} DESC, grp"
    )
    return [UsageSum(*row) for row in rows]


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

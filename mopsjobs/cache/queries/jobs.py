"""The reading path: list, filter, count and find jobs in the cache, in SQL, with the standard library alone.

One `Filter` makes one WHERE clause, and rows, totals and counts all come from it, so that a table, its JSON and its
footer never tell different stories.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator

from mopsjobs.cache.job_json import COLUMNS, JSON_ENCODER, JobColumns, job_json, job_text
from mopsjobs.cache.queries.filters import Condition, Filter, where_clauses
from mopsjobs.errors import AmbiguousJobError, JobNotFoundError, RecordError, UsageError

TYPE_CHECKING = False  # typing itself costs 3 ms, on the one path that must be instant

if TYPE_CHECKING:
    from collections.abc import Iterator


MAX_CANDIDATES = 5
"""Ids named when a prefix is ambiguous: enough to see the pattern, few enough for a line."""


class JobList:
    """The jobs found, and how many there are in all. Each record is read when its turn comes, from the connection."""

    __slots__ = ("_connection", "_now", "_rowids", "total")

    def __init__(self, connection: sqlite3.Connection, rowids: list[int], total: int, now: float) -> None:
        self._connection = connection
        self._rowids = rowids
        self._now = now
        self.total = total

    def __len__(self) -> int:
        return len(self._rowids)

    def jobs(self, fields: tuple[str, ...] | None = None) -> Iterator[dict[str, object]]:
        """Each as `job_view` gives it; of its fields only these, if some are named."""
        views = (job_json(facts, now=self._now) for facts in self._facts(0))
        return views if fields is None else ({name: view[name] for name in fields} for view in views)

    def texts(self, fields: tuple[str, ...] | None = None, *, skip: int = 0) -> Iterator[str]:
        """The same as JSON, without the first ones."""
        every = (job_text(facts, now=self._now) for facts in self._facts(skip))
        return every if fields is None else (JSON_ENCODER.encode(view) for view in self.jobs(fields))

    def _facts(self, skip: int) -> Iterator[JobColumns]:
        sql = f"SELECT {COLUMNS} FROM json_each(?) AS wanted CROSS JOIN job ON job.rowid = wanted.value"  # noqa: S608
        return self._connection.execute(sql, (json.dumps(self._rowids[skip:]),))


def list_jobs(connection: sqlite3.Connection, chosen: Filter, *, order: str, limit: int, now: float) -> JobList:
    """The jobs that pass the filter.

    Args:
        connection: the cache.
        chosen: which jobs.
        order: what `parse_sort` gave.
        limit: the first so many in that order, 0 for all. Active jobs come in any case, wherever they stand in it.
        now: seconds since 1970, for the duration of what still runs.

    The connection is left in a transaction, for the records that are read later.
    """
    parts = where_clauses(connection, chosen)
    if not connection.in_transaction:
        connection.execute("BEGIN")  # total, order and records of one moment
    total = sum(
        connection.execute(f"SELECT count(*) FROM job WHERE {condition}", values).fetchone()[0]  # noqa: S608 - names of ours; values bound
        for condition, values in parts
    )
    wanted, bound = _wanted(parts, order, limit)
    rows = connection.execute(f"SELECT rowid, is_active FROM job WHERE rowid IN ({wanted}) ORDER BY {order}", bound)  # noqa: S608
    rowids = [row[0] for place, row in enumerate(rows) if limit == 0 or place < limit or row[1]]
    return JobList(connection, rowids, total, now)


def _wanted(parts: list[Condition], order: str, limit: int) -> Condition:
    """The rows of which those to show are: each part's first ones, and its active ones wherever they stand."""
    selects: list[str] = []
    bound: list[object] = []
    for condition, values in parts:
        if limit == 0:
            selects.append(f"SELECT rowid FROM job WHERE {condition}")  # noqa: S608
            bound += values
            continue
        first = f"SELECT rowid FROM job WHERE {condition} ORDER BY {order} LIMIT {limit:d}"  # noqa: S608
        selects.append(f"SELECT * FROM ({first}) UNION SELECT rowid FROM job WHERE is_active = 1 AND {condition}")  # noqa: S608
        bound += values * 2
    return " UNION ".join(selects), bound


def find_job(connection: sqlite3.Connection, name: str, *, now: float) -> dict[str, object]:
    """The job with this id, the only one whose id begins with it, or the one created last for `@latest`.

    Raises:
        JobNotFoundError: there is none.
        AmbiguousJobError: several ids begin so.
    """
    if name.startswith("@") and name != "@latest":
        raise UsageError(f"'{name}' names no job: the one such word is @latest.")
    is_latest = name == "@latest"
    facts = _first(connection, "ORDER BY created_ts DESC, job_id") if is_latest else _named(connection, name)
    if facts is None:
        for key, reason in unreadable_records(connection, name):
            raise RecordError(reason, key=key)
        raise JobNotFoundError(f"There is no job {name}.", job_id=name)
    return job_json(facts, now=now)


def ended_record(connection: sqlite3.Connection, job_id: str) -> str | None:
    """The record of the job with this whole id, if it has ended: then it says what the registry's says."""
    found = connection.execute("SELECT record FROM job WHERE job_id = ? AND is_active = 0", (job_id,)).fetchone()
    return None if found is None else str(found[0])


def _first(connection: sqlite3.Connection, which: str, *values: str) -> JobColumns | None:
    sql = f"SELECT {COLUMNS} FROM job {which} LIMIT 1"  # noqa: S608 - names of ours; values bound
    found: JobColumns | None = connection.execute(sql, values).fetchone()
    return found


def _named(connection: sqlite3.Connection, prefix: str) -> JobColumns | None:
    if exact := _first(connection, "WHERE job_id = ?", prefix):
        return exact
    # No id holds U+10FFFF, which does not print: it bounds the ids with this prefix from above.
    found = connection.execute(
        f"SELECT job_id, {COLUMNS} FROM job WHERE job_id >= ? AND job_id < ? ORDER BY job_id LIMIT ?",  # noqa: S608
        (prefix, prefix + "\U0010ffff", MAX_CANDIDATES + 1),
    ).fetchall()
    if len(found) > 1:
        more = ("…",) if len(found) > MAX_CANDIDATES else ()
        raise AmbiguousJobError(
            f"Several jobs begin with {prefix}.",
            job_id=prefix,
            candidates=tuple(row[0] for row in found[:MAX_CANDIDATES]) + more,
        )
    return found[0][1:] if found else None


def count_jobs(connection: sqlite3.Connection) -> int:
    """How many jobs the cache holds."""
    return int(connection.execute("SELECT count(*) FROM job").fetchone()[0])


def unreadable_records(connection: sqlite3.Connection, job_id: str | None = None) -> list[tuple[str, str]]:
    """Key and reason of the records that could not be read, of one job or of all; their rows are the last good ones."""
    ending = "" if job_id is None else f"/{job_id}/state.json"  # compared as it is: an id may hold the `_` of LIKE
    return connection.execute(
        "SELECT key, reason FROM problem WHERE kind = 'unreadable' AND (?1 = '' OR substr(key, -length(?1)) = ?1)"
        " ORDER BY key",
        (ending,),
    ).fetchall()


def all_meta(connection: sqlite3.Connection) -> dict[str, str]:
    """What the cache knows of itself: `registry`, `synced_at`, `attempted_at`, `last_error`, generations of syncs."""
    return dict(connection.execute("SELECT name, value FROM meta").fetchall())


STATES_READ = 5000
"""State events of one job that are read for its progress: a run of ten hours, one a second, is thinned out to them."""


def page_of_jobs(
    connection: sqlite3.Connection, chosen: Filter, *, order: str, limit: int, offset: int, now: float
) -> Iterator[dict[str, object]]:
    """A page of the jobs that pass the filter, each as `queries.job_view` gives it, and read when its turn comes.

    Unlike in a listing, active jobs stand where the order has them.

    Args:
        connection: the cache.
        chosen: which jobs.
        order: what `queries.parse_sort` gave.
        limit: jobs on a page.
        offset: jobs on the pages before.
        now: seconds since 1970, for the duration of what still runs.
    """
    selects: list[str] = []
    bound: list[object] = []
    # Of each part as many as the page could be made of: so each stops early, where an index has the order.
    for condition, values in where_clauses(connection, chosen):
        first = f"SELECT rowid FROM job WHERE {condition} ORDER BY {order} LIMIT {limit + offset:d}"  # noqa: S608 - names of ours; values bound
        selects.append(f"SELECT * FROM ({first})")  # noqa: S608
        bound += values
    inner = " UNION ALL ".join(selects)
    # The rows of the pages before are left out by what orders them, before their records are read.
    wanted = f"SELECT rowid FROM job WHERE rowid IN ({inner}) ORDER BY {order} LIMIT {limit:d} OFFSET {offset:d}"  # noqa: S608
    rows = connection.execute(f"SELECT {COLUMNS} FROM job WHERE rowid IN ({wanted}) ORDER BY {order}", bound)  # noqa: S608
    return (job_json(row, now=now) for row in rows)


def count_by_status(connection: sqlite3.Connection, chosen: Filter) -> dict[str, int]:
    """How many of the jobs that pass the filter have each status, those alone that some have."""
    counts: dict[str, int] = {}
    for condition, values in chosen.parts():
        # With a condition, the index that serves it is the better one than that in the order of the statuses.
        group = "status" if condition == "true" else "+status"
        sql = f"SELECT status, count(*) FROM job WHERE {condition} GROUP BY {group}"  # noqa: S608 - names of ours
        for status, count in connection.execute(sql, values):
            counts[status] = counts.get(status, 0) + count
    return counts


def progress_points(connection: sqlite3.Connection, job_id: str) -> list[tuple[float, int, int]]:
    """What the state events of a job say of its progress: seconds since 1970, tasks completed, tasks in all.

    In the order of time. Of more events than are read, every second, third, … one stands for all.
    """
    sql = (
        "WITH told AS (SELECT at_ts, json_extract(body, '$.tasks_completed') AS done,"
        " json_extract(body, '$.tasks_total') AS total, row_number() OVER (ORDER BY at_ts, seq) AS place,"
        " count(*) OVER () AS count FROM event WHERE job_id = ?1 AND kind = 'state')"
        " SELECT at_ts, done, total FROM told WHERE typeof(done) = 'integer' AND typeof(total) = 'integer'"
        " AND total > 0 AND done BETWEEN 0 AND total"
        " AND (place % (count / ?2 + 1) = 0 OR place IN (1, count)) ORDER BY place"
    )
    return connection.execute(sql, (job_id, STATES_READ)).fetchall()

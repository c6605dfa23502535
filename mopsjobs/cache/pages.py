"""What a page of jobs shows: its rows, the counts beside it, and the tail of a job's events. SQL, as in queries.py."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator

from mopsjobs.cache.events import Stored
from mopsjobs.cache.queries import COLUMNS, Filter, job_view, parts_of

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
    for condition, values in parts_of(connection, chosen):
        first = f"SELECT rowid FROM job WHERE {condition} ORDER BY {order} LIMIT {limit + offset:d}"  # noqa: S608 - names of ours; values bound
        selects.append(f"SELECT * FROM ({first})")  # noqa: S608
        bound += values
    inner = " UNION ALL ".join(selects)
    # The rows of the pages before are left out by what orders them, before their records are read.
    wanted = f"SELECT rowid FROM job WHERE rowid IN ({inner}) ORDER BY {order} LIMIT {limit:d} OFFSET {offset:d}"  # noqa: S608
    rows = connection.execute(f"SELECT {COLUMNS} FROM job WHERE rowid IN ({wanted}) ORDER BY {order}", bound)  # noqa: S608
    return (job_view(row, now=now) for row in rows)


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


def last_events(connection: sqlite3.Connection, job_id: str, *, limit: int, kind: str | None = None) -> list[Stored]:
    """The last events of a job, in their order; only those of one kind, if it is named."""
    rows = connection.execute(
        "SELECT seq, body FROM event WHERE job_id = ?1 AND (?2 IS NULL OR kind = ?2) ORDER BY seq DESC LIMIT ?3",
        (job_id, kind, limit),
    ).fetchall()
    return [Stored(seq, json.loads(body)) for seq, body in reversed(rows)]


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

"""The jobs that were there in the last hours, to draw each as a bar: of the jobs that the charts have collected."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple


class RecentJob(NamedTuple):
    """A job and its times, in seconds since 1970. Each time is at or after the one before, whatever the clocks said."""

    row: int
    """The row of the job; see `job_ids`."""
    status: str
    is_active: bool
    created: float
    started: float | None
    """When its first task ran; None if none has, or if that is not known."""
    ended: float | None
    has_history: bool
    """Whether `started` is known: otherwise, the record does not tell when the first task ran."""


def recent_jobs(connection: sqlite3.Connection, *, since: float, until: float) -> dict[str, list[RecentJob]]:
    """Return the jobs that were there at some time of a window, by owner; jobs without an owner under the empty name.

    They are those of `charts.charted_jobs`.
    """
    rows = connection.execute(
        "SELECT coalesce(owner, ''), id, status, is_active, created_ts, first_task,"
        " max(ended_ts, coalesce(first_task, created_ts)), has_history"
        " FROM (SELECT *, max(started_ts, created_ts) AS first_task FROM charted"
        " WHERE created_ts <= ? AND (is_active = 1 OR ended_ts >= ?)) ORDER BY created_ts, id",
        (until, since),
    )
    owners: dict[str, list[RecentJob]] = defaultdict(list)
    for owner, *columns in rows:
        owners[owner].append(RecentJob(*columns))
    return owners


def job_ids(connection: sqlite3.Connection, rows: Iterable[int]) -> dict[int, str]:
    """Return the ids of jobs by their rows."""
    sql = "SELECT rowid, job_id FROM job WHERE rowid IN (SELECT value FROM json_each(?))"
    return dict(connection.execute(sql, (json.dumps(list(rows)),)).fetchall())

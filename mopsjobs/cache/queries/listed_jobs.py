"""The jobs of a table of the page, from the columns of their rows: to parse a record takes longer than to find it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import NamedTuple

from mopsjobs.cache.job_json import why_suspect
from mopsjobs.cache.queries.filters import Filter
from mopsjobs.cache.queries.jobs import page_rows
from mopsjobs.cache.sync_state import known_to

_COLUMNS = (
    "job_id, status, is_active, created_ts, changed_ts, ended_ts, heartbeat_ts, suspect, owner, study, error,"
    " tasks_total, tasks_completed, usage, forecast, json_extract(record, '$.tasks_failed', '$.engine', '$.labels')"
)


class ListedJob(NamedTuple):
    """A row of the cache, as far as a table shows it. Times are seconds since 1970."""

    job_id: str
    status: str
    is_active: int
    created: float
    changed: float
    ended: float | None
    heartbeat: float | None
    suspect: str | None
    """Why it may be stuck, as `job_json` has it."""
    owner: str | None
    study: str | None
    error: str | None
    tasks_total: int
    tasks_completed: int
    usage: str | None
    forecast: str | None
    tasks_failed: int
    engine: str | None
    labels: Mapping[str, str]
    known_to: float
    """Up to when the registry was read."""


def listed_jobs(
    connection: sqlite3.Connection, job_filter: Filter, *, order: str, limit: int, offset: int, now: float
) -> list[ListedJob]:
    """Return a page of the jobs that pass a filter, see `page_of_jobs`."""
    rows = page_rows(connection, job_filter, _COLUMNS, order=order, limit=limit, offset=offset)
    known = known_to(connection, now)
    return [_listed(row, known) for row in rows]


def listed_job(connection: sqlite3.Connection, job_id: str, *, now: float) -> ListedJob:
    """Return the job with this full id."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM job WHERE job_id = ?", (job_id,)).fetchone()  # noqa: S608 - constant names
    return _listed(row, known_to(connection, now))


def _listed(row: tuple[object, ...], known: float) -> ListedJob:
    *columns, others = row
    failed, engine, labels = json.loads(str(others))
    job = ListedJob._make((*columns, failed or 0, engine, labels, known))
    suspect = why_suspect(job.suspect, job.heartbeat, known) if job.is_active else None
    return job._replace(suspect=suspect)

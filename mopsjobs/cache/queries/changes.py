"""The jobs that pass a filter and have changed since a mark."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from mopsjobs.cache.job_json import COLUMNS, JobColumns
from mopsjobs.cache.queries.filters import Filter, where_clauses
from mopsjobs.cache.sync_state import FULL_GENERATION, get_meta


class ChangeMark(NamedTuple):
    """The rows that a reader has seen: all up to a generation, and these versions of younger rows."""

    generation: int
    versions: dict[str, str]


class ChangedJobs(NamedTuple):
    """Jobs that changed, and the mark for the next call."""

    jobs: list[JobColumns]
    mark: ChangeMark


def changed_jobs(connection: sqlite3.Connection, job_filter: Filter, mark: ChangeMark | None) -> ChangedJobs:
    """Return the jobs that pass a filter and changed since a mark; without a mark, the active ones.

    A generation above that of the last full sync may still get rows, so these rows are compared by version. A
    generation up to it is complete: a sync that is older than a full one writes nothing any more.
    """
    complete = int(get_meta(connection, FULL_GENERATION) or 0)
    start = complete if mark is None else mark.generation
    known = {} if mark is None else mark.versions
    jobs: list[JobColumns] = []
    for condition, values in where_clauses(connection, job_filter):
        if mark is None:
            rows = connection.execute(
                f"SELECT job_id, version, {COLUMNS} FROM job WHERE is_active = 1 AND {condition}"  # noqa: S608
                " ORDER BY changed_ts, job_id",
                values,
            )
        else:
            # INDEXED BY: else SQLite reads all rows in the order of their change, to save sorting a few.
            rows = connection.execute(
                f"SELECT job_id, version, {COLUMNS} FROM job INDEXED BY idx_job_generation"  # noqa: S608
                f" WHERE generation > ? AND {condition}"
                " ORDER BY changed_ts, job_id",
                [start, *values],
            )
        jobs += [row[2:] for row in rows if known.get(row[0]) != row[1]]
    younger = connection.execute("SELECT job_id, version FROM job WHERE generation > ?", (complete,))
    return ChangedJobs(jobs, ChangeMark(complete, dict(younger.fetchall())))

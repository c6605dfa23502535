"""All chosen jobs, or those that changed, one after the other: memory does not grow with their number."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from typing import NamedTuple

from mopsjobs.cache.job_json import COLUMNS, JobColumns
from mopsjobs.cache.queries.filters import Filter, where_clauses
from mopsjobs.cache.sync_state import FULL_GENERATION, get_meta


class ChangeMark(NamedTuple):
    """What a reader has seen: all rows up to a generation, and of younger ones these versions."""

    generation: int
    versions: dict[str, str]


class ChangedJobs(NamedTuple):
    """Rows that are news, and the mark to come back with."""

    facts: list[JobColumns]
    mark: ChangeMark


def stream_jobs(connection: sqlite3.Connection, chosen: Filter) -> Generator[JobColumns]:
    """The chosen jobs: those of the window in the order of their ids, then the others that are active."""
    for condition, values in where_clauses(connection, chosen):
        yield from connection.execute(
            f"SELECT {COLUMNS} FROM job WHERE {condition} ORDER BY job_id",  # noqa: S608 - names of ours; values bound
            values,
        )


def changed_jobs(connection: sqlite3.Connection, chosen: Filter, mark: ChangeMark | None) -> ChangedJobs:
    """The chosen jobs that came or changed since a mark; without one, those that are active.

    What is younger than the last full sync may still be joined by rows of the same generation, so it is compared by
    version. What is not younger is complete: a sync that is older than a full one writes nothing any more.
    """
    settled = int(get_meta(connection, FULL_GENERATION) or 0)
    begin = settled if mark is None else mark.generation
    known = {} if mark is None else mark.versions
    found: list[JobColumns] = []
    for condition, values in where_clauses(connection, chosen):
        if mark is None:
            rows = connection.execute(
                f"SELECT job_id, version, {COLUMNS} FROM job WHERE is_active = 1 AND {condition}"  # noqa: S608
                " ORDER BY changed_ts, job_id",
                values,
            )
        else:
            # By that index, or SQLite reads all rows in the order of their change, to save the sorting of a few.
            rows = connection.execute(
                f"SELECT job_id, version, {COLUMNS} FROM job INDEXED BY idx_job_generation"  # noqa: S608
                f" WHERE generation > ? AND {condition}"
                " ORDER BY changed_ts, job_id",
                [begin, *values],
            )
        found += [row[2:] for row in rows if known.get(row[0]) != row[1]]
    younger = connection.execute("SELECT job_id, version FROM job WHERE generation > ?", (settled,))
    return ChangedJobs(found, ChangeMark(settled, dict(younger.fetchall())))

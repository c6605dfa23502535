"""Jobs with failures, and what the cache keeps of their failed tasks. No ledger is compared here."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mopsjobs.cache.queries.failures import JobFailures, last_failures

REDUCE_TEXT = "the reduce function "
"""How the error of a record names that function; see `studies.validation`."""

MAX_NOTES = 3

NOT_WRITTEN = "its runner has not written them yet"
NOT_READ = "they were not read yet, or prune --store has removed them"
LOST = "its ledger lacks them, or prune --store has removed it"
"""Why the reason of a failed task is not known."""


class FailedJob(NamedTuple):
    """A job with failures."""

    job_id: str
    owner: str | None
    has_ended: bool
    ended_ts: float
    """When it ended, or changed last, in seconds since 1970."""
    error: str | None
    """The error of its record in one line, `CODE: message`; None if it was cancelled, for then it says why."""
    tasks_total: int
    is_submitted: bool
    """Whether its record names a bundle, as those of jobs that mops-jobs submitted do."""
    updated_at: str
    """When its record was last written."""
    failures: JobFailures | None
    """Its failed tasks as they were kept last; None if they were never read."""
    is_current: bool
    """Whether no more is known of them by now."""


def read_failed_jobs(connection: sqlite3.Connection, job_ids: Sequence[str]) -> list[FailedJob]:
    """Return these jobs, in their order."""
    rows = connection.execute(
        "SELECT job.job_id, owner, NOT is_active, coalesce(ended_ts, changed_ts),"
        " iif(status = 'cancelled', NULL, error), job.tasks_total,"
        " json_type(record, '$.metadata.bundle') IS NOT NULL, json_extract(record, '$.updated_at'),"
        " ledger.job_id IS NOT NULL"
        " FROM json_each(?) AS wanted CROSS JOIN job ON job.job_id = wanted.value LEFT JOIN ledger USING (job_id)"
        " ORDER BY wanted.key",
        (json.dumps(job_ids),),
    ).fetchall()
    failures = ((last_failures(connection, row[0]) if row[-1] else None) or (None, False) for row in rows)
    return [FailedJob(*row[:-1], *found) for row, found in zip(rows, failures, strict=True)]


def reduce_notes(connection: sqlite3.Connection, job_ids: Sequence[str]) -> list[str]:
    """Return sentences about the jobs among these whose reduce function has failed, or has left no outputs."""
    rows = connection.execute(
        "SELECT job_id, substr(message, instr(message, ?1)) FROM (SELECT job_id, wanted.key AS place,"
        " json_extract(record, '$.error_message') AS message FROM json_each(?2) AS wanted"
        " CROSS JOIN job ON job.job_id = wanted.value) WHERE instr(message, ?1) ORDER BY place LIMIT ?3",
        (REDUCE_TEXT, json.dumps(job_ids), MAX_NOTES),
    )
    return [f"{job_id}: {text}" for job_id, text in rows]


def failures_without_reason(
    connection: sqlite3.Connection, by_job: Mapping[str, JobFailures], pruned: Mapping[str, int | None]
) -> list[tuple[str, int, str]]:
    """Return id, the number of failed tasks without a known reason, and why, of the jobs that have such tasks.

    Args:
        connection: the cache.
        by_job: jobs, and those of their failed tasks whose reasons are known. The records count all failed tasks.
        pruned: these counts, for jobs whose records the cache does not have.
    """
    rows = connection.execute(
        "SELECT wanted.value, json_extract(record, '$.tasks_failed'), is_active, is_complete"
        " FROM json_each(?) AS wanted LEFT JOIN job ON job.job_id = wanted.value"
        " LEFT JOIN ledger ON ledger.job_id = wanted.value ORDER BY wanted.key",
        (json.dumps(list(by_job)),),
    )
    found = []
    for job_id, recorded, is_active, is_complete in rows:
        failed = recorded if is_active is not None else pruned.get(job_id)
        count = (failed or 0) - by_job[job_id].failed
        if count > 0:
            found.append((job_id, count, NOT_WRITTEN if is_active else LOST if is_complete else NOT_READ))
    return found

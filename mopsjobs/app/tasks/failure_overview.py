"""The failures of many jobs, as the cache has them: nothing is read from a registry, and no ledger is compared."""

from __future__ import annotations

import functools
import sqlite3
from typing import NamedTuple

from mopsjobs.app.tasks.failures import MergedGroup, merge_groups
from mopsjobs.cache.queries.failures import (
    BY_RECORD,
    FailedJob,
    FailureGroup,
    JobFailures,
    jobs_that_take_up,
    jobs_with_failures,
    open_failures,
    read_failed_jobs,
)
from mopsjobs.cache.queries.filters import Filter
from mopsjobs.ledger.attempt import error_signature

UNNAMED = "failed"
"""The type of an error without a code."""


class FailureOverview(NamedTuple):
    """The failures of many jobs."""

    groups: list[MergedGroup]
    """The largest first. Those of records have no tasks; each of their jobs counts as one."""
    failed_tasks: int
    jobs: int
    """Jobs with failed tasks."""
    more_groups: int
    """Groups that the cache does not keep, since their jobs have too many."""
    owners: dict[str, str | None]
    """The owner of each job."""
    unread: list[FailedJob]
    """Jobs whose failed tasks were never read, or of which more is known by now."""
    unexplained: list[str]
    """Ended jobs without a known failed task and without an error."""
    left_out: int
    """Jobs that changed before those that were looked at."""


def overview_of_filter(
    connection: sqlite3.Connection, job_filter: Filter, limit: int, *, resumed: bool
) -> FailureOverview:
    """Return the failures of the jobs that pass a filter.

    A job without known failed tasks counts with the error of its record.

    Args:
        connection: the cache.
        job_filter: which jobs.
        limit: how many jobs with failures are looked at. The newest changes are first.
        resumed: also jobs and tasks that a resume has taken up.
    """
    job_ids, total = jobs_with_failures(connection, job_filter, limit, resumed=resumed)
    jobs = read_failed_jobs(connection, job_ids)
    known = {job.job_id: job.failures for job in jobs if job.failures is not None and job.failures.failed}
    others = [job for job in jobs if job.has_ended and job.job_id not in known]
    by_tasks, later = known, []
    if not resumed:
        is_open = {job_id: open_failures(connection, job_id, failures) for job_id, failures in known.items()}
        by_tasks = {job_id: failures for job_id, failures in is_open.items() if failures.failed}
        later = [
            job for job in read_failed_jobs(connection, jobs_that_take_up(connection, job_ids)) if not job.failures
        ]
    by_record = {job.job_id: _from_record(job, job.error) for job in others if job.error is not None}
    return FailureOverview(
        merge_groups({**by_tasks, **by_record}),
        sum(one.failed for one in by_tasks.values()),
        len(by_tasks),
        sum(one.more_groups for one in by_tasks.values()),
        {job.job_id: job.owner for job in jobs},
        [job for job in (*jobs, *later) if job.is_submitted and not job.is_current],
        [job.job_id for job in others if job.error is None],
        total - len(jobs),
    )


def _from_record(job: FailedJob, error: str) -> JobFailures:
    """Return the error of a record in the form of failed tasks: a group of its own kind, which names none."""
    key, code, message = _read_error(error)
    hours = [[int(job.ended_ts // 3600), 1]]
    group = FailureGroup(key, 1, code, None, message, None, [], job.ended_ts, job.ended_ts, [], hours)
    return JobFailures([group], 0, 0, job.tasks_total, BY_RECORD, 0)


@functools.lru_cache(maxsize=4096)
def _read_error(error: str) -> tuple[str, str, str]:
    """Return the key of an error in a record, its code, and its message. Most errors are those of many jobs."""
    code, colon, message = error.partition(": ")
    if not colon or " " in code:
        code, message = ("", error) if " " in error else (error, "")
    return f"{BY_RECORD}.{error_signature(code, None, message)}", code or UNNAMED, message

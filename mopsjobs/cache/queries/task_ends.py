"""How the tasks of a job ended, for what is to follow: which are run again, and with how much memory."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from mopsjobs.cache.stored_study import find_duplicates
from mopsjobs.ledger.attempt import Outcome


class MemoryEnds(NamedTuple):
    """The tasks of a job that ended as `oom`."""

    tasks: int
    peak: int | None
    """The most memory that one of them was seen to have, in bytes; None if unknown."""


def last_ends(connection: sqlite3.Connection, job_id: str) -> list[tuple[int, str, str | None]]:
    """Return task, outcome and signature of the error of each task that has ended, by its last attempt."""
    sql = "SELECT task, outcome, error_key FROM task WHERE job_id = ?"
    return connection.execute(sql, (job_id,)).fetchall()


def output_sizes(connection: sqlite3.Connection, job_id: str) -> dict[tuple[str, str], int]:
    """Return the bytes of the outputs of tasks, by parameter id and seed, as far as the cache has the ledger of a job.

    A task that several attempts have done with different sizes is left out: the outputs are those of any of them.
    """
    rows = connection.execute(
        "SELECT param_id, task.seed, min(attempt.output_bytes) FROM attempt JOIN task USING (job_id, task)"
        " JOIN parameter_set AS one ON one.job_id = task.job_id AND one.first_task = task.first_task"
        " WHERE attempt.job_id = ? AND attempt.outcome = ? GROUP BY attempt.task"
        " HAVING count(attempt.output_bytes) = count(*) AND count(DISTINCT attempt.output_bytes) = 1",
        (job_id, str(Outcome.SUCCEEDED)),
    )
    return {(param_id, str(seed)): size for param_id, seed, size in rows}


def count_lost(connection: sqlite3.Connection, job_id: str) -> int:
    """Count the tasks that were complete at the end of a job, and that its complete ledger does not call succeeded.

    No attempt tells the end of a reused task. Without its outputs, it is missing.
    """
    sql = (
        "SELECT tasks_completed - (SELECT count(*) FROM task WHERE job_id = ?1 AND outcome = ?2)"
        " FROM ledger CROSS JOIN job USING (job_id) WHERE job_id = ?1 AND is_complete AND NOT is_active"
    )
    row = connection.execute(sql, (job_id, str(Outcome.SUCCEEDED))).fetchone()
    repeated = len(find_duplicates(connection, job_id)) if row is not None and row[0] else 0
    return 0 if row is None else max(0, int(row[0]) - repeated)


def memory_ends(connection: sqlite3.Connection, job_id: str) -> MemoryEnds:
    """Count the tasks of a job that ended as `oom`, as far as the cache has its ledger."""
    sql = "SELECT count(*), max(max_rss_bytes) FROM task WHERE job_id = ? AND outcome = ?"
    return MemoryEnds(*connection.execute(sql, (job_id, str(Outcome.OOM))).fetchone())

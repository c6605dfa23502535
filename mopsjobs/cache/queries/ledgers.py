"""What the cache knows of the ledger of a job."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Container
from typing import NamedTuple

from mopsjobs.ledger.attempt import FAILED_OUTCOMES

BY_LEDGER = "ledger"
"""A basis: attempts tell the outcomes of a job's tasks."""

BY_OUTPUTS = "outputs"
"""A basis: the job has no ledger, and its outputs tell which tasks succeeded."""

IS_FAILED = "outcome IN (" + ", ".join(f"'{outcome}'" for outcome in FAILED_OUTCOMES) + ")"
"""The condition for an attempt, or the last one of a task, that failed."""

ALL_PROBLEMS = "query 'SELECT * FROM ledger_problems'"
"""The command that names all chunks of ledgers that cannot be read, or not whole."""

MAX_HOSTS = 10_000
"""A large job on a cluster has some hundred. Every writer of the registry can name more."""


class AttemptPlace(NamedTuple):
    """The place of an attempt in the order of `read_attempts`."""

    task: int
    run: str
    seq: int
    shard: int


class Ledger(NamedTuple):
    """The mirror of the ledger of a job."""

    synced_ts: float
    """When it was last listed, in seconds since 1970."""
    is_complete: bool
    """Whether the job has ended, and no more attempts are expected."""
    basis: str
    """`BY_LEDGER` or `BY_OUTPUTS`."""
    tasks_total: int
    parameters: list[str]
    varying: list[str]
    """The parameters that do not have the same value in all sets."""
    task_ranges: str | None
    """The tasks of a child job: see `StoredStudy`."""
    chunks: int
    """Chunks that were read, or that cannot be read."""
    problems: int
    """Chunks that cannot be read, or not whole."""

    @property
    def has_all_ends(self) -> bool:
        """Return whether it tells how each attempt ended: it is there, and each chunk was read."""
        return self.basis == BY_LEDGER and not self.problems


def read_ledger(connection: sqlite3.Connection, job_id: str) -> Ledger | None:
    """Return what the cache knows of the ledger of a job; None if no look at it has ended.

    The connection is left in a transaction, so that tasks that are read later are of the same moment.
    """
    if not connection.in_transaction:
        connection.execute("BEGIN")
    row = connection.execute(
        "SELECT synced_ts, is_complete, basis, tasks_total, parameters, varying, task_ranges FROM ledger"
        " WHERE job_id = ? AND synced_ts IS NOT NULL",
        (job_id,),
    ).fetchone()
    if row is None:
        return None
    chunks, problems = connection.execute(
        "SELECT count(*), count(problem) FROM ledger_chunk WHERE job_id = ?", (job_id,)
    ).fetchone()
    synced_ts, is_complete, basis, tasks_total, parameters, varying, ranges = row
    return Ledger(
        synced_ts,
        bool(is_complete),
        basis,
        tasks_total,
        json.loads(parameters),
        json.loads(varying),
        ranges,
        chunks,
        problems,
    )


def readable_chunks(connection: sqlite3.Connection, job_id: str) -> list[str]:
    """Return the keys of the chunks whose attempts are in the cache."""
    sql = "SELECT key FROM ledger_chunk WHERE job_id = ? AND problem IS NULL"
    return [key for (key,) in connection.execute(sql, (job_id,))]


def hosts_of(connection: sqlite3.Connection, job_id: str) -> list[str]:
    """Return the names of the machines that ran attempts at the tasks of a job, sorted; none without a ledger."""
    sql = "SELECT DISTINCT host FROM attempt WHERE job_id = ? AND host IS NOT NULL ORDER BY host LIMIT ?"
    return [host for (host,) in connection.execute(sql, (job_id, MAX_HOSTS))]


def read_attempts(
    connection: sqlite3.Connection, job_id: str, *, after: AttemptPlace | None, limit: int
) -> tuple[list[str], list[tuple[object, ...]]]:
    """Return the columns of the view `attempts`, and the rows of a job by task, run, number in the run, and shard.

    Args:
        connection: the cache.
        job_id: the full id of the job.
        after: the last attempt of the page before; None for the first page.
        limit: how many rows, at most.
    """
    behind = "" if after is None else " AND (task, run, seq, shard) > (?, ?, ?, ?)"
    rows = connection.execute(
        f"SELECT * FROM attempts WHERE job_id = ?{behind} ORDER BY task, run, seq, shard LIMIT ?",  # noqa: S608 - constant texts
        (job_id, *(after or ()), limit),
    )
    return [column[0] for column in rows.description], rows.fetchall()


def reusing_jobs(connection: sqlite3.Connection, sources: Container[str]) -> dict[str, list[str]]:
    """Map those of these jobs whose outputs other jobs reuse to the ids of these. It looks at all records."""
    by_source: dict[str, list[str]] = {}
    rows = connection.execute(
        "SELECT job_id, value FROM job, json_each(record, '$.metadata.reused_from')"
        " WHERE instr(record, '\"reused_from\"') ORDER BY job_id"
    )
    for job_id, source in rows:
        if source in sources:
            by_source.setdefault(source, []).append(job_id)
    return by_source


def complete_ledgers(connection: sqlite3.Connection) -> set[str]:
    """Return the jobs of whose tasks all attempts are in the cache."""
    sql = "SELECT job_id FROM ledger WHERE is_complete AND basis = ?"
    return {job_id for (job_id,) in connection.execute(sql, (BY_LEDGER,))}

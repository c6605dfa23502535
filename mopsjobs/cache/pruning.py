"""Prune the cache: remove old jobs from it and keep them out, although the registry still has them.

Of a pruned job the cache keeps key, version and parent. A sync treats that version as known; once the record changes,
the job comes back. So do parent and children of a job that the cache has: a family is pruned as one. A key that the
registry no longer has is forgotten. See docs/decisions/0022-sums-counters-and-pruning.md.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from mopsjobs.cache import totals
from mopsjobs.cache.sync_state import transaction

BATCH = 2000
"""Jobs per transaction: few enough that other writers of the cache need not wait long."""

_ENDED_BEFORE = "is_active = 0 AND status IN (SELECT status FROM tally) AND ended_ts < ?1"
"""The index of ends has the status first."""

# Jobs with a relative that did not end before the limit, and all others of their families.
_KEPT = """
    WITH RECURSIVE kept(job_id) AS (
        SELECT child.job_id FROM job AS child LEFT JOIN job AS parent ON parent.job_id = child.parent_job_id
        WHERE child.parent_job_id IS NOT NULL AND (
            child.is_active OR coalesce(child.ended_ts, ?1) >= ?1
            OR (parent.job_id IS NOT NULL AND (parent.is_active OR coalesce(parent.ended_ts, ?1) >= ?1))
        )
        UNION
        SELECT job.job_id FROM kept CROSS JOIN job ON job.parent_job_id = kept.job_id
            OR job.job_id = (SELECT parent_job_id FROM job WHERE job_id = kept.job_id)
    )
    SELECT job_id FROM kept
"""

LEDGER_TABLES = ("ledger", "ledger_chunk", "attempt", "task", "parameter_set", "failure_summary", "journal")


class PrunePlan(NamedTuple):
    """The number of rows that pruning would remove."""

    jobs: int
    events: int
    kept: int
    """Jobs that ended before the limit, and stay with their families."""


class PruneResult(NamedTuple):
    """The number of rows that pruning has removed."""

    jobs: int
    events: int
    problem: str | None
    """Why the file could not shrink; None if it did. Its free space is used again in any case."""


def count_ended(connection: sqlite3.Connection, ended_before: float) -> int:
    """Count the jobs that ended before a time (seconds since 1970), from an index."""
    row = connection.execute(
        f"SELECT count(*) FROM job WHERE {_ENDED_BEFORE}",  # noqa: S608 - constant names
        (ended_before,),
    )
    return int(row.fetchone()[0])


def plan_prune(connection: sqlite3.Connection, ended_before: float) -> PrunePlan:
    """Count the jobs that ended before a time (seconds since 1970), and their events."""
    prunable = f"FROM job WHERE {_ENDED_BEFORE} AND job_id NOT IN ({_KEPT})"
    (jobs,) = connection.execute(f"SELECT count(*) {prunable}", (ended_before,)).fetchone()
    (events,) = connection.execute(
        f"SELECT count(*) FROM event WHERE job_id IN (SELECT job_id {prunable})",  # noqa: S608 - constant names
        (ended_before,),
    ).fetchone()
    return PrunePlan(jobs, events, count_ended(connection, ended_before) - jobs)


def staying(connection: sqlite3.Connection, ended_before: float, job_ids: Iterable[str]) -> set[str]:
    """Return those of some jobs that the cache has, and that pruning would leave there."""
    rows = connection.execute(
        "SELECT job_id FROM job WHERE job_id IN (SELECT value FROM json_each(?2))"  # noqa: S608 - constant names
        f" EXCEPT SELECT job_id FROM job WHERE {_ENDED_BEFORE} AND job_id NOT IN ({_KEPT})",
        (ended_before, json.dumps(sorted(job_ids))),
    )
    return {job_id for (job_id,) in rows}


def prune(connection: sqlite3.Connection, ended_before: float) -> PruneResult:
    """Remove the jobs that ended before a time, with all that belongs to them, and give their space back to the disk.

    A family stays until all its jobs ended before that time.

    Counters stay.
    """
    jobs = events = 0
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS kept (job_id TEXT PRIMARY KEY)")  # each batch asks
    connection.execute("DELETE FROM kept")
    connection.execute(f"INSERT INTO kept {_KEPT}", (ended_before,))
    while True:
        with transaction(connection):
            rows = connection.execute(
                f"SELECT key, version, parent_job_id, job_id FROM job WHERE {_ENDED_BEFORE}"  # noqa: S608 - constant names
                " AND job_id NOT IN kept LIMIT ?2",
                (ended_before, BATCH),
            ).fetchall()
            ids = [(job_id,) for *_, job_id in rows]
            connection.executemany(
                "INSERT OR REPLACE INTO pruned (key, version, parent_job_id) VALUES (?, ?, ?)",
                [row[:3] for row in rows],
            )
            connection.executemany(
                "DELETE FROM event_chunk WHERE name IN (SELECT chunk FROM event WHERE job_id = ?)", ids
            )
            events += connection.executemany("DELETE FROM event WHERE job_id = ?", ids).rowcount if ids else 0
            connection.executemany("DELETE FROM job_label WHERE job_id = ?", ids)
            delete_ledgers(connection, [job_id for *_, job_id in rows])
            with totals.track_changes(connection, [key for key, *_ in rows]):
                connection.executemany("DELETE FROM job WHERE job_id = ?", ids)
        jobs += len(rows)
        if len(rows) < BATCH:
            break
    orphans = "SELECT job_id FROM ledger WHERE job_id NOT IN (SELECT job_id FROM job) LIMIT ?"
    while True:  # ledgers of jobs that were pruned earlier, and looked at since
        with transaction(connection):
            found = connection.execute(orphans, (BATCH,)).fetchall()
            delete_ledgers(connection, [job_id for (job_id,) in found])
        if len(found) < BATCH:
            break
    return PruneResult(jobs, events, _vacuum(connection) if jobs else None)


def delete_ledgers(connection: sqlite3.Connection, job_ids: Iterable[str]) -> None:
    """Remove all that ledgers and manifests tell of the tasks of these jobs. The caller holds the transaction."""
    for job_id in job_ids:
        for table in LEDGER_TABLES:
            connection.execute(f"DELETE FROM {table} WHERE job_id = ?", (job_id,))  # noqa: S608 - constant names


def _vacuum(connection: sqlite3.Connection) -> str | None:
    """Give free space back to the disk. Readers continue with their snapshot; writers have to finish first.

    Returns:
        Why that is not possible now; None if it was done.
    """
    try:
        connection.execute("VACUUM")
    except sqlite3.OperationalError as error:
        # Another process writes for long, or the disk has no room for the copy. The jobs are removed all the same.
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL):
            raise
        return str(error)
    return None


def is_pruned(connection: sqlite3.Connection, job_id: str) -> bool:
    """Return True if a job was pruned from this cache and has not come back."""
    if (around := _around_id(connection)) is None:
        return False
    head, tail = around
    row = connection.execute("SELECT 1 FROM pruned WHERE key = ?", (head + job_id + tail,))
    return row.fetchone() is not None


def pruned_relatives(connection: sqlite3.Connection, job_id: str | None = None) -> set[str]:
    """Return the pruned parents and children of the jobs in the cache, or of one: they come back with it."""
    if (around := _around_id(connection)) is None:
        return set()
    of_job = "" if job_id is None else " AND job.job_id = ?3"
    relatives = connection.execute(
        "SELECT parent_job_id FROM job WHERE parent_job_id IS NOT NULL"  # noqa: S608 - constant texts
        f" AND EXISTS (SELECT 1 FROM pruned WHERE key = ?1 || job.parent_job_id || ?2){of_job}"
        " UNION SELECT substr(pruned.key, length(?1) + 1, length(pruned.key) - length(?1 || ?2))"
        " FROM pruned CROSS JOIN job ON job.job_id = pruned.parent_job_id"
        f" WHERE pruned.parent_job_id IS NOT NULL{of_job}",
        around if job_id is None else (*around, job_id),
    )
    return {relative for (relative,) in relatives}


def _around_id(connection: sqlite3.Connection) -> tuple[str, str] | None:
    """Return what stands before and behind the id in each key of a cache; None if no job was pruned from it.

    An id of another program may have slashes.
    """
    row = connection.execute("SELECT key FROM pruned LIMIT 1").fetchone()
    return None if row is None else (row[0][: row[0].index("/") + 1], row[0][row[0].rindex("/") :])


def unmark_pruned(connection: sqlite3.Connection, keys: Iterable[str]) -> None:
    """Forget that these keys were pruned: they changed, or are gone. The caller holds the transaction."""
    connection.executemany("DELETE FROM pruned WHERE key = ?", [(key,) for key in keys])

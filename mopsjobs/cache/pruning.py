"""Pruning: old jobs leave the cache and stay away, although the registry still has them.

What stays of a pruned job is its key with the version it had. A sync takes that version for known and leaves it
alone; once the record changes, the job is back. A key that the registry no longer has is forgotten.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from mopsjobs.cache import totals
from mopsjobs.cache.sync_state import transaction

BATCH = 2000
"""Jobs that go in one transaction, so that others at the cache need not wait for long."""


class Prunable(NamedTuple):
    """What pruning would remove."""

    jobs: int
    events: int


class Pruned(NamedTuple):
    """What pruning has removed."""

    jobs: int
    events: int
    problem: str | None
    """Why the file could not be made smaller; None if it was. What is free in it is used again in any case."""


def prunable(connection: sqlite3.Connection, ended_before: float) -> Prunable:
    """How many jobs ended before that time (seconds since 1970), and how many events they have."""
    (jobs,) = connection.execute(
        "SELECT count(*) FROM job WHERE is_active = 0 AND ended_ts < ?", (ended_before,)
    ).fetchone()
    (events,) = connection.execute(
        "SELECT count(*) FROM event WHERE job_id IN (SELECT job_id FROM job WHERE is_active = 0 AND ended_ts < ?)",
        (ended_before,),
    ).fetchone()
    return Prunable(jobs, events)


def prune(connection: sqlite3.Connection, ended_before: float) -> Pruned:
    """Remove the jobs that ended before that time, with their labels and events, and give their space back.

    The names of chunks of events stay, so that no sync brings those events again, until `events.forget_chunks` takes
    care of that otherwise. Counters stay as they are.
    """
    jobs = events = 0
    while True:
        with transaction(connection):
            chosen = connection.execute(
                "SELECT key, version, job_id FROM job WHERE is_active = 0 AND ended_ts < ? LIMIT ?",
                (ended_before, BATCH),
            ).fetchall()
            ids = [(job_id,) for _, _, job_id in chosen]
            connection.executemany(
                "INSERT OR REPLACE INTO pruned (key, version) VALUES (?, ?)",
                [(key, version) for key, version, _ in chosen],
            )
            events += connection.executemany("DELETE FROM event WHERE job_id = ?", ids).rowcount if ids else 0
            connection.executemany("DELETE FROM job_label WHERE job_id = ?", ids)
            with totals.kept(connection, [key for key, _, _ in chosen]):
                connection.executemany("DELETE FROM job WHERE job_id = ?", ids)
        jobs += len(chosen)
        if len(chosen) < BATCH:
            break
    return Pruned(jobs, events, _given_back(connection) if jobs else None)


def _given_back(connection: sqlite3.Connection) -> str | None:
    """Give free space back to the disk. Who reads goes on with what it sees; who writes has to end first.

    Returns:
        Why that cannot be done now; None if it was.
    """
    try:
        connection.execute("VACUUM")
    except sqlite3.OperationalError as error:
        # Somebody writes for long, or the disk has no room for the copy: neither takes back what was removed.
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL):
            raise
        return str(error)
    return None


def is_pruned(connection: sqlite3.Connection, job_id: str) -> bool:
    """Whether that job was pruned from this cache and is not back."""
    row = connection.execute("SELECT key FROM pruned LIMIT 1").fetchone()
    if row is None:
        return False
    # All keys of a cache are those of one registry, and differ in the job alone.
    head, _, tail = str(row[0]).rsplit("/", 2)
    found = connection.execute("SELECT 1 FROM pruned WHERE key = ?", (f"{head}/{job_id}/{tail}",))
    return found.fetchone() is not None


def back(connection: sqlite3.Connection, keys: Iterable[str]) -> None:
    """These keys are pruned no longer: they changed, or are gone. The caller holds the transaction."""
    connection.executemany("DELETE FROM pruned WHERE key = ?", [(key,) for key in keys])

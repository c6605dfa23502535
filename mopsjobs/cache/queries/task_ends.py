"""How the tasks of a job ended, for what is to follow: which are run again, and with how much memory."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

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


def memory_ends(connection: sqlite3.Connection, job_id: str) -> MemoryEnds:
    """Count the tasks of a job that ended as `oom`, as far as the cache has its ledger."""
    sql = "SELECT count(*), max(max_rss_bytes) FROM task WHERE job_id = ? AND outcome = ?"
    return MemoryEnds(*connection.execute(sql, (job_id, str(Outcome.OOM))).fetchone())

"""Write batches of records to the cache, for full and delta syncs, and report what a sync did."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mopsjobs.cache import pruning, rows, totals
from mopsjobs.cache.sync.fetcher import FailedRead
from mopsjobs.errors import MAX_REASON, shorten
from mopsjobs.registry.job_state import MAX_RECORD_BYTES
from mopsjobs.store.base import VersionToken

BATCH = 500
"""Entries per transaction: some 30 ms of writing, which is how long other writers wait."""

BATCH_BYTES = 8 * 2**20
"""Bytes of the records of one batch. Two batches are in memory, and a record may have as many."""


UNREAD_VERSION = ""
"""Version of the problem of a record that could not be read in any version."""


WRITE_SECONDS = 1.0
"""How long a record that was read waits to be written, if the next ones are slow."""


class SyncReport:
    """The counts and problems of a sync."""

    def __init__(self) -> None:
        self.is_full = True
        """Whether every record was listed; else only the announced jobs were read."""
        self.seen = 0
        self.added = 0
        self.changed = 0
        self.unchanged = 0
        self.removed = 0
        self.fetched = 0
        self.problems: list[rows.Problem] = []
        self.named_before: set[tuple[str, str]] = set()
        """Keys and versions of the problems that the cache had before."""
        self.synced_at = ""
        self.seconds = 0.0

    @property
    def unreadable(self) -> list[rows.Problem]:
        """Return the problems by which a record is missing from the cache, or out of date there."""
        return [problem for problem in self.problems if problem.kind == rows.UNREADABLE]

    @property
    def news(self) -> list[rows.Problem]:
        """Return the problems to name: unreadable records each time, others once for each version of a record."""
        return [
            problem
            for problem in self.problems
            if problem.kind == rows.UNREADABLE or (problem.key, problem.version) not in self.named_before
        ]


class FetchedRecord(NamedTuple):
    """A record as it is in the registry."""

    job_id: str
    key: str
    value: bytes
    version: VersionToken


class RecordBatch:
    """Records and problems of one batch, ready to be written to the cache."""

    def __init__(self, generation: int) -> None:
        self._generation = generation
        self._records: list[rows.MirroredJob] = []
        self.problems: list[rows.Problem] = []

    def add(self, found: FetchedRecord | rows.Problem, known: Mapping[str, str], report: SyncReport) -> None:
        """Add a record or problem, and count what is new. `known` has the versions that the cache has, by key."""
        if isinstance(found, rows.Problem):
            self.problems.append(found)
            return
        job_id, key, value, version = found
        record = rows.to_row(key, job_id, value, version, self._generation)
        if isinstance(record, rows.Problem):
            self.problems.append(record)
            return
        self._records.append(record)
        if record.problem is not None:
            self.problems.append(record.problem)
        if key not in known:
            report.added += 1
        elif known[key] == version.value:
            report.unchanged += 1
        else:
            report.changed += 1

    def write_as_read(
        self,
        fetched: Iterable[FetchedRecord | rows.Problem],
        known: Mapping[str, str],
        report: SyncReport,
        write: Callable[[int], None],
    ) -> None:
        """Add records and problems, and write them each second and at the end, also if reading fails.

        Args:
            fetched: what is read.
            known: the versions that the cache has, by key.
            report: counts what is new.
            write: writes the batch. It gets the number of records and problems so far.
        """
        count = 0
        written_at = time.monotonic()
        try:
            for count, found in enumerate(fetched, 1):
                self.add(found, known, report)
                if time.monotonic() - written_at > WRITE_SECONDS:
                    write(count)
                    written_at = time.monotonic()
        finally:
            write(count)

    def write(self, connection: sqlite3.Connection) -> None:
        """Write the batch, except over younger rows, and empty it. The caller holds the transaction."""
        keys = [*(record.row.key for record in self._records), *(problem.key for problem in self.problems)]
        generations = lookup_column(connection, "job", "generation", keys)
        younger = {key for key, generation in generations.items() if generation > self._generation}
        records = [record for record in self._records if record.row.key not in younger]
        rows.write_rows(connection, records)
        rows.replace_problems(
            connection,
            [record.row.key for record in records],
            [problem for problem in self.problems if problem.key not in younger],
        )
        self._records, self.problems = [], []


def too_large_problem(key: str, size: int, version: str) -> rows.Problem:
    """Return the problem of a record that is refused by its size alone."""
    reason = f"too large: {size:,} bytes, expected at most {MAX_RECORD_BYTES:,}"
    return rows.Problem(key, rows.UNREADABLE, reason, version)


def unread_problem(key: str, failed: FailedRead) -> rows.Problem:
    """Return the problem of a record that the store does not send. Without a version, each sync tries it again."""
    return rows.Problem(key, rows.UNREADABLE, shorten(failed.reason, MAX_REASON), UNREAD_VERSION)


def unread_keys(connection: sqlite3.Connection) -> list[str]:
    """Return the keys of the records that the store did not send to the last syncs."""
    sql = "SELECT key FROM problem WHERE version = ? ORDER BY key"
    return [key for (key,) in connection.execute(sql, (UNREAD_VERSION,))]


def lookup_column(connection: sqlite3.Connection, table: str, name: str, keys: list[str]) -> dict[str, Any]:
    """Return a column of the rows with these keys, which may be as many as a batch has."""
    marks = ", ".join("?" * len(keys))
    sql = f"SELECT key, {name} FROM {table} WHERE key IN ({marks})"  # noqa: S608 - constant names, question marks
    return dict(connection.execute(sql, keys).fetchall())


def delete_rows(connection: sqlite3.Connection, keys: Sequence[str], generation: int) -> int:
    """Remove jobs and problems with these keys, except younger rows than `generation`. Return how many jobs."""
    removed = 0
    with totals.track_changes(connection, keys):
        for key in keys:
            connection.execute("DELETE FROM problem WHERE key = ?", (key,))
            if connection.execute("DELETE FROM pruned WHERE key = ?", (key,)).rowcount:
                # That of a look after the pruning.
                pruning.delete_ledgers(connection, [key.partition("/")[2].rpartition("/")[0]])
            row = connection.execute(
                "SELECT job_id FROM job WHERE key = ? AND generation <= ?", (key, generation)
            ).fetchone()
            if row is not None:
                connection.execute("DELETE FROM job WHERE job_id = ?", row)
                connection.execute("DELETE FROM job_label WHERE job_id = ?", row)
                pruning.delete_ledgers(connection, row)
                removed += 1
    return removed

"""Taking records into the cache: what full and delta syncs have in common, and the report of what was done."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Self, TypeVar

from mopsjobs.cache import pruning, rows, totals
from mopsjobs.registry.job_state import MAX_RECORD_BYTES
from mopsjobs.store.base import VersionedStore, VersionToken

BATCH = 500
"""Entries merged in one transaction: some 30 ms of writing, so that others at the cache wait no longer."""


BATCH_BYTES = 8 * 2**20
"""Records of one batch, in all: two batches are in memory, and a record may have a megabyte."""


FETCHERS = 32
"""Records fetched at once: where a reply takes 30 ms to come, half as many leave the processor idle."""


AT_A_TIME = 4
"""Records that a thread fetches before it reports: handing each one over costs a tenth of what fetching it does."""


Fetched = TypeVar("Fetched")


class ParallelFetcher:
    """Threads that fetch while others work. Leaving the block ends them after the records that they are at."""

    def __init__(self, threads: int = FETCHERS) -> None:
        """Get ready; with no threads, who asks for a record fetches it."""
        self._threads = ThreadPoolExecutor(threads) if threads else None
        self._is_over = False

    @classmethod
    def for_store(cls, store: VersionedStore) -> Self:
        """As many as suit the store.

        One on this machine lets nobody wait, and a connection for each thread costs more than what it reads.
        """
        return cls(0 if getattr(store, "is_local", False) else FETCHERS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)

    def fetch(self, get: Callable[[str], Fetched], keys: Sequence[str]) -> Iterator[Fetched]:
        """Begin to get what is under these keys at once; what comes back gives it in the order of the keys."""
        if self._threads is None:
            return map(get, keys)
        # Few keys go to a thread each: where a reply takes its time, they would wait for each other.
        size = min(AT_A_TIME, -(-len(keys) // FETCHERS)) or 1

        def each(some: Sequence[str]) -> list[Fetched]:
            return [get(key) for key in some if not self._is_over]

        begun = [self._threads.submit(each, keys[start : start + size]) for start in range(0, len(keys), size)]
        return (found for one in begun for found in one.result())


class SyncReport:
    """What a sync did."""

    def __init__(self) -> None:
        self.is_full = True
        """Whether every record was looked at; else those of the jobs alone that were announced as changed."""
        self.seen = 0
        self.added = 0
        self.changed = 0
        self.unchanged = 0
        self.removed = 0
        self.fetched = 0
        self.problems: list[rows.Problem] = []
        self.synced_at = ""
        self.seconds = 0.0

    @property
    def unreadable(self) -> list[rows.Problem]:
        """The problems that left a record out of the cache, or out of date there."""
        return [problem for problem in self.problems if problem.kind == rows.UNREADABLE]


class FetchedRecord(NamedTuple):
    """A record as the registry has it."""

    job_id: str
    key: str
    value: bytes
    version: VersionToken


class RecordBatch:
    """Records and problems of one batch, ready to be written to the cache."""

    def __init__(self, generation: int) -> None:
        self._generation = generation
        self._records: list[rows.JobRow] = []
        self.problems: list[rows.Problem] = []

    def add(self, found: Iterable[FetchedRecord], known: Mapping[str, str], report: SyncReport) -> None:
        """Take records, and count what is news. `known`: the versions of those that the cache has."""
        for job_id, key, value, version in found:
            record = rows.to_row(key, job_id, value, version, self._generation)
            if isinstance(record, rows.Problem):
                self.problems.append(record)
                continue
            self._records.append(record)
            if record.problem is not None:
                self.problems.append(record.problem)
            if key not in known:
                report.added += 1
            elif known[key] == version.value:
                report.unchanged += 1
            else:
                report.changed += 1

    def write(self, connection: sqlite3.Connection) -> None:
        """Write them, except over rows that are younger. The caller holds the transaction."""
        generations = lookup_column(
            connection, "job", "generation", [*(one.key for one in self._records), *(one.key for one in self.problems)]
        )
        younger = {key for key, generation in generations.items() if generation > self._generation}
        records = [record for record in self._records if record.key not in younger]
        rows.write_rows(connection, records)
        connection.executemany("DELETE FROM problem WHERE key = ?", [(record.key,) for record in records])
        connection.executemany(
            "INSERT OR REPLACE INTO problem (key, kind, reason, version) VALUES (?, ?, ?, ?)",
            [(one.key, one.kind, one.reason, one.version) for one in self.problems if one.key not in younger],
        )


def too_large_problem(key: str, size: int, version: str) -> rows.Problem:
    """The problem of a record that is refused by its size alone."""
    reason = f"{size:,} bytes are no record: at most {MAX_RECORD_BYTES:,} are read"
    return rows.Problem(key, rows.UNREADABLE, reason, version)


def lookup_column(connection: sqlite3.Connection, table: str, name: str, keys: list[str]) -> dict[str, Any]:
    """A column's values in the rows with these keys, of which there may be as many as a batch has."""
    marks = ", ".join("?" * len(keys))
    sql = f"SELECT key, {name} FROM {table} WHERE key IN ({marks})"  # noqa: S608 - names of ours, question marks
    return dict(connection.execute(sql, keys).fetchall())


def delete_rows(connection: sqlite3.Connection, keys: Sequence[str], generation: int) -> int:
    """Remove what the cache has under these keys, unless it is younger than `generation`; returns how many jobs."""
    removed = 0
    pruning.back(connection, keys)
    with totals.kept(connection, keys):
        for key in keys:
            connection.execute("DELETE FROM problem WHERE key = ?", (key,))
            row = connection.execute(
                "SELECT job_id FROM job WHERE key = ? AND generation <= ?", (key, generation)
            ).fetchone()
            if row is not None:
                connection.execute("DELETE FROM job WHERE job_id = ?", row)
                connection.execute("DELETE FROM job_label WHERE job_id = ?", row)
                removed += 1
    return removed

"""The full sync: the registry's listing and the cache's rows, merged.

A listing comes in the order of its keys, and so do the rows: the two are merged batch by batch, in constant memory.
Rows whose version is the listed one are left alone. Rows that the listing lacks vanish, but only after it came to its
end: a listing that breaks off proves nothing.

On the way it sees whether somebody writes without announcing: whose changes are not among the announced jobs.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Container, Iterable, Iterator

from mopsjobs.cache import rows, sync_state
from mopsjobs.cache.sync import batch as record_batch
from mopsjobs.errors import StoreError
from mopsjobs.registry.announcements import MAX_NAMES
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import MAX_RECORD_BYTES
from mopsjobs.store.base import Entry, Versioned

OnProgress = Callable[[int], None]
"""Told how many jobs were seen so far."""


_TABLES = ("job", "problem", "pruned")
"""Where the cache has keys with versions."""


class _Planned:
    """A batch of which is known what is news, before it is written."""

    def __init__(self, taken: record_batch.RecordBatch, known: dict[str, str]) -> None:
        self.taken = taken
        self.known = known
        """The batch's keys that the cache has, with their versions."""
        self.seen = 0
        self.listed: list[record_batch.FetchedRecord] = []
        """Records that the listing carried."""
        self.lacking: list[tuple[str, str]] = []
        """Jobs and keys of the others."""
        self.fetched: Iterator[Versioned | None] = iter(())
        """These, as they come."""

    def found(self) -> Iterator[record_batch.FetchedRecord]:
        """All records. One that is gone by now is left out; the next sync sees what became of it."""
        yield from self.listed
        for (job_id, key), found in zip(self.lacking, self.fetched, strict=True):
            if found is not None:
                yield record_batch.FetchedRecord(job_id, key, found.value, found.version)


class Merge:
    """One full sync."""

    def __init__(
        self,
        registry: JobRegistry,
        connection: sqlite3.Connection,
        report: record_batch.SyncReport,
        generation: int,
        announced: Container[str] | None,
        *,
        again: bool,
    ) -> None:
        """Prepare it.

        Args:
            registry: what to list.
            connection: the cache, open to write.
            report: where to count.
            generation: that of this sync.
            announced: the jobs that were announced as changed since the last sync; None if that is not known.
            again: read also the records whose version is known.
        """
        self._registry = registry
        self._connection = connection
        self._generation = generation
        self._report = report
        self._again = again
        self._announced = announced
        self.unannounced: set[str] = set()
        """Jobs that changed and are not among the announced ones; not all of them, where they are very many."""
        self._after = ""
        """The last key merged so far."""
        self._vanished: list[str] = []

    def run(self, on_progress: OnProgress | None) -> None:
        """Merge the whole listing. What it lacks stays until `finish`."""
        with record_batch.ParallelFetcher.for_store(self._registry.store) as fetchers:
            planned: _Planned | None = None
            for batch in _batches(self._registry.scan()):
                # While one batch is written, the records of the next are fetched.
                following = self._plan(batch, fetchers)
                if planned is not None:
                    self._take(planned, on_progress)
                planned = following
            if planned is not None:
                self._take(planned, on_progress)
        self._vanish({key: "" for table in _TABLES for key in self._known(table, None)})

    def finish(self) -> None:
        """Remove what the listing lacked. The caller holds the transaction."""
        self._report.removed = record_batch.delete_rows(self._connection, self._vanished, self._generation)

    def _check_order(self, batch: list[Entry]) -> None:
        # What vanished is found by the order of the keys: a listing out of order must not remove anything.
        keys = [self._after, *(entry.key for entry in batch)]
        for one, two in itertools.pairwise(keys):
            if one >= two:
                raise StoreError(f"The registry's listing is out of order at {two}; nothing was removed.")

    def _plan(self, batch: list[Entry], fetchers: record_batch.ParallelFetcher) -> _Planned:
        """Find out what of a batch is news, and begin to fetch what the listing does not carry of it."""
        self._check_order(batch)
        last = batch[-1].key
        # In this order: a job that is pruned meanwhile is found in one of them.
        jobs, problems_known, pruned = (self._known(table, last) for table in _TABLES)
        planned = _Planned(record_batch.RecordBatch(self._generation), jobs)
        for entry in batch:
            job_id = self._registry.job_id_of(entry.key)
            if job_id is None:
                planned.taken.problems += _beside(entry)
                continue
            planned.seen += 1
            is_pruned = entry.version.value == pruned.get(entry.key)
            is_known = is_pruned or entry.version.value in (jobs.get(entry.key), problems_known.get(entry.key))
            if not is_known:
                self._note(job_id)
            if is_pruned or (is_known and not self._again):
                self._report.unchanged += 1
            elif entry.value is not None:
                planned.listed.append(record_batch.FetchedRecord(job_id, entry.key, entry.value, entry.version))
            elif entry.size is not None and entry.size > MAX_RECORD_BYTES:
                planned.taken.problems.append(
                    record_batch.too_large_problem(entry.key, entry.size, entry.version.value)
                )
            else:
                planned.lacking.append((job_id, entry.key))
        planned.fetched = fetchers.fetch(self._registry.store.get, [key for _, key in planned.lacking])
        self._vanish((jobs.keys() | problems_known.keys() | pruned.keys()) - {entry.key for entry in batch})
        self._after = last
        return planned

    def _take(self, planned: _Planned, on_progress: OnProgress | None) -> None:
        """Write what is news of a batch."""
        self._report.fetched += len(planned.lacking)
        planned.taken.add(planned.found(), planned.known, self._report)
        with sync_state.transaction_if_latest(self._connection, self._generation, sync_state.FULL_GENERATION):
            planned.taken.write(self._connection)
        self._report.seen += planned.seen
        if on_progress is not None:
            on_progress(self._report.seen)

    def _known(self, table: str, last: str | None) -> dict[str, str]:
        """Keys with versions of a table's rows beyond what is merged, up to the key `last`, or to the end."""
        return dict(
            self._connection.execute(
                f"SELECT key, version FROM {table} WHERE key > ?1 AND (?2 IS NULL OR key <= ?2)",  # noqa: S608 - a literal
                (self._after, last),
            ).fetchall()
        )

    def _vanish(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._vanished.append(key)
            job_id = self._registry.job_id_of(key)
            if job_id is not None:
                self._note(job_id)

    def _note(self, job_id: str) -> None:
        if self._announced is not None and job_id not in self._announced and len(self.unannounced) <= MAX_NAMES:
            self.unannounced.add(job_id)


def _beside(entry: Entry) -> list[rows.Problem]:
    """The problem of a key that is no record, unless it is one of those that jobs are meant to have."""
    if entry.key.endswith("/manifest.json") and entry.key.count("/") == 2:
        return []
    return [rows.Problem(entry.key, rows.NOT_A_RECORD, "not a job record; left alone", entry.version.value)]


def _batches(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        batch.append(entry)
        size += min(entry.size or 0, MAX_RECORD_BYTES)  # a longer one is not read
        if len(batch) == record_batch.BATCH or size > record_batch.BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch

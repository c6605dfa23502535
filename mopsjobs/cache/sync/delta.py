"""The delta sync: read only the jobs that were announced as changed, with one request each.

Records that the store did not send before are tried again with them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import islice

from mopsjobs.cache import rows, sync_state
from mopsjobs.cache.sync import batch as record_batch
from mopsjobs.cache.sync.fetcher import FailedRead, ParallelFetcher
from mopsjobs.cache.sync.full import OnProgress
from mopsjobs.registry.job_registry import JobRegistry


class DeltaSync:
    """One delta sync."""

    def __init__(
        self,
        registry: JobRegistry,
        connection: sqlite3.Connection,
        report: record_batch.SyncReport,
        generation: int,
        announced: set[str],
        returning: frozenset[str] = frozenset(),
    ) -> None:
        """Prepare the sync.

        Args:
            registry: the registry to read.
            connection: the cache, open to write.
            report: counts what is done.
            generation: that of this sync.
            announced: the jobs to read.
            returning: those of them that come back, if they were pruned.
        """
        self._registry = registry
        self._connection = connection
        self._report = report
        self._generation = generation
        self._announced = announced
        self._returning = returning
        self._vanished: list[str] = []

    def run(self, on_progress: OnProgress | None) -> None:
        """Read the announced jobs. Rows of jobs that are gone stay until `finish`."""
        unread = (self._registry.job_id_of(key) for key in record_batch.unread_keys(self._connection))
        jobs = iter(sorted(self._announced.union(job_id for job_id in unread if job_id is not None)))
        with ParallelFetcher.for_store(self._registry.store) as fetcher:
            while batch := list(islice(jobs, record_batch.BATCH)):
                self._read_batch(batch, fetcher, on_progress)

    def finish(self) -> None:
        """Remove the jobs that are gone. The caller holds the transaction.

        Not earlier: an older sync that still runs may bring one of them back until this one is complete.
        """
        self._report.removed = record_batch.delete_rows(self._connection, self._vanished, self._generation)

    def _read_batch(self, batch: list[str], fetcher: ParallelFetcher, on_progress: OnProgress | None) -> None:
        records = record_batch.RecordBatch(self._generation)
        keys = [self._registry.key_of(job_id) for job_id in batch]
        jobs, problems, pruned = (
            record_batch.lookup_column(self._connection, table, "version", keys)
            for table in ("job", "problem", "pruned")
        )

        def changed_records() -> Iterator[record_batch.FetchedRecord | rows.Problem]:
            for job_id, key, found in zip(batch, keys, fetcher.fetch(keys), strict=True):
                if found is None:
                    self._vanished.append(key)
                    continue
                self._report.seen += 1
                if isinstance(found, FailedRead):
                    yield record_batch.unread_problem(key, found)
                elif problems.get(key) != record_batch.UNREAD_VERSION and found.version.value in (
                    problems.get(key, jobs.get(key)),
                    None if job_id in self._returning else pruned.get(key),
                ):
                    self._report.unchanged += 1
                else:
                    yield record_batch.FetchedRecord(job_id, key, found.value, found.version)

        def write(_count: int) -> None:
            with sync_state.transaction_if_latest(self._connection, self._generation, sync_state.SYNCED_GENERATION):
                records.write(self._connection)
            if on_progress is not None:
                on_progress(self._report.seen)

        self._report.fetched += len(batch)
        records.write_as_read(changed_records(), jobs, self._report, write)

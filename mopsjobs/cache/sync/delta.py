"""The delta sync: read only the jobs that were announced as changed, with one request each."""

from __future__ import annotations

import sqlite3
from itertools import islice

from mopsjobs.cache import rows, sync_state
from mopsjobs.cache.sync import batch as record_batch
from mopsjobs.cache.sync.fetcher import ParallelFetcher
from mopsjobs.cache.sync.full import OnProgress
from mopsjobs.errors import ValueTooLargeError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.base import Versioned


class DeltaSync:
    """One delta sync."""

    def __init__(
        self,
        registry: JobRegistry,
        connection: sqlite3.Connection,
        report: record_batch.SyncReport,
        generation: int,
        announced: set[str],
    ) -> None:
        self._registry = registry
        self._connection = connection
        self._report = report
        self._generation = generation
        self._announced = announced
        self._vanished: list[str] = []

    def run(self, on_progress: OnProgress | None) -> None:
        """Read the announced jobs. Rows of jobs that are gone stay until `finish`."""
        jobs = iter(sorted(self._announced))
        with ParallelFetcher.for_store(self._registry.store) as fetcher:
            while batch := list(islice(jobs, record_batch.BATCH)):
                self._read_batch(batch, fetcher)
                if on_progress is not None:
                    on_progress(self._report.seen)

    def finish(self) -> None:
        """Remove the jobs that are gone. The caller holds the transaction.

        Not earlier: an older sync that still runs may bring one of them back until this one is complete.
        """
        self._report.removed = record_batch.delete_rows(self._connection, self._vanished, self._generation)

    def _read_batch(self, batch: list[str], fetcher: ParallelFetcher) -> None:
        keys = [self._registry.key_of(job_id) for job_id in batch]
        known = [
            record_batch.lookup_column(self._connection, table, "version", keys)
            for table in ("job", "problem", "pruned")
        ]
        records = record_batch.RecordBatch(self._generation)
        changed = []
        for job_id, key, found in zip(batch, keys, fetcher.fetch(self._fetch, keys), strict=True):
            if found is None:
                self._vanished.append(key)
                continue
            self._report.seen += 1
            if isinstance(found, rows.Problem):
                records.problems.append(found)
            elif found.version.value in (versions.get(key) for versions in known):
                self._report.unchanged += 1
            else:
                changed.append(record_batch.FetchedRecord(job_id, key, found.value, found.version))
        self._report.fetched += len(batch)
        records.add(changed, known[0], self._report)
        with sync_state.transaction_if_latest(self._connection, self._generation, sync_state.SYNCED_GENERATION):
            records.write(self._connection)

    def _fetch(self, key: str) -> Versioned | rows.Problem | None:
        try:
            return self._registry.store.get(key)
        except ValueTooLargeError as error:
            return rows.Problem(key, rows.UNREADABLE, str(error), "")

"""The full sync: merge the registry's listing with the rows of the cache.

The listing and the rows are both in the order of their keys. So they are merged batch by batch, in constant memory.
Rows with the listed version stay. Rows whose keys the listing lacks are removed, but only after it was read to its end.
An incomplete listing does not show what is gone.

The merge also notes jobs that changed without an announcement, which means that other programs write. It costs one
listing, and one read per changed record that the listing does not carry. To carry records makes a listing several times
as long. So it does that only while many are news.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator

from mopsjobs.cache import rows, sync_state
from mopsjobs.cache.sync import batch as record_batch
from mopsjobs.cache.sync.fetcher import FailedRead, ParallelFetcher
from mopsjobs.errors import StoreError
from mopsjobs.registry.announcements import MAX_NAMES
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import MAX_RECORD_BYTES
from mopsjobs.store.base import Entry, Versioned, WantsValues

OnProgress = Callable[[int], None]
"""Called with the number of jobs seen so far."""

BATCHES_AHEAD = 4
"""Batches whose records are fetched at once, unless they are large. A record that is sent at the sixth try holds up one
batch for seconds."""

GET_COST = 10
"""Records that a listing carries in the time of one read; 6 against Azurite."""

RECENT = 1000
"""Entries from which the share of news is estimated."""

_TABLES = ("job", "problem", "pruned")
"""Tables with keys and versions."""


class _PlannedBatch:
    """A batch whose changed records are known, and are being fetched."""

    def __init__(self, records: record_batch.RecordBatch, known: dict[str, str]) -> None:
        self.records = records
        self.size = 0
        """Bytes of its records."""
        self.known = known
        """Versions of the rows that the cache has, by key."""
        self.seen = 0
        self.listed: list[record_batch.FetchedRecord] = []
        """Changed records that the listing carried."""
        self.missing: list[tuple[str, str]] = []
        """Ids and keys of the other changed jobs."""
        self.fetched: Iterator[Versioned | FailedRead | None] = iter(())
        """The values of `missing`, in their order."""

    def changed_records(self) -> Iterator[record_batch.FetchedRecord | rows.Problem]:
        """Yield the changed records, and problems. A record that is gone by now is left to the next sync."""
        yield from self.listed
        for (job_id, key), found in zip(self.missing, self.fetched, strict=True):
            if isinstance(found, FailedRead):
                yield record_batch.unread_problem(key, found)
            elif found is not None:
                yield record_batch.FetchedRecord(job_id, key, found.value, found.version)


class FullSync:
    """One full sync."""

    def __init__(
        self,
        registry: JobRegistry,
        connection: sqlite3.Connection,
        report: record_batch.SyncReport,
        generation: int,
        announced: Collection[str] | None,
        *,
        reread: bool,
    ) -> None:
        """Prepare the sync.

        Args:
            registry: the registry to list.
            connection: the cache, open to write.
            report: counts what is done.
            generation: that of this sync.
            announced: the jobs that were announced as changed since the last sync; None if that is not known.
            reread: also read records whose version is known.
        """
        self._registry = registry
        self._connection = connection
        self._generation = generation
        self._report = report
        self._reread = reread
        self._announced = announced
        self.unannounced: set[str] = set()
        """Jobs that changed without an announcement; the first ones if they are very many."""
        self._after = ""
        """The last merged key."""
        self._recent, self._recent_news = 0, 0
        """Entries that the share of news is estimated from, and how many of them were news."""
        self._vanished: list[str] = []

    def run(self, on_progress: OnProgress | None) -> None:
        """Merge the whole listing. Rows that it lacks stay until `finish`."""
        with ParallelFetcher.for_store(self._registry.store) as fetcher:
            planned: list[_PlannedBatch] = []
            try:
                for batch in _batches(self._registry.scan(self._wants_values())):
                    # While one batch is written, the records of the next ones are fetched.
                    planned.append(self._plan(batch, fetcher))
                    is_large = sum(each.size for each in planned) > record_batch.BATCH_BYTES
                    while len(planned) > (1 if is_large else BATCHES_AHEAD):
                        self._write(planned.pop(0), on_progress)
            except StoreError:
                for each in planned:
                    self._write(each, on_progress)
                raise
            for each in planned:
                self._write(each, on_progress)
        self._note_vanished({key: "" for table in _TABLES for key in self._known_versions(table, None)})

    def _wants_values(self) -> WantsValues:
        """Return whether the next entries are to carry their records."""
        expects_many = self._expects_many()
        return lambda: expects_many or self._recent_news * GET_COST > self._recent

    def _expects_many(self) -> bool:
        """Return True if a large share of the jobs is new, as far as announced, or that is not known."""
        if self._reread or self._announced is None:
            return True
        ((known, new),) = self._connection.execute(
            "SELECT (SELECT count(*) FROM job),"
            " (SELECT count(*) FROM json_each(?) WHERE value NOT IN (SELECT job_id FROM job))",
            (json.dumps(list(self._announced)),),
        )
        return bool(new * GET_COST > known)

    def finish(self) -> None:
        """Remove the rows that the listing lacked. The caller holds the transaction."""
        self._report.removed = record_batch.delete_rows(self._connection, self._vanished, self._generation)

    def _check_order(self, batch: list[Entry]) -> None:
        # Vanished keys are found by the order of keys: a listing out of order must remove nothing.
        keys = [self._after, *(entry.key for entry in batch)]
        for earlier, later in itertools.pairwise(keys):
            if earlier >= later:
                raise StoreError(f"The registry's listing is out of order at {later}; nothing was removed.")

    def _plan(self, batch: list[Entry], fetcher: ParallelFetcher) -> _PlannedBatch:
        """Find the changed records of a batch, and begin to fetch those that the listing does not carry."""
        self._check_order(batch)
        last = batch[-1].key
        # In this order: a job that is pruned meanwhile is found in one of the tables.
        jobs, problems, pruned = (self._known_versions(table, last) for table in _TABLES)
        planned = _PlannedBatch(record_batch.RecordBatch(self._generation), jobs)
        for entry in batch:
            job_id = self._registry.job_id_of(entry.key)
            if job_id is None:
                planned.records.problems += _foreign_key_problem(entry)
                continue
            planned.seen += 1
            planned.size += min(entry.size or 0, MAX_RECORD_BYTES)
            is_pruned = entry.version.value == pruned.get(entry.key)
            is_unread = problems.get(entry.key) == record_batch.UNREAD_VERSION
            is_known = not is_unread and entry.version.value in (jobs.get(entry.key), problems.get(entry.key))
            if not (is_known or is_pruned or is_unread):
                self._note_unannounced(job_id)
            if is_pruned or (is_known and not self._reread):
                self._report.unchanged += 1
            elif entry.value is not None:
                planned.listed.append(record_batch.FetchedRecord(job_id, entry.key, entry.value, entry.version))
            elif entry.size is not None and entry.size > MAX_RECORD_BYTES:
                planned.records.problems.append(
                    record_batch.too_large_problem(entry.key, entry.size, entry.version.value)
                )
            else:
                planned.missing.append((job_id, entry.key))
        if self._recent > RECENT:
            self._recent, self._recent_news = self._recent // 2, self._recent_news // 2
        self._recent += planned.seen
        self._recent_news += len(planned.listed) + len(planned.missing)
        planned.fetched = fetcher.fetch([key for _, key in planned.missing])
        self._note_vanished((jobs.keys() | problems.keys() | pruned.keys()) - {entry.key for entry in batch})
        self._after = last
        return planned

    def _write(self, planned: _PlannedBatch, on_progress: OnProgress | None) -> None:
        """Write the changed records of a batch."""
        unchanged = planned.seen - len(planned.listed) - len(planned.missing)

        def write(changed: int) -> None:
            with sync_state.transaction_if_latest(self._connection, self._generation, sync_state.FULL_GENERATION):
                planned.records.write(self._connection)
            if on_progress is not None:
                on_progress(self._report.seen + unchanged + changed)

        self._report.fetched += len(planned.missing)
        planned.records.write_as_read(planned.changed_records(), planned.known, self._report, write)
        self._report.seen += planned.seen

    def _known_versions(self, table: str, last: str | None) -> dict[str, str]:
        """Return keys and versions of a table's rows after the merged ones, up to the key `last`, or to the end."""
        return dict(
            self._connection.execute(
                f"SELECT key, version FROM {table} WHERE key > ?1 AND (?2 IS NULL OR key <= ?2)",  # noqa: S608 - constant names
                (self._after, last),
            ).fetchall()
        )

    def _note_vanished(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._vanished.append(key)
            job_id = self._registry.job_id_of(key)
            if job_id is not None:
                self._note_unannounced(job_id)

    def _note_unannounced(self, job_id: str) -> None:
        if self._announced is not None and job_id not in self._announced and len(self.unannounced) <= MAX_NAMES:
            self.unannounced.add(job_id)


def _foreign_key_problem(entry: Entry) -> list[rows.Problem]:
    """Return the problem of a key that is not a record; none for the key of a manifest."""
    if entry.key.endswith("/manifest.json") and entry.key.count("/") == 2:
        return []
    return [rows.Problem(entry.key, rows.NOT_A_RECORD, "not a job record; left unchanged", entry.version.value)]


def _batches(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    """Yield the entries in batches, also smaller ones if the listing is slow, and the last ones before it fails."""
    batch: list[Entry] = []
    size, begun = 0, time.monotonic()
    try:
        for entry in entries:
            if batch and time.monotonic() - begun > record_batch.WRITE_SECONDS:
                yield batch
                batch, size, begun = [], 0, time.monotonic()
            batch.append(entry)
            size += min(entry.size or 0, MAX_RECORD_BYTES)  # longer ones are not read
            if len(batch) == record_batch.BATCH or size > record_batch.BATCH_BYTES:
                yield batch
                batch, size, begun = [], 0, time.monotonic()
    except StoreError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch

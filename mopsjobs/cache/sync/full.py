"""The full sync: merge the registry's listing with the rows of the cache.

The listing and the rows are both in the order of their keys. So they are merged batch by batch, in constant memory.
Rows with the listed version stay. Those that the listing lacks are removed, but only after it was read to its end, and
after a read of each record. A faulty server leaves out keys for a moment. Records that exist stay with a note. See
docs/decisions/0091-listings-that-lack-keys.md.

The merge also notes which jobs have changed: if one of them was not announced, other programs write. A full sync costs
one listing, and one read per changed record that the listing does not carry. To carry records makes a listing several
times as long. So it does that only while many are news: from the batch on that has many, everything is listed again.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import time
from collections.abc import Callable, Generator, Iterable, Iterator

from mopsjobs.cache import deferred_indexes, rows, sync_state
from mopsjobs.cache.sync import batch as record_batch
from mopsjobs.cache.sync.fetcher import FailedRead, ParallelFetcher
from mopsjobs.errors import StoreError
from mopsjobs.registry.announcements import MAX_NAMES
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import MAX_RECORD_BYTES
from mopsjobs.store.base import Entry, Versioned

OnProgress = Callable[[int], None]
"""Called with the number of jobs seen so far."""

BATCHES_AHEAD = 4
"""Batches whose records are fetched at once, unless they are large. A record that is sent at the sixth try holds up one
batch for seconds."""

GET_COST = 10
"""Records that a listing carries in the time of one read; 6 against Azurite."""

EXISTS = "the listing of the store lacked it, although it exists"

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
        self.seen, self.unchanged = 0, 0
        self.changed: list[str] = []
        """Ids of the jobs with an unknown version."""
        self.vanished: set[str] = set()
        """Keys that the cache has, and the listing not."""
        self.listed: list[record_batch.FetchedRecord] = []
        """Changed records that the listing carried."""
        self.missing: list[tuple[str, str]] = []
        """Ids and keys of the other changed jobs."""
        self.fetched: Iterator[Versioned | FailedRead | None] = iter(())
        """The values of `missing`, in their order."""

    @property
    def has_many_missing(self) -> bool:
        """Return True if another listing, with the records, takes less time than reading them."""
        return len(self.missing) > max(GET_COST, self.seen // GET_COST)

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
        *,
        reread: bool,
    ) -> None:
        """Prepare the sync.

        Args:
            registry: the registry to list.
            connection: the cache, open to write.
            report: counts what is done.
            generation: that of this sync.
            reread: also read records whose version is known.
        """
        self._registry = registry
        self._connection = connection
        self._generation = generation
        self._report = report
        self._reread = reread
        self.changed: set[str] = set()
        """Jobs that are new, changed or gone since the cache was synced; the first ones if they are very many."""
        self._carries = reread or connection.execute("SELECT 1 FROM job LIMIT 1").fetchone() is None
        """Whether the next request is for records, too."""
        self._may_carry = True
        """Whether no listing that was asked for records came without them, as those of S3 do."""
        self._is_first = sync_state.get_meta(connection, sync_state.SYNCED_AT) is None
        """Whether no sync was complete, so that indexes may come after the rows."""
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
                for each in self._planned_batches():
                    # While one batch is written, the records of the next ones are fetched.
                    each.fetched = fetcher.fetch([key for _, key in each.missing])
                    planned.append(each)
                    is_large = sum(each.size for each in planned) > record_batch.BATCH_BYTES
                    while len(planned) > (1 if is_large else BATCHES_AHEAD):
                        self._write(planned.pop(0), on_progress)
            except StoreError:
                for each in planned:
                    self._write(each, on_progress)
                raise
            for each in planned:
                self._write(each, on_progress)
        self._note_vanished({key for table in _TABLES for key in self._known_versions(table, None)})

    def _planned_batches(self) -> Iterator[_PlannedBatch]:
        """Yield the batches of the listing. It begins again, with the records, where many have to be read."""
        is_complete = False
        while not is_complete:
            is_complete = True
            entries = self._registry.scan(lambda: self._carries, self._after)
            with contextlib.closing(_batches(entries)) as batches:
                for batch in batches:
                    planned = self._plan(batch)
                    if self._carries and planned.has_many_missing and not planned.listed:
                        self._may_carry = False  # another listing would not carry them either
                    if planned.has_many_missing and self._may_carry and not self._carries:
                        self._carries, self._recent, self._recent_news = True, 0, 0
                        is_complete = False
                        break
                    self._note_plan(planned, batch[-1].key)
                    yield planned

    def _note_plan(self, planned: _PlannedBatch, last: str) -> None:
        """Take note of what a batch has, whose last key is given."""
        self._after = last
        self._report.unchanged += planned.unchanged
        self._note_changed(planned.changed)
        self._note_vanished(planned.vanished)
        if self._recent > RECENT:
            self._recent, self._recent_news = self._recent // 2, self._recent_news // 2
        self._recent += planned.seen
        self._recent_news += len(planned.listed) + len(planned.missing)
        is_dense = self._reread or self._recent_news * GET_COST >= self._recent
        self._carries = self._carries and is_dense

    def confirm_vanished(self) -> None:
        """Read the records that the listing lacked. `finish` then removes those that are gone.

        Raises:
            StoreError: if the store does not answer.
        """
        keys = sorted(key for key in self._vanished if self._registry.job_id_of(key) is not None)
        kept: set[str] = set()
        with ParallelFetcher.for_store(self._registry.store) as fetcher:
            for start in range(0, len(keys), record_batch.BATCH):
                kept.update(self._read_vanished(keys[start : start + record_batch.BATCH], fetcher))
        self._vanished = [key for key in self._vanished if key not in kept]

    def _read_vanished(self, keys: list[str], fetcher: ParallelFetcher) -> list[str]:
        """Read records that the listing lacked, and write those that exist. Return the keys of these."""
        records = record_batch.RecordBatch(self._generation)
        known = record_batch.lookup_column(self._connection, "job", "version", keys)
        pruned = record_batch.lookup_column(self._connection, "pruned", "version", keys)
        kept = []
        for key, found in zip(keys, fetcher.fetch(keys), strict=True):
            if found is None:
                continue
            kept.append(key)
            if isinstance(found, FailedRead):
                records.problems.append(record_batch.unread_problem(key, found))
            elif pruned.get(key) != found.version.value:
                job_id = str(self._registry.job_id_of(key))
                records.add(record_batch.FetchedRecord(job_id, key, found.value, found.version), known, self._report)
                if not records.problems or records.problems[-1].key != key:
                    records.problems.append(rows.Problem(key, rows.UNLISTED, EXISTS, rows.UNLISTED))
        self._report.seen += len(kept)
        self._report.fetched += len(keys)
        with sync_state.transaction_if_latest(self._connection, self._generation, sync_state.FULL_GENERATION):
            records.write(self._connection)
        return kept

    def finish(self) -> None:
        """Remove the rows that the listing lacked, and that are gone. The caller holds the transaction."""
        self._report.removed = record_batch.delete_rows(self._connection, self._vanished, self._generation)

    def _check_order(self, batch: list[Entry]) -> None:
        # Vanished keys are found by the order of keys: a listing out of order must remove nothing.
        keys = [self._after, *(entry.key for entry in batch)]
        for earlier, later in itertools.pairwise(keys):
            if earlier >= later:
                raise StoreError(f"The registry's listing is out of order at {later}; nothing was removed.")

    def _plan(self, batch: list[Entry]) -> _PlannedBatch:
        """Find the changed records of a batch."""
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
            is_unread = problems.get(entry.key) in (record_batch.UNREAD_VERSION, rows.UNLISTED)
            is_known = not is_unread and entry.version.value == problems.get(entry.key, jobs.get(entry.key))
            if not (is_known or is_pruned or is_unread):
                planned.changed.append(job_id)
            if is_pruned or (is_known and not self._reread):
                planned.unchanged += 1
            elif entry.value is not None:
                planned.listed.append(record_batch.FetchedRecord(job_id, entry.key, entry.value, entry.version))
            elif entry.size is not None and entry.size > MAX_RECORD_BYTES:
                planned.records.problems.append(
                    record_batch.too_large_problem(entry.key, entry.size, entry.version.value)
                )
            else:
                planned.missing.append((job_id, entry.key))
        planned.vanished = (jobs.keys() | problems.keys() | pruned.keys()) - {entry.key for entry in batch}
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
        if self._is_first and self._report.added >= deferred_indexes.MIN_JOBS:
            deferred_indexes.defer_indexes(self._connection)
            self._is_first = False

    def _known_versions(self, table: str, last: str | None) -> dict[str, str]:
        """Return keys and versions of a table's rows after the merged ones, up to the key `last`, or to the end."""
        return dict(
            self._connection.execute(
                f"SELECT key, version FROM {table} WHERE key > ?1 AND (?2 IS NULL OR key <= ?2)",  # noqa: S608 - constant names
                (self._after, last),
            ).fetchall()
        )

    def _note_vanished(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        self._vanished += keys
        self._note_changed(job_id for key in keys if (job_id := self._registry.job_id_of(key)) is not None)

    def _note_changed(self, job_ids: Iterable[str]) -> None:
        self.changed.update(itertools.islice(job_ids, MAX_NAMES + 1 - len(self.changed)))


def _foreign_key_problem(entry: Entry) -> list[rows.Problem]:
    """Return the problem of a key that is not a record; none for the key of a manifest."""
    if entry.key.endswith("/manifest.json") and entry.key.count("/") == 2:
        return []
    return [rows.Problem(entry.key, rows.NOT_A_RECORD, "not a job record; left unchanged", entry.version.value)]


def _batches(entries: Iterator[Entry]) -> Generator[list[Entry]]:
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

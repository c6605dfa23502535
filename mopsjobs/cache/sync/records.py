"""The syncs of records, full and delta, and how they write batches to the cache.

A full sync merges the registry's listing with the rows of the cache. Both are in the order of their keys. So they are
merged batch by batch, in constant memory. Rows with the listed version stay. Those that the listing lacks are removed,
but only after it was read to its end, and after a read of each record. A faulty server leaves out keys for a moment.
Records that exist stay with a note. See docs/decisions/0091-listings-that-lack-keys.md.

The merge also notes which jobs have changed: if one of them was not announced, other programs write. A full sync costs
one listing, and one read per changed record that the listing does not carry. To carry records makes a listing several
times as long. So it does that only while many are news: from the batch on that has many, everything is listed again.

A delta sync reads only the jobs that were announced as changed, with one request each. Records that the store did not
send before are tried again with them.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mopsjobs.cache import pruning, rows, sync_state, totals
from mopsjobs.errors import MAX_REASON, StoreError, shorten
from mopsjobs.registry.announcements import MAX_NAMES
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import MAX_RECORD_BYTES
from mopsjobs.store.base import Entry, Versioned, VersionToken
from mopsjobs.store.fetcher import FailedRead, ParallelFetcher

BATCH = 500
"""Entries per transaction: some 30 ms of writing, which is how long other writers wait."""

BATCH_BYTES = 8 * 2**20
"""Bytes of the records of one batch. Two batches are in memory, and a record may have as many."""


UNREAD_VERSION = ""
"""Version of the problem of a record that could not be read in any version."""


WRITE_SECONDS = 1.0
"""How long a record that was read waits to be written, if the next ones are slow."""

OnProgress = Callable[[int], None]

BATCHES_AHEAD = 4
"""Batches whose records are fetched at once, unless they are large. A record that is sent at the sixth try holds up one
batch for seconds."""

GET_COST = 10
"""Records that a listing carries in the time of one read; 6 against Azurite."""

EXISTS = "the listing of the store lacked it, although it exists"

_TABLES = ("job", "problem", "pruned")


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

    def __init__(self, generation: int, report: SyncReport, known: Mapping[str, str]) -> None:
        """Begin a batch. `report` counts what is new; `known` has the versions that the cache has, by key."""
        self._generation = generation
        self._report = report
        self._known = known
        self._records: list[rows.MirroredJob] = []
        self.problems: list[rows.Problem] = []

    def add(self, found: FetchedRecord | rows.Problem) -> None:
        """Add a record or problem, and count what is new."""
        if isinstance(found, rows.Problem):
            self.problems.append(found)
            return
        record = rows.to_row(found.key, found.job_id, found.value, found.version, self._generation)
        if isinstance(record, rows.Problem):
            self.problems.append(record)
            return
        self._records.append(record)
        if record.problem is not None:
            self.problems.append(record.problem)
        if found.key not in self._known:
            self._report.added += 1
        elif self._known[found.key] == found.version.value:
            self._report.unchanged += 1
        else:
            self._report.changed += 1

    def write(self, connection: sqlite3.Connection) -> None:
        """Write the batch, except over younger rows, and empty it. The caller holds the transaction."""
        keys = [*(record.row.key for record in self._records), *(problem.key for problem in self.problems)]
        generations = _lookup_column(connection, "job", "generation", keys)
        younger = {key for key, generation in generations.items() if generation > self._generation}
        records = [record for record in self._records if record.row.key not in younger]
        rows.write_rows(connection, records)
        problems = [problem for problem in self.problems if problem.key not in younger]
        rows.replace_problems(connection, [record.row.key for record in records], problems)
        self._records, self.problems = [], []


class _RecordSync:
    """A sync of records, full or delta."""

    superseded_by = sync_state.SYNCED_GENERATION
    """Which completed syncs end this one, if they are younger."""

    def __init__(
        self, registry: JobRegistry, connection: sqlite3.Connection, report: SyncReport, generation: int
    ) -> None:
        """Prepare the sync.

        Args:
            registry: the registry to read.
            connection: the cache, open to write.
            report: counts what is done.
            generation: that of this sync.
        """
        self._registry = registry
        self._connection = connection
        self._report = report
        self._generation = generation
        self._vanished: list[str] = []
        """Keys that the cache has, and the registry not."""

    def finish(self) -> None:
        """Remove the rows of jobs that are gone. The caller holds the transaction.

        Not earlier: an older sync that still runs may bring one of them back until this one is complete.
        """
        self._report.removed = delete_rows(self._connection, self._vanished, self._generation)

    def _write_as_read(
        self,
        records: RecordBatch,
        fetched: Iterable[FetchedRecord | rows.Problem],
        on_progress: OnProgress | None,
    ) -> None:
        """Add records and problems to a batch, and write it each second and at the end, also if reading fails."""
        written_at = time.monotonic()
        try:
            for found in fetched:
                records.add(found)
                if time.monotonic() - written_at > WRITE_SECONDS:
                    self._write(records, on_progress)
                    written_at = time.monotonic()
        finally:
            self._write(records, on_progress)

    def _write(self, records: RecordBatch, on_progress: OnProgress | None = None) -> None:
        with sync_state.transaction_if_latest(self._connection, self._generation, self.superseded_by):
            records.write(self._connection)
        if on_progress is not None:
            on_progress(self._report.seen)

    def _versions_of(self, keys: list[str]) -> Iterator[dict[str, str]]:
        """Yield the versions that the cache has of records, of their problems, and of pruned ones, by key."""
        # In this order: a job that is pruned meanwhile is found in one of the tables.
        return (_lookup_column(self._connection, table, "version", keys) for table in _TABLES)


class DeltaSync(_RecordSync):
    """One delta sync."""

    def run(
        self, announced: set[str], on_progress: OnProgress | None, *, returning: Collection[str] = frozenset()
    ) -> None:
        """Read the announced jobs. Rows of jobs that are gone stay until `finish`.

        Args:
            announced: the jobs to read.
            on_progress: called with the number of jobs seen so far.
            returning: those of them that come back, if they were pruned.
        """
        unread = self._connection.execute("SELECT key FROM problem WHERE version = ?", (UNREAD_VERSION,)).fetchall()
        again = {job_id for (key,) in unread if (job_id := self._registry.job_id_of(key)) is not None}
        jobs = iter(sorted(announced | again))
        with ParallelFetcher.for_store(self._registry.store) as fetcher:
            while batch := list(itertools.islice(jobs, BATCH)):
                self._read_batch(batch, returning, fetcher, on_progress)

    def _read_batch(
        self, batch: list[str], returning: Collection[str], fetcher: ParallelFetcher, on_progress: OnProgress | None
    ) -> None:
        keys = [self._registry.key_of(job_id) for job_id in batch]
        jobs, problems, pruned = self._versions_of(keys)

        def changed_records() -> Iterator[FetchedRecord | rows.Problem]:
            for job_id, key, found in zip(batch, keys, fetcher.fetch(keys), strict=True):
                if found is None:
                    self._vanished.append(key)
                    continue
                self._report.seen += 1
                if isinstance(found, FailedRead):
                    yield _unread_problem(key, found)
                elif problems.get(key) != UNREAD_VERSION and found.version.value in (
                    problems.get(key, jobs.get(key)),
                    None if job_id in returning else pruned.get(key),
                ):
                    self._report.unchanged += 1
                else:
                    yield FetchedRecord(job_id, key, found.value, found.version)

        self._report.fetched += len(batch)
        self._write_as_read(RecordBatch(self._generation, self._report, jobs), changed_records(), on_progress)


class _PlannedBatch:
    """A batch whose changed records are known, and are being fetched."""

    def __init__(self, records: RecordBatch) -> None:
        self.records = records
        self.size = 0
        self.seen, self.unchanged = 0, 0
        self.changed: list[str] = []
        self.vanished: set[str] = set()
        """Keys that the cache has, and the listing not."""
        self.listed: list[FetchedRecord] = []
        self.missing: list[tuple[str, str]] = []
        self.fetched: Iterator[Versioned | FailedRead | None] = iter(())
        """The values of `missing`, in their order."""

    @property
    def news(self) -> int:
        """Return how many of its records are to be written."""
        return len(self.listed) + len(self.missing)

    @property
    def has_many_missing(self) -> bool:
        """Return True if another listing, with the records, takes less time than reading them."""
        return len(self.missing) > max(GET_COST, self.seen // GET_COST)

    def changed_records(self, report: SyncReport) -> Iterator[FetchedRecord | rows.Problem]:
        """Yield the changed records, and problems. A record that is gone by now is left to the next sync."""
        for record in self.listed:
            report.seen += 1
            yield record
        for (job_id, key), found in zip(self.missing, self.fetched, strict=True):
            report.seen += 1
            if isinstance(found, FailedRead):
                yield _unread_problem(key, found)
            elif found is not None:
                yield FetchedRecord(job_id, key, found.value, found.version)


class FullSync(_RecordSync):
    """One full sync."""

    superseded_by = sync_state.FULL_GENERATION

    def __init__(
        self,
        registry: JobRegistry,
        connection: sqlite3.Connection,
        report: SyncReport,
        generation: int,
        *,
        reread: bool,
    ) -> None:
        """Prepare the sync; `reread`: also read records whose version is known."""
        super().__init__(registry, connection, report, generation)
        self._reread = reread
        self.changed: set[str] = set()
        """Jobs that are new, changed or gone since the cache was synced; the first ones if they are very many."""
        self._carries = reread or connection.execute("SELECT 1 FROM job LIMIT 1").fetchone() is None
        """Whether the next request is for records, too."""
        self._may_carry = True
        """Whether no listing that was asked for records came without them, as those of S3 do."""
        self._after = ""
        self._share = 1.0
        """The share of news among the last entries of a listing with records, an average that forgets."""

    def run(self, on_progress: OnProgress | None) -> None:
        """Merge the whole listing. Rows that it lacks stay until `finish`."""
        with ParallelFetcher.for_store(self._registry.store) as fetcher:
            planned: list[_PlannedBatch] = []
            try:
                for each in self._planned_batches():
                    # While one batch is written, the records of the next ones are fetched.
                    each.fetched = fetcher.fetch([key for _, key in each.missing])
                    planned.append(each)
                    is_large = sum(each.size for each in planned) > BATCH_BYTES
                    while len(planned) > (1 if is_large else BATCHES_AHEAD):
                        self._write_planned(planned.pop(0), on_progress)
            except StoreError:
                for each in planned:
                    self._write_planned(each, on_progress)
                raise
            for each in planned:
                self._write_planned(each, on_progress)
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
                        self._carries, self._share = True, 1.0
                        is_complete = False
                        break
                    self._after = batch[-1].key
                    self._report.unchanged += planned.unchanged
                    self._note_changed(planned.changed)
                    self._note_vanished(planned.vanished)
                    self._share = (self._share + planned.news / max(planned.seen, 1)) / 2
                    self._carries = self._carries and (self._reread or self._share * GET_COST >= 1)
                    yield planned

    def _plan(self, batch: list[Entry]) -> _PlannedBatch:
        """Find the changed records of a batch."""
        # Vanished keys are found by the order of keys: a listing out of order must remove nothing.
        for earlier, later in itertools.pairwise([self._after, *(entry.key for entry in batch)]):
            if earlier >= later:
                raise StoreError(f"The registry's listing is out of order at {later}; nothing was removed.")
        jobs, problems, pruned = (self._known_versions(table, batch[-1].key) for table in _TABLES)
        planned = _PlannedBatch(RecordBatch(self._generation, self._report, jobs))
        for entry in batch:
            job_id = self._registry.job_id_of(entry.key)
            if job_id is None:
                planned.records.problems += _foreign_key_problem(entry)
                continue
            planned.seen += 1
            planned.size += min(entry.size or 0, MAX_RECORD_BYTES)
            is_pruned = entry.version.value == pruned.get(entry.key)
            is_unread = problems.get(entry.key) in (UNREAD_VERSION, rows.UNLISTED)
            is_known = not is_unread and entry.version.value == problems.get(entry.key, jobs.get(entry.key))
            if not (is_known or is_pruned or is_unread):
                planned.changed.append(job_id)
            if is_pruned or (is_known and not self._reread):
                planned.unchanged += 1
            elif entry.value is not None:
                planned.listed.append(FetchedRecord(job_id, entry.key, entry.value, entry.version))
            elif entry.size is not None and entry.size > MAX_RECORD_BYTES:
                reason = f"too large: {entry.size:,} bytes, expected at most {MAX_RECORD_BYTES:,}"
                problem = rows.Problem(entry.key, rows.UNREADABLE, reason, entry.version.value)
                planned.records.problems.append(problem)
            else:
                planned.missing.append((job_id, entry.key))
        planned.vanished = (jobs.keys() | problems.keys() | pruned.keys()) - {entry.key for entry in batch}
        return planned

    def _write_planned(self, planned: _PlannedBatch, on_progress: OnProgress | None) -> None:
        """Write the changed records of a batch."""
        self._report.seen += planned.seen - planned.news
        self._report.fetched += len(planned.missing)
        self._write_as_read(planned.records, planned.changed_records(self._report), on_progress)

    def confirm_vanished(self) -> None:
        """Read the records that the listing lacked. `finish` then removes those that are gone.

        Raises:
            StoreError: if the store does not answer.
        """
        keys = sorted(key for key in self._vanished if self._registry.job_id_of(key) is not None)
        kept: set[str] = set()
        with ParallelFetcher.for_store(self._registry.store) as fetcher:
            for start in range(0, len(keys), BATCH):
                kept.update(self._read_vanished(keys[start : start + BATCH], fetcher))
        self._vanished = [key for key in self._vanished if key not in kept]

    def _read_vanished(self, keys: list[str], fetcher: ParallelFetcher) -> list[str]:
        """Read records that the listing lacked, and write those that exist. Return the keys of these."""
        jobs, _, pruned = self._versions_of(keys)
        records = RecordBatch(self._generation, self._report, jobs)
        kept = []
        for key, found in zip(keys, fetcher.fetch(keys), strict=True):
            if found is None:
                continue
            kept.append(key)
            if isinstance(found, FailedRead):
                records.problems.append(_unread_problem(key, found))
            elif pruned.get(key) != found.version.value:
                records.add(FetchedRecord(str(self._registry.job_id_of(key)), key, found.value, found.version))
                if not records.problems or records.problems[-1].key != key:
                    records.problems.append(rows.Problem(key, rows.UNLISTED, EXISTS, rows.UNLISTED))
        self._report.seen += len(kept)
        self._report.fetched += len(keys)
        self._write(records)
        return kept

    def _known_versions(self, table: str, last: str | None) -> dict[str, str]:
        """Return keys and versions of a table's rows after the merged ones, up to the key `last`, or to the end."""
        sql = f"SELECT key, version FROM {table} WHERE key > ?1 AND (?2 IS NULL OR key <= ?2)"  # noqa: S608 - constant names
        return dict(self._connection.execute(sql, (self._after, last)).fetchall())

    def _note_vanished(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        self._vanished += keys
        self._note_changed(job_id for key in keys if (job_id := self._registry.job_id_of(key)) is not None)

    def _note_changed(self, job_ids: Iterable[str]) -> None:
        self.changed.update(itertools.islice(job_ids, MAX_NAMES + 1 - len(self.changed)))


def _unread_problem(key: str, failed: FailedRead) -> rows.Problem:
    """Return the problem of a record that the store does not send. Without a version, each sync tries it again."""
    return rows.Problem(key, rows.UNREADABLE, shorten(failed.reason, MAX_REASON), UNREAD_VERSION)


def _lookup_column(connection: sqlite3.Connection, table: str, name: str, keys: list[str]) -> dict[str, Any]:
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
            if batch and time.monotonic() - begun > WRITE_SECONDS:
                yield batch
                batch, size, begun = [], 0, time.monotonic()
            batch.append(entry)
            size += min(entry.size or 0, MAX_RECORD_BYTES)  # longer ones are not read
            if len(batch) == BATCH or size > BATCH_BYTES:
                yield batch
                batch, size, begun = [], 0, time.monotonic()
    except StoreError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch

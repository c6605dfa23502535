"""Begin an empty cache with a snapshot, as if it were a copy of the publisher's cache.

The sync that follows treats these rows like those of an earlier sync. If the snapshot is recent, it reads what was
announced since. Else it lists names and versions. In both cases the next scan confirms the version of each row, and
reads every other record. Views name the time of the publisher's scan until then.

A version does not prove the value. So some records are read and compared before any row counts. A publisher can still
lie about a few jobs, as can each writer of records. `sync --full` reads all of them.
See docs/decisions/0063-snapshots.md.
"""

from __future__ import annotations

import contextlib
import json
import random as _random
import sqlite3
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice

from mopsjobs.cache import deferred_indexes, rows, sync_state
from mopsjobs.cache.database import SCHEMA_VERSION
from mopsjobs.cache.snapshots import format as snapshot_format
from mopsjobs.cache.sync import identity
from mopsjobs.cache.sync.batch import delete_rows
from mopsjobs.cache.sync.fetcher import FailedRead, ParallelFetcher
from mopsjobs.errors import RecordError, StoreError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.base import Versioned
from mopsjobs.store.unread_keys import why_unread
from mopsjobs.utils.times import parse_time

WINDOW = 8
"""Parts that are fetched while as many are written, in one transaction of some 0.3 s."""

SAMPLE = 32
"""Records that are read to compare them: one round of requests."""

_ANYTHING = "SELECT 1 FROM job UNION ALL SELECT 1 FROM problem UNION ALL SELECT 1 FROM pruned LIMIT 1"

_OF_GENERATIONS = "SELECT key FROM job WHERE generation IN (SELECT value FROM json_each(?)) LIMIT ?"

_UNDO = 2000
"""Rows of a refused snapshot that one transaction removes."""


def read_manifest(registry: JobRegistry) -> snapshot_format.Manifest | None:
    """Return the manifest of the current snapshot; None if there is none.

    Raises:
        RecordError: if it is damaged, from a newer mops-jobs, or not sent by the store.
        StoreError: if the store cannot be read.
    """
    try:
        found = registry.store.get(snapshot_format.MANIFEST_KEY)
        return None if found is None else snapshot_format.parse_manifest(found.value)
    except StoreError as error:
        try:
            reason = why_unread(registry.store, snapshot_format.MANIFEST_KEY, error)
        except StoreError:  # it concerns the whole store
            raise error from None  # the first answer says most
        if reason is None:
            return None
        raise RecordError(reason) from None


def find_manifest(registry: JobRegistry) -> snapshot_format.Manifest | None:
    """Return the manifest of the current snapshot; None if there is none that can be read.

    Raises:
        StoreError: if the store cannot be read.
    """
    try:
        return read_manifest(registry)
    except RecordError:
        return None


def take_snapshot(
    registry: JobRegistry,
    connection: sqlite3.Connection,
    generation: int,
    *,
    started: datetime,
    fewest: int,
    on_progress: Callable[[int], None] | None = None,
    random: _random.Random | None = None,
) -> snapshot_format.Manifest | None:
    """Fill a cache that was never synced with the current snapshot of its registry.

    Args:
        registry: the registry.
        connection: the cache, open to write.
        generation: that of the rows.
        started: when the sync began, in UTC.
        fewest: jobs up to which a listing costs less.
        on_progress: called with the number of jobs so far.
        random: chooses the records that are compared.

    Returns:
        The snapshot; None if there is none that can be used. Then no row of it is left.

    Raises:
        StoreError: if the store does not answer. The next sync removes the rows that were written.
        SupersededError: if another sync has begun to remove them.
    """
    if sync_state.get_meta(connection, sync_state.SYNCED_AT):
        return None
    taking = _Taking(registry, connection, generation, random or _random.SystemRandom())
    taking.remove_unverified()
    manifest = find_manifest(registry)
    if manifest is None or manifest.cache_schema != SCHEMA_VERSION or manifest.jobs <= fewest:
        return None
    # A row that is there already may be older or newer than that of the snapshot, and a publisher's clock may be wrong.
    # Then only a scan can tell.
    is_dated = connection.execute(_ANYTHING).fetchone() is None and parse_time(manifest.known_to) <= started
    if manifest.jobs >= deferred_indexes.MIN_JOBS:
        deferred_indexes.defer_indexes(connection)
    with ParallelFetcher.for_store(registry.store) as fetcher:
        is_usable = taking.run(manifest, fetcher, on_progress)
    if not is_usable:
        taking.undo()
        return None
    if is_dated:
        deferred_indexes.create_indexes(connection)
    taking.note_verified(manifest if is_dated else None)
    return manifest


class _Taking:
    """One use of a snapshot."""

    def __init__(
        self, registry: JobRegistry, connection: sqlite3.Connection, generation: int, random: _random.Random
    ) -> None:
        self._registry = registry
        self._connection = connection
        self._generation = generation
        self._random = random
        self._sample: list[rows.JobRow] = []
        self._after = ""
        """The last key of the part before."""
        self._problems: list[str] = []
        """Keys of the problems."""

    def remove_unverified(self) -> None:
        """Remove the rows that a sync has left which ended before it compared them."""
        unverified = self._unverified()
        if unverified:
            self._mark([*unverified, self._generation])
            self._remove(unverified)

    def run(
        self,
        manifest: snapshot_format.Manifest,
        fetcher: ParallelFetcher,
        on_progress: Callable[[int], None] | None,
    ) -> bool:
        """Write all rows. Return False if the snapshot must not be used.

        Raises:
            StoreError: if the store does not answer.
        """
        self._mark([self._generation])
        try:
            self._write_parts(manifest, fetcher, on_progress)
            self._compare(fetcher)
        except RecordError:
            return False
        return True

    def note_verified(self, manifest: snapshot_format.Manifest | None) -> None:
        """Note that the rows were compared, and that the cache has what the scan of the publisher found, and no more.

        Args:
            manifest: tells of that scan; None: the cache is not synced, since only a scan of its own can tell.
        """
        with self._transaction():
            sync_state.set_meta(self._connection, {sync_state.UNVERIFIED: ""})
            if manifest is None:
                return
            deferred_indexes.create_rest(self._connection)
            values = {
                sync_state.SYNCED_AT: manifest.known_to,
                sync_state.FULL_SYNCED_AT: manifest.known_to,
                sync_state.SYNCED_GENERATION: str(self._generation),
                sync_state.FULL_GENERATION: str(self._generation),
                sync_state.FOREIGN_WRITES: manifest.foreign_writes,
                sync_state.FOREIGN_RECORDS: manifest.foreign_records,
            }
            sync_state.set_meta(self._connection, values)
            identity.remember_witnesses(self._connection, self._generation)

    def undo(self) -> None:
        """Remove the rows and problems of the snapshot."""
        with self._transaction():
            delete_rows(self._connection, self._problems, self._generation)
        self._remove([self._generation])

    def _unverified(self) -> list[int]:
        """Return the generations whose rows were not compared. The last one is that of the sync that works on them."""
        return list(json.loads(sync_state.get_meta(self._connection, sync_state.UNVERIFIED) or "[]"))

    def _mark(self, generations: list[int]) -> None:
        """Note generations whose rows were not compared."""
        with sync_state.transaction(self._connection):
            sync_state.set_meta(self._connection, {sync_state.UNVERIFIED: json.dumps(generations)})

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Run the block in a transaction, if no other sync has begun to remove the rows of this one.

        Raises:
            SupersededError: if one has.
        """
        with sync_state.transaction_if_latest(self._connection, self._generation, sync_state.SYNCED_GENERATION):
            if self._unverified()[-1:] != [self._generation]:
                raise sync_state.SupersededError
            yield

    def _remove(self, generations: list[int]) -> None:
        """Remove the rows of these generations, and the note about them."""
        while True:
            with self._transaction():
                keys = [key for (key,) in self._connection.execute(_OF_GENERATIONS, (json.dumps(generations), _UNDO))]
                delete_rows(self._connection, keys, self._generation)
                if not keys:
                    sync_state.set_meta(self._connection, {sync_state.UNVERIFIED: ""})
                    return

    def _write_parts(
        self,
        manifest: snapshot_format.Manifest,
        fetcher: ParallelFetcher,
        on_progress: Callable[[int], None] | None,
    ) -> None:
        """Fetch the parts, and write their rows.

        Raises:
            RecordError: if a part is missing or not what it should be.
            StoreError: if the store does not answer.
        """
        jobs = 0
        names = iter(manifest.parts)
        per_part = -(-SAMPLE // max(len(manifest.parts), 1))
        for window in self._fetch(manifest, fetcher):
            parts = [self._decode(next(names), found, per_part) for found in window]
            with self._transaction():
                for part in parts:
                    self._write(part)
            jobs += sum(len(part.rows) for part in parts)
            if on_progress is not None:
                on_progress(jobs)

    def _compare(self, fetcher: ParallelFetcher) -> None:
        """Compare some rows with their records.

        Raises:
            RecordError: if a record of the same version makes another row, or no record has the same version.
            StoreError: if the store does not answer.
        """
        chosen = self._random.sample(self._sample, min(SAMPLE, len(self._sample)))
        confirmed = 0
        for row, found in zip(chosen, fetcher.fetch([row.key for row in chosen]), strict=True):
            if not isinstance(found, Versioned) or found.version.value != row.version:
                continue
            made = rows.to_row(row.key, row.job_id, found.value, found.version, self._generation)
            if not isinstance(made, rows.JobRow) or (made.row, set(made.labels)) != (row.row, set(row.labels)):
                raise RecordError(f"has another value for {row.key} than its record")
            confirmed += 1
        if not confirmed:
            raise RecordError("has no version that the registry has")

    def _fetch(
        self, manifest: snapshot_format.Manifest, fetcher: ParallelFetcher
    ) -> Iterator[list[Versioned | FailedRead | None]]:
        """Yield the parts, `WINDOW` at a time. While one window is written, the next one is fetched."""
        keys = iter(manifest.part_keys())
        coming = fetcher.fetch(list(islice(keys, WINDOW)))
        while following := list(islice(keys, WINDOW)):
            window, coming = coming, fetcher.fetch(following)
            yield list(window)
        yield list(coming)

    def _decode(self, name: str, found: Versioned | FailedRead | None, per_part: int) -> snapshot_format.Part:
        """Return the rows of a part, and choose some to compare."""
        if not isinstance(found, Versioned):
            raise RecordError("a part is missing, or the store does not send it")
        part = snapshot_format.decode_part(found.value, name, self._registry.job_id_of, self._generation)
        if part.rows:
            if str(part.rows[0][0]) <= self._after:
                raise RecordError("its parts are out of order")
            self._after = str(part.rows[-1][0])
            chosen = self._random.sample(range(len(part.rows)), min(per_part, len(part.rows)))
            self._sample += [snapshot_format.job_row(part, number) for number in chosen]
        return part

    def _write(self, part: snapshot_format.Part) -> None:
        """Write the rows of a part, except those that the cache has. The caller holds the transaction."""
        if part.rows:
            rows.insert_rows(self._connection, part.rows, part.labels, part.remarks)
        rows.replace_problems(self._connection, (), part.problems)
        self._problems += [problem.key for problem in part.problems]

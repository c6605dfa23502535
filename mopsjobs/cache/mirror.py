"""Sync: make the cache equal the registry, at a cost that follows what changed.

A listing of the registry comes in the order of its keys, and so do the rows: the two are merged batch by batch, in
constant memory. Rows whose version is the listed one are left alone. Rows that the listing lacks vanish, but only
after it came to its end: a listing that breaks off proves nothing.

Several syncs and writers may be at the cache at once. Each sync draws an even `generation`; a record that this
machine wrote itself goes into the cache at once, under the odd one after it. A sync overwrites and removes only rows
of its own generation or an older one. So a listing taken before a write never covers what the write left, and
interrupting a sync at any instant leaves a cache that is right about every row it has, as of some moment since the
sync began.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from mopsjobs.cache import rows
from mopsjobs.cache.file import explained, open_to_write
from mopsjobs.errors import StoreError
from mopsjobs.job import MAX_RECORD_BYTES
from mopsjobs.registry import JobRegistry
from mopsjobs.store.base import Entry, VersionToken
from mopsjobs.times import json_time, utc_now

BATCH = 500
"""Entries merged in one transaction: some 30 ms of writing, so that others at the cache wait no longer."""

FETCHERS = 16
"""Records fetched at once where the listing lacks them; more does not help against one storage account."""

OnProgress = Callable[[int], None]
"""Told how many jobs were seen so far."""


class SyncReport:
    """What a sync did."""

    def __init__(self) -> None:
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


def sync(
    registry: JobRegistry,
    path: str,
    registry_id: str,
    *,
    full: bool = False,
    on_progress: OnProgress | None = None,
    now: Callable[[], datetime] = utc_now,
) -> SyncReport:
    """Mirror the registry into the cache at `path`.

    Args:
        registry: what to mirror.
        path: the cache; made when there is none.
        registry_id: the registry's identity, which the cache remembers.
        full: read every record again, also those whose version has not changed.
        on_progress: called with the number of jobs seen so far.
        now: the time, in UTC.

    Raises:
        StoreError: the registry cannot be listed. Rows mirrored before stay, and none has been removed.
        CacheError: the cache cannot be written.
    """
    begun = time.monotonic()
    started = json_time(now())
    report = SyncReport()
    connection = open_to_write(path, registry_id)
    try:
        with explained(path):
            with transaction(connection):
                generation = _next_generation(connection)
                _remember(connection, attempted_at=started)
            try:
                _Merge(registry, connection, report, generation=generation, started=started, full=full).run(on_progress)
            except _OvertakenError:
                # The other sync listed the registry later than this one did: what it left is right, this is not.
                report.seconds = time.monotonic() - begun
                report.synced_at = _recalled(connection, "synced_at") or started
                return report
            except StoreError as error:
                with transaction(connection):
                    _remember(connection, last_error=str(error))
                raise
            report.synced_at = started
            report.seconds = time.monotonic() - begun
    finally:
        connection.close()
    return report


def write_through(path: str, registry_id: str, job_id: str, key: str, value: bytes, version: VersionToken) -> None:
    """Take a record that this machine has just written into the cache, so that the next listing shows it.

    A row from a sync is older than what this machine has just written, unless that sync is at work right now; then
    the next one mends it. Of two own writes since, the later one stays: the times of a record's writes never go back,
    while a program that drops our fields resets the revision.
    """
    connection = open_to_write(path, registry_id)
    try:
        with explained(path), transaction(connection):
            generation = _last_generation(connection) + 1
            record = rows.mirrored(key, job_id, value, version, generation)
            if not isinstance(record, rows.Mirrored):
                return
            newer = connection.execute(
                "SELECT 1 FROM job WHERE job_id = ?1 AND generation = ?2"
                " AND (changed_ts, CAST(json_extract(record, '$.revision') AS INTEGER))"
                " >= (?3, CAST(json_extract(?4, '$.revision') AS INTEGER))",
                (job_id, generation, record.changed, value.decode()),
            ).fetchone()
            if newer is None:
                rows.write(connection, [record])
                connection.execute("DELETE FROM problem WHERE key = ?", (key,))
    finally:
        connection.close()


class _OvertakenError(Exception):
    """A sync that began later has been completed; whatever this one would still write is older."""


class _Merge:
    """The listing and the cache, merged batch by batch."""

    def __init__(
        self,
        registry: JobRegistry,
        connection: sqlite3.Connection,
        report: SyncReport,
        *,
        generation: int,
        started: str,
        full: bool,
    ) -> None:
        self._registry = registry
        self._connection = connection
        self._generation = generation
        self._started = started
        self._report = report
        self._full = full
        self._after = ""
        """The last key merged so far."""
        self._vanished: list[str] = []

    def run(self, on_progress: OnProgress | None) -> None:
        """Merge the whole listing; then, and only then, remove what it lacks."""
        with ThreadPoolExecutor(FETCHERS) as fetchers:
            for batch in _batches(self._registry.scan()):
                self._check_order(batch)
                self._take(batch, fetchers)
                if on_progress is not None:
                    on_progress(self._report.seen)
        self._vanished += {**self._known("job", None), **self._known("problem", None)}
        with self._writing():
            self._report.removed = _remove(self._connection, self._vanished, self._generation)
            # The data is as old as the listing's first page, not as its last.
            _remember(self._connection, synced_at=self._started, synced_generation=str(self._generation), last_error="")
        self._report.problems = [
            rows.Problem(*row)
            for row in self._connection.execute("SELECT key, kind, reason, version FROM problem ORDER BY key")
        ]

    def _check_order(self, batch: list[Entry]) -> None:
        # What vanished is found by the order of the keys: a listing out of order must not remove anything.
        keys = [self._after, *(entry.key for entry in batch)]
        for one, two in itertools.pairwise(keys):
            if one >= two:
                raise StoreError(f"The registry's listing is out of order at {two}; nothing was removed.")

    def _take(self, batch: list[Entry], fetchers: ThreadPoolExecutor) -> None:
        last = batch[-1].key
        jobs, problems_known = self._known("job", last), self._known("problem", last)
        changed, problems = [], []
        for entry in batch:
            job_id = self._registry.job_id_of(entry.key)
            if job_id is None:
                problems += _beside(entry)
                continue
            self._report.seen += 1
            if not self._full and entry.version.value in (jobs.get(entry.key), problems_known.get(entry.key)):
                self._report.unchanged += 1
            elif entry.value is None and entry.size is not None and entry.size > MAX_RECORD_BYTES:
                reason = f"{entry.size:,} bytes are no record: at most {MAX_RECORD_BYTES:,} are read"
                problems.append(rows.Problem(entry.key, rows.UNREADABLE, reason, entry.version.value))
            else:
                changed.append((job_id, entry))
        records = []
        for job_id, key, value, version in self._with_values(changed, fetchers):
            record = rows.mirrored(key, job_id, value, version, self._generation)
            if isinstance(record, rows.Problem):
                problems.append(record)
                continue
            records.append(record)
            if record.problem is not None:
                problems.append(record.problem)
            if key in jobs:
                self._report.changed += 1
            else:
                self._report.added += 1
        listed = {entry.key for entry in batch}
        self._vanished += (jobs.keys() | problems_known.keys()) - listed
        with self._writing():
            _write(self._connection, records, problems, self._later(last))
        self._after = last

    def _with_values(
        self, changed: list[tuple[str, Entry]], fetchers: ThreadPoolExecutor
    ) -> Iterator[tuple[str, str, bytes, VersionToken]]:
        """Job id, key, value and version: the listing's own where it has them, the others fetched, several at a time.

        A record that is gone by now is left out; the next sync sees what became of it.
        """
        for job_id, entry in changed:
            if entry.value is not None:
                yield job_id, entry.key, entry.value, entry.version
        lacking = [(job_id, entry.key) for job_id, entry in changed if entry.value is None]
        self._report.fetched += len(lacking)
        fetched = fetchers.map(self._registry.store.get, [key for _, key in lacking])
        for (job_id, key), found in zip(lacking, fetched, strict=True):
            if found is not None:
                yield job_id, key, found.value, found.version

    def _known(self, table: str, last: str | None) -> dict[str, str]:
        """Keys with versions of a table's rows beyond what is merged, up to the key `last`, or to the end."""
        return dict(
            self._connection.execute(
                f"SELECT key, version FROM {table} WHERE key > ?1 AND (?2 IS NULL OR key <= ?2)",  # noqa: S608 - a literal
                (self._after, last),
            ).fetchall()
        )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction, unless a sync that began after this one has already been completed."""
        with transaction(self._connection):
            if int(_recalled(self._connection, "synced_generation") or 0) > self._generation:
                raise _OvertakenError
            yield

    def _later(self, last: str) -> set[str]:
        """Keys of this batch whose rows are younger than the listing."""
        found = self._connection.execute(
            "SELECT key FROM job WHERE key > ? AND key <= ? AND generation > ?", (self._after, last, self._generation)
        )
        return {key for (key,) in found}


def _beside(entry: Entry) -> list[rows.Problem]:
    """The problem of a key that is no record, unless it is one of those that jobs are meant to have."""
    if entry.key.endswith("/manifest.json") and entry.key.count("/") == 2:
        return []
    return [rows.Problem(entry.key, rows.NOT_A_RECORD, "not a job record; left alone", entry.version.value)]


def _write(
    connection: sqlite3.Connection,
    records: list[rows.Mirrored],
    problems: list[rows.Problem],
    later: set[str],
) -> None:
    rows.write(connection, [record for record in records if record.key not in later])
    connection.executemany("DELETE FROM problem WHERE key = ?", [(record.key,) for record in records])
    connection.executemany(
        "INSERT OR REPLACE INTO problem (key, kind, reason, version) VALUES (?, ?, ?, ?)",
        [(problem.key, problem.kind, problem.reason, problem.version) for problem in problems],
    )


def _remove(connection: sqlite3.Connection, keys: list[str], generation: int) -> int:
    removed = 0
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


def _batches(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    for entry in entries:
        batch.append(entry)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _last_generation(connection: sqlite3.Connection) -> int:
    return int(_recalled(connection, "generation") or 0)


def _next_generation(connection: sqlite3.Connection) -> int:
    generation = _last_generation(connection) + 2
    _remember(connection, generation=str(generation))
    return generation


def _recalled(connection: sqlite3.Connection, name: str) -> str | None:
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def _remember(connection: sqlite3.Connection, **values: str) -> None:
    connection.executemany("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", list(values.items()))


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """One transaction, begun as a writer, so that it waits for others at its begin and never fails in the middle."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.commit()

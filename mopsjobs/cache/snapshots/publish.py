"""Publish the jobs of a cache as a snapshot, from which other machines begin their caches.

Parts are uploaded first, under a new id. Then the manifest is replaced by compare-and-swap. It must be the one that the
publisher has read before the first upload. If it is not, another publisher has won, and this snapshot is given up.

That is also what makes removing safe. A publisher removes parts that no manifest names, after it has replaced the
manifest, and only those whose publisher began more than `GRACE` before. So the publisher of removed parts has begun
before that manifest, and cannot replace it any more. See docs/decisions/0063-snapshots.md.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from mopsjobs.cache import sync_state
from mopsjobs.cache.database import SCHEMA_VERSION
from mopsjobs.cache.snapshots import format as snapshot_format
from mopsjobs.errors import KeyNotFoundError, RecordError, StoreError, UsageError, command_line
from mopsjobs.store import cas
from mopsjobs.store.base import Versioned, VersionedStore
from mopsjobs.utils.text import pluralize
from mopsjobs.utils.times import json_time, parse_time

GRACE = timedelta(hours=1)
"""How long a replaced snapshot stays for readers that download it, and how old an abandoned upload must be. Clocks
differ by at most ten minutes."""

_ROWS = f"SELECT {', '.join(snapshot_format.SHARED)}, record FROM job WHERE key > ? ORDER BY key"  # noqa: S608 - constant names


class PublishReport(NamedTuple):
    """Result of a publication."""

    manifest: snapshot_format.Manifest
    is_overtaken: bool
    """Whether another machine published meanwhile; then this snapshot was given up."""
    removed: int
    """Keys of older snapshots that were removed."""
    problem: str | None
    """Why older snapshots could not be removed; None if they were."""


class _OvertakenError(Exception):
    """Another publisher has replaced the manifest."""


class _OwnWrite:
    """Recognises a value that this publisher has written: the `cas.Update` of manifest and parts."""

    def __init__(self, is_own: Callable[[bytes], bool]) -> None:
        self.already_applied = is_own

    def leaves_permanent_trace(self, value: bytes) -> bool:
        return self.already_applied(value)

    def on_read(self, current: Versioned) -> None:
        pass

    def before_write(self) -> None:
        pass

    def on_conflict(self) -> None:
        pass


def publish_snapshot(
    store: VersionedStore,
    connection: sqlite3.Connection,
    *,
    now: Callable[[], datetime],
    on_progress: Callable[[int], None] | None = None,
) -> PublishReport:
    """Publish the jobs of a cache, which a full sync has filled, and remove older snapshots.

    Args:
        store: the store of the registry.
        connection: the cache.
        now: the time, in UTC.
        on_progress: called with the number of jobs that are uploaded.

    Raises:
        UsageError: if the cache has no jobs, jobs were pruned from it, or no full sync has filled it.
        RecordError: if the current manifest is damaged, or from a newer mops-jobs.
        StoreError: if the store does not take the snapshot.
    """
    base = store.get(snapshot_format.MANIFEST_KEY)
    before = None if base is None else _current(base.value)
    began = now()  # after the manifest was read, so that older ids are of publishers that read an older manifest
    snapshot_id = f"{began:{snapshot_format.ID_FORMAT}}-{secrets.token_hex(4)}"
    names: list[str] = []
    size = jobs = 0
    with _read_transaction(connection):
        meta = _publishable_state(connection)
        for part, count in _parts(connection):
            names.append(snapshot_format.name_of(part))
            key = snapshot_format.part_key(snapshot_id, names[-1])
            cas.create(store, key, part, _OwnWrite(part.__eq__))
            size, jobs = size + len(part), jobs + count
            if on_progress is not None:
                on_progress(jobs)
    manifest = snapshot_format.Manifest(
        id=snapshot_id,
        known_to=meta[sync_state.FULL_SYNCED_AT],
        cache_schema=SCHEMA_VERSION,
        jobs=jobs,
        bytes=size,
        foreign_writes=meta[sync_state.FOREIGN_WRITES],
        foreign_records=meta[sync_state.FOREIGN_RECORDS],
        parts=tuple(names),
        retired=_retired(before, began),
    )
    if not _replace(store, before, manifest):
        removed, problem = _remove(store, manifest.part_keys())
        return PublishReport(manifest, is_overtaken=True, removed=removed, problem=problem)
    removed, problem = _remove(store, _unreachable(store, manifest, began - GRACE))
    return PublishReport(manifest, is_overtaken=False, removed=removed, problem=problem)


def _current(value: bytes) -> snapshot_format.Manifest:
    """Return the current manifest.

    Raises:
        RecordError: if it is damaged, or from a newer mops-jobs, whose snapshot must not be replaced.
    """
    try:
        return snapshot_format.parse_manifest(value)
    except RecordError as error:
        refusal = RecordError(error.reason, key=snapshot_format.MANIFEST_KEY)
        refusal.hint = snapshot_format.UNREADABLE_HINT
        raise refusal from None


@contextlib.contextmanager
def _read_transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Read the cache as of one moment, while syncs go on."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.rollback()


def _publishable_state(connection: sqlite3.Connection) -> dict[str, str]:
    """Return the state of the syncs of a cache that can be published.

    Raises:
        UsageError: if it cannot be.
    """
    names = (sync_state.FULL_SYNCED_AT, sync_state.FOREIGN_WRITES, sync_state.FOREIGN_RECORDS)
    meta = {name: sync_state.get_meta(connection, name) or "" for name in names}
    if not meta[sync_state.FULL_SYNCED_AT]:
        raise UsageError("The cache was never synced.", hint=f"Run: {command_line('sync')}")
    (pruned,) = connection.execute("SELECT count(*) FROM pruned").fetchone()
    if pruned:
        raise UsageError(
            f"The cache lacks {pluralize(pruned, 'pruned job')}, and so would a snapshot of it.",
            hint="Publish from a cache of its own: --cache PATH.",
        )
    (has_jobs,) = connection.execute("SELECT EXISTS (SELECT 1 FROM job)").fetchone()
    if not has_jobs:  # a mistyped registry, perhaps: a write would make it
        raise UsageError("The registry has no jobs to publish.", hint=f"Check its name: {command_line('doctor')}")
    return meta


def _parts(connection: sqlite3.Connection) -> Iterator[tuple[bytes, int]]:
    """Yield the parts, and the number of rows of each. The last part also has the problems after the last row."""
    after = ""
    has_more = True
    while has_more:
        found: list[tuple[object, ...]] = []
        size = 0
        has_more = False
        for row in connection.execute(_ROWS, (after,)):
            if len(found) == snapshot_format.PART_ROWS or size > snapshot_format.PART_CHARACTERS:
                has_more = True
                break
            found.append(row)
            size += len(str(row[-1]))
        last = str(found[-1][0]) if has_more else None
        yield from _encoded(connection, found, after, last)
        after = last or ""


def _encoded(
    connection: sqlite3.Connection, found: list[tuple[object, ...]], after: str, last: str | None
) -> Iterator[tuple[bytes, int]]:
    """Yield rows as one part, or as several if it would be too large, and the number of rows of each."""
    part = snapshot_format.encode_part(found, *_beside(connection, found, after, last))
    if len(part) <= snapshot_format.PART_BYTES or len(found) < 2:
        yield part, len(found)
        return
    middle = len(found) // 2
    last_of_first = str(found[middle - 1][0])
    yield from _encoded(connection, found[:middle], after, last_of_first)
    yield from _encoded(connection, found[middle:], last_of_first, last)


def _beside(
    connection: sqlite3.Connection, found: list[tuple[object, ...]], after: str, last: str | None
) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str, str]]]:
    """Return the labels of rows, and the problems of the keys up to `last`, or to the end."""
    place = snapshot_format.SHARED.index("job_id")
    marks = ", ".join("?" * len(found))
    labels = connection.execute(
        f"SELECT label, value, job_id FROM job_label WHERE job_id IN ({marks}) ORDER BY job_id, label",  # noqa: S608 - question marks
        [row[place] for row in found],
    ).fetchall()
    problems = connection.execute(
        "SELECT key, kind, reason, version FROM problem WHERE key > ?1 AND (?2 IS NULL OR key <= ?2) ORDER BY key",
        (after, last),
    ).fetchall()
    return labels, problems


def _retired(before: snapshot_format.Manifest | None, moment: datetime) -> tuple[snapshot_format.Retired, ...]:
    """Return the snapshots that readers may still download."""
    if before is None:
        return ()
    # One from the future is of a publisher with a wrong clock, and would stay for as long.
    recent = [one for one in before.retired if abs(moment - parse_time(one.at)) < GRACE]
    return (snapshot_format.Retired(before.id, json_time(moment)), *recent)


def _replace(
    store: VersionedStore, before: snapshot_format.Manifest | None, manifest: snapshot_format.Manifest
) -> bool:
    """Replace the manifest that was read at the beginning. Return False if it has been replaced meanwhile."""
    value = snapshot_format.encode_manifest(manifest)

    def is_own(current: bytes) -> bool:
        found = snapshot_format.parse_manifest(current)
        return manifest.id in (found.id, *(one.id for one in found.retired))

    def replace(current: bytes) -> bytes:
        if before is None or snapshot_format.parse_manifest(current).id != before.id:
            raise _OvertakenError
        return value

    if before is None:
        return cas.create(store, snapshot_format.MANIFEST_KEY, value, _OwnWrite(is_own)) is not None
    try:
        cas.update(store, snapshot_format.MANIFEST_KEY, replace, _OwnWrite(is_own))
    except (_OvertakenError, KeyNotFoundError):
        return False
    return True


def _unreachable(store: VersionedStore, manifest: snapshot_format.Manifest, before: datetime) -> Iterator[str]:
    """Yield the keys of parts that the manifest does not name, of publishers that began before a time."""
    reachable = {manifest.id, *(one.id for one in manifest.retired)}
    for key in store.list_keys(snapshot_format.PREFIX):
        snapshot_id = snapshot_format.part_id(key)
        if (
            snapshot_id is not None
            and snapshot_id not in reachable
            and snapshot_format.begun_before(snapshot_id, before)
        ):
            yield key


def _remove(store: VersionedStore, keys: Iterator[str] | list[str]) -> tuple[int, str | None]:
    """Remove keys. Return how many, and why it ended early: what is left is removed after the next publication."""
    removed = 0
    try:
        for key in keys:
            removed += store.delete(key)
    except StoreError as error:
        return removed, str(error)
    return removed, None

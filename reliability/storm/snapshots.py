"""Snapshots in a storm: processes publish them, spoil them, and begin caches with them; the judge looks at the store.

Publishers meet, are killed and lose replies like all writers. Another program puts old manifests back, damages and
removes keys, and leaves parts of uploads that were given up. With lies, some publishers change what they publish.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from mopsjobs.cache import database as cache_database
from mopsjobs.cache.snapshots import format as snapshot_format
from mopsjobs.cache.snapshots import publish
from mopsjobs.cache.sync import mirror
from mopsjobs.errors import RecordError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.base import VersionedStore
from mopsjobs.utils.times import utc_now

PART_ROWS = 3
"""Rows of a part, so that a snapshot of a few jobs has several parts."""

GRACE_SECONDS = 6.0
"""An hour of publishers: how long a replaced snapshot and an abandoned upload stay."""

SPEED = publish.GRACE.total_seconds() / GRACE_SECONDS
"""Clocks of publishers differ by as much less."""

LEAST_GRACE_SECONDS = GRACE_SECONDS / 2
"""For this time the parts of a snapshot are there for certain: ids have whole seconds, and clocks differ."""

ABANDONED = "snapshots/20260101T000000-{id:08x}/{name:064x}"

_HALF = "(SELECT key FROM job ORDER BY key LIMIT 1 OFFSET (SELECT count(*) / 2 FROM job))"

LIES = {
    "versions": "UPDATE job SET version = version || 'x'",
    "some versions": f"UPDATE job SET version = version || 'x' WHERE key < {_HALF}",
    "missing": f"DELETE FROM job WHERE key < {_HALF}",
    "ghosts": "UPDATE job SET key = 'jobs/ghost-' || job_id || '/state.json', job_id = 'ghost-' || job_id,"
    f" version = 'x' || version WHERE key < {_HALF}",
    "problems": "INSERT OR REPLACE INTO problem SELECT key, 'unreadable', 'a lie', version FROM job",
    "not JSON": "UPDATE job SET record = '{' || record",
    "all values": "UPDATE job SET owner = 'a lie', status = 'unknown'",
    "later": "UPDATE meta SET value = '2999-01-01T00:00:00Z' WHERE name = 'full_synced_at'",
}
"""What a publisher changes in a copy of its cache. Versions find out all of it, or the comparison of a sample."""


def set_limits() -> None:
    """Set the limits of this process so that few jobs and seconds are as many jobs and hours."""
    snapshot_format.PART_ROWS = PART_ROWS
    publish.GRACE = timedelta(seconds=GRACE_SECONDS)


class Published(NamedTuple):
    """A publication, and what was missing after it."""

    report: publish.PublishReport
    missing: list[str]
    """Parts of its snapshot that were not there right afterwards."""


class Snapshots:
    """The part of a process that has to do with snapshots."""

    def __init__(
        self, store: VersionedStore, cache: str, registry_id: str, clock: float, chance: random.Random
    ) -> None:
        """Keep what is needed; no request is made.

        Args:
            store: the store of the registry.
            cache: the cache that is published.
            registry_id: the identity of the registry.
            clock: seconds by which the clock is off.
            chance: where all chance comes from.
        """
        self._store = store
        self._cache = cache
        self._registry_id = registry_id
        self._clock = timedelta(seconds=clock / SPEED)
        self._chance = chance
        self._manifests: list[bytes] = []

    def publish(self, lie: str | None) -> Published | None:
        """Publish the cache, or a copy with one of `LIES`. Return None if a damaged manifest had to be removed.

        Raises:
            StoreError: if the store does not take it.
        """
        path = self._cache if lie is None else false_copy(self._cache, self._registry_id, LIES[lie])
        try:
            with contextlib.closing(cache_database.open_to_write(path, self._registry_id)) as connection:
                done = publish.publish_snapshot(self._store, connection, now=lambda: utc_now() + self._clock)
        except RecordError:  # the manifest is damaged: a person does what the hint says
            self._store.delete(snapshot_format.MANIFEST_KEY)
            return None
        if done.is_overtaken:
            return Published(done, [])
        self._manifests.append(snapshot_format.encode_manifest(done.manifest))
        there = set(self._store.list_keys(f"{snapshot_format.PREFIX}{done.manifest.id}/"))
        return Published(done, sorted(set(done.manifest.part_keys()) - there))

    def choose_spoiling(self) -> tuple[str, str, Callable[[], None]]:
        """Choose a key below `snapshots/`. Return what another program does to it, the key, and the act.

        Raises:
            StoreError: if the store cannot be listed.
        """
        chance = self._chance
        manifest = snapshot_format.MANIFEST_KEY
        abandoned = ABANDONED.format(id=chance.getrandbits(32), name=chance.getrandbits(256))
        parts = [key for key in self._store.list_keys(snapshot_format.PREFIX) if key != manifest] or [abandoned]
        part = chance.choice(parts)
        damaged = chance.choice([b"", b"{}", b"x" * 100, chance.randbytes(30)])
        old = chance.choice(self._manifests or [damaged])
        return chance.choice(
            [
                ("an old manifest is put back", manifest, lambda: self._replace(manifest, old)),
                ("the manifest is damaged", manifest, lambda: self._replace(manifest, damaged)),
                ("the manifest is removed", manifest, lambda: self._replace(manifest, None)),
                ("a part is damaged", part, lambda: self._replace(part, damaged)),
                ("a part is removed", part, lambda: self._replace(part, None)),
                ("an upload is given up", abandoned, lambda: self._replace(abandoned, damaged)),
            ]
        )

    def _replace(self, key: str, value: bytes | None) -> None:
        self._store.delete(key)
        if value is not None:
            self._store.create_if_absent(key, value)


def false_copy(cache: str, registry_id: str, lie: str) -> str:
    """Copy a cache, change the copy by a statement of `LIES`, and return its path."""
    path = f"{cache}.false"
    remove_cache(path)
    with (
        contextlib.closing(cache_database.open_to_write(cache, registry_id)) as true,
        contextlib.closing(sqlite3.connect(path)) as false,
    ):
        true.backup(false)
    with contextlib.closing(cache_database.open_to_write(path, registry_id)) as connection:
        connection.execute(lie)
        connection.commit()
    return path


def remove_cache(path: str) -> None:
    """Remove a cache."""
    for suffix in ("", "-wal", "-shm"):
        Path(path + suffix).unlink(missing_ok=True)


# --- the judge ------------------------------------------------------------------------------------------------------


def begin_cache(registry: JobRegistry, path: str, registry_id: str) -> int:
    """Fill a new cache, with the snapshot that is there, and let a scan verify it. Return the jobs of the snapshot."""
    with mock.patch.object(mirror, "SMALL_REGISTRY", 0):
        report = mirror.sync(registry, path, registry_id)
        mirror.sync(registry, path, registry_id, scan=True)
    return report.jobs_of_snapshot or 0


def check_store(store: VersionedStore, path: str, registry_id: str, now: datetime) -> Iterator[str]:
    """Publish once more, after an hour: the store has this snapshot, the replaced one, and nothing else.

    Args:
        store: the store.
        path: a cache that was scanned.
        registry_id: the identity of the registry.
        now: a time more than an hour after the last publication.

    Yields:
        What is not so.
    """
    with contextlib.closing(cache_database.open_to_write(path, registry_id)) as connection:
        try:
            done = publish.publish_snapshot(store, connection, now=lambda: now)
        except RecordError:
            store.delete(snapshot_format.MANIFEST_KEY)
            done = publish.publish_snapshot(store, connection, now=lambda: now)
    reachable = {done.manifest.id, *(one.id for one in done.manifest.retired)}
    keys = set(store.list_keys(snapshot_format.PREFIX)) - {snapshot_format.MANIFEST_KEY}
    left = {key for key in keys if snapshot_format.part_id(key) not in reachable}
    if done.is_overtaken or done.problem or left:
        yield f"An hour later, {len(left)} keys are left that no manifest names, such as {sorted(left)[:2]}."
    for key, name in zip(done.manifest.part_keys(), done.manifest.parts, strict=True):
        found = store.get(key)
        if found is None or snapshot_format.name_of(found.value) != name:
            yield f"The last snapshot lacks its part {key}."

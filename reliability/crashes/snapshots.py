"""`snapshot` and first syncs by snapshot killed at random instants: do readers stay right, and what is left behind?"""

from __future__ import annotations

import contextlib
import json
import random
from unittest import mock

from mopsjobs.cache import database as cache_database
from mopsjobs.cache.snapshots import format as snapshot_format
from mopsjobs.cache.snapshots import publish
from mopsjobs.cache.snapshots.take import find_manifest
from mopsjobs.errors import EXIT_PARTLY_DONE, EXIT_UNREACHABLE
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.urls import identity
from mopsjobs.utils.times import utc_now
from reliability.crashes.cache import Mirrored, kill_syncs, patiently, synced
from reliability.crashes.killing import killing
from reliability.crashes.processes import SNAPSHOT_PART_ROWS, Ended, Forker, Instants
from reliability.storm.snapshots import ABANDONED, LIES, check_store, false_copy
from reliability.trial import hold

UPLOADS = 20
"""Parts of an upload that was given up long ago, before each publication: to remove them takes as long as to upload."""


class Publishers:
    """Publishers of one registry, one after the other, and what was found after their kills."""

    def __init__(self, mirrored: Mirrored, forker: Forker, env: dict[str, str], chance: random.Random) -> None:
        """Publish a first snapshot.

        Args:
            mirrored: the registry and the cache of the publisher.
            forker: runs commands.
            env: opens the registry.
            chance: where all chance comes from.
        """
        self.uploading = 0
        """Kills that fell between the first part and the manifest."""
        self.removing = 0
        """Kills that fell between the manifest and the end of the removal."""
        self._mirrored = mirrored
        self._reader = mirrored.with_cache(mirrored.cache.with_name("reader.db"))
        self._forker = forker
        self._chance = chance
        self._registry_id = identity(mirrored.url, env)
        self._words = mirrored.command("snapshot", "--json", "-q")
        self.can_be_taken = mirrored.can_be_delta
        """Whether the registry has enough jobs that first syncs begin with a snapshot."""
        self._parts: set[str] = set()
        self._manifest_id = ""
        self._publish()

    def kill(self, wanted: int) -> Instants:
        """Kill publishers, look at a first sync after each, and publish to the end.

        Raises:
            PromiseBroken: a cache was wrong, the manifest named what is not there, or an old upload was left.
        """
        ends = (0, EXIT_UNREACHABLE, EXIT_PARTLY_DONE)
        return killing(
            self._forker, lambda: [self._words], self._chance, wanted, prepare=self._prepare, look=self._look, ends=ends
        )

    def kill_readers(self, wanted: int) -> Instants:
        """Kill first syncs that begin with a snapshot.

        Raises:
            PromiseBroken: a cache was wrong, or the next sync did not heal it.
        """
        said = self._begin_reader()
        hold('"snapshot": null' not in said, f"no snapshot was taken: {said}")
        return kill_syncs(self._reader, self._forker, self._chance, wanted, full=False, fresh=True)

    def kill_readers_of_lies(self, wanted: int) -> Instants:
        """Kill first syncs that begin with a snapshot whose values are false.

        Raises:
            PromiseBroken: the next sync left a false value.
        """
        with mock.patch.object(snapshot_format, "PART_ROWS", SNAPSHOT_PART_ROWS):
            path = false_copy(str(self._mirrored.cache), self._registry_id, LIES["all values"])
            patiently(lambda: self._publish_here(path))
        said = self._begin_reader()
        hold('"snapshot": null' in said, f"a false snapshot was taken: {said}")
        return kill_syncs(self._reader, self._forker, self._chance, wanted, full=False, fresh=True, is_false=True)

    def check_store_later(self) -> int:
        """Publish as of an hour later. Return how many keys of killed publishers were there before.

        Raises:
            PromiseBroken: keys are left that no manifest names.
        """
        synced(self._forker, self._mirrored.command("sync"))
        before = len(self._keys())
        broken = list(
            check_store(self._store, str(self._mirrored.cache), self._registry_id, utc_now() + 2 * publish.GRACE)
        )
        hold(not broken, " ".join(broken))
        return before - len(self._keys())

    @property
    def _store(self) -> VersionedStore:
        return self._mirrored.store

    def _prepare(self) -> None:
        self._mirrored.change()
        upload = self._chance.getrandbits(32)
        for _ in range(UPLOADS):
            key = ABANDONED.format(id=upload, name=self._chance.getrandbits(256))
            patiently(lambda key=key: self._store.create_if_absent(key, b"given up"))
        self._parts = self._keys()

    def _look(self, ended: Ended) -> None:
        manifest = self._check_manifest()
        if ended.is_killed and manifest.id != self._manifest_id:
            self.removing += any(_is_abandoned(key) for key in self._keys())
        elif ended.is_killed:
            self.uploading += bool(self._keys() - self._parts)
        self._mirrored.check()
        self._begin_reader()
        self._publish()

    def _publish(self) -> None:
        """Publish to the end."""
        for _ in range(10):  # on a busy machine the server may not answer in time
            ended = self._forker.run(self._words)
            if ended.codes == [0]:
                break
        hold(ended.codes == [0], f"a snapshot ended with {ended.codes}: {ended.out}")
        self._manifest_id = json.loads(ended.out)["id"]
        manifest = self._check_manifest()
        hold(manifest.id == self._manifest_id, "the manifest is not the published one")
        left = [key for key in self._keys() if _is_abandoned(key)]
        hold(not left, f"{len(left)} keys of an old upload are left")

    def _check_manifest(self) -> snapshot_format.Manifest:
        manifest = patiently(lambda: find_manifest(self._mirrored.registry))
        assert manifest is not None
        missing = set(manifest.part_keys()) - self._keys()
        hold(not missing, f"the manifest names {len(missing)} parts that are not there")
        return manifest

    def _begin_reader(self) -> str:
        """Fill an empty cache by a first sync, compare it with the registry, and return what the sync said."""
        self._reader.forget()
        said = synced(self._forker, self._reader.command("sync", "--json"))
        self._reader.check_equal()
        return said

    def _publish_here(self, path: str) -> None:
        with contextlib.closing(cache_database.open_to_write(path, self._registry_id)) as connection:
            publish.publish_snapshot(self._store, connection, now=utc_now)

    def _keys(self) -> set[str]:
        return patiently(lambda: set(self._store.list_keys(snapshot_format.PREFIX)))


def _is_abandoned(key: str) -> bool:
    return key.startswith(ABANDONED[: ABANDONED.index("{")])

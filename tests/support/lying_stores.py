"""Stores that confirm writes which their conditions forbid, as some servers of S3's API do; and one that refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mopsjobs.errors import StoreAccessError
from mopsjobs.store.base import Versioned, VersionToken
from mopsjobs.store.condition_probe import SECOND_CREATION, STALE_UPDATE
from mopsjobs.store.memory import InMemoryVersionedStore
from support.cli import LineStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mopsjobs.store.base import VersionedStore

SERVER = "http://127.0.0.1:9000"

ONE_VERSION = VersionToken("1")

LATE_UPDATE = "ignores If-Match: an update of a deleted key succeeded"


class IgnoresAbsence(InMemoryVersionedStore):
    """A store that creates a key again."""

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        super().delete(key)
        return super().create_if_absent(key, value)


class IgnoresVersions(InMemoryVersionedStore):
    """A store that updates a key of any version."""

    def put(self, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        found = self.get(key)
        return None if found is None else super().put(key, value, found.version)


class IgnoresDeletions(InMemoryVersionedStore):
    """A store that updates a key that is gone."""

    def put(self, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        return super().put(key, value, version) if self.get(key) else super().create_if_absent(key, value)


class KeepsDeleted(InMemoryVersionedStore):
    """A store that confirms a deletion, and keeps the key."""

    def delete(self, key: str) -> bool:
        return self.get(key) is not None


class IgnoresAll(IgnoresAbsence):
    """A store that ignores each condition."""

    def put(self, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        return self.create_if_absent(key, value)


class KeepsBelow(InMemoryVersionedStore):
    """A store that keeps conditions under some keys alone, as a proxy may do."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        if not key.startswith(self._prefix):
            super().delete(key)
        return super().create_if_absent(key, value)

    def put(self, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        return super().put(key, value, version) if key.startswith(self._prefix) else self.create_if_absent(key, value)


class HasOneVersion(InMemoryVersionedStore):
    """A store whose keys never change their version."""

    def get(self, key: str) -> Versioned | None:
        found = super().get(key)
        return None if found is None else Versioned(found.value, ONE_VERSION)

    def put(self, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        found = super().get(key)
        if found is None or version != ONE_VERSION:
            return None
        super().put(key, value, found.version)
        return ONE_VERSION

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        return ONE_VERSION if super().create_if_absent(key, value) else None


class WritesTheRefused(InMemoryVersionedStore):
    """A store that refuses a stale update, and writes it all the same."""

    def put(self, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        found = self.get(key)
        if found is not None and found.version != version:
            super().put(key, value, found.version)
            return None
        return super().put(key, value, version)


class RefusesUpdates(InMemoryVersionedStore):
    """A store that takes no version for the current one."""

    def put(self, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        return None


class HasEveryKey(InMemoryVersionedStore):
    """A store that has each key already."""

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        return None


LIARS: Mapping[type[InMemoryVersionedStore], tuple[str, ...]] = {
    IgnoresAbsence: (SECOND_CREATION,),
    IgnoresVersions: (STALE_UPDATE,),
    IgnoresDeletions: (LATE_UPDATE,),
    KeepsDeleted: (LATE_UPDATE,),
    IgnoresAll: (SECOND_CREATION, STALE_UPDATE, LATE_UPDATE),
    HasOneVersion: ("gives two writes one version",),
    WritesTheRefused: ("returns another value or version than it has confirmed",),
    RefusesUpdates: ("refuses an update of the current version",),
    HasEveryKey: ("refuses the creation of a new key",),
}
"""What is wrong with each."""


class RefusingStore(LineStore):
    """A store that refuses the credentials of some methods."""

    def __init__(self, inner: VersionedStore, *methods: str) -> None:
        super().__init__(inner)
        self._refused = methods

    def _enter(self, method: str) -> None:
        super()._enter(method)
        if method in self._refused:
            raise StoreAccessError(f"refused: {method}.")

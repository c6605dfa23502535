"""A versioned store in the memory of this process: for tests, and for experiments in a REPL."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from mopsjobs.errors import StoreError
from mopsjobs.store.base import Entry, Versioned, VersionToken, WantsValues, always, check_key


class InMemoryVersionedStore:
    """The simplest `VersionedStore`: a dict, a counter and a lock. It ends with the process."""

    def __init__(self) -> None:
        self._objects: dict[str, Versioned] = {}
        self._writes = 0
        self._closed = False
        self._lock = threading.Lock()

    def get(self, key: str) -> Versioned | None:
        """See `VersionedStore.get`."""
        check_key(key)
        with self._open():
            return self._objects.get(key)

    def put(self, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        """See `VersionedStore.put`."""
        check_key(key)
        with self._open():
            current = self._objects.get(key)
            if current is None or current.version != version:
                return None
            return self._write(key, value)

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        """See `VersionedStore.create_if_absent`."""
        check_key(key)
        with self._open():
            return None if key in self._objects else self._write(key, value)

    def delete(self, key: str) -> bool:
        """See `VersionedStore.delete`."""
        check_key(key)
        with self._open():
            return self._objects.pop(key, None) is not None

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """See `VersionedStore.list_keys`."""
        return (entry.key for entry in self.scan(prefix))

    def scan(self, prefix: str = "", wants_values: WantsValues = always, after: str = "") -> Iterator[Entry]:
        """See `VersionedStore.scan`. Every entry carries its value."""
        with self._open():
            keys = sorted(key for key in self._objects if key.startswith(prefix) and key > after)
        for key in keys:
            with self._open():
                found = self._objects.get(key)
            if found is not None:
                yield Entry(key, found.version, found.value, len(found.value))

    def close(self) -> None:
        """See `VersionedStore.close`. There is nothing to release."""
        self._closed = True

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        if self._closed:
            raise StoreError("The store in memory is closed.")
        with self._lock:
            yield

    def _write(self, key: str, value: bytes) -> VersionToken:
        # One counter for all keys: a key that is deleted and created again never gets an earlier version.
        self._writes += 1
        version = VersionToken(str(self._writes))
        self._objects[key] = Versioned(bytes(value), version)
        return version

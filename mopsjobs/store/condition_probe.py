"""Probe whether a server keeps the conditions of writes, before the first write of a process.

Compare-and-swap needs a server that refuses the creation of an existing key (If-None-Match), and an update of a stale
version (If-Match). Some servers of S3's API accept both headers and ignore them. Two writers of one record then
overwrite each other, and no reply says so. See docs/decisions/0084-a-probe-of-conditional-writes.md.

The cost, in requests of the store:

    a process that reads    none
    a process that writes   1 read before its first write, of the note that a probe has passed
    a probe                 2 creations, 3 updates, 1 read, 1 deletion of a key of its own; and 1 creation of the note
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple

from mopsjobs.errors import StoreAccessError, StoreError, StoreUnavailableError, UnusableStoreError
from mopsjobs.store.base import Versioned

if TYPE_CHECKING:
    from collections.abc import Callable

    from mopsjobs.store.base import VersionedStore, VersionToken


PREFIX = "conditions/"
"""Begins the keys of probes and of their notes. No other key begins so."""

_FIRST, _RIVAL, _STALE, _LATE = (b'{"probe": %d}' % number for number in range(4))


class ProbeResult(NamedTuple):
    """The result of a probe that could be carried out."""

    flaws: tuple[str, ...]
    """What the server does against the contract, each a predicate; empty if it keeps all conditions."""
    left_key: str | None = None
    """The key of the probe, if the credentials may not delete it."""


def probe_conditions(store: VersionedStore) -> ProbeResult:
    """Create, update and delete a key of an unguessable name, also under conditions that do not hold.

    The key is removed in any case, unless the store does not answer or refuses that.

    Raises:
        StoreAccessError: if the credentials may not write.
        StoreError: if the store does not answer, or if a reply is unexpected. This says nothing about conditions.
    """
    key = f"{PREFIX}probe-{secrets.token_hex(16)}"
    flaws: list[str] = []
    is_left = True
    try:
        version = _probe_writes(store, key, flaws)
        if version is None:
            return ProbeResult(tuple(flaws))
        try:
            store.delete(key)
        except StoreAccessError:
            is_left = False  # a second attempt would be refused as well
            return ProbeResult(tuple(flaws), key)
        if store.put(key, _LATE, version) is None:
            is_left = False
        else:
            flaws.append("ignores If-Match: an update of a deleted key succeeded")
    except StoreUnavailableError as error:
        is_left = error.sent and not error.silent  # a silent server would be silent again, for as long
        raise
    finally:
        if is_left:
            with contextlib.suppress(StoreError):
                store.delete(key)
    return ProbeResult(tuple(flaws))


def _probe_writes(store: VersionedStore, key: str, flaws: list[str]) -> VersionToken | None:
    """Create and update a key. Return its version; None if it cannot be created at all."""
    first = store.create_if_absent(key, _FIRST)
    if first is None:
        flaws.append("refuses the creation of a new key")
        return None
    second = store.create_if_absent(key, _RIVAL)
    if second is not None:
        flaws.append("ignores If-None-Match: two creations of one key both succeeded")
    current = second or first
    updated = store.put(key, _FIRST, current)
    if updated is None:
        flaws.append("refuses an update of the current version")
    elif updated in (first, second):
        flaws.append("gives two writes one version")
    current = updated or current
    stale = None if current == first else store.put(key, _STALE, first)
    if stale is not None:
        flaws.append("ignores If-Match: an update of a stale version succeeded")
        current = stale
    found = store.get(key)
    if not flaws and found != Versioned(_FIRST, current):
        flaws.append("returns another value or version than it has confirmed")
    return current


class ProbedStore:
    """A store whose server is probed before the first write of a process, unless a note in the store says it passed.

    The note counts for one address of the server. A copy of the store on another server is probed again. Threads may
    probe at the same time, each with a key of its own.

    Args:
        store: the store.
        server: returns the address of its server without secrets; None for a server that needs no probe. It is called
            at the first write.
    """

    def __init__(self, store: VersionedStore, server: Callable[[], str | None]) -> None:
        self._store = store
        self._server = server
        self._has_passed = False
        self._flaws: tuple[str, ...] = ()
        """Those that the last probe of this process has found."""
        self.get, self.delete = store.get, store.delete
        self.list_keys, self.scan, self.close = store.list_keys, store.scan, store.close

    def __getattr__(self, name: str) -> Any:
        """Return what only some stores have, such as `pacer` and `credential_source`."""
        return getattr(self._store, name)

    def put(self, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        """See `VersionedStore.put`.

        Raises:
            UnusableStoreError: if the server ignores conditions.
        """
        self._probe_once()
        return self._store.put(key, value, version)

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        """See `VersionedStore.create_if_absent`.

        Raises:
            UnusableStoreError: if the server ignores conditions.
        """
        self._probe_once()
        return self._store.create_if_absent(key, value)

    def check_conditions(self) -> ProbeResult | None:
        """Probe the server now, and note that it has passed. Return None for a server that needs no probe.

        Raises:
            UnusableStoreError: if the server ignores conditions. An earlier note is removed.
            StoreAccessError: if the credentials may not write.
            StoreError: if the store does not answer, or if a reply is unexpected.
        """
        server = self._server()
        if server is None:
            return None
        result = probe_conditions(self._store)
        note = _note_key(server)
        self._flaws = result.flaws
        if result.flaws:
            with contextlib.suppress(StoreError):
                self._store.delete(note)
            self._refuse_flaws()
        self._store.create_if_absent(note, server.encode())
        return result

    def _probe_once(self) -> None:
        if self._has_passed:
            return
        self._refuse_flaws()
        try:
            server = self._server()
            if server is not None and self._store.get(_note_key(server)) is None:
                self.check_conditions()
        except StoreUnavailableError as error:
            error.sent = False  # the write of the caller comes later
            raise
        self._has_passed = True

    def _refuse_flaws(self) -> None:
        """Raise UnusableStoreError if a probe of this process has found flaws."""
        if self._flaws:
            location = getattr(self._store, "location", "The store")
            raise UnusableStoreError(
                f"{location} {'; it '.join(self._flaws)}.",
                hint="Updates of jobs would get lost there. Use a server that keeps If-None-Match and If-Match.",
            )


def _note_key(server: str) -> str:
    return f"{PREFIX}kept-{hashlib.sha256(server.encode()).hexdigest()[:16]}"

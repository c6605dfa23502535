"""Probe whether a server keeps the conditions of writes, and verify some writes of a process.

Compare-and-swap needs a server that refuses the creation of an existing key (If-None-Match), and an update of a stale
version (If-Match). Some servers of S3's API accept both headers and ignore them. Two writers of one record then
overwrite each other, and no reply says so. Others, behind a proxy, keep conditions under some keys alone. So a probe
works beside the records, and its result counts for a day. A process also repeats some of its own writes, which the
server has to refuse. See docs/decisions/0097-writers-verify-conditions.md.

The cost, in requests of the store:

    a process that reads    none
    a process that writes   1 read before its first write, of the note that a probe has passed
    a probe                 2 creations, 3 updates, 1 read, 1 deletion of its own key; a read and a write of the note
    a verified write        1 write: the 1st, 10th, 100th … creation and update of a process beside the records
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from mopsjobs.errors import StoreAccessError, StoreError, StoreUnavailableError, UnusableStoreError
from mopsjobs.store.base import Versioned
from mopsjobs.utils.times import parse_time, record_time, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from mopsjobs.store.base import VersionedStore, VersionToken


RECORDS = "jobs/"

PROBES = RECORDS + ".conditions/probe-"
"""Begins the keys of probes: beside the records, since a server may treat other keys otherwise."""

NOTES = "conditions/kept-"
"""Begins the keys of the notes that a probe has passed."""

_FIRST, _RIVAL, _STALE, _LATE = (b'{"probe": %d}' % number for number in range(4))


NOTE_AGE = timedelta(days=1)
"""After this time, a note no longer counts: another server may have taken over the address."""

MAX_VERIFIED_BYTES = 64 * 2**10
"""Of a write that is repeated. Records are smaller."""

SECOND_CREATION = "ignores If-None-Match: two creations of one key both succeeded"
STALE_UPDATE = "ignores If-Match: an update of a stale version succeeded"


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
    key = PROBES + secrets.token_hex(16)
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
        flaws.append(SECOND_CREATION)
    current = second or first
    updated = store.put(key, _FIRST, current)
    if updated is None:
        flaws.append("refuses an update of the current version")
    elif updated in (first, second):
        flaws.append("gives two writes one version")
    current = updated or current
    stale = None if current == first else store.put(key, _STALE, first)
    if stale is not None:
        flaws.append(STALE_UPDATE)
        current = stale
    found = store.get(key)
    if not flaws and found != Versioned(_FIRST, current):
        flaws.append("returns another value or version than it has confirmed")
    return current


class ProbedStore:
    """A store whose server is probed before the first write of a process, unless a note in the store says it passed.

    The note counts for one address of the server, and for `NOTE_AGE`. A copy of the store on another server is probed
    again. Threads may probe at the same time, each with a key of its own.

    Args:
        store: the store.
        server: returns the address of its server without secrets; None for a server that needs no probe. It is called
            at the first write.
        now: returns the time, in UTC.
    """

    def __init__(
        self, store: VersionedStore, server: Callable[[], str | None], now: Callable[[], datetime] = utc_now
    ) -> None:
        self._store = store
        self._server = server
        self._now = now
        self._probed: str | None = None
        """The server whose writes are verified; None before the first write, or if it needs no probe."""
        self._has_passed = False
        self._written = {SECOND_CREATION: 0, STALE_UPDATE: 0}
        """How many writes beside the records succeeded, by what their repetition would show."""
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
        written = self._store.put(key, value, version)
        if written is not None:
            self._verify(STALE_UPDATE, key, value, lambda: self._store.put(key, value, version))
        return written

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        """See `VersionedStore.create_if_absent`.

        Raises:
            UnusableStoreError: if the server ignores conditions.
        """
        self._probe_once()
        written = self._store.create_if_absent(key, value)
        if written is not None:
            self._verify(SECOND_CREATION, key, value, lambda: self._store.create_if_absent(key, value))
        return written

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
        if result.flaws:
            self._condemn(server, result.flaws)
        self._flaws = ()
        key, value = _note_key(server), f"{record_time(self._now())} {server}".encode()
        note = self._store.get(key)
        if note is None:
            self._store.create_if_absent(key, value)
        else:
            self._store.put(key, value, note.version)
        return result

    def _probe_once(self) -> None:
        self._refuse_flaws()
        if self._has_passed:
            return
        try:
            self._probed = self._server()
            if self._probed is not None and not self._is_fresh(self._store.get(_note_key(self._probed))):
                self.check_conditions()
        except StoreUnavailableError as error:
            error.sent = False  # the write of the caller comes later
            raise
        self._has_passed = True

    def _is_fresh(self, note: Versioned | None) -> bool:
        """Return whether a note says that a probe has passed within `NOTE_AGE`, by the clock of either writer."""
        with contextlib.suppress(ValueError):
            return note is not None and abs(self._now() - parse_time(note.value.decode().partition(" ")[0])) < NOTE_AGE
        return False

    def _verify(self, flaw: str, key: str, value: bytes, repeat: Callable[[], VersionToken | None]) -> None:
        """Repeat some writes that succeeded. The server has to refuse the repetition.

        Raises:
            UnusableStoreError: if it does not. The value is the one that was just confirmed.
        """
        if self._probed is None or not key.startswith(RECORDS) or len(value) > MAX_VERIFIED_BYTES:
            return
        self._written[flaw] = count = self._written[flaw] + 1
        if count != 10 ** (len(str(count)) - 1):
            return
        try:
            repeated = repeat()
        except StoreError:  # the write itself is confirmed
            self._written[flaw] -= 1
            return
        if repeated is not None:
            self._condemn(self._probed, (flaw,))

    def _condemn(self, server: str, flaws: tuple[str, ...]) -> None:
        """Remove the note of a server with flaws, and refuse writes from now on.

        Raises:
            UnusableStoreError: if there are flaws.
        """
        self._flaws = flaws
        with contextlib.suppress(StoreError):
            self._store.delete(_note_key(server))
        self._refuse_flaws()

    def _refuse_flaws(self) -> None:
        """Raise UnusableStoreError if a probe of this process has found flaws."""
        if self._flaws:
            location = getattr(self._store, "location", "The store")
            raise UnusableStoreError(
                f"{location} {'; it '.join(self._flaws)}.",
                hint="Updates of jobs would get lost there. Use a server that keeps If-None-Match and If-Match.",
            )


def _note_key(server: str) -> str:
    return NOTES + hashlib.sha256(server.encode()).hexdigest()[:16]

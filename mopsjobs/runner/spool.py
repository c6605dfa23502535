"""Outputs on their way to the store: sent by a few threads, kept on this disk while the store cannot be reached.

An outage of the store must not stop a simulation, nor may a finished one be lost to it. So what cannot be stored goes
into the outbox, a small SQLite store of the same kind in the job's own directory, and follows when the store answers
again. Both are written by `create_if_absent`: an output that is there already is the same output, and stays.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mopsjobs.errors import StoreError, StoreUnavailableError
from mopsjobs.store.base import Entry, Versioned, VersionedStore

log = logging.getLogger(__name__)

WAITING_TASKS = 64
"""Finished tasks held in memory before the runner waits for the senders: they are ahead of the disk then, not of an
outage."""

FIRST_PAUSE = 1.0
MAX_PAUSE = 30.0
"""Seconds between two looks at a store that does not answer; growing, with jitter."""


class _Parcel(NamedTuple):
    outputs: list[tuple[str, bytes]]
    done: Callable[[], None]


class Outbox:
    """The store of results, and behind it the outbox for what it does not take now."""

    def __init__(
        self,
        store: VersionedStore,
        kept: VersionedStore,
        *,
        senders: int = 4,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the senders.

        Args:
            store: where outputs belong.
            kept: where they stay meanwhile.
            senders: how many are sent at once.
            clock: seconds from any start, never going back.
        """
        self._store = store
        self._kept = kept
        self._clock = clock
        self._parcels: queue.Queue[_Parcel | None] = queue.Queue(WAITING_TASKS)
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._pause = 0.0
        self._not_before = 0.0
        self._broken: StoreError | None = None
        self._threads = [threading.Thread(target=self._send_all, daemon=True) for _ in range(senders)]
        for thread in self._threads:
            thread.start()

    def put(self, outputs: list[tuple[str, bytes]], done: Callable[[], None]) -> None:
        """Hand over the outputs of a task; `done` is called, by another thread, when the last of them is safe.

        The outputs are written in their order.

        Raises:
            StoreError: an earlier output was refused for good; nothing more can be stored.
        """
        if self._broken is not None:
            raise self._broken
        self._parcels.put(_Parcel(outputs, done))

    def finish(self) -> None:
        """Wait until everything handed over is safe, in the store or in the outbox.

        Raises:
            StoreError: an output was refused for good.
        """
        for _ in self._threads:
            self._parcels.put(None)
        for thread in self._threads:
            thread.join()
        if self._broken is not None:
            raise self._broken

    def deliver(self) -> int:
        """Move what the outbox holds into the store, oldest key first. Returns how much is left.

        Raises:
            StoreUnavailableError: the store does not answer. What was moved before stays moved.
        """
        left = 0
        for entry in self._kept.scan():
            if self._closing.is_set():
                left += 1
                continue
            value = entry.value if entry.value is not None else _value(self._kept, entry)
            if value is not None:
                self._store.create_if_absent(entry.key, value)
            self._kept.delete(entry.key)
        return left

    def _send_all(self) -> None:
        while (parcel := self._parcels.get()) is not None:
            try:
                for key, value in parcel.outputs:
                    self._send(key, value)
            except StoreError as error:
                self._broken = error
                continue
            parcel.done()

    def _send(self, key: str, value: bytes) -> None:
        if self._clock() >= self._not_before:
            try:
                self._store.create_if_absent(key, value)
            except StoreUnavailableError as error:
                with self._lock:
                    self._pause = min(MAX_PAUSE, self._pause * 2 or FIRST_PAUSE)
                    self._not_before = self._clock() + self._pause * (0.5 + random.random() / 2)  # noqa: S311 - jitter
                log.info("%s Outputs are kept here until it answers.", error)
            else:
                self._pause = 0.0
                return
        self._kept.create_if_absent(key, value)


class Overlay:
    """The store as the runner of a job reads it: what the outbox holds counts as there.

    Reading only: `get` and `scan` of the contract. A store that does not answer looks as if it held nothing but the
    outbox; so this is for finding what is done already, never for what is to be removed.
    """

    def __init__(self, store: VersionedStore, kept: VersionedStore) -> None:
        self._store = store
        self._kept = kept

    def get(self, key: str) -> Versioned | None:
        """The value in the outbox, else in the store."""
        return self._kept.get(key) or self._store.get(key)

    def scan(self, prefix: str = "") -> Iterator[Entry]:
        """The entries of both, in the order of their keys, each key once."""
        kept = self._kept.scan(prefix)
        waiting = next(kept, None)
        for entry in self._store.scan(prefix):
            while waiting is not None and waiting.key < entry.key:
                yield waiting
                waiting = next(kept, None)
            if waiting is not None and waiting.key == entry.key:
                waiting = next(kept, None)
            yield entry
        while waiting is not None:
            yield waiting
            waiting = next(kept, None)


def _value(store: VersionedStore, entry: Entry) -> bytes | None:
    found = store.get(entry.key)
    return None if found is None else found.value

"""Outputs on their way to the store: sent by a few threads, kept on this disk while the store cannot be reached.

An outage of the store must not stop a simulation, nor may a finished one be lost to it. So what cannot be stored goes
into the outbox, a small SQLite store of the same kind in the job's own directory, and follows when the store answers
again. Both are written by `create_if_absent`: an output that is there already is the same output, and stays.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mopsjobs.errors import StoreError, StoreUnavailableError
from mopsjobs.store.base import Entry, Versioned, VersionedStore
from mopsjobs.submission.offline import VALUE_ERRORS, deliver
from mopsjobs.utils.backoff import HALF_JITTER, Backoff

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
    refused: Callable[[StoreError], None]


class OutputSender:
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
        self._lock = threading.Lock()
        self._backoff = Backoff(FIRST_PAUSE, MAX_PAUSE, jitter=HALF_JITTER)
        self._not_before = 0.0
        self._broken: Exception | None = None
        """Why nothing more can be stored: the first error that was neither an outage nor the fault of one output."""
        self._threads = [threading.Thread(target=self._send_all, daemon=True) for _ in range(senders)]
        for thread in self._threads:
            thread.start()

    def put(
        self, outputs: list[tuple[str, bytes]], done: Callable[[], None], refused: Callable[[StoreError], None]
    ) -> None:
        """Hand over the outputs of a task, which are written in their order. One of two is called, by another thread.

        Args:
            outputs: keys and contents.
            done: called when the last of them is safe.
            refused: called with the reason when one can never be stored, because of what it is.

        Raises:
            StoreError: the store has refused to take anything more. What was handed over is kept in the outbox.
            Exception: whatever else has gone wrong in a sender.
        """
        self._raise_broken()
        self._parcels.put(_Parcel(outputs, done, refused))

    def finish(self) -> None:
        """Wait until everything handed over is safe, in the store or in the outbox. Finishing twice is harmless.

        Raises:
            StoreError, Exception: as `put`.
        """
        threads, self._threads = self._threads, []
        for _ in threads:
            self._parcels.put(None)
        for thread in threads:
            thread.join()
        self._raise_broken()

    def deliver(self, refused: Callable[[str, StoreError], None], is_over: Callable[[], bool]) -> bool:
        """Move what the outbox holds into the store. Arguments, result and errors: see `delivery.deliver`."""
        return deliver(self._kept, self._store, refused, is_over)

    def _break(self, error: Exception) -> None:
        with self._lock:
            self._broken = self._broken or error

    def _raise_broken(self) -> None:
        if self._broken is not None:
            raise self._broken

    def _send_all(self) -> None:
        # Whatever happens, parcels are taken: a queue that nobody empties would stop the runner for ever.
        while (parcel := self._parcels.get()) is not None:
            try:
                self._send_one(parcel)
            except Exception as error:  # noqa: BLE001 - it is raised where it is seen, in the runner's own thread
                self._break(error)

    def _send_one(self, parcel: _Parcel) -> None:
        try:
            for key, value in parcel.outputs:
                self._send(key, value)
        except VALUE_ERRORS as error:
            parcel.refused(error)
        else:
            parcel.done()

    def _send(self, key: str, value: bytes) -> None:
        if self._broken is None and self._clock() >= self._not_before:
            try:
                self._store.create_if_absent(key, value)
            except StoreUnavailableError as error:
                with self._lock:
                    self._not_before = self._clock() + self._backoff.next_delay()
                log.info("%s Outputs are kept here until it answers.", error)
            except VALUE_ERRORS:
                raise
            except StoreError as error:
                self._break(error)
            else:
                self._backoff.reset()
                return
        self._kept.create_if_absent(key, value)


class StoreWithOutbox:
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

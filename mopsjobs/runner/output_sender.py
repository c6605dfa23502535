"""Send outputs to the store by a few threads, and keep them in the outbox while the store does not answer.

An outage must neither stop a simulation nor lose a finished one. The outbox is a small SQLite store in the job's own
directory; its outputs are delivered when the store answers again. Both stores are written by `create_if_absent`: an
output that exists already is the same output, and stays.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from mopsjobs.errors import VALUE_ERRORS, StoreError, StoreUnavailableError
from mopsjobs.store.base import Entry, Versioned, VersionedStore
from mopsjobs.store.bulk import TransactionalStore, create_all_if_absent
from mopsjobs.submission.relay import deliver
from mopsjobs.utils.background import BackgroundWriter

MAX_WAITING_TASKS = 64
"""Finished tasks held in memory; with more, the runner waits for the threads. An outage does not fill the queue."""

MAX_TRANSACTION_BYTES = 2**20
"""Outputs of several tasks share a transaction of an embedded store up to this size; it keeps other writers waiting."""

THREADS = 4
"""Tasks that are sent at once to a store in a network."""

FIRST_PAUSE = 1.0
"""Seconds before the second attempt at a store that does not answer."""


class _Request(NamedTuple):
    outputs: list[tuple[str, bytes]]
    on_done: Callable[[], None]
    on_refused: Callable[[StoreError], None]
    before: Callable[[], None]


class OutputSender:
    """Writes outputs to the store, or to the outbox while the store does not answer."""

    def __init__(
        self,
        store: VersionedStore,
        outbox: VersionedStore,
        *,
        threads: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the threads.

        Args:
            store: where outputs belong.
            outbox: where they are kept during an outage.
            threads: how many tasks are sent at once; None: one to a local store, which has one writer at a time anyway.
            clock: a monotonic clock in seconds.
        """
        self._store = store
        self._outbox = outbox
        self._has_transactions = isinstance(store, TransactionalStore)
        self._waiting: deque[_Request] = deque()
        self._failure: Exception | None = None
        """Why nothing more can be stored: the first error that was neither an outage nor about one output."""
        if threads is None:
            threads = 1 if getattr(store, "is_local", False) else THREADS
        self._writer = BackgroundWriter(
            "outputs",
            self._take_requests,
            self._write,
            "Outputs are kept here until it answers.",
            first_pause=FIRST_PAUSE,
            keep=self._keep,
            threads=threads,
            clock=clock,
        )
        self._writer.start()

    def put(
        self,
        outputs: list[tuple[str, bytes]],
        on_done: Callable[[], None],
        on_refused: Callable[[StoreError], None],
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Queue the outputs of a task, which are written in their order. A thread calls the callbacks.

        Args:
            outputs: keys and contents.
            on_done: called when the last output is on disk.
            on_refused: called with the reason if an output can never be stored, for example because of its size.
            before: called before the first output is written.

        Raises:
            StoreError: if the store refuses all outputs. Those that were queued are kept in the outbox.
            Exception: if a thread failed for another reason.
        """
        self._raise_failure()
        changed = self._writer.changed
        with changed:
            changed.wait_for(lambda: len(self._waiting) < MAX_WAITING_TASKS)
            self._waiting.append(_Request(outputs, on_done, on_refused, before))
            changed.notify()

    def finish(self) -> None:
        """Wait until all queued outputs are in the store or in the outbox. Finishing twice is harmless.

        Raises:
            StoreError, Exception: if `put` would raise them.
        """
        self._writer.close(0.0)  # nothing is given up: what the store does not take goes into the outbox
        self._writer.join()
        self._raise_failure()

    def deliver(self, job_id: str, on_refused: Callable[[str, StoreError], None], is_over: Callable[[], bool]) -> bool:
        """Move the outputs in the outbox into the store. Arguments, result and errors: see `offline.deliver`."""
        return deliver(self._outbox, self._store, job_id, on_refused, is_over)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _take_requests(self) -> tuple[list[_Request] | None, float | None]:
        """Return a request with those behind it that share its transaction; see `BackgroundWriter`."""
        if not self._waiting:
            return None, None
        requests: list[_Request] = []
        size = 0
        while self._waiting and (not requests or (self._has_transactions and size < MAX_TRANSACTION_BYTES)):
            requests.append(self._waiting.popleft())
            size += sum(len(value) for _, value in requests[-1].outputs)
        self._writer.changed.notify()
        return requests, None

    def _write(self, requests: Sequence[_Request]) -> None:
        """Write outputs to the store, unless it refuses all. `put` and `finish` raise that in the runner's own thread.

        Raises:
            StoreUnavailableError: if the store does not answer.
        """
        if self._failure is None:
            try:
                self._send(self._store, requests)
            except StoreUnavailableError:
                raise
            except StoreError as error:
                self._failure = error
            except Exception as error:  # noqa: BLE001 - a thread that ends would leave the runner waiting for ever
                self._failure = error
                return
            else:
                return
        self._keep(requests)

    def _keep(self, requests: Sequence[_Request]) -> None:
        """Write outputs to the outbox."""
        try:
            self._send(self._outbox, requests)
        except Exception as error:  # noqa: BLE001 - as in `_write`: a full disk, for example
            self._failure = self._failure or error

    def _send(self, store: VersionedStore, requests: Sequence[_Request]) -> None:
        for request in requests:
            request.before()
        try:
            create_all_if_absent(store, [output for request in requests for output in request.outputs])
        except VALUE_ERRORS as error:
            if len(requests) == 1:
                requests[0].on_refused(error)
                return
            for request in requests:  # to learn whose output it was
                self._writer.attempt([request])
        else:
            for request in requests:
                request.on_done()


class StoreWithOutbox:
    """The union of a store and the outbox, to read: `get` and `scan` of the store contract.

    It tells which tasks are complete. Never decide by it what to remove.
    """

    def __init__(self, store: VersionedStore, outbox: VersionedStore) -> None:
        self._store = store
        self._outbox = outbox

    def get(self, key: str) -> Versioned | None:
        """Return the value in the outbox, else in the store."""
        return self._outbox.get(key) or self._store.get(key)

    def scan(self, prefix: str = "") -> Iterator[Entry]:
        """Yield the entries of both in the order of their keys, each key once."""
        merged = heapq.merge(self._store.scan(prefix), self._outbox.scan(prefix), key=lambda entry: entry.key)
        for _, of_key in itertools.groupby(merged, key=lambda entry: entry.key):
            yield next(of_key)

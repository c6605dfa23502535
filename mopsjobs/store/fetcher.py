"""Fetch many keys of a store in parallel, while the caller works on earlier ones.

A key whose value the store does not send is a result of its own, `FailedRead`, and does not end the reading. Only what
concerns the whole store does: after a failure, a listing of that key must work.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Self, TypeVar

from mopsjobs.errors import (
    StoreAccessError,
    StoreError,
    StoreUnavailableError,
    UnusableStoreError,
    ValueTooLargeError,
)
from mopsjobs.store.base import USUAL_WINDOW, Entry, ReadableStore, Versioned
from mopsjobs.store.bulk import pacer_of

T = TypeVar("T")

MAX_THREADS = USUAL_WINDOW
"""Concurrent requests. A distant store gets twice as many, see `pacer.LONG_SECONDS`."""

MAX_KEYS_PER_TASK = 4
"""Keys that a thread fetches per task: handing over each key alone would cost a tenth of fetching it."""


class FailedRead(NamedTuple):
    """A key whose value the store does not send, although it answers."""

    reason: str


class ParallelFetcher:
    """Threads that fetch values. Leaving the block ends them after the requests under way."""

    def __init__(self, store: ReadableStore, threads: int = MAX_THREADS) -> None:
        """Create the threads; with none, `fetch` makes each request when its value is read."""
        self._store = store
        self._pools = [ThreadPoolExecutor(threads)] if threads else []
        self._pacer = pacer_of(store)
        self._is_over = False
        self._failure: StoreError | None = None
        """The failure of the whole store, after which nothing is requested."""

    @classmethod
    def for_store(cls, store: ReadableStore) -> Self:
        """Create as many threads as suit the store.

        A store on this machine gets none: it answers at once, and a connection per thread would cost more than the
        reads.
        """
        return cls(store, 0 if getattr(store, "is_local", False) else MAX_THREADS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._is_over = True
        if kind is not None and self._pacer is not None:
            self._pacer.stop()
        # Ctrl-C does not wait for the replies that are under way.
        is_interrupted = kind is not None and not issubclass(kind, Exception)
        for pool in self._pools:
            pool.shutdown(wait=not is_interrupted, cancel_futures=True)

    def fetch(self, keys: Sequence[str]) -> Iterator[Versioned | FailedRead | None]:
        """Begin to fetch these keys, and return their values in the order of the keys; None for a missing key.

        Raises:
            StoreError: if the store does not answer or refuses the credentials. It is raised after all values that
                have arrived; None does not show then that a key is missing.
        """
        # Few keys get a thread each, so that none waits for the reply of another.
        size = min(MAX_KEYS_PER_TASK, -(-len(keys) // MAX_THREADS)) or 1
        groups = (keys[start : start + size] for start in range(0, len(keys), size))
        return self._fetch_groups(keys, groups, self._store.get)

    def fetch_entries(self, entries: Sequence[Entry]) -> Iterator[Versioned | FailedRead | None]:
        """Fetch the values of listed keys, as `fetch` does. One thread reads those in a row that are of one pack."""
        groups = (list(group) for _, group in itertools.groupby(entries, key=lambda entry: entry.version))
        read = getattr(self._store, "get_entry", lambda entry: self._store.get(entry.key))
        return self._fetch_groups([entry.key for entry in entries], groups, read)

    def _fetch_groups(
        self, keys: Sequence[str], groups: Iterable[Sequence[T]], read: Callable[[T], Versioned | None]
    ) -> Iterator[Versioned | FailedRead | None]:
        if not self._pools:
            return self._without_failures(keys, (self._get(one, read) for group in groups for one in group))

        def fetch_group(group: Sequence[T]) -> list[Versioned | StoreError | None]:
            return [self._get(one, read) for one in group if not self._is_over]

        if self._pacer is not None and self._pacer.useful_threads > MAX_THREADS * len(self._pools):
            self._pools.append(ThreadPoolExecutor(MAX_THREADS))
        pools = itertools.cycle(self._pools)
        tasks = [next(pools).submit(fetch_group, group) for group in groups]
        return self._without_failures(keys, (value for task in tasks for value in task.result()))

    def _get(self, one: T, read: Callable[[T], Versioned | None]) -> Versioned | StoreError | None:
        if self._failure is not None:
            return self._failure
        try:
            return read(one)
        except StoreError as error:
            return error

    def _without_failures(
        self, keys: Sequence[str], values: Iterator[Versioned | StoreError | None]
    ) -> Iterator[Versioned | FailedRead | None]:
        """Yield the values, with a `FailedRead` for each failure that concerns its key alone.

        If the store fails, values that have arrived are yielded before the error is raised.
        """
        is_access_checked = False
        for key, value in zip(keys, values, strict=True):
            if not isinstance(value, StoreError):
                yield value
                continue
            if self._failure is not None:
                yield None
                continue
            reason: str | None = None
            is_refusal = isinstance(value, StoreAccessError)
            try:
                reason = reason_of(value) if is_refusal and is_access_checked else why_unread(self._store, key, value)
                is_access_checked = is_access_checked or is_refusal
            except StoreError as error:
                self._failure = error
            yield None if reason is None else FailedRead(reason)
        if self._failure is not None:
            raise self._failure


NOT_READ = "not read: "
"""Beginning of the reason, so that a later sync knows that the value was never seen."""


def why_unread(store: ReadableStore, key: str, error: StoreError) -> str | None:
    """Return why the store does not send the value of one key, or None if the key is gone.

    An outage and a refusal may concern the whole store. If a listing of the key works, an outage does not. A refusal
    does not if a read of a missing key is answered too: credentials may permit to list, and not to read.

    Raises:
        StoreError: if the store cannot be listed, refuses all reads, or cannot keep a registry.
    """
    if isinstance(error, UnusableStoreError):
        raise error
    is_refusal = isinstance(error, StoreAccessError)
    if is_refusal or isinstance(error, StoreUnavailableError):
        if next((entry.key for entry in store.scan(key)), None) != key:
            return None
        if is_refusal:
            store.get(_missing_key(key))
    return reason_of(error)


def _missing_key(key: str) -> str:
    """Return a key as long as this one, and with the same end, that no job has: permissions may depend on the path."""
    directory, slash, name = key.rpartition("/")
    return f"{directory[:-1]}~{slash}{name}"


def reason_of(error: StoreError) -> str:
    """Return why a value was not read, for reports that name its key."""
    return error.message if isinstance(error, ValueTooLargeError) else f"{NOT_READ}{error.message.rstrip('.')}"

"""Fetch many keys of a store in parallel, while the caller works on earlier ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

from mopsjobs.store.base import VersionedStore

MAX_THREADS = 32
"""Concurrent requests. With 30 ms per reply, half as many leave the processor idle."""

MAX_KEYS_PER_TASK = 4
"""Keys that a thread fetches per task: handing over each key alone would cost a tenth of fetching it."""

Fetched = TypeVar("Fetched")


class ParallelFetcher:
    """Threads that fetch values. Leaving the block ends them after the requests under way."""

    def __init__(self, threads: int = MAX_THREADS) -> None:
        """Create the threads; with none, `fetch` makes each request when its value is read."""
        self._threads = ThreadPoolExecutor(threads) if threads else None
        self._is_over = False

    @classmethod
    def for_store(cls, store: VersionedStore) -> Self:
        """Create as many threads as suit the store.

        A store on this machine gets none: it answers at once, and a connection per thread would cost more than the
        reads.
        """
        return cls(0 if getattr(store, "is_local", False) else MAX_THREADS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)

    def fetch(self, get: Callable[[str], Fetched], keys: Sequence[str]) -> Iterator[Fetched]:
        """Begin to fetch these keys, and return their values in the order of the keys."""
        if self._threads is None:
            return map(get, keys)
        # Few keys get a thread each, so that none waits for the reply of another.
        size = min(MAX_KEYS_PER_TASK, -(-len(keys) // MAX_THREADS)) or 1

        def fetch_chunk(chunk: Sequence[str]) -> list[Fetched]:
            return [get(key) for key in chunk if not self._is_over]

        tasks = [self._threads.submit(fetch_chunk, keys[start : start + size]) for start in range(0, len(keys), size)]
        return (value for task in tasks for value in task.result())

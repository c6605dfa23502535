"""Fetching in parallel: as many keys at a time as there are threads."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import pytest

from mopsjobs.cache.sync import fetcher
from mopsjobs.store.sqlite.store import SQLiteVersionedStore


@pytest.mark.parametrize("count", [2, fetcher.MAX_THREADS])
def test_few_keys_are_fetched_all_at_once(count: int) -> None:
    """Where a reply takes its time, none waits for another: each of these gets waits until all are under way."""
    together = threading.Barrier(count)

    def get(key: str) -> str:
        together.wait(30)
        return key

    keys = [str(number) for number in range(count)]
    with fetcher.ParallelFetcher() as fetchers:
        assert list(fetchers.fetch(get, keys)) == keys


@pytest.mark.parametrize("count", [0, 1, 33, 127, 1000])
def test_what_is_fetched_comes_in_the_order_of_the_keys(count: int) -> None:
    with fetcher.ParallelFetcher() as fetchers:
        assert list(fetchers.fetch(int, [str(number) for number in range(count)])) == list(range(count))


def test_from_a_store_on_this_machine_who_asks_fetches(tmp_path: Path) -> None:
    """In one thread, over one connection: 32 would each open the file, and SQLite keep it open."""
    with contextlib.closing(SQLiteVersionedStore(tmp_path / "registry.db")) as store:
        seen: list[threading.Thread] = []

        def get(key: str) -> str:
            seen.append(threading.current_thread())
            return key

        with fetcher.ParallelFetcher.for_store(store) as fetchers:
            assert list(fetchers.fetch(get, list("abc"))) == list("abc")
        assert seen == [threading.current_thread()] * 3


def test_who_leaves_waits_for_no_more_than_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure, or Ctrl-C: of a thousand keys, no thread begins another."""
    begun: list[str] = []
    all_busy, may_go_on = threading.Barrier(fetcher.MAX_THREADS + 1), threading.Event()

    def get(key: str) -> str:
        begun.append(key)
        if len(begun) <= fetcher.MAX_THREADS:
            all_busy.wait(30)
        may_go_on.wait(30)
        return key

    fetchers = fetcher.ParallelFetcher()
    assert fetchers._threads is not None
    shutdown = fetchers._threads.shutdown

    def shut_down(**options: bool) -> None:
        may_go_on.set()  # leaving waits for what is under way
        shutdown(**options)

    monkeypatch.setattr(fetchers._threads, "shutdown", shut_down)
    with contextlib.suppress(KeyboardInterrupt), fetchers:
        fetchers.fetch(get, [str(number) for number in range(1000)])
        all_busy.wait(30)
        raise KeyboardInterrupt
    assert len(begun) == fetcher.MAX_THREADS

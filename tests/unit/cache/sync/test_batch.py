"""Fetching and batching, by which a sync takes records in: as many at a time as there are threads and room."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import pytest

from mopsjobs.cache.sync import batch as record_batch
from mopsjobs.cache.sync import fetcher, full
from mopsjobs.registry.job_state import MAX_RECORD_BYTES
from mopsjobs.store.base import Entry, VersionToken
from mopsjobs.store.sqlite.store import SQLiteVersionedStore

VERSION = VersionToken("0x1")


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


def test_a_batch_holds_no_more_records_than_there_is_room_for() -> None:
    """Two batches are in memory, and a record may have a megabyte."""
    entries = [Entry(f"jobs/{number:03}/state.json", VERSION, None, MAX_RECORD_BYTES) for number in range(30)]
    batches = list(full._batches(iter(entries)))
    assert [entry for batch in batches for entry in batch] == entries
    assert max(len(batch) for batch in batches) * MAX_RECORD_BYTES <= record_batch.BATCH_BYTES + MAX_RECORD_BYTES
    small = [Entry(f"jobs/{number:05}/state.json", VERSION, None, 1000) for number in range(2 * record_batch.BATCH + 1)]
    assert [len(batch) for batch in full._batches(iter(small))] == [record_batch.BATCH, record_batch.BATCH, 1]

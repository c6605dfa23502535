"""Fetching in parallel: as many keys at a time as there are threads."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from mopsjobs.cache.sync import records
from mopsjobs.errors import StoreAccessError, StoreError, StoreUnavailableError, UnusableStoreError
from mopsjobs.registry.job_state import MAX_RECORD_BYTES
from mopsjobs.registry.keys import OUTPUT
from mopsjobs.store import fetcher
from mopsjobs.store.base import Entry, Versioned, VersionToken, WantsValues, always
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.studies import packed_store
from mopsjobs.studies.pack_log import PackLog
from support.runs import PATIENCE


class Asked(InMemoryVersionedStore):
    """A store whose reads call a function, which returns the value."""

    def __init__(self, ask: Callable[[str], str]) -> None:
        super().__init__()
        self._ask = ask

    def get(self, key: str) -> Versioned | None:
        return Versioned(self._ask(key).encode(), VersionToken("1"))


def values(fetched: Iterator[Versioned | fetcher.FailedRead | None]) -> list[str]:
    return [found.value.decode() for found in fetched if isinstance(found, Versioned)]


@pytest.mark.parametrize("count", [2, fetcher.MAX_THREADS])
def test_few_keys_are_fetched_all_at_once(count: int) -> None:
    """Where a reply takes its time, none waits for another: each of these gets waits until all are under way."""
    together = threading.Barrier(count)

    def get(key: str) -> str:
        together.wait(PATIENCE)
        return key

    keys = [str(number) for number in range(count)]
    with fetcher.ParallelFetcher(Asked(get)) as fetchers:
        assert values(fetchers.fetch(keys)) == keys


@pytest.mark.parametrize("count", [0, 1, 33, 127, 1000])
def test_what_is_fetched_comes_in_the_order_of_the_keys(count: int) -> None:
    keys = [str(number) for number in range(count)]
    with fetcher.ParallelFetcher(Asked(str)) as fetchers:
        assert values(fetchers.fetch(keys)) == keys


def test_from_a_store_on_this_machine_who_asks_fetches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one thread, over one connection: 32 would each open the file, and SQLite keep it open."""
    with contextlib.closing(SQLiteVersionedStore(tmp_path / "registry.db")) as store:
        seen: list[threading.Thread] = []

        def get(key: str) -> None:
            seen.append(threading.current_thread())

        monkeypatch.setattr(store, "get", get)
        with fetcher.ParallelFetcher.for_store(store) as fetchers:
            assert list(fetchers.fetch(list("abc"))) == [None] * 3
        assert seen == [threading.current_thread()] * 3


@pytest.mark.parametrize("kind", [StoreError, UnusableStoreError])
def test_a_store_that_keeps_no_registry_is_not_a_problem_of_one_key(kind: type[StoreError]) -> None:
    """A bucket that is removed during a sync ends it. An archived object is one unread record."""

    def get(key: str) -> str:
        raise kind("no bucket")

    expected = pytest.raises(kind) if kind is UnusableStoreError else contextlib.nullcontext()
    with expected, fetcher.ParallelFetcher(Asked(get)) as fetchers:
        assert list(fetchers.fetch(["a"])) == [fetcher.FailedRead("not read: no bucket")]


def test_who_leaves_waits_for_no_more_than_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure, or Ctrl-C: of a thousand keys, no thread begins another."""
    begun: list[str] = []
    waits: list[bool] = []
    all_busy, may_go_on = threading.Barrier(fetcher.MAX_THREADS + 1), threading.Event()

    def get(key: str) -> str:
        begun.append(key)
        if len(begun) <= fetcher.MAX_THREADS:
            all_busy.wait(PATIENCE)
        may_go_on.wait(PATIENCE)
        return key

    fetchers = fetcher.ParallelFetcher(Asked(get))
    shutdown = fetchers._pools[0].shutdown

    def shut_down(**options: bool) -> None:
        waits.append(options["wait"])
        may_go_on.set()  # leaving waits for what is under way
        shutdown(**options)

    monkeypatch.setattr(fetchers._pools[0], "shutdown", shut_down)
    with contextlib.suppress(KeyboardInterrupt), fetchers:
        fetchers.fetch([str(number) for number in range(1000)])
        all_busy.wait(PATIENCE)
        raise KeyboardInterrupt
    assert (len(begun), waits) == (fetcher.MAX_THREADS, [False])


OUTAGE = StoreUnavailableError("No answer.")
REFUSAL = StoreAccessError("Refused.")


class Failing(InMemoryVersionedStore):
    """A store that fails to read some keys, and may fail to list."""

    def __init__(self, failures: dict[str, StoreError], listing: StoreError | None = None) -> None:
        super().__init__()
        self.listings = 0
        self._failures = failures
        self._listing = listing
        for name in "abcd":
            self.create_if_absent(name, name.encode())

    def get(self, key: str) -> Versioned | None:
        if key in self._failures:
            raise self._failures[key]
        return super().get(key)

    def scan(self, prefix: str = "", wants_values: WantsValues = always, after: str = "") -> Iterator[Entry]:
        self.listings += 1
        if self._listing is not None:
            raise self._listing
        return super().scan(prefix, wants_values, after)


@pytest.mark.parametrize("failure", [OUTAGE, REFUSAL, StoreError("409 Conflict.")])
def test_a_key_that_fails_alone_is_a_result_of_its_own(failure: StoreError) -> None:
    """The other keys are read, and a key that no listing has is gone."""
    store = Failing({"b": failure, "d": failure})
    with fetcher.ParallelFetcher(store) as fetchers:
        found = list(fetchers.fetch(list("abcd")))
    reason = f"not read: {failure.message.rstrip('.')}"
    assert [one.reason if isinstance(one, fetcher.FailedRead) else one and one.value for one in found] == [
        b"a", reason, b"c", reason,
    ]  # fmt: skip


@pytest.mark.parametrize("failure", [OUTAGE, REFUSAL])
def test_a_store_that_cannot_be_listed_ends_the_reading(failure: StoreError) -> None:
    store = Failing({"b": failure}, listing=failure)
    with fetcher.ParallelFetcher(store) as fetchers, pytest.raises(type(failure)):
        list(fetchers.fetch(list("abcd")))


def test_refused_keys_cost_one_listing_per_batch() -> None:
    store = Failing(dict.fromkeys("abcd", REFUSAL))
    with fetcher.ParallelFetcher(store) as fetchers:
        assert all(isinstance(one, fetcher.FailedRead) for one in fetchers.fetch(list("abcd")))
    assert store.listings == 1


@pytest.mark.parametrize("count", [1, 4])
def test_credentials_that_permit_no_read_end_the_reading(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """The listing works, and even a missing key is refused: no key is a problem of its own."""
    store = Failing({})
    monkeypatch.setattr(store, "get", mock.Mock(side_effect=REFUSAL))
    with fetcher.ParallelFetcher(store) as fetchers:
        found = fetchers.fetch(list("abcd")[:count])
        assert [next(found) for _ in range(count)] == [None] * count
        with pytest.raises(StoreAccessError, match=r"Refused\."):
            next(found)


VERSION = VersionToken("0x1")


def test_a_batch_holds_no_more_records_than_there_is_room_for() -> None:
    """Two batches are in memory, and a record may have a megabyte."""
    entries = [Entry(f"jobs/{number:03}/state.json", VERSION, None, MAX_RECORD_BYTES) for number in range(30)]
    batches = list(records._batches(iter(entries)))
    assert [entry for batch in batches for entry in batch] == entries
    assert max(len(batch) for batch in batches) * MAX_RECORD_BYTES <= records.BATCH_BYTES + MAX_RECORD_BYTES
    small = [Entry(f"jobs/{number:05}/state.json", VERSION, None, 1000) for number in range(2 * records.BATCH + 1)]
    assert [len(batch) for batch in records._batches(iter(small))] == [records.BATCH, records.BATCH, 1]


class Ranges(InMemoryVersionedStore):
    """A store across a network: it lists no values, reads ranges, and counts its reads."""

    reads = 0
    together: threading.Barrier | None = None
    """Holds a read of a range until as many have begun: a reply takes its time."""

    def scan(self, prefix: str = "", wants_values: WantsValues = always, after: str = "") -> Iterator[Entry]:
        for entry in super().scan(prefix, wants_values, after):
            yield entry._replace(value=None, size=len(entry.value or b""))

    def get(self, key: str) -> Versioned | None:
        self.reads += 1
        return super().get(key)

    def get_range(self, key: str, start: int, length: int) -> bytes | None:
        self.reads += 1
        if self.together is not None:
            self.together.wait(PATIENCE)
        found = super().get(key)
        return None if found is None else found.value[start : start + length]


def three_packs(monkeypatch: pytest.MonkeyPatch) -> tuple[Ranges, dict[str, bytes]]:
    """Return a store with 1,200 outputs in three packs that are not small, and these outputs."""
    monkeypatch.setattr(packed_store, "WHOLE_BYTES", 0)
    monkeypatch.setattr(packed_store, "BEGINNING", 64)
    store = Ranges()
    outputs = {
        OUTPUT.key(job="job", param=f"{number % 7:064x}", seed=number, output="result.json"): b"%d" % number
        for number in range(1200)
    }
    for shard in range(3):
        PackLog(packed_store.PackedStore(store), "job", shard).add(list(outputs.items())[shard::3])
    return store, outputs


def test_the_outputs_of_a_pack_cost_two_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread reads one of them by its range, and then the whole pack for the others."""
    store, outputs = three_packs(monkeypatch)
    shown = packed_store.PackedStore(store)
    entries = sorted(shown.scan("results/job/"), key=lambda entry: entry.version)
    store.reads, store.together = 0, threading.Barrier(3)
    with fetcher.ParallelFetcher(shown) as fetchers:
        found = values(fetchers.fetch_entries(entries))
    assert found == [outputs[entry.key].decode() for entry in entries]
    assert store.reads <= 6

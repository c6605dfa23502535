"""The log of a shard: whatever stops, repeats or races its writers, outputs are as if each was created alone."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mopsjobs.errors import StoreUnavailableError, ValueTooLargeError
from mopsjobs.registry.keys import LOGGED_NAME, NAMES_NAME, OUTPUT, PACK
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.pack_log import PackLog
from mopsjobs.studies.packed_store import PackedStore
from mopsjobs.studies.packs import MAX_PACKED_BYTES, split_outputs
from mopsjobs.submission import relay
from mopsjobs.submission.relay import deliver

JOB = "sweep-1"
PREFIX = f"results/{JOB}/"


def key_of(number: int, name: str = "result.json") -> str:
    """Return the key of an output of a task."""
    return OUTPUT.key(job=JOB, param=f"{number % 3:064x}", seed=number, output=name)


class Faulty(InMemoryVersionedStore):
    """A store that breaks at some of its calls: before them, or after them, so that a reply is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        """Of the next calls, in their order: `before`, `after`, or nothing."""

    def _call(self, call: Any, *args: Any) -> Any:
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "before":
            raise StoreUnavailableError("as asked")
        result = call(*args)
        if fault == "after":
            raise StoreUnavailableError("as asked")
        return result

    def create_if_absent(self, key: str, value: bytes) -> Any:
        return self._call(super().create_if_absent, key, value)

    def delete(self, key: str) -> bool:
        return bool(self._call(super().delete, key))


def outputs_in(store: InMemoryVersionedStore) -> dict[str, bytes]:
    """Return all outputs of the job that readers see."""
    packed = PackedStore(store)
    found = {entry.key: packed.get(entry.key) for entry in packed.scan(PREFIX)}
    return {key: value.value for key, value in found.items() if value is not None}


writes = st.dictionaries(st.integers(0, 5), st.binary(max_size=3), min_size=1, max_size=4)
faults = st.lists(st.sampled_from(["", "", "before", "after"]), max_size=8)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), writes), max_size=8), faults)
def test_writers_of_one_shard_leave_what_the_first_of_them_wrote(
    adds: list[tuple[int, dict[int, bytes]]], broken: list[str]
) -> None:
    """Two runners take turns on one shard, and their replies get lost: the first content of each output counts."""
    store, plain = Faulty(), InMemoryVersionedStore()
    store.faults = list(broken)
    logs = [PackLog(PackedStore(store), JOB, 0) for _ in range(2)]
    for writer, outputs in adds:
        values = [(key_of(number), value) for number, value in outputs.items()]
        for key, value in values:
            plain.create_if_absent(key, value)
        for _ in range(20):
            with contextlib.suppress(StoreUnavailableError):
                logs[writer].add(values)
                break
    assert outputs_in(store) == {entry.key: entry.value for entry in plain.scan(PREFIX)}


def test_a_writer_leaves_out_what_others_have_packed_since_it_looked() -> None:
    """Also if it comes to those outputs later: each is stored once."""
    store = InMemoryVersionedStore()
    first, second = (PackLog(PackedStore(store), JOB, 0) for _ in range(2))
    assert not list(second.store.list_keys(PREFIX))
    first.add([(key_of(number), b"1") for number in range(3)])
    second.add([(key_of(number), b"2") for number in (2, 3)])
    second.add([(key_of(number), b"2") for number in (0, 4)])
    packs = PackedStore(store).list_packs(JOB).indexes.values()
    assert [sorted(int(row.seed) for row in pack.rows()) for pack in packs] == [[0, 1, 2], [3], [4]]


few = mock.patch.object(relay, "MIN_OUTPUTS", 3)
"""Has deliveries of one or two outputs written as objects of their own."""


@few
@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), writes, st.booleans()), max_size=8), faults, faults)
def test_the_first_of_two_deliveries_counts_in_a_pack_or_as_objects(
    adds: list[tuple[int, dict[int, bytes], bool]], broken: list[str], removing: list[str]
) -> None:
    """Two runners deliver to one shard, with a look at all packs before or without: no reader sees two values."""
    store, outboxes = Faulty(), [Faulty(), Faulty()]
    logs = [PackLog(PackedStore(store), JOB, 0) for _ in range(2)]
    first = dict[int, bytes]()
    store.faults, outboxes[0].faults = list(broken), list(removing)
    for writer, outputs, looks in adds:
        log, outbox = logs[writer], outboxes[writer]
        for number, value in outputs.items():
            InMemoryVersionedStore.create_if_absent(outbox, key_of(number), value)
        first = outputs | first
        for _ in range(20):
            with contextlib.suppress(StoreUnavailableError):
                assert deliver(outbox, log.store, JOB, pytest.fail, log=log, is_known_absent=not looks)
                break
        assert outputs_in(store) == {key_of(number): value for number, value in first.items()}
    assert not any(list(outbox.list_keys()) for outbox in outboxes)


@few
@settings(deadline=None)
@given(writes, writes, writes, faults, faults)
def test_a_delivery_that_stops_anywhere_loses_nothing_and_changes_nothing(
    there: dict[int, bytes],
    plain_there: dict[int, bytes],
    kept: dict[int, bytes],
    broken: list[str],
    removing: list[str],
) -> None:
    """At each moment an output is in the store or in the outbox. What the store had stays as it was."""
    store, outbox = Faulty(), Faulty()
    PackLog(PackedStore(store), JOB, 3).add([(key_of(number), value) for number, value in there.items()])
    for number, value in plain_there.items():
        InMemoryVersionedStore.create_if_absent(store, key_of(number), value)
    for number, value in kept.items():
        outbox.create_if_absent(key_of(number), value)
    before = outputs_in(store)
    store.faults, outbox.faults = list(broken), list(removing)
    for _ in range(40):
        log = PackLog(PackedStore(store), JOB, 0)  # of another process each time
        with contextlib.suppress(StoreUnavailableError):
            assert deliver(outbox, log.store, JOB, pytest.fail, log=log)
            break
        seen = outputs_in(store)
        assert all(key_of(number) in seen or outbox.get(key_of(number)) for number in kept)
        assert before.items() <= seen.items()
    assert outputs_in(store) == {key_of(number): value for number, value in kept.items()} | before
    assert not list(outbox.list_keys())


def test_a_full_pack_is_followed_by_another_and_tasks_stay_whole() -> None:
    """The outputs of one task are in one pack, so a reader finds all of them or none."""
    store, outbox = InMemoryVersionedStore(), InMemoryVersionedStore()
    log = PackLog(PackedStore(store), JOB, 0)
    log.limit = 1000
    for number, name in itertools.product(range(20), "abc"):
        outbox.create_if_absent(key_of(number, name), bytes(90))
    deliver(outbox, log.store, JOB, pytest.fail, log=log)
    packs = PackedStore(store).list_packs(JOB).indexes.values()
    assert len(packs) == 7
    tasks = [{row[:2] for row in pack.rows()} for pack in packs]
    assert sum(map(len, tasks)) == len(set.union(*tasks)) == 20
    assert all(PACK.parse(key) for key in store.list_keys(PREFIX))


def test_a_store_that_takes_no_pack_gets_plain_objects() -> None:
    """If a store refuses a pack for its size, the outputs are created one by one."""

    class Small(InMemoryVersionedStore):
        def create_if_absent(self, key: str, value: bytes) -> Any:
            if len(value) > 100:
                raise ValueTooLargeError("as asked")
            return super().create_if_absent(key, value)

    store, outbox = Small(), InMemoryVersionedStore()
    for number in range(10):
        outbox.create_if_absent(key_of(number), b"{}")
    log = PackLog(PackedStore(store), JOB, 0)
    deliver(outbox, log.store, JOB, pytest.fail, log=log)
    assert list(store.list_keys(PREFIX)) == sorted(key_of(number) for number in range(10))
    assert not list(outbox.list_keys())


def test_a_number_with_a_foreign_value_is_passed_over() -> None:
    """Bytes of another program at the next number do not stop the log."""
    store = InMemoryVersionedStore()
    log = PackLog(PackedStore(store), JOB, 0)
    log.add([(key_of(0), b"0")])
    store.create_if_absent(PACK.key(job=JOB, shard=0, number="000001"), b"not a pack")
    log.add([(key_of(1), b"1")])
    assert outputs_in(store).items() >= {key_of(0): b"0", key_of(1): b"1"}.items()


def test_names_and_logged_scalars_go_before_large_outputs() -> None:
    """All are objects of their own then. With a large output alone, a task may look complete.

    A small one in a pack, seconds later, may be of another run.
    """
    large = bytes(MAX_PACKED_BYTES + 1)
    outputs = [
        (key_of(0, name), value)
        for name, value in (("a", large), (LOGGED_NAME, b"{}"), ("b", b"1"), (NAMES_NAME, b"[]"))
    ]
    split = split_outputs(outputs)
    assert [key.rpartition("/")[2] for key, _ in split.plain] == [NAMES_NAME, LOGGED_NAME, "a", "b"]
    assert split.packed == []
    small = [output for output in outputs if output[1] is not large]
    assert split_outputs(small) == ([], small)
    assert split_outputs(small, limit=2).packed == []


def test_an_embedded_store_has_no_packs(tmp_path: Path) -> None:
    """Its outputs are rows, in transactions already."""
    from mopsjobs.store.sqlite.store import SQLiteVersionedStore
    from mopsjobs.studies.packed_store import show_packs

    store = SQLiteVersionedStore(tmp_path / "a.db")
    assert show_packs(store) is store

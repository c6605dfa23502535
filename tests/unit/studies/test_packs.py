"""Packs hold what plain objects would: the same keys, the same contents, those of the first writer.

Whatever stops, repeats or races the writers of a shard, outputs are as if each was created alone.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mopsjobs.errors import RecordError, StoreError, StoreUnavailableError, ValueTooLargeError
from mopsjobs.registry.keys import LOGGED_NAME, NAMES_NAME, OUTPUT, PACK
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.pack_log import PackLog
from mopsjobs.studies.packed_store import PackedStore
from mopsjobs.studies.packs import (
    HEAD,
    MAGIC,
    MAX_PACK_BYTES,
    MAX_PACKED_BYTES,
    can_pack,
    digest_of,
    encode_pack,
    parse_index,
    split_outputs,
)
from mopsjobs.submission import relay
from mopsjobs.submission.relay import deliver
from support.existing import existing

JOB = "sweep-1"
PREFIX = f"results/{JOB}/"
PARAMS = [f"{number:064x}" for number in (0, 7, 2**255)]

outputs = st.tuples(
    st.sampled_from(PARAMS),
    st.sampled_from([0, 1, 9, 10, 2**64 - 1]),
    st.sampled_from(["a", "result.json", NAMES_NAME]),
).map(lambda parts: OUTPUT.key(job=JOB, param=parts[0], seed=parts[1], output=parts[2]))


def pack_key(number: int, shard: int = 0) -> str:
    """Return the key of a pack of the job."""
    return PACK.key(job=JOB, shard=shard, number=f"{number:06d}")


def key_of(name: str = "result.json", param: int = 0, seed: int = 1) -> str:
    """Return the key of an output."""
    return OUTPUT.key(job=JOB, param=PARAMS[param], seed=seed, output=name)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.dictionaries(outputs, st.binary(max_size=20), max_size=8)), max_size=6))
def test_packs_show_what_creations_of_plain_objects_would(writes: list[tuple[bool, dict[str, bytes]]]) -> None:
    """After any sequence of packs and plain objects, listing and reads are those of a store without packs."""
    plain, under = InMemoryVersionedStore(), InMemoryVersionedStore()
    packed = PackedStore(under)
    number = 0
    for is_pack, values in sorted(writes, key=lambda one: not one[0]):  # a pack counts before a plain object
        for key, value in values.items():
            plain.create_if_absent(key, value)
            if not is_pack:
                under.create_if_absent(key, value)
        if is_pack:
            under.create_if_absent(pack_key(number), encode_pack(JOB, 0, values.items()))
            number += 1
    for prefix in (PREFIX, f"{PREFIX}{PARAMS[1]}/", f"{PREFIX}{PARAMS[1]}/1/", f"{PREFIX}{PARAMS[0][:9]}"):
        expected = [(entry.key, entry.size) for entry in plain.scan(prefix)]
        assert [(entry.key, entry.size) for entry in packed.scan(prefix)] == expected
        assert list(packed.list_keys(prefix)) == [key for key, _ in expected]
    for entry in packed.scan(PREFIX):
        expected_value = existing(plain.get(entry.key))
        for found in (packed.get(entry.key), PackedStore(under).get(entry.key), packed.get_entry(entry)):
            assert found is not None
            assert found.value == expected_value.value
    assert packed.get(key_of("absent")) is None
    middle = key_of("a", 1, 1)
    assert [one.key for one in packed.scan(PREFIX, after=middle)] == [
        key for key in plain.list_keys(PREFIX) if key > middle
    ]


def test_the_lowest_number_counts_then_the_lowest_shard() -> None:
    """Which of several packs counts follows from their keys, whatever the order in which they were written."""
    store = InMemoryVersionedStore()
    for number, shard in ((1, 0), (0, 2), (0, 1)):
        content = f"{number}/{shard}".encode()
        store.create_if_absent(pack_key(number, shard), encode_pack(JOB, shard, [(key_of(), content)]))
    assert existing(PackedStore(store).get(key_of())).value == b"0/1"


def test_an_output_that_is_packed_later_is_found() -> None:
    """A process that has listed the packs of a job reads one that is written since then."""
    store = InMemoryVersionedStore()
    packed = PackedStore(store)
    assert packed.get(key_of()) is None
    store.create_if_absent(pack_key(0), encode_pack(JOB, 0, [(key_of(), b"late")]))
    assert existing(packed.get(key_of())).value == b"late"


@given(st.data())
def test_a_damaged_pack_is_told_and_hides_nothing_else(data: st.DataObject) -> None:
    """A pack with a wrong byte shows its own key or refuses an output. It never gives another content."""
    good, bad = (
        encode_pack(JOB, 0, [(key_of(), b"good")]),
        encode_pack(JOB, 0, [(key_of("b"), b"other"), (key_of("c"), b"3")]),
    )
    place = data.draw(st.integers(0, len(bad) - 1))
    bad = bad[:place] + bytes([bad[place] ^ data.draw(st.integers(1, 255))]) + bad[place + 1 :]
    store = InMemoryVersionedStore()
    store.create_if_absent(pack_key(0), bad)
    store.create_if_absent(pack_key(1), good)
    packed = PackedStore(store)
    keys = list(packed.list_keys(PREFIX))
    assert key_of() in keys
    if pack_key(0) in keys:
        assert keys == [pack_key(0), key_of()]
        return
    values = {}
    for key in keys:
        with contextlib.suppress(StoreError):
            values[key] = existing(packed.get(key)).value
    assert values.items() <= {key_of(): b"good", key_of("b"): b"other", key_of("c"): b"3"}.items()
    assert len(values) >= 2


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_crash_the_reader(value: bytes, is_marked: bool) -> None:
    """Bytes of another program are refused by a sentence."""
    if is_marked:
        value = struct.pack(">8sI16s", b"mopspack", len(value), b"") + value
    with pytest.raises(RecordError):
        parse_index(pack_key(0), value, len(value))


def test_a_cut_pack_is_not_used() -> None:
    """If the end of a pack is missing, all of its tasks are missing: a listing tells the size."""
    whole = encode_pack(JOB, 0, [(key_of(), b"content")])
    with pytest.raises(RecordError, match="points outside"):
        parse_index(pack_key(0), whole[:-1], len(whole) - 1)


def test_the_pack_of_another_job_or_shard_is_refused() -> None:
    """A copied pack does not bring outputs to the place to which it was copied."""
    value = encode_pack(JOB, 0, [(key_of(), b"x")])
    for key in (pack_key(0, shard=1), PACK.key(job="sweep-2", shard=0, number="000000")):
        with pytest.raises(RecordError, match="another job"):
            parse_index(key, value, len(value))


def test_limits_of_a_pack_hold_for_readers_too() -> None:
    """A pack of another program may claim any names, sizes and outputs."""
    large = encode_pack(JOB, 0, [(key_of(), b"x" * (MAX_PACKED_BYTES + 1))])
    with pytest.raises(RecordError, match="too large for a pack"):
        parse_index(pack_key(0), large, len(large))
    fine = encode_pack(JOB, 0, [(key_of("a"), b"x")])
    with pytest.raises(RecordError, match="expected at most"):
        parse_index(pack_key(0), fine, MAX_PACK_BYTES + 1)
    (length,) = struct.unpack_from(">I", fine, HEAD.size)
    end = HEAD.size + 4 + length
    meta = json.dumps({**json.loads(fine[end - length : end]), "names": {"a": 1}}).encode()
    index = struct.pack(">I", len(meta)) + meta + fine[end:-1]
    other = HEAD.pack(MAGIC, len(index), digest_of(index)) + index + b"x"
    with pytest.raises(RecordError):
        parse_index(pack_key(0), other, len(other))


@pytest.mark.parametrize("ranges", [True, False])
def test_the_packs_of_a_job_that_has_got_an_id_again_are_its_own(ranges: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has read a pack reads the one that took its place."""
    store = InMemoryVersionedStore()
    if ranges:
        monkeypatch.setattr(store, "get_range", _range_of(store), raising=False)
    packed, found = PackedStore(store), []
    for content in (b"old", b"new"):
        store.delete(pack_key(0))
        store.create_if_absent(pack_key(0), encode_pack(JOB, 0, [(key_of(), content), (key_of("empty"), b"")]))
        assert list(packed.list_keys(PREFIX)) == [key_of("empty"), key_of()]
        values = [packed.get(key) for key in (key_of(), key_of("empty"))]
        found.append([one and one.value for one in values])
    assert found == [[b"old", b""], [b"new", b""]]


def _range_of(store: InMemoryVersionedStore) -> Callable[[str, int, int], bytes | None]:
    def get_range(key: str, start: int, length: int) -> bytes | None:
        assert length > 0
        found = store.get(key)
        return found and found.value[start : start + length]

    return get_range


def test_only_small_outputs_with_usual_keys_are_packed() -> None:
    """Others stay objects of their own."""
    assert can_pack(key_of(), b"x" * MAX_PACKED_BYTES)
    assert not can_pack(key_of(), b"x" * (MAX_PACKED_BYTES + 1))
    for key in ("ledger/x", key_of(seed=2**64), f"{PREFIX}{PARAMS[0]}/007/a", f"results/a/b/{PARAMS[0]}/7/a"):
        assert not can_pack(key, b"")


def task_key(number: int, name: str = "result.json") -> str:
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
        values = [(task_key(number), value) for number, value in outputs.items()]
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
    first.add([(task_key(number), b"1") for number in range(3)])
    second.add([(task_key(number), b"2") for number in (2, 3)])
    second.add([(task_key(number), b"2") for number in (0, 4)])
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
            InMemoryVersionedStore.create_if_absent(outbox, task_key(number), value)
        first = outputs | first
        for _ in range(20):
            with contextlib.suppress(StoreUnavailableError):
                assert deliver(outbox, log.store, JOB, pytest.fail, log=log, is_known_absent=not looks)
                break
        assert outputs_in(store) == {task_key(number): value for number, value in first.items()}
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
    PackLog(PackedStore(store), JOB, 3).add([(task_key(number), value) for number, value in there.items()])
    for number, value in plain_there.items():
        InMemoryVersionedStore.create_if_absent(store, task_key(number), value)
    for number, value in kept.items():
        outbox.create_if_absent(task_key(number), value)
    before = outputs_in(store)
    store.faults, outbox.faults = list(broken), list(removing)
    for _ in range(40):
        log = PackLog(PackedStore(store), JOB, 0)  # of another process each time
        with contextlib.suppress(StoreUnavailableError):
            assert deliver(outbox, log.store, JOB, pytest.fail, log=log)
            break
        seen = outputs_in(store)
        assert all(task_key(number) in seen or outbox.get(task_key(number)) for number in kept)
        assert before.items() <= seen.items()
    assert outputs_in(store) == {task_key(number): value for number, value in kept.items()} | before
    assert not list(outbox.list_keys())


def test_a_full_pack_is_followed_by_another_and_tasks_stay_whole() -> None:
    """The outputs of one task are in one pack, so a reader finds all of them or none."""
    store, outbox = InMemoryVersionedStore(), InMemoryVersionedStore()
    log = PackLog(PackedStore(store), JOB, 0)
    log.limit = 1000
    for number, name in itertools.product(range(20), "abc"):
        outbox.create_if_absent(task_key(number, name), bytes(90))
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
        outbox.create_if_absent(task_key(number), b"{}")
    log = PackLog(PackedStore(store), JOB, 0)
    deliver(outbox, log.store, JOB, pytest.fail, log=log)
    assert list(store.list_keys(PREFIX)) == sorted(task_key(number) for number in range(10))
    assert not list(outbox.list_keys())


def test_a_number_with_a_foreign_value_is_passed_over() -> None:
    """Bytes of another program at the next number do not stop the log."""
    store = InMemoryVersionedStore()
    log = PackLog(PackedStore(store), JOB, 0)
    log.add([(task_key(0), b"0")])
    store.create_if_absent(PACK.key(job=JOB, shard=0, number="000001"), b"not a pack")
    log.add([(task_key(1), b"1")])
    assert outputs_in(store).items() >= {task_key(0): b"0", task_key(1): b"1"}.items()


def test_names_and_logged_scalars_go_before_large_outputs() -> None:
    """All are objects of their own then. With a large output alone, a task may look complete.

    A small one in a pack, seconds later, may be of another run.
    """
    large = bytes(MAX_PACKED_BYTES + 1)
    outputs = [
        (task_key(0, name), value)
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

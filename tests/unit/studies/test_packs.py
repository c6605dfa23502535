"""Packs hold what plain objects would: the same keys, the same contents, the first writer's."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mopsjobs.errors import RecordError, StoreError
from mopsjobs.registry.keys import NAMES_NAME, OUTPUT, PACK
from mopsjobs.store.memory import InMemoryVersionedStore
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
)

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
        expected_value = plain.get(entry.key)
        assert expected_value is not None
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
    found = PackedStore(store).get(key_of())
    assert found is not None
    assert found.value == b"0/1"


def test_an_output_that_is_packed_later_is_found() -> None:
    """A process that has listed the packs of a job reads one that is written since then."""
    store = InMemoryVersionedStore()
    packed = PackedStore(store)
    assert packed.get(key_of()) is None
    store.create_if_absent(pack_key(0), encode_pack(JOB, 0, [(key_of(), b"late")]))
    found = packed.get(key_of())
    assert found is not None
    assert found.value == b"late"


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
            found = packed.get(key)
            assert found is not None
            values[key] = found.value
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


def test_names_of_outputs_lie_in_the_index() -> None:
    """Whether a task is complete needs no more than the index, which has each list of names once."""
    rows = [(key_of(NAMES_NAME, seed=seed), b'["a","b"]') for seed in range(1000)]
    index = parse_index(pack_key(0), encode_pack(JOB, 0, rows))
    assert {index.inline(row) for row in index.rows()} == {b'["a","b"]'}
    assert index.memory < 41 * len(rows)


def test_only_small_outputs_with_usual_keys_are_packed() -> None:
    """Others stay objects of their own."""
    assert can_pack(key_of(), b"x" * MAX_PACKED_BYTES)
    assert not can_pack(key_of(), b"x" * (MAX_PACKED_BYTES + 1))
    for key in ("ledger/x", key_of(seed=2**64), f"{PREFIX}{PARAMS[0]}/007/a", f"results/a/b/{PARAMS[0]}/7/a"):
        assert not can_pack(key, b"")

"""Parts of snapshots from outside: read strictly and within bounds, or refused with a reason."""

from __future__ import annotations

import contextlib
import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopsjobs.cache import rows
from mopsjobs.cache.snapshots import format as snapshot_format
from mopsjobs.cache.snapshots.format import Manifest, Retired
from mopsjobs.errors import RecordError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.base import VersionToken
from mopsjobs.store.memory import InMemoryVersionedStore
from support.cli import foreign, key

REGISTRY = JobRegistry(InMemoryVersionedStore())
GENERATION = 8
MANIFEST = Manifest(
    "20260301T120000-0123abcd", "2026-03-01T12:00:00Z", 12, 3, 100, "no", "yes", ("a" * 64, "b" * 64),
    (Retired("20260301T110000-0123abcd", "2026-03-01T12:00:00Z"),),
)  # fmt: skip
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def _row(job_id: str, **fields: object) -> rows.JobRow:
    made = rows.to_row(key(job_id), job_id, foreign(job_id, **fields).encode(), VersionToken("0x1"), GENERATION)
    assert isinstance(made, rows.JobRow)
    return made


def _encode(*made: rows.JobRow, problems: tuple[tuple[str, ...], ...] = ()) -> bytes:
    shared = [tuple(dict(zip(rows.COLUMNS, row.row, strict=True))[name] for name in NAMES) for row in made]
    beside = [(p.key, p.kind, p.reason, p.version) for row in made if (p := row.problem) is not None]
    return snapshot_format.encode_part(shared, [label for row in made for label in row.labels], [*beside, *problems])


NAMES = (*snapshot_format.SHARED, "record")
PART = _encode(_row("a", labels={"exp": "1"}), _row("b", status="odd"), _row("c"))


def _decode(part: bytes) -> snapshot_format.Part:
    return snapshot_format.decode_part(part, snapshot_format.name_of(part), REGISTRY.job_id_of, GENERATION)


def _changed(change: Any) -> bytes:
    """Return the part after a change of its first line."""
    first, *records = zlib.decompress(PART).decode().split("\n")
    head = json.loads(first)
    change(head)
    return zlib.compress("\n".join([json.dumps(head), *records]).encode())


def test_a_part_brings_back_rows_labels_and_remarks() -> None:
    """All columns are as `to_row` made them, with the generation of the reader."""
    made = [
        _row("a", labels={"exp": "1", "x": "ü\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")}),
        _row("b", status="odd"),
    ]
    part = _decode(_encode(*made))
    found = [snapshot_format.job_row(part, number) for number in range(len(part.rows))]
    assert [(one.row, set(one.labels)) for one in found] == [(one.row, set(one.labels)) for one in made]
    assert [(one.key, one.kind) for one in part.remarks] == [(key("b"), "unknown_status")]
    assert part.problems == []


def test_an_empty_part_has_no_rows() -> None:
    """A registry without jobs has a snapshot, too."""
    assert _decode(_encode()).rows == []


def test_a_record_that_the_publisher_could_not_read_is_read_again() -> None:
    """Its problem has no version, by which each sync tries it. A foreign key keeps its problem."""
    theirs = ((key("z"), "unknown_status", "a lie", "0x1"), ("jobs/notes.txt", "not_a_record", "a note", "0x2"))
    first, second = _decode(_encode(_row("a"), problems=theirs)).problems
    assert (first.kind, first.version) == ("unreadable", "")
    assert (second.kind, second.version) == ("not_a_record", "0x2")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda head: head["columns"].pop("owner"), "has other columns"),
        (lambda head: head["columns"].update(more=["x"] * 3), "has other columns"),
        (lambda head: head["columns"]["owner"].append("x"), "invalid column owner"),
        (lambda head: head["columns"]["owner"].__setitem__(0, 3), "invalid column owner"),
        (lambda head: head["columns"]["status"].__setitem__(0, None), "invalid column status"),
        (lambda head: head["columns"]["is_active"].__setitem__(0, True), "invalid column is_active"),
        (lambda head: head["columns"]["tasks_total"].__setitem__(0, 2**70), "invalid number in column tasks_total"),
        (lambda head: head["columns"]["created_ts"].__setitem__(0, 1e300), "invalid number in column created_ts"),
        (lambda head: head["columns"]["ended_ts"].__setitem__(0, float("nan")), "not JSON"),
        (lambda head: head["columns"]["owner"].__setitem__(0, "\ud800"), "not JSON"),
        (lambda head: head["columns"]["key"].__setitem__(0, "jobs/x/state.json"), "a key that is not that of its job"),
        (lambda head: [head["columns"][name].reverse() for name in ("key", "job_id")], "its keys are out of order"),
        (lambda head: head["labels"].append([0, "exp", "2"]), "invalid labels"),
        (lambda head: head["labels"].append([3, "exp", "2"]), "invalid labels"),
        (lambda head: head["problems"].append(["key"]), "invalid problems"),
    ],
)
def test_a_part_with_other_values_is_refused(change: Any, reason: str) -> None:
    """Types, ranges, order and keys of all columns are checked; the reason names the column."""
    with pytest.raises(RecordError, match=reason):
        _decode(_changed(change))


def test_a_part_that_is_damaged_is_refused() -> None:
    """By its hash, or by what it holds."""
    with pytest.raises(RecordError, match="another hash"):
        snapshot_format.decode_part(PART + b"x", snapshot_format.name_of(PART), REGISTRY.job_id_of, GENERATION)
    for part, reason in ((PART[:-10], "incomplete"), (b"text", "decompressed"), (zlib.compress(b"\xff"), "UTF-8")):
        with pytest.raises(RecordError, match=reason):
            _decode(part)


def test_a_small_part_does_not_become_a_large_text() -> None:
    """A few kilobytes may stand for a gigabyte: unpacking ends at the bound."""
    packer = zlib.compressobj()
    bomb = b"".join(packer.compress(b"\n" * 2**20) for _ in range(snapshot_format.MAX_TEXT_BYTES // 2**20 + 1))
    with pytest.raises(RecordError, match="larger than"):
        _decode(bomb + packer.flush())


@given(st.binary(max_size=200) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_other_bytes_are_refused_as_a_part(value: bytes) -> None:
    """With a `RecordError`, and no other error."""
    for part in (value, zlib.compress(value)):
        with contextlib.suppress(RecordError):
            assert _decode(part).rows == []  # an object without columns has no rows


@given(st.sampled_from(Manifest._fields), JSON_VALUES)
def test_a_manifest_with_other_values_is_refused_or_complete(name: str, value: object) -> None:
    """Whatever stands in a field: the manifest is refused, or it has names of parts and times that can be used."""
    document = json.loads(snapshot_format.encode_manifest(MANIFEST)) | {name: value}
    try:
        manifest = snapshot_format.parse_manifest(json.dumps(document).encode())
    except RecordError:
        return
    assert all(snapshot_format.part_id(one) == manifest.id for one in manifest.part_keys())


def test_a_manifest_comes_back_as_it_was() -> None:
    """All its fields."""
    assert snapshot_format.parse_manifest(snapshot_format.encode_manifest(MANIFEST)) == MANIFEST

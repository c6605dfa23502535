"""Checkpoints in a store: pieces, a header that makes them whole, and what is damaged or left behind."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.errors import RecordError, StoreUnavailableError
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.studies.checkpoints import (
    PIECE_BYTES,
    Saved,
    list_numbers,
    load_checkpoint,
    parse_saved,
    read_saved,
    remove_checkpoints,
    store_checkpoint,
)
from support.doubles import FaultyStore
from support.existing import existing

PARAM, SEED = "a" * 64, 7
TASK = ("job", PARAM, SEED)


def _saved(number: int = 1, **fields: Any) -> Saved:
    return Saved(number, "40", "b" * 64, "c" * 16, 12.5, 3, f"{number:016x}")._replace(**fields)


def _load(store: Any, number: int, target: Path) -> Saved:
    """Load a checkpoint into a directory, and return its header."""
    found = existing(read_saved(store, *TASK, number))
    load_checkpoint(store, *TASK, found, target)
    return found


def _content(path: Path) -> Path:
    (path / "sub").mkdir(parents=True)
    (path / "state.json").write_text("{}")
    (path / "sub" / "run.sh").write_text("true")
    (path / "sub" / "run.sh").chmod(0o755)
    return path


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    """A directory with its files, or a file; and its header."""
    store = InMemoryVersionedStore()
    assert store_checkpoint(store, *TASK, _saved(), _content(tmp_path / "content"))
    assert _load(store, 1, tmp_path / "loaded")._replace(pieces=0, sha256="") == _saved()
    assert (tmp_path / "loaded" / "40" / "state.json").read_text() == "{}"
    assert (tmp_path / "loaded" / "40" / "sub" / "run.sh").stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").write_bytes(b"abc")
    assert store_checkpoint(store, *TASK, _saved(2), tmp_path / "file")
    _load(store, 2, tmp_path / "again")
    assert (tmp_path / "again" / "40").read_bytes() == b"abc"
    assert list(list_numbers(store, "job")) == [(PARAM, SEED, 1), (PARAM, SEED, 2)]


def test_a_large_one_goes_in_pieces_and_little_memory(tmp_path: Path) -> None:
    """Of 64 MiB, no more than some pieces are in memory, on the way there and back."""
    store = SQLiteVersionedStore(tmp_path / "store.db")
    with open(tmp_path / "large", "wb") as file:
        file.writelines(bytes([number]) * 2**20 for number in range(64))
    tracemalloc.start()
    try:
        assert store_checkpoint(store, *TASK, _saved(), tmp_path / "large")
        found = _load(store, 1, tmp_path / "loaded")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.pieces == 9  # the tar has headers
    assert peak < 5 * PIECE_BYTES
    assert (tmp_path / "loaded" / "40").read_bytes() == (tmp_path / "large").read_bytes()
    store.close()


def test_an_upload_that_was_cut_goes_on_behind_its_pieces(tmp_path: Path) -> None:
    """It sends none of them twice."""
    store = FaultyStore(InMemoryVersionedStore())
    (tmp_path / "large").write_bytes(b"".join(bytes([number]) * PIECE_BYTES for number in range(4)))
    saved, created, enter = _saved(size=4 * PIECE_BYTES), [], store._enter

    def cut(method: str) -> None:
        enter(method)
        created.append(method)
        if created == ["list_keys", *["create_if_absent"] * 3]:
            raise StoreUnavailableError("away")

    store._enter = cut  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailableError):
        store_checkpoint(store, *TASK, saved, tmp_path / "large")
    del created[:-1]
    assert store_checkpoint(store, *TASK, saved, tmp_path / "large")
    # Of five pieces the last two; the header.
    assert created == ["create_if_absent", "list_keys", *["create_if_absent"] * 3]
    _load(store.inner, 1, tmp_path / "loaded")
    assert (tmp_path / "loaded" / "40").read_bytes() == (tmp_path / "large").read_bytes()


def test_one_that_was_not_written_to_its_end_is_not_there(tmp_path: Path) -> None:
    """The next removal takes its pieces away."""
    store = FaultyStore(InMemoryVersionedStore())
    (tmp_path / "large").write_bytes(b"x" * (PIECE_BYTES + 1))
    calls = []

    def cut(_method: str) -> None:
        calls.append(_method)
        if len(calls) == 2:
            raise StoreUnavailableError("away")

    store._enter = cut  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailableError):
        store_checkpoint(store, *TASK, _saved(), tmp_path / "large")
    assert list(list_numbers(store.inner, "job")) == []
    assert len(list(store.inner.list_keys("checkpoints/"))) == 1
    remove_checkpoints(store.inner, *TASK, before=2)
    assert list(store.inner.list_keys("checkpoints/")) == []


def test_two_writers_of_one_number_do_not_mix(tmp_path: Path) -> None:
    """The second is told, and the first one stays whole."""
    store = InMemoryVersionedStore()
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    assert store_checkpoint(store, *TASK, _saved(), tmp_path / "one")
    assert not store_checkpoint(store, *TASK, _saved(run="f" * 16), tmp_path / "two")
    _load(store, 1, tmp_path / "loaded")
    assert (tmp_path / "loaded" / "40").read_text() == "one"


@pytest.mark.parametrize("damage", ["gone", "other", "cut"])
def test_a_damaged_one_is_refused_and_leaves_nothing(tmp_path: Path, damage: str) -> None:
    store = InMemoryVersionedStore()
    assert store_checkpoint(store, *TASK, _saved(), _content(tmp_path / "content"))
    found = existing(read_saved(store, *TASK, 1))
    key = next(key for key in store.list_keys("checkpoints/") if not key.endswith(".json"))
    value = existing(store.get(key))
    store.delete(key)
    if damage == "other":
        store.create_if_absent(key, value.value.replace(b"true", b"null"))
    elif damage == "cut":
        store.create_if_absent(key, value.value[:700])
    with pytest.raises(RecordError, match="damaged"):
        load_checkpoint(store, *TASK, found, tmp_path / "loaded")
    assert not (tmp_path / "loaded").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [*zip(("number", "number", "size", "at", "at"), ("1", 1.5, 0.5, "../x", ".x"), strict=True), ("seconds", -1)],
)
def test_a_header_of_another_form_is_refused(field: str, value: object) -> None:
    with pytest.raises(RecordError, match="not a checkpoint"):
        parse_saved(json.dumps({**_saved()._asdict(), field: value}).encode())


def test_the_headers_of_older_ones_go_first(tmp_path: Path) -> None:
    """And only those before a number, so that a reader never finds one without its pieces for long."""
    store = FaultyStore(InMemoryVersionedStore())
    (tmp_path / "file").write_text("x")
    for number in (1, 2, 3):
        store_checkpoint(store, *TASK, _saved(number), tmp_path / "file")
    gone: list[str] = []
    store.delete = lambda key: gone.append(key) or True  # type: ignore[method-assign,func-returns-value]
    remove_checkpoints(store, *TASK, before=3)
    assert [key.endswith(".json") for key in gone] == [True, True, False, False]

"""Scalars of tasks, collected from chunks or from outputs: both give the same."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopsjobs.cache import database as cache_database
from mopsjobs.cache.queries.tasks import temporary_database
from mopsjobs.cache.sync.scalars import NO_CHUNK, SCHEMA, CollectedScalars, ScalarReader, mirror_scalars, missing_chunks
from mopsjobs.errors import StoreUnavailableError
from mopsjobs.ledger.format import MAX_CHUNK_BYTES, chunk_key, parse_chunk_key
from mopsjobs.ledger.scalars import MAX_OUTPUT_BYTES, encode_scalars, scalars_for_chunk
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.outputs import output_key
from support.ledgers import put_manifest

Outputs = dict[str, bytes]

LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("x" * 1001) | st.just("y" * 900)
TREE = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner), max_leaves=12)
OUTPUT = st.tuples(st.sampled_from(["result.json", "a.json", "b.json"]), TREE.map(lambda one: json.dumps(one).encode()))
CSV = st.tuples(
    st.sampled_from(["result.csv", "a.csv"]),
    st.sampled_from(
        [b"a,b\n1,2\n", b",x\n0,y\n", b"a\n1\n2\n", b"a,a\n1,2\n", b"\xff", b"a\n" + b"1" * MAX_OUTPUT_BYTES]
    ),
)
OTHER = st.sampled_from([("result.bin", b"1"), ("broken.json", b"{"), ("big.json", b" " * (MAX_OUTPUT_BYTES + 1))])
TASKS = st.lists(st.dictionaries(st.nothing(), st.nothing()) | st.lists(OUTPUT | CSV | OTHER).map(dict), max_size=6)


def _collect(store: InMemoryVersionedStore, tasks: list[Outputs], names: list[str] | None) -> list[dict[str, Any]]:
    """Return the scalars of each task by their keys, as a table gets them."""
    manifest = put_manifest(store, "job", [{"x": number} for number in range(len(tasks))], outputs=names)
    with closing(_cache(*store.list_keys("ledger/"))) as cache, temporary_database(SCHEMA) as database:
        assert mirror_scalars(store, cache, "job") == []
        collected = CollectedScalars(database)
        for task in manifest.study.tasks():
            collected.want(4, task.number, task.param_id, task.seed)
        ScalarReader(cache, lambda: store, collected).read(4, "job")
        keys = {-1: "left out", **{known.number: key for key, known in collected.keys.items()}}
        return [{keys[place]: value for place, value in (collected.get(4, n) or {}).items()} for n in range(len(tasks))]


def _cache(*keys: str, is_complete: bool = False) -> sqlite3.Connection:
    """Return a cache that has mirrored the attempts beside these chunks of scalars of the job `job`."""
    cache = sqlite3.connect(":memory:", isolation_level=None)
    cache.executescript(Path(cache_database.NEW_SCHEMA).read_text(encoding="utf-8"))
    cache.execute(
        "INSERT INTO ledger (job_id, looked_at, is_complete, tasks_total, parameters, varying)"
        " VALUES ('job', 0, ?, 9, '[]', '[]')",
        (is_complete,),
    )
    for key in keys:
        parts = parse_chunk_key(key)
        assert parts is not None
        cache.execute("INSERT INTO ledger_chunk (name, job_id, key) VALUES (?, 'job', ?)", (parts.name, key))
    return cache


def _kept(cache: sqlite3.Connection) -> list[bytes | None]:
    return [value for (value,) in cache.execute("SELECT scalars FROM ledger_chunk ORDER BY name")]


def _with_outputs(tasks: list[Outputs]) -> InMemoryVersionedStore:
    store = InMemoryVersionedStore()
    manifest = put_manifest(InMemoryVersionedStore(), "job", [{"x": number} for number in range(len(tasks))])
    for task, outputs in zip(manifest.study.tasks(), tasks, strict=True):
        for name, value in outputs.items():
            store.create_if_absent(output_key("job", task, name), value)
    return store


@given(TASKS.filter(bool), st.data())
def test_chunks_and_outputs_give_the_same_scalars(tasks: list[Outputs], data: st.DataObject) -> None:
    """Whichever tasks the chunks have, as the runner leaves them."""
    by_outputs = _collect(_with_outputs(tasks), tasks, None)
    store = _with_outputs(tasks)
    chosen = data.draw(st.sets(st.sampled_from(range(len(tasks)))))
    scalars = ((number, scalars_for_chunk(dict(tasks[number]))) for number in chosen)
    chunk = encode_scalars("job", 0, ((number, found) for number, found in scalars if found is not None))
    if chunk is not None:
        store.create_if_absent(chunk_key("job", 0, "ab", 0, "scalars"), chunk)
    by_chunks = _collect(store, tasks, None)
    assert json.dumps(by_chunks) == json.dumps(by_outputs)


def test_only_outputs_that_the_study_names_are_read() -> None:
    """The runner drops the others; another program may have written them."""
    tasks = [{"result.json": b'{"a": 1}', "other.json": b'{"b": 2}'}]
    assert _collect(_with_outputs(tasks), tasks, ["result.json"]) == [{"result.json/a": 1}]


def test_what_a_task_has_logged_is_read_too() -> None:
    """A study need not name that output."""
    tasks = [{"result.json": b'{"a": 1}', "logged.json": b'{"b": 2}'}]
    assert _collect(_with_outputs(tasks), tasks, ["result.json"]) == [{"result.json/a": 1, "logged.json/b": 2}]


def test_a_large_output_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The listing tells its size."""
    tasks = [{"result.json": b" " * (MAX_OUTPUT_BYTES + 1)}]
    store = _with_outputs(tasks)
    read = []
    get = store.get
    monkeypatch.setattr(store, "get", lambda key: read.append(key) or get(key))
    assert _collect(store, tasks, None) == [{"left out": 1}]
    assert not [key for key in read if key.startswith("results/")]


# --- chunks in the cache ---------------------------------------------------------------------------------------------

KEYS = [chunk_key("job", 0, "ab", number, "scalars") for number in range(3)]


def test_a_chunk_is_read_once() -> None:
    """The cache keeps its bytes. One that is not there is asked for again until the ledger is complete."""
    store = InMemoryVersionedStore()
    store.create_if_absent(KEYS[0], b"theirs")
    with closing(_cache(*KEYS[:2])) as cache:
        assert mirror_scalars(store, cache, "job") == []
        assert (_kept(cache), len(missing_chunks(cache, "job"))) == ([b"theirs", None], 1)
        cache.execute("UPDATE ledger SET is_complete = 1")
        assert mirror_scalars(store, cache, "job") == []
        assert (_kept(cache), missing_chunks(cache, "job")) == ([b"theirs", NO_CHUNK], [])


def test_a_chunk_that_cannot_be_kept_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later table asks for it again: one of absurd size, and one that the store does not send."""
    store = InMemoryVersionedStore()
    for key, value in zip(KEYS, (b"0", b"1" * (MAX_CHUNK_BYTES + 1), b"2"), strict=True):
        store.create_if_absent(key, value)
    get = store.get

    def refuse(key: str) -> Any:
        if key == KEYS[2]:
            raise StoreUnavailableError("The reply was cut.")
        return get(key)

    monkeypatch.setattr(store, "get", refuse)
    with closing(_cache(*KEYS, is_complete=True)) as cache:
        problems = mirror_scalars(store, cache, "job")
        assert problems == [(KEYS[1], f"larger than {MAX_CHUNK_BYTES:,} bytes"), (KEYS[2], "The reply was cut")]
        assert _kept(cache) == [b"0", None, None]


def test_duplicates_share_the_scalars_of_a_chunk() -> None:
    """They have the outputs of the first of them, so nothing is read for them."""
    with closing(_cache()) as cache, temporary_database(SCHEMA) as database:
        collected = CollectedScalars(database)
        for task, seed in ((0, 5), (1, 6), (2, 5)):
            collected.want(4, task, "p", seed)
        collected.add(4, 0, {"result.json/peak": 7})
        reader = ScalarReader(cache, None, collected)
        reader.read(4, "job")
        assert [collected.get(4, task) for task in range(3)] == [{0: 7}, None, {0: 7}]
        assert reader.tasks_lacking == 1

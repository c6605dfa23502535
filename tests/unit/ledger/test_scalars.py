"""Scalars of tasks: which values of outputs they are, their bounds, and the chunks that hold them."""

from __future__ import annotations

import gzip
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopsjobs.errors import RecordError
from mopsjobs.ledger.format import MAX_CHUNK_ATTEMPTS, ChunkKey
from mopsjobs.ledger.scalars import (
    LEFT_OUT,
    MAX_OUTPUT_BYTES,
    encode_scalars,
    extract_scalars,
    parse_scalars,
    scalars_for_chunk,
)
from mopsjobs.utils.scalar_keys import path_of

KEY = ChunkKey("job/3.ab-000000", "job", 3, "scalars")


def _of(value: object, name: str = "result.json") -> dict[str, Any]:
    return extract_scalars({name: value if isinstance(value, bytes) else json.dumps(value).encode()})


def test_scalars_are_numbers_texts_and_truth_values() -> None:
    """Nested objects give paths; lists and nulls give nothing."""
    found = _of({"a": 1, "b": {"c": 2.5, "d/e~": "x"}, "f": True, "g": None, "h": [1, 2], "i": {}})
    assert found == {"result.json/a": 1, "result.json/b/c": 2.5, "result.json/b/d~1e~0": "x", "result.json/f": True}
    assert path_of("result.json/b/d~1e~0") == ("result.json", ["b", "d/e~"])


def test_a_number_alone_has_the_path_of_the_document() -> None:
    assert _of(3.5) == {"result.json/": 3.5}
    assert path_of("result.json/") == ("result.json", [])


def test_a_table_with_one_row_gives_its_cells() -> None:
    """The index that pandas writes has no name, and an empty cell no value. `007` is a name."""
    found = _of(b",peak,day,ok,name,none\n0,0.25,31,True,007,\n", "table.csv")
    assert found == {"table.csv/peak": 0.25, "table.csv/day": 31, "table.csv/ok": True, "table.csv/name": "007"}


@pytest.mark.parametrize("value", [b"a,b\n1,2\n3,4\n", b"a,b\n", b"", b"a,b\n1\n"])
def test_another_table_gives_none(value: bytes) -> None:
    assert _of(value, "table.csv") == {}


def test_outputs_of_other_kinds_give_none() -> None:
    assert extract_scalars({"result.bin": b"1", "_outputs.json": b'"x"', "model.jsonl": b"1"}) == {}


@pytest.mark.parametrize(
    "value",
    [
        b"{",
        b"\xff",
        b'{"a":1,"a":2}',
        b'"\\ud800"',
        b"[" * 200 + b"]" * 200,
        b"1" * 5000,
        b'{"a":' * 30 + b"1" + b"}" * 30,
        str(2**200).encode(),
        b'"' + b"x" * 1001 + b'"',
        b'{"' + b"x" * 300 + b'": 1}',
        b" " * (MAX_OUTPUT_BYTES + 1),
    ],
)
def test_what_cannot_be_in_a_table_is_left_out_and_counted(value: bytes) -> None:
    assert _of(value) == {LEFT_OUT: 1}


def test_numbers_that_are_not_finite_are_scalars() -> None:
    """As the worker marks them, as Python and numpy write them in JSON, and as R, Julia and numpy do in CSV."""
    marked = (
        b'{"$not_finite": {"/a": "nan", "/b/c": "-inf", "/d": "?", "/e/0": "nan"},'
        b' "a": null, "b": {"c": null}, "d": null}'
    )
    for value, name in (
        (marked, "result.json"),
        (b'{"a": NaN, "b": {"c": -Infinity}}', "result.json"),
        (b"a,b/c\nNaN,-Inf\n", "result.csv"),
    ):
        found = list(_of(value, name).values())
        assert [str(one) for one in found] == ["nan", "-inf"]
    assert str(_of(b'{"$not_finite": {"": "inf"}, "$value": null}')) == "{'result.json/': inf}"
    assert str(_of(b"1e999")) == "{'result.json/': inf}"
    assert _of(b"name,note\nNan,-NaN-\n", "t.csv") == {"t.csv/name": "Nan", "t.csv/note": "-NaN-"}


def test_a_chunk_with_numbers_that_are_not_finite_is_strict_json() -> None:
    scalars = {"result.json/a": math.nan, "result.json/b": -math.inf, "result.json/c": "nan"}
    value = encode_scalars("job", 3, [(0, scalars)])
    assert value is not None
    text = gzip.decompress(value).decode()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert str(parse_scalars(value, KEY)) == str([(0, scalars)])
    forged = gzip.compress(text.replace('["nan"]', '["x"]').encode())
    with pytest.raises(RecordError, match="not a chunk of scalars"):
        parse_scalars(forged, KEY)


def test_a_task_has_a_bounded_number_of_scalars() -> None:
    """The first ones count: those of `result.json` before those of other outputs."""
    found = extract_scalars(
        {"a.json": b'{"z": 1}', "result.json": json.dumps({f"n{n}": n for n in range(300)}).encode()}
    )
    assert len(found) == 201
    assert found[LEFT_OUT] == 101
    assert next(iter(found)) == "result.json/n0"
    texts = _of({f"t{n}": "x" * 1000 for n in range(50)})
    assert texts[LEFT_OUT] > 30


def test_a_table_of_hostile_csv_is_left_out() -> None:
    assert _of(b"a,a\n1,2\n", "t.csv") == {LEFT_OUT: 1}
    assert _of(b'a\n"' + b"x" * 200_000 + b'"\n', "t.csv") == {LEFT_OUT: 1}


def test_a_task_with_large_scalars_goes_into_no_chunk() -> None:
    """A table reads its outputs instead."""
    outputs: dict[str, bytes | None] = {"result.json": json.dumps({f"t{n}": "x" * 900 for n in range(5)}).encode()}
    assert len(extract_scalars(outputs)) == 5
    assert scalars_for_chunk(outputs) is None
    assert scalars_for_chunk({"result.bin": b"1"}) == {}


def test_a_chunk_of_numbers_that_are_not_finite_is_read() -> None:
    """As many as fit: a list counts as a value of its own."""
    count, scalars = 0, scalars_for_chunk({"result.json": b"{}"})
    while (
        more := scalars_for_chunk({"result.json": json.dumps(dict.fromkeys(range(count), math.nan)).encode()})
    ) is not None:
        count, scalars = count + 1, more
    assert scalars is not None
    assert count > 50
    value = encode_scalars("job", 3, ((task, scalars) for task in range(MAX_CHUNK_ATTEMPTS)))
    assert value is not None
    assert len(parse_scalars(value, KEY)) == MAX_CHUNK_ATTEMPTS


TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
ANY = st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
SCALARS = st.dictionaries(TEXTS.map(lambda name: f"result.json/{name}"), ANY, max_size=5)


@given(st.lists(SCALARS))
def test_a_chunk_returns_what_it_was_given(tasks: list[dict[str, Any]]) -> None:
    value = encode_scalars("job", 3, enumerate(tasks))
    assert value == encode_scalars("job", 3, enumerate(tasks))
    if value is None:
        assert tasks == []
        return
    found = parse_scalars(value, KEY)
    assert found == list(enumerate(tasks))
    assert [[type(one) for one in scalars.values()] for _, scalars in found] == [
        [type(one) for one in scalars.values()] for scalars in tasks
    ]


HEAD = {"version": 1, "job_id": "job", "shard": 3, "count": 1, "shapes": [["result.json/a"]]}


@pytest.mark.parametrize(
    ("head", "columns"),
    [
        ({"version": 2}, {}),
        ({"job_id": "other"}, {}),
        ({"shapes": None}, {}),
        ({"shapes": [["_x.json/a"]]}, {}),
        ({"shapes": [["result.json/" + "x" * 300]]}, {}),
        ({}, {"task": [-1]}),
        ({}, {"task": [0, 1]}),
        ({}, {"shape": [1]}),
        ({}, {"scalars": [[1, 2]]}),
        ({}, {"scalars": [[None]]}),
        ({}, {"scalars": [["\ud800"]]}),
        ({}, {"scalars": [["x" * 2000]]}),
        ({}, {"scalars": [7]}),
    ],
)
def test_a_chunk_that_is_not_one_is_refused(head: dict[str, Any], columns: dict[str, Any]) -> None:
    content = {"task": [0], "shape": [0], "scalars": [[1]], **columns}
    lines = [{**HEAD, **head}, *({"column": name, "values": values} for name, values in content.items())]
    with pytest.raises(RecordError):
        parse_scalars(gzip.compress("\n".join(map(json.dumps, lines)).encode()), KEY)

"""What a model returns, and the outputs that the worker makes of it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines.worker import INLINE_BYTES
from support.model_worker import Worker, decoded_outputs, wire_manifest

# --- what becomes of values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "expected", "outputs"),
    [
        ("'text'", None, {"result.json": b'"text"'}),
        ("b'\\xff'", None, {"result.bin": b"\xff"}),
        ("{'a': 'x', 'b': 'y'}", None, {"result.json": b'{"a": "x", "b": "y"}'}),
        ("{'a.csv': 't\\u00e9', 'n': [1]}", ["a.csv"], {"a.csv": "t\u00e9".encode(), "n": b"[1]"}),
        ("{'a.csv': 'x'}", ["a.csv", "b.csv"], {"result.json": b'{"a.csv": "x"}'}),
        ("{'a': b'x', 'b': 'y', 'c': {'z': None}}", None, {"a": b"x", "b": b"y", "c": b'{"z": null}'}),
        ("{'a': bytearray(b'x'), 'b': memoryview(b'y')}", None, {"a": b"x", "b": b"y"}),
        ("{}", ["a"], {"result.json": b"{}"}),
        ("array.array('d', [0.5])", None, {"result.json": b"[0.5]"}),
    ],
)
def test_texts_and_bytes_become_outputs(
    run: Worker, returned: str, expected: object, outputs: dict[str, bytes]
) -> None:
    """A dict with bytes, or with all outputs of the study, has an output per entry; any other result is one output."""
    talk = run(f"import array\ndef f(params, seed): return {returned}\n", {}, outputs=expected)
    assert decoded_outputs(talk.answers[1]) == outputs


NUMPY_AND_PANDAS = """
import numpy as np, pandas as pd
frame = pd.DataFrame({'day': [1, 2], 'cases': [0.5, 1.5]})
"""
"""Begins a model. Each worker imports them for longer than all else takes, so one worker has all tasks of a test."""

RETURNED: tuple[tuple[str, dict[str, bytes]], ...] = (
    ("np.float32(0.5)", {"result.json": b"0.5"}),
    ("np.arange(4).reshape(2, 2)", {"result.json": b"[[0, 1], [2, 3]]"}),
    (
        "{'n': np.int64(3), 'ok': np.bool_(True), 'x': [np.float64(0.1), np.uint8(7)], 's': np.str_('a')}",
        {"result.json": b'{"n": 3, "ok": true, "s": "a", "x": [0.1, 7]}'},
    ),
    ("{'by': dict(zip(*np.unique([5, 5, 7], return_counts=True)))}", {"result.json": b'{"by": {"5": 2, "7": 1}}'}),
    ("frame", {"result.csv": b",day,cases\n0,1,0.5\n1,2,1.5\n"}),
    ("frame.set_index('day')['cases']", {"result.csv": b"day,cases\n1,0.5\n2,1.5\n"}),
    (
        "{'curve.csv': frame.set_index('day'), 'peak': frame['cases'].max(), 'days': frame['day'].to_numpy()}",
        {"curve.csv": b"day,cases\n1,0.5\n2,1.5\n", "peak": b"1.5", "days": b"[1, 2]"},
    ),
)
"""What a model returns, and its outputs."""

REFUSED = (
    ("np.array([1.0, np.nan])", "Out of range float values are not JSON compliant"),
    ("[pd.DataFrame({'a': [1]})]", "Object of type DataFrame is not JSON serializable"),
    ("{'a': {'b': pd.Series([1])}}", "Object of type Series is not JSON serializable"),
)


def _answers(run: Worker, returned: Sequence[str]) -> list[Any]:
    """Run a task for each of these expressions, which returns its value."""
    source = f"def f(params, seed): return eval({list(returned)}[params['number']], globals())\n"
    return run(NUMPY_AND_PANDAS + source, *({"params": {"number": number}} for number in range(len(returned)))).answers[
        1:
    ]


def test_numbers_of_numpy_and_tables_of_pandas_become_outputs(run: Worker) -> None:
    """In an interpreter that has both."""
    answers = _answers(run, [returned for returned, _ in RETURNED])
    assert [decoded_outputs(answer) for answer in answers] == [outputs for _, outputs in RETURNED]


def test_a_wire_function_may_return_numbers_of_numpy_and_tables(run: Worker) -> None:
    """As a plain function may."""
    returned = "{'result.csv': frame, 'n': np.int64(3), 't': 'text'}"
    source = f"{NUMPY_AND_PANDAS}def wire(entrypoint, params, seed): return {returned}\n"
    wired = decoded_outputs(run(source, {}, wire=wire_manifest("model.py:wire")).answers[1])
    assert wired == {"result.csv": b",day,cases\n0,1,0.5\n1,2,1.5\n", "n": b"3", "t": b"text"}


def test_what_json_cannot_hold_fails_its_task(run: Worker) -> None:
    """A table within a list would lose its index and its columns."""
    answers = _answers(run, [returned for returned, _ in REFUSED])
    for answer, (_, message) in zip(answers, REFUSED, strict=True):
        assert answer["error"]["message"].startswith(message)


# --- large outputs --------------------------------------------------------------------------------------------------


def test_large_outputs_go_by_file_and_small_ones_by_line(run: Worker, tmp_path: Path) -> None:
    source = (
        f"def f(params, seed):\n    return {{'small': b's' * {INLINE_BYTES}, 'large': b'l' * {INLINE_BYTES + 1}}}\n"
    )
    talk = run(source, {}, {})
    files = []
    for answer in talk.answers[1:]:
        assert base64.b64decode(answer["outputs"]["small"]) == b"s" * INLINE_BYTES
        files.append(Path(answer["outputs"]["large"]["file"]))
        assert files[-1].read_bytes() == b"l" * (INLINE_BYTES + 1)
    assert sorted(files) == sorted((tmp_path / "spool").iterdir())

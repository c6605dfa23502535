"""Tables as files: one type per column, and files that appear whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mopsjobs.errors import UsageError
from mopsjobs.utils.table_files import Column, csv_pieces, form_of, free_name, kind_of, write_table_file


def _columns(rows: list[list[object]]) -> list[Column]:
    kinds = [frozenset(kind_of(value) for value in values if value is not None) for values in zip(*rows, strict=True)]
    return [Column(f"c{place}", one) for place, one in enumerate(kinds)]


def test_a_column_of_csv_has_one_type() -> None:
    """Integers among floats are floats; among texts, numbers and truth values are texts. A null has no quotes."""
    rows = [[1, 1, True, None], [0.5, "x", None, "a"], [None, 0.5, False, ""]]
    assert "".join(csv_pieces(_columns(rows), rows)).splitlines() == [
        '"c0","c1","c2","c3"',
        '1.0,"1",true,',
        '0.5,"x",,"a"',
        ',"0.5",false,""',
    ]


def test_a_negative_number_among_texts_is_no_formula() -> None:
    """Only a text that begins like a formula gets a quote in front."""
    rows = [[-1.5], ["x"], ["-1.5"], [None], [[-1]], [False]]
    lines = "".join(csv_pieces(_columns(rows), rows)).splitlines()
    assert lines == ['"c0"', '"-1.5"', '"x"', '"\'-1.5"', "", '"[-1]"', '"false"']


def test_json_lines_keep_the_types(tmp_path: Path) -> None:
    """Except for integers among floats: a reader that sees the first rows would refuse the later ones."""
    rows = [[1, 1, [1], 2**70], [0.5, "x", None, 0]]
    write_table_file(str(tmp_path / "t.jsonl"), _columns(rows), rows)
    text = (tmp_path / "t.jsonl").read_text().splitlines()
    assert text[0] == f'{{"c0":1.0,"c1":1,"c2":[1],"c3":{2**70}}}'
    assert json.loads(text[1]) == {"c0": 0.5, "c1": "x", "c2": None, "c3": 0}


def test_a_table_that_fails_leaves_the_earlier_one(tmp_path: Path) -> None:
    def fail() -> Iterator[list[object]]:
        yield [1]
        raise UsageError("as asked")

    path = tmp_path / "t.csv"
    path.write_text("earlier")
    with pytest.raises(UsageError, match="as asked"):
        write_table_file(str(path), _columns([[1]]), fail())
    assert [one.read_text() for one in tmp_path.iterdir()] == ["earlier"]


@pytest.mark.parametrize("path", ["", "x", "x.txt", ".csv/x", "csv"])
def test_a_name_has_to_tell_the_form(path: str) -> None:
    with pytest.raises(UsageError, match=r"expected a name that ends in .* on stdout\.$"):
        form_of(path)
    assert form_of("-") == form_of("a.b/X.CSV") == "csv"


def test_no_two_columns_get_one_name() -> None:
    """The prefix stands in front as often as it takes."""
    taken = {"peak", "params.peak"}
    assert [free_name("peak", "params", taken) for _ in range(2)] == ["params.params.peak", "params.params.params.peak"]
    assert free_name("day", "params", taken) == "day"

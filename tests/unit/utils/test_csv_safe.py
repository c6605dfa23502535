"""CSV that a spreadsheet and a terminal may have: no cell is a formula, and no text moves a cursor."""

from __future__ import annotations

import csv
import io

import pytest

from mopsjobs.utils.csv_safe import csv_header, csv_text


def _cells(*row: object) -> list[str]:
    (cells,) = csv.reader(io.StringIO(csv_text([row])))
    return cells


@pytest.mark.claim("CSV has no formulas")
@pytest.mark.parametrize(
    "text", ["=1", "+1", "-1", "@A", "\t=1", "\r=1", "\n=1", " =1", "\u200b=1", "\x00=1", "\ufeff-1", "\uff1d1"]
)
def test_no_text_begins_a_formula(text: str) -> None:
    """Not after blanks, which some programs skip, nor after what is left out."""
    assert _cells(text)[0].startswith("'")


def test_numbers_are_numbers() -> None:
    """A negative number is not a formula, and a spreadsheet is to reckon with it."""
    assert csv_text([[-5, -0.5, 1e22]]) == "-5,-0.5,1e+22\n"


@pytest.mark.parametrize("text", ["a\x1b[31mb", "a\x9b31mb", "a\u202eb", "a\u200bb", "a\x00b", "a\x7fb", "\ud800"])
def test_no_text_has_characters_that_a_terminal_obeys(text: str) -> None:
    assert _cells(text)[0].isprintable()


def test_names_of_columns_stay_different() -> None:
    """Names that differ only in what CSV loses get numbers, and no number makes a name that another column has."""
    names = ["a", "a\x00", "a\x1b", "a.2", "=b", "'=b", "", "\x07"]
    (cells,) = csv.reader(io.StringIO(csv_header(names)))
    assert cells == ["a", "a.2", "a.3", "a.2.2", "'=b", "'=b.2", "", ".2"]

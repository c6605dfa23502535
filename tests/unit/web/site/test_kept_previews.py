"""What a page shows of an output, whatever its bytes are."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator

import pytest

from mopsjobs.web.site.kept import MAX_CELL, MAX_CHARACTERS, MAX_COLUMNS, MAX_LINES, MAX_ROWS, Preview, preview
from support.images import png


def test_csv_is_a_table_of_its_first_rows() -> None:
    """Its header is apart, and shorter rows are filled up."""
    value = "day,cases\n" + "".join(f"{day},{day * 2}\n" for day in range(MAX_ROWS))
    assert preview("curve.csv", value.encode()) == Preview(
        ["day", "cases"], [[str(day), str(day * 2)] for day in range(MAX_ROWS)]
    )
    shown = preview("curve.csv", (value + "7,8\n").encode())
    assert (len(shown.rows), shown.note) == (MAX_ROWS, f"The first {MAX_ROWS} rows.")
    assert preview("a.csv", b"\xef\xbb\xbfa,b\n\n1\n1,2,3\n").rows == [["1", "", ""], ["1", "2", "3"]]
    assert preview("a.csv", b"\n\n").note == "It is empty."
    shown = preview("a.csv", b"," * 500_000 + b"\n" + b"1," * 200_000)
    assert (len(shown.header), len(shown.rows[0])) == (MAX_COLUMNS, MAX_COLUMNS)
    assert shown.note == f"The first {MAX_COLUMNS} of 500,001 columns."


def test_cells_stay_as_they_are() -> None:
    """Formulas, markup, quotes and line ends are text. A long one is cut."""
    cells = ["=1+2", "<b>x</b>", 'a "b"', "two\nlines", "n" * 500]
    text = io.StringIO()
    csv.writer(text).writerows([["a", "b", "c", "d", "e"], cells])
    assert preview("a.csv", text.getvalue().encode()).rows == [[*cells[:4], "n" * (MAX_CELL - 1) + "…"]]


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("a.csv", b'a,b\n"1,2\n', "not CSV: unexpected end of data"),
        ("a.csv", b"a,b\n" + b"x" * 200_000, "not CSV: field larger than field limit"),
        ("a.json", b'{"a": 1', "not JSON: Expecting ',' delimiter"),
        ("a.json", b'{"a": 1, "a": 2}', "not JSON: 'a' comes twice"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.json", b"[" + b"9" * 10_000 + b"]", "not JSON: a number with too many digits"),
    ],
)
def test_what_cannot_be_parsed_is_shown_as_text(name: str, value: bytes, why: str) -> None:
    """With the reason."""
    shown = preview(name, value)
    assert shown.text == value.decode().rstrip("\n")[:MAX_CHARACTERS]
    assert shown.note is not None
    assert why in shown.note


def test_numbers_that_are_not_finite_are_shown() -> None:
    """Also those that a worker has marked."""
    assert preview("a.json", b"[NaN, -Infinity]").text == "[NaN, -Infinity]"
    marked = b'{"$not_finite": {"/loss": "nan"}, "loss": null}'
    assert preview("a.json", marked).text == '{\n  "loss": NaN\n}'


def test_a_bomb_of_brackets_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte of them would be a hundred megabytes of blanks."""
    seen = 0

    class Encoder(json.JSONEncoder):
        def iterencode(self, o: object, *_args: bool) -> Iterator[str]:
            nonlocal seen
            for piece in super().iterencode(o):
                seen += len(piece)
                yield piece

    monkeypatch.setattr("mopsjobs.web.site.kept.json.JSONEncoder", Encoder)
    bomb = b"[" + b",".join([b"[" * 98 + b"]" * 98] * 5_000) + b"]"
    shown = preview("a.json", bomb)
    assert shown.text is not None
    assert len(shown.text) <= MAX_CHARACTERS
    assert shown.note == "Only the beginning is shown."
    assert seen < 2 * MAX_CHARACTERS


def test_a_text_has_its_first_lines() -> None:
    """Up to a number of lines and of characters. JSON is indented, and keeps its letters."""
    json_text = preview("a.json", '{"b": [1, 2.5], "ä": null}'.encode()).text
    assert json_text == '{\n  "b": [1, 2.5],\n  "ä": null\n}'
    assert preview("log.txt", b"a\nb\n") == Preview(text="a\nb")
    assert preview("no-ending", "ä".encode()) == Preview(text="ä")
    assert preview("log.txt", b"") == Preview(text="")
    shown = preview("log.txt", b"x\n" * (MAX_LINES + 1))
    assert shown == Preview(text="\n".join(["x"] * MAX_LINES), note="Only the beginning is shown.")
    assert len(preview("log.txt", b"x" * 10**6).text or "") == MAX_CHARACTERS


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.txt", "a.html", "state.bin"])
@pytest.mark.parametrize("value", [b"a\0b", b"\xff\xfe", b"\x80"])
def test_bytes_that_are_no_text_are_not_shown(name: str, value: bytes) -> None:
    """Whatever the name says."""
    assert preview(name, value) == Preview(note="Not text: not shown.")


@pytest.mark.claim("Outputs are text, checked images, or attachments")
def test_an_image_says_its_size() -> None:
    """Other bytes, and more pixels than a browser should hold, are not shown."""
    assert preview("plot.png", png(320, 200)) == Preview(image=(320, 200))
    assert preview("plot.png", b"<svg onload=alert(1)>").note == "Not a PNG image: not shown."
    assert preview("plot.png", png(1, 1)[:20]).note == "Not a PNG image: not shown."
    head = png(1, 1)[:16]
    huge = head + (60_000).to_bytes(4, "big") * 2
    assert preview("plot.png", huge).note == "An image of 60,000 x 60,000 pixels: not shown."
    assert preview("plot.png", head + bytes(8)).image is None
    assert preview("plot.svg", b"<svg onload=alert(1)>").text == "<svg onload=alert(1)>"

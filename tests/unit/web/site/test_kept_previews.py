"""What a page shows of an output, whatever its bytes are."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from mopsjobs.web.site.kept import MAX_CELL, MAX_CHARACTERS, MAX_COLUMNS, MAX_LINES, MAX_ROWS, Preview, preview
from support.images import png


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("a.csv", b'a,b\n"1,2\n', "not CSV: unexpected end of data"),
        ("a.json", b'{"a": 1', "not JSON: Expecting ',' delimiter"),
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


def test_csv_is_a_table_of_its_first_rows() -> None:
    """Shorter rows are filled up, long cells cut. Formulas, markup, quotes and line ends are text."""
    lines = [b"day,cases", *(f"{day},{day * 2}".encode() for day in range(MAX_ROWS))]
    shown = preview("curve.csv", b"\n".join(lines))
    assert shown == Preview([line.decode().split(",") for line in lines])
    assert preview("curve.csv", b"\n".join([*lines, b"7,8"])) == shown._replace(note=f"The first {MAX_ROWS} rows.")
    cells = preview("a.csv", b'\xef\xbb\xbf=1+2,<b>x</b>,"a ""b"""\n\n"two\nlines",' + b"n" * 500 + b"\n").rows
    assert cells == [["=1+2", "<b>x</b>", 'a "b"'], ["two\nlines", "n" * (MAX_CELL - 1) + "…", ""]]
    assert preview("a.csv", b"\n\n").note == "It is empty."
    shown = preview("a.csv", b"," * 500_000 + b"\n" + b"1," * 200_000)
    assert [len(row) for row in shown.rows] == [MAX_COLUMNS] * 2
    assert shown.note == f"The first {MAX_COLUMNS} of 500,001 columns."


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
    shown = preview("a.json", b"[" + b",".join([b"[" * 98 + b"]" * 98] * 5_000) + b"]")
    assert len(shown.text or "") <= MAX_CHARACTERS
    assert shown.note == "Only the beginning is shown."
    assert seen < 2 * MAX_CHARACTERS


def test_a_text_has_its_first_lines() -> None:
    """Up to a number of lines and of characters. JSON is indented, keeps its letters, and has marked numbers."""
    json_text = preview("a.json", '{"b": [1, 2.5], "ä": null}'.encode()).text
    assert json_text == '{\n  "b": [1, 2.5],\n  "ä": null\n}'
    assert preview("a.json", b'{"$not_finite": {"/loss": "nan"}, "loss": null}').text == '{\n  "loss": NaN\n}'
    assert preview("no-ending", b"\xef\xbb\xbf" + "ä".encode()) == Preview(text="ä")
    shown = preview("log.txt", b"x\n" * (MAX_LINES + 1))
    assert shown == Preview(text="\n".join(["x"] * MAX_LINES), note="Only the beginning is shown.")
    assert len(preview("log.txt", b"x" * 10**6).text or "") == MAX_CHARACTERS


@pytest.mark.parametrize(("name", "value"), [("a.csv", b"a\0b"), ("a.json", b"\xff\xfe"), ("state.bin", b"\x80")])
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

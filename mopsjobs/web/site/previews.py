"""Turn the bytes of an output into what a page shows of it: a table, a text or an image, of bounded size.

A page shows tables and texts as text that is escaped. An image is one that says so itself, of a size that a browser can
hold. See docs/decisions/0062-previews-of-outputs.md.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from mopsjobs.errors import RecordError
from mopsjobs.ledger.scalars import csv_rows, read_result
from mopsjobs.utils.text import cut_to_length

MAX_ROWS = 20
MAX_COLUMNS = 20

MAX_CELL = 60
"""Characters of a cell."""

MAX_LINES = 200
MAX_CHARACTERS = 20_000
"""Of a text."""

MAX_PIXELS = 10_000_000
"""Of an image: a browser takes four bytes for each."""

_NUMBERS = re.compile(r"\[\n\s*[^\s\[\]{}\"][^\[\]{}\"]*\]?")
"""A list without texts or lists in it, as JSON with line breaks has it: a series of a day per line fills a screen."""

_PNG = b"\x89PNG\r\n\x1a\n"


class Preview(NamedTuple):
    """The part of an output that a page shows: one of table, text and image, or none of them."""

    header: Sequence[str] = ()
    """Of the table; empty without one."""
    rows: Sequence[Sequence[str]] = ()
    text: str | None = None
    image: tuple[int, int] | None = None
    """Its width and height."""
    note: str | None = None
    """What is left out, or why there is nothing."""


def preview(name: str, value: bytes) -> Preview:
    """Return what a page shows of an output.

    Args:
        name: the name of the output. Its ending tells how to read it.
        value: its bytes.
    """
    if name.endswith(".png"):
        return _image(value)
    try:
        text = value.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return Preview(note="Not text: not shown.")
    try:
        if name.endswith(".csv"):
            return _table(value)
        if name.endswith(".json"):
            shown, is_cut = _pretty(value)
            return _text(shown, is_cut=is_cut)
        return _text(text)
    except (RecordError, csv.Error) as error:
        why = error.reason if isinstance(error, RecordError) else f"not CSV: {error}"
        raw = _text(text)
        return raw._replace(note=" ".join(filter(None, (f"Shown as it is ({why}).", raw.note))))


def _table(value: bytes) -> Preview:
    """Return the first rows and columns of CSV.

    Raises:
        csv.Error: if these rows are not CSV.
    """
    found = list(islice(csv_rows(value), MAX_ROWS + 2))
    if not found:
        return Preview(note="It is empty.")
    columns = max(map(len, found))
    width = min(columns, MAX_COLUMNS)
    shown = ([cut_to_length(cell, MAX_CELL) for cell in row[:width]] for row in found)
    header, *rows = ([*row, *[""] * (width - len(row))] for row in shown)
    notes = [f"The first {MAX_ROWS} rows."] if len(rows) > MAX_ROWS else []
    notes += [f"The first {width} of {columns:,} columns."] if columns > width else []
    return Preview(header, rows[:MAX_ROWS], note=" ".join(notes) or None)


def _pretty(value: bytes) -> tuple[str, bool]:
    """Return JSON with line breaks, but within lists of numbers, and whether it has more than is shown.

    Raises:
        RecordError: if it is not JSON.
    """
    pieces, size = [], 0
    for piece in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(read_result(value)):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_CHARACTERS:  # a megabyte of brackets has a hundred megabytes of blanks
            break
    lines = _NUMBERS.sub(
        lambda match: re.sub(r"\n\s*", " ", match[0]).replace("[ ", "[").replace(" ]", "]"), "".join(pieces)
    )
    return lines, size > MAX_CHARACTERS


def _text(text: str, *, is_cut: bool = False) -> Preview:
    """Return the first lines of a text."""
    first = text[:MAX_CHARACTERS]
    lines = first.splitlines()
    is_cut = is_cut or len(text) > len(first) or len(lines) > MAX_LINES
    return Preview(text="\n".join(lines[:MAX_LINES]), note="Only the beginning is shown." if is_cut else None)


def _image(value: bytes) -> Preview:
    """Return the size of a PNG image, which its first chunk has."""
    if not value.startswith(_PNG) or value[12:16] != b"IHDR" or len(value) < 24:
        return Preview(note="Not a PNG image: not shown.")
    width, height = (int.from_bytes(value[begin : begin + 4], "big") for begin in (16, 20))
    if not 0 < width * height <= MAX_PIXELS:
        return Preview(note=f"An image of {width:,} x {height:,} pixels: not shown.")
    return Preview(image=(width, height))

"""Rows as CSV that a spreadsheet may open: no cell of it is ever taken for a formula."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence

from mopsjobs.utils.text import strip_control_characters

_FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # noqa: RUF001 - full-width forms, which some spreadsheets take for the plain ones
"""What begins a formula, after OWASP's page on CSV injection. Only texts are looked at: a number is one."""


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """The rows as lines of CSV. Null is empty, lists and objects are JSON; a text that looks like a formula gets a `'`.

    Every text is quoted, so that no field separator of another country cuts one in two.
    """
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    """What a cell holds. A text has no control characters but ends of lines, so that a terminal may show it too."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, (dict, list)):
        return json.dumps(value, separators=(",", ":"))
    text = str(value)
    plain = "\n".join(strip_control_characters(line) for line in text.splitlines()) if not text.isprintable() else text
    # Of both: some programs skip the tab, and what is left out here may have hidden the sign.
    return f"'{plain}" if text.startswith(_FORMULA) or plain.lstrip().startswith(_FORMULA) else plain

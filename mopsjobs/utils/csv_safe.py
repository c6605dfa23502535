"""Write CSV whose cells no spreadsheet takes for formulas."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Container, Iterable, Sequence

from mopsjobs.utils.text import strip_control_characters

_FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # noqa: RUF001 - full-width forms, which some spreadsheets take for the plain ones
"""Characters that begin a formula, by OWASP's page on CSV injection. Only texts are checked, since a number is safe."""


def csv_text(rows: Iterable[Sequence[object]], *, quotes_nulls: bool = True, text_places: Container[int] = ()) -> str:
    """Return the rows as lines of CSV. Lists and objects are JSON. A text like a formula gets a `'`.

    A null is empty, and so is a number that is not finite.

    Every text is quoted, so that the field separator of another country does not split it.

    Args:
        rows: rows of at least two cells.
        quotes_nulls: whether a null has quotes, like an empty text. Without them, and with truth values without
            quotes, readers that look at quotes find the types of columns.
        text_places: without quoted nulls, the places of columns whose numbers and truth values are quoted too.
    """
    if not quotes_nulls:
        cells = ((_typed_cell(value, place in text_places) for place, value in enumerate(row)) for row in rows)
        return "".join(",".join(row) + "\n" for row in cells)
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def csv_header(names: Iterable[str]) -> str:
    """Return the header line of a table, with different names.

    Names that differ only in characters that CSV loses get a number: `beta`, and `beta.2`.
    """
    taken: dict[str, None] = {}
    for name in names:
        plain = column = str(_cell(name))
        number = 1
        while column in taken:
            number += 1
            column = f"{plain}.{number}"
        taken[column] = None
    return csv_text([list(taken)])


def _typed_cell(value: object, is_text: bool) -> str:  # noqa: FBT001 - by place: once per cell
    """Return a cell, with quotes if it is a text, or in a column of texts."""
    content = _cell(value)
    if value is None or (isinstance(value, (bool, int, float)) and (not is_text or content == "")):
        return str(content)
    return '"' + str(content).replace('"', '""') + '"'


def _cell(value: object) -> object:
    """Return the content of a cell. A text loses its control characters except line ends: terminals show it, too."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return "" if isinstance(value, float) and not math.isfinite(value) else value
    if isinstance(value, (dict, list)):
        return json.dumps(value, separators=(",", ":"))
    text = str(value)
    plain = "\n".join(strip_control_characters(line) for line in text.splitlines()) if not text.isprintable() else text
    # Both are checked: some programs skip a tab, and a removed character may have hidden the sign.
    return f"'{plain}" if text.startswith(_FORMULA) or plain.lstrip().startswith(_FORMULA) else plain

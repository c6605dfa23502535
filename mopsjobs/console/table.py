"""Lay out tables: cells as text, cut to the width of a terminal and aligned by tabulate."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

from mopsjobs.console.result import Table
from mopsjobs.console.terminal import StyledText, style_text
from mopsjobs.utils.text import strip_control_characters

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

MIN_COLUMN = 12
"""A column is not cut below this width, however narrow the terminal."""


def format_table(table: Table, width: int | None, paint: Callable[[str, str], str]) -> list[str]:
    """Return the lines of a table.

    Args:
        table: headers and rows.
        width: columns of the terminal; None to cut nothing.
        paint: gives a text one of the styles.
    """
    tabulate = import_tabulate()
    tabulate.MIN_PADDING = 0  # else a column is two blanks wider than its header
    cells = [[value if isinstance(value, StyledText) else plain_cell(value) for value in row] for row in table.rows]
    if width is not None:
        cells = fit_columns(table.headers, cells, width)
    rows = [[format_cell(value, paint) for value in row] for row in cells]
    headers = [paint(header, "bold") for header in table.headers]
    lines = tabulate.tabulate(rows, headers, tablefmt="plain", disable_numparse=True).splitlines()
    return [line.rstrip() for line in lines]


def format_cell(value: object, paint: Callable[[str, str], str]) -> str:
    """Return a value as clean text, in its style if it has one."""
    text = "" if value is None else strip_control_characters(str(value))
    return paint(text, value.style) if isinstance(value, StyledText) else text


def plain_cell(value: object) -> str:
    """Return a value as clean text; lists and objects as JSON."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        return json.dumps(value, separators=(",", ":"))
    return strip_control_characters(str(value))


def fit_columns(headers: Sequence[str], rows: list[list[str]], width: int) -> list[list[str]]:
    """Return the cells, those of the widest columns cut until a row fits into `width`, if it can."""
    widths = [max(len(header), *(len(row[place]) for row in rows), 0) for place, header in enumerate(headers)]
    least = [max(len(header), MIN_COLUMN) for header in headers]
    while sum(widths) + 2 * (len(widths) - 1) > width:
        widest = max(range(len(widths)), key=lambda place: widths[place] - least[place])
        if widths[widest] <= least[widest]:
            break
        widths[widest] -= 1
    return [[_cut(cell, width) for cell, width in zip(row, widths, strict=True)] for row in rows]


def _cut(cell: str, width: int) -> str:
    if len(cell) <= width:
        return cell
    text = cell[: width - 1] + "…"
    return style_text(text, cell.style) if isinstance(cell, StyledText) else text


def import_tabulate() -> Any:
    """Import tabulate without importlib.metadata, which it needs for its own version only and takes as long as a list.

    A stand-in answers during the import. If another version of tabulate needs more of the module, it gets the real one.
    """
    name = "importlib.metadata"
    if name not in sys.modules:
        stand_in: Any = ModuleType(name)
        stand_in.version = lambda _package: "unknown"
        stand_in.PackageNotFoundError = ImportError
        sys.modules[name] = stand_in
        try:
            import tabulate
        except ImportError:
            pass
        finally:
            del sys.modules[name]
    import tabulate

    return tabulate

"""Lay out tables: cells as text, cut to the width of a terminal and aligned by tabulate."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace

from mopsjobs.console.result import Table
from mopsjobs.console.terminal import (
    Paint,
    StyledText,
    cut_to_width,
    display_width,
    format_cell,
    plain_cell,
    style_text,
)
from mopsjobs.utils.text import strip_control_characters

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

MIN_COLUMN = 16
"""A column is not cut below this width: `running (suspec…`."""

GAP = 2


def format_table(table: Table, width: int | None, paint: Paint) -> tuple[list[str], list[str]]:
    """Return the lines of a table, and the headers of the columns that found no room.

    On a terminal, cells are cut first. If that is not enough, columns are dropped in the order of the table. If a first
    column that is never cut still leaves no room, the other columns follow on a line of their own.

    Args:
        table: headers and rows.
        width: columns of the terminal; None to cut and drop nothing.
        paint: gives a text one of the styles.
    """
    headers = [strip_control_characters(header) for header in table.headers]
    rows = [[value if isinstance(value, StyledText) else plain_cell(value) for value in row] for row in table.rows]
    columns = [_Column(table, place, header, rows) for place, header in enumerate(headers)]
    if width is None:
        return _lines(columns, paint), []
    fitting = _fit(table, columns, width)
    if headers[0] not in table.never_cut or len(columns) == 1 or _line_width(fitting) <= width:
        return _lines(fitting, paint), [column.header for column in columns if column not in fitting]
    first, others = columns[0], _fit(table, columns[1:], width - GAP)
    below = [" " * GAP + line for line in _lines(others, paint)]
    lines = [line for pair in zip(_lines([first], paint), below, strict=True) for line in pair]
    return lines, [column.header for column in columns[1:] if column not in others]


class _Column:
    """A column of a table: its header, its cells, its width and the least width that it can be cut to."""

    def __init__(self, table: Table, place: int, header: str, rows: Sequence[Sequence[str]]) -> None:
        self.header = header
        self.cells = [row[place] for row in rows]
        self.width = max(display_width(text) for text in (header, *self.cells))
        self.least = self.width
        if header not in table.never_cut:
            self.least = min(self.width, max(display_width(header), MIN_COLUMN))


def _fit(table: Table, columns: Sequence[_Column], width: int) -> list[_Column]:
    """Return the columns that fit into a width, and cut their widths to it. If no choice fits, none is cut."""
    fitting = list(columns)
    droppable = [column for header in table.drop_order for column in columns if column.header == header]
    while droppable and sum(column.least + GAP for column in fitting) - GAP > width:
        fitting.remove(droppable.pop(0))
    if sum(column.least + GAP for column in fitting) - GAP > width:
        return fitting
    for column in fitting:
        column.width = max(column.least, min(column.width, width))
    while _line_width(fitting) > width:
        max(fitting, key=lambda column: column.width - column.least).width -= 1
    return fitting


def _line_width(columns: Sequence[_Column]) -> int:
    return sum(column.width + GAP for column in columns) - GAP


def _lines(columns: Sequence[_Column], paint: Paint) -> list[str]:
    """Return the header and each row as a line, with the cells cut to the widths of their columns."""
    tabulate = import_tabulate()
    headers = [_cut(style_text(column.header, "bold"), column.width, paint) for column in columns]
    # By columns: tabulate would import dataclasses, to see whether a row is one.
    cells = {place: [_cut(cell, column.width, paint) for cell in column.cells] for place, column in enumerate(columns)}
    lines = tabulate.tabulate(cells, headers, tablefmt="plain", disable_numparse=True).splitlines()
    return [line.rstrip() for line in lines]


def _cut(cell: str, width: int, paint: Paint) -> str:
    text = cut_to_width(cell, width)
    return format_cell(style_text(text, cell.style) if isinstance(cell, StyledText) else text, paint)


def import_tabulate() -> Any:
    """Import tabulate without four modules that it imports. Together they take half as long as a list.

    It needs importlib.metadata for its own version only, html and dataclasses for other tables than ours, and wcwidth
    where that happens to be installed. Stand-ins answer during the import. If another version of tabulate needs more of
    a module, it gets the real one. So it does beside other threads: an import in one of them would find the stand-ins.
    """
    # Aligned by the widths by which cells are cut.
    widths: Any = SimpleNamespace(wcswidth=display_width)
    stand_ins: dict[str, Any] = {
        "importlib.metadata": SimpleNamespace(version=lambda _package: "unknown", PackageNotFoundError=ImportError),
        "wcwidth": widths,
        "html": SimpleNamespace(escape=_late("html", "escape")),
        "dataclasses": SimpleNamespace(
            is_dataclass=_late("dataclasses", "is_dataclass"), fields=_late("dataclasses", "fields")
        ),
    }
    threading = sys.modules.get("threading")  # no listing imports it
    is_alone = threading is None or threading.active_count() == 1
    missing = {name: module for name, module in stand_ins.items() if is_alone and name not in sys.modules}
    sys.modules.update(missing)
    try:
        import tabulate
    except (AttributeError, ImportError):
        pass
    finally:
        for name in missing:
            del sys.modules[name]
    import tabulate

    tabulate.MIN_PADDING = 0  # else a column is two blanks wider than its header
    tabulate.wcwidth = widths  # type: ignore[attr-defined]
    tabulate.WIDE_CHARS_MODE = True
    return tabulate


def _late(module: str, name: str) -> Callable[..., Any]:
    """Return a function of a module, which is imported at the first call."""

    def call(*args: object) -> Any:
        return getattr(importlib.import_module(module), name)(*args)

    return call

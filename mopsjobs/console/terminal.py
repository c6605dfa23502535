"""What a terminal may get: text that does nothing to it, its size, styled text, and tables cut to its width."""

from __future__ import annotations

import os
from collections.abc import Sequence

TYPE_CHECKING = False  # typing itself costs 3 ms, on the one path that must be instant

if TYPE_CHECKING:
    from typing import TextIO


MIN_COLUMN = 12
"""A column of a table is not cut below this, however narrow the terminal."""


class Styled(str):
    """Text of ours with a style, which shows only where colour is wanted. The words tell everything by themselves."""

    __slots__ = ("style",)
    style: str


def styled(text: str, style: str) -> Styled:
    """Text with one of the styles."""
    made = Styled(text)
    made.style = style
    return made


def fitted(headers: Sequence[str], rows: list[list[str]], width: int) -> list[list[str]]:
    """The cells, with those of the widest columns cut so that a row fits into that many columns, if it can."""
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
    cut = cell[: width - 1] + "…"
    return styled(cut, cell.style) if isinstance(cell, Styled) else cut


def columns(stream: TextIO) -> int:
    """How wide that terminal is; 80 where it is none, or does not tell."""
    return _size(stream).columns or 80


def lines(stream: TextIO) -> int:
    """How high it is; 24 where it is none, or does not tell."""
    return _size(stream).lines or 24


def _size(stream: TextIO) -> os.terminal_size:
    try:
        return os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return os.terminal_size((80, 24))

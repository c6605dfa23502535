"""Text on a terminal: values as clean text, their style and width, and the size of a terminal.

East Asian and emoji characters take two columns, and combining marks none.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence

from mopsjobs.utils.text import strip_control_characters

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

EMOJI_SELECTOR = "\ufe0f"
"""After a narrow character, it asks for the emoji of that character, which takes two columns."""


Paint = Callable[[str, str], str]


TITLE_WIDTH = 11

_COMMAND_OR_WORD = r"\S*(?:mops-jobs|kubectl) .*?(?=[.,;:)]+ |$)|\S+"


class StyledText(str):
    """Text written by mops-jobs, with a style. The words are clear without it, for where no colour is wanted."""

    __slots__ = ("style",)
    style: str


def style_text(text: str, style: str) -> StyledText:
    """Return a text with one of the styles."""
    result = StyledText(text)
    result.style = style
    return result


def title_text(title: str, width: int = TITLE_WIDTH) -> StyledText:
    """Return the title of a line in a text about one thing, as wide as the titles of the other lines."""
    return style_text(f"{title:<{width}}", "bold")


def format_cell(value: object, paint: Paint) -> str:
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


def display_width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(_widths(text))


def cut_to_width(text: str, width: int) -> str:
    """Return a text that takes at most `width` columns: the text, or its beginning and an ellipsis."""
    if display_width(text) <= width:
        return text
    used = length = 0
    for one in _widths(text):
        if used + one > width - 1:
            break
        used += one
        length += 1
    return text[:length] + "…"


def _widths(text: str) -> Iterator[int]:
    """Yield the columns of each character."""
    import unicodedata

    before = 0
    for char in text:
        if char == EMOJI_SELECTOR:
            width = 1 if before == 1 else 0
        elif unicodedata.category(char) in ("Mn", "Me", "Cf") or "\u1160" <= char <= "\u11ff":
            width = 0
        else:
            width = 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1
        yield width
        before = width


def columns(stream: TextIO) -> int:
    """Return the width of a terminal; 80 if the stream is none, or does not tell."""
    return _size(stream).columns or 80


def lines(stream: TextIO) -> int:
    """Return the height of a terminal; 24 if the stream is none, or does not tell."""
    return _size(stream).lines or 24


def _size(stream: TextIO) -> os.terminal_size:
    try:
        return os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return os.terminal_size((80, 24))


def wrap_line(pieces: Sequence[str], width: int, indent: int) -> list[list[str]]:
    """Return the lines that a line becomes on a terminal, broken at blanks: words and command lines stay whole.

    Args:
        pieces: the line; a piece may have a style.
        width: columns of the terminal.
        indent: blanks before each line but the first.
    """
    text = "".join(pieces)
    breaks, column, end = [], 0, 0
    for match in re.finditer(_COMMAND_OR_WORD, text):
        gap, word = display_width(text[end : match.start()]), display_width(match[0])
        # A word that is longer than a line is left to the terminal, which breaks it anyway.
        if column + gap + word > width >= indent + word and column > indent:
            breaks.append((end, match.start()))
            column = indent + word
        else:
            column += gap + word
        end = match.end()
    starts = [0, *(following for _, following in breaks)]
    ends = [*(before for before, _ in breaks), len(text)]
    lines = [_part(pieces, start, end) for start, end in zip(starts, ends, strict=True)]
    return [lines[0], *([" " * indent, *line] for line in lines[1:])]


def _part(pieces: Sequence[str], start: int, end: int) -> list[str]:
    """Return what lies between two places of a line, each piece in its style."""
    found, offset = [], 0
    for piece in pieces:
        part = piece[max(0, start - offset) : max(0, end - offset)]
        if part:
            found.append(style_text(part, piece.style) if isinstance(piece, StyledText) else part)
        offset += len(piece)
    return found

"""Styled text, and the size of a terminal."""

from __future__ import annotations

import os

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import TextIO


class StyledText(str):
    """Text written by mops-jobs, with a style. The words are clear without it, for where no colour is wanted."""

    __slots__ = ("style",)
    style: str


def style_text(text: str, style: str) -> StyledText:
    """Return a text with one of the styles."""
    result = StyledText(text)
    result.style = style
    return result


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

"""Widths on a terminal: East Asian and emoji characters take two columns, combining marks none."""

from __future__ import annotations

from collections.abc import Iterator

EMOJI_SELECTOR = "\ufe0f"
"""After a narrow character, it asks for the emoji of that character, which takes two columns."""


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

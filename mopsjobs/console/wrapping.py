"""Wrap lines for a terminal at blanks; words and command lines stay whole, so that they can be copied."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mopsjobs.console.terminal import StyledText, display_width, style_text

_COMMAND_OR_WORD = re.compile(r"\S*(?:mops-jobs|kubectl) .*?(?=[.,;:)]+ |$)|\S+")


def wrap_line(pieces: Sequence[str], width: int, indent: int) -> list[list[str]]:
    """Return the lines that a line becomes on a terminal.

    Args:
        pieces: the line; a piece may have a style.
        width: columns of the terminal.
        indent: blanks before each line but the first.
    """
    text = "".join(pieces)
    breaks, column, end = [], 0, 0
    for match in _COMMAND_OR_WORD.finditer(text):
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

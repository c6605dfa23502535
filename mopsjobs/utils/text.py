"""Words and text: plural forms, and text that is safe to print on a terminal."""

from __future__ import annotations


def strip_control_characters(text: str) -> str:
    """Return the text without what could move a cursor, change a colour or turn the writing direction.

    White space becomes a blank. Control, format and unassigned characters go, and with them the bidirectional marks.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " if char.isspace() else "" for char in text)


def pluralize(count: int, noun: str) -> str:
    """Return a number with its noun: `1 job`, `1,200 jobs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"

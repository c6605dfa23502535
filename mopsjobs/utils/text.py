"""Words and text: plural forms, and text that is safe to print on a terminal."""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself costs 3 ms, on the one path that must be instant

if TYPE_CHECKING:
    pass


def strip_control_characters(text: str) -> str:
    """The text with nothing in it that could move a cursor, change a colour or turn the writing direction.

    White space becomes a blank; control, format and unassigned characters, the bidirectional marks among them, go.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " if char.isspace() else "" for char in text)


TYPE_CHECKING = False  # typing itself costs 3 ms, on the one path that must be instant

if TYPE_CHECKING:
    pass


def pluralize(count: int, noun: str) -> str:
    """So many of something, in words: `1 job`, `1,200 jobs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"

"""The nearest word to a mistyped one, for error messages."""

from __future__ import annotations

from mopsjobs.errors import shorten

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_WORD = 100
"""Characters of a word that is compared and quoted."""

MIN_SIMILARITY = 0.65
"""Of a suggestion, from 0 to 1. Two letters that are swapped in a word of four leave 0.75."""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the choice nearest to `word`; an empty text if none is near."""
    import difflib  # only errors need it

    words = {choice.lstrip("-"): choice for choice in choices}
    close = difflib.get_close_matches(word[:MAX_WORD].strip().lower().lstrip("-"), words, 1, MIN_SIMILARITY)
    return f" Did you mean '{words[close[0]]}'?" if close else ""


def invalid_choice(kind: str, value: object, choices: Iterable[object]) -> str:
    """Return the message for a value that is none of the choices, with the nearest one."""
    words = [str(choice) for choice in choices]
    expected = f"one of {', '.join(words)}" if len(words) > 1 else "".join(words)
    text = str(value)
    return f"invalid {kind} '{shorten(text, MAX_WORD)}': expected {expected}.{did_you_mean(text, words)}"

"""Words and text: plural forms, whole numbers, patterns, suggestions, and text that is safe to print on a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from mopsjobs.errors import UsageError, shorten

MAX_DIGITS = 20

MAX_NUMBER = 100_000
"""Workers, shards or pods. Kubernetes allows as many completions of an Indexed Job with a limit per index."""

MAX_DIGITS = 12
"""Characters of a number that is not shortened for people."""

MAX_WORD = 100
"""Characters of a word that is compared and quoted."""

MIN_SIMILARITY = 0.7
"""Of a suggestion, from 0 to 1. Two letters that are swapped in a word of four leave 0.75."""

MIN_ALIKE = 0.65
"""Of a suggestion that begins as the word does. Two letters that are swapped in a word of three leave 0.67."""


def strip_control_characters(text: str) -> str:
    """Return the text without what could move a cursor, change a colour or turn the writing direction.

    White space becomes a blank. Control, format and unassigned characters go, and with them the bidirectional marks.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " if char.isspace() else "" for char in text)


def cut_to_length(text: str, limit: int) -> str:
    """Return a text of at most `limit` characters: the text, or its beginning and an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def cut_in_the_middle(text: str, limit: int) -> str:
    """Return a text of at most `limit` characters: the text, or its two ends around an ellipsis, the last one longer.

    Messages of a cluster begin with what was done, and end with the cause.
    """
    if len(text) <= limit:
        return text
    begin = limit // 3
    return text[:begin] + "…" + text[len(text) - (limit - begin - 1) :]


def last_line(printed: bytes) -> str:
    """Return the last line of an output that is not blank; empty if there is none."""
    lines = printed.decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def pluralize(count: int, noun: str) -> str:
    """Return a number with its noun: `1 job`, `1,200 jobs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def out_of(part: int, total: int) -> str:
    """Return a part of a number for people: `9,727/10,000`."""
    return f"{part:,}/{total:,}"


def join_first(words: Sequence[str]) -> str:
    """Return the first three words with commas, and `…` in place of more."""
    return ", ".join([*words[:3], *(["…"] if len(words) > 3 else [])])


def error_line(kind: object, message: object, place: object = None) -> str | None:
    """Return an error as `TYPE in PLACE: MESSAGE`, as far as it has these parts; None if it has none."""
    head = " in ".join(str(word) for word in (kind, place) if word)
    return ": ".join(str(word) for word in (head, message) if word) or None


def parse_whole_number(text: str, least: int, most: int) -> int | None:
    """Return the whole number that a text of ASCII digits stands for; None if it is not from `least` to `most`."""
    # Python refuses to convert more than 4,300 digits.
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
        return None
    number = int(text)
    return number if least <= number <= most else None


def read_whole_number(text: str, least: int, most: int, name: str, expected: str) -> int:
    """Return the whole number that a text of ASCII digits stands for.

    Raises:
        UsageError: if it is not from `least` to `most`. The message has the name, and what was expected.
    """
    number = parse_whole_number(text, least, most)
    if number is None:
        raise UsageError(f"invalid {name} '{text}': expected {expected}.")
    return number


def parse_positive_number(text: str) -> int:
    """Read a number of workers, shards or pods.

    Raises:
        UsageError: if it is not a whole number from 1 to 100,000.
    """
    return read_whole_number(text, 1, MAX_NUMBER, "number", f"a whole number from 1 to {MAX_NUMBER:,}")


def compile_pattern(text: str) -> re.Pattern[str]:
    """Compile a regular expression of the user.

    Raises:
        UsageError: if it is not valid.
    """
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"invalid regular expression '{text}': {error}.") from None


def describe_duplicates(count: object, jobs: int = 1) -> str:
    """Return how many of the tasks before it are duplicates, as a clause; an empty text if none is.

    Args:
        count: may come from a record, and so be anything.
        jobs: how many jobs have the tasks.
    """
    if type(count) is not int or count <= 0:
        return ""
    return f", {count:,} of which {repeats_text(count, jobs)}"


def repeats_text(count: int, jobs: int = 1) -> str:
    """Return what tasks do that have the parameters and the seed of an earlier one, or outputs of another job."""
    which = "an earlier one" if jobs == 1 else "another one"
    return f"{'repeats' if count == 1 else 'repeat'} {which} and {'shares' if count == 1 else 'share'} its outputs"


def short_number(value: object) -> object:
    """Return a number with many digits as one with 6, for people; anything else as it is."""
    return float(f"{value:.6g}") if isinstance(value, float) and len(repr(value)) > MAX_DIGITS else value


def describe_sets(count: int, different: object) -> str:
    """Return a count of parameter sets, and how many of them have different parameters if these are fewer."""
    fewer = f" ({different:,} different)" if type(different) is int and 0 < different < count else ""
    return pluralize(count, "parameter set") + fewer


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the choice nearest to `word`; an empty text if none is near."""
    import difflib  # only errors need it

    words = {choice.lstrip("-"): choice for choice in choices}
    typed = word[:MAX_WORD].strip().lower().lstrip("-")
    alike = [choice for choice in words if choice[:1] == typed[:1]]
    close = difflib.get_close_matches(typed, words, 1, MIN_SIMILARITY) or difflib.get_close_matches(
        typed, alike, 1, MIN_ALIKE
    )
    return f" Did you mean '{words[close[0]]}'?" if close else ""


def invalid_choice(kind: str, value: object, choices: Iterable[object]) -> str:
    """Return the message for a value that is none of the choices, with the nearest one."""
    words = [str(choice) for choice in choices]
    expected = f"one of {', '.join(words)}" if len(words) > 1 else "".join(words)
    text = str(value)
    return f"invalid {kind} '{shorten(text, MAX_WORD)}': expected {expected}.{did_you_mean(text, words)}"

"""Turn options of a launch into texts, and read those that engines have in common."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from mopsjobs.errors import OptionError, UsageError
from mopsjobs.utils.text import parse_whole_number


def option_text(value: object, join: Callable[[Iterable[str]], str]) -> str | None:
    """Return the value of a flag or of an argument as a text; None if there is none.

    Args:
        value: a text, a number, a truth value, labels, or several values.
        join: makes one text of several.
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        value = [f"{key}={one}" for key, one in value.items()]
    if isinstance(value, (list, tuple)):
        return join(map(str, value)) if value else None
    return None if value is None else str(value)


def check_names(options: Collection[str], known: Collection[str], engine: str) -> None:
    """Refuse options that an engine does not have.

    Raises:
        UsageError: if there is one.
    """
    if unknown := sorted({*options} - {*known}):
        expected = f"expected one of {', '.join(known)}"
        raise UsageError(f"unknown option of the {engine} engine {', '.join(unknown)}: {expected}.")


def whole_number(options: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    """Return an option that is a whole number.

    Raises:
        OptionError: if it is not, or is out of range.
    """
    text = options.get(name)
    number = default if text is None else parse_whole_number(text, least, most)
    if number is None:
        raise OptionError(f"invalid {name} '{text}': expected a whole number from {least} to {most:,}.", name)
    return number

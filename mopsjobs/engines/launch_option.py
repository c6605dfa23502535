"""An option of a launch as data. Its flag, its argument in Python and their documents follow from it.

Each engine has a table of its options, and `submission.launch_options` that of the runner.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Real
from typing import Literal, NamedTuple, SupportsIndex

from mopsjobs.errors import OptionError, UsageError
from mopsjobs.utils.text import parse_whole_number

Kind = Literal["text", "count", "size", "duration", "file", "switch", "choices", "texts", "labels"]
"""The kind of a value. Choices are one text, separated by commas; the flags of texts and labels are repeated."""


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, SupportsIndex) and not isinstance(value, bool)


def _are_texts(value: object) -> bool:
    return isinstance(value, Iterable) and all(isinstance(item, str) for item in value)


PYTHON_TYPES: Mapping[Kind, tuple[str, Callable[[object], bool]]] = {
    "text": ("a text or a number", lambda value: isinstance(value, str) or _is_number(value)),
    "count": ("a whole number", _is_count),
    "size": ("a text like 2GiB, or bytes", lambda value: isinstance(value, str) or _is_count(value)),
    "duration": ("a text like 2h, or seconds", lambda value: isinstance(value, str) or _is_number(value)),
    "file": ("a path", lambda value: isinstance(value, str | os.PathLike)),
    "switch": ("True or False", lambda value: isinstance(value, bool)),
    "choices": ("a text, or a list of texts", _are_texts),
    "texts": ("a text, or a list of texts", _are_texts),
    "labels": ("a dict, or texts like key=value", lambda value: isinstance(value, Mapping) or _are_texts(value)),
}
"""What a Python program gives, by kind: in words, and whether a value is that."""

REPEATED: Collection[Kind] = ("texts", "labels")
"""The kinds of which each value has a flag of its own."""


class LaunchOption(NamedTuple):
    """An option of a launch."""

    name: str
    kind: Kind
    metavar: str
    """The value in the help of the flag."""
    help: str
    default: str
    """The default, in words."""
    flag_help: str = ""
    """What only the help of the flag adds."""
    growth: str = ""
    """What the help of `resume` adds, if a factor like `x2` may stand in place of the limit."""
    is_repeatable: bool = True
    """Whether `resume` repeats the option of the earlier launch."""

    def check(self, value: object) -> None:
        """Check the type of the value that a Python program gives; None stands for no value.

        Raises:
            UsageError: if it has another type.
        """
        words, is_valid = PYTHON_TYPES[self.kind]
        if value is not None and not is_valid(value):
            raise UsageError(f"invalid {self.name} {value!r}: expected {words}.")


def names_of(options: Iterable[LaunchOption]) -> tuple[str, ...]:
    """Return the names of options."""
    return tuple(option.name for option in options)


def option_text(value: object, join: Callable[[Iterable[str]], str] = ",".join) -> str | None:
    """Return the value of a flag or of an argument as a text; None if there is none.

    Args:
        value: a text, a number, a truth value, labels, or several values.
        join: makes one text of several.
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        value = [f"{key}={item}" for key, item in value.items()]
    if isinstance(value, Iterable) and not isinstance(value, str):
        items = list(map(str, value))
        return join(items) if items else None
    return None if value is None else str(value)


def check_names(options: Collection[str], known: Iterable[LaunchOption], engine: str) -> None:
    """Refuse options that an engine does not have.

    Raises:
        UsageError: if there is one.
    """
    names = names_of(known)
    if unknown := sorted({*options} - {*names}):
        expected = f"expected one of {', '.join(names)}"
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


def checked(options: Mapping[str, str], name: str, is_valid: Callable[[str], object], expected: str) -> str | None:
    """Return the text of an option; None if it is not given.

    Raises:
        OptionError: if it is invalid, or has characters that cannot be printed.
    """
    text = options.get(name)
    if text is not None and not (text.isprintable() and is_valid(text)):
        raise OptionError(f"invalid {name} {text!r}: expected {expected}.", name)
    return text

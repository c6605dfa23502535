"""Conditions on parameters, like `beta > 0.9 and mode == "x"`: whether one holds, and how it is written."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

from mopsjobs.utils.text import cut_to_length

Number = int | float

MAX_NUMBER = 1e300
"""Numbers beyond it are compared only for equality: the middle of two of them may be infinite."""

MAX_SHOWN_CHARACTERS = 60
"""Of a parameter's name or value in a condition."""

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*", re.ASCII)

_RESERVED = frozenset({"and", "is", "set", "not", "true", "false", "null"})


class Comparison(NamedTuple):
    """A condition on one parameter."""

    parameter: str
    operator: str
    """`>`, `<=`, `==`, `!=`, `is set` or `is not set`."""
    value: Any = None

    def holds(self, params: Mapping[str, Any]) -> bool:
        """Return whether it holds for these parameters. Of one that is not set, only `is not set` holds."""
        if self.parameter not in params:
            return self.operator == "is not set"
        if self.operator in ("is set", "is not set"):
            return self.operator == "is set"
        value = params[self.parameter]
        if self.operator in ("==", "!="):
            return (category(value) == category(self.value)) == (self.operator == "==")
        return is_number(value) and (value > self.value) == (self.operator == ">")

    def __str__(self) -> str:
        name = self.parameter
        if not _PLAIN_NAME.fullmatch(name) or name in _RESERVED:
            name = json.dumps(name, ensure_ascii=False)
        texts = [name] if self.operator.startswith("is") else [name, _value_text(self.value)]
        name, *value = (cut_to_length(text, MAX_SHOWN_CHARACTERS) for text in texts)
        return " ".join([name, self.operator, *value])


class Condition(NamedTuple):
    """Comparisons that all have to hold."""

    parts: tuple[Comparison, ...]

    def holds(self, params: Mapping[str, Any]) -> bool:
        """Return whether all of them hold for these parameters."""
        return all(part.holds(params) for part in self.parts)

    def __str__(self) -> str:
        return " and ".join(map(str, self.parts))


def is_number(value: object) -> bool:
    """Return whether a value can be compared with a cut: a number that is not a boolean, and not huge."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -MAX_NUMBER <= value <= MAX_NUMBER


def category(value: object) -> Hashable:
    """Return what equal values share: numbers that are equal are one category, `true` and 1 are two."""
    if isinstance(value, str) or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return value
    return ("json", json.dumps(value, sort_keys=True, separators=(",", ":")))


def cut_between(low: Number, high: Number) -> Number:
    """Return the number with the fewest digits from `low` to below `high`, near the middle of both.

    Then `x > cut` holds for `high` and not for `low`, and `x <= cut` for `low` only.
    """
    middle = low + (high - low) / 2
    if isinstance(low, int) and isinstance(high, int):
        middle = low + (high - low) // 2
    for digits in range(1, 18):
        rounded = float(f"{middle:.{digits}g}")
        cut = int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded
        if low <= cut < high:
            return cut
    return low


def _value_text(value: object) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return json.dumps(value, ensure_ascii=False, sort_keys=True)

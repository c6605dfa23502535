"""Conditions on tasks: on how they ended, and on their parameters."""

from __future__ import annotations

import functools
import json
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

from mopsjobs.errors import UsageError, shorten
from mopsjobs.ledger.attempt import Outcome
from mopsjobs.utils.text import did_you_mean, invalid_choice

WAITING = "waiting"
"""No attempt at the task has ended, and the job goes on. The task may be at work."""

MISSING = "missing"
"""No attempt at the task has ended, and the job has."""

STATUSES = (*map(str, Outcome), WAITING, MISSING)

MAX_NEAR = 3

MAX_CONDITIONS = 100

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
"""The longer ones first, as they are looked for."""

_JSON_WORDS = {"True": "true", "False": "false", "None": "null"}
"""Of Python's words, which its messages have."""

SORTS = {
    "task": ("task", "task.task"),
    "seconds": ("seconds", "seconds"),
    "cpu": ("cpu_seconds", "user_seconds + system_seconds"),
    "memory": ("max_rss_bytes", "max_rss_bytes"),
    "attempt": ("attempts", "attempts"),
    "started": ("started_ts", "started_ts"),
}
"""The names for the order of tasks, with their fields of `TaskRow` and their columns."""


class Condition(NamedTuple):
    """A condition on one parameter."""

    name: str
    sign: str
    value: str

    def holds(self, params: Mapping[str, object]) -> bool:
        """Return whether a parameter set meets it; False if the set lacks the parameter.

        Two numbers are compared as numbers, everything else as texts.
        """
        if self.name not in params:
            return False
        found = params[self.name]
        number = as_number(self.value)
        compare = _OPERATORS[self.sign]
        if number is not None and is_number(found):
            return compare(found, number)
        return compare(_text(found), json_word(self.value) if found is None or isinstance(found, bool) else self.value)

    @property
    def is_equality(self) -> bool:
        """Return whether it tells equal values from others, and does not put them in order."""
        return self.sign in ("=", "==", "!=")

    def nearly_holds(self, found: object) -> bool:
        """Return whether a value differs from that of an equality by no more than numbers do that are computed."""
        number = as_number(self.value)
        return number is not None and is_number(found) and found != number and math.isclose(found, number)


class Order(NamedTuple):
    """The order of tasks: a name of `SORTS`, and whether the largest comes first."""

    name: str = "task"
    is_descending: bool = False

    @property
    def column(self) -> str:
        """Return the column, or the expression, of the order."""
        return SORTS[self.name][1]

    @property
    def field(self) -> str:
        """Return the field of `TaskRow` that has the value of the column."""
        return SORTS[self.name][0]

    @property
    def sql(self) -> str:
        """Return the ORDER BY clause. Tasks without a value come last."""
        direction = "DESC" if self.is_descending else "ASC"
        if self.name == "task":
            return f"task.task {direction}"
        return f"{self.column} {direction} NULLS LAST, task.task"


def parse_task_statuses(text: str) -> frozenset[str]:
    """Read statuses of tasks, separated by commas.

    Raises:
        UsageError: if one is not a status of a task.
    """
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in STATUSES:
            raise UsageError(invalid_choice("status of a task", word, STATUSES))
    return frozenset(words)


def parse_condition(text: str) -> Condition:
    """Read a condition such as `beta>0.9`. Name and value may have the quotes that `failures` writes: `mode == "x"`.

    Raises:
        UsageError: if it has no operator, no name in front of it, or no value after it.
    """
    start = _end_of_quoted(text)
    places = [(place, -len(sign), sign) for sign in _OPERATORS if (place := text.find(sign, start)) >= 0]
    place, _, sign = min(places, default=(0, 0, ""))
    name = text[:place].strip()
    if not name:
        raise UsageError(
            f"invalid condition '{shorten(text, 100)}': expected NAME, an operator and a value, such as 'beta>0.9'.",
            hint=f"Operators are {' '.join(sign for sign in _OPERATORS if sign != '==')}.",
        )
    value = text[place + len(sign) :].strip()
    if value.startswith(("=", "<", ">")) or (not value and sign not in ("=", "==", "!=")):
        raise UsageError(
            f"invalid condition '{shorten(text, 100)}': expected a value after {sign}.",
            hint=f"Operators are {' '.join(sign for sign in _OPERATORS if sign != '==')}."
            " A text that begins with one of them needs quotes.",
        )
    return Condition(_without_quotes(name), sign, _without_quotes(value))


def check_count(conditions: Sequence[object]) -> None:
    """Refuse more than `MAX_CONDITIONS`.

    Raises:
        UsageError: if there are more.
    """
    if len(conditions) > MAX_CONDITIONS:
        raise UsageError(f"too many conditions ({len(conditions):,}): expected at most {MAX_CONDITIONS}.")


def parse_order(text: str) -> Order:
    """Read an order such as `-seconds`; a leading `-` means descending.

    Raises:
        UsageError: if tasks cannot be sorted by it.
    """
    name = text.strip().removeprefix("-")
    if name not in SORTS:
        hint = "For descending order, put a - in front, as in -seconds."
        raise UsageError(invalid_choice("sort column", name, SORTS), hint=hint)
    return Order(name, text.strip().startswith("-"))


def invalid_cursor(text: str) -> UsageError:
    """Return the error for a cursor that no answer had."""
    return UsageError(f"invalid cursor '{shorten(text, 100)}': expected the one of an earlier answer.")


def check_names(conditions: Iterable[Condition], parameters: Iterable[str]) -> None:
    """Refuse conditions on parameters that no task has.

    Raises:
        UsageError: if there is such a condition.
    """
    names = list(parameters)
    for condition in conditions:
        if condition.name not in names:
            known = f"expected one of {', '.join(names[:20])}" if names else "the study has no parameters"
            more = ", …" if len(names) > 20 else ""
            raise UsageError(
                f"invalid parameter '{shorten(condition.name, 100)}': {shorten(known, 500)}{more}."
                f"{did_you_mean(condition.name, names)}"
            )


def check_order(condition: Condition, sets: Iterable[Mapping[str, object]]) -> None:
    """Refuse to order numbers by a text: no number would pass, or all of them.

    Raises:
        UsageError: if no value of the parameter is a text.
    """
    name, sign, value = condition
    if all(is_number(params.get(name, 0)) for params in sets):
        raise UsageError(
            f"invalid condition '{shorten(name + sign + value, 100)}': expected a number after {sign}, since all"
            f" values of {shorten(name, 60)} are numbers."
        )


def near_misses(conditions: Sequence[Condition], sets: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each equality that tells apart numbers that are equal but for their computation."""
    near: dict[Condition, set[float]] = {}
    for params in sets:
        for condition in conditions:
            if condition.nearly_holds(params.get(condition.name)):
                near.setdefault(condition, set()).add(params[condition.name])
    return [_near_text(condition, sorted(values)) for condition, values in near.items()]


def _near_text(condition: Condition, values: Sequence[float]) -> str:
    """Return which values an equality tells apart, and the conditions that take them together."""
    name, sign, value = condition
    low, high = min(values[0], float(value)), max(values[-1], float(value))
    more = ", …" if len(values) > MAX_NEAR else ""
    shown = f"{', '.join(map(repr, values[:MAX_NEAR]))}{more}"
    quoted = name if name.isidentifier() else json.dumps(name, ensure_ascii=False)
    both = f"--param '{quoted}>={low!r}' --param '{quoted}<={high!r}'"
    return f"{name}{sign}{value} does not take {shown} as {value}. To take both: {both}"


def json_word(text: str) -> str:
    """Return `true` for `True`, and so on; other texts unchanged."""
    return _JSON_WORDS.get(text, text)


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether the value of a parameter is a number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _end_of_quoted(text: str) -> int:
    """Return where a name in JSON's quotes ends, which may hold operators; 0 if a condition has no such name."""
    start = len(text) - len(text.lstrip())
    if not text.startswith('"', start):
        return 0
    try:
        return json.JSONDecoder().raw_decode(text, start)[1]
    except ValueError:
        return 0


def _without_quotes(text: str) -> str:
    """Return the text that a text in JSON's quotes stands for; others unchanged."""
    if len(text) < 2 or not text[0] == text[-1] == '"':
        return text
    try:
        return str(json.loads(text))
    except ValueError:
        return text


@functools.lru_cache(maxsize=1024)
def as_number(text: str) -> float | int | None:
    """Return the finite number that a text stands for; None if it stands for none."""
    try:
        return int(text) if len(text) <= 40 else float(text)
    except ValueError:
        try:
            number = float(text)
        except ValueError:
            return None
        return number if math.isfinite(number) else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))

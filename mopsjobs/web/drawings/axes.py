"""Axes of drawings. Pure.

The values of a parameter have places: single values, bins of numbers, or categories. Counts and shares have
round numbers from 0, and times have days.
"""

from __future__ import annotations

import json
import math
import sys
from bisect import bisect_right
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mopsjobs.studies.conditions import category, is_number
from mopsjobs.utils.text import cut_to_length
from mopsjobs.utils.times import from_timestamp

MAX_PLACES = 100
"""Places of an axis. More numbers than that become bins, and more categories one last place."""

BINS = 50

TICKS = 5
"""Texts beside an axis of more places than have room."""

MAX_STEPS = 5
"""Steps between round numbers, at most."""

MAX_WHOLE = 1e9
"""Steps between 0 and an axis, at most. Numbers further away differ in their last digits only, and are not rounded."""

MAX_DATES = 7
"""Days with a date beside an axis, at most."""

MAX_COUNTED = 1_000
"""Values up to which parameters are compared. More make no difference to a reader."""

MAX_CONDITION_VALUE = 1000
"""Characters of a value up to which a link can select it."""

MAX_LABEL = 60

Params = Mapping[str, Any]


class AxisTexts(NamedTuple):
    """The texts along an axis: its name with the unit, and ticks."""

    name: str
    ticks: list[str]
    """From the left, or from the top."""
    each: bool = False
    """Whether each text is at a place between two lines, and not at a line."""
    places: Sequence[float] = ()
    """Where the ticks are, in per cent of the width; empty if they are at equal distances."""


class Scale(NamedTuple):
    """Round numbers from 0 to the top of an axis."""

    texts: AxisTexts
    top: float
    steps: int


class RoundRange(NamedTuple):
    """Numbers at equal distances, the outer ones as far apart as an axis needs."""

    low: float
    high: float
    texts: list[str]
    """From the lowest to the highest."""


_NOT_SET = object()


class Axis:
    """The places of a parameter's values, from the first to the last."""

    def __init__(self, name: str, sets: Iterable[Params]) -> None:
        """Find the places.

        Args:
            name: the parameter.
            sets: parameter sets that have at least one value of it.
        """
        self.name = name
        values = _distinct(name, sets)
        self.is_ordered = all(is_number(value) for value in values.values())
        """Whether the places are numbers, so that neighbours belong together."""
        self._ends = (0.0, 0.0)
        self._edges: list[float] = []
        self._places: dict[Hashable, int] = {}
        self._values: list[Any] = []
        if self.is_ordered and len(values) > MAX_PLACES:
            numbers = [float(value) for value in values.values()]
            self._ends = (min(numbers), max(numbers))
            self._edges = _edges(*self._ends)
            self.size = len(self._edges) + 1
            return
        found = sorted(values.values()) if self.is_ordered else list(values.values())[: MAX_PLACES - 1]
        self._values = found
        self._places = {_key(value): place for place, value in enumerate(found)}
        self.size = len(found) + (len(values) > len(found))

    @property
    def is_exact(self) -> bool:
        """Return whether each place is one value."""
        return self.size == len(self._values)

    def place(self, params: Params) -> int:
        """Return the place of a parameter set, from 0."""
        value = params.get(self.name, _NOT_SET)
        if self._edges:
            return bisect_right(self._edges, value)
        return self._places.get(_key(value), len(self._values))

    def position(self, params: Params) -> float:
        """Return where a parameter set is on a drawing of the axis: its number, or the place of its category."""
        return float(params[self.name]) if self.is_ordered else float(self.place(params))

    def label(self, place: int) -> str:
        """Return the text of a place."""
        if not self._edges:
            return self._text(place)
        low, high = self._bounds(place)
        if low is None or high is None:
            return "all" if low is high else f"below {high:g}" if low is None else f"from {low:g}"
        return f"{low:g} to {high:g}"

    def _bounds(self, place: int) -> tuple[float | None, float | None]:
        """Return the edges of a bin; None beside the first and the last one."""
        return (self._edges[place - 1] if place else None), (self._edges[place] if place < self.size - 1 else None)

    def ticks(self) -> list[str]:
        """Return the texts of `TICKS` places at equal distances, from the first to the last."""
        if self._edges:
            return tick_texts(*self._ends)
        return [self._text(round(one * (self.size - 1) / (TICKS - 1))) for one in range(TICKS)]

    def conditions(self, place: int) -> list[str]:
        """Return what a parameter set has to meet to be at a place, as `tasks --param` reads it.

        The last place of many categories has no condition: it is none of the others.
        """
        name = _name_text(self.name)
        if self._edges:
            signs = zip((">=", "<"), self._bounds(place), strict=True)
            return [f"{name}{sign}{edge!r}" for sign, edge in signs if edge is not None]
        value = self._values[place] if place < len(self._values) else _NOT_SET
        text = json.dumps(value, separators=(",", ":")) if value is not _NOT_SET else ""
        return [f"{name}={text}"] if 0 < len(text) <= MAX_CONDITION_VALUE else []

    def _text(self, place: int) -> str:
        if place >= len(self._values):
            return "others"
        return _value_text(self._values[place], as_number=self.is_ordered)


def count_scale(name: str, most: float) -> Scale:
    """Return whole numbers from 0 to at least `most`: steps of 1, 2 or 5 times a power of ten."""
    step = _round_step(max(most / MAX_STEPS, 1.0))
    count = max(1, math.ceil(most / step))
    texts = [f"{step * number:,.0f}" for number in range(count, -1, -1)]
    return Scale(AxisTexts(name, texts), step * count, count)


def day_texts(days: list[float]) -> AxisTexts:
    """Return a text for each of the days that begin at these times: the date of some, and nothing for the others."""
    distance = math.ceil(len(days) / MAX_DATES)
    first = (len(days) - 1 - distance // 2) % distance
    texts = [f"{from_timestamp(at):%m-%d}" if place % distance == first else "" for place, at in enumerate(days)]
    return AxisTexts("Day (month-day, UTC)", texts, each=True)


def round_range(low: float, high: float) -> RoundRange:
    """Return round numbers from at most `low` to at least `high`.

    Args:
        low: the lowest value.
        high: the highest one, which is greater.
    """
    exact = high / MAX_STEPS - low / MAX_STEPS
    step = _round_step(exact) if exact > sys.float_info.min else 0.0
    while step and abs(low) < step * MAX_WHOLE > abs(high):
        # The quotient of a round number may be a little beside a whole one, as that of 0.3 and 0.1.
        first, last = math.floor(round(low / step, 6)), math.ceil(round(high / step, 6))
        if last - first <= MAX_STEPS:
            texts = [f"{float(f'{number * step:.12g}'):.13g}" for number in range(first, last + 1)]
            return RoundRange(first * step, last * step, texts)
        step = _round_step(step * 1.5)
    return RoundRange(low, high, tick_texts(low, high))


def _round_step(exact: float) -> float:
    """Return 1, 2 or 5 times a power of ten that is at least `exact`."""
    power = 10.0 ** math.floor(math.log10(exact))
    return next(one * power for one in (1, 2, 5, 10) if one * power >= exact)


def tick_texts(low: float, high: float) -> list[str]:
    """Return the texts of `TICKS` numbers at equal distances."""
    unit = 10.0 ** (math.floor(math.log10(high - low)) - 3) if 0 < high - low < math.inf else 0.0
    shares = [one / (TICKS - 1) for one in range(TICKS)]
    numbers = [low * (1 - share) + high * share for share in shares]
    return [f"{round(number / unit) * unit if unit else number:.13g}" for number in numbers]


def count_values(name: str, sets: Iterable[Params]) -> int:
    """Count the different values of a parameter, up to `MAX_COUNTED`."""
    values: set[Hashable] = set()
    for params in sets:
        values.add(_key(params.get(name, _NOT_SET)))
        if len(values) == MAX_COUNTED:
            break
    return len(values)


def _distinct(name: str, sets: Iterable[Params]) -> dict[Hashable, Any]:
    """Return the different values of a parameter, in the order in which they come."""
    values: dict[Hashable, Any] = {}
    for params in sets:
        value = params.get(name, _NOT_SET)
        values.setdefault(_key(value), value)
    return values


def _key(value: object) -> Hashable:
    return _NOT_SET if value is _NOT_SET else category(value)


def _value_text(value: Any, *, as_number: bool) -> str:
    """Return a value as the text of a place."""
    if value is _NOT_SET:
        return "(not set)"
    if as_number:
        return f"{value:g}" if len(f"{value:g}") < len(str(value)) else str(value)
    return cut_to_length(value if isinstance(value, str) else json.dumps(value), MAX_LABEL)


def _edges(low: float, high: float) -> list[float]:
    """Return the ascending edges between at most `BINS` bins of equal width, at round numbers."""
    step = _round_step((high - low) / BINS)
    first = math.floor(low / step) + 1
    edges = [float(f"{one * step:.12g}") for one in range(first, first + BINS)]
    return sorted({edge for edge in edges if low < edge < high}) or [high]


def _name_text(name: str) -> str:
    """Return a name as a condition has it: in quotes, since it may hold an operator."""
    return json.dumps(name, ensure_ascii=False)

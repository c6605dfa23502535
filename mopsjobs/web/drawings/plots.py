"""Draw a scalar over a parameter: a dot per task, and mean and quantiles of the tasks at each value. Pure.

The means of several jobs are drawn over the same axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mopsjobs.app.tasks.results_table import quantile
from mopsjobs.utils.intervals import mean
from mopsjobs.web.drawings.axes import Axis, AxisTexts, round_range

WIDTH = 720
HEIGHT = 320
"""The size of a drawing, in its own units."""

MARGIN = 8
"""Units between the data and the edges."""

MAX_DOTS = 3_000
"""Dots that are drawn. Dots on top of each other are one."""

QUANTILES = (0.1, 0.9)


class Group(NamedTuple):
    """The tasks at one value, or in one bin of values."""

    label: str
    tasks: int
    mean: float
    low: float
    high: float


class Series(NamedTuple):
    """The values of a job: the parameters of each set, and for each task the place of its set and the scalar."""

    sets: Sequence[Mapping[str, Any]] = ()
    set_of: Sequence[int] = ()
    values: Sequence[float] = ()
    """Not a number for a task without the scalar, and infinity for one whose value is NaN or infinite."""


class Line(NamedTuple):
    """The data of the paths of a job, and its statistics as they are drawn."""

    mean: str
    band: str
    dots: str
    """A dot at each mean, or for each task."""
    groups: list[Group]


class Plot(NamedTuple):
    """The drawing: a line per job that has the scalar, and the axes."""

    lines: list[Line | None]
    labels: list[str]
    """Those of the groups of all jobs, in the order of the axis."""
    is_line: bool
    """Whether values in between make sense: means and bands are then joined."""
    x: AxisTexts
    y: AxisTexts
    grid: str
    """A line at each number of `y` but the outer ones."""
    drawn: int
    """Dots for tasks."""
    tasks: int
    """Tasks that have a number to draw."""
    not_finite: int
    """Tasks whose value is NaN or infinite, which no dot and no mean shows."""


def draw(name: str, axis: Axis, series: Sequence[Series], *, with_tasks: bool = False) -> Plot | None:
    """Return the plot of a scalar; None if no task has it.

    Args:
        name: the scalar.
        axis: the parameter, over the sets of all jobs.
        series: the values of each job.
        with_tasks: whether each task is drawn, and not the means only.
    """
    found, seen, not_finite = [], set[int](), 0
    points: list[tuple[float, float]] = []
    for one in series:
        positions, places = [axis.position(params) for params in one.sets], [axis.place(params) for params in one.sets]
        by_place: dict[int, list[tuple[float, float]]] = {}
        for place, value in zip(one.set_of, one.values, strict=True):
            not_finite += math.isinf(value)
            if math.isfinite(value):
                by_place.setdefault(places[place], []).append((positions[place], value))
                points.append((positions[place], value))
        seen.update(by_place)
        found.append([_group(axis.label(place), members) for place, members in sorted(by_place.items())])
    if not points:
        return None
    means = [(centre, group.mean) for groups in found for centre, group in groups]
    across, down = zip(*(points if with_tasks else means), strict=True)
    x = _Scale(across if axis.is_ordered else [-0.5, axis.size - 0.5], MARGIN, WIDTH - MARGIN)
    y = _Scale(down, HEIGHT - MARGIN, MARGIN)
    is_line = axis.is_ordered and len(seen) > 1
    spots = list(dict.fromkeys((round(x.at(left)), round(y.at(top))) for left, top in points)) if with_tasks else []
    shown = spots[:: max(1, math.ceil(len(spots) / MAX_DOTS))]
    dots = "".join(f"M{left} {top}h0" for left, top in shown)
    return Plot(
        lines=[_line(groups, x, y, dots, is_line=is_line) if groups else None for groups in found],
        labels=[axis.label(place) for place in sorted(seen)],
        is_line=is_line,
        x=_x_texts(axis, x, is_each=not is_line, groups=len(seen)),
        y=AxisTexts(name, y.texts[::-1]),
        grid=_grid(y),
        drawn=len(shown),
        tasks=len(points),
        not_finite=not_finite,
    )


def _group(label: str, members: Sequence[tuple[float, float]]) -> tuple[float, Group]:
    """Return the middle of the tasks at a place, and their statistics."""
    ordered = sorted(value for _, value in members)
    low, high = (quantile(ordered, share) for share in QUANTILES)
    centre = mean([position for position, _ in members])
    return centre, Group(label, len(ordered), mean(ordered), low, high)


def _line(groups: Sequence[tuple[float, Group]], x: _Scale, y: _Scale, dots: str, *, is_line: bool) -> Line:
    across = [x.at(centre) for centre, _ in groups]
    down, low, high = ([y.at(value) for value in some] for some in zip(*(one[2:] for _, one in groups), strict=True))
    means = "".join(f"M{left:.1f} {top:.1f}h0" for left, top in zip(across, down, strict=True))
    band = (_band if is_line else _bars)(across, low, high)
    return Line(_means(across, down, is_line=is_line), band, dots or means, [group for _, group in groups])


class _Scale:
    """Maps numbers to units."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        self.low, self.high = min(values), max(values)
        self.texts = [f"{self.low:.4g}"]
        """Numbers at equal distances, from the begin to the end; one if all values are equal."""
        if self.low < self.high:
            self.low, self.high, self.texts = round_range(self.low, self.high)
        self._begin, self._end = begin, end

    def at(self, value: float) -> float:
        """Return the place of a value; the middle if all are equal."""
        if self.low == self.high:
            return (self._begin + self._end) / 2
        return self._begin + (value - self.low) / (self.high - self.low) * (self._end - self._begin)


def _x_texts(axis: Axis, scale: _Scale, *, is_each: bool, groups: int) -> AxisTexts:
    """Return the texts along the axis of a parameter, at each of its places if all of them have values."""
    texts = scale.texts if axis.is_ordered else [axis.label(place) for place in range(axis.size)]
    return AxisTexts(axis.name, texts, each=is_each and len(texts) == groups)


def _grid(scale: _Scale) -> str:
    """Return a line across the drawing at each number of its height but the outer ones."""
    steps = len(scale.texts) - 1
    return "".join(f"M0 {MARGIN + (HEIGHT - 2 * MARGIN) * one / steps:.1f}H{WIDTH}" for one in range(1, steps))


def _means(across: Sequence[float], down: Sequence[float], *, is_line: bool) -> str:
    places = list(zip(across, down, strict=True))
    if is_line:
        return "M" + "L".join(f"{left:.1f} {top:.1f}" for left, top in places)
    return "".join(f"M{left - 12:.1f} {top:.1f}h24" for left, top in places)


def _band(across: Sequence[float], low: Sequence[float], high: Sequence[float]) -> str:
    """Return the area between two lines."""
    there = [f"{left:.1f} {top:.1f}" for left, top in zip(across, high, strict=True)]
    back = [f"{left:.1f} {top:.1f}" for left, top in reversed(list(zip(across, low, strict=True)))]
    return "M" + "L".join([*there, *back]) + "Z"


def _bars(across: Sequence[float], low: Sequence[float], high: Sequence[float]) -> str:
    """Return a rectangle for each value, since there is nothing in between."""
    return "".join(
        f"M{left - 8:.1f} {top:.1f}h16V{max(bottom, top + 1):.1f}h-16Z"
        for left, bottom, top in zip(across, low, high, strict=True)
    )


def plotted(names: Sequence[str], sets: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the parameters that vary between sets; those with numbers only come first."""
    axes = [Axis(name, sets) for name in names]
    varying = [axis for axis in axes if axis.size > 1]
    yield from (axis.name for axis in varying if axis.is_ordered)
    yield from (axis.name for axis in varying if not axis.is_ordered)

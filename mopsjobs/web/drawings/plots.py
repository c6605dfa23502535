"""Draw a scalar over a parameter: a dot per task, and mean and quantiles of the tasks at each value. Pure.

The means of several jobs are drawn over the same axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mopsjobs.app.tasks.replicates import mean, quantile
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


class Plot(NamedTuple):
    """The drawing: data of paths, the axes, and the statistics as they are drawn."""

    dots: str
    mean: str
    band: str
    is_line: bool
    """Whether values in between make sense: means and bands are then joined."""
    x: AxisTexts
    y: AxisTexts
    grid: str
    """A line at each number of `y` but the outer ones."""
    groups: list[Group]
    drawn: int
    tasks: int
    """Tasks that have the scalar."""


def draw(
    name: str, axis: Axis, sets: Sequence[Mapping[str, Any]], set_of: Sequence[int], values: Sequence[float]
) -> Plot | None:
    """Return the plot of a scalar; None if no task has it.

    Args:
        name: the scalar.
        axis: the parameter, over the sets.
        sets: the parameters of each set.
        set_of: for each task, the place of its set.
        values: for each task, the scalar; not a number if it has none.
    """
    positions, places = [axis.position(one) for one in sets], [axis.place(one) for one in sets]
    points = [(place, value) for place, value in zip(set_of, values, strict=True) if not math.isnan(value)]
    if not points:
        return None
    ends = [positions[place] for place, _ in points] if axis.is_ordered else [-0.5, axis.size - 0.5]
    x = _Scale(ends, MARGIN, WIDTH - MARGIN)
    y = _Scale([value for _, value in points], HEIGHT - MARGIN, MARGIN)
    spots = dict.fromkeys((round(x.at(positions[place])), round(y.at(value))) for place, value in points)
    shown = list(spots)[:: max(1, math.ceil(len(spots) / MAX_DOTS))]
    groups, centres = _group(axis, positions, places, points)
    across = [x.at(centre) for centre in centres]
    band = _band if axis.is_ordered and len(groups) > 1 else _bars
    return Plot(
        dots="".join(f"M{left} {top}h0" for left, top in shown),
        mean=_means(across, [y.at(one.mean) for one in groups], is_line=band is _band),
        band=band(across, [y.at(one.low) for one in groups], [y.at(one.high) for one in groups]),
        is_line=band is _band,
        x=_x_texts(axis, x, is_each=band is not _band, groups=len(groups)),
        y=AxisTexts(name, y.texts[::-1]),
        grid=_grid(y),
        groups=groups,
        drawn=len(shown),
        tasks=len(points),
    )


class Series(NamedTuple):
    """The values of a job: the parameters of each set, and for each task the place of its set and the scalar."""

    sets: Sequence[Mapping[str, Any]]
    set_of: Sequence[int]
    values: Sequence[float]


class Line(NamedTuple):
    """The means of a job."""

    path: str
    dots: str
    """A dot at each mean."""
    groups: list[Group]


class LinePlot(NamedTuple):
    """The means of several jobs over the same axes. A job without the scalar has no line."""

    lines: list[Line | None]
    is_line: bool
    x: AxisTexts
    y: AxisTexts
    grid: str
    """A line at each number of `y` but the outer ones."""


def draw_means(name: str, axis: Axis, series: Sequence[Series]) -> LinePlot | None:
    """Return the means of a scalar of several jobs; None if no task has it.

    Args:
        name: the scalar.
        axis: the parameter, over the sets of all jobs.
        series: the values of each job.
    """
    found = []
    for one in series:
        positions, places = [axis.position(params) for params in one.sets], [axis.place(params) for params in one.sets]
        points = [(place, value) for place, value in zip(one.set_of, one.values, strict=True) if not math.isnan(value)]
        found.append(_group(axis, positions, places, points))
    centres = [centre for _, of_one in found for centre in of_one]
    if not centres:
        return None
    x = _Scale(centres if axis.is_ordered else [-0.5, axis.size - 0.5], MARGIN, WIDTH - MARGIN)
    y = _Scale([group.mean for groups, _ in found for group in groups], HEIGHT - MARGIN, MARGIN)
    is_line = axis.is_ordered and axis.size > 1
    lines = []
    for groups, of_one in found:
        across, down = [x.at(centre) for centre in of_one], [y.at(group.mean) for group in groups]
        dots = "".join(f"M{left:.1f} {top:.1f}h0" for left, top in zip(across, down, strict=True))
        lines.append(Line(_means(across, down, is_line=is_line), dots, groups) if groups else None)
    labels = {group.label for groups, _ in found for group in groups}
    x_texts = _x_texts(axis, x, is_each=not is_line, groups=len(labels))
    return LinePlot(lines, is_line, x_texts, AxisTexts(name, y.texts[::-1]), _grid(y))


def _group(
    axis: Axis, positions: Sequence[float], places: Sequence[int], points: Sequence[tuple[int, float]]
) -> tuple[list[Group], list[float]]:
    """Return the statistics of the tasks at each place of an axis, and where their middle is.

    Args:
        axis: the parameter.
        positions: where each set is.
        places: the place of each set.
        points: for each task, the place of its set among all sets, and the scalar.
    """
    by_place: dict[int, list[tuple[float, float]]] = {}
    for place, value in points:
        by_place.setdefault(places[place], []).append((positions[place], value))
    groups, centres = [], []
    for place, members in sorted(by_place.items()):
        ordered = sorted(value for _, value in members)
        low, high = (quantile(ordered, share) for share in QUANTILES)
        groups.append(Group(axis.label(place), len(ordered), mean(ordered), low, high))
        centres.append(mean([position for position, _ in members]))
    return groups, centres


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

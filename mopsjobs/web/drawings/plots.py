"""Draw a scalar over a parameter: dots of tasks, mean and quantiles at each value, bands where tasks failed. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, repeat
from typing import Any, NamedTuple

from mopsjobs.app.tasks.results_table import quantile
from mopsjobs.utils.intervals import mean
from mopsjobs.web.drawings.axes import Axis, AxisTexts, round_range

WIDTH = 720
HEIGHT = 320
"""The size of a drawing, in its own units."""

MARGIN = 8
"""Units between the data and the edges."""

MAX_DOTS = 500
"""Dots that are drawn, each a link. Dots on top of each other are one."""

FEW = 10
"""Values of a parameter up to which the axis has the text of each, where it lies."""

BAND_WIDTH = 0.7
"""The width of a band, as a share of the distance to the next value."""

LETTER, GAP = 2.5, 2.5
"""The width of a letter below an axis and the least gap between two texts, in per cent of a narrow drawing."""

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
    tasks: Sequence[int] = ()
    """The number of each task; empty if only means are drawn."""
    failed: Sequence[bool] = ()
    """Whether each task failed; empty if failed tasks are not drawn."""


class Dot(NamedTuple):
    """A task in the drawing."""

    x: int
    y: int
    task: int
    value: float


class Band(NamedTuple):
    """The part of the axis where tasks failed."""

    label: str
    failed: int
    tasks: int
    path: str

    @property
    def opacity(self) -> float:
        """Return how strong it is drawn: the more of the tasks have failed, the stronger."""
        return round(0.2 + 0.6 * self.failed / self.tasks, 2)


class Plot(NamedTuple):
    """The drawing: data of paths, the axes, and the statistics as they are drawn."""

    mean: str
    band: str
    labels: list[str]
    """Those of the groups and bands, in the order of the axis."""
    groups: list[Group]
    x: AxisTexts
    y: AxisTexts
    grid: str
    """A line at each number of `y` but the outer ones."""
    dots: list[Dot]
    tasks: int
    """Tasks that have a number to draw."""
    not_finite: int
    """Tasks whose value is NaN or infinite, which no dot and no mean shows."""
    failed: list[Band]

    def rows(self) -> list[tuple[str, Group | None, int]]:
        """Return the statistics: each label with its group, if it has one, and how many tasks failed."""
        groups = {group.label: group for group in self.groups}
        failed = {band.label: band.failed for band in self.failed}
        return [(label, groups.get(label), failed.get(label, 0)) for label in self.labels]


def draw(name: str, axis: Axis, series: Series) -> Plot | None:
    """Return the plot of a scalar over a parameter; None if no task has it."""
    positions = [axis.position(params) for params in series.sets]
    places = [axis.place(params) for params in series.sets]
    points: list[tuple[float, float, int]] = []
    at: dict[int, list[float]] = {}
    by_place: dict[int, list[tuple[float, float]]] = {}
    tasks, failed = Counter[int](), Counter[int]()
    numbers, has_failed = series.tasks or repeat(-1), series.failed or repeat(False)
    for of, value, number, is_failed in zip(series.set_of, series.values, numbers, has_failed, strict=False):
        place, position = places[of], positions[of]
        tasks[place] += 1
        if math.isfinite(value):
            by_place.setdefault(place, []).append((position, value))
            points.append((position, value, number))
        elif is_failed:
            failed[place] += 1
        else:
            continue
        at.setdefault(place, []).append(position)
    if not points:
        return None
    centres = {place: mean(at[place]) for place in sorted(at)}
    groups = [_group(axis.label(place), members) for place, members in sorted(by_place.items())]
    x, texts = _across(axis, at, centres, with_tasks=bool(series.tasks))
    y = _Scale([value for _, value, _ in points], HEIGHT - MARGIN, MARGIN)
    across = [x.at(centre) for centre, _ in groups]
    down, low, high = ([y.at(value) for value in some] for some in zip(*(one[2:] for _, one in groups), strict=True))
    is_line = axis.is_ordered and len(centres) > 1  # values in between make sense
    return Plot(
        mean=_means(across, down, is_line=is_line),
        band=(_band if is_line else _bars)(across, low, high),
        labels=[axis.label(place) for place in centres],
        groups=[group for _, group in groups],
        x=texts,
        y=AxisTexts(name, y.texts[::-1]),
        grid=_grid(y),
        dots=_dots(points, x, y) if series.tasks else [],
        tasks=len(points),
        not_finite=sum(map(math.isinf, series.values)),
        failed=[
            Band(axis.label(place), failed[place], tasks[place], path)
            for place, path in zip(centres, _columns([x.at(one) for one in centres.values()]), strict=True)
            if failed[place]
        ],
    )


class Means(NamedTuple):
    """The means of jobs over the same axes."""

    paths: list[str]
    """That of each job; empty for one without the scalar."""
    x: AxisTexts
    y: AxisTexts
    grid: str


def draw_means(name: str, axis: Axis, jobs: Sequence[Series]) -> Means | None:
    """Return the means of a scalar of jobs over a parameter of all their sets; None if no task has it."""
    found: list[dict[int, list[tuple[float, float]]]] = [{} for _ in jobs]
    at: dict[int, list[float]] = {}
    for by_place, series in zip(found, jobs, strict=True):
        spots = [(axis.place(params), axis.position(params)) for params in series.sets]
        for of, value in zip(series.set_of, series.values, strict=True):
            if math.isfinite(value):
                by_place.setdefault(spots[of][0], []).append((spots[of][1], value))
                at.setdefault(spots[of][0], []).append(spots[of][1])
    if not at:
        return None
    centres = {place: mean(at[place]) for place in sorted(at)}
    x, texts = _across(axis, at, centres, with_tasks=False)
    lines = [[_group("", members) for _, members in sorted(by_place.items())] for by_place in found]
    y = _Scale([group.mean for line in lines for _, group in line], HEIGHT - MARGIN, MARGIN)
    is_line = axis.is_ordered and len(centres) > 1
    return Means(
        [
            _means([x.at(centre) for centre, _ in line], [y.at(group.mean) for _, group in line], is_line=is_line)
            if line
            else ""
            for line in lines
        ],
        texts,
        AxisTexts(name, y.texts[::-1]),
        _grid(y),
    )


def _dots(points: Sequence[tuple[float, float, int]], x: _Scale, y: _Scale) -> list[Dot]:
    """Return a dot for each task, or for some of many at equal distances."""
    spots: dict[tuple[int, int], Dot] = {}
    for left, value, task in points:
        spot = round(x.at(left)), round(y.at(value))
        spots.setdefault(spot, Dot(*spot, task, value))
    return list(spots.values())[:: max(1, math.ceil(len(spots) / MAX_DOTS))]


def _across(
    axis: Axis, at: Mapping[int, Sequence[float]], centres: Mapping[int, float], *, with_tasks: bool
) -> tuple[_Scale, AxisTexts]:
    """Return the scale of the parameter and its texts: each where its value lies, or at the places of categories."""
    if not axis.is_ordered:
        texts = [axis.label(place) for place in range(axis.size)]
        scale = _Scale([-0.5, axis.size - 0.5], MARGIN, WIDTH - MARGIN)
        return scale, AxisTexts(axis.name, texts, each=len(centres) == len(texts))
    is_few = axis.is_exact and len(centres) <= FEW
    values = [one for some in at.values() for one in some] if with_tasks else list(centres.values())
    scale = _Scale(values, MARGIN, WIDTH - MARGIN, is_rounded=not is_few)
    if is_few:
        found = [(axis.label(place), scale.at(centre)) for place, centre in centres.items()]
    else:
        step = (WIDTH - 2 * MARGIN) / max(1, len(scale.texts) - 1)
        found = [(text, MARGIN + step * number) for number, text in enumerate(scale.texts)]
    return scale, AxisTexts(axis.name, *_with_room([(text, 100 * place / WIDTH) for text, place in found]))


def _with_room(texts: Sequence[tuple[str, float]]) -> tuple[list[str], bool, list[float]]:
    """Return the texts that do not lie on top of each other in a narrow drawing, and their places in per cent."""
    kept: list[tuple[str, float]] = []
    end = -math.inf
    for text, place in texts:
        half = LETTER * len(text) / 2
        if place - half >= end + GAP:
            kept.append((text, round(place, 2)))
            end = place + half
    return [text for text, _ in kept], False, [place for _, place in kept]


def _columns(across: Sequence[float]) -> list[str]:
    """Return a rectangle of the whole height around each place, as wide as the distance to the nearest next one."""
    gaps = [right - left for left, right in pairwise(across)]
    half = BAND_WIDTH / 2 * min(gaps, default=WIDTH / 4)
    half = max(half, 2)
    return [f"M{max(left - half, 0):.1f} 0V{HEIGHT}H{min(left + half, WIDTH):.1f}V0Z" for left in across]


def _group(label: str, members: Sequence[tuple[float, float]]) -> tuple[float, Group]:
    """Return the middle of the tasks at a place, and their statistics."""
    ordered = sorted(value for _, value in members)
    low, high = (quantile(ordered, share) for share in QUANTILES)
    centre = mean([position for position, _ in members])
    return centre, Group(label, len(ordered), mean(ordered), low, high)


class _Scale:
    """Maps numbers to units."""

    def __init__(self, values: Sequence[float], begin: float, end: float, *, is_rounded: bool = True) -> None:
        self.low, self.high = min(values), max(values)
        self.texts = [f"{self.low:.4g}"]
        """Numbers at equal distances, from the begin to the end; one if all values are equal."""
        if self.low < self.high and is_rounded:
            self.low, self.high, self.texts = round_range(self.low, self.high)
        self._begin, self._end = begin, end

    def at(self, value: float) -> float:
        """Return the place of a value; the middle if all are equal."""
        if self.low == self.high:
            return (self._begin + self._end) / 2
        return self._begin + (value - self.low) / (self.high - self.low) * (self._end - self._begin)


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

"""Lay out the tasks of a job over the parameters that vary, as runs of equal cells: one path per status. Pure.

A cell is a pair of values. Its tasks lie side by side within it, the failed ones first: replicates, and the values of
all other parameters. 10,000 tasks take at most 15 KB, compressed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from mopsjobs.cache.queries.task_filters import MISSING, WAITING
from mopsjobs.errors import UsageError, shorten
from mopsjobs.ledger.attempt import FAILED_OUTCOMES, Outcome
from mopsjobs.utils.text import pluralize, strip_control_characters
from mopsjobs.web.drawings.axes import Axis, Params, count_values
from mopsjobs.web.queries.view_models import CLASSES

MAX_UNITS = 24
"""Parts of a cell's width. More tasks in it are drawn as shares."""

MAX_COMPARED = 200

FAILED = "failed"

KINDS = (FAILED, str(Outcome.SUCCEEDED), str(Outcome.CANCELLED), MISSING, WAITING)
"""What is told apart, in the order within a cell. `failed` is any end that failed."""

KIND_OF = {name: place for place, name in enumerate(KINDS)} | dict.fromkeys(FAILED_OUTCOMES, 0)
KIND_OF[str(Outcome.PREEMPTED)] = KIND_OF[MISSING]

Cell = tuple[int, int]
"""A column and a row, the first at the top; or how many of these there are."""

Counts = list[int]
"""Tasks by kind, in the order of `KINDS`."""


class SetTasks(NamedTuple):
    """The tasks of a parameter set: the kind of each, as its place in `KINDS`."""

    params: Params
    kinds: list[int]


class HeatMap(NamedTuple):
    """The drawing of a map: its size in units and rows, and its parts."""

    width: int
    height: int
    columns: int
    x: Axis
    y: Axis | None
    paths: list[tuple[str, str]]
    """Kind and data of a path for each kind."""
    counts: dict[str, int]
    cells: dict[Cell, Counts]
    """Tasks by column and row, the first row at the top."""


class Axes(NamedTuple):
    """The parameters of the axes: across, and up."""

    x: str | None = None
    y: str | None = None


NO_CHOICE = Axes()


def choose_axes(
    varying: Sequence[str], sets: Sequence[SetTasks], preferred: Sequence[str], chosen: Axes = NO_CHOICE
) -> Axes:
    """Return the parameters of the axes.

    Those that the user has chosen, then those that failures depend on, then those with the most values.

    Args:
        varying: the parameters that vary.
        sets: the parameter sets.
        preferred: names that come first, if they vary.
        chosen: the choice of the user.

    Raises:
        UsageError: if a chosen parameter does not vary.
    """
    by_shown = {strip_control_characters(name): name for name in reversed(varying)}  # a form sends what it shows
    chosen = Axes(*(name if name in varying else by_shown.get(name or "", name) for name in chosen))
    for name in chosen:
        if name is not None and name not in varying:
            raise UsageError(f"invalid parameter '{shorten(name, 100)}': expected one that varies in this job.")
    counts = {name: count_values(name, (one.params for one in sets)) for name in varying[:MAX_COMPARED]}
    places = {name: place for place, name in enumerate(counts)}
    liked = [name for name in preferred if name in places]
    ranked = sorted(counts, key=lambda name: (name not in liked, -counts[name], places[name]))
    free = [name for name in ranked if name not in chosen]
    x, y = chosen
    if x is None and y is None:
        first = sorted(free[:2], key=lambda name: (-counts[name], places[name]))
        return Axes(*[*first, None, None][:2])
    others = iter(free)
    x = next(others, y) if x is None else x
    return Axes(x, (next(others, None) if y is None else y) if y != x else None)


def lay_out(sets: Sequence[SetTasks], axes: Axes) -> HeatMap:
    """Return the map of some parameter sets, of which there is at least one, over the parameters of the axes."""
    x = Axis(str(axes.x), (one.params for one in sets))
    y = None if axes.y is None else Axis(axes.y, (one.params for one in sets))
    cells, size = _cells(sets, x, y)
    units = min(max(map(sum, cells.values())), MAX_UNITS)
    paths = _draw(cells, size, units)
    total = {kind: sum(counts[place] for counts in cells.values()) for place, kind in enumerate(KINDS)}
    return HeatMap(
        width=size[0] * units,
        height=size[1],
        columns=size[0],
        x=x,
        y=y,
        paths=[(kind, paths[kind]) for kind in reversed(KINDS) if kind in paths],
        counts={kind: count for kind, count in total.items() if count},
        cells=cells,
    )


def _cells(sets: Sequence[SetTasks], x: Axis, y: Axis | None) -> tuple[dict[Cell, Counts], Cell]:
    """Return the tasks by column and row, and how many of these there are."""
    cells: dict[Cell, Counts] = {}
    for one in sets:
        counts = cells.setdefault(
            (x.place(one.params), 0 if y is None else _row(y, y.place(one.params))), [0] * len(KINDS)
        )
        for kind in one.kinds:
            counts[kind] += 1
    return cells, (x.size, 1 if y is None else y.size)


def _row(y: Axis, place: int) -> int:
    """Return the row of a place, from the top. Numbers grow upwards."""
    return y.size - 1 - place if y.is_ordered else place


def _draw(cells: Mapping[Cell, Counts], size: Cell, units: int) -> dict[str, str]:
    """Return the data of a path for each kind: its runs, each one unit high."""
    runs: dict[str, list[list[int]]] = {}
    for row in range(size[1]):
        for column in range(size[0]):
            for kind, left, right in _parts(cells.get((column, row), ()), units):
                of_kind, begin = runs.setdefault(kind, [[-1, 0, 0]]), column * units + left
                if of_kind[-1][::2] == [row, begin]:
                    of_kind[-1][2] = column * units + right
                else:
                    of_kind.append([row, begin, column * units + right])
    return {
        kind: "".join(  # relative to the last run of the row, as that takes the fewest characters
            (f"M{begin} {row}" if row != before else f"m{begin - x} 0") + f"h{end - begin}"
            for (before, _, x), (row, begin, end) in pairwise(of_kind)
        )
        for kind, of_kind in runs.items()
    }


def _parts(counts: Sequence[int], units: int) -> Iterator[tuple[str, int, int]]:
    """Yield the parts of a cell: kind, left end and right end in units. A part that has tasks is seen."""
    total, seen, left = sum(counts), 0, 0
    kinds = [place for place, count in enumerate(counts) if count]
    for number, place in enumerate(kinds, 1):
        seen += counts[place]
        right = round(seen / total * units)
        right = max(left + 1, min(right, units - (len(kinds) - number)))
        if right > units:  # more kinds than units
            return
        yield KINDS[place], left, right
        left = right


SHOWN_TICKS = 10
"""Places of an axis up to which each has its text."""

MAX_LINKS = 400
"""Cells of a map up to which each is a link."""


class CellLink(NamedTuple):
    """The link of a cell to its tasks."""

    words: str
    to: str
    left: int
    row: int


def map_values(heat_map: HeatMap, axes: Axes, to_tasks: Callable[[Sequence[str]], str]) -> dict[str, Any]:
    """Return what the template needs of a map.

    Args:
        heat_map: the map.
        axes: the parameters of its axes.
        to_tasks: the address of tasks that meet conditions.
    """
    x, y = _axis(axes.x, heat_map.x, is_up=False), _axis(axes.y, heat_map.y, is_up=True)
    names = " and ".join(axis["name"] for axis in (x, y) if axis is not None)
    return {
        "drawn": heat_map,
        "words": f"Tasks by {names}; the counts are in the table of parameter sets",
        "paths": [(CLASSES[kind], kind, data) for kind, data in heat_map.paths if kind in CLASSES],
        "grid": _grid(heat_map),
        "x": x,
        "y": y,
        "counts": [(CLASSES.get(kind, "pending"), kind, count) for kind, count in heat_map.counts.items()],
        "size": "low" if heat_map.height <= 3 else "middle" if heat_map.height <= 12 else "high",
        "cells": _links(heat_map, to_tasks),
        "unit": heat_map.width // heat_map.columns,
    }


def _links(heat_map: HeatMap, to_tasks: Callable[[Sequence[str]], str]) -> list[CellLink]:
    """Return the links of the cells of a small map over parameters."""
    x, y = heat_map.x, heat_map.y
    if len(heat_map.cells) > MAX_LINKS:
        return []
    units, found = heat_map.width // heat_map.columns, []
    for (column, row), counts in heat_map.cells.items():
        name, conditions = f"{x.name} {x.label(column)}", x.conditions(column)
        if y is not None:
            place = _row(y, row)
            name, conditions = f"{name}, {y.name} {y.label(place)}", [*conditions, *y.conditions(place)]
        words = f"{name}: {counts[0]:,} of {pluralize(sum(counts), 'task')} failed"
        found.append(CellLink(words, to_tasks(conditions), column * units, row))
    return found


def _axis(name: str | None, axis: Axis | None, *, is_up: bool) -> dict[str, Any] | None:
    """Return the name and the texts of an axis: of each place, or of some at equal distances."""
    if axis is None:
        return None
    each = axis.size <= SHOWN_TICKS
    ticks = [axis.label(place) for place in range(axis.size)] if each else axis.ticks()
    return {"name": name, "each": each, "ticks": ticks[::-1] if is_up and axis.is_ordered else ticks}


def _grid(heat_map: HeatMap) -> str:
    """Return the lines between the cells of a small map."""
    if heat_map.columns > 40 or heat_map.height > 40:
        return ""
    units = heat_map.width // heat_map.columns
    across = "".join(f"M{place * units}-.5V{heat_map.height - 0.5}" for place in range(1, heat_map.columns))
    return across + "".join(f"M0 {row - 0.5}H{heat_map.width}" for row in range(1, heat_map.height))

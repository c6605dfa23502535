"""Lay out the tasks of a job over the parameters that vary, as runs of equal cells: one path per status. Pure.

A cell is a pair of values. Its tasks lie side by side within it, the failed ones first: replicates, and the values of
all other parameters. 10,000 tasks take at most 15 KB, compressed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mopsjobs.cache.queries.task_filters import MISSING, WAITING, parse_condition
from mopsjobs.errors import UsageError, shorten
from mopsjobs.ledger.attempt import FAILED_OUTCOMES, Outcome
from mopsjobs.utils.text import pluralize, strip_control_characters
from mopsjobs.web.drawings.axes import Axis, Params, count_values
from mopsjobs.web.queries.view_models import CLASSES

MAX_UNITS = 24
"""Parts of a cell's width. More tasks in it are drawn as shares."""

MAX_ROWS_OF_REPLICATES = 60

MAX_REGIONS = 12
"""Regions of failed tasks that are links, the largest ones."""

MAX_COMPARED = 200

FAILED = "failed"

KINDS = (FAILED, str(Outcome.SUCCEEDED), str(Outcome.CANCELLED), MISSING, WAITING)
"""What is told apart, in the order within a cell. `failed` is any end that failed."""

KIND_OF = {name: place for place, name in enumerate(KINDS)} | dict.fromkeys(FAILED_OUTCOMES, 0)
KIND_OF[str(Outcome.PREEMPTED)] = KIND_OF[MISSING]

Cell = tuple[int, int]
"""A column and a row; or places on both axes."""

Counts = list[int]
"""Tasks by kind, in the order of `KINDS`."""


class SetTasks(NamedTuple):
    """The tasks of a parameter set: the kind of each, as its place in `KINDS`."""

    params: Params
    kinds: list[int]


class Region(NamedTuple):
    """A part of the parameters in which many tasks failed. Its counts are of all tasks that meet its conditions."""

    failed: int
    tasks: int
    first: tuple[int, int]
    """The left and the top end of the rectangle around its failed tasks, in units and rows."""
    size: tuple[int, int]
    conditions: list[str]
    """Those that select its parameter sets, as `tasks --param` reads them."""
    ranges: list[tuple[str, str]]
    """The same in words: each parameter with the text of its range."""
    path: str


class HeatMap(NamedTuple):
    """The drawing of a map: its size in units and rows, and its parts."""

    width: int
    height: int
    columns: int
    x: Axis
    y: Axis | None
    paths: list[tuple[str, str]]
    """Kind and data of a path for each kind, without the regions."""
    regions: list[Region]
    elsewhere: int
    """Failed tasks in none of the regions."""
    counts: dict[str, int]
    cells: dict[tuple[int, int], Counts]
    """Tasks by column and row, the first row at the top."""


class Axes(NamedTuple):
    """The parameters of the axes: across, and up."""

    x: str | None = None
    y: str | None = None


NO_CHOICE = Axes()


def sets_of(tasks: Iterable[tuple[Params, str]]) -> list[SetTasks]:
    """Gather tasks by parameter set.

    Args:
        tasks: parameters and outcome of each. Those of one set are next to each other, and share one mapping.
    """
    sets: list[SetTasks] = []
    for params, outcome in tasks:
        if not sets or sets[-1].params is not params:
            sets.append(SetTasks(params, []))
        sets[-1].kinds.append(KIND_OF[outcome])
    return sets


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


def lay_out(sets: Sequence[SetTasks], axes: Axes, known: Sequence[Sequence[tuple[str, str, str]]] = ()) -> HeatMap:
    """Return the map of some parameter sets, of which there is at least one.

    With one parameter, each row is a replicate if there are few.

    Args:
        sets: the parameter sets.
        axes: the parameters of the axes, of which there is one across.
        known: what separates failed tasks from others, as `split_condition` returns it. Those are the regions of which
            the axes have all parameters.
    """
    x = Axis(str(axes.x), (one.params for one in sets))
    y = None if axes.y is None else Axis(axes.y, (one.params for one in sets))
    cells, size = _cells(sets, x, y)
    most = max(sum(counts) for counts in cells.values())
    units = min(most, MAX_UNITS)
    regions, elsewhere = _regions(sets, known, x, y, cells)
    paths = _draw(cells, size, units, {cell: place for place, (_, marked) in enumerate(regions) for cell in marked})
    total = Counter({kind: sum(counts[place] for counts in cells.values()) for place, kind in enumerate(KINDS)})
    return HeatMap(
        width=size[0] * units,
        height=size[1],
        columns=size[0],
        x=x,
        y=y,
        paths=[(kind, paths[kind, None]) for kind in reversed(KINDS) if (kind, None) in paths],
        regions=[
            one._replace(
                first=(one.first[0] * units, one.first[1]),
                size=(one.size[0] * units, one.size[1]),
                path=paths.get((FAILED, place), ""),
            )
            for place, (one, _) in enumerate(regions)
        ],
        elsewhere=elsewhere,
        counts={kind: total[kind] for kind in KINDS if total[kind]},
        cells=cells,
    )


def _cells(sets: Sequence[SetTasks], x: Axis, y: Axis | None) -> tuple[dict[tuple[int, int], Counts], Any]:
    """Return the tasks by column and row, and how many of these there are."""
    cells: dict[tuple[int, int], Counts] = {}

    def add(column: int, row: int, kind: int) -> None:
        cells.setdefault((column, row), [0] * len(KINDS))[kind] += 1

    if y is not None:
        for one in sets:
            for kind in one.kinds:
                add(*_place(one.params, x, y), kind)
        return cells, (x.size, y.size)
    in_column: Counter[int] = Counter()
    for one in sets:
        in_column[x.place(one.params)] += len(one.kinds)
    rows = max(in_column.values()) if x.is_exact else 1
    rows = rows if rows <= MAX_ROWS_OF_REPLICATES else 1
    filled: Counter[int] = Counter()
    for one in sets:
        column = x.place(one.params)
        for kind in one.kinds:
            add(column, filled[column] % rows, kind)
            filled[column] += 1
    return cells, (x.size, rows)


def _row(y: Axis, place: int) -> int:
    """Return the row of a place, from the top. Numbers grow upwards."""
    return y.size - 1 - place if y.is_ordered else place


def _draw(
    cells: Mapping[tuple[int, int], Counts],
    size: tuple[int, int],
    units: int,
    region_of: Mapping[tuple[int, int], int],
) -> dict[tuple[str, int | None], str]:
    """Return the data of a path for each kind, and for the failed tasks of each region."""
    paths: dict[tuple[str, int | None], _Path] = {}
    for row in range(size[1]):
        for column in range(size[0]):
            counts = cells.get((column, row))
            if counts is None:
                continue
            begin = column * units
            for kind, left, right in _parts(counts, units):
                region = region_of.get((column, row)) if kind == FAILED else None
                paths.setdefault((kind, region), _Path()).add(row, begin + left, begin + right)
    return {key: path.data() for key, path in paths.items()}


def _parts(counts: Counts, units: int) -> Iterator[tuple[str, int, int]]:
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


class _Path:
    """The data of a path of horizontal lines, one unit high."""

    def __init__(self) -> None:
        self._runs: list[list[int]] = []

    def add(self, row: int, begin: int, end: int) -> None:
        """Add a run to the right of those in its row."""
        last = self._runs[-1] if self._runs else None
        if last is not None and last[0] == row and last[2] == begin:
            last[2] = end
        else:
            self._runs.append([row, begin, end])

    def data(self) -> str:
        """Return the data: relative to the last run, as that takes the fewest characters."""
        texts, row_before, x = [], None, 0
        for row, begin, end in self._runs:
            texts.append(f"M{begin} {row}" if row != row_before else f"m{begin - x} 0")
            texts.append(f"h{end - begin}")
            row_before, x = row, end
        return "".join(texts)


def _regions(
    sets: Sequence[SetTasks],
    known: Sequence[Sequence[tuple[str, str, str]]],
    x: Axis,
    y: Axis | None,
    cells: Mapping[Cell, Counts],
) -> tuple[list[tuple[Region, set[Cell]]], int]:
    """Return the known conditions whose parameters the axes have, each once, with the cells with failed tasks.

    Those in which no more tasks failed than usual are left out: the axes show tasks that failed for other reasons too.

    Returns:
        The regions, still without paths, and how many failed tasks are in none of them.
    """
    found: dict[tuple[str, ...], tuple[Region, set[Cell]]] = {}
    covered = set[int]()
    failed, tasks = _count(sets)
    names = [axis.name for axis in (x, y) if axis is not None]
    for parts in known:
        texts = tuple("".join(part) for part in parts)
        conditions = list(map(parse_condition, texts))
        if texts in found or not all(one.name in names for one in conditions):
            continue
        inside = [place for place, one in enumerate(sets) if all(each.holds(one.params) for each in conditions)]
        count, of = _count([sets[place] for place in inside])
        if not count or not (count * tasks > failed * of or count == of or len(cells) == 1):
            continue
        covered.update(inside)
        places = {_place(sets[place].params, x, y) for place in inside if 0 in sets[place].kinds}
        marked = {
            (column, row) for column, row in cells if cells[column, row][0] and (column, row if y else 0) in places
        }
        ranges = [(one.name, f"{sign} {value}") for one, (_, sign, value) in zip(conditions, parts, strict=True)]
        columns, rows = ([cell[axis] for cell in marked] for axis in (0, 1))
        size = (max(columns) - min(columns) + 1, max(rows) - min(rows) + 1)
        found[texts] = Region(count, of, (min(columns), min(rows)), size, list(texts), ranges, ""), marked
    ordered = sorted(found.values(), key=lambda one: -one[0].failed)[:MAX_REGIONS]
    return ordered, _count([one for place, one in enumerate(sets) if place not in covered])[0]


def _place(params: Params, x: Axis, y: Axis | None) -> Cell:
    """Return the column and the row of a parameter set."""
    return x.place(params), 0 if y is None else _row(y, y.place(params))


def _count(sets: Sequence[SetTasks]) -> tuple[int, int]:
    """Return how many tasks of some sets failed, and how many there are."""
    return sum(one.kinds.count(0) for one in sets), sum(len(one.kinds) for one in sets)


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


ToTasks = Callable[[Sequence[str]], str]


def map_values(heat_map: HeatMap, axes: Axes, to_tasks: ToTasks, to_failed: ToTasks) -> dict[str, Any]:
    """Return what the template needs of a map.

    Args:
        heat_map: the map.
        axes: the parameters of its axes.
        to_tasks: the address of tasks that meet conditions.
        to_failed: that of the failed ones of them.
    """
    x, y = _axis(axes.x, heat_map.x, is_up=False), _axis(axes.y, heat_map.y, is_up=True)
    if y is None and heat_map.height > 1:
        y = {"name": "replicates", "each": False, "ticks": []}
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
        "regions": [(one, to_failed(one.conditions)) for one in heat_map.regions],
    }


def _links(heat_map: HeatMap, to_tasks: ToTasks) -> list[CellLink]:
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

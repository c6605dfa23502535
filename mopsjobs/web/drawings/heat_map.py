"""Lay out the tasks of a job over the parameters that vary, as runs of equal cells: one path per status. Pure.

A cell is a pair of values. Its tasks lie side by side within it, the failed ones first: replicates, and the values of
all other parameters. 10,000 tasks take at most 15 KB, compressed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import ceil, sqrt
from typing import Any, NamedTuple

from mopsjobs.cache.queries.task_filters import MISSING, WAITING, Condition, parse_condition
from mopsjobs.errors import UsageError, shorten
from mopsjobs.ledger.attempt import FAILED_OUTCOMES, Outcome
from mopsjobs.utils.text import strip_control_characters
from mopsjobs.web.drawings.axes import MAX_PLACES, Axis, Params, count_values

MAX_UNITS = 24
"""Parts of a cell's width. More tasks in it are drawn as shares."""

MAX_ROWS_OF_REPLICATES = 60

MAX_REGIONS = 12
"""Regions of failed tasks that are links, the largest ones."""

MAX_CELLS = 150
"""Cells of a table that has a row and a column per place. A larger one has the places of each axis."""

MAX_COMPARED = 200
"""Parameters that are considered for an axis."""

FAILED = "failed"

KINDS = (FAILED, str(Outcome.SUCCEEDED), str(Outcome.CANCELLED), MISSING, WAITING)
"""What is told apart, in the order within a cell. `failed` is any end that failed."""

_KIND_OF = {name: place for place, name in enumerate(KINDS)} | dict.fromkeys(FAILED_OUTCOMES, 0)

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
    x: Axis | None
    y: Axis | None
    paths: list[tuple[str, str]]
    """Kind and data of a path for each kind, without the regions."""
    regions: list[Region]
    elsewhere: int
    """Failed tasks in none of the regions."""
    counts: dict[str, int]
    """All tasks by kind."""
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
        sets[-1].kinds.append(_KIND_OF[outcome])
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
    x = next(others, None) if x is None else x
    return Axes(x, (next(others, None) if y is None else y) if y != x else None)


def lay_out(sets: Sequence[SetTasks], axes: Axes, known: Sequence[Sequence[tuple[str, str, str]]] = ()) -> HeatMap:
    """Return the map of some parameter sets, of which there is at least one.

    With one parameter, each row is a replicate if there are few. Without one, tasks follow each other in rows.

    Args:
        sets: the parameter sets.
        axes: the parameters of the axes.
        known: what separates failed tasks from others, as `split_condition` returns it. Those are the regions of which
            the axes have all parameters.
    """
    x, y = (None if name is None else Axis(name, (one.params for one in sets)) for name in axes)
    cells, size = _cells(sets, x, y)
    most = max(sum(counts) for counts in cells.values())
    units = min(most, MAX_UNITS)
    counted, elsewhere = _count_spans(sets, _spans(known, axes), x, y, cells)
    region_of = {cell: place for place, (*_, inside) in enumerate(counted) for cell in inside}
    paths = _draw(cells, size, units, region_of)
    total = Counter({kind: sum(counts[place] for counts in cells.values()) for place, kind in enumerate(KINDS)})
    return HeatMap(
        width=size[0] * units,
        height=size[1],
        columns=size[0],
        x=x,
        y=y,
        paths=[(kind, paths[kind, None]) for kind in reversed(KINDS) if (kind, None) in paths],
        regions=[_region(*one, units, paths.get((FAILED, place), "")) for place, one in enumerate(counted)],
        elsewhere=elsewhere,
        counts={kind: total[kind] for kind in KINDS if total[kind]},
        cells=cells,
    )


def _cells(sets: Sequence[SetTasks], x: Axis | None, y: Axis | None) -> tuple[dict[tuple[int, int], Counts], Any]:
    """Return the tasks by column and row, and how many of these there are."""
    cells: dict[tuple[int, int], Counts] = {}

    def add(column: int, row: int, kind: int) -> None:
        cells.setdefault((column, row), [0] * len(KINDS))[kind] += 1

    if x is None:
        kinds = [kind for one in sets for kind in one.kinds]
        columns = min(MAX_PLACES, ceil(sqrt(4 * len(kinds))))
        for place, kind in enumerate(kinds):
            add(place % columns, place // columns, kind)
        return cells, (columns, ceil(len(kinds) / columns))
    if y is not None:
        for one in sets:
            column, row = x.place(one.params), _row(y, y.place(one.params))
            for kind in one.kinds:
                add(column, row, kind)
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


class _Span(NamedTuple):
    """A part of the parameters: what a sentence says of it, and which parameter sets it holds for."""

    texts: list[str]
    ranges: list[tuple[str, str]]
    conditions: list[Condition]

    def holds(self, params: Params) -> bool:
        """Return whether the sentence is true of a parameter set."""
        return all(one.holds(params) for one in self.conditions)


def _spans(known: Sequence[Sequence[tuple[str, str, str]]], axes: Axes) -> list[_Span]:
    """Return the known conditions whose parameters the axes have, each once."""
    spans: dict[tuple[str, ...], _Span] = {}
    for parts in known:
        texts = tuple("".join(part) for part in parts)
        conditions = list(map(parse_condition, texts))
        if all(one.name in axes for one in conditions):
            ranges = [(one.name, f"{sign} {value}") for one, (_, sign, value) in zip(conditions, parts, strict=True)]
            spans[texts] = _Span(list(texts), ranges, conditions)
    return list(spans.values())[:MAX_REGIONS]


def _count_spans(
    sets: Sequence[SetTasks], spans: Sequence[_Span], x: Axis | None, y: Axis | None, cells: Mapping[Cell, Counts]
) -> tuple[list[tuple[_Span, Counts, set[Cell]]], int]:
    """Return the spans with their failed tasks, all their tasks, and cells with failed ones; and how many are in none.

    Those in which no more tasks failed than usual are left out: the axes show tasks that failed for other reasons too.
    """
    rows_of: dict[int, list[int]] = {}
    for column, row in cells:
        rows_of.setdefault(column, []).append(row)
    inside = [[place for place, one in enumerate(sets) if span.holds(one.params)] for span in spans]
    failed, tasks = _count(sets)
    found, covered = [], set[int]()
    for span, places in zip(spans, inside, strict=True):
        count, of = _count([sets[place] for place in places])
        if not count or not (count * tasks > failed * of or count == of or len(cells) == 1):
            continue
        covered.update(places)
        marked = set[Cell]()
        for one in (sets[place] for place in places if 0 in sets[place].kinds):
            column = 0 if x is None else x.place(one.params)
            rows = rows_of.get(column, []) if y is None else [_row(y, y.place(one.params))]
            marked.update((column, row) for row in rows if cells[column, row][0])
        found.append((span, [count, of], marked))
    found.sort(key=lambda one: -one[1][0])
    return found, _count([one for place, one in enumerate(sets) if place not in covered])[0]


def _count(sets: Sequence[SetTasks]) -> tuple[int, int]:
    """Return how many tasks of some sets failed, and how many there are."""
    return sum(one.kinds.count(0) for one in sets), sum(len(one.kinds) for one in sets)


def _region(span: _Span, counts: Sequence[int], cells: Iterable[Cell], units: int, path: str) -> Region:
    columns, rows = ([cell[place] for cell in cells] for place in (0, 1))
    return Region(
        failed=counts[0],
        tasks=counts[1],
        first=(min(columns) * units, min(rows)),
        size=((max(columns) - min(columns) + 1) * units, max(rows) - min(rows) + 1),
        conditions=span.texts,
        ranges=span.ranges,
        path=path,
    )

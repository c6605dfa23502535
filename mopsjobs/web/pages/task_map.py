"""The map of a job's tasks over two parameters, as the template draws it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mopsjobs.utils.text import pluralize
from mopsjobs.web.drawings.axes import Axis
from mopsjobs.web.drawings.heat_map import Axes, HeatMap
from mopsjobs.web.queries.view_models import CLASSES

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
"""Returns the address of the tasks that meet conditions."""


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
        y = {"name": "replicates" if x else "tasks", "each": False, "ticks": []}
    names = " and ".join(axis["name"] for axis in (x, y) if axis is not None)
    return {
        "drawn": heat_map,
        "words": f"Tasks{' by ' * bool(names)}{names}; the counts are in the table of parameter sets",
        "paths": [(CLASSES[kind], kind, data) for kind, data in heat_map.paths if kind in CLASSES],
        "grid": _grid(heat_map),
        "x": x,
        "y": y,
        "counts": [(CLASSES.get(kind, "pending"), kind, count) for kind, count in heat_map.counts.items()],
        "size": "low" if heat_map.height <= 3 else "middle" if heat_map.height <= 12 else "high",
        "cells": _cells(heat_map, to_tasks),
        "unit": heat_map.width // heat_map.columns,
        "regions": [(one, to_failed(one.conditions)) for one in heat_map.regions],
    }


def _cells(heat_map: HeatMap, to_tasks: ToTasks) -> list[CellLink]:
    """Return the links of the cells of a small map over parameters."""
    x, y = heat_map.x, heat_map.y
    if x is None or len(heat_map.cells) > MAX_LINKS:
        return []
    units, found = heat_map.width // heat_map.columns, []
    for (column, row), counts in heat_map.cells.items():
        name, conditions = f"{x.name} {x.label(column)}", x.conditions(column)
        if y is not None:
            place = y.size - 1 - row if y.is_ordered else row
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

"""Turn the heat map of a job into values for its template: texts, links and tables."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

from mopsjobs.app.jobs.find_job import FoundJob, Job
from mopsjobs.app.jobs.job_tasks import JobTasks
from mopsjobs.cache.queries.failures import JobFailures
from mopsjobs.cache.queries.ledgers import BY_LEDGER, Ledger
from mopsjobs.cache.queries.tasks import TaskQuery
from mopsjobs.ledger.attempt import FAILED_OUTCOMES
from mopsjobs.studies.conditions import split_condition
from mopsjobs.utils.text import pluralize
from mopsjobs.web.drawings.axes import Axis
from mopsjobs.web.drawings.heat_map import KINDS, MAX_CELLS, Axes, HeatMap, choose_axes, lay_out, sets_of
from mopsjobs.web.queries.view_models import job_path
from mopsjobs.web.site.memo import Memo
from mopsjobs.web.site.site import Site

MAX_TASKS = 100_000
"""Tasks of a map. Of more, the groups of failures tell as much, and cost less."""

SHOWN_TICKS = 10
"""Places of an axis up to which each has its text."""

MAX_CHOICES = 100
"""Parameters to choose from."""

CLASSES = {"failed": "failed", "succeeded": "succeeded", "cancelled": "cancelled", "missing": "partial"}
"""The class of the colour of each kind. Tasks that wait are the ground of the map."""

FAILED_STATUSES = ",".join(FAILED_OUTCOMES)


class DrawnMap(NamedTuple):
    """A map, and the parameters that its axes may have."""

    heat_map: HeatMap
    axes: Axes
    varying: list[str]


class MapView:
    """The heat maps that were shown last."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._memo: Memo[DrawnMap] = Memo(site.app.monotonic, 16)

    def section(
        self, connection: sqlite3.Connection, job: Job, ledger: Ledger, failures: JobFailures | None, chosen: Axes
    ) -> dict[str, Any] | None:
        """Return the map of a job for its template; None if it has no tasks, or too many.

        Args:
            connection: the cache.
            job: the job.
            ledger: what the cache knows of its ledger.
            failures: its failed tasks; the parameters that separate them are the first choice for the axes.
            chosen: the axes that the user has chosen.

        Raises:
            UsageError: if a chosen parameter does not vary.
        """
        if not 0 < ledger.tasks_total <= MAX_TASKS:
            return None
        texts = [str(one["condition"]) for group in (failures.groups if failures else []) for one in group.separates]
        preferred = _separating(texts, ledger.varying)
        known = [parts for text in texts if (parts := split_condition(text)) is not None]
        found = JobTasks(self._site.app, FoundJob(job), None)

        def make() -> DrawnMap:
            tasks = found.list_tasks(connection, TaskQuery())
            sets = sets_of((one.params, one.row.outcome) for one in tasks.tasks(0))
            axes = choose_axes(ledger.varying, sets, preferred, chosen)
            return DrawnMap(lay_out(sets, axes, known), axes, ledger.varying)

        job_id = str(job["job_id"])
        may_lack_ends = found.may_lack_ends(ledger)
        state = (ledger.chunks, ledger.problems, ledger.basis, ledger.is_complete, may_lack_ends, *texts)
        if ledger.basis != BY_LEDGER:
            state = (*state, job["tasks_completed"])
        return _values(self._memo.get((job_id, chosen), state, make), job_id)


def _separating(texts: Sequence[str], varying: Sequence[str]) -> list[str]:
    """Return the parameters that separate failed tasks from others, by the conditions of the largest groups first."""
    words = {word: place for place, word in reversed(list(enumerate(" ".join(texts).split())))}
    named = [name for name in varying if name in words]
    quoted = [name for name in varying if any(json.dumps(name, ensure_ascii=False) in text for text in texts)]
    return sorted(named, key=lambda name: words[name]) + [name for name in quoted if name not in named]


def tasks_link(job_id: str, conditions: Sequence[str] = (), **others: str) -> str:
    """Return the address of the tasks of a job that meet conditions."""
    return f"{job_path(job_id)}/tasks?{urlencode([*others.items(), *(('param', one) for one in conditions)])}"


def _values(drawn: DrawnMap, job_id: str) -> dict[str, Any]:
    heat_map, axes = drawn.heat_map, drawn.axes
    failed_link = tasks_link(job_id, status=FAILED_STATUSES)
    x = _axis(axes.x, heat_map.x, is_up=False)
    y = _axis(axes.y, heat_map.y, is_up=True) or _rows_without_axis(heat_map)
    names = " and ".join(axis["name"] for axis in (x, y) if axis is not None)
    return {
        "words": f"Tasks{' by ' * bool(names)}{names}; the counts are in the table below",
        "width": heat_map.width,
        "height": heat_map.height,
        "paths": [(CLASSES[kind], kind, data) for kind, data in heat_map.paths if kind in CLASSES],
        "grid": _grid(heat_map),
        "regions": [
            {
                "to": tasks_link(job_id, region.conditions, status=FAILED_STATUSES),
                "text": f"{region.failed:,} of {pluralize(region.tasks, 'task')} failed",
                "where": ", ".join(f"{name} {text}" for name, text in region.ranges),
                "ranges": region.ranges,
                "path": region.path,
                "x": region.first[0],
                "y": region.first[1] - 0.5,
                "width": region.size[0],
                "height": region.size[1],
            }
            for region in heat_map.regions
        ],
        "failed_link": failed_link,
        "others": heat_map.elsewhere,
        "x": x,
        "y": y,
        "counts": [(CLASSES.get(kind, "pending"), kind, count) for kind, count in heat_map.counts.items()],
        "size": "low" if heat_map.height <= 3 else "middle" if heat_map.height <= 12 else "high",
        "choices": drawn.varying[:MAX_CHOICES] if len(drawn.varying) > 1 else [],
        "tables": _tables(heat_map, job_id),
    }


def _axis(name: str | None, axis: Axis | None, *, is_up: bool) -> dict[str, Any] | None:
    """Return the name and the texts of an axis: of each place, or of some at equal distances."""
    if axis is None:
        return None
    each = axis.size <= SHOWN_TICKS
    ticks = [axis.label(place) for place in range(axis.size)] if each else axis.ticks()
    return {"name": name, "each": each, "ticks": ticks[::-1] if is_up and axis.is_ordered else ticks}


def _rows_without_axis(heat_map: HeatMap) -> dict[str, Any] | None:
    if heat_map.height == 1:
        return None
    name = "replicates" if heat_map.x is not None else "tasks"
    return {"name": name, "each": False, "ticks": []}


def _grid(heat_map: HeatMap) -> str:
    """Return the lines between the cells of a small map."""
    if heat_map.columns > 40 or heat_map.height > 40:
        return ""
    units = heat_map.width // heat_map.columns
    across = "".join(f"M{place * units}-.5V{heat_map.height - 0.5}" for place in range(1, heat_map.columns))
    return across + "".join(f"M0 {row - 0.5}H{heat_map.width}" for row in range(1, heat_map.height))


def _tables(heat_map: HeatMap, job_id: str) -> list[dict[str, Any]]:
    """Return the counts as tables: with both axes if they have few places, else one for each axis."""
    x, y = heat_map.x, heat_map.y
    if x is None:
        return []
    if y is not None and x.size * y.size <= MAX_CELLS:
        return [_cross_table(heat_map, x, y, job_id)]
    return [_axis_table(heat_map, axis, job_id, 0 if axis is x else 1) for axis in (x, y) if axis is not None]


def _cross_table(heat_map: HeatMap, x: Axis, y: Axis, job_id: str) -> dict[str, Any]:
    rows = []
    for row in range(y.size):
        place = y.size - 1 - row if y.is_ordered else row
        cells = [
            _cell(
                heat_map.cells.get((column, row)), [*x.conditions(column, column), *y.conditions(place, place)], job_id
            )
            for column in range(x.size)
        ]
        rows.append((y.label(place), cells))
    return {
        "caption": f"Failed tasks of all, by {y.name} (rows) and {x.name} (columns)",
        "head": [f"{y.name} / {x.name}", *(x.label(column) for column in range(x.size))],
        "rows": rows,
    }


def _axis_table(heat_map: HeatMap, axis: Axis, job_id: str, which: int) -> dict[str, Any]:
    sums: dict[int, list[int]] = {}
    for cell, counts in heat_map.cells.items():
        place = cell[which]
        if which == 1 and axis.is_ordered:
            place = axis.size - 1 - place
        sums[place] = [old + new for old, new in zip(sums.get(place, [0] * len(KINDS)), counts, strict=True)]
    return {
        "caption": f"Failed tasks of all, by {axis.name}",
        "head": [axis.name, "Failed"],
        "rows": [
            (axis.label(place), [_cell(sums.get(place), axis.conditions(place, place), job_id)])
            for place in range(axis.size)
        ],
    }


def _cell(counts: Sequence[int] | None, conditions: Sequence[str], job_id: str) -> Mapping[str, Any]:
    if counts is None:
        return {"text": "", "to": None}
    link = tasks_link(job_id, conditions, status=FAILED_STATUSES) if counts[0] and conditions else None
    return {"text": f"{counts[0]:,} of {sum(counts):,}", "to": link}

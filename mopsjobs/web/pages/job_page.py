"""The page of a job: what it is, how it stands, what failed and where, its history and its events."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

from flask import Response, request

from mopsjobs.app.jobs.find_job import FoundJob, with_family
from mopsjobs.app.jobs.job_card import (
    MAX_TITLE,
    Section,
    annotations_of,
    count_lost_outputs,
    job_card,
    metadata_of,
    step_time,
)
from mopsjobs.app.jobs.job_tasks import JobTasks
from mopsjobs.app.jobs.next_steps import next_command, next_commands
from mopsjobs.app.run.freshness import Freshness
from mopsjobs.app.tasks.failures import describe_condition
from mopsjobs.cache.queries import events as event_queries
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.queries.failures import FailureGroup, JobFailures, last_failures
from mopsjobs.cache.queries.families import Family
from mopsjobs.cache.queries.ledgers import BY_LEDGER, Ledger, describe_failures, memory_ends, read_ledger
from mopsjobs.cache.queries.overview import jobs_of_study, listed_job
from mopsjobs.cache.queries.tasks import TaskQuery
from mopsjobs.cache.rows import study_of
from mopsjobs.studies.conditions import split_condition
from mopsjobs.utils.text import cut_to_length, pluralize, strip_control_characters
from mopsjobs.utils.times import from_timestamp, human_duration, parse_time, whole_seconds
from mopsjobs.web.drawings import svg
from mopsjobs.web.drawings.axes import TICKS, Axis, count_scale, time_texts
from mopsjobs.web.drawings.heat_map import KINDS, MAX_CELLS, Axes, HeatMap, choose_axes, lay_out, sets_of
from mopsjobs.web.pages.readings import ask
from mopsjobs.web.queries.query_params import Parameter, parse_query
from mopsjobs.web.queries.view_models import (
    CLASSES,
    MAX_COMPARED,
    Bar,
    Job,
    Moment,
    Status,
    compare_path,
    event,
    event_time,
    job_path,
    moment,
    row,
    status,
    tasks_link,
)
from mopsjobs.web.site.job_reads import FAILURES
from mopsjobs.web.site.memo import Memo
from mopsjobs.web.site.rendering import Renderer

SHOWN_EVENTS = 200
"""The last events on the page of a job when it is opened; the script adds later ones."""

SHOWN_COLUMNS = ("created", "updated", "duration")
"""Values of the row of a job that its page shows beside the others."""

SHOWN_FAILURES = 20
"""Errors of a job, those of most tasks first."""

SHOWN_MEMBERS = 20
"""The newest jobs of a family."""

MAX_MESSAGE = 1000
"""Characters of a failed task's message."""

MAX_RUNS = 50
"""The last changed jobs of a study, among which another run is looked for."""

PARAMETERS = {"x": Parameter(), "y": Parameter()}
"""The parameters of the map's axes."""

ICONS = ("succeeded", "partial", "failed")
"""Ends of a job whose tab has an icon of its own."""

STANDING = ("Waits for", "Deferred", "Done", "Rate", "Used")
"""Sections beside the status."""

ELSEWHERE = (*STANDING, "Status", "Progress", "Failed", "Stragglers", "Error", "Family")
"""Sections that have a place of their own."""

MAX_MAP_TASKS = 100_000
"""Tasks of a map. Of more, the groups of failures tell as much, and cost less."""

SHOWN_TICKS = 10
"""Places of an axis up to which each has its text."""

MAX_CHOICES = 100
"""Parameters to choose from."""


class JobPage:
    """The handler of `/jobs/JOB`."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._site = renderer.site
        self._maps: Memo[tuple[HeatMap, Axes]] = Memo(renderer.site.app.monotonic, 16)

    def answer(self, job_id: str) -> Response:
        """Return the page of a job."""
        query = parse_query(PARAMETERS, request.args.items(multi=True))

        def view(connection: sqlite3.Connection, freshness: Freshness) -> dict[str, Any]:
            now = self._site.app.now().timestamp()
            found = job_queries.find_job(connection, job_id, now=now)
            job, family, last = with_family(connection, found, now=now)
            whole_id = str(job["job_id"])
            ends = memory_ends(connection, str((last or job)["job_id"]))
            card = job_card(
                job,
                from_timestamp(now),
                failed=describe_failures(connection, whole_id, job["tasks_failed"]),
                lost=count_lost_outputs(connection, job),
                family=family,
                remarks=job_queries.remarks(connection, whole_id),
            )
            first = next_command(last or job, stale=freshness.stale, ends=ends)
            title = metadata_of(job).get("title")
            events = event_queries.last_events(connection, whole_id, limit=SHOWN_EVENTS)
            progress = event_queries.progress_points(connection, whole_id)
            others = {name: section for name, section in card.items() if name not in ELSEWHERE}
            return {
                "row": row(listed_job(connection, whole_id, now=now), now, SHOWN_COLUMNS),
                "job": job,
                "icon": "-active" if job["is_active"] else f"-{job['status']}" if job["status"] in ICONS else "",
                "unknown": freshness.unknown_since if job["is_active"] else None,
                "title": cut_to_length(title, MAX_TITLE) if isinstance(title, str) and title else None,
                "card": card,
                "standing": _sections({name: card[name] for name in card if name in STANDING}, now),
                "about": _sections(others, now),
                "family": None if family is None else _family(family, card["Family"]),
                "comparisons": _comparisons(connection, job, family),
                "notes": annotations_of(job),
                "timeline": _timeline(job, now),
                "progress": progress_chart(progress, job["ended_at"]),
                "next": first,
                "commands": [(why, command) for why, command in next_commands(job, last, ends) if command != first],
                "unreadable": job_queries.unreadable_records(connection, whole_id),
                "events": [event(one) for one in sorted(events, key=event_time)],
                **self._tasks(connection, job, Axes(query["x"], query["y"])),
            }

        return self._renderer.page("job.html", view)

    def _tasks(self, connection: sqlite3.Connection, job: Job, axes: Axes) -> dict[str, Any]:
        """Return what the cache knows of the tasks: failures, the map, and whether more is being read."""
        job_id = str(job["job_id"])
        ledger, summary = read_ledger(connection, job_id), last_failures(connection, job_id)
        failures, is_current = (None, False) if summary is None else summary
        reading = None if ledger and is_current else ask(self._site, FAILURES, job, "failures")
        if failures is not None and reading is not None and reading.is_waiting:
            reading = None  # the groups of a running job are some seconds old
        return {
            "failures": None if failures is None else _failures(failures),
            "map": None if ledger is None else self._map(connection, job, ledger, failures, axes),
            "reading": reading,
        }

    def _map(
        self, connection: sqlite3.Connection, job: Job, ledger: Ledger, failures: JobFailures | None, chosen: Axes
    ) -> dict[str, Any] | None:
        """Return the map of a job; None if it has no tasks, or too many.

        The parameters that separate its failed tasks are the first choice for the axes.

        Raises:
            UsageError: if a chosen parameter does not vary.
        """
        if not 0 < ledger.tasks_total <= MAX_MAP_TASKS:
            return None
        texts = [str(one["condition"]) for group in (failures.groups if failures else []) for one in group.separates]
        known = [parts for text in texts if (parts := split_condition(text)) is not None]
        found = JobTasks(self._site.app, FoundJob(job), None)

        def make() -> tuple[HeatMap, Axes]:
            tasks = found.list_tasks(connection, TaskQuery())
            sets = sets_of((one.params, one.row.outcome) for one in tasks.tasks(0))
            axes = choose_axes(ledger.varying, sets, _separating(texts, ledger.varying), chosen)
            return lay_out(sets, axes, known), axes

        job_id = str(job["job_id"])
        may_lack_ends = found.may_lack_ends(ledger)
        state = (ledger.chunks, ledger.problems, ledger.basis, ledger.is_complete, may_lack_ends, *texts)
        if ledger.basis != BY_LEDGER:
            state = (*state, job["tasks_completed"])
        heat_map, axes = self._maps.get((job_id, chosen), state, make)
        return _map_values(heat_map, axes, ledger.varying, job_id)


class Piece(NamedTuple):
    """A part of a text, with where it leads to or, of a time, how long ago it was."""

    text: str
    to: str | None
    moment: Moment | None


def _sections(card: Mapping[str, Section], now: float) -> list[tuple[str, list[Piece]]]:
    """Return sections about a job, with the page of a job or of jobs that a part leads to."""
    found = []
    for name, section in card.items():
        pieces = []
        for part in section.parts:
            kind, value = part.link or ("", "")
            to = job_path(value) if kind == "job" else f"/jobs?{urlencode({kind: value})}" if part.link else None
            pieces.append(Piece(part.text, to, moment(part.text, now) if part.is_time else None))
        found.append((name, pieces))
    return found


def _family(family: Family, section: Section) -> dict[str, Any]:
    """Return the family of a job: its sum, and its members, each after its parent."""
    newest = next(member for member in family.members if member.job_id == family.newest)
    return {
        "text": section.text,
        "bar": None if section.share is None else Bar(round(100 * section.share, 1), 0, section.text),
        "kind": status(newest.status).kind,
        "members": family.members[-SHOWN_MEMBERS:],
    }


def _comparisons(connection: sqlite3.Connection, job: Job, family: Family | None) -> list[tuple[str, str]]:
    """Return with which jobs to compare a job, each with the address of that: those of its family, and another run."""
    job_id, parent = str(job["job_id"]), job["parent_job_id"]
    members = [] if family is None else [member.job_id for member in family.members]
    found = [("its parent", [str(parent), job_id])] if parent in members else []
    if len(members) > len(found) + 1:
        others = [one for one in members if one != job_id][1 - MAX_COMPARED :]
        found.append(("its family", [one for one in members if one == job_id or one in others]))
    study = study_of(job["metadata"])
    runs = [] if study is None else jobs_of_study(connection, study, MAX_RUNS)
    other = next((one for one in runs if one != job_id and one not in members), None)
    if other is not None:
        found.append(("another run of this study", [other, job_id]))
    return [(text, compare_path(ids)) for text, ids in found]


def _failures(found: JobFailures) -> dict[str, Any]:
    """Return the failed tasks of a job by their errors."""
    groups = len(found.groups) + found.more_groups
    return {
        "failed": found.failed,
        "total": found.total,
        "reasons": pluralize(groups, "reason"),
        "groups": [_group(group) for group in found.groups[:SHOWN_FAILURES]],
        "more": groups - min(len(found.groups), SHOWN_FAILURES),
    }


def _group(group: FailureGroup) -> dict[str, Any]:
    example = None if group.example in (None, group.message) else group.example
    return {
        **group._asdict(),
        "message": cut_to_length(group.message, MAX_MESSAGE),
        "example": example and cut_to_length(example, MAX_MESSAGE),
        "conditions": [describe_condition(one) for one in group.separates],
        "times": [at for at in (group.first_ts, group.last_ts) if at is not None],
    }


def _timeline(job: Job, now: float) -> dict[str, Any]:
    """Return the history of a job: bars to scale, and each reported status with its duration.

    A status that no program reported has no time and no row. It shares a bar with the one before it.
    """
    steps = job["transitions"]
    times = [None if (at := step_time(step)) is None else at.timestamp() for step in steps]
    ends = [*times[1:], now if job["is_active"] else None]
    rows, parts = [], []
    names: list[Status] = []
    began: float | None = None
    for step, begin, end in zip(steps, times, ends, strict=False):
        name = status(step["status"])
        is_end = step is steps[-1] and not job["is_active"]
        if begin is not None:
            took = "" if end is None or is_end else human_duration(max(0.0, end - begin))
            rows.append({"status": name, "at": whole_seconds(str(step["at"])), "took": took})
        began = begin if begin is not None else began
        names = [name] if begin is not None else [*names, name]
        if began is not None and end is not None:
            seconds = max(0.0, end - began)
            text = f"{', '.join(one.name for one in names)}: {human_duration(seconds)}"
            parts.append((names[0].kind if len(names) == 1 else "unknown", seconds, strip_control_characters(text)))
    return {"bars": svg.spans(parts), "rows": rows}


def progress_chart(points: Sequence[tuple[float, int, int]], ended_at: object) -> dict[str, Any] | None:
    """Return progress over time, up to the end of the job; None with less than two points."""
    # A label after the end writes an event too.
    end = math.inf if ended_at is None else parse_time(str(ended_at)).timestamp()
    shares = [(min(at, end), done / total * 100) for at, done, total in points]
    if len(shares) < 2 or shares[-1][0] <= shares[0][0]:
        return None
    begin, end = shares[0][0], shares[-1][0]
    # Whole seconds, of which no two are the same: the axis has their texts.
    window = (float(math.floor(begin)), float(max(math.ceil(end), math.floor(begin) + TICKS - 1)))
    scale = count_scale("Tasks done, per cent", 100.0, unit=" %")
    return {
        "x": time_texts(*window),
        "y": scale.texts,
        "grid": svg.grid(scale.steps, TICKS - 1),
        "line": svg.line(svg.steps(shares), x=window, y_max=scale.top),
        "begin": f"{from_timestamp(begin):%Y-%m-%d %H:%M:%SZ}",
        "end": f"{from_timestamp(end):%Y-%m-%d %H:%M:%SZ}",
        "last": int(shares[-1][1]),
    }


def _separating(texts: Sequence[str], varying: Sequence[str]) -> list[str]:
    """Return the parameters that separate failed tasks from others, by the conditions of the largest groups first."""
    words = {word: place for place, word in reversed(list(enumerate(" ".join(texts).split())))}
    named = [name for name in varying if name in words]
    quoted = [name for name in varying if any(json.dumps(name, ensure_ascii=False) in text for text in texts)]
    return sorted(named, key=lambda name: words[name]) + [name for name in quoted if name not in named]


def _map_values(heat_map: HeatMap, axes: Axes, varying: Sequence[str], job_id: str) -> dict[str, Any]:
    x, y = _axis(axes.x, heat_map.x, is_up=False), _axis(axes.y, heat_map.y, is_up=True)
    if y is None and heat_map.height > 1:
        y = {"name": "replicates" if x else "tasks", "each": False, "ticks": []}
    names = " and ".join(axis["name"] for axis in (x, y) if axis is not None)
    return {
        "drawn": heat_map,
        "words": f"Tasks{' by ' * bool(names)}{names}; the counts are in the table below",
        "paths": [(CLASSES[kind], kind, data) for kind, data in heat_map.paths if kind in CLASSES],
        "grid": _grid(heat_map),
        "x": x,
        "y": y,
        "counts": [(CLASSES.get(kind, "pending"), kind, count) for kind, count in heat_map.counts.items()],
        "size": "low" if heat_map.height <= 3 else "middle" if heat_map.height <= 12 else "high",
        "choices": varying[:MAX_CHOICES] if len(varying) > 1 else [],
        "tables": _tables(heat_map, job_id),
    }


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


def _tables(heat_map: HeatMap, job_id: str) -> list[dict[str, Any]]:
    """Return the counts as tables: with both axes if they have few places, else one for each axis."""
    x, y = heat_map.x, heat_map.y
    if x is None:
        return []
    if y is None or x.size * y.size > MAX_CELLS:
        return [_axis_table(heat_map, axis, job_id, which) for which, axis in enumerate((x, y)) if axis is not None]
    rows = []
    for line in range(y.size):
        place = y.size - 1 - line if y.is_ordered else line
        conditions = [[*x.conditions(column), *y.conditions(place)] for column in range(x.size)]
        cells = [_cell(heat_map.cells.get((column, line)), one, job_id) for column, one in enumerate(conditions)]
        rows.append((y.label(place), cells))
    return [
        {
            "caption": f"Failed tasks of all, by {y.name} (rows) and {x.name} (columns)",
            "head": [f"{y.name} / {x.name}", *(x.label(column) for column in range(x.size))],
            "rows": rows,
        }
    ]


def _axis_table(heat_map: HeatMap, axis: Axis, job_id: str, which: int) -> dict[str, Any]:
    sums: dict[int, list[int]] = {}
    for cell, counts in heat_map.cells.items():
        place = axis.size - 1 - cell[1] if which == 1 and axis.is_ordered else cell[which]
        sums[place] = [old + new for old, new in zip(sums.get(place, [0] * len(KINDS)), counts, strict=True)]
    return {
        "caption": f"Failed tasks of all, by {axis.name}",
        "head": [axis.name, "Failed"],
        "rows": [
            (axis.label(place), [_cell(sums.get(place), axis.conditions(place), job_id)]) for place in range(axis.size)
        ],
    }


def _cell(counts: Sequence[int] | None, conditions: Sequence[str], job_id: str) -> tuple[str, str | None]:
    if counts is None:
        return "", None
    link = tasks_link(job_id, conditions) if counts[0] and conditions else None
    return f"{counts[0]:,} of {sum(counts):,}", link

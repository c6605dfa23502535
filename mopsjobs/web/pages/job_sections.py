"""Turn a job into values for the sections of its page: texts, links and coordinates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

from mopsjobs.app.jobs.job_card import MAX_TITLE, Section, annotations_of, metadata_of, step_time
from mopsjobs.app.tasks.failures import describe_condition
from mopsjobs.cache.queries.failures import FailureGroup, JobFailures
from mopsjobs.cache.queries.families import Family
from mopsjobs.utils.text import cut_to_length, pluralize, strip_control_characters
from mopsjobs.utils.times import from_timestamp, human_duration, parse_time, whole_seconds
from mopsjobs.web.drawings import svg
from mopsjobs.web.drawings.axes import TICKS, count_scale, time_texts
from mopsjobs.web.pages.map_view import FAILED_STATUSES, tasks_link
from mopsjobs.web.queries.view_models import Bar, Job, Moment, Status, job_path, moment, moment_at, status

SHOWN_FAILURES = 20
"""Errors of a job, those of most tasks first."""

SHOWN_MEMBERS = 20
"""The newest jobs of a family."""

MAX_MESSAGE = 1000
"""Characters of a failed task's message."""

STANDING = ("Waits for", "Deferred", "Done", "Rate", "Used")
"""Sections beside the status."""

ELSEWHERE = (*STANDING, "Status", "Progress", "Failed", "Stragglers", "Error", "Family")
"""Sections that have a place of their own."""


def title(job: Job) -> str | None:
    """Return the title of a job's study; None if it has none."""
    found = metadata_of(job).get("title")
    return cut_to_length(found, MAX_TITLE) if isinstance(found, str) and found else None


class Piece(NamedTuple):
    """A part of a text, with where it leads to or, of a time, how long ago it was."""

    text: str
    to: str | None
    moment: Moment | None


def standing(card: Mapping[str, Section], now: float) -> list[tuple[str, list[Piece]]]:
    """Return the sections beside the status of a job: its wait, the tasks that it leaves, its end, rate and usage."""
    return [(name, _pieces(section, now)) for name, section in card.items() if name in STANDING]


def about(card: Mapping[str, Section], now: float) -> list[tuple[str, list[Piece]]]:
    """Return the sections about a job that have no other place on its page."""
    return [(name, _pieces(section, now)) for name, section in card.items() if name not in ELSEWHERE]


def _pieces(section: Section, now: float) -> list[Piece]:
    return [
        Piece(part.text, _address(part.link), moment(part.text, now) if part.is_time else None)
        for part in section.parts
    ]


def _address(link: tuple[str, str] | None) -> str | None:
    """Return the page of the job that a part of a section names, or that of the jobs that pass its filter."""
    if link is None:
        return None
    name, value = link
    return job_path(value) if name == "job" else f"/jobs?{urlencode({name: value})}"


def family(found: Family, job_id: str, section: Section) -> dict[str, Any]:
    """Return the family of a job: its sum, and its members, each after its parent."""
    newest = next(member for member in found.members if member.job_id == found.newest)
    return {
        "text": section.text,
        "bar": None if section.share is None else Bar(round(100 * section.share, 1), 0, section.text),
        "kind": status(newest.status).kind,
        "members": [
            {
                "id": member.job_id,
                "path": job_path(member.job_id),
                "is_shown": member.job_id == job_id,
                "status": status(member.status),
                "done": f"{member.tasks_completed:,}",
                "total": f"{member.tasks_total:,}" if member.tasks_total else None,
            }
            for member in found.members[-SHOWN_MEMBERS:]
        ],
    }


def failures(found: JobFailures, job_id: str, now: float) -> dict[str, Any]:
    """Return the failed tasks of a job by their errors."""
    return {
        "failed": found.failed,
        "total": found.total,
        "reasons": pluralize(len(found.groups) + found.more_groups, "reason"),
        "groups": [_group(group, job_id, now) for group in found.groups[:SHOWN_FAILURES]],
        "more": len(found.groups) + found.more_groups - min(len(found.groups), SHOWN_FAILURES),
        "to": tasks_link(job_id, status=FAILED_STATUSES),
    }


def _group(group: FailureGroup, job_id: str, now: float) -> dict[str, Any]:
    times = [moment_at(at, now) for at in (group.first_ts, group.last_ts) if at is not None]
    return {
        "count": pluralize(group.size, "task"),
        "to": tasks_link(job_id, status=FAILED_STATUSES, error=group.key),
        "type": group.type,
        "where": group.where,
        "message": cut_to_length(group.message, MAX_MESSAGE),
        "example": None if group.example in (None, group.message) else cut_to_length(group.example, MAX_MESSAGE),
        "conditions": [describe_condition(one) for one in group.separates],
        "tasks": [(task, f"{job_path(job_id)}/logs?{urlencode({'task': task})}") for task in group.tasks],
        "more": group.size > len(group.tasks),
        "times": times[:1] if len({one.ago for one in times}) == 1 else times,
    }


def stragglers(job: Job, events: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the events of stragglers whose tasks are still at work, with the logs of these tasks."""
    return [
        {
            "task": event["task"],
            "to": f"{job_path(job['job_id'])}/logs?{urlencode({'task': event['task']})}",
            "text": str(event.get("text", "")),
        }
        for event in events
    ]


def notes(job: Job, now: float) -> list[dict[str, Any]]:
    """Return the notes and the changes of labels: when, by whom, and what."""
    return [
        {"when": None if one.at is None else moment_at(one.at.timestamp(), now), "by": one.by, "text": one.text}
        for one in annotations_of(job)
    ]


def timeline(job: Job, now: float) -> dict[str, Any]:
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
            parts.append(_timeline_part(names, end - began))
    return {"bars": svg.spans(parts), "rows": rows}


def _timeline_part(names: Sequence[Status], seconds: float) -> tuple[str, float, str]:
    """Return a bar of the timeline: of one status, or of several of which only the first began at a known time."""
    took = max(0.0, seconds)
    text = f"{', '.join(name.name for name in names)}: {human_duration(took)}"
    return names[0].kind if len(names) == 1 else "unknown", took, strip_control_characters(text)


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
        "begin": _clock(begin),
        "end": _clock(end),
        "last": int(shares[-1][1]),
    }


def _clock(seconds: float) -> str:
    return f"{from_timestamp(seconds):%Y-%m-%d %H:%M:%SZ}"

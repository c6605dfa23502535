"""The page of a job: its state, what to do next, its failures, its history and its events."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from flask import Response, request

from mopsjobs.app.failures import describe_condition
from mopsjobs.app.find_job import with_family
from mopsjobs.app.freshness import Freshness
from mopsjobs.app.job_texts import (
    UNKNOWN,
    end_text,
    kubernetes_text,
    note_text,
    queued_text,
    run_text,
    step_time,
    stragglers_text,
    usage_text,
)
from mopsjobs.app.next_steps import next_command, next_commands
from mopsjobs.cache.job_json import count_outputs
from mopsjobs.cache.queries import events as event_queries
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.queries.failed_tasks import describe_failures
from mopsjobs.cache.queries.failures import JobFailures, kept_failures
from mopsjobs.cache.queries.families import Family, describe_short_name
from mopsjobs.events.format import LOG
from mopsjobs.utils.text import strip_control_characters
from mopsjobs.utils.times import from_timestamp, human_duration, parse_time, whole_seconds
from mopsjobs.web import svg, view_models
from mopsjobs.web.rendering import Renderer

SHOWN_EVENTS = 200
"""The last events on the page of a job when it is opened; the script adds later ones."""

SHOWN_OUTPUTS = 20

SHOWN_FAILURES = 20
"""Errors of a job, those of most tasks first."""

SHOWN_MEMBERS = 20
"""The newest jobs of a family."""


class JobPage:
    """The handler of `/jobs/JOB`."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer

    def answer(self, job_id: str) -> Response:
        """Return the page of a job."""
        kind = LOG if request.args.get("show") == "log" else None

        def view(connection: sqlite3.Connection, freshness: Freshness) -> dict[str, Any]:
            now = self._renderer.site.app.now().timestamp()
            found = job_queries.find_job(connection, job_id, now=now)
            job, family, last = with_family(connection, found, now=now)
            whole_id = str(job["job_id"])
            events = event_queries.last_events(connection, whole_id, limit=SHOWN_EVENTS, kind=kind)
            newest = event_queries.last_events(connection, whole_id, limit=1)
            cache = event_queries.cache_id(connection)
            return {
                "header": self._renderer.site.header_of(connection, freshness),
                "row": view_models.row(job, now, ("created", "updated", "duration")),
                "job": job,
                "since": None if job["status_since"] is None else view_models.moment(job["status_since"], now),
                "fields": _fields(job, now),
                "parent": job["parent_job_id"],
                "family": None if family is None else _family(family),
                "short": describe_short_name(job_id, whole_id, family),
                "outputs": _outputs(job),
                "timeline": _timeline(job, now),
                "progress": progress_chart(event_queries.progress_points(connection, whole_id), job["ended_at"]),
                "events": [view_models.event(event) for event in sorted(events, key=view_models.event_time)],
                "cursor": event_queries.make_cursor(cache, newest[-1].seq if newest else 0),
                "show": kind or "",
                "next": next_command(last or job, stale=freshness.stale),
                "commands": next_commands(job, last),
                "remarks": job_queries.remarks(connection, whole_id),
                "failed": describe_failures(connection, whole_id, job["tasks_failed"]),
                "failures": _failures(kept_failures(connection, whole_id)),
                "unreadable": job_queries.unreadable_records(connection, whole_id),
            }

        def render(number: int) -> str:
            return self._renderer.render("job.html", number, **self._renderer.site.read(view))

        return self._renderer.site.live_pages.answer(request.full_path, render)


def _fields(job: view_models.Job, now: float) -> list[tuple[str, list[tuple[str, str | None]]]]:
    """Return further fields of a job: each name with its texts and their links, if any. Empty fields are left out."""
    labels = [f"{label}={value}" for label, value in sorted(job["labels"].items())]
    rows: list[tuple[str, list[tuple[str, str | None]]]] = [
        ("Owner", [] if job["owner"] is None else [(job["owner"], _jobs_with("owner", job["owner"]))]),
        ("Labels", [(label, _jobs_with("label", label)) for label in labels]),
    ]
    at = from_timestamp(now)
    heartbeat = job["heartbeat_at"] if job["is_active"] else None
    plain = [
        ("Done", end_text(job, at)),
        ("Stragglers", stragglers_text(job, at)),
        ("Queued", queued_text(job)),
        ("Running" if job["is_active"] else "Ran", run_text(job)),
        ("Used", usage_text(job)),
        (
            "Heartbeat",
            None if not heartbeat else view_models.moment(heartbeat, now).ago,
        ),
        ("Note", note_text(job)),
        ("Engine", job["engine"]),
        ("Kubernetes", kubernetes_text(job)),
        ("Results", job["results_path"]),
        ("Validation", job["last_validation_error"]),
    ]
    rows += [(name, [(str(text), None)]) for name, text in plain if text is not None]
    return [(name, texts) for name, texts in rows if texts]


def _jobs_with(name: str, value: object) -> str:
    return f"/jobs?{urlencode({name: value})}"


def _family(family: Family) -> dict[str, Any]:
    """Return the family of a job: its sum and the colour of that, the children of the job, and some members."""
    done, total = family.tasks_completed, family.tasks_total
    newest = next(member for member in family.members if member.job_id == family.newest)
    return {
        "tasks": None if total is None or done is None else f"{done}/{total}",
        "share": None if total is None or done is None else round(min(1.0, done / total), 4),
        "kind": view_models.status(newest.status).kind,
        "jobs": len(family.members),
        "children": [(child, view_models.job_path(child)) for child in family.children[:SHOWN_MEMBERS]],
        "members": [
            {
                "id": member.job_id,
                "path": view_models.job_path(member.job_id),
                "status": view_models.status(member.status),
                "tasks": f"{member.tasks_completed}/{member.tasks_total}" if member.tasks_total else "",
            }
            for member in family.members[-SHOWN_MEMBERS:]
        ],
    }


def _outputs(job: view_models.Job) -> dict[str, Any] | None:
    """Return the verified and the missing outputs; None if they were not validated."""
    counts = count_outputs(job)
    if counts is None:
        return None
    names = [str(name) for name in job["missing_outputs"][:SHOWN_OUTPUTS]]
    return {"verified": counts[0], "missing": counts[1], "names": names, "more": max(0, counts[1] - len(names))}


def _failures(found: JobFailures | None) -> list[dict[str, Any]]:
    """Return the failed tasks of a job by their errors, as far as `failures` has compared them."""
    return [
        {
            "count": f"{group.size:,}",
            "error": group.type if group.where is None else f"{group.type} in {group.where}",
            "message": group.message,
            "conditions": [describe_condition(one) for one in group.separates],
            "tasks": ", ".join(map(str, group.tasks)) + (", …" if group.size > len(group.tasks) else ""),
        }
        for group in (found.groups[:SHOWN_FAILURES] if found is not None else [])
    ]


def _timeline(job: view_models.Job, now: float) -> dict[str, Any]:
    """Return the history of a job: bars to scale, and each status with its duration.

    A status that no program reported has no time. It shares a bar with the one before it.
    """
    steps = job["transitions"]
    times = [None if (at := step_time(step)) is None else at.timestamp() for step in steps]
    ends = [*times[1:], now if job["is_active"] else None]
    rows, parts = [], []
    names: list[view_models.Status] = []
    began: float | None = None
    for step, begin, end in zip(steps, times, ends, strict=False):
        name = view_models.status(step["status"])
        took = UNKNOWN if begin is None or end is None else human_duration(max(0.0, end - begin))
        is_end = step is steps[-1] and not job["is_active"]
        rows.append(
            {
                "status": name,
                "at": None if begin is None else whole_seconds(str(step["at"])),
                "took": "" if is_end else took,
            }
        )
        began = begin if begin is not None else began
        names = [name] if begin is not None else [*names, name]
        if began is not None and end is not None:
            parts.append(_timeline_part(names, end - began))
    known = [row["at"] for row in rows if row["at"] is not None]
    return {"bars": svg.spans(parts, height=24.0), "rows": rows, "begin": known[0] if known else UNKNOWN}


def _timeline_part(names: Sequence[view_models.Status], seconds: float) -> tuple[str, float, str]:
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
    window = (shares[0][0], shares[-1][0])
    return {
        "points": svg.line(svg.steps(shares), x=window, y_max=100.0),
        "begin": _clock(window[0]),
        "end": _clock(window[1]),
        "last": int(shares[-1][1]),
    }


def _clock(seconds: float) -> str:
    return f"{from_timestamp(seconds):%Y-%m-%d %H:%M:%SZ}"

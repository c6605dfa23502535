"""Turn jobs, events and charts into values for the templates: texts, links and coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from markupsafe import Markup

from mopsjobs.app.event_feed import event_text
from mopsjobs.app.failures import describe_condition
from mopsjobs.app.job_texts import (
    UNKNOWN,
    duration_text,
    end_text,
    kubernetes_text,
    note_text,
    queued_text,
    run_text,
    step_time,
    stragglers_text,
    usage_text,
)
from mopsjobs.cache.job_json import count_outputs
from mopsjobs.cache.queries.charts import Day, Group, Level
from mopsjobs.cache.queries.events import StoredEvent
from mopsjobs.cache.queries.failures import JobFailures
from mopsjobs.cache.queries.families import Family
from mopsjobs.registry.status import END_STATUSES
from mopsjobs.utils.text import strip_control_characters
from mopsjobs.utils.times import from_timestamp, human_age, human_duration, parse_time, whole_seconds
from mopsjobs.web import svg

Job = Mapping[str, Any]

GLYPHS = {
    "pending": "○", "submitting": "◌", "scheduled": "◔", "running": "▶", "validating": "◕", "succeeded": "✓",
    "partial": "◑", "failed": "✗", "cancelled": "⊘",
}  # fmt: skip
"""A shape for each status, so that colour is not the only sign."""

SHOWN_OUTPUTS = 20

SHOWN_FAILURES = 20
"""Errors of a job, those of most tasks first."""

SHOWN_MEMBERS = 20
"""The newest jobs of a family."""


def job_path(job_id: object) -> str:
    """Return the path of a job's page."""
    return f"/jobs/{quote(str(job_id), safe='')}"


class Status(NamedTuple):
    """A status: its name, its shape, and the class that gives it a colour."""

    name: str
    glyph: str
    kind: str


class Moment(NamedTuple):
    """A time: when, and how long ago."""

    at: str
    ago: str


class Row(NamedTuple):
    """A job in the table."""

    id: str
    path: str
    status: Status
    suspect: str | None
    share: float | None
    """The share of tasks that are done; None if their number is unknown."""
    percent: int | None
    tasks: str
    failed: int
    owner: str | None
    created: Moment
    updated: Moment
    duration: str


def status(name: object) -> Status:
    """Return a status for a template."""
    text = str(name)
    return Status(text, GLYPHS.get(text, "?"), text if text in GLYPHS else "unknown")


def moment(text: object, now: float) -> Moment:
    """Return a time for a template."""
    return Moment(whole_seconds(str(text)), human_age(now - parse_time(str(text)).timestamp()))


def row(job: Job, now: float) -> Row:
    """Return a row of the table of jobs."""
    total, done, share = job["tasks_total"], job["tasks_completed"], job["progress"]
    return Row(
        id=job["job_id"],
        path=job_path(job["job_id"]),
        status=status(job["status"]),
        suspect=job["suspect"],
        share=None if share is None else round(share, 4),
        percent=None if share is None else int(share * 100),
        tasks=f"{done}/{total}" if total else str(done) if done else "",
        failed=job["tasks_failed"] or 0,
        owner=job["owner"],
        created=moment(job["created_at"], now),
        updated=moment(job["updated_at"], now),
        duration=human_duration(job["duration_seconds"]),
    )


def lines(text: object) -> Markup:
    """Return text of several lines, each without control characters. A template filter."""
    return Markup("\n").join(
        strip_control_characters(line) for line in ("" if text is None else str(text)).splitlines()
    )


def fields(job: Job, now: float) -> list[tuple[str, list[tuple[str, str | None]]]]:
    """Return further fields of a job: each name with its texts and their links, if any. Empty fields are left out."""
    labels = [f"{label}={value}" for label, value in sorted(job["labels"].items())]
    rows: list[tuple[str, list[tuple[str, str | None]]]] = [
        ("Owner", [] if job["owner"] is None else [(job["owner"], _jobs_with("owner", job["owner"]))]),
        ("Labels", [(label, _jobs_with("label", label)) for label in labels]),
    ]
    at = from_timestamp(now)
    plain = [
        ("Done", end_text(job, at)),
        ("Stragglers", stragglers_text(job, at)),
        ("Queued", queued_text(job)),
        ("Running" if job["is_active"] else "Ran", run_text(job)),
        ("Used", usage_text(job)),
        ("Heartbeat", moment(job["heartbeat_at"], now).ago if job["heartbeat_at"] and job["is_active"] else None),
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


def family(family: Family) -> dict[str, Any]:
    """Return the family of a job: its sum and the colour of that, the children of the job, and some members."""
    done, total = family.tasks_completed, family.tasks_total
    return {
        "tasks": None if total is None or done is None else f"{done}/{total}",
        "share": None if total is None or done is None else round(min(1.0, done / total), 4),
        "kind": next(status(member.status).kind for member in family.members if member.job_id == family.newest),
        "jobs": len(family.members),
        "children": [(child, job_path(child)) for child in family.children[:SHOWN_MEMBERS]],
        "members": [
            {
                "id": member.job_id,
                "path": job_path(member.job_id),
                "status": status(member.status),
                "tasks": f"{member.tasks_completed}/{member.tasks_total}" if member.tasks_total else "",
            }
            for member in family.members[-SHOWN_MEMBERS:]
        ],
    }


def outputs(job: Job) -> dict[str, Any] | None:
    """Return the verified and the missing outputs; None if they were not validated."""
    counts = count_outputs(job)
    if counts is None:
        return None
    names = [str(name) for name in job["missing_outputs"][:SHOWN_OUTPUTS]]
    return {"verified": counts[0], "missing": counts[1], "names": names, "more": max(0, counts[1] - len(names))}


def failures(found: JobFailures | None) -> list[dict[str, Any]]:
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


def timeline(job: Job, now: float) -> dict[str, Any]:
    """Return the history of a job: bars to scale, and each status with its duration.

    A status that no program reported has no time. It shares a bar with the one before it.
    """
    steps = job["transitions"]
    times = [None if (at := step_time(step)) is None else at.timestamp() for step in steps]
    ends = [*times[1:], now if job["is_active"] else None]
    rows, parts = [], []
    names: list[Status] = []
    began: float | None = None
    for step, begin, end in zip(steps, times, ends, strict=False):
        name = status(step["status"])
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
    window = (shares[0][0], shares[-1][0])
    return {
        "points": svg.line(svg.steps(shares), x=window, y_max=100.0),
        "begin": _clock(window[0]),
        "end": _clock(window[1]),
        "last": int(shares[-1][1]),
    }


def event_time(stored: StoredEvent) -> float:
    """Return the time of an event, by its writer's clock, to sort by."""
    return parse_time(str(stored.event["at"])).timestamp()


def event(stored: StoredEvent) -> dict[str, str]:
    """Return an event as a line, with the traceback of a failure below it."""
    content = stored.event
    error = content.get("error")
    trace = str(error.get("traceback") or "") if isinstance(error, Mapping) else ""
    return {
        "at": whole_seconds(str(content["at"])),
        "kind": strip_control_characters(str(content["kind"])),
        "text": "\n".join(
            [
                "".join(strip_control_characters(piece) for piece in event_text(content)),
                *map(strip_control_characters, trace.splitlines()),
            ]
        ),
    }


def level_chart(levels: Sequence[Level], until: float, counts: Mapping[str, int]) -> dict[str, Any]:
    """Return queued and running jobs over time, and now.

    Args:
        levels: the peaks in each part of the window.
        until: the end of the window.
        counts: the jobs by status, which tell how many are queued and running now.
    """
    most = {name: max(getattr(level, name) for level in levels) for name in ("queued", "running")}
    top = svg.ceiling(max(most.values()))
    window = (levels[0].start, until)

    def line(name: str) -> str:
        peaks = [(level.start, getattr(level, name)) for level in levels]
        return svg.line(svg.steps([*peaks, (until, peaks[-1][1])]), x=window, y_max=top)

    return {
        "top": int(top),
        "queued": line("queued"),
        "running": line("running"),
        "begin": _day(window[0]),
        "end": _day(window[1]),
        "now": {
            "queued": sum(counts.get(name, 0) for name in ("pending", "submitting", "scheduled")),
            "running": sum(counts.get(name, 0) for name in ("running", "validating")),
        },
        "most": most,
    }


def ended_chart(days: Sequence[Day]) -> dict[str, Any]:
    """Return the jobs that ended on each day, by status."""
    top = svg.ceiling(max((sum(day.ended.values()) for day in days), default=0))
    columns = [
        [
            (name, float(day.ended[name]), f"{_day(day.start)}: {day.ended[name]} {name}")
            for name in END_STATUSES
            if name in day.ended
        ]
        for day in days
    ]
    return {
        "top": int(top),
        "bars": svg.stacked(columns, y_max=top),
        "begin": _day(days[0].start),
        "end": _day(days[-1].start),
    }


def failure_chart(days: Sequence[Day]) -> dict[str, Any] | None:
    """Return the failure rate per day; None if no job ended, except by `cancel`."""
    rates = [(day.start, day.failure_rate * 100) for day in days if day.failure_rate is not None]
    if not rates:
        return None
    top = min(100.0, svg.ceiling(max(rate for _, rate in rates)))
    window = (days[0].start, days[-1].start)
    return {
        "top": f"{top:g} %",
        "points": svg.line(rates, x=window, y_max=top),
        "begin": _day(window[0]),
        "end": _day(window[1]),
    }


def spread_chart(days: Sequence[Day], which: str) -> dict[str, Any] | None:
    """Return median and 90th percentile per day, of `queued` or `ran`; None if no job has that time."""
    spreads = [(day.start, getattr(day, which)) for day in days if getattr(day, which).jobs]
    if not spreads:
        return None
    top = max(spread.p90 for _, spread in spreads)
    window = (days[0].start, days[-1].start)
    return {
        "top": human_duration(top),
        "median": svg.line([(at, spread.median) for at, spread in spreads], x=window, y_max=top),
        "p90": svg.line([(at, spread.p90) for at, spread in spreads], x=window, y_max=top),
        "begin": _day(window[0]),
        "end": _day(window[1]),
    }


def day_row(day: Day) -> dict[str, Any]:
    """Return a row of the table per day."""
    times = [value for spread in (day.queued, day.ran) for value in (spread.median, spread.p90)]
    return {
        "day": _day(day.start),
        "ended": [day.ended.get(name, 0) for name in END_STATUSES],
        "rate": _percent(day.failure_rate),
        "times": [duration_text(value) or "" for value in times],
    }


def group_row(group: Group) -> dict[str, Any]:
    """Return a row of the table per owner or label."""
    return {
        "name": group.name,
        "jobs": group.jobs,
        "active": group.active,
        "failed": group.failed,
        "rate": _percent(group.failure_rate),
    }


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share * 100:.1f} %"


def _day(seconds: float) -> str:
    return f"{from_timestamp(seconds):%Y-%m-%d}"


def _clock(seconds: float) -> str:
    return f"{from_timestamp(seconds):%Y-%m-%d %H:%M:%SZ}"

"""Turn a job into values for the sections of its page: texts, links and coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from mopsjobs.app.jobs.job_texts import (
    UNKNOWN,
    annotations_of,
    deferred_text,
    end_text,
    kubernetes_text,
    metadata_text,
    note_text,
    queued_text,
    run_text,
    slurm_text,
    step_time,
    stragglers_text,
    usage_text,
    waits_for_text,
)
from mopsjobs.app.tasks.failures import describe_condition
from mopsjobs.cache.job_json import count_outputs, count_run, missing_text, reused_tasks
from mopsjobs.cache.queries.failures import FailureGroup, JobFailures
from mopsjobs.cache.queries.families import Family
from mopsjobs.utils.text import cut_to_length, describe_sets, pluralize, strip_control_characters
from mopsjobs.utils.times import from_timestamp, human_duration, parse_time, whole_seconds
from mopsjobs.web.drawings import svg
from mopsjobs.web.drawings.axes import TICKS, count_scale, time_texts
from mopsjobs.web.pages.map_view import FAILED_STATUSES, tasks_link
from mopsjobs.web.queries.view_models import Bar, Job, Status, job_path, moment, moment_at, status

SHOWN_OUTPUTS = 20

SHOWN_FAILURES = 20
"""Errors of a job, those of most tasks first."""

SHOWN_MEMBERS = 20
"""The newest jobs of a family."""

MAX_TITLE = 300

MAX_MESSAGE = 1000
"""Characters of a failed task's message."""

MIN_RATE_SECONDS = 1.0
"""A job that has run for less has no rate."""


def title(job: Job) -> str | None:
    """Return the title of a job's study; None if it has none."""
    found = _metadata(job).get("title")
    return cut_to_length(found, MAX_TITLE) if isinstance(found, str) and found else None


def subject(job: Job) -> list[tuple[str, str]]:
    """Return what a job is: model, scenario, size and code, each with its name. Missing ones are left out."""
    metadata = _metadata(job)
    sets, replicates = metadata.get("n_parameter_sets"), metadata.get("n_replicates")
    sizes = [describe_sets(sets, metadata.get("n_different_parameter_sets"))] if type(sets) is int and sets > 0 else []
    sizes += [pluralize(replicates, "replicate")] if type(replicates) is int and replicates > 0 else []
    size = " x ".join(sizes)
    method = metadata.get("sampling_method")
    found = [
        ("Model", metadata.get("model")),
        ("Scenario", metadata.get("scenario")),
        ("Study", f"{size}, {method}" if size and isinstance(method, str) else size),
        ("Code", metadata.get("bundle")),
    ]
    return [(name, cut_to_length(text, MAX_TITLE)) for name, text in found if isinstance(text, str) and text]


def _metadata(job: Job) -> Mapping[str, Any]:
    return job["metadata"] if isinstance(job["metadata"], Mapping) else {}


def standing(job: Job, now: float) -> list[tuple[str, str]]:
    """Return how a job stands: its wait, the tasks that it leaves, its end, its rate and its usage, as far as known."""
    at = from_timestamp(now)
    found = [
        ("Waits for", waits_for_text(job)),
        ("Deferred", deferred_text(job)),
        ("Done", end_text(job, at)),
        ("Rate", rate_text(job)),
        ("Used", usage_text(job)),
    ]
    return [(name, text) for name, text in found if text is not None]


def rate_text(job: Job) -> str | None:
    """Return how many tasks have ended per unit of time since the first one started; None if it is not known.

    The time ends with the last write of the record, which has the number. So the rate of a silent job does not fall.
    """
    ended = count_run(job)
    if not ended or job["started_at"] is None:
        return None
    seconds = (parse_time(job["updated_at"]) - parse_time(job["started_at"])).total_seconds()
    if seconds < MIN_RATE_SECONDS:
        return None
    rate = ended / seconds
    unit, size = next(
        ((unit, size) for unit, size in (("second", 1), ("minute", 60), ("hour", 3600)) if rate * size >= 1),
        ("day", 86400),
    )
    per_unit = rate * size
    return f"{per_unit:,.0f} tasks per {unit}" if per_unit >= 100 else f"{per_unit:.3g} tasks per {unit}"


def fields(job: Job, now: float) -> list[tuple[str, list[tuple[str, str | None]]]]:
    """Return further fields of a job: each name with its texts and their links, if any. Empty fields are left out."""
    labels = [f"{label}={value}" for label, value in sorted(job["labels"].items())]
    rows: list[tuple[str, list[tuple[str, str | None]]]] = [
        ("Owner", [] if job["owner"] is None else [(job["owner"], _jobs_with("owner", job["owner"]))]),
        ("Labels", [(label, _jobs_with("label", label)) for label in labels]),
    ]
    reused, sources = reused_tasks(job)
    if reused:
        rows.append(("Reused", [(f"{reused:,} of {pluralize(job['tasks_total'], 'task')}", None)]))
        rows.append(("Reused from", [(source, job_path(source)) for source in sources[:SHOWN_MEMBERS]]))
    heartbeat = job["heartbeat_at"] if job["is_active"] else None
    plain = [
        ("Queued", queued_text(job)),
        ("Running" if job["is_active"] else "Ran", run_text(job)),
        ("Heartbeat", None if not heartbeat else moment(heartbeat, now).ago),
        ("Note", note_text(job)),
        ("Engine", job["engine"]),
        ("Kubernetes", kubernetes_text(job)),
        ("Slurm", slurm_text(job)),
        ("Metadata", metadata_text(job)),
        ("Results", job["results_path"]),
        ("Validation", job["last_validation_error"]),
    ]
    rows += [(name, [(str(text), None)]) for name, text in plain if text is not None]
    return [(name, texts) for name, texts in rows if texts]


def _jobs_with(name: str, value: object) -> str:
    return f"/jobs?{urlencode({name: value})}"


def family(found: Family, job_id: str) -> dict[str, Any]:
    """Return the family of a job: its sum, the children of the job, and its members, each after its parent."""
    done, total = found.tasks_completed, found.tasks_total
    newest = next(member for member in found.members if member.job_id == found.newest)
    return {
        "tasks": None if total is None or done is None else f"{done:,} of {total:,}",
        "bar": None
        if total is None or done is None
        else Bar(round(min(100.0, 100 * done / total), 1), 0, f"{done:,} of {total:,} tasks"),
        "kind": status(newest.status).kind,
        "jobs": len(found.members),
        "used": usage_text(found.usage),
        "children": [(child, job_path(child)) for child in found.children[:SHOWN_MEMBERS]],
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


def outputs(job: Job) -> dict[str, Any] | None:
    """Return the verified and the missing outputs; None if they were not validated."""
    counts = count_outputs(job)
    if counts is None:
        return None
    names = [str(name) for name in job["missing_outputs"][:SHOWN_OUTPUTS]]
    missing = missing_text(job, counts[1])
    more = max(0, counts[1] - len(names))
    when = "" if job["is_active"] else "When it ended, "
    return {"when": when, "verified": counts[0], "missing": missing, "names": names, "more": more}


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


def stragglers(job: Job, texts: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the tasks that take longer than the finished ones explain; None if there are none.

    Args:
        job: the job.
        texts: the events of stragglers whose tasks are still at work.
    """
    text = stragglers_text(job)
    if text is None:
        return None
    rows = [
        {
            "task": event["task"],
            "to": f"{job_path(job['job_id'])}/logs?{urlencode({'task': event['task']})}",
            "text": str(event.get("text", "")),
        }
        for event in texts
    ]
    return {"text": text, "rows": rows}


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
            took = UNKNOWN if end is None else human_duration(max(0.0, end - begin))
            rows.append({"status": name, "at": whole_seconds(str(step["at"])), "took": "" if is_end else took})
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

"""Turn jobs and events into values for the templates: texts and links."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from markupsafe import Markup, escape

from mopsjobs.app.following.event_feed import event_text
from mopsjobs.app.jobs.job_card import end_text, late_end_text, stragglers_text
from mopsjobs.cache.job_json import NO_UPDATE, RUNNER_ENDED, SILENT_SECONDS
from mopsjobs.cache.queries.events import StoredEvent
from mopsjobs.cache.queries.sweeps import Sweep
from mopsjobs.cache.rows import error_of, study_of
from mopsjobs.ledger.attempt import FAILED_OUTCOMES
from mopsjobs.registry.calibration_counts import best_text, round_word
from mopsjobs.registry.notes import TASK_HANGS
from mopsjobs.registry.status import BEFORE_RUNNING, STATUSES
from mopsjobs.utils.text import cut_to_length, out_of, strip_control_characters
from mopsjobs.utils.times import (
    from_timestamp,
    human_age,
    human_duration,
    human_range,
    json_time,
    parse_time,
    whole_seconds,
)

Job = dict[str, Any]

_QUOTED = re.compile(r'("(?:[^"\\]|\\.)*")')
"""A text as JSON has it."""

KINDS = frozenset(STATUSES)
"""The statuses that have a colour and an icon of their own; all others look alike."""


CLASSES = {"failed": "failed", "succeeded": "succeeded", "cancelled": "cancelled", "missing": "partial"}
CLASSES["preempted"] = CLASSES["cancelled"]
"""The class of the colour of each kind of tasks. Those that wait have none."""

FAILED_STATUSES = ",".join(FAILED_OUTCOMES)

MAX_VALUE = 60

MAX_COMPARED = 5


def job_path(job_id: object) -> str:
    """Return the path of a job's page."""
    return f"/jobs/{quote(str(job_id), safe='')}"


def choices(texts: Mapping[str, str], chosen: str, text: str | None = None) -> list[tuple[str, str]]:
    """Return the values of a form's field with their texts, and the chosen value with its text besides them."""
    return [*texts.items(), *([] if chosen in texts else [(chosen, text or chosen)])]


def log_link(job_id: object, task: object) -> str:
    """Return the address of the log of a task."""
    return f"{job_path(job_id)}/logs?{urlencode({'task': task})}"


def tasks_link(job_id: object, error: str | None = None) -> str:
    """Return the address of the failed tasks of a job, or of those with an error."""
    chosen = {"rows": "tasks", "status": FAILED_STATUSES} | ({} if error is None else {"error": error})
    return f"{job_path(job_id)}/results?{urlencode(chosen)}"


def compare_path(ids: Iterable[str]) -> str:
    """Return the address of the page that compares jobs."""
    return f"/compare?{urlencode([('job', one) for one in ids])}"


class Status(NamedTuple):
    """A status: its name, and the class that gives it a colour and an icon."""

    name: str
    kind: str


class Moment(NamedTuple):
    """A time: when, and how long ago."""

    at: str
    ago: str


class Bar(NamedTuple):
    """The tasks of a job: percentages of those that are done and of those that failed, and all of it in words."""

    done: float
    failed: float
    words: str


def status(name: object) -> Status:
    """Return a status for a template."""
    text = str(name)
    return Status(text, text if text in KINDS else "unknown")


def moment(at: object, now: float) -> Moment:
    """Return a time for a template: one of a record, or seconds since 1970."""
    if isinstance(at, int | float):
        return Moment(whole_seconds(json_time(from_timestamp(at))), human_age(now - at))
    return Moment(whole_seconds(str(at)), human_age(now - parse_time(str(at)).timestamp()))


def row(job: Job, now: float, known_to: float) -> dict[str, Any]:
    """Return a row of the table of jobs, for a job as scripts get it.

    Args:
        job: the job.
        now: seconds since 1970.
        known_to: up to when the registry was read.
    """
    done, failed, total = job["tasks_completed"], job["tasks_failed"] or 0, job["tasks_total"]
    ended = None if job["ended_at"] is None else moment(job["ended_at"], now)
    text, title = (ended.ago, ended.at) if ended else _done(job, now)
    created, late = moment(job["created_at"], now), stragglers_text(job)
    return {
        "id": job["job_id"],
        "sweep": None,
        "status": status(job["status"]),
        "suspect": _suspect_text(job, late, known_to),
        "study": study_of(job["metadata"]),
        "labels": ", ".join(f"{label}={value}" for label, value in sorted(job["labels"].items())),
        "owner": job["owner"],
        "bar": _bar(done, failed, total),
        "tasks": out_of(done, total) if total else f"{done:,}" if done else "",
        "failed": failed,
        "error": error_of(job["error_code"], job["error_message"]),
        # That it will not finish before its time limit, or the tasks that take longer than the others explain.
        "late": late_end_text(job, from_timestamp(now)) or late,
        "best": "",
        # When it ended or should end, or how long it waits.
        "done": text,
        "done_title": title,
        "ended": None if ended is None else ended.at,
        "since": created.at if job["is_active"] else None,  # the script counts how long that is ago
        "waits": job["status"] in BEFORE_RUNNING,
        # The page of the job has these too.
        "created": created,
        "duration": human_duration(job["duration_seconds"]),
    }


def calibration_row(found: dict[str, Any], counts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a calibration: with its rounds in place of its tasks, and its best set."""
    text = f"{out_of(counts['rounds'], counts['at_most'])} {round_word(counts)}s"
    share = min(100.0, round(100 * counts["rounds"] / max(1, counts["at_most"]), 1))
    return found | {"tasks": text, "bar": Bar(share, 0, text), "best": best_text(counts).removeprefix("best ")}


def sweep_row(sweep: Sweep, now: float) -> dict[str, Any]:
    """Return a row of the table of jobs that is a sweep."""
    done, total = sweep.tasks_completed, sweep.tasks_total
    ended = None if sweep.ended is None else moment(sweep.ended, now)
    return {
        "id": None,
        "sweep": sweep.name,
        "status": status(sweep.status),
        "study": sweep.study,
        "labels": "",
        "owner": sweep.owner,
        "bar": _bar(done, 0, total),
        "tasks": out_of(done, total) if total else f"{done:,}" if done else "",
        "counts": sweep.counts_text(with_best=False),
        "best": sweep.best_text,
        "is_faulty": sweep.suspect > 0 or any(name in sweep.statuses for name in ("failed", "partial")),
        "resumed": None,
        "waits": False,
        "done": "" if ended is None else ended.ago,
        "done_title": None,
        "ended": None if ended is None else ended.at,
        "since": None if ended else moment(sweep.created, now).at,
    }


def _suspect_text(job: Job, late: str | None, known_to: float) -> str | None:
    """Return what is wrong with an active job, as `no sign of life for 5m`; None if nothing is."""
    suspect: str | None = job["suspect"]
    if suspect == TASK_HANGS and late is not None:
        return late
    if suspect == RUNNER_ENDED:
        return "its runner has ended"
    if suspect != NO_UPDATE:
        return suspect
    silent = 0.0 if job["heartbeat_at"] is None else known_to - parse_time(job["heartbeat_at"]).timestamp()
    return f"no sign of life for {human_duration(silent)}" if silent > SILENT_SECONDS else "no sign of life"


def _bar(done: int, failed: int, total: int) -> Bar | None:
    if not total:
        return None
    words = f"{done:,} of {total:,} tasks done" + (f", {failed:,} failed" if failed else "")
    share = min(100.0, 100 * done / total)
    # A failed task among thousands is seen too.
    return Bar(round(share, 1), round(min(100 - share, max(100 * failed / total, 2 if failed else 0)), 1), words)


def _done(job: Job, now: float) -> tuple[str, str | None]:
    """Return when an active job should end, or how long it waits, short and in full."""
    if job["status"] in BEFORE_RUNNING:
        return human_duration(job["duration_seconds"]), None
    if job["eta_latest"] is None:
        return "", None
    earliest, latest = (parse_time(job[name]).timestamp() - now for name in ("eta_earliest", "eta_latest"))
    return f"in {human_range(earliest, latest)}", end_text(job, from_timestamp(now))


def dots_of(dots: Iterable[tuple[int, int, int, float]], select: str, chosen: int | None) -> Markup:
    """Return the dots of tasks as links. They are many, so no template makes them.

    Args:
        dots: the place across and down of each, its task, and its value.
        select: the address of the page up to the number of a task.
        chosen: the task that is shown.
    """
    address = escape(select)
    links = [
        f'<a href="{address}task={task}#task" tabindex="-1"{" aria-current=true" * (task == chosen)}>'
        f'<path d="M{x} {y}h0"></path><title>Task {task}: {value:.6g}</title></a>'
        for x, y, task, value in dots
    ]
    return Markup("".join(links))  # noqa: S704 - numbers, and an address that is escaped


def lines(text: object) -> Markup:
    """Return text of several lines, each without control characters. A template filter."""
    return Markup("\n").join(
        strip_control_characters(line) for line in ("" if text is None else str(text)).splitlines()
    )


def isolated(text: object) -> Markup:
    """Return text in which names and values in quotes do not turn the writing direction of the rest. A filter."""
    parts = _QUOTED.split(strip_control_characters(str(text)))
    return Markup("").join(
        Markup("<bdi>{}</bdi>").format(part) if place % 2 else part for place, part in enumerate(parts)
    )


def value_text(value: object) -> str:
    """Return the value of a parameter in one line."""
    return cut_to_length(value if isinstance(value, str) else json.dumps(value), MAX_VALUE)


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

"""Describe a job for people: texts that the command line and the page share."""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from mopsjobs.app.jobs.next_steps import has_failed_tasks
from mopsjobs.errors import CacheError, command_line
from mopsjobs.registry.notes import NOTE, WAITS_FOR, has_unrecorded_note, label_history, note_history
from mopsjobs.registry.status import TERMINAL
from mopsjobs.utils.times import human_duration, human_range, parse_time

if TYPE_CHECKING:
    from mopsjobs.app.run.app import App

SHORT_RANGE = 600.0
"""Seconds. The ends of a shorter range are shown with seconds."""

UNKNOWN = "n/a"
"""In place of a time that no program reported."""


def duration_text(seconds: object) -> str | None:
    """Return a duration of a job for people; None if it is not known."""
    return human_duration(seconds) if isinstance(seconds, int | float) else None


def end_text(job: Mapping[str, object], now: datetime) -> str | None:
    """Return the range in which a job should end, and on what that rests; None if it is not known.

    For example `in 12m to 40m, 14:10 to 14:38 UTC (320 of 1,000 tasks ended, 8 at work)`. A job that its cluster stops
    before has no range: see `late_end_text`.
    """
    if job["eta_latest"] is None:
        return late_end_text(job, now)
    earliest, latest = (parse_time(str(job[name])) for name in ("eta_earliest", "eta_latest"))
    basis: Mapping[str, int] = job["eta_basis"]  # type: ignore[assignment]
    form = "%H:%M:%S" if (latest - earliest).total_seconds() < SHORT_RANGE else "%H:%M"
    begin, end = (f"{at:{form}}" if at.date() == now.date() else f"{at:%Y-%m-%d {form}}" for at in (earliest, latest))
    left = human_range(*((at - now).total_seconds() for at in (earliest, latest)))
    done = f"{basis['tasks_done']:,} of {job['tasks_total']:,} tasks ended, {basis['at_work']:,} at work"
    return f"in {left}, {begin} to {end} UTC ({done})"


def late_end_text(job: Mapping[str, object], now: datetime) -> str | None:
    """Return that a job will not finish before its time limit, and what to type then; None if nothing says so."""
    if job["time_limit_at"] is None:
        return None
    from mopsjobs.registry.usage import time_limit_text  # here: few jobs are late

    return time_limit_text(job["job_id"], (parse_time(str(job["time_limit_at"])) - now).total_seconds())


def stragglers_text(job: Mapping[str, object]) -> str | None:
    """Return how long the tasks are at work that take longer than the others explain; None if there are none."""
    if job["stragglers"] is None:
        return None
    from mopsjobs.registry.usage import late_text  # here: few jobs have stragglers

    return late_text(job["stragglers"])


def usage_text(usage: Mapping[str, Any]) -> str | None:
    """Return what tasks used: processor time, of how much that was held, time and memory; None if it is not known.

    Args:
        usage: a job, or a sum over jobs, with the fields of usage.
    """
    cpu, held, share = usage["cpu_seconds"], usage["held_core_seconds"], usage["cpu_efficiency"]
    texts = []
    if cpu is not None:
        of_held = "" if held is None or share is None else f" of {human_duration(held)} held ({100 * share:.0f} %)"
        texts.append(f"CPU {human_duration(cpu)}{of_held}")
    if usage["task_seconds"] is not None:
        texts.append(f"tasks {human_duration(usage['task_seconds'])}")
    if usage["max_rss_bytes"] is not None:
        texts.append(f"peak memory {memory_text(usage['max_rss_bytes'])}")
    return ", ".join(texts) or None


def memory_text(size: float | None) -> str | None:
    """Return a size of memory for people, in MiB or GiB; None if it is not known."""
    if size is None:
        return None
    return f"{size / 2**20:,.0f} MiB" if size < 10 * 2**30 else f"{size / 2**30:,.1f} GiB"


def failed_tasks_text(job: Mapping[str, object], app: App) -> str | None:
    """Return how many tasks failed, and why as far as the cache has the ledger of the job; None if none did."""
    job_id = str(job["job_id"])
    if app.settings.is_local and job["tasks_failed"]:  # views of an embedded registry are live
        from mopsjobs.app.jobs.job_tasks import mirror_failures

        mirror_failures(job, app)

    def view(connection: sqlite3.Connection) -> str | None:
        if connection.execute("SELECT 1 FROM ledger WHERE job_id = ?", (job_id,)).fetchone() is None:
            return None
        from mopsjobs.cache.queries.task_ends import describe_failures  # here: few jobs are looked at

        return describe_failures(connection, job_id, job["tasks_failed"])

    text = None
    with contextlib.suppress(CacheError):  # the record may come from the registry
        text = app.cache.read_cached(view)
    if text is None and has_failed_tasks(job):
        return f"{job['tasks_failed']:,}; to see why: {command_line('failures', job_id)}"
    return text


def step_time(step: Mapping[str, object]) -> datetime | None:
    """Return the time of a step in a job's history; None if no program reported it."""
    return None if step["at"] is None else parse_time(str(step["at"]))


def waits_for_text(job: Mapping[str, object]) -> str | None:
    """Return what the tasks of an active job wait for; None if nothing is known."""
    text = metadata_of(job).get(WAITS_FOR)
    return text if isinstance(text, str) and job["status"] not in TERMINAL else None


def note_text(job: Mapping[str, object]) -> str | None:
    """Return the last note of a user about a job; None if it has none."""
    note = metadata_of(job).get(NOTE)
    return note if isinstance(note, str) and note else None


class Annotation(NamedTuple):
    """A note, or a change of labels: when, by whom, and its text. Of another program, neither may be known."""

    at: datetime | None
    by: str | None
    text: str


def annotations_of(job: Mapping[str, object]) -> list[Annotation]:
    """Return the notes and the changes of labels of a job, oldest first. A note without a time is before the next."""
    metadata = metadata_of(job)
    found = [(entry, label_change_text(entry["labels"])) for entry in label_history(metadata)]
    found += [(entry, entry["text"] or "(note removed)") for entry in note_history(metadata)]
    if has_unrecorded_note(metadata):
        found.append(({"at": None, "by": None}, str(metadata[NOTE])))
    placed: list[tuple[float, int, Annotation]] = []
    following = math.inf
    for place, (entry, text) in reversed(list(enumerate(found))):
        at = None if entry["at"] is None else parse_time(entry["at"])
        following = following if at is None else at.timestamp()
        placed.append((following, place, Annotation(at, entry["by"], text)))
    return [one for *_, one in sorted(placed, key=lambda each: each[:2])]


def label_change_text(labels: Mapping[str, object]) -> str:
    """Return a change of labels in words, such as `paper=fig2, without draft`."""
    changes = sorted(labels.items())
    return ", ".join(f"without {label}" if value is None else f"{label}={value}" for label, value in changes)


def metadata_of(job: Mapping[str, object]) -> Mapping[str, Any]:
    """Return the metadata of a job, in which other programs may have written anything; empty without a mapping."""
    metadata = job["metadata"]
    return metadata if isinstance(metadata, Mapping) else {}

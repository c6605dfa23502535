"""Describe a job for people: texts that the command line and the page share."""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from mopsjobs.app.jobs.next_steps import has_failed_tasks
from mopsjobs.errors import CacheError, command_line, shorten
from mopsjobs.registry.notes import NOTE, WAITS_FOR, has_unrecorded_note, label_history, note_history
from mopsjobs.registry.status import BEFORE_RUNNING, TERMINAL
from mopsjobs.utils.times import human_duration, human_range, parse_time

if TYPE_CHECKING:
    from mopsjobs.app.run.app import App

SHORT_RANGE = 600.0
"""Seconds. The ends of a shorter range are shown with seconds."""

MAX_VALUES = 10
"""Values of metadata that are shown. A program may write any number."""

MAX_VALUE = 200
"""Characters of one: a reference to an image fits."""

UNKNOWN = "n/a"
"""In place of a time that no program reported."""


def duration_text(seconds: object) -> str | None:
    """Return a duration of a job for people; None if it is not known."""
    return human_duration(seconds) if isinstance(seconds, int | float) else None


def queued_text(job: Mapping[str, object]) -> str:
    """Return how long a job waited for its first task."""
    return duration_text(job["queued_seconds"]) or UNKNOWN


def run_text(job: Mapping[str, object]) -> str | None:
    """Return how long a job ran; None if no task has run."""
    # A known wait without a start is that of a job that ended before its first task.
    if job["run_seconds"] is None and (job["status"] in BEFORE_RUNNING or job["queued_seconds"] is not None):
        return None
    return duration_text(job["run_seconds"]) or UNKNOWN


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
        from mopsjobs.cache.queries.failed_tasks import describe_failures  # here: few jobs are looked at

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


def kubernetes_text(job: Mapping[str, object]) -> str | None:
    """Return namespace and name of a job's Kubernetes Job; None if the record has neither."""
    namespace, name = job["k8s_namespace"], job["k8s_name"]
    return None if namespace is None and name is None else f"{namespace or 'default'}/{name or '?'}"


def slurm_text(job: Mapping[str, object]) -> str | None:
    """Return the job array of a job on Slurm, with its partition and its cluster; None if the record has none."""
    metadata = _metadata(job) if job["engine"] == "slurm" else {}
    if not isinstance(array_id := metadata.get("slurm_job_id"), str):
        return None
    places = ((" in partition", metadata.get("slurm_partition")), (" of", metadata.get("slurm_cluster")))
    return f"job {array_id}" + "".join(f"{word} {place}" for word, place in places if isinstance(place, str))


def metadata_text(job: Mapping[str, object]) -> str | None:
    """Return the metadata of a job that mops-jobs did not submit, such as ModelOps' image and type; None without any.

    Other lines show what mops-jobs writes into metadata.
    """
    metadata = _metadata(job)
    if "bundle" in metadata:
        return None
    values = ((name, value) for name, value in metadata.items() if isinstance(value, (str, int, float)))
    shown = [f"{name}: {shorten(str(value), MAX_VALUE)}" for name, value in values if name not in (NOTE, WAITS_FOR)]
    return ", ".join(shown[:MAX_VALUES]) or None


def waits_for_text(job: Mapping[str, object]) -> str | None:
    """Return what the tasks of an active job wait for; None if nothing is known."""
    text = _metadata(job).get(WAITS_FOR)
    return text if isinstance(text, str) and job["status"] not in TERMINAL else None


def deferred_text(job: Mapping[str, Any]) -> str | None:
    """Return how many tasks a job leaves to a later resume; None if it was to run all. Its record may hold anything."""
    count, total = _metadata(job).get("n_deferred_tasks"), job["tasks_total"]
    if type(count) is not int:
        return None
    count = min(count, total - job["tasks_completed"] - (job["tasks_failed"] or 0))
    return f"{count:,} of {total:,} tasks, left to a later resume" if count > 0 else None


def note_text(job: Mapping[str, object]) -> str | None:
    """Return the last note of a user about a job; None if it has none."""
    note = _metadata(job).get(NOTE)
    return note if isinstance(note, str) and note else None


class Annotation(NamedTuple):
    """A note, or a change of labels: when, by whom, and its text. Of another program, neither may be known."""

    at: datetime | None
    by: str | None
    text: str


def annotations_of(job: Mapping[str, object]) -> list[Annotation]:
    """Return the notes and the changes of labels of a job, oldest first. A note without a time is before the next."""
    metadata = _metadata(job)
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


def _metadata(job: Mapping[str, object]) -> Mapping[str, Any]:
    metadata = job["metadata"]
    return metadata if isinstance(metadata, Mapping) else {}

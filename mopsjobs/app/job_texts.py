"""Describe a job for people: texts that the command line and the page share."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from mopsjobs.registry.status import BEFORE_RUNNING
from mopsjobs.utils.times import human_duration, parse_time

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


def step_time(step: Mapping[str, object]) -> datetime | None:
    """Return the time of a step in a job's history; None if no program reported it."""
    return None if step["at"] is None else parse_time(str(step["at"]))


def kubernetes_text(job: Mapping[str, object]) -> str | None:
    """Return namespace and name of a job's Kubernetes Job; None if the record has neither."""
    namespace, name = job["k8s_namespace"], job["k8s_name"]
    return None if namespace is None and name is None else f"{namespace or 'default'}/{name or '?'}"


def note_text(job: Mapping[str, object]) -> str | None:
    """Return the note of a user about a job; None if it has none."""
    metadata = job["metadata"]
    note = metadata.get("note") if isinstance(metadata, Mapping) else None
    return note if isinstance(note, str) and note else None

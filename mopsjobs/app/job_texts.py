"""Describe a job for people: texts that the command line and the page share."""

from __future__ import annotations

from collections.abc import Mapping

from mopsjobs.utils.times import human_duration


def duration_text(seconds: object) -> str | None:
    """Return a duration of a job for people; None if it is not known."""
    return human_duration(seconds) if isinstance(seconds, int | float) else None


def kubernetes_text(job: Mapping[str, object]) -> str | None:
    """Return namespace and name of a job's Kubernetes Job; None if the record has neither."""
    namespace, name = job["k8s_namespace"], job["k8s_name"]
    return None if namespace is None and name is None else f"{namespace or 'default'}/{name or '?'}"

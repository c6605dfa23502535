"""Tell why a job was ended before its tasks: by a limit of failures, or by the word of its cluster."""

from __future__ import annotations

from collections.abc import Mapping

from mopsjobs.engines import CLUSTER_ENGINES
from mopsjobs.engines.base import engine_of
from mopsjobs.registry.status import INFERRED_CODES
from mopsjobs.studies.validation import EARLY_CODES, INCOMPLETE, REDUCE

RUNNER_CODES = ("MODEL", "ENGINE")
"""Codes of the errors with which a runner ends its job."""

OWN_CODES = (*EARLY_CODES, INCOMPLETE, REDUCE, *INFERRED_CODES, *RUNNER_CODES)
"""Codes of errors that mops-jobs gives itself. Others are words of a cluster."""


def early_end_text(job: Mapping[str, object]) -> str | None:
    """Return why a job was ended before its tasks; None if it was not."""
    message = str(job["error_message"]).partition(";")[0]
    if is_ended_by_engine(job):
        return f"{job['error_code']}: {message}"
    return message if job["error_code"] in EARLY_CODES else None


def is_ended_by_engine(job: Mapping[str, object]) -> bool:
    """Return whether a job was ended by the word of its cluster. Its record then has that as the code of the error."""
    return job["error_code"] not in (None, *OWN_CODES) and engine_of(job) in CLUSTER_ENGINES

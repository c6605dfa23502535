"""Validation: decide how a job ends, by one comparison of its manifest with one listing of its outputs.

If all tasks are complete, the job is `succeeded`. If some are, it is `partial` and can be resumed. If none is, it is
`failed`.
"""

from __future__ import annotations

from typing import NamedTuple

from mopsjobs.errors import TerminalStateError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.status import JobStatus
from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.manifest import load_manifest
from mopsjobs.studies.outputs import find_complete_tasks, output_key
from mopsjobs.utils.times import record_time, utc_now

INCOMPLETE = "INCOMPLETE"
"""The error code of a job whose tasks have all been tried, and of which outputs are missing."""

FIRST = "FIRST"
"""The error code of a job that was ended because none of its first tasks succeeded."""

FAILURES = "FAILURES"
"""The error code of a job that was ended because too many of its tasks had failed."""

EARLY_CODES = (FIRST, FAILURES)

NAMED_MISSING = 5
"""Missing outputs that the record names. With all of them it would grow with the tasks."""


class EarlyEnd(NamedTuple):
    """Why a job is ended before all its tasks were tried."""

    code: str
    """One of `EARLY_CODES`, or the reason of the engine that ended it, for its record."""
    reason: str
    """A sentence without its full stop."""


class Validation(NamedTuple):
    """The result of a validation."""

    state: JobState
    tasks_total: int
    tasks_verified: int


def validate(
    store: VersionedStore,
    registry: JobRegistry,
    job_id: str,
    *,
    first_error: str | None = None,
    early: EarlyEnd | None = None,
    may_end: bool = True,
) -> Validation:
    """Compare a job's outputs with its manifest, and end the job accordingly.

    The record of a job that has ended does not change: such a job is only compared.

    Args:
        store: where manifest and outputs are.
        registry: where the record is.
        job_id: a job; to end it, one whose tasks have all been tried, or that has to end before.
        first_error: the error for the record, if outputs are missing.
        early: why the job ends before all its tasks were tried; None if they were.
        may_end: whether to end the job; else it is only compared.

    Raises:
        JobNotFoundError: if the job does not exist.
        NoManifestError: if the job has no manifest.
        InvalidTransitionError: if the job cannot be validated in its present status.
        StoreError: if the comparison failed. The job stays `validating`, and can be validated again.
    """
    manifest = load_manifest(store, job_id)
    state = registry.require_job(job_id)
    started_at = record_time(utc_now())
    if may_end and not state.is_terminal:
        try:
            state = registry.update_status(
                job_id,
                JobStatus.VALIDATING,
                validation_started_at=started_at,
                validation_attempts=state.validation_attempts + 1,
            )
        except TerminalStateError:  # another process has just ended it
            state = registry.get_job(job_id) or state
    completeness = find_complete_tasks(store, manifest)
    verified, total = completeness.count, manifest.tasks_total
    if may_end and not state.is_terminal:
        missing = (
            f"{output_key(job_id, task, '')}{name}"
            for position, task in manifest.tasks()
            if not completeness.complete[position]
            for name in manifest.study.outputs or ("",)
        )
        missing_outputs = [name for name, _ in zip(missing, range(NAMED_MISSING), strict=False)]
        status = JobStatus.SUCCEEDED if verified == total else JobStatus.PARTIAL if verified else JobStatus.FAILED
        deferred = sum(not completeness.complete[place] for place in manifest.positions(manifest.deferred))
        gap = _gap_text(total - verified, total, deferred)
        try:
            state = registry.update_status(
                job_id,
                status,
                tasks_verified=verified,
                missing_outputs=missing_outputs,
                validation_completed_at=record_time(utc_now()),
                results_path=f"results/{job_id}/",
                **_counts(state, verified, total),
                **({} if verified == total else _error_fields(gap, first_error, early)),
            )
        except TerminalStateError:  # another shard has ended the job, or it was cancelled
            state = registry.get_job(job_id) or state
    return Validation(state, total, verified)


def _gap_text(missing: int, total: int, deferred: int) -> str:
    """Return which tasks are missing, and how many of them the job was not to run."""
    if missing == deferred:
        return f"left to a later resume: {deferred} of {total} tasks"
    gap = f"{missing} of {total} tasks left no complete outputs"
    return f"{gap} (left to a later resume: {deferred})" if deferred else gap


def _error_fields(gap: str, first_error: str | None, early: EarlyEnd | None) -> dict[str, str]:
    """Return the error of a job for its record.

    Args:
        gap: which tasks are missing.
        first_error: the first error of a task, if there was one.
        early: why the job ends before all its tasks were tried; None if they were.
    """
    parts = [early and early.reason, gap, first_error and f"the first error: {first_error}"]
    return {
        "error_message": "; ".join(part for part in parts if part),
        "error_code": INCOMPLETE if early is None else early.code,
    }


def _counts(state: JobState, verified: int, total: int) -> dict[str, int]:
    """Return the counts of tasks for the record, if more are complete than its runner has reported before it was lost.

    A task that failed in its last run may have the outputs of an earlier one.
    """
    if verified <= state.tasks_completed:
        return {}
    return {"tasks_completed": verified, "tasks_failed": min(state.tasks_failed, total - verified)}

"""End a job whose runner has not reported its end. Whatever infers an end calls `infer_end`: the outputs decide.

See docs/decisions/0103-inferred-ends.md.
"""

from __future__ import annotations

from typing import NamedTuple

from mopsjobs.engines.base import EngineTimes, ShardEnd
from mopsjobs.errors import NoManifestError
from mopsjobs.events.format import RUNNER
from mopsjobs.events.writer import record_event
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.status import JobStatus
from mopsjobs.studies.outputs import SizesOf
from mopsjobs.studies.validation import EarlyEnd, Validation, end_by_outputs
from mopsjobs.submission.lost_attempts import failed_tasks, record_lost
from mopsjobs.submission.session import Session
from mopsjobs.submission.shard_drop import first_error


class RunnerEnd(NamedTuple):
    """The end of the runners of a job, as far as it is known."""

    code: str | None = None
    """The code of the error, if outputs are missing; None: all tasks may have been tried."""
    reason: str | None = None
    """A sentence for the error."""
    times: EngineTimes = EngineTimes()
    lost: tuple[ShardEnd, ...] = ()
    """The shards that ended before their tasks."""
    is_stated: bool = False
    """Whether the engine states the end. Then it also ends a job without a manifest, of which no outputs are known."""


def infer_end(judged: JobState, end: RunnerEnd, session: Session, sizes_of: SizesOf | None = None) -> Validation:
    """End a job as its outputs decide, or correct an end that was inferred before.

    Args:
        judged: the record from which it follows that no runner is at work. If a runner has reported since, the job
            does not end.
        end: what is known of its runners.
        session: the registry, the environment and the messages.
        sizes_of: tells the sizes that outputs are to have; None: any.

    Raises:
        NoManifestError: if the job has no manifest, and no engine states the end.
        InvalidTransitionError: if a runner has reported meanwhile, or the job cannot end in its present status.
        TerminalStateError: if the job has no manifest, and another program has ended it.
        StoreError: if the comparison failed, or the record cannot be written.
    """
    registry, store, times = session.registry, session.store, end.times
    if times.started_at is not None and not judged.is_terminal and judged.status != JobStatus.VALIDATING:
        # In a write of its own, which makes the start a reported step. It changes nothing if the record has the step.
        judged = registry.backdated_to(times.started_at).update_status(judged.job_id, JobStatus.RUNNING)
    at_end = registry.backdated_to(times.ended_at)
    record_lost(store, judged, end.lost)
    failed = failed_tasks(store, judged.job_id)
    is_early = end.code is not None
    early = EarlyEnd(str(end.code), str(end.reason).rstrip(".")) if is_early else None
    error = first_error(judged, session) or (None if is_early else end.reason)
    try:
        validation = end_by_outputs(
            store, at_end, judged, first_error=error, early=early, failed=failed, sizes_of=sizes_of
        )
    except NoManifestError:
        if not end.is_stated:
            raise
        status = JobStatus.FAILED if is_early else JobStatus.SUCCEEDED
        fields = {"error_code": end.code, "error_message": end.reason} if is_early else {}
        return Validation(at_end.infer_end(judged, status, **fields), 0, 0)
    if judged.is_terminal and validation.state.status != judged.status:
        text = (
            f"corrected from {judged.status} ({judged.error_code}) to {validation.state.status}:"
            f" {validation.tasks_verified} of {validation.tasks_total} tasks have left complete outputs"
        )
        record_event(store, judged.job_id, RUNNER, now=session.now, text=text)
        session.note(f"{judged.job_id}: {text}")
    return validation

"""Jobs whose tasks failed at known times, of known owners."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from support.ledgers import Ledger, attempt, put_manifest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from mopsjobs.ledger.attempt import AttemptError
    from mopsjobs.registry.job_registry import JobRegistry

TASKS = 40


def fail(
    jobs: JobRegistry,
    job_id: str,
    errors: Mapping[int, AttemptError],
    at: float,
    *,
    status: str = "partial",
    only: Collection[int] | None = None,
    ended: int = TASKS,
    **own: Any,
) -> None:
    """Run a job of 40 tasks, each a minute after the one before, of which some fail.

    Args:
        jobs: the registry.
        job_id: the job; that of a child with `only`.
        errors: the error of each task that fails, by its number.
        at: when task 0 begins, in seconds since 1970.
        status: how the job ends; `running` if it does not.
        only: the tasks that the job has; None for all.
        ended: the number of the first task that has not ended.
        own: fields of the record, such as `owner`.
    """
    sets = [{"params": {"n": number}} for number in range(TASKS)]
    manifest = put_manifest(jobs.store, job_id, sets, only=only)
    jobs.register_job(job_id, **manifest.record_fields() | own)
    jobs.update_status(job_id, "running")
    numbers = range(ended) if only is None else only
    ends = {number: "failed" if number in errors else "succeeded" for number in numbers}
    Ledger(jobs.store, job_id)(
        *(attempt(number, end, error=errors.get(number), started_at=at + 60 * number) for number, end in ends.items())
    )
    jobs.update_progress(job_id, len(ends) - len(errors), tasks_failed=len(errors))
    if status != "running":
        jobs.update_status(job_id, status)

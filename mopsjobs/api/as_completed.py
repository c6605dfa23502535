"""Iterate over tasks and jobs as they end. An interrupt ends only the wait, and says so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from mopsjobs.api.arguments import Duration, seconds_of
from mopsjobs.api.task_info import TaskInfo
from mopsjobs.errors import UsageError

if TYPE_CHECKING:
    from mopsjobs.api.job import Job
    from mopsjobs.api.registry import Registry
    from mopsjobs.app.run.app import App

T = TypeVar("T")


def tasks_as_completed(
    job_id: str, app: App, timeout: Duration | None, interval: Duration | None
) -> Iterator[TaskInfo]:
    """Return an iterator over the tasks of a job as they end; see `Job.as_completed`.

    Raises:
        UsageError: if a time is invalid.
    """
    from mopsjobs.app.following.ended_tasks import ended_tasks

    batches = ended_tasks(job_id, app, timeout=seconds_of(timeout), interval=seconds_of(interval))
    tasks = (TaskInfo(ended.task.to_json(), ended.scalars) for batch in batches for ended in batch)
    return _until_interrupted(tasks, [job_id])


def jobs_as_completed(
    jobs: Sequence[Job], registry: Registry, timeout: Duration | None, interval: Duration | None
) -> Iterator[Job]:
    """Return an iterator over jobs as they end; see `Registry.as_completed`.

    Raises:
        UsageError: if a time is invalid, or if an item is not a job of this registry.
    """
    from mopsjobs.app.following.wait import ended_jobs

    for job in jobs:
        place: Registry | None = getattr(job, "registry", None)
        if place is None:
            raise UsageError(f"invalid job {job!r}: expected a handle.", hint="Use the registry's job() to find one.")
        if place.identity != registry.identity:
            raise UsageError(f"Job {job.id} is in another registry: {place.url}, not {registry.url}.")
    by_id = {job.id: job for job in jobs}
    batches = ended_jobs(list(by_id), registry.app, timeout=seconds_of(timeout), interval=seconds_of(interval))
    return _until_interrupted((by_id[job_id] for batch in batches for job_id in batch), list(by_id))


@contextlib.contextmanager
def noting_what_goes_on(job_ids: Sequence[str]) -> Iterator[None]:
    """Add to an interrupt that jobs go on, as its traceback then says."""
    try:
        yield
    except KeyboardInterrupt as error:
        subject = f"Job {job_ids[0]} goes on" if len(job_ids) == 1 else f"{len(job_ids)} jobs go on"
        error.add_note(f"{subject}; only the wait was interrupted.")
        raise


def _until_interrupted(items: Iterator[T], job_ids: Sequence[str]) -> Iterator[T]:
    with noting_what_goes_on(job_ids):
        yield from items

"""Find the job whose outputs a command reads. A job may have outputs alone, without a record."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mopsjobs.app.jobs.find_job import find_by_name, find_state
from mopsjobs.app.jobs.job_tasks import ledger_sizes
from mopsjobs.app.run.app import App
from mopsjobs.cache.queries.events import task_errors
from mopsjobs.errors import LATEST, CacheError, JobNotFoundError, StoreError
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.status import JobStatus
from mopsjobs.studies.lineage import family_of
from mopsjobs.studies.outputs import results_prefix
from mopsjobs.studies.results import TABLE, DownloadResult, download
from mopsjobs.utils.text import pluralize
from mopsjobs.utils.written_tables import note_table


class JobWithOutputs(NamedTuple):
    """A job whose outputs are read."""

    job_id: str
    state: JobState | None
    """Its record; None if it has outputs alone."""

    @property
    def tasks_lost(self) -> int:
        """Count the tasks whose outputs a job without outputs had at its end."""
        return self.state.tasks_verified if self.state is not None and self.state.is_terminal else 0

    def describe_absence(self) -> str:
        """Return the sentence for a job without outputs."""
        what = "has no outputs yet"
        if self.tasks_lost:
            what = f"has lost the outputs of all {pluralize(self.tasks_lost, 'task')} that had them"
        elif self.state is not None and self.state.is_terminal:
            what = f"has ended ({self.state.status}) and has no outputs"
        return f"Job {self.job_id} {what}."


def find_job_with_outputs(name: str, app: App) -> JobWithOutputs:
    """Return a job as `find_state` finds it. One without a record is found by its full id, if it has outputs.

    Raises:
        JobNotFoundError: if there is neither a record nor an output of the job.
        AmbiguousJobError: if several ids begin with a short name, and are not all of one family.
        StoreError: if the registry cannot be read.
    """

    def find(job_id: str) -> JobWithOutputs:
        try:
            state = find_state(job_id, app)
        except JobNotFoundError:
            if job_id is LATEST or next(iter(app.store.list_keys(results_prefix(job_id))), None) is None:
                raise
            return JobWithOutputs(job_id, None)
        return JobWithOutputs(state.job_id, state)

    return find_by_name(name, find, app)


def download_outputs(
    job: JobWithOutputs, directory: Path, app: App, on_progress: Callable[[int], None] | None
) -> DownloadResult:
    """Download the outputs of a job with a table of its tasks, and compare their sizes with its ledger.

    Raises:
        NoOutputsError, UsageError, MopsJobsError, StoreError: see `download`.
    """
    done = download(
        app.store,
        job.job_id,
        directory,
        on_progress=on_progress,
        errors=read_task_errors(job, app),
        sizes_of=functools.partial(ledger_sizes, app=app),
    )
    if done.summary is not None:
        note_table(str(directory / TABLE), app.env)
    has_succeeded = job.state is not None and job.state.status == JobStatus.SUCCEEDED
    lacking = done.summary.tasks - done.summary.complete if done.summary is not None and has_succeeded else 0
    return done._replace(lacking=lacking)


def read_task_errors(job: JobWithOutputs, app: App) -> dict[int, str]:
    """Return the last error of each task of a job and its ancestors, by the number of the task. None if it succeeded.

    It costs one listing of events per member of the family. If they cannot be read, a warning says so.
    """
    if job.state is None or job.state.status == JobStatus.SUCCEEDED:
        return {}
    errors: dict[int, str] = {}
    try:
        for member in reversed(family_of(app.store, job.job_id)):
            app.cache.sync_events(job_id=member.job_id)
            errors |= app.cache.read_cached(functools.partial(task_errors, job_id=member.job_id)) or {}
    except (StoreError, CacheError) as error:
        app.out.warn(f"{error} The table of tasks lacks errors.")
    return errors

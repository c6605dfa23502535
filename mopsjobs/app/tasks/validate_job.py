"""Validate a job by its name. A job whose runner is at work is only compared: ending it would stop its tasks."""

from __future__ import annotations

import contextlib
import functools
from typing import NamedTuple

from mopsjobs.app.jobs.find_job import find_state
from mopsjobs.app.jobs.job_tasks import ledger_sizes
from mopsjobs.app.jobs.lost_runners import end_lost_runner
from mopsjobs.app.jobs.next_steps import is_runner_dead
from mopsjobs.app.run.app import App
from mopsjobs.cache.job_json import SILENT_SECONDS
from mopsjobs.cache.queries.ledgers import note_lost_outputs, read_ledger
from mopsjobs.engines import has_drop, open_engine
from mopsjobs.errors import EngineError, MopsJobsError
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.status import JobStatus
from mopsjobs.studies.lineage import read_later_jobs
from mopsjobs.studies.validation import Validation, validate
from mopsjobs.submission.infer_end import RunnerEnd, infer_end
from mopsjobs.submission.offline import deliver_shards
from mopsjobs.submission.session import Session
from mopsjobs.submission.shard_drop import may_lack_files
from mopsjobs.utils.times import parse_time


class ValidatedJob(NamedTuple):
    """The result of a validation."""

    validation: Validation
    is_at_work: bool
    """Whether the job was only compared, since its runner is at work."""
    can_resume: bool = False
    """Whether `resume` runs the tasks again that have lost outputs: the job was not resumed before."""


def validate_job(name: str, app: App) -> ValidatedJob:
    """Compare a job's outputs with its manifest and its ledger. End the job accordingly unless its runner is at work.

    A job whose shards report by files that cannot be delivered is only compared, with a warning.

    Args:
        name: the full id of the job.
        app: the run.

    Raises:
        JobNotFoundError: if the job does not exist.
        NoManifestError: if the job has no manifest.
        InvalidTransitionError: if the job cannot be validated in its present status.
        EngineError: if Slurm does not answer about a job whose shards report by files.
        StoreError: if the registry cannot be read, or the comparison failed.
    """
    state, session = find_state(name, app), app.session()
    state = end_lost_runner(state.to_dict(), app) or state
    is_delivered = True
    try:
        state = deliver_shards(state, session)
    except EngineError as error:  # outputs that shards kept then wait
        if has_drop(state.fields()):
            app.out.warn(f"{error} The outputs were only compared.")
            is_delivered = False
    is_at_work = is_delivered and _is_at_work(state, app, session)
    sizes_of = functools.partial(ledger_sizes, app=app)
    if is_delivered and not is_at_work:
        found = infer_end(state, RunnerEnd(), session, sizes_of)
    else:
        found = validate(app.store, app.registry, state, may_end=False, sizes_of=sizes_of)
    can_resume = found.has_lost_outputs and not read_later_jobs(app.registry, found.state).jobs
    lost = found.state.tasks_verified - found.tasks_verified if found.has_lost_outputs else 0
    with contextlib.suppress(MopsJobsError):  # the views that follow tell it too
        if lost:
            app.cache.sync_ledger(state.job_id, full=True)
        ledger = app.cache.read_cached(lambda cache: read_ledger(cache, state.job_id))
        if ledger is not None and ledger.outputs_lost != lost:
            app.cache.write(lambda cache: note_lost_outputs(cache, state.job_id, lost))
    if found.state.is_terminal and not state.is_terminal:
        with contextlib.suppress(EngineError):
            deliver_shards(found.state, session)  # once more: nothing stays in a drop
    return ValidatedJob(found, is_at_work and not found.state.is_terminal, can_resume)


def _is_at_work(state: JobState, app: App, session: Session) -> bool:
    """Return whether the runner of a job has reported lately, and is not known to have ended on this machine."""
    job = state.fields()
    if not state.is_terminal and has_drop(job):  # the record has no sign of life
        engine = open_engine("slurm", app.env)
        return engine.state(job).may_be_at_work or may_lack_files(state, session, engine.times(job).ended_at)
    if state.status != JobStatus.RUNNING or state.heartbeat_at is None:
        return False
    silent = (app.now() - parse_time(state.heartbeat_at)).total_seconds()
    return silent <= SILENT_SECONDS and not is_runner_dead(job, app.env)

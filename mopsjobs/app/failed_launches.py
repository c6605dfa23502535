"""End jobs whose runner was launched on this machine and ended before its first report.

Such a runner was killed, or could not start. Nothing else would end its job. So `status`, `wait`, `logs` and
`reconcile` end it when they come across it. A job that `resume` had launched again may be running already; then its
outputs decide how it ends. See docs/decisions/0025-cancelling-and-suspects.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from mopsjobs.app.app import App
from mopsjobs.cache.job_json import SILENT_SECONDS
from mopsjobs.engines import LOCAL_ENGINES
from mopsjobs.engines.base import LAUNCH_FAILED
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.local import LocalEngine, failed_launch, launched_at
from mopsjobs.errors import InvalidTransitionError, MopsJobsError
from mopsjobs.events.format import RUNNER
from mopsjobs.events.writer import record_event
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.status import BEFORE_RUNNING, JobStatus
from mopsjobs.studies.validation import validate
from mopsjobs.submission.offline import has_undelivered
from mopsjobs.utils.times import parse_time


def end_failed_launch(job: Mapping[str, object], app: App) -> JobState | None:
    """End a job if its runner ended on this machine before its first report: as `failed`, or as its outputs decide.

    Args:
        job: the job, as JSON types.
        app: the run, whose registry has the job.

    Returns:
        The record of the job if it had to be ended, else None.

    Raises:
        StoreError: if the registry or what this machine keeps of the job cannot be read, or the record not be changed.
        TooManyRetriesError: if the race for the record was lost too often.
    """
    if not _has_no_report(job, app):
        return None
    job_id = str(job["job_id"])
    message = failed_launch(job_id, app.env)
    if message is None or has_undelivered(JobDir.for_job(job_id, app.env)):
        return None
    # Read after the look at the process: it may have reported until its end.
    state = app.registry.get_job(job_id)
    if state is None or not _has_no_report(state.fields(), app):
        return None
    # Before the record: a follower of the log stops when the record has ended.
    error = {"type": LAUNCH_FAILED, "message": message}
    record_event(app.store, job_id, RUNNER, now=app.now, text=message, error=error)
    info = {"code": LAUNCH_FAILED, "message": message}
    times = LocalEngine(app.env).times(job)
    at_end = app.registry.backdated_to(times.ended_at)
    try:
        if state.status == JobStatus.RUNNING:
            return validate(app.store, at_end, job_id, first_error=message).state
        if times.started_at is not None:  # it ended within a second of its first task
            app.registry.backdated_to(times.started_at).update_status(job_id, JobStatus.RUNNING)
        return at_end.finalize_job(job_id, JobStatus.FAILED, error_info=info)
    except InvalidTransitionError:  # another program was faster
        return app.registry.get_job(job_id)


def end_failed_launch_if_possible(job: Mapping[str, object], app: App) -> JobState | None:
    """Do as `end_failed_launch`; if it fails, print a warning and return None: a reader may lack the right to write."""
    try:
        return end_failed_launch(job, app)
    except MopsJobsError as error:
        app.out.warn(f"The runner of job {job['job_id']} ended before its first report, and its record stays: {error}")
        return None


def _has_no_report(job: Mapping[str, object], app: App) -> bool:
    """Return whether a runner of the job belongs to one machine, and has not reported since its launch.

    A running job also has to be silent, since a runner that was started by hand may be at work on another machine.
    """
    if job.get("engine") not in LOCAL_ENGINES:
        return False
    heartbeat, is_waiting = job.get("heartbeat_at"), job["status"] in BEFORE_RUNNING and not job.get("shards")
    if heartbeat is None:
        return is_waiting
    launched, reported = launched_at(str(job["job_id"]), app.env), parse_time(str(heartbeat))
    if launched is None or reported >= launched:
        return False
    is_silent = job["status"] == JobStatus.RUNNING and (app.now() - reported).total_seconds() > SILENT_SECONDS
    return is_waiting or is_silent

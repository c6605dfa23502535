"""End jobs whose runner was launched on this machine and ended without reporting the end of the job.

It was killed, or could not start, or its machine restarted. Nothing else would end its job. So each command that comes
across such a job ends it, as its outputs decide. What this machine keeps of the job is delivered before. See
docs/decisions/0103-inferred-ends.md.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from mopsjobs.app.run.app import App
from mopsjobs.cache.job_json import RUNNER_ENDED, SILENT_SECONDS
from mopsjobs.cache.write_through import mark_suspect
from mopsjobs.engines import LOCAL_ENGINES, runner_process
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.local import LocalEngine, last_words, launched_at, registry_of_runner, runner_end
from mopsjobs.errors import InvalidTransitionError, MopsJobsError
from mopsjobs.events.format import RUNNER
from mopsjobs.events.writer import record_event
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.status import (
    BEFORE_RUNNING,
    INTERRUPTED,
    LAUNCH_FAILED,
    RUNNER_LOST,
    TERMINAL,
    JobStatus,
)
from mopsjobs.submission.infer_end import RunnerEnd, end_growth, infer_end
from mopsjobs.submission.offline import complete_end, deliver_kept, keeps_of_runner
from mopsjobs.utils.files import directory_lock
from mopsjobs.utils.times import parse_time

SENDING_SECONDS = 60.0
"""How long a report takes at most to get its time: it is tried again while the store does not answer."""

NO_WORDS = "it left no message. It was stopped or killed, or this machine was restarted."


def end_lost_runner(job: Mapping[str, object], app: App) -> JobState | None:
    """End a job, as its outputs decide, if its runner is known to have ended on this machine without a word.

    Of a job that was cancelled, what the runner kept here is delivered, and counted.

    Args:
        job: the job, as JSON types.
        app: the run, whose registry has the job.

    Returns:
        The record of the job if it has ended, else None. None also if another process is about to launch or end it.

    Raises:
        StoreError: if the registry or what this machine keeps of the job cannot be read, or the record not be changed.
        TooManyRetriesError: if the race for the record was lost too often.
    """
    job_id = str(job["job_id"])
    directory = JobDir.for_job(job_id, app.env)
    if job.get("engine") not in LOCAL_ENGINES or runner_end(directory) is None:
        return None
    if job["status"] in TERMINAL and not (job["status"] == JobStatus.CANCELLED and keeps_of_runner(directory)):
        return None
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(directory_lock(str(directory.path), wait=False))
        except OSError:
            return None
        end = runner_end(directory)
        # Read after the look at the process: it may have reported until its end.
        state = app.registry.get_job(job_id) if end is not None else None
        if end is None or state is None or (not state.is_terminal and not _is_lost(state, end, directory, app)):
            return None
        if not state.is_terminal:
            return _end(state, directory, app)
    return complete_end(state, app.session())  # with that lock


def end_lost_runner_if_possible(job: Mapping[str, object], app: App) -> JobState | None:
    """Do as `end_lost_runner`. If it fails, print a warning, mark the job as suspect in the cache, and return None.

    A reader may lack the right to write.
    """
    try:
        return end_lost_runner(job, app)
    except MopsJobsError as error:
        app.out.warn(f"The runner of job {job['job_id']} has ended, and its record stays: {error}")
        _mark_in_cache(str(job["job_id"]), app)
        return None


def _mark_in_cache(job_id: str, app: App) -> None:
    with contextlib.suppress(MopsJobsError):
        app.cache.write(lambda cache: mark_suspect(cache, job_id, RUNNER_ENDED))


def end_lost_runners(job_ids: Iterable[str], app: App) -> None:
    """Do as `end_lost_runner_if_possible` with those of these jobs whose runners have ended, and note that."""
    for job_id in job_ids:
        directory = JobDir.for_job(job_id, app.env)
        is_ours = registry_of_runner(job_id, app.env) in (None, app.settings.registry_id)
        if runner_end(directory) is None or not is_ours:
            continue
        job = {"job_id": job_id, "engine": LOCAL_ENGINES[0], "status": JobStatus.RUNNING}  # as far as is known
        state = end_lost_runner_if_possible(job, app)
        if state is None or state.status == JobStatus.CANCELLED:
            with contextlib.suppress(OSError):
                directory.end_tried.touch()
                os.utime(directory.end_tried, (app.now().timestamp(),) * 2)


def _end(state: JobState, directory: JobDir, app: App) -> JobState | None:
    """Deliver what this machine keeps of a job, and end it."""
    session, job_id = app.session(), state.job_id
    deliver_kept(job_id, directory, session)
    current = app.registry.get_job(job_id)
    if current is None or current.is_terminal or current.heartbeat_at != state.heartbeat_at:
        return current
    try:
        end_growth(current, session)
    except InvalidTransitionError:
        _mark_in_cache(job_id, app)
        return None  # a client may go on with it, as soon as it has another runner
    words = last_words(directory)
    if not _has_reported(state, directory, app):
        code, message = LAUNCH_FAILED, f"The runner ended before its first report: {words or NO_WORDS}"
    elif signal := _last_report(directory).signal:
        code, message = INTERRUPTED, f"The runner was interrupted ({signal}), and finished tasks are kept."
    else:
        words = words if "Traceback (most recent call last)" in words else ""  # other messages tell of its tasks
        code, message = RUNNER_LOST, f"The runner ended before its job did: {words or NO_WORDS}"
    # Before the record: a follower of the log stops when the record has ended.
    record_event(app.store, job_id, RUNNER, now=app.now, text=message, error={"type": code, "message": message})
    end = RunnerEnd(code, message, LocalEngine(app.env).times(current.fields()), is_stated=True)
    try:
        return infer_end(current, end, session).state
    except InvalidTransitionError:  # another program was faster
        return app.registry.get_job(job_id)


def _has_reported(state: JobState, directory: JobDir, app: App) -> bool:
    """Return whether a runner of the job has reported since the last launch on this machine."""
    if state.heartbeat_at is None:
        return False
    launched = launched_at(state.job_id, app.env)
    return launched is None or parse_time(state.heartbeat_at) >= launched


def _is_lost(state: JobState, end: str, directory: JobDir, app: App) -> bool:
    """Return whether no other runner than the one that has ended may be at work: on another machine, for example.

    The last sign of life in the record has to be that of this runner, or the job has to be silent too.
    """
    if state.heartbeat_at is None:
        return state.status in BEFORE_RUNNING and not state.shards
    reported = parse_time(state.heartbeat_at)
    is_silent = (app.now() - reported).total_seconds() > SILENT_SECONDS
    sent_at, reported_at, _ = _last_report(directory)
    if reported_at == state.heartbeat_at:
        return is_silent or end == runner_process.BY_ITSELF
    if not _has_reported(state, directory, app):
        is_waiting = state.status in BEFORE_RUNNING and not state.shards
        return is_silent or (is_waiting and end == runner_process.BY_ITSELF)
    # It may have been killed between the write of its last report and its note of that.
    is_own = sent_at is not None and sent_at <= reported <= sent_at + timedelta(seconds=SENDING_SECONDS)
    return is_own and is_silent


class _Report(NamedTuple):
    """The last report of a runner on this machine."""

    sent_at: datetime | None = None
    reported_at: str | None = None
    """The last sign of life that was written from here."""
    signal: str = ""
    """The name of the signal that stopped the runner; empty if none did."""


def _last_report(directory: JobDir) -> _Report:
    reports = []
    for path in directory.report_files():
        with contextlib.suppress(OSError, ValueError):
            sent_at, reported_at, *signal = path.read_text("ascii").split()
            reports.append(_Report(parse_time(sent_at), reported_at, *signal[:1]))
    return max(reports, default=_Report())

"""Cancel jobs: first the record, then the engine.

Every runner obeys the record. A runner that sees it stops within seconds. A runner that the engine starts again finds
the job ended and does nothing. In the other order, a pod that is stopped while its record is `running` would be started
again, or would look lost. If this process dies between the two, or the cluster does not answer, cancel again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Literal, NamedTuple

from mopsjobs.engines import ENGINES, open_engine
from mopsjobs.engines.base import engine_of
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.local import runner_end
from mopsjobs.engines.trust import NotTrustedError, Trust
from mopsjobs.errors import (
    EngineError,
    EngineUnavailableError,
    MopsJobsError,
    StoreError,
    StoreUnavailableError,
    command_line,
)
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.notes import STOP_BY
from mopsjobs.registry.status import JobStatus
from mopsjobs.store.urls import identity, is_local
from mopsjobs.submission.offline import complete_end
from mopsjobs.submission.session import Session
from mopsjobs.submission.shard_drop import find_drop
from mopsjobs.utils.times import human_duration, record_time

LOOK_SECONDS = 0.5
"""How often engines are asked whether runners that were told to stop have ended."""

ENGINE_SECONDS = 2.0
"""How long the cluster may take to answer, after the registry did not."""


class CancelledJob(NamedTuple):
    """A job whose record is `cancelled`."""

    state: JobState
    engine: Literal["stopped", "nothing", "failed"] | None
    """What its engine did: `stopped`, `nothing` to stop, or `failed`; None: no engine of mops-jobs runs it."""
    problem: str | None = None
    """Why the engine failed, in a sentence."""
    note: str | None = None
    """That its runner has ended, or the next command, if its shards report by files."""


class CancelResult(NamedTuple):
    """The result of a cancellation. Each job is in one of the two, unless an outage left the rest undone."""

    jobs: tuple[CancelledJob, ...]
    refused: tuple[MopsJobsError, ...]
    """Why other jobs were not cancelled; an outage comes last."""

    @property
    def problems(self) -> list[str]:
        """Return why engines failed."""
        return [job.problem for job in self.jobs if job.problem is not None]

    @property
    def notes(self) -> list[str]:
        """Return the next commands for the jobs."""
        return [job.note for job in self.jobs if job.note is not None]


def cancel(
    job_ids: Sequence[str], session: Session, trust: Trust, reason: str | None = None, grace: float | None = None
) -> CancelResult:
    """Cancel jobs, and stop what runs them. A job that is cancelled already is stopped again.

    Args:
        job_ids: full ids.
        session: the registry and the environment.
        trust: the choices that the user has named. A job in a context without trust is cancelled, and not stopped.
        reason: kept in the records.
        grace: seconds that tasks with checkpoints may take to save before; None: none.

    Raises:
        StoreError: if the registry cannot be written, and no job was cancelled.
    """
    if grace is not None:
        _let_save(job_ids, session, trust, grace)
    cancelled: list[CancelledJob] = []
    refused: list[MopsJobsError] = []
    outages: dict[str, str] = {}
    for job_id in job_ids:
        try:
            state = session.registry.cancel_job(job_id, reason)
        except StoreError as error:
            if not cancelled:
                raise _with_hint(error, job_id, session) from None
            refused.append(error)
            break  # the other jobs would fail in the same way
        except MopsJobsError as error:
            refused.append(error)
            continue
        cancelled.append(_completed(_stop(state, session, trust, outages), session))
    return CancelResult(tuple(cancelled), tuple(refused))


def _let_save(job_ids: Sequence[str], session: Session, trust: Trust, grace: float) -> None:
    """Have the runners of jobs stop, and wait until their engines say that they have, or until the time is over."""
    stop_by = session.now() + timedelta(seconds=grace)
    told = []
    for job_id in job_ids:
        with contextlib.suppress(MopsJobsError):  # the cancellation tells why
            told.append(session.registry.update_fields(job_id, metadata={STOP_BY: record_time(stop_by)}).to_dict())
    if told:
        session.note(f"Tasks with checkpoints may save, up to {human_duration(grace)}.")
    while told and session.now() < stop_by:
        session.sleep(LOOK_SECONDS)
        told = [job for job in told if _may_be_at_work(job, session, trust)]


def _may_be_at_work(job: Mapping[str, object], session: Session, trust: Trust) -> bool:
    name = engine_of(job)
    try:
        return name not in ENGINES or open_engine(name, session.env, trust).state(job).may_be_at_work
    except (EngineError, NotTrustedError):
        return True


def _completed(job: CancelledJob, session: Session) -> CancelledJob:
    """Deliver and count what a runner that had ended kept here, or note how to deliver what shards report by files."""
    state = job.state
    if find_drop(state, session) is not None:
        command = command_line("validate", state.job_id)
        note = f"{state.job_id}: its shards report by files. When they have stopped, run: {command}"
        return job._replace(note=note)
    if job.engine != "nothing" or runner_end(JobDir.for_job(state.job_id, session.env)) is None:
        return job
    with contextlib.suppress(MopsJobsError):  # the next view of the job does it too
        state = complete_end(state, session)
    return job._replace(state=state, note=f"{state.job_id}: its runner has ended")


def records_to_stop(job_ids: Sequence[str], session: Session) -> list[dict[str, object]]:
    """Return the records of the jobs that `cancel` would stop. It refuses the others.

    Raises:
        StoreError: if the registry cannot be read.
    """
    found = []
    for job_id in job_ids:
        try:
            state = session.registry.get_job(job_id)
        except StoreError as error:
            raise _with_hint(error, job_id, session) from None
        except MopsJobsError:
            continue
        if state is not None and (not state.is_terminal or state.status == JobStatus.CANCELLED):
            found.append(state.to_dict())
    return found


def _with_hint(error: StoreError, job_id: str, session: Session) -> StoreError:
    """Add to an outage how to stop the job by hand, or that the engines do not know it."""
    if isinstance(error, StoreUnavailableError):
        from mopsjobs.engines.lookup import find_in_engines

        verb = None if is_local(session.registry_url) else "delete"
        ours = identity(session.registry_url, session.env)
        answer, why_not = find_in_engines(job_id, session.env, ENGINE_SECONDS, verb, ours)
        if answer is not None and answer.stop_command is not None:
            error.hint = f"To stop it by hand: {answer.stop_command}"
        elif why_not is not None:
            error.hint = " ".join(filter(None, (error.hint, why_not)))
    return error


def _stop(state: JobState, session: Session, trust: Trust, outages: dict[str, str]) -> CancelledJob:
    """Stop a job. A local one of another machine stops by itself when its runner sees the record.

    An engine that does not answer is asked once: `outages` tells why it did not, by engine and context.
    """
    job = state.to_dict()
    name = engine_of(job)
    if name not in ENGINES:
        return CancelledJob(state, None)
    place = f"{name} {state.metadata.get('k8s_context')}"
    problem = outages.get(place)
    if problem is None:
        try:
            is_stopped = open_engine(name, session.env, trust).cancel(job)
            return CancelledJob(state, "stopped" if is_stopped else "nothing")
        except NotTrustedError as error:
            problem = f"{state.job_id} is cancelled, but was not stopped: {error} {error.hint}"
            return CancelledJob(state, "failed", problem)
        except EngineError as error:
            problem = str(error)
            if isinstance(error, EngineUnavailableError):
                outages[place] = problem
    by_hand = ""
    if name == "kubernetes":
        from mopsjobs.engines.kubernetes.engine import kubectl_for

        by_hand = f" By hand: {kubectl_for('delete', job, session.env)}"
    elif name == "slurm":
        from mopsjobs.engines.slurm.engine import stop_by_name_command

        by_hand = f" By hand: {stop_by_name_command(state.job_id)}"
    problem = f"{state.job_id} is cancelled, but could not be stopped: {problem}{by_hand}"
    return CancelledJob(state, "failed", problem)

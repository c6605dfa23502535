"""What an engine says of its jobs, brought into the registry.

The engine's word that a job has ended ends its record, through the steps that nobody saw. Its silence never does: a
job that is gone, evicted or unheard of for long is only marked. The mark is `metadata.suspect`, `{reason, since}`:
metadata is carried along by every program that writes these records, old versions of ours and ModelOps' included, and
`list --stuck` reads it there. Metadata is merged on writing, so a mark is taken away by setting it to null.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import Literal, NamedTuple

from mopsjobs.engines.base import Engine, EngineState, engine_of
from mopsjobs.errors import (
    EXIT_DONE,
    EngineUnavailableError,
    InvalidTransitionError,
    JobNotFoundError,
    MopsJobsError,
    StoreUnavailableError,
)
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.status import TRANSITIONS, JobStatus
from mopsjobs.studies.manifest import manifest_key
from mopsjobs.studies.validation import validate
from mopsjobs.utils.times import parse_time, record_time

SILENT_SECONDS = 60.0
"""Two heartbeats, as in listings: what a record has said within so long is not doubted."""


Verb = Literal["nothing", "start", "validate", "succeed", "fail", "suspect", "clear"]


class Action(NamedTuple):
    """What a record needs, with the reason in a word and what the engine says in a sentence."""

    verb: Verb
    reason: str | None = None
    detail: str | None = None


class Reconciled(NamedTuple):
    """What became of one job."""

    job_id: str
    action: Action
    before: str
    after: str
    problem: str | None = None
    """Why it could not be looked at, or its record not be changed."""
    exit_code: int = EXIT_DONE
    """That of the problem."""

    @property
    def is_changed(self) -> bool:
        """Whether the record was written."""
        return self.action.verb != "nothing" and self.problem is None


def decide(state: JobState, engine: EngineState, now: datetime, *, has_manifest: bool = True) -> Action:
    """What a record needs that is so, when its engine says that.

    Args:
        state: the record.
        engine: what the engine says of the job.
        now: the time.
        has_manifest: whether it is known which outputs the job should leave, so that they decide how it ended.
    """
    if state.is_terminal or state.status not in TRANSITIONS:
        return Action("nothing")  # also of a status that only a newer version knows
    return _end(state, engine, has_manifest=has_manifest) or _meanwhile(state, engine, now)


def _end(state: JobState, engine: EngineState, *, has_manifest: bool) -> Action | None:
    """What ends the job; None if nothing does."""
    if engine.phase == "succeeded":
        return Action("validate" if has_manifest else "succeed")
    if state.status == JobStatus.VALIDATING and engine.phase in ("failed", "gone") and has_manifest:
        # Every task has been worked on; what came of it the outputs tell, whoever has died since.
        return Action("validate", engine.reason, engine.detail)
    if engine.phase == "failed":
        return Action("fail", engine.reason or "Failed", engine.detail)
    return None


def _meanwhile(state: JobState, engine: EngineState, now: datetime) -> Action:
    """What is to be noted of a job that has not ended."""
    doubt, noted = _doubt(state, engine, now), suspicion(state)
    if doubt is not None:
        return Action("nothing" if noted == doubt else "suspect", doubt, engine.detail)
    if engine.phase == "running" and state.status not in (JobStatus.RUNNING, JobStatus.VALIDATING):
        return Action("start")
    if noted is not None and engine.phase in ("pending", "running"):
        return Action("clear")
    return Action("nothing")


def _doubt(state: JobState, engine: EngineState, now: datetime) -> str | None:
    """Why a job that has not ended may be stuck; None if it seems well, or nothing can be said."""
    if engine.phase == "unknown" or (now - _last_sign(state)).total_seconds() <= SILENT_SECONDS:
        return None
    if engine.phase == "gone":
        return "k8s_job_missing"
    if engine.phase == "running":
        # Before it is running nobody owes a heartbeat; programs that write none are not held to it either.
        return "no_update" if state.status == JobStatus.RUNNING and state.heartbeat_at is not None else None
    if engine.reason == "Evicted" or state.status in (JobStatus.RUNNING, JobStatus.VALIDATING):
        return "pod_gone"  # and no other has taken its place
    return None


def _last_sign(state: JobState) -> datetime:
    """When the job was last heard of. Not `updated_at`: marking it would count as a sign of life."""
    times = [state.created_at, *(str(step["at"]) for step in state.transitions)]
    if not state.transitions and suspicion(state) is None:
        times.append(state.updated_at)  # another program's record, which has no history
    if state.heartbeat_at is not None:
        times.append(state.heartbeat_at)
    return max(parse_time(time) for time in times)


def suspicion(state: JobState) -> str | None:
    """Why the record says that the job may be stuck; None if it does not."""
    noted = state.metadata.get("suspect")
    return str(noted.get("reason")) if isinstance(noted, Mapping) else None


def is_wanted(state: JobState, engines: Collection[str]) -> bool:
    """Whether there is something to ask about a job: it has not ended, and one of those engines runs it."""
    return not state.is_terminal and (engine_of(state.to_dict()) or "") in engines


def reconcile(
    registry: JobRegistry, engines: Mapping[str, Engine], states: Iterable[JobState], *, now: Callable[[], datetime]
) -> list[Reconciled]:
    """Ask the engines about these jobs, and bring what they say into the registry.

    Jobs that none of the engines runs are left out. What goes wrong with one job does not stop the others, unless it
    would go wrong with all.

    Raises:
        EngineUnavailableError: an engine cannot be reached.
        StoreUnavailableError: the registry cannot.
    """
    done = []
    for state in states:
        if not is_wanted(state, engines):
            continue
        action = Action("nothing")
        try:
            job = state.to_dict()
            found = engines[str(engine_of(job))].state(job)
            asks = found.phase == "succeeded" or state.status == JobStatus.VALIDATING
            known = asks and registry.store.get(manifest_key(state.job_id, registry.prefix)) is not None
            action = decide(state, found, now(), has_manifest=known)
            after = _apply(registry, state, action, now)
        except (EngineUnavailableError, StoreUnavailableError):
            raise
        except (InvalidTransitionError, JobNotFoundError):
            # Somebody was faster: cancelled it, ended it, deleted it. That is the newer truth.
            newer = registry.get_job(state.job_id)
            done.append(Reconciled(state.job_id, Action("nothing"), state.status, newer.status if newer else "deleted"))
        except MopsJobsError as error:
            done.append(Reconciled(state.job_id, action, state.status, state.status, str(error), error.exit_code))
        else:
            done.append(Reconciled(state.job_id, action, state.status, after.status))
    return done


def _apply(registry: JobRegistry, state: JobState, action: Action, now: Callable[[], datetime]) -> JobState:
    """Do to a record what it needs. Returns it as it is then."""
    well: dict[str, object] = {} if suspicion(state) is None else {"metadata": {"suspect": None}}
    after = state
    match action.verb:
        case "start":
            after = registry.update_status(state.job_id, JobStatus.RUNNING, **well)
        case "validate":
            reason = ": ".join(filter(None, (action.reason, action.detail))) or None
            after = validate(registry.store, registry, state.job_id, first_error=reason).state
        case "succeed":
            after = registry.update_status(state.job_id, JobStatus.SUCCEEDED, **well)
        case "fail":
            message = action.detail or f"The Kubernetes Job failed ({action.reason})."
            error = {"error_code": action.reason, "error_message": message}
            after = registry.update_status(state.job_id, JobStatus.FAILED, **error, **well)
        case "suspect":
            noted = {"reason": str(action.reason), "since": record_time(now())}
            after = registry.update_fields(state.job_id, metadata={"suspect": noted})
        case "clear":
            after = registry.update_fields(state.job_id, **well)
        case "nothing":
            pass
    return after

"""The rules by which a record changes, as pure functions from one `JobState` to the next.

The registry applies them inside compare-and-swap, once an attempt; so none of them looks at a clock or a store.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from mopsjobs.errors import InvalidTransitionError, RecordError, TerminalStateError, UsageError
from mopsjobs.registry.job_state import JobState, JsonObject, check_field, check_new_job_id
from mopsjobs.registry.status import ACTIVE, TRANSITIONS, JobStatus, steps
from mopsjobs.utils.times import parse_time, record_time

BEFORE_RUNNING = ACTIVE - {JobStatus.RUNNING, JobStatus.VALIDATING}


MERGED = ("metadata", "labels")
"""Fields to which an update adds. Only None takes away, and then all."""


class Write(NamedTuple):
    """One attempt to change a record."""

    id: str
    at: str
    """When it is made."""
    stepped_at: str
    """When the steps were taken that it tells of."""


def transition_at(state: JobState, moment: datetime | None, at: str) -> str:
    """When a step was taken that is written at `at`: then, or at that moment, but not before the step before it."""
    if moment is None or moment >= parse_time(at):
        return at
    last = parse_time(str(state.transitions[-1]["at"]) if state.transitions else state.created_at)
    return record_time(max(last, moment))


def new_job(job_id: str, fields: Mapping[str, object], created_at: datetime, now: datetime, write_id: str) -> JobState:
    """The record of a new job.

    Raises:
        UsageError: the id cannot be one, a field is unknown or of the wrong type, or the counts do not fit together.
    """
    values = {name: check_field(name, value) for name, value in fields.items()}
    at, written = record_time(created_at), record_time(now)
    state = JobState(job_id=check_new_job_id(job_id), status=JobStatus.PENDING, created_at=at, updated_at=written)
    state = state.evolve(
        **values, write_id=write_id, revision=1, transitions=(transition(JobStatus.PENDING, at, write_id),)
    )
    check_counts(state)
    return state


def advance(state: JobState, changed: JobState, target: JobStatus, write: Write) -> JobState:
    """`changed`, moved from the status of `state` to `target`, with every step in its history.

    Raises:
        TerminalStateError: the job has ended.
        InvalidTransitionError: no way leads there, or the job's status is one that this version does not know.
    """
    if state.is_terminal:
        raise TerminalStateError(
            f"Job {state.job_id} has ended ({state.status}); it cannot become {target}.",
            job_id=state.job_id,
            from_status=state.status,
            to_status=target,
        )
    if state.status not in TRANSITIONS:
        raise _unknown_status(state, target)
    current = JobStatus(state.status)
    way = steps(current, target)
    if way is None:
        following = ", ".join(status for status in JobStatus if steps(current, status))
        raise InvalidTransitionError(
            f"Job {state.job_id} is {current}; it cannot become {target}.",
            job_id=state.job_id,
            from_status=current,
            to_status=target,
            hint=f"From {current} a job can go to: {following}.",
        )
    taken = tuple(transition(status, write.stepped_at, write.id) for status in way)
    return changed.evolve(status=target, transitions=_seen(state) + taken)


def _seen(state: JobState) -> tuple[JsonObject, ...]:
    """The history, and the status that another program gave the job without writing it there: it had it by then."""
    if state.transitions and state.transitions[-1]["status"] == state.status:
        return state.transitions
    return (*state.transitions, transition(state.status, state.updated_at, None))


def guard_terminal(state: JobState, changed: JobState) -> JobState | None:
    """`changed`, or None when it changes nothing.

    Raises:
        TerminalStateError: it changes something, and the job has ended.
        InvalidTransitionError: it changes something, and the job's status is one that this version does not know.
    """
    if changed.to_json() == state.to_json():  # as Python objects, True equals 1
        return None
    if state.is_terminal:
        raise TerminalStateError(
            f"Job {state.job_id} has ended ({state.status}); its record does not change any more.",
            job_id=state.job_id,
            from_status=state.status,
            to_status=state.status,
        )
    if state.status not in TRANSITIONS:
        raise _unknown_status(state, state.status)
    return changed


def _unknown_status(state: JobState, target: str) -> InvalidTransitionError:
    return InvalidTransitionError(
        f"Job {state.job_id} has the status {state.status!r}, which this version does not know; it is left alone.",
        job_id=state.job_id,
        from_status=state.status,
        to_status=target,
        hint="A newer mops-jobs may know it.",
    )


def validate_fields(fields: Mapping[str, object]) -> dict[str, object]:
    """The fields as a record holds them; without an empty object that would be merged, since it adds nothing."""
    values = {name: check_field(name, value) for name, value in fields.items()}
    return {name: value for name, value in values.items() if value or fields[name] is None or name not in MERGED}


def merge_fields(state: JobState, values: Mapping[str, object]) -> JobState:
    """`state` with these fields: `metadata` and `labels` merged into what is there, others replaced."""
    merged = dict(values)
    for name in MERGED:
        if merged.get(name):
            merged[name] = MappingProxyType({**getattr(state, name), **merged[name]})  # type: ignore[dict-item]
    return state.evolve(**merged)


class ShardReport(NamedTuple):
    """How far one shard of a job is."""

    completed: int
    """Its tasks that ended well so far."""
    failed: int
    """Those that ended in an error."""
    is_done: bool = False
    """Whether the shard has worked on all its tasks."""
    is_least: bool = False
    """Whether there may be more that are complete: the shard has not, or not yet, seen what earlier runs have left."""


def with_shard(state: JobState, shard: int, shards: int, report: ShardReport, at: str) -> JobState:
    """`state` with what a shard reports, and the sums over all shards.

    What earlier runs of the job told of shards that it no longer has is forgotten: their tasks are others' now.
    Counts that are only the least there can be never lower what the record says; then the report is a sign of life.
    """
    kept = {name: counts for name, counts in state.shards.items() if name.isdecimal() and int(name) < shards}
    by_shard = {**kept, str(shard): [report.completed, report.failed, int(report.is_done)]}
    told: list[Any] = list(by_shard.values())
    completed = sum(completed for completed, _, _ in told)
    if report.is_least and completed < state.tasks_completed:
        return state.evolve(heartbeat_at=at)
    return state.evolve(
        shards=MappingProxyType(by_shard),
        tasks_completed=completed,
        tasks_failed=sum(failed for _, failed, _ in told),
        heartbeat_at=at,
    )


def all_shards_done(state: JobState, shards: int) -> bool:
    """Whether every shard of a job has worked on all its tasks."""
    told: list[Any] = list(state.shards.values())
    return len(told) >= shards and all(is_done for _, _, is_done in told)


def task_counts(state: JobState) -> tuple[int, int, int]:
    """The counts that have to fit together."""
    return state.tasks_completed, state.tasks_failed, state.tasks_total


def check_counts(state: JobState) -> None:
    """Refuse more tasks done, well or badly, than there are.

    Raises:
        UsageError: so it is.
    """
    if 0 < state.tasks_total < state.tasks_completed + state.tasks_failed:
        failed = f" and {state.tasks_failed} failed" if state.tasks_failed else ""
        raise UsageError(
            f"Job {state.job_id} cannot have {state.tasks_completed} tasks completed{failed} of {state.tasks_total}."
        )


def encode_record(state: JobState) -> bytes:
    """The bytes of a record.

    Raises:
        UsageError: it has grown into one that nobody could read or change any more.
    """
    value = state.to_json()
    try:
        JobState.from_json(value)
    except RecordError as error:
        raise UsageError(f"The record of job {state.job_id} would be unusable: {error.reason}.") from None
    return value


def transition(status: str, at: str, write_id: str | None) -> JsonObject:
    """One entry of a record's history."""
    return {"status": str(status), "at": at, "id": write_id}


def has_write(value: bytes, write_id: str) -> bool:
    """Whether the write of that id has left its trace in the record."""
    with contextlib.suppress(RecordError):
        state = JobState.from_json(value)
        return state.write_id == write_id or _has_step(state, write_id)
    return False


def has_step(value: bytes, write_id: str) -> bool:
    """Whether the write of that id made a step in the record's history: a trace that no later write takes away."""
    return _has_step(JobState.from_json(value), write_id)


def _has_step(state: JobState, write_id: str) -> bool:
    return any(one.get("id") == write_id for one in state.transitions)

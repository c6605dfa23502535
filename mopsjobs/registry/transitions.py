"""The rules by which a record changes, as pure functions from one `JobState` to the next.

The registry applies them by compare-and-swap, once per attempt. So none of them reads a clock or a store.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, cast

from mopsjobs.errors import InvalidTransitionError, RecordError, TerminalStateError, UsageError
from mopsjobs.registry.job_id import check_new_job_id
from mopsjobs.registry.job_state import JobState, JsonObject, check_field
from mopsjobs.registry.notes import NOTE, PRECISION, SUSPECT, WAITS_FOR, is_annotated_by
from mopsjobs.registry.precision_counts import COUNTS, WIDEST, precision_counts
from mopsjobs.registry.status import CORRECTIONS, INFERRED_CODES, LAUNCH_FAILED, TERMINAL, TRANSITIONS, JobStatus, steps
from mopsjobs.registry.usage import ShardForecast, ShardUsage, encode_forecast, with_usage
from mopsjobs.utils.json_strict import is_count, is_number
from mopsjobs.utils.times import parse_time, record_time

Refusal = TypeVar("Refusal", bound=InvalidTransitionError)

MERGED = ("metadata", "labels")
"""Fields whose members an update adds to. Only None removes members, and then all of them."""


class Write(NamedTuple):
    """One attempt to change a record."""

    id: str
    at: str
    """When the write is made."""
    stepped_at: str
    """When the job took the steps that the write records."""


def transition_at(state: JobState, moment: datetime | None, at: str) -> str:
    """Return the time of a step that is written at `at`: the given moment if it is earlier, but after the last step."""
    if moment is None or moment >= parse_time(at):
        return at
    last = parse_time(str(state.transitions[-1]["at"]) if state.transitions else state.created_at)
    return record_time(max(last, moment))


def new_job(job_id: str, fields: Mapping[str, object], created_at: datetime, now: datetime, write_id: str) -> JobState:
    """Return the record of a new job.

    Raises:
        UsageError: if the id is invalid, a field is unknown or of the wrong type, or the counts contradict each other.
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
    """Return `changed`, moved from the status of `state` to `target`, with every step in its history.

    Raises:
        TerminalStateError: if the job has ended.
        InvalidTransitionError: if no transitions lead there, or this version does not know the job's status.
    """
    if state.is_terminal:
        raise _refusal(TerminalStateError, state, target, f"has ended ({state.status}); it cannot become {target}")
    if state.status not in TRANSITIONS:
        raise _unknown_status(state, target)
    current = JobStatus(state.status)
    path = steps(current, target)
    if path is None:
        following = ", ".join(status for status in JobStatus if steps(current, status))
        hint = f"Use a status that may follow {current}: {following}."
        raise _refusal(InvalidTransitionError, state, target, f"is {current}; it cannot become {target}", hint)
    added = tuple(transition(status, write.stepped_at, write.id) for status in path)
    if target in TERMINAL:  # an ended job waits for nothing, and is not suspect
        changed = changed.evolve(metadata=_without_marks(changed.metadata))
    return changed.evolve(status=target, transitions=_complete_history(state, write.stepped_at) + added)


def is_correctable(state: JobState) -> bool:
    """Return whether mops-jobs inferred the end of a job, so that the outputs may correct it."""
    return state.status in CORRECTIONS and state.error_code in INFERRED_CODES


def end_inferred(
    state: JobState, changed: JobState, target: JobStatus, write: Write, *, judged: JobState, known: JobState
) -> JobState | None:
    """Return `changed` with an end that no runner has reported; None if nothing is new.

    An earlier end that was inferred too becomes a better one, at the time of the earlier one. If the outputs were
    compared, and tasks may have run, the job passes `validating`. A job that has this end, inferred or
    cancelled, gets the counts of more tasks that have ended, and how many its outputs ask for. Else it gets `known`.

    Args:
        state: the record.
        changed: the record with other changes.
        target: the end.
        write: the write.
        judged: the record from which the end was inferred.
        known: the record with what its ledger tells.

    Raises:
        TerminalStateError: if the job has another end.
        InvalidTransitionError: if a runner has reported since, or no transitions lead there.
    """
    if state.status == target:
        if target is not JobStatus.CANCELLED and not is_correctable(state):
            return None
        before, now = task_counts(state), task_counts(changed)
        if now[:2] < before[:2] or now == before:  # its outputs may have been deleted
            changed = known
        return None if changed == state else changed.evolve(transitions=_complete_history(state))
    if is_correctable(state) and target in CORRECTIONS[JobStatus(state.status)]:
        step = transition(target, end_of(state), write.id)
        return changed.evolve(status=target, transitions=(*_complete_history(state), step))
    if not state.is_terminal and state.heartbeat_at != judged.heartbeat_at:
        raise _refusal(InvalidTransitionError, state, target, "goes on: a runner has just reported")
    never_ran = target is JobStatus.FAILED and changed.error_code == LAUNCH_FAILED
    is_compared = changed.validation_completed_at != state.validation_completed_at
    if is_compared and not never_ran and state.status != JobStatus.VALIDATING:
        state = changed = advance(state, changed, JobStatus.VALIDATING, write)
    return advance(state, changed, target, write)


def with_current_step(state: JobState, changed: JobState, write: Write) -> JobState:
    """Return `changed`, with a step to the current status if another program has set it without a step."""
    if state.is_terminal or _has_current_step(state):
        return changed
    step = transition(state.status, write.stepped_at, write.id)
    return changed.evolve(transitions=(*state.transitions, step))


def _complete_history(state: JobState, latest: str | None = None) -> tuple[JsonObject, ...]:
    """Return the history, with the current status if another program has set it without a step, at an unknown time.

    The step gets the time of the last write, but none after `latest`: a history stays in order.
    """
    if _has_current_step(state):
        return state.transitions
    at = state.updated_at if latest is None else min(state.updated_at, latest, key=parse_time)
    return (*state.transitions, transition(state.status, at, None))


def _has_current_step(state: JobState) -> bool:
    return bool(state.transitions) and state.transitions[-1]["status"] == state.status


def reported_steps(history: Sequence[JsonObject]) -> Iterator[tuple[JsonObject, bool]]:
    """Yield each step of a history, and whether a program reported it, so that its time is that of the step.

    The last step of a write was reported, and the registry filled in those before it. A step whose id is null stands
    for a status that another program had set at an unknown time.
    """
    for step, following in zip(history, (*history[1:], {}), strict=False):
        write_id = step.get("id", "")
        yield step, write_id is not None and (not write_id or write_id != following.get("id"))


def end_of(state: JobState) -> str:
    """Return when a job that has ended did so. A label may change its record later.

    Programs of ModelOps keep no history: their last write to a record that has ended is its end.
    """
    ends = (str(step["at"]) for step in reversed(state.transitions) if step["status"] == state.status)
    return next(ends, state.updated_at)


def guard_terminal(state: JobState, changed: JobState) -> JobState | None:
    """Return `changed`, or None if it equals `state`. After the end of a job, only its labels and its note may change.

    Raises:
        TerminalStateError: if it differs in another field, and the job has ended.
        InvalidTransitionError: if it differs, and this version does not know the job's status.
    """
    if changed.to_json() == state.to_json():  # as Python objects, True equals 1
        return None
    if state.is_terminal and _annotated(state, changed).to_json() == changed.to_json():
        # With its end in the history, since the time of the last write no longer tells it.
        return changed.evolve(transitions=_complete_history(state))
    if state.is_terminal:
        message = f"has ended ({state.status}); only its labels and its note can change"
        raise _refusal(TerminalStateError, state, state.status, message)
    if state.status not in TRANSITIONS:
        raise _unknown_status(state, state.status)
    return changed


def is_annotation(state: JobState) -> bool:
    """Return whether the last write to a record came after the job's end, and so changed labels and note only."""
    return state.is_terminal and not _has_step(state, str(state.write_id))


def _annotated(state: JobState, changed: JobState) -> JobState:
    """Return `state` with the labels and the note of `changed`."""
    note = {NOTE: changed.metadata[NOTE]} if NOTE in changed.metadata else {}
    return state.evolve(labels=changed.labels, metadata=MappingProxyType({**state.metadata, **note}))


def _unknown_status(state: JobState, target: str) -> InvalidTransitionError:
    problem = f"has the status {state.status!r}, which this version does not know; it was not changed"
    hint = "Update mops-jobs: a newer version may know it."
    return _refusal(InvalidTransitionError, state, target, problem, hint)


def _refusal(kind: type[Refusal], state: JobState, target: str, problem: str, hint: str | None = None) -> Refusal:
    message = f"Job {state.job_id} {problem}."
    return kind(message, job_id=state.job_id, from_status=state.status, to_status=target, hint=hint)


def validate_fields(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields as a record holds them, without empty objects to merge, which add nothing."""
    values = {name: check_field(name, value) for name, value in fields.items()}
    return {name: value for name, value in values.items() if value or fields[name] is None or name not in MERGED}


def merge_fields(state: JobState, values: Mapping[str, object]) -> JobState:
    """Return `state` with these fields: members of `metadata` and `labels` are added, other fields are replaced."""
    merged = dict(values)
    for name in MERGED:
        if merged.get(name):
            merged[name] = MappingProxyType({**getattr(state, name), **merged[name]})  # type: ignore[dict-item]
    return state.evolve(**merged)


class ShardPrecision(NamedTuple):
    """The part of a shard in the precision of an adaptive study: counts of its parameter sets and tasks."""

    first: Mapping[str, int]
    """The counts of the job before any decision."""
    added: Mapping[str, int]
    """What the decisions of the shard have added to them, by the same names. Less than 0 for what it need not run."""
    widest: tuple[float, str] | None = None
    """How many times too wide the widest interval of its sets is, and the set in words; None if none is too wide."""
    sharing: Mapping[str, int] = MappingProxyType({})
    """`gives`: how many tasks the shard may yet give to others. `free`: how many tasks of others it can run at once,
    since its own have ended."""


class Growth(NamedTuple):
    """The counts of a growing job, with all rounds that a shard has read. They never become less."""

    tasks: int
    sets: int
    different_sets: int
    duplicates: int


class ShardReport(NamedTuple):
    """The progress of one shard of a job."""

    completed: int
    """Its tasks that have completed."""
    failed: int
    """Its tasks that have failed."""
    is_done: bool = False
    """Whether the shard has worked on all its tasks."""
    is_least: bool = False
    """Whether more tasks may be complete: the shard has not, or not yet, listed the outputs of earlier runs."""
    usage: ShardUsage | None = None
    """What its tasks used, in all runs of the shard; None leaves the record as it is."""
    forecast: ShardForecast | None = None
    """When it expects to end; None if it does not say, or has no task at work."""
    precision: ShardPrecision | None = None
    """None if the study is not adaptive."""
    growth: Growth | None = None
    """None if the study has all its sets."""
    taken_over: frozenset[int] = frozenset()
    """Shards that have ended, whose tasks are among those of this one."""
    waits_for: str | None = None
    """What the tasks wait for, if those of all shards have ended."""
    is_relayed: bool = False
    """Whether another program brings the report, late. It does not show that the shard lives."""


def with_shard(state: JobState, shard: int, shards: int, report: ShardReport, at: str) -> JobState:
    """Return `state` with the report of a shard, and the sums over all shards.

    Counts of shards that the job no longer has are removed, since other shards have their tasks now. A report with
    `is_least` never lowers the completed tasks of the record, and that of a slower runner never those of a done shard.
    Then it is only a sign of life. With any, the job neither waits nor is suspect.
    """
    heartbeat_at = state.heartbeat_at if report.is_relayed else at
    own = [report.completed, report.failed, int(report.is_done)]
    by_shard = counts_of_shards(state.shards, shards, shard, own)
    by_shard |= {str(ended): [0, 0, 1] for ended in report.taken_over}
    reports: list[Any] = list(by_shard.values())
    completed = sum(completed for completed, _, _ in reports)
    state = state.evolve(
        metadata=_without_marks(state.metadata),
        usage=MappingProxyType(with_usage(state.usage, str(shard), report.usage)),
        forecast=MappingProxyType(_forecasts(state, shard, report, is_complete=len(by_shard) >= shards)),
    )
    if _is_slower(state, shard, shards, report) or (report.is_least and completed < state.tasks_completed):
        return state.evolve(heartbeat_at=heartbeat_at)
    if report.precision is not None:
        state = _with_precision(state, shard, shards, report.precision)
    failed = sum(failed for _, failed, _ in reports)
    if report.growth is not None:
        state = _with_growth(state, report.growth)
    if report.waits_for is not None and completed + failed >= state.tasks_total:
        state = state.evolve(metadata=MappingProxyType({**state.metadata, WAITS_FOR: report.waits_for}))
    return state.evolve(
        shards=MappingProxyType(by_shard),
        tasks_completed=completed,
        tasks_failed=failed,
        heartbeat_at=heartbeat_at,
    )


def _is_slower(state: JobState, shard: int, shards: int, report: ShardReport) -> bool:
    """Return whether a report comes from a slower runner of a done shard, the tasks of which have all ended.

    What a done shard has counted is stored. In a launch with another number of shards, it has another number of tasks.
    """
    completed, failed, is_done = cast("Sequence[int]", state.shards.get(str(shard), (0, 0, 0)))
    has_all = completed + failed == len(range(shard, state.tasks_total, shards))
    return bool(is_done) and has_all and report.completed < completed


def _with_growth(state: JobState, growth: Growth) -> JobState:
    """Return `state` with the counts of a growing job. Another shard may have read a later round."""
    if growth.tasks < state.tasks_total:
        return state
    counts = {"n_parameter_sets": growth.sets}
    if growth.different_sets < growth.sets:
        counts["n_different_parameter_sets"] = growth.different_sets
    if growth.duplicates:
        counts["n_duplicate_tasks"] = growth.duplicates
    return state.evolve(tasks_total=growth.tasks, metadata=MappingProxyType({**state.metadata, **counts}))


def _with_precision(state: JobState, shard: int, shards: int, own: ShardPrecision) -> JobState:
    """Return `state` with the precision of a shard; the tasks of the job are those that it needs as far as is known."""
    told = {**own.added, WIDEST: own.widest, **own.sharing}
    by_shard = counts_of_shards(_precision_by_shard(state), shards, shard, told)
    reports: list[Any] = list(by_shard.values())
    total = {name: count + sum(added.get(name, 0) for added in reports) for name, count in own.first.items()}
    widest = max((tuple(added[WIDEST]) for added in reports if added.get(WIDEST)), default=(0, None))[1]
    metadata = {**state.metadata, PRECISION: {**total, WIDEST: widest, "shards": by_shard}}
    return state.evolve(metadata=MappingProxyType(metadata), tasks_total=total["needed"])


def sharing_of_others(state: JobState, shard: int, name: str) -> dict[int, int]:
    """Return what the other active shards tell of sharing, by their numbers; see `ShardPrecision.sharing`.

    Args:
        state: the record.
        shard: the number of the shard that asks.
        name: `gives` or `free`.
    """
    told = {other: added.get(name) for other, added in _precision_by_shard(state).items() if other != str(shard)}
    return {
        int(other): count for other, count in told.items() if other.isdecimal() and type(count) is int and count > 0
    }


def _precision_by_shard(state: JobState) -> Mapping[str, Any]:
    """Return what each shard has added to the precision of a job, as far as its record has it."""
    precision = state.metadata.get(PRECISION)
    by_shard = precision.get("shards") if isinstance(precision, Mapping) else None
    if not isinstance(by_shard, Mapping):
        return {}
    return {name: added for name, added in by_shard.items() if _is_precision(added)}  # a model may write a shard's drop


def _is_precision(added: object) -> bool:
    if not isinstance(added, Mapping):
        return False
    widest = added.get(WIDEST) or (0, "")
    is_widest = isinstance(widest, (list, tuple)) and len(widest) == 2  # a number, and the set in words
    counts = [added.get(name) for name in COUNTS]
    return (
        is_widest
        and is_number(widest[0])
        and isinstance(widest[1], str)
        and all(isinstance(count, int) and is_count(abs(count)) for count in counts)
    )


def shard_precision(state: JobState, shard: int) -> ShardPrecision | None:
    """Return the part of a shard in the precision of a job, by the record of its drop; None if that tells none."""
    added, total = _precision_by_shard(state).get(str(shard)), precision_counts(state.metadata)
    if added is None or total is None:
        return None
    counts = {name: added[name] for name in COUNTS}
    widest = added.get(WIDEST)
    return ShardPrecision({name: total[name] - counts[name] for name in COUNTS}, counts, widest and tuple(widest))


def _without_marks(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return metadata that say neither what the job waits for nor why it is suspect."""
    marks = {name: None for name in (WAITS_FOR, SUSPECT) if metadata.get(name) is not None}
    return MappingProxyType({**metadata, **marks}) if marks else metadata


def counts_of_shards(by_shard: Mapping[str, object], shards: int, shard: int, own: object) -> dict[str, object]:
    """Return the counts of each shard that the job has, with newer ones of one of them."""
    others = {name: counts for name, counts in by_shard.items() if name.isdecimal() and int(name) < shards}
    return {**others, str(shard): own}


def _forecasts(state: JobState, shard: int, report: ShardReport, *, is_complete: bool) -> dict[str, object]:
    """Return the forecasts of the shards that have work left, with that of a report.

    While other shards have not begun, no shard knows when the job ends.
    """
    forecasts = {name: values for name, values in state.forecast.items() if name in state.shards and name != str(shard)}
    if report.forecast is not None and not report.is_done:
        known = report.forecast if is_complete else report.forecast._replace(earliest=None, latest=None)
        forecasts[str(shard)] = encode_forecast(known)
    return forecasts


def all_shards_done(state: JobState, shards: int) -> bool:
    """Return whether every shard of a job has worked on all its tasks."""
    reports: list[Any] = list(state.shards.values())
    return len(reports) >= shards and all(is_done for _, _, is_done in reports)


def task_counts(state: JobState) -> tuple[int, int, int]:
    """Return the counts that `check_counts` compares."""
    return state.tasks_completed, state.tasks_failed, state.tasks_total


def check_counts(state: JobState) -> None:
    """Refuse more completed and failed tasks than the job has.

    Raises:
        UsageError: if the counts exceed the total.
    """
    if 0 < state.tasks_total < state.tasks_completed + state.tasks_failed:
        failed = f", {state.tasks_failed} failed" if state.tasks_failed else ""
        raise UsageError(
            f"invalid counts of job {state.job_id}: "
            f"{state.tasks_completed} completed{failed}; expected at most {state.tasks_total} in all."
        )


def encode_record(state: JobState) -> bytes:
    """Return the bytes of a record.

    Raises:
        UsageError: if it could not be read again, since it is too long or nested too deeply.
    """
    value = state.to_json()
    try:
        JobState.from_json(value)
    except RecordError as error:
        raise UsageError(f"The record of job {state.job_id} would be unreadable: {error.reason}.") from None
    return value


def transition(status: str, at: str, write_id: str | None) -> JsonObject:
    """Return one entry of a record's history."""
    return {"status": str(status), "at": at, "id": write_id}


def has_write(value: bytes, write_id: str) -> bool:
    """Return whether a record has the trace of a write."""
    with contextlib.suppress(RecordError):
        state = JobState.from_json(value)
        return state.write_id == write_id or _has_entry(state, write_id)
    return False


def has_entry(value: bytes, write_id: str) -> bool:
    """Return whether a write made an entry in a history of the record: a trace that later writes keep."""
    return _has_entry(JobState.from_json(value), write_id)


def _has_entry(state: JobState, write_id: str) -> bool:
    return _has_step(state, write_id) or is_annotated_by(state, write_id)


def _has_step(state: JobState, write_id: str) -> bool:
    return any(step.get("id") == write_id for step in state.transitions)

"""Validation: decide how a job ends, by one comparison of its manifest with one listing of its outputs.

If all tasks are complete, the job is `succeeded`. If some are, it is `partial` and can be resumed. If none is, it is
`failed`. A job is `partial` too if its reduce function left no outputs, or if it leaves tasks to a later resume.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mopsjobs.errors import RecordError, TerminalStateError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.notes import PRECISION
from mopsjobs.registry.precision_counts import precision_counts
from mopsjobs.registry.status import REDUCE_TEXT, JobStatus
from mopsjobs.registry.transitions import is_correctable
from mopsjobs.registry.usage import ShardUsage
from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.adaptive import precision_record
from mopsjobs.studies.lineage import family_of
from mopsjobs.studies.manifest import Manifest, load_manifest
from mopsjobs.studies.outputs import (
    Completeness,
    SizesOf,
    find_complete_tasks,
    missing_tasks,
    output_key,
    reduction_key,
    results_prefix,
)
from mopsjobs.studies.reductions import Reduction, find_reductions
from mopsjobs.utils.text import pluralize
from mopsjobs.utils.times import record_time, utc_now

INCOMPLETE = "INCOMPLETE"
"""The error code of a job whose tasks have all been tried, and of which outputs are missing, or tasks deferred."""

FIRST = "FIRST"
"""The error code of a job that was ended because none of its first tasks succeeded."""

FAILURES = "FAILURES"
"""The error code of a job that was ended because too many of its tasks had failed."""

BUDGET = "BUDGET"
"""The error code of a job that was ended because its tasks had used the processor time that they may."""

TARGET = "TARGET"
"""The error code of a job that was ended because no task has left a result that its study or calibration names."""

SAMPLER = "SAMPLER"
"""The error code of a calibration that was ended because its sampler failed."""

REDUCE = "REDUCE"
"""The error code of a job whose tasks are all complete, and whose reduce function has not left its outputs."""

EARLY_CODES = (FIRST, FAILURES, BUDGET, TARGET, SAMPLER)

CUT_CODES = (FIRST, FAILURES, TARGET)
"""The codes of ends that one shard decides, and that stop the tasks of all shards."""

NAMED_MISSING = 5
"""Missing outputs that the record names. With all of them it would grow with the tasks."""


class EarlyEnd(NamedTuple):
    """Why a job is ended before all its tasks were tried."""

    code: str
    """One of `EARLY_CODES`, or the reason of the engine that ended it, for its record."""
    reason: str
    """A sentence without its full stop."""


def decided_end(state: JobState | None) -> EarlyEnd | None:
    """Return the end that a shard has decided for a job that still runs, by its record; None if none has."""
    if state is None or state.is_terminal or state.error_code not in CUT_CODES:
        return None
    return EarlyEnd(state.error_code, str(state.error_message))


class Validation(NamedTuple):
    """The result of a validation."""

    state: JobState
    tasks_total: int
    tasks_verified: int
    reductions: int = 0
    """The calls of the reduce function that are to leave outputs."""
    reductions_verified: int = 0
    missing_outputs: tuple[str, ...] = ()
    """The first few outputs that are missing now."""
    damaged: tuple[str, ...] = ()
    """Sentences about outputs of another size; see `Completeness.damaged`."""

    @property
    def has_lost_outputs(self) -> bool:
        """Return whether the job had ended with more complete tasks than it has now."""
        return self.state.is_terminal and self.state.tasks_verified > self.tasks_verified


def validate(
    store: VersionedStore,
    registry: JobRegistry,
    judged: JobState,
    *,
    first_error: str | None = None,
    early: EarlyEnd | None = None,
    reduce_error: str | None = None,
    may_end: bool = True,
    sizes_of: SizesOf | None = None,
) -> Validation:
    """Compare a job's outputs with its manifest, and end the job accordingly: for a runner that reports its end.

    The record of a job that has ended does not change: such a job is only compared. A slower runner of a shard may
    report meanwhile. So the end counts the outputs, and the failed tasks of `judged`.

    Args:
        store: where manifest and outputs are.
        registry: where the record is.
        judged: the record. To end the job, it has to tell that all its tasks have been tried, or that it ends before.
        first_error: the error for the record, if outputs are missing.
        early: why the job ends before all its tasks were tried; None if they were.
        reduce_error: the first error of the reduce function.
        may_end: whether to end the job; else it is only compared.
        sizes_of: tells the sizes that outputs are to have; None: any.

    Raises:
        JobNotFoundError: if the job does not exist.
        NoManifestError: if the job has no manifest.
        InvalidTransitionError: if the job cannot be validated in its present status.
        StoreError: if the comparison failed. The job stays `validating`, and can be validated again.
    """
    job_id, state = judged.job_id, judged
    manifest = load_manifest(store, job_id)
    if may_end and not state.is_terminal:
        state = _update_unless_ended(registry, job_id, {"new_status": JobStatus.VALIDATING, **_begin_fields(judged)})
    found = _compare(store, manifest, sizes_of)
    if may_end and not state.is_terminal:
        fields = _end_fields(judged, manifest, found, _Reasons(first_error, early, reduce_error))
        state = _update_unless_ended(registry, job_id, fields | _counts(found, judged.tasks_failed))
    return _result(state, manifest, found)


def _update_unless_ended(registry: JobRegistry, job_id: str, fields: Mapping[str, Any]) -> JobState:
    """Update the status of a job. Another shard or process may just have ended it, or have cancelled it."""
    try:
        return registry.update_status(job_id, **fields)
    except TerminalStateError:
        return registry.require_job(job_id)


def end_by_outputs(  # noqa: PLR0913 - all but three by name
    store: VersionedStore,
    registry: JobRegistry,
    judged: JobState,
    *,
    first_error: str | None = None,
    early: EarlyEnd | None = None,
    failed: Mapping[int, bool] | None = None,
    used: Mapping[int, ShardUsage] | None = None,
    attempts: int = 0,
    sizes_of: SizesOf | None = None,
) -> Validation:
    """Compare a job's outputs with its manifest, and end the job accordingly, though no runner has reported its end.

    The end is one write, with all steps to it. An end that was inferred before is corrected if outputs have come since.
    Of a job that was cancelled, only the counts are: its tasks may have ended since the last report. Further attempts
    that were delivered are noted in the record: by its version, caches learn to list the ledger again.

    Args:
        store: where manifest and outputs are.
        registry: where the record is.
        judged: the record from which it follows that no runner is at work.
        first_error: see `validate`.
        early: see `validate`.
        failed: the numbers of the tasks with an attempt that did not succeed, and whether it did not because it failed.
            Those without outputs have failed. A task that was lost does not decide how precise its set is.
        used: what the tasks of each shard used at least, by its number.
        attempts: how many attempts are in the ledger.
        sizes_of: see `validate`.

    Raises:
        NoManifestError: if the job has no manifest.
        InvalidTransitionError: if a runner has reported meanwhile, or the job cannot end in its present status.
        StoreError: if the comparison failed, or the record cannot be written. The record stays as it is.
    """
    manifest = load_manifest(store, judged.job_id)
    fields: dict[str, Any] = {"new_status": judged.status}
    found, state, is_cancelled = _compare(store, manifest, sizes_of), judged, judged.status == JobStatus.CANCELLED
    if is_correctable(judged):
        fields = {"error_message": None, "error_code": None}
        early = EarlyEnd(str(judged.error_code), str(judged.error_message).partition(";")[0])
    if is_correctable(judged) or is_cancelled or not judged.is_terminal:
        if not is_cancelled:
            reasons = _Reasons(first_error, early, None)
            fields |= _begin_fields(judged) | _end_fields(judged, manifest, found, reasons)
        lacking = _failed_tasks(manifest, found, failed or {})
        decided = [number for number, has_failed in lacking.items() if has_failed]
        fields |= _precision_fields(judged, manifest, found, decided)
        fields |= _counts(found, max(judged.tasks_failed, len(lacking)))
        final_status = fields.pop("new_status")
        try:
            state = registry.infer_end(judged, final_status, used, attempts, **fields)
        except TerminalStateError:  # as bad an end, or that of another program
            state = registry.get_job(judged.job_id) or judged
    return _result(state, manifest, found)


def _failed_tasks(manifest: Manifest, found: _Comparison, failed: Mapping[int, bool]) -> dict[int, bool]:
    """Return which tasks of these have no outputs. A task that repeats another one has its attempts."""
    first_of = manifest.study.duplicate_tasks()
    pairs = ((number, first_of.get(number, number)) for number in missing_tasks(manifest, found.completeness))
    return {number: failed[first] for number, first in pairs if first in failed}


def _precision_fields(
    state: JobState, manifest: Manifest, found: _Comparison, failed: Collection[int] | None
) -> dict[str, Any]:
    """Return the precision that the record of an adaptive study has at its end.

    Args:
        state: the record.
        manifest: the manifest of the job.
        found: its outputs.
        failed: the missing tasks that have failed; None if only the runners know them, which have reported their sets.
    """
    if manifest.study.precision is None:
        return {}
    record = precision_record(manifest.study, found.completeness.judgements, failed or ())
    if failed is None and (told := precision_counts(state.metadata)) is not None:
        record["failed"] = told["failed"]
    return {"metadata": {PRECISION: record}}


def _begin_fields(state: JobState) -> dict[str, Any]:
    return {"validation_started_at": record_time(utc_now()), "validation_attempts": state.validation_attempts + 1}


class _Comparison(NamedTuple):
    """The outputs of a job beside its manifest."""

    completeness: Completeness
    due: Sequence[Reduction]
    """The reductions without outputs."""
    reductions: int


def _result(state: JobState, manifest: Manifest, found: _Comparison) -> Validation:
    completeness, due, reductions = found
    missing = tuple(itertools.islice(_missing_outputs(manifest, completeness, due), NAMED_MISSING))
    counts = (completeness.expected, completeness.count, reductions, reductions - len(due))
    return Validation(state, *counts, missing, tuple(completeness.damaged.values()))


def _compare(store: VersionedStore, manifest: Manifest, sizes_of: SizesOf | None) -> _Comparison:
    completeness = find_complete_tasks(store, manifest, None if sizes_of is None else sizes_of([manifest]))
    return _Comparison(completeness, *_find_due(store, manifest, completeness))


def _find_due(store: VersionedStore, manifest: Manifest, completeness: Completeness) -> tuple[Sequence[Reduction], int]:
    """Return the reductions without outputs, and the number of all.

    If the manifest of an ancestor is invalid, its tasks are unknown. The reduction of the whole job then counts as due.
    """
    if manifest.study.reduce is None:
        return [], 0
    try:
        family = family_of(store, manifest.job_id, manifest)
    except RecordError:
        return [Reduction(None, None, manifest.study.tasks_total, 0, is_done=False)], 1
    found = find_reductions(store, family, completeness)
    return found.due, len(found.made)


class _Reasons(NamedTuple):
    """Reasons of a runner why outputs are missing; see `validate`."""

    first_error: str | None
    early: EarlyEnd | None
    reduce_error: str | None


def _end_fields(state: JobState, manifest: Manifest, found: _Comparison, reasons: _Reasons) -> dict[str, Any]:
    """Return the status at the end of a job, and the other fields of its record but `_counts`."""
    completeness, due = found.completeness, found.due
    verified, total = completeness.count, completeness.expected
    no_error: dict[str, str | None] = {}
    if manifest.stopped is not None:
        reasons = reasons._replace(early=EarlyEnd(*manifest.stopped))
    elif (decided := decided_end(state)) is not None:
        reasons = reasons._replace(early=decided)
        no_error = {"error_message": None, "error_code": None}
    is_complete = verified == total and not due and not manifest.deferred and manifest.stopped is None
    is_partial = verified or (not total and manifest.stopped is None)  # a child may have only reductions
    status = JobStatus.SUCCEEDED if is_complete else JobStatus.PARTIAL if is_partial else JobStatus.FAILED
    return {
        "new_status": status,
        "tasks_verified": verified,
        "missing_outputs": list(itertools.islice(_missing_outputs(manifest, completeness, due), NAMED_MISSING)),
        "validation_completed_at": record_time(utc_now()),
        "results_path": results_prefix(manifest.job_id),
        **_precision_fields(state, manifest, found, None if reasons.early else missing_tasks(manifest, completeness)),
        **(no_error if is_complete else _error_fields(manifest, completeness, due, reasons)),
    }


def _missing_outputs(manifest: Manifest, completeness: Completeness, due: Sequence[Reduction]) -> Iterator[str]:
    """Yield the keys of missing outputs, then of reductions. Tasks that repeat another share its outputs."""
    seen = set()
    for task in manifest.study.some_tasks(missing_tasks(manifest, completeness)):
        if (task.param_id, task.seed) in seen:
            continue
        seen.add((task.param_id, task.seed))
        for name in manifest.study.outputs or ("",):
            yield output_key(manifest.job_id, task, name)
    for one in due:
        yield reduction_key(manifest.job_id, one.param_id, one.tasks, "")


def _error_fields(
    manifest: Manifest, completeness: Completeness, due: Sequence[Reduction], reasons: _Reasons
) -> dict[str, str]:
    """Return the error of a job for its record."""
    parts, early = [], reasons.early
    if early is not None:
        parts.append(early.reason)
    total = completeness.expected
    missing = total - completeness.count
    if missing:
        parts.append(f"{missing} of {total} tasks left no complete outputs")
    if manifest.deferred:
        parts.append(f"left to a later resume: {pluralize(len(manifest.deferred), 'task')}")
    if reasons.first_error:
        parts.append(f"the first error: {reasons.first_error}")
    if due and (reasons.reduce_error or not missing):
        how = "failed" if reasons.reduce_error else "left no outputs"
        error = f": {reasons.reduce_error}" if reasons.reduce_error else ""
        parts.append(f"{REDUCE_TEXT}{manifest.study.reduce} {how} ({pluralize(len(due), 'reduction')}){error}")
    code = early.code if early is not None else INCOMPLETE if missing or manifest.deferred else REDUCE
    return {"error_message": "; ".join(parts), "error_code": code}


def _counts(found: _Comparison, failed: int) -> dict[str, int]:
    """Return the counts of tasks that a record has at its end.

    Args:
        found: the outputs.
        failed: tasks that have failed in their last run. Some may have the outputs of another one.
    """
    verified, total = found.completeness.count, found.completeness.expected
    return {"tasks_total": total, "tasks_completed": verified, "tasks_failed": min(failed, total - verified)}

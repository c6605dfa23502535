"""Jobs with failures: their failed tasks by the errors, and what separates these from the tasks that succeeded.

What is found of a job is kept in the cache, with the state of the ledger that it was made from. So a later view reads
one row.
"""

from __future__ import annotations

import heapq
import json
import sqlite3
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mopsjobs.cache.queries.filters import DEFERS, IS_NOT_RESUMED, LATER_JOBS, Filter, where_clauses
from mopsjobs.cache.queries.ledgers import IS_FAILED, Ledger, read_ledger
from mopsjobs.cache.stored_study import StoredStudy, find_duplicates
from mopsjobs.registry.status import REDUCE_TEXT
from mopsjobs.studies.separating import Finding, Separation, SetOutcomes, find_suspicion
from mopsjobs.utils.ranges import is_in_ranges

VERSION = 9
"""Of the kept form, and of the way in which it is made."""

_HAVE_FAILED_TASKS = "json_extract(record, '$.tasks_failed') > 0"

_HAVE_FAILURES = (
    ("job", "status = 'failed'"),
    ("job", "status = 'partial'"),
    ("job INDEXED BY idx_job_cancelled_failures", f"status = 'cancelled' AND {_HAVE_FAILED_TASKS}"),
    ("job", f"is_active = 1 AND {_HAVE_FAILED_TASKS}"),
)
"""Tables and conditions for jobs with failures. A job meets at most one. Each has an index by the last change, so no
record but those of active jobs is read."""

MAX_GROUPS = 200
"""Groups of a job that are kept, the largest ones."""

MAX_SEEN_GROUPS = 20_000
"""Groups of a job that are told apart. An error beyond them is only counted."""

MAX_SAMPLES = 5

MAX_COMPARED_TASKS = 1_000_000
"""Ended tasks of a job up to which parameters are compared."""

MAX_COMPARED_BYTES = 100_000_000
"""Of the parameters of all sets, as JSON. They are held while they are compared, and take some five times of it."""

MAX_COMPARED_GROUPS = 20
"""Groups of a job whose conditions are searched, the largest ones."""

MAX_NOTES = 3

NOT_WRITTEN = "its runner has not written them yet"
NOT_READ = "they were not read yet, or prune --store has removed them"
LOST = "its ledger lacks them, or prune --store has removed it"
REPORTED = "another program reported them"
"""Why the reason of a failed task is not known."""

TRIED_AGAIN = "may succeed at a further attempt"
"""Of tasks whose last attempt failed, and that the record of an active job does not count as failed."""


class FailureGroup(NamedTuple):
    """The tasks of a job that failed with one error."""

    key: str
    size: int
    type: str
    where: str | None
    message: str
    """The message of all of them. If they differ, it has marks in place of numbers, names of files and ids."""
    example: str | None
    """The message of the first of them if they differ."""
    tasks: list[int]
    first_ts: float | None
    """When the first of them failed, in seconds since 1970; None if unknown."""
    last_ts: float | None
    separates: list[dict[str, Any]]
    """Conditions on parameters that separate them from tasks that succeeded, with `condition`, `failed`, …"""
    suspected: list[dict[str, Any]]
    """Without such conditions, the one that further parameter sets would decide: see `studies.separating`."""


class JobFailures(NamedTuple):
    """The failed tasks of a job."""

    groups: list[FailureGroup]
    more_groups: int
    failed: int
    total: int
    left_out: int | None
    """Parameters that were not compared, since there are too many; None if there were too many tasks."""


NO_FAILURES = JobFailures([], 0, 0, 0, 0)


class _Failure(NamedTuple):
    task: int
    key: str
    type: str
    where: str | None
    message: str
    at: float | None


def read_failures(connection: sqlite3.Connection, job_id: str) -> tuple[JobFailures, str | None] | None:
    """Return the failed tasks of a job, and the state to keep them with; None if its ledger was never looked at.

    The state is None if they were kept already.
    """
    ledger = read_ledger(connection, job_id)
    if ledger is None:
        return None
    state, kept = _state(connection, job_id, ledger), _read_kept(connection, job_id)
    if kept is not None and kept[1] == state:
        return kept[0], None
    return _summarise(connection, job_id, ledger), state


def last_failures(connection: sqlite3.Connection, job_id: str) -> tuple[JobFailures, bool] | None:
    """Return the failed tasks of a job as they were kept last, and whether no more is known by now; else None."""
    ledger, kept = read_ledger(connection, job_id), _read_kept(connection, job_id)
    if ledger is None or kept is None:
        return None
    return kept[0], kept[1] == _state(connection, job_id, ledger)


def open_failures(connection: sqlite3.Connection, job_id: str, failures: JobFailures) -> JobFailures:
    """Return the failed tasks of a job without those that a later job of its family has taken up.

    A group that lacks some has no conditions: they are those of all its tasks. A later job whose ledger was never
    looked at has taken up nothing, as far as is known.
    """
    ledgers = [read_ledger(connection, later) for (later,) in connection.execute(LATER_JOBS, (job_id,)).fetchall()]
    taken = [json.loads(one.task_ranges) for one in ledgers if one is not None and one.task_ranges is not None]
    if not taken or not failures.failed:
        return failures
    rest = (
        failure
        for failure in _find_failures(connection, job_id, find_duplicates(connection, job_id))
        if not any(is_in_ranges(failure.task, ranges) for ranges in taken)
    )
    groups, _, count = _group(rest)
    whole = {(group.key, group.size): group for group in failures.groups}
    largest = _largest(groups)
    shown = [whole.get((group.first.key, group.size)) or group.finished([], []) for group in largest]
    return failures._replace(groups=shown, more_groups=len(groups) - len(largest), failed=count)


def jobs_that_take_up(connection: sqlite3.Connection, job_ids: Collection[str]) -> list[str]:
    """Return the later jobs that take up tasks of these jobs, without these."""
    later = {row[0]: None for job_id in job_ids for row in connection.execute(LATER_JOBS, (job_id,))}
    return [job_id for job_id in later if job_id not in job_ids]


def jobs_with_failures(
    connection: sqlite3.Connection, job_filter: Filter, limit: int, *, resumed: bool
) -> tuple[list[str], int]:
    """Return the ids of jobs that pass a filter and have failed tasks, the last changed first, and how many there are.

    Args:
        connection: the cache.
        job_filter: which jobs.
        limit: how many ids, 0 for all.
        resumed: also those that a resume has taken up; see `IS_NOT_RESUMED`.
    """
    is_open = "" if resumed else f" AND {IS_NOT_RESUMED}"
    total, rows = 0, []
    for condition, values in where_clauses(connection, job_filter):
        for table, has_failures in _HAVE_FAILURES:
            where = f"FROM {table} WHERE {has_failures} AND {condition}{is_open}"
            total += connection.execute(f"SELECT count(*) {where}", values).fetchone()[0]
            # Only the first ones are read: ids of all would be a read of their rows.
            first = f"SELECT changed_ts, job_id {where} ORDER BY changed_ts DESC, job_id LIMIT {limit or -1:d}"
            rows += connection.execute(first, values).fetchall()
    rows.sort(key=lambda row: (-row[0], row[1]))
    return [job_id for _, job_id in rows[: limit or None]], total


def keep_failures(connection: sqlite3.Connection, job_id: str, failures: JobFailures, state: str) -> None:
    """Keep the result of `read_failures`, unless the job was removed from the cache meanwhile."""
    connection.execute(
        "INSERT OR REPLACE INTO failure_summary (job_id, state, document)"
        " SELECT job_id, ?, ? FROM ledger WHERE job_id = ?",
        (state, json.dumps(failures, separators=(",", ":")), job_id),
    )


def _read_kept(connection: sqlite3.Connection, job_id: str) -> tuple[JobFailures, str] | None:
    """Return the failed tasks as they were kept last, and the state; None if nothing is kept in this form."""
    row = connection.execute("SELECT document, state FROM failure_summary WHERE job_id = ?", (job_id,)).fetchone()
    if row is None or row[1].partition(".")[0] != str(VERSION):
        return None
    groups, *others = json.loads(row[0])
    return JobFailures([FailureGroup(*group) for group in groups], *others), row[1]


def _state(connection: sqlite3.Connection, job_id: str, ledger: Ledger) -> str:
    """Return a text that changes with what is known of the failed tasks. Few rows tell it."""
    # A task whose attempt was lost may turn out to have left its outputs, without a new chunk.
    (lost,) = connection.execute(
        "SELECT count(*) FROM task WHERE job_id = ? AND outcome = 'lost'", (job_id,)
    ).fetchone()
    return ".".join(map(str, (VERSION, ledger.basis, ledger.chunks, ledger.problems, ledger.tasks_total, lost)))


def _find_failures(connection: sqlite3.Connection, job_id: str, duplicates: Mapping[int, int]) -> Iterator[_Failure]:
    """Return the tasks whose last attempt failed, and those that repeat one of them, by their numbers."""
    rows = connection.execute(
        "SELECT task, coalesce(error_key, outcome), coalesce(error_type, outcome), error_where,"  # noqa: S608 - constant names
        " coalesce(error_message, ''), started_ts + coalesce(seconds, 0) FROM task"
        f" WHERE job_id = ? AND {IS_FAILED} ORDER BY task",
        (job_id,),
    )
    failures = map(_Failure._make, rows)
    if not duplicates:
        return failures
    by_task = {failure.task: failure for failure in failures}
    by_task |= {task: by_task[first]._replace(task=task) for task, first in duplicates.items() if first in by_task}
    return iter([by_task[task] for task in sorted(by_task)])


class _Group:
    """A group while its failures are read."""

    def __init__(self, first: _Failure) -> None:
        self.first = first
        self.size = 0
        self.has_one_message = True
        self.tasks: list[int] = []
        self.times: list[float] = []

    def add(self, one: _Failure) -> None:
        self.size += 1
        self.has_one_message = self.has_one_message and one.message == self.first.message
        if len(self.tasks) < MAX_SAMPLES:
            self.tasks.append(one.task)
        if one.at is not None:
            self.times = [min(one.at, *self.times), max(one.at, *self.times)] if self.times else [one.at, one.at]

    def finished(self, separates: list[dict[str, Any]], suspected: list[dict[str, Any]]) -> FailureGroup:
        """Return the group with its conditions, and with what is suspected."""
        message, example = self.first.message, None
        if not self.has_one_message:
            from mopsjobs.ledger.attempt import normalise  # here: it is kept for the next view

            message, example = normalise(message), message
        first, last = self.times or (None, None)
        key, kind, where = self.first.key, self.first.type, self.first.where
        return FailureGroup(
            key, self.size, kind, where, message, example, self.tasks, first, last, separates, suspected
        )


def _group(failures: Iterator[_Failure]) -> tuple[dict[str, _Group], dict[int, str], int]:
    """Return failures by the keys of their errors, the key of each task, and how many tasks failed."""
    groups: dict[str, _Group] = {}
    failed: dict[int, str] = {}
    count = 0
    for one in failures:
        count += 1
        if one.key not in groups and len(groups) == MAX_SEEN_GROUPS:
            continue
        groups.setdefault(one.key, _Group(one)).add(one)
        failed[one.task] = one.key
    return groups, failed, count


def _largest(groups: Mapping[str, _Group]) -> list[_Group]:
    return sorted(groups.values(), key=lambda group: (-group.size, group.tasks))[:MAX_GROUPS]


def _summarise(connection: sqlite3.Connection, job_id: str, ledger: Ledger) -> JobFailures:
    """Group the failed tasks of a job, and compare those of the largest groups with the tasks that succeeded."""
    duplicates = find_duplicates(connection, job_id)
    groups, failed, count = _group(_find_failures(connection, job_id, duplicates))
    largest = _largest(groups)
    searched = [group.first.key for group in largest[:MAX_COMPARED_GROUPS]]
    conditions: dict[str, list[dict[str, Any]]] = {}
    suspected: dict[str, list[dict[str, Any]]] = {}
    left_out: int | None = 0
    if failed:
        study = StoredStudy.load(connection, job_id)
        sets = None if study is None else _sets(connection, study, failed, duplicates)
        separation = None if sets is None else Separation(sets, searched)
        left_out = None if separation is None else separation.left_out
        if sets is not None and separation is not None:
            conditions = {key: [_to_json(one) for one in separation.findings(key)] for key in searched}
            if sum(len(one.outcomes) for one in sets) == ledger.tasks_total:  # tasks to come may tell
                suspected = {key: _suspected(sets, key) for key in searched if not conditions[key]}
    return JobFailures(
        [group.finished(conditions.get(group.first.key, []), suspected.get(group.first.key, [])) for group in largest],
        len(groups) - len(largest),
        count,
        ledger.tasks_total,
        left_out,
    )


def _sets(
    connection: sqlite3.Connection, study: StoredStudy, failed: Mapping[int, str], duplicates: Mapping[int, int]
) -> list[SetOutcomes] | None:
    """Return the parameter sets with ended tasks; None if there are too many."""
    job_id = study.job_id
    sql = "SELECT count(*) FROM task WHERE job_id = ? AND outcome = 'succeeded'"
    if connection.execute(sql, (job_id,)).fetchone()[0] + len(failed) > MAX_COMPARED_TASKS:
        return None
    succeeded = connection.execute(
        "SELECT task FROM task WHERE job_id = ? AND outcome = 'succeeded' ORDER BY task", (job_id,)
    )
    numbers: Iterator[int] = (number for (number,) in succeeded)
    if duplicates:
        ended_well = set(numbers)
        numbers = iter(sorted(ended_well.union(task for task, first in duplicates.items() if first in ended_well)))
    passed: Iterator[tuple[int, str | None]] = ((number, None) for number in numbers)
    ended = heapq.merge(passed, sorted(failed.items()), key=lambda one: one[0])
    by_id: dict[str, tuple[str, list[str | None]]] = {}
    held = 0
    for param_id, params, outcomes in _outcomes_of_sets(study, ended):
        known = by_id.get(param_id)
        if known is None:
            held += len(params)
            if held > MAX_COMPARED_BYTES:
                return None
            by_id[param_id] = (params, outcomes)
        else:
            known[1].extend(outcomes)
    return [SetOutcomes(_parse(params), outcomes) for params, outcomes in by_id.values()]


def _outcomes_of_sets(
    study: StoredStudy, ended: Iterable[tuple[int, str | None]]
) -> Iterator[tuple[str, str, list[str | None]]]:
    """Yield id, parameters and outcomes of each parameter set with ended tasks. Both are in the order of tasks."""
    sets = study.sets()
    one = next(sets, None)
    outcomes: list[str | None] = []
    for number, outcome in ended:
        while one is not None and number >= one.first_task + one.tasks:
            if outcomes:
                yield one.param_id, one.params, outcomes
                outcomes = []
            one = next(sets, None)
        if one is not None and number >= one.first_task:
            outcomes.append(outcome)
    if one is not None and outcomes:
        yield one.param_id, one.params, outcomes


def _parse(params: str) -> dict[str, Any]:
    return {sys.intern(name): value for name, value in json.loads(params).items()}


def _to_json(finding: Finding) -> dict[str, Any]:
    return {
        "condition": str(finding.condition),
        "failed": finding.failed,
        "passed": finding.passed,
        "others": finding.others,
        "support": round(finding.support, 9),
        "lift": round(finding.lift, 4),
    }


def _suspected(sets: Sequence[SetOutcomes], key: str) -> list[dict[str, Any]]:
    found = find_suspicion(sets, key)
    if found is None:
        return []
    return [{"condition": str(found.condition), "failed_sets": found.failed, "further_sets": found.further}]


class FailedJob(NamedTuple):
    """A job with failures."""

    job_id: str
    owner: str | None
    has_ended: bool
    ended_ts: float
    """When it ended, or changed last, in seconds since 1970."""
    has_failed: bool
    """Whether its record says that it, or a task of it, has failed."""
    error: str | None
    """The error of its record in one line, `CODE: message`, if it ended `failed` or `partial`."""
    tasks_total: int
    is_submitted: bool
    """Whether its record names a bundle, as those of jobs that mops-jobs submitted do."""
    updated_at: str
    failures: JobFailures | None
    """Its failed tasks as they were kept last; None if they were never read."""
    is_current: bool
    """Whether no more is known of them by now."""


_HAS_ENDED_BADLY = (
    f"(status IN ('failed', 'partial') AND NOT ({DEFERS.format(job='job')}"
    f" AND tasks_completed >= job.tasks_total AND NOT instr(coalesce(error, ''), '{REDUCE_TEXT}')))"
)
"""The condition for a job with an error of its own: another one has only left tasks to a later resume."""


def read_failed_jobs(connection: sqlite3.Connection, job_ids: Sequence[str]) -> list[FailedJob]:
    """Return these jobs, in their order."""
    rows = connection.execute(
        "SELECT job.job_id, owner, NOT is_active, coalesce(ended_ts, changed_ts),"  # noqa: S608 - constant names
        f" {_HAS_ENDED_BADLY} OR coalesce({_HAVE_FAILED_TASKS}, 0),"
        f" iif({_HAS_ENDED_BADLY}, error, NULL), job.tasks_total,"
        " json_type(record, '$.metadata.bundle') IS NOT NULL, json_extract(record, '$.updated_at'),"
        " ledger.job_id IS NOT NULL"
        " FROM json_each(?) AS wanted CROSS JOIN job ON job.job_id = wanted.value LEFT JOIN ledger USING (job_id)"
        " ORDER BY wanted.key",
        (json.dumps(job_ids),),
    ).fetchall()
    failures = ((last_failures(connection, row[0]) if row[-1] else None) or (None, False) for row in rows)
    return [FailedJob(*row[:-1], *found) for row, found in zip(rows, failures, strict=True)]


def reduce_notes(connection: sqlite3.Connection, job_ids: Sequence[str]) -> list[str]:
    """Return sentences about the jobs among these whose reduce function has failed, or has left no outputs."""
    rows = connection.execute(
        "SELECT job_id, substr(message, instr(message, ?1)) FROM (SELECT job_id, wanted.key AS place,"
        " json_extract(record, '$.error_message') AS message FROM json_each(?2) AS wanted"
        " CROSS JOIN job ON job.job_id = wanted.value) WHERE instr(message, ?1) ORDER BY place",
        (REDUCE_TEXT, json.dumps(job_ids)),
    )
    return [f"{job_id}: {text}" for job_id, text in rows]


def failures_without_reason(
    connection: sqlite3.Connection, by_job: Mapping[str, JobFailures], pruned: Mapping[str, int | None]
) -> list[tuple[str, int, str]]:
    """Return id, the number of failed tasks without a known reason, and why, of the jobs that have such tasks.

    The number is below zero if that many tasks of an active job are tried again, by the record.

    Args:
        connection: the cache.
        by_job: jobs, and those of their failed tasks whose reasons are known. The records count all failed tasks.
        pruned: these counts, for jobs whose records the cache does not have.
    """
    rows = connection.execute(
        "SELECT wanted.value, json_extract(record, '$.tasks_failed'), is_active, is_complete,"
        " json_type(record, '$.metadata.bundle') IS NULL AND ledger.job_id IS NULL"
        " FROM json_each(?) AS wanted LEFT JOIN job ON job.job_id = wanted.value"
        " LEFT JOIN ledger ON ledger.job_id = wanted.value ORDER BY wanted.key",
        (json.dumps(list(by_job)),),
    )
    found = []
    for job_id, recorded, is_active, is_complete, is_reported in rows:
        failed = recorded if is_active is not None else pruned.get(job_id)
        count = (failed or 0) - by_job[job_id].failed
        if count > 0:
            why = NOT_WRITTEN if is_active else LOST if is_complete else NOT_READ
            found.append((job_id, count, REPORTED if is_reported else why))
        elif count < 0 and is_active:
            found.append((job_id, count, TRIED_AGAIN))
    return found

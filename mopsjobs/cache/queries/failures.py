"""Group the failed tasks of a job by their errors, and find what separates them from those that succeeded.

The result is kept in the cache, with the state of the ledger that it was made from. So a later view reads one row.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mopsjobs.cache.queries.filters import IS_NOT_RESUMED, Filter, where_clauses
from mopsjobs.cache.queries.ledgers import BY_LEDGER, Ledger, read_ledger
from mopsjobs.ledger.attempt import FAILED_OUTCOMES

VERSION = 5
"""Of the kept form, and of the way in which it is made."""

BY_EVENTS = "events"
"""A basis: the job has no ledger, and its events tell which tasks failed."""

BY_RECORD = "record"
"""A basis: no failed task is known, and the error of the job's record tells why it failed."""

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
"""Tasks that a group names."""

MAX_HOURS = 1000
"""Hours of a group that are kept with the number of tasks that failed in them, the last ones: some 40 days."""


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
    """The first of them."""
    first_ts: float | None
    """When the first of them failed, in seconds since 1970; None if unknown."""
    last_ts: float | None
    separates: list[dict[str, Any]]
    """Conditions on parameters that separate them from tasks that succeeded, with `condition`, `failed`, …"""
    hours: list[list[int]]
    """Hours since 1970 in which some of them failed, in their order, each with the number of tasks."""


class JobFailures(NamedTuple):
    """The failed tasks of a job."""

    groups: list[FailureGroup]
    """The largest first."""
    more_groups: int
    """Groups that are left out."""
    failed: int
    """Tasks that failed."""
    total: int
    """Tasks of the job."""
    basis: str
    """`BY_LEDGER`, `BY_EVENTS` if the job has no ledger, or `BY_RECORD`."""
    left_out: int | None
    """Parameters that were not compared, since there are too many; None if there were too many tasks."""


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
    state = _state(connection, job_id, ledger)
    summary = _read_kept(connection, job_id, state)
    if summary is not None:
        return summary, None
    from mopsjobs.cache.stored_study import find_duplicates  # here: what follows is kept for the next view

    failures = (_from_ledger if ledger.basis == BY_LEDGER else _from_events)(connection, job_id)
    duplicates = find_duplicates(connection, job_id)
    if duplicates:
        failures = _with_duplicates(failures, duplicates)
    return _summarise(connection, job_id, failures, duplicates, ledger), state


def last_failures(connection: sqlite3.Connection, job_id: str) -> tuple[JobFailures, bool] | None:
    """Return the failed tasks of a job as they were kept last, and whether no more is known by now; else None."""
    ledger = read_ledger(connection, job_id)
    if ledger is None:
        return None
    row = connection.execute("SELECT state FROM failure_summary WHERE job_id = ?", (job_id,)).fetchone()
    if row is None or row[0].partition(".")[0] != str(VERSION):
        return None
    summary = _read_kept(connection, job_id, row[0])
    return None if summary is None else (summary, row[0] == _state(connection, job_id, ledger))


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


def _read_kept(connection: sqlite3.Connection, job_id: str, state: str) -> JobFailures | None:
    sql = "SELECT document FROM failure_summary WHERE job_id = ? AND state = ?"
    row = connection.execute(sql, (job_id, state)).fetchone()
    if row is None:
        return None
    groups, *others = json.loads(row[0])
    return JobFailures([FailureGroup(*group) for group in groups], *others)


def _state(connection: sqlite3.Connection, job_id: str, ledger: Ledger) -> str:
    """Return a text that changes with what is known of the failed tasks. Few rows tell it."""
    # A task whose attempt was lost may turn out to have left its outputs, without a new chunk.
    (lost,) = connection.execute(
        "SELECT count(*) FROM task WHERE job_id = ? AND outcome = 'lost'", (job_id,)
    ).fetchone()
    more = ()
    if ledger.basis != BY_LEDGER:
        more = connection.execute(
            "SELECT (SELECT count(*) FROM task WHERE job_id = ?1), (SELECT max(seq) FROM event WHERE job_id = ?1)",
            (job_id,),
        ).fetchone()
    return ".".join(map(str, (VERSION, ledger.basis, ledger.chunks, ledger.problems, lost, *more)))


def _from_ledger(connection: sqlite3.Connection, job_id: str) -> Iterator[_Failure]:
    """Yield the tasks whose last attempt failed, by their numbers."""
    rows = connection.execute(
        "SELECT task, coalesce(error_key, outcome), coalesce(error_type, outcome), error_where,"  # noqa: S608 - question marks
        " coalesce(error_message, ''), started_ts + coalesce(seconds, 0) FROM task"
        f" WHERE job_id = ? AND outcome IN ({', '.join('?' * len(FAILED_OUTCOMES))}) ORDER BY task",
        (job_id, *FAILED_OUTCOMES),
    )
    return (_Failure(*row) for row in rows)


def _from_events(connection: sqlite3.Connection, job_id: str) -> Iterator[_Failure]:
    """Yield the tasks whose last event is their failure and that have no outputs, by their numbers."""
    from mopsjobs.cache.stored_study import StoredStudy  # here: only old jobs need all three
    from mopsjobs.events.format import TASK_FAILED
    from mopsjobs.ledger.attempt import error_signature

    study = StoredStudy.load(connection, job_id)
    last: dict[int, tuple[float, Any]] = {}
    rows = connection.execute(
        "SELECT json_extract(body, '$.task') AS task, at_ts, json_extract(body, '$.error') FROM event"
        " WHERE job_id = ?1 AND kind = ?2 AND typeof(task) = 'integer'"
        " AND task NOT IN (SELECT task FROM task WHERE job_id = ?1) ORDER BY at_ts, seq",
        (job_id, TASK_FAILED),
    )
    for task, at, error in rows:
        # Events are of every writer of the registry: they may name tasks that the job does not have.
        if task >= 0 and study is not None and study.place_of(task) is not None:
            last[task] = (at, error)
    for task, (at, text) in sorted(last.items()):
        error = json.loads(text) if isinstance(text, str) and text.startswith("{") else {}
        kind, message = str(error.get("type")), str(error.get("message"))
        where = error.get("at") if isinstance(error.get("at"), str) else None
        yield _Failure(task, error_signature(kind, where, message), kind, where, message, at)


def _with_duplicates(failures: Iterator[_Failure], duplicates: Mapping[int, int]) -> Iterator[_Failure]:
    """Yield failures by their numbers, and those of tasks that repeat a failed task. They count as tasks too."""
    by_task = {one.task: one for one in failures}
    repeated = (by_task[first]._replace(task=task) for task, first in duplicates.items() if first in by_task)
    by_task |= {one.task: one for one in list(repeated)}
    return (by_task[task] for task in sorted(by_task))


class _Group:
    """A group while its failures are read."""

    def __init__(self, first: _Failure) -> None:
        self.first = first
        self.size = 0
        self.has_one_message = True
        self.tasks: list[int] = []
        self.times: list[float] = []
        self.hours: Counter[int] = Counter()

    def add(self, one: _Failure) -> None:
        self.size += 1
        self.has_one_message = self.has_one_message and one.message == self.first.message
        if len(self.tasks) < MAX_SAMPLES:
            self.tasks.append(one.task)
        if one.at is not None:
            self.times = [min(one.at, *self.times), max(one.at, *self.times)] if self.times else [one.at, one.at]
            self.hours[int(one.at // 3600)] += 1

    def finished(self, separates: list[dict[str, Any]]) -> FailureGroup:
        """Return the group with its conditions."""
        message, example = self.first.message, None
        if not self.has_one_message:
            from mopsjobs.ledger.attempt import normalise  # here: it is kept for the next view

            message, example = normalise(message), message
        first, last = self.times or (None, None)
        key, kind, where = self.first.key, self.first.type, self.first.where
        hours = [[hour, count] for hour, count in sorted(self.hours.items())[-MAX_HOURS:]]
        return FailureGroup(key, self.size, kind, where, message, example, self.tasks, first, last, separates, hours)


def _summarise(
    connection: sqlite3.Connection,
    job_id: str,
    failures: Iterator[_Failure],
    duplicates: Mapping[int, int],
    ledger: Ledger,
) -> JobFailures:
    """Group failures, and compare those of the largest groups with the tasks that succeeded."""
    from mopsjobs.cache.queries.failure_conditions import find_conditions  # here: it is kept for the next view

    groups: dict[str, _Group] = {}
    failed: dict[int, str] = {}
    count = 0
    for one in failures:
        count += 1
        if one.key not in groups and len(groups) == MAX_SEEN_GROUPS:
            continue
        groups.setdefault(one.key, _Group(one)).add(one)
        failed[one.task] = one.key
    largest = sorted(groups.values(), key=lambda group: (-group.size, group.tasks))[:MAX_GROUPS]
    found = find_conditions(connection, job_id, failed, [group.first.key for group in largest], duplicates)
    return JobFailures(
        [group.finished(found.conditions.get(group.first.key, [])) for group in largest],
        len(groups) - len(largest),
        count,
        ledger.tasks_total,
        BY_LEDGER if ledger.basis == BY_LEDGER else BY_EVENTS,
        found.left_out,
    )

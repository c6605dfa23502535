"""Compare the parameters of failed tasks of a job with those of the tasks that succeeded, as the cache has them."""

from __future__ import annotations

import heapq
import json
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mopsjobs.cache.stored_study import StoredStudy
from mopsjobs.studies.separating import Finding, Separation, SetOutcomes

MAX_COMPARED_TASKS = 1_000_000
"""Ended tasks of a job up to which parameters are compared."""

MAX_COMPARED_BYTES = 100_000_000
"""Of the parameters of all sets, as JSON. They are held while they are compared, and take some five times of it."""

MAX_COMPARED_GROUPS = 20
"""Groups of a job whose conditions are searched, the largest ones."""


class FoundConditions(NamedTuple):
    """The conditions for the errors of a job."""

    conditions: dict[str, list[dict[str, Any]]]
    """By key of the error, as JSON has them."""
    left_out: int | None
    """Parameters that were not compared, since there are too many; None if there are too many tasks."""


def find_conditions(
    connection: sqlite3.Connection,
    job_id: str,
    failed: Mapping[int, str],
    keys: Sequence[str],
    duplicates: Mapping[int, int],
) -> FoundConditions:
    """Find what separates failed tasks from those that succeeded.

    Args:
        connection: the cache.
        job_id: the job.
        failed: the key of the error of each failed task, by its number.
        keys: the errors, the most frequent first.
        duplicates: the tasks that repeat an earlier one, and the first of them.
    """
    if not failed:
        return FoundConditions({}, 0)
    study = StoredStudy.load(connection, job_id)
    sets = None if study is None else _sets(connection, study, failed, duplicates)
    if sets is None:
        return FoundConditions({}, None)
    searched = keys[:MAX_COMPARED_GROUPS]
    separation = Separation(sets, searched)
    conditions = {key: [_to_json(one) for one in separation.findings(key)] for key in searched}
    return FoundConditions(conditions, separation.left_out)


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

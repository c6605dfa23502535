"""What the tasks of ended jobs have cost, from the attempts that the cache has: the evidence for plans."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from mopsjobs.studies.costs import MeasuredSet

MAX_JOBS = 50
"""Ended jobs of a model that are looked at, the newest ones."""

MAX_SETS = 10_000
"""Parameter sets of a job that count, at equal distances."""

MAX_COST = 1e15
"""Seconds or bytes of a task. More is an error of the program that wrote them."""

RESOLUTION = 0.001
"""Seconds: a ledger has whole milliseconds, of the processor time in user mode and of that in the kernel."""

# The last outcome of a task decides, and all of its attempts cost. One that was stopped or lost says too little.
_SETS = """
    WITH cost AS (
        SELECT attempt.task, sum(attempt.user_seconds + attempt.system_seconds) AS cpu, sum(attempt.seconds) AS seconds,
            coalesce(max(attempt.output_bytes), 0) * 1.0 AS size, max(attempt.seconds) AS longest
        FROM attempt WHERE job_id = ?1 GROUP BY attempt.task
    )
    SELECT param_id, params, max(longest), count(cpu), total(cpu), total(cpu * cpu),
        count(cost.seconds), total(cost.seconds), total(cost.seconds * cost.seconds),
        count(size), total(size), total(size * size)
    FROM cost CROSS JOIN task ON task.job_id = ?1 AND task.task = cost.task AND outcome NOT IN ('cancelled', 'lost')
    JOIN parameter_set ON parameter_set.job_id = ?1 AND parameter_set.first_task = task.first_task
    GROUP BY task.first_task ORDER BY task.first_task
"""


class EarlierJob(NamedTuple):
    """A job of the model that has ended."""

    job_id: str
    engine: str | None
    bundle: str | None
    seeds: str | None
    """The rule of its seeds, in words; None for the usual one."""
    seconds: float


class Costs(NamedTuple):
    """Measurements of tasks, by parameter set."""

    cpu: list[MeasuredSet]
    """Processor time in seconds, of all attempts at a task."""
    seconds: list[MeasuredSet]
    size: list[MeasuredSet]
    """The bytes of the outputs of a task."""
    longest: float

    @property
    def tasks(self) -> int:
        """Count the measured tasks."""
        return sum(one.tasks for one in self.seconds)


def earlier_jobs(connection: sqlite3.Connection, study: str) -> list[EarlierJob]:
    """Return the newest ended jobs of a model and a scenario that have measured anything, the newest first.

    Args:
        connection: the cache.
        study: what they compute, as the column of the cache has it.
    """
    rows = connection.execute(
        "SELECT job_id, json_extract(record, '$.engine'), json_extract(record, '$.metadata.bundle'),"
        " json_extract(record, '$.metadata.seeds'),"
        " max(0.0, coalesce(ended_ts - created_ts, 0.0)) FROM job"
        " WHERE study = ? AND is_active = 0 AND usage IS NOT NULL ORDER BY changed_ts DESC, job_id LIMIT ?",
        (study, MAX_JOBS),
    )
    return [EarlierJob(*row) for row in rows]


def span_of(connection: sqlite3.Connection, job_id: str) -> float | None:
    """Return the seconds from the begin of the first attempt of a job to the end of the last one; None if unknown."""
    sql = "SELECT max(started_ts + seconds) - min(started_ts) FROM attempt WHERE job_id = ?"
    return connection.execute(sql, (job_id,)).fetchone()[0]  # type: ignore[no-any-return]


def costs_of(connection: sqlite3.Connection, job_ids: Iterable[str]) -> Costs:
    """Return what the tasks of jobs have cost. A parameter set of several jobs comes once."""
    sums: dict[str, tuple[str, list[float]]] = {}
    longest = 0.0
    for job_id in job_ids:
        rows = connection.execute(_SETS, (job_id,)).fetchall()
        step = -(-len(rows) // MAX_SETS) or 1
        for param_id, params, slowest, *numbers in rows[::step]:
            longest = max(longest, slowest or 0.0)
            _, known = sums.setdefault(param_id, (params, [0.0] * len(numbers)))
            known[:] = map(float.__add__, known, map(float, numbers))
    costs = Costs([], [], [], longest)
    for param_id, (text, known) in sums.items():
        params = json.loads(text)
        for column, (count, total, squares) in zip(costs[:3], zip(*[iter(known)] * 3, strict=True), strict=True):
            if count and (mean := total / count) < MAX_COST:
                spread = max(0.0, squares - count * mean * mean)
                column.append(MeasuredSet(param_id, params, int(count), mean, spread))
    return costs

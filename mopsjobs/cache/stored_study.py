"""The tasks of a job as the cache has them: parameter sets, from which numbers, parameters and seeds of tasks follow.

It imports little, since `tasks` answers as a listing does.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from mopsjobs.studies.seeds import SeedRule, drawn_seed
from mopsjobs.utils.ranges import is_in_ranges

if TYPE_CHECKING:
    from mopsjobs.studies.precision import Precision

StoredSeed = int | str
"""A seed in the cache: a whole number, or its digits from 2^63 on, which SQLite would round."""


class StoredSet(NamedTuple):
    """A parameter set of a job."""

    rule: SeedRule
    first_task: int
    tasks: int
    """Tasks of the set in the study. A child job may have fewer of them."""
    param_id: str
    seed: StoredSeed | None
    """The seed of the first task, from which the others count up; None if they are drawn or listed."""
    params: str

    def seed_of(self, number: int) -> int:
        """Return the seed of the task with this number."""
        replicate = number - self.first_task
        return drawn_seed(self.rule, self.param_id, replicate) if self.seed is None else int(self.seed) + replicate


class StoredStudy:
    """The study of a job, read set by set."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        job_id: str,
        tasks_total: int,
        task_ranges: str | None,
        seeds: str,
        precision: str | None,
    ) -> None:
        self.job_id = job_id
        self.rounds: int | None = None
        """Rounds that were read of a job that may still grow; None for any other job."""
        self._tasks_total = tasks_total
        self._connection = connection
        self._precision: Precision | None = None
        if precision is not None:
            from mopsjobs.studies.precision import Precision  # here: few studies are adaptive

            self._precision = Precision.from_json(json.loads(precision))
        self._ranges: list[tuple[int, int]] | None = None
        if task_ranges is not None:
            self._ranges = [(first, end) for first, end in json.loads(task_ranges)]
        rule = json.loads(seeds)
        self._rule: SeedRule = tuple(rule) if isinstance(rule, list) else rule
        self._last_set: StoredSet | None = None

    @classmethod
    def load(cls, connection: sqlite3.Connection, job_id: str) -> StoredStudy | None:
        """Return the study of a job; None if its ledger was never looked at."""
        sql = "SELECT tasks_total, task_ranges, seeds, precision, rounds FROM ledger WHERE job_id = ?"
        row = connection.execute(sql, (job_id,)).fetchone()
        if row is None:
            return None
        study = cls(connection, job_id, *row[:-1])
        study.rounds = row[-1]
        return study

    def sets(self, *, descending: bool = False, after: int | None = None) -> Iterator[StoredSet]:
        """Yield the parameter sets in the order of their tasks; from that of the task `after` on, if it is given."""
        order, condition = ("DESC", "first_task <= ?2") if descending else ("ASC", "first_task >= ?2")
        begin = after
        if after is not None and not descending:
            one = self.set_of(after)
            begin = after if one is None else one.first_task
        rows = self._connection.execute(
            "SELECT first_task, tasks, param_id, seed, params FROM parameter_set WHERE job_id = ?1"  # noqa: S608 - constant words
            f" AND {'true' if begin is None else condition} ORDER BY first_task {order}",
            (self.job_id,) if begin is None else (self.job_id, begin),
        )
        return (StoredSet(self._rule, *row) for row in rows)

    def numbers_of(self, one: StoredSet, *, descending: bool = False, after: int | None = None) -> Iterator[int]:
        """Yield the numbers of the tasks of a set that are of the job; only those after `after`, if it is given."""
        first, end = one.first_task, one.first_task + self._needed(one)
        if after is not None and descending:
            end = min(end, after)
        elif after is not None:
            first = max(first, after + 1)
        if self._ranges is None:
            parts = [range(first, end)]
        else:
            place = max(0, bisect_right(self._ranges, (first,)) - 1)
            parts = []
            while place < len(self._ranges) and self._ranges[place][0] < end:
                low, high = self._ranges[place]
                parts.append(range(max(low, first), min(high, end)))
                place += 1
        for part in reversed(parts) if descending else parts:
            yield from reversed(part) if descending else part

    def duplicates(self) -> Iterator[tuple[int, int]]:
        """Yield each task that repeats an earlier one, with the first of them. Both are numbers."""
        rows = self._connection.execute(
            "SELECT first_task, tasks, param_id, seed, params FROM parameter_set WHERE job_id = ?1 AND param_id IN"
            " (SELECT param_id FROM parameter_set WHERE job_id = ?1 GROUP BY param_id HAVING count(*) > 1)"
            " ORDER BY param_id, first_task",
            (self.job_id,),
        )
        found = (StoredSet(self._rule, *row) for row in rows)
        for _, sets in itertools.groupby(found, key=lambda one: one.param_id):
            first_of: dict[int, int] = {}
            for one in sets:
                for number in self.numbers_of(one):
                    first = first_of.setdefault(one.seed_of(number), number)
                    if first != number:
                        yield number, first

    def place_of(self, number: int) -> tuple[int, StoredSeed] | None:
        """Return the first task of the set of a task, and its seed as the cache has it; None if the job has no such."""
        one = self.set_of(number)
        if one is None or not self._has(number):
            return None
        return one.first_task, to_stored_seed(one.seed_of(number))

    def number_of(self, param_id: str, seed: int) -> int | None:
        """Return the first task of the job with these parameters and this seed; None if it has none."""
        sql = "SELECT first_task FROM parameter_set WHERE job_id = ? AND param_id = ? ORDER BY first_task"
        rows = self._connection.execute(sql, (self.job_id, param_id)).fetchall()
        sets = (one for (first,) in rows if (one := self.set_of(first)) is not None)
        return next((number for one in sets for number in self.numbers_of(one) if one.seed_of(number) == seed), None)

    def set_of(self, number: int) -> StoredSet | None:
        """Return the parameter set of a task; None if there is none."""
        last = self._last_set
        if last is None or not last.first_task <= number < last.first_task + last.tasks:
            row = self._connection.execute(
                "SELECT first_task, tasks, param_id, seed, params FROM parameter_set"
                " WHERE job_id = ? AND first_task <= ? ORDER BY first_task DESC LIMIT 1",
                (self.job_id, number),
            ).fetchone()
            last = self._last_set = None if row is None else StoredSet(self._rule, *row)
        return last if last is not None and number < last.first_task + last.tasks else None

    @property
    def is_adaptive(self) -> bool:
        """Return whether its precision decides the number of replicates."""
        return self._precision is not None

    def count_tasks(self) -> int:
        """Count the tasks of the job; of an adaptive study, those that are needed as far as is known."""
        if self._precision is None:
            return self._tasks_total
        counts = self._connection.execute(
            "SELECT tasks, needed, last, count(*) FROM (SELECT tasks, needed, (SELECT max(task) FROM task"
            " WHERE job_id = ?1 AND task BETWEEN one.first_task AND one.first_task + one.tasks - 1) - first_task"
            " AS last FROM parameter_set AS one WHERE job_id = ?1) GROUP BY tasks, needed, last",
            (self.job_id,),
        )
        return sum(count * self._needed_of(*of_set) for *of_set, count in counts)

    def _needed(self, one: StoredSet) -> int:
        """Return how many tasks of a set are needed, as far as is known: of an adaptive study, not all may be.

        A task with a row tells that those up to the next look are. The outputs tell more, once they were judged.
        """
        if self._precision is None:
            return one.tasks
        last, needed = self._connection.execute(
            "SELECT max(task) - ?2, (SELECT needed FROM parameter_set WHERE job_id = ?1 AND first_task = ?2)"
            " FROM task WHERE job_id = ?1 AND task BETWEEN ?2 AND ?3",
            (self.job_id, one.first_task, one.first_task + one.tasks - 1),
        ).fetchone()
        return self._needed_of(one.tasks, needed, last)

    def _needed_of(self, tasks: int, needed: int | None, last: int | None) -> int:
        assert self._precision is not None  # noqa: S101 - the study is adaptive
        return min(tasks, max(needed or 0, self._precision.next_look(last or 0)))

    def _has(self, number: int) -> bool:
        return self._ranges is None or is_in_ranges(number, self._ranges)


def find_duplicates(connection: sqlite3.Connection, job_id: str) -> dict[int, int]:
    """Map each task of a job that repeats an earlier one, by parameters and seed, to the number of the first of them.

    Only the first of them has a row: it is run, and the others share its outputs.
    """
    row = connection.execute(
        "SELECT json_extract(record, '$.metadata.n_duplicate_tasks') FROM job WHERE job_id = ?", (job_id,)
    ).fetchone()
    study = StoredStudy.load(connection, job_id) if row is not None and row[0] else None
    return {} if study is None else dict(study.duplicates())


def to_stored_seed(seed: int) -> StoredSeed:
    """Return a seed as the cache has it."""
    return seed if seed < 2**63 else str(seed)

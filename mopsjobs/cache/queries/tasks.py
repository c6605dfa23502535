"""List the tasks of a job from the cache: those that ended by their rows, the others by the study.

A study may have ten million tasks. So tasks are merged from two ordered streams, one parameter set at a time, and
nothing is held but what is shown.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from mopsjobs.cache.queries.ledgers import Ledger
from mopsjobs.cache.queries.task_filters import (
    MISSING,
    WAITING,
    Condition,
    Order,
    as_number,
    check_count,
    check_names,
    check_order,
    near_misses,
    parse_condition,
    parse_order,
    parse_task_statuses,
)
from mopsjobs.cache.stored_study import StoredSet, StoredStudy, to_stored_seed
from mopsjobs.utils.text import error_line
from mopsjobs.utils.times import human_seconds, json_timestamp

MAX_COUNTED = 100_000
"""Tasks of a job up to which all that pass a filter are counted. A count of ten million takes half a minute."""

MAX_HELD = 10_000
"""Tasks that are read before they are shown. More are shown as they are read."""

_COLUMNS = (
    "task.task, first_task, task.seed, shard, outcome, attempts, started_ts, seconds, user_seconds + system_seconds,"
    " max_rss_bytes, host, output_bytes, error_key, error_type, error_where, error_message, resumed_at,"
    " resumed_seconds, resumes, reused_from"
)


class TaskRow(NamedTuple):
    """A task: how its last attempt ended. If none did, only its number, its set and its seed are known."""

    task: int
    first_task: int
    seed: int | str
    shard: int | None
    outcome: str
    attempts: int
    started_ts: float | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    max_rss_bytes: int | None = None
    host: str | None = None
    output_bytes: int | None = None
    error_key: str | None = None
    error_type: str | None = None
    error_where: str | None = None
    error_message: str | None = None
    resumed_at: str | None = None
    """The name of the checkpoint that the last attempt went on from; None: it began at the start."""
    resumed_seconds: float | None = None
    """How long the task had worked by that."""
    resumes: int | None = None
    reused_from: str | None = None
    """The job that ran it; None: this one, if any."""

    @property
    def error(self) -> str | None:
        """Return the error on one line, with its place; None without one."""
        return error_line(self.error_type, self.error_message, self.error_where)

    @property
    def resumed(self) -> str | None:
        """Return where the last attempt went on, and how often one did: `at 40m, twice`; None if none did."""
        if not self.resumes:
            return None
        times = {1: "once", 2: "twice"}.get(self.resumes, f"{self.resumes} times")
        return times if self.resumed_seconds is None else f"at {human_seconds(self.resumed_seconds)}, {times}"


class ListedTask(NamedTuple):
    """A task with its parameter set."""

    row: TaskRow
    param_id: str
    params: Mapping[str, object]

    def to_json(self) -> dict[str, object]:
        """Return the task as scripts get it."""
        row = self.row
        shown = {
            **row._asdict(),
            "params": self.params,
            "seed": int(row.seed),
            "param_id": self.param_id,
            "attempt": row.attempts,
            "started_at": json_timestamp(row.started_ts),
            "cpu_seconds": None if row.cpu_seconds is None else round(row.cpu_seconds, 3),
            "resumes": row.resumes or 0,
        }
        return {name: shown[name] for name in TASK_FIELDS}


TASK_FIELDS = (
    "task", "params", "seed", "param_id", "shard", "outcome", "attempt", "started_at", "seconds", "cpu_seconds",
    "max_rss_bytes", "host", "output_bytes", "error_key", "error_message", "error_type", "error_where",
    "resumed_at", "resumed_seconds", "resumes",
)  # fmt: skip


class TaskQuery(NamedTuple):
    """Conditions on tasks, and their order."""

    statuses: frozenset[str] | None = None
    conditions: tuple[Condition, ...] = ()
    order: Order = Order()
    after: int | None = None
    """Only tasks with larger numbers. For the order by their numbers."""


def read_task_query(
    status: str | None, conditions: Sequence[str], sort: str | None = None, after: int | None = None
) -> TaskQuery:
    """Return the query that texts ask for, as a flag, a page or a program has them.

    Raises:
        UsageError: if a text is malformed, or if there are too many conditions.
    """
    check_count(conditions)
    return TaskQuery(
        None if status is None else parse_task_statuses(status),
        tuple(map(parse_condition, conditions)),
        Order() if sort is None else parse_order(sort),
        after,
    )


class TaskList:
    """The tasks of a job that pass a filter."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        job_id: str,
        ledger: Ledger,
        query: TaskQuery,
        *,
        is_active: bool,
        has_duplicates: bool,
    ) -> None:
        """Prepare the query.

        Args:
            connection: the cache, in a transaction that lasts until the tasks are read.
            job_id: the job.
            ledger: the result of `read_ledger`.
            query: which tasks.
            is_active: whether the job has not ended.
            has_duplicates: whether tasks may repeat earlier ones. They have the outcome of the earlier one.

        Raises:
            UsageError: if a condition names a parameter that no task has, or orders numbers by a text.
        """
        check_names(query.conditions, ledger.parameters)
        self.ledger = ledger
        self._connection = connection
        self._study = StoredStudy(
            connection, job_id, ledger.tasks_total, ledger.task_ranges, ledger.seeds, ledger.precision
        )
        self._query = query
        self._unseen = WAITING if is_active else MISSING
        self.has_duplicates = has_duplicates
        for condition in query.conditions:
            if not condition.is_equality and as_number(condition.value) is None:
                check_order(condition, (json.loads(one.params) for one in self._study.sets()))

    def near_misses(self) -> list[str]:
        """Return a sentence for each condition that tells apart numbers that are equal but for their computation."""
        conditions = [one for one in self._query.conditions if one.is_equality and as_number(one.value) is not None]
        if not conditions or self.ledger.tasks_total > MAX_COUNTED:
            return []
        return near_misses(conditions, (json.loads(one.params) for one in self._study.sets()))

    def count(self, *, exact: bool = False) -> int | None:
        """Count the tasks of all pages; None if that takes long and need not be `exact`."""
        statuses, conditions, *_ = self._query
        if not (conditions or (self.has_duplicates and statuses)):
            total = self.ledger.tasks_total
            if statuses is None:
                return total
            ended = self._count_ended()
            return sum(ended.get(status, 0) for status in statuses) + (
                self._count_unseen() if self._unseen in statuses else 0
            )
        if not exact and self.ledger.tasks_total > MAX_COUNTED:
            return None
        return sum(1 for _ in self._rows(0, None))

    def tasks(self, limit: int) -> Iterator[ListedTask]:
        """Yield the first `limit` tasks of the page, all for 0."""
        rows = self._rows(limit, self._query.after)
        return _with_parameters(islice(rows, limit) if limit else rows)

    def page(self, first: int, limit: int) -> list[ListedTask]:
        """Return up to `limit` tasks by their numbers, from `first` on. It costs what it returns."""
        after = first - 1 if first else None
        return list(_with_parameters(islice(self._merged(Order(), after, with_rows=True), limit)))

    def _rows(self, limit: int, after: int | None) -> Iterator[tuple[TaskRow, StoredSet]]:
        """Yield the tasks that pass the filter, in order; at least the first `limit`, all for 0."""
        statuses, _, order, _ = self._query
        needs_unseen = (
            statuses is None
            or (self._unseen in statuses and self._count_unseen() > 0)
            or (self.has_duplicates and self._has_ended(statuses))
        )
        if order.name == "task" and needs_unseen:
            yield from self._merged(order, after, with_rows=True)
            return
        yield from self._ended(limit, after)
        if needs_unseen:
            yield from self._merged(Order(), None, with_rows=False)

    def _ended(self, limit: int, after: int | None) -> Iterator[tuple[TaskRow, StoredSet]]:
        """Yield the tasks with rows; at least the first `limit`, all for 0."""
        condition, values = self._row_condition()
        if after is not None:
            condition, values = f"{condition} AND task.task > ?", [*values, after]
        order = self._query.order.sql
        if limit and not self._query.conditions:
            # An index may tell which tasks these are. Without a limit, SQLite sorts all rows whole.
            first = f"SELECT task FROM task WHERE {condition} ORDER BY {order} LIMIT {limit:d}"  # noqa: S608 - constant names
            condition = f"job_id = ? AND task IN ({first})"
            values = [self._study.job_id, *values]
        passes = self._set_filter()
        sql = f"SELECT {_COLUMNS} FROM task WHERE {condition} ORDER BY {order}"  # noqa: S608 - constant names
        rows = self._connection.execute(sql, values)
        for row in map(TaskRow._make, rows):
            one = self._study.set_of(row.task)
            if one is not None and passes(one):
                yield row, one

    def _row_condition(self) -> tuple[str, list[str | float]]:
        """Return the WHERE clause of rows, without the conditions on parameters."""
        statuses = self._query.statuses
        condition = "job_id = ?"
        values: list[str | float] = [self._study.job_id]
        if statuses is not None:
            condition += f" AND outcome IN ({', '.join('?' * len(statuses))})"
            values += sorted(statuses)
        return condition, values

    def _merged(self, order: Order, after: int | None, *, with_rows: bool) -> Iterator[tuple[TaskRow, StoredSet]]:
        """Yield tasks by their numbers, also those without rows; only those if `with_rows` is False."""
        statuses, descending = self._query.statuses, order.is_descending
        passes = self._set_filter()
        rows = self._connection.execute(
            f"SELECT {_COLUMNS} FROM task WHERE job_id = ? AND task.task > ? ORDER BY {order.sql}",  # noqa: S608 - constant names
            (self._study.job_id, -1 if after is None else after),
        )
        row = next(rows, None)
        for one in self._study.sets(descending=descending, after=after):
            if passes(one):
                for number in self._study.numbers_of(one, descending=descending, after=after):
                    while row is not None and (row[0] > number if descending else row[0] < number):
                        row = next(rows, None)
                    is_ended = row is not None and row[0] == number
                    if with_rows or not is_ended:
                        found = TaskRow(*row) if row is not None and is_ended else self._without_row(one, number)
                        if statuses is None or found.outcome in statuses:
                            yield found, one

    def _without_row(self, one: StoredSet, number: int) -> TaskRow:
        """Return a task that has no row: of a duplicate, that of the earlier task, with the number of its own."""
        seed = one.seed_of(number)
        if self.has_duplicates:
            found = self._connection.execute(
                # Named, since SQLite would take the primary key, and read all tasks of the job.
                f"SELECT {_COLUMNS} FROM task INDEXED BY idx_task_seed JOIN parameter_set AS one"  # noqa: S608 - constant names
                " USING (job_id, first_task) WHERE job_id = ? AND task.seed = ? AND param_id = ?"
                " ORDER BY task.task LIMIT 1",
                (self._study.job_id, to_stored_seed(seed), one.param_id),
            ).fetchone()
            if found is not None:
                return TaskRow(*found)._replace(task=number, first_task=one.first_task)
        return TaskRow(number, one.first_task, seed, None, self._unseen, 0)

    def _count_ended(self) -> dict[str, int]:
        """Count the tasks with rows by outcome."""
        sql = "SELECT outcome, count(*) FROM task WHERE job_id = ? GROUP BY outcome"
        return dict(self._connection.execute(sql, (self._study.job_id,)).fetchall())

    def _count_unseen(self) -> int:
        """Count the tasks without rows."""
        return max(0, self.ledger.tasks_total - sum(self._count_ended().values()))

    def _has_ended(self, statuses: frozenset[str]) -> bool:
        """Return whether a task with a row has one of these statuses, which a duplicate may share."""
        return any(status in statuses for status in self._count_ended())

    def _set_filter(self) -> Callable[[StoredSet], bool]:
        """Return a function that tells whether a parameter set meets the conditions; of the same set, without work."""
        conditions = self._query.conditions

        @functools.lru_cache(maxsize=1)
        def passes(one: StoredSet) -> bool:
            params = json.loads(one.params)
            return all(condition.holds(params) for condition in conditions)

        return passes if conditions else lambda _: True


@contextlib.contextmanager
def temporary_database(schema: str) -> Iterator[sqlite3.Connection]:
    """Yield an empty database with this schema, for what would fill the memory while a command runs.

    SQLite keeps it in the memory, then in a file that has no name.
    """
    with contextlib.closing(sqlite3.connect("")) as database:
        database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + schema)
        database.execute("BEGIN")  # one transaction: each statement of its own would take as long as ten
        yield database


class ReusedTask(NamedTuple):
    """A task that another job ran."""

    task: int
    job_id: str
    number: int | None
    """Its number there; None if the cache has not the study of that job."""


def find_reused(connection: sqlite3.Connection, job_id: str, numbers: Iterable[int]) -> list[ReusedTask]:
    """Return those of these tasks that a job reuses, as far as the cache has its ledger."""
    rows = connection.execute(
        "SELECT task.task, reused_from, param_id, task.seed FROM json_each(?) AS one CROSS JOIN task"
        " ON task.job_id = ? AND task.task = one.value JOIN parameter_set USING (job_id, first_task)"
        " WHERE reused_from IS NOT NULL ORDER BY task.task",
        (json.dumps(sorted(numbers)), job_id),
    )
    found = []
    for task, source, param_id, seed in rows.fetchall():
        study = StoredStudy.load(connection, source)
        found.append(ReusedTask(task, source, None if study is None else study.number_of(param_id, int(seed))))
    return found


class Simulations:
    """The simulations of the tasks of families. Tasks with the same parameters and seed are one simulation.

    So are tasks of several families whose outputs one job has: an extension reuses them. Each task has a row. Means,
    quantiles and other statistics count a simulation once, as reductions do.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        """Take a temporary database."""
        self._database = database
        database.execute(
            "CREATE TABLE simulation (owner TEXT, param_id TEXT, seed TEXT, rank INTEGER, task INTEGER,"
            " PRIMARY KEY (owner, param_id, seed)) WITHOUT ROWID"
        )
        self.tasks = 0

    @property
    def repeated(self) -> int:
        """Count the tasks beyond the first of each simulation."""
        (simulations,) = self._database.execute("SELECT count(*) FROM simulation").fetchone()
        return self.tasks - int(simulations)

    def add(self, owner: str, rank: int, task: ListedTask) -> None:
        """Add a task.

        Args:
            owner: the job that ran it, or the newest of its family.
            rank: the place of its family. Of a simulation, the task of the first family counts, there the first task.
            task: the task. Those of a family come by their numbers.
        """
        values = (owner, task.param_id, str(task.row.seed), rank, task.row.task)
        self.tasks += 1
        self._database.execute(
            "INSERT INTO simulation VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
            " SET rank = excluded.rank, task = excluded.task WHERE excluded.rank < rank",
            values,
        )

    def repeated_by(self, owner: str, rank: int, task: ListedTask) -> int | None:
        """Return the task that counts in the place of another; None if it counts itself. Takes arguments as `add`."""
        counted = self._database.execute(
            "SELECT rank, task FROM simulation WHERE owner = ? AND param_id = ? AND seed = ?",
            (owner, task.param_id, str(task.row.seed)),
        ).fetchone()
        return None if counted == (rank, task.row.task) else int(counted[1])


def _with_parameters(rows: Iterable[tuple[TaskRow, StoredSet]]) -> Iterator[ListedTask]:
    """Yield rows with their parameter sets. Tasks of one set that follow each other share its parameters."""
    last: tuple[StoredSet, Mapping[str, object]] | None = None
    for row, one in rows:
        if last is None or last[0] is not one:
            last = (one, json.loads(one.params))
        yield ListedTask(row, one.param_id, last[1])

"""Means and quantiles of results over the replicates of each parameter set."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from mopsjobs.app.tasks.results_table import FIRST_COLUMNS, LAST_COLUMNS, ResultsTable, plain_columns
from mopsjobs.cache.queries.tasks import temporary_database
from mopsjobs.errors import UsageError
from mopsjobs.studies.results import parameter_columns
from mopsjobs.utils.table_files import Column, free_name, is_numeric

MAX_QUANTILES = 20

BEFORE = (("job_id", "text"), ("param_id", "text"))
COUNTS = (("tasks", "integer"), ("n", "integer"))

_SCHEMA = """
CREATE TABLE parameter_set (number INTEGER PRIMARY KEY, family INTEGER, param_id TEXT, params TEXT,
    UNIQUE (family, param_id));
CREATE TABLE replicate (number INTEGER, task INTEGER, scalars TEXT, PRIMARY KEY (number, task)) WITHOUT ROWID;
"""


class Statistics(NamedTuple):
    """Statistics that a table has of each scalar: the mean, and quantiles."""

    has_mean: bool
    quantiles: tuple[float, ...]

    @property
    def suffixes(self) -> list[str]:
        """Return the ends of the names of columns."""
        return ["mean"] * self.has_mean + [f"q{quantile:g}" for quantile in self.quantiles]

    def of(self, values: Sequence[float]) -> Sequence[float | None]:
        """Compute the statistics of some numbers, all None without numbers."""
        if not values:
            return [None] * len(self.suffixes)
        ordered = sorted(values)
        return [mean(ordered)] * self.has_mean + [quantile(ordered, one) for one in self.quantiles]


def parse_quantiles(text: str) -> tuple[float, ...]:
    """Parse quantiles like `0.1,0.9`.

    Raises:
        UsageError: if they are not numbers from 0 to 1, or one comes twice, or there are more than `MAX_QUANTILES`.
    """
    try:
        quantiles = tuple(float(part) for part in text.split(","))
    except ValueError:
        quantiles = (math.nan,)
    return check_quantiles(quantiles, text)


def check_quantiles(quantiles: tuple[float, ...], text: object = None) -> tuple[float, ...]:
    """Return quantiles, of which there may be none.

    Args:
        quantiles: the numbers.
        text: the words of the user, for the error; None for the numbers.

    Raises:
        UsageError: if they are not from 0 to 1, or one comes twice, or there are more than `MAX_QUANTILES`.
    """
    problem = None
    if not (len(quantiles) <= MAX_QUANTILES and all(0 <= one <= 1 for one in quantiles)):
        problem = f"expected up to {MAX_QUANTILES} numbers from 0 to 1, separated by commas"
    elif len({f"{one:g}" for one in quantiles}) < len(quantiles):
        problem = "one comes twice"
    if problem is not None:
        raise UsageError(f"invalid quantiles {quantiles if text is None else text!r}: {problem}")
    return quantiles


def mean(values: Sequence[float]) -> float:
    """Return the mean of some numbers."""
    try:
        return math.fsum(values) / len(values)
    except OverflowError:  # the sum is beyond every float, the mean is not
        return math.fsum(value / len(values) for value in values)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile of ascending numbers, interpolated linearly between two of them, as numpy and pandas do."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    if low + 1 == len(ordered):
        return ordered[low]
    rest, step = place - low, ordered[low + 1] - ordered[low]
    if math.isinf(step):  # the difference is beyond every float
        return ordered[low] * (1 - rest) + ordered[low + 1] * rest
    return ordered[low] + step * rest


class ReplicateTable:
    """A row per parameter set of each family: its parameters, how many tasks it has, and statistics of its scalars.

    Tasks that repeat an earlier one are left out: see `Simulations`.
    """

    def __init__(self, table: ResultsTable, statistics: Statistics) -> None:
        """Name the columns. Scalars that are not numbers have none."""
        self._table = table
        self._statistics = statistics
        others = [name for name, _ in (*FIRST_COLUMNS, *LAST_COLUMNS, *COUNTS)]
        self._parameters = parameter_columns([name for name, _ in table.parameters], others)
        self._numeric = [place for place, one in enumerate(table.scalar_columns) if is_numeric(one.column.kinds)]

    @property
    def columns(self) -> list[Column]:
        """Return the columns of `rows`."""
        columns = [
            *plain_columns(BEFORE),
            *(Column(self._parameters[name], one.kinds) for name, one in self._table.parameters),
            *plain_columns(COUNTS),
        ]
        taken = {column.name for column in columns}
        for place in self._numeric:
            for suffix in self._statistics.suffixes:
                name = free_name(f"{self._table.scalar_columns[place].column.name}.{suffix}", "result", taken)
                columns.append(Column(name, frozenset({"number"})))
        return columns

    @property
    def left_out_columns(self) -> list[str]:
        """Return the names of the scalars that are not numbers."""
        return [one.column.name for place, one in enumerate(self._table.scalar_columns) if place not in self._numeric]

    def rows(self) -> Iterator[list[object]]:
        """Yield the parameter sets, in the order of their first tasks, as rows of `columns`."""
        with temporary_database(_SCHEMA) as database:
            self._collect(database)
            replicates = database.execute(
                "SELECT number, family, param_id, params, scalars FROM parameter_set JOIN replicate USING (number)"
                " ORDER BY number, task"
            )
            for (_, family, param_id, params), of_set in groupby(replicates, key=lambda one: one[:4]):
                yield self._row(family, param_id, params, [scalars for *_, scalars in of_set])

    def _collect(self, database: sqlite3.Connection) -> None:
        """Keep the numbers of each task on disk: tasks with the same parameters may be far from each other."""
        simulations = self._table.simulations
        for row in self._table.tasks():
            if simulations is not None and simulations.repeated_by(row.family, row.task) is not None:
                continue
            scalars = None
            if self._table.is_read(row):
                values = self._table.scalars_of(row)
                scalars = json.dumps([values[place] for place in self._numeric])
            database.execute(
                "INSERT OR IGNORE INTO parameter_set (family, param_id, params) VALUES (?, ?, ?)",
                (row.family, row.task.param_id, json.dumps(self._table.parameters_of(row))),
            )
            database.execute(
                "INSERT INTO replicate SELECT number, ?, ? FROM parameter_set WHERE family = ? AND param_id = ?",
                (row.task.row.task, scalars, row.family, row.task.param_id),
            )

    def _row(self, family: int, param_id: str, params: str, replicates: list[str | None]) -> list[object]:
        succeeded = [json.loads(scalars) for scalars in replicates if scalars is not None]
        numbers: list[object] = []
        for column in zip(*succeeded, strict=True) if succeeded else [()] * len(self._numeric):
            numbers += self._statistics.of([float(value) for value in column if value is not None])
        counts = (len(replicates), len(succeeded))
        return [self._table.family_id(family), param_id, *json.loads(params), *counts, *numbers]

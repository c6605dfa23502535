"""Keep the results of the jobs that pages have shown last: its rows, and the numbers to plot.

The syncer reads them (`job_reads`), as one table for all. A page reads what is kept.
"""

from __future__ import annotations

import itertools
import json
import math
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import FreshnessPolicy
from mopsjobs.app.tasks.reduced_table import find_reduced_of_job
from mopsjobs.app.tasks.results_table import (
    FIRST_COLUMNS,
    ResultsState,
    ResultsTable,
    find_cached_results,
    read_results_table,
    results_state,
)
from mopsjobs.app.tasks.task_outputs import MAX_OUTPUT_BYTES
from mopsjobs.errors import MopsJobsError, NoManifestError, command_line
from mopsjobs.studies.conditions import is_number
from mopsjobs.studies.output_directory import RefusedFileError
from mopsjobs.studies.results import read_output
from mopsjobs.utils.table_files import BATCH, Column, is_numeric
from mopsjobs.utils.text import pluralize
from mopsjobs.web.site.memo import LastUsed
from mopsjobs.web.site.previews import Preview, preview

MAX_JOBS = 10
"""Jobs whose results are kept: two comparisons of five."""

MAX_KEPT_BYTES = 300 * 1024 * 1024
"""Of all results that are kept, as far as they are tables and numbers: five of the largest jobs."""

MAX_TASKS = 200_000
"""Tasks of a table. `results --table` has no such limit."""

MAX_OUTPUTS = 5_000
"""Tasks whose outputs are read one by one, since no chunk has their scalars: each costs a request."""

MAX_NUMBERS = 3_000_000
"""Numbers of a job that are kept, eight bytes each. Of more scalars, the last ones are not plotted."""

MAX_SCALARS = 200

MAX_HELD_BYTES = 32 * 1024 * 1024
"""Of a table that is kept, compressed."""

TASK = [name for name, _ in FIRST_COLUMNS].index("task")
"""The place of the number of the task in a row."""

COMPRESSION = 1
"""The level of zlib: numbers compress to a quarter with any."""


MAX_SHOWN = 5
"""Outputs that are shown. They are kept in memory, with the results of the job."""


class ReducedOutput(NamedTuple):
    """An output of the reduce function."""

    name: str
    size: str
    preview: Preview


class ReducedJob(NamedTuple):
    """Outputs of the reduce function of a whole job."""

    function: str
    tasks: int
    """Of how many tasks it was made."""
    outputs: list[ReducedOutput]
    left_out: int
    """How many outputs are not shown."""
    command: str
    """Downloads all."""


def read_reduced_job(job_id: str, app: App) -> ReducedJob | None:
    """Read the outputs of the whole job, as far as they are shown. It costs up to seven requests.

    Returns:
        None if there are none, or if the study names no reduce function. That costs the read of a manifest.

    Raises:
        StoreError: if the registry cannot be read.
    """
    try:
        function, found = find_reduced_of_job(job_id, app)
    except NoManifestError:
        return None
    if function is None or found is None:
        return None
    shown = list(found.entries.items())[:MAX_SHOWN]
    outputs = [
        ReducedOutput(name, size_text(entry.size), _read(name, entry.key, entry.size, app)) for name, entry in shown
    ]
    command = command_line("results", job_id, "--download DIRECTORY")
    return ReducedJob(function, found.tasks, outputs, len(found.entries) - len(shown), command)


def _read(name: str, key: str, size: int | None, app: App) -> Preview:
    if (size or 0) > MAX_OUTPUT_BYTES:
        return Preview(note=f"Too large for a page, of at most {MAX_OUTPUT_BYTES:,} bytes.")
    try:
        found = read_output(app.store, key)
    except RefusedFileError as error:
        return Preview(note=f"The output cannot be read: {error}.")
    if found is None or len(found.value) > MAX_OUTPUT_BYTES:
        return Preview(note="It was deleted." if found is None else "Too large for a page.")
    shown = preview(name, found.value)
    return shown if shown.image is None else Preview(note="An image: download it to see it.")


def size_text(size: int | None) -> str:
    """Return the size of an output in words; an empty text if it is not known."""
    return "" if size is None else pluralize(size, "byte")


class Results(NamedTuple):
    """The results of a job and its ancestors, of one moment."""

    made_at: float
    """Seconds since 1970."""
    state: ResultsState
    columns: list[Column]
    rows: TableRows
    sets: list[Mapping[str, Any]]
    """The parameters of each set."""
    set_ids: list[str]
    """The id of each set."""
    set_of: array[int]
    """For each task, the place of its set."""
    scalars: dict[str, array[float]]
    """The values of each number in the outputs, one per task; not a number where a task has none."""
    left_out: int
    """Scalars that are numbers, and are not among these."""
    problems: list[str]
    reduced: ReducedJob | None = None
    """What the reduce function has left of the whole job."""

    @property
    def held(self) -> int:
        """Return the bytes of memory that table and numbers take."""
        return self.rows.held + 8 * len(self.set_of) * (1 + len(self.scalars))


class TableRows:
    """The rows of a table, in compressed pieces. They never change once complete, so several readers may read them."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._firsts: list[int] = []
        """The first task of each piece."""
        self.count = 0
        self.held = 0
        """Bytes of memory."""

    @property
    def first_task(self) -> int | None:
        """Return the number of the first task; None without rows."""
        return self._firsts[0] if self._firsts else None

    def add(self, rows: Sequence[Sequence[object]]) -> None:
        """Add rows, which follow the others by the numbers of their tasks."""
        text = "\n".join(json.dumps(row, allow_nan=False, separators=(",", ":")) for row in rows)
        piece = zlib.compress(text.encode(), COMPRESSION)
        self._pieces.append(piece)
        self._firsts.append(_task_of(rows[0]))
        self.count += len(rows)
        self.held += len(piece)

    def read(self, after: int = -1) -> Iterator[list[Any]]:
        """Yield the rows of the tasks with larger numbers than `after`."""
        begin = max(0, bisect_right(self._firsts, after) - 1)
        for piece in self._pieces[begin:]:
            rows: Iterator[list[Any]] = map(json.loads, zlib.decompress(piece).decode().split("\n"))
            yield from (row for row in rows if _task_of(row) > after)


class JobResults:
    """The results that are kept."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._last_used: LastUsed[Results] = LastUsed(MAX_JOBS, MAX_KEPT_BYTES, lambda one: one.held)

    def get(self, job_id: str) -> Results | None:
        """Return the results of a job, if they are kept."""
        return self._last_used.get(job_id)

    def read(self, job_id: str) -> None:
        """Read the results of a job, and keep them.

        Args:
            job_id: the full id of a job that the cache has.

        Raises:
            MopsJobsError: if they cannot be read, or are too large for a page.
        """
        now = self._app.now().timestamp()
        family = find_cached_results(job_id, self._app)
        state = self._app.cache.read_cached(lambda cache: results_state(cache, job_id, now=now)) or ()

        def check(tasks_read: int) -> None:
            if tasks_read > MAX_OUTPUTS:
                raise _too_large_error(job_id, f"the outputs of more than {MAX_OUTPUTS:,} tasks, one by one")

        def view(table: ResultsTable) -> Results:
            return _Collected(table, job_id).results(now, state)

        results = read_results_table([family], self._app, view, FreshnessPolicy(), check)
        self._last_used.put(job_id, self._with_reduced(results, job_id))

    def _with_reduced(self, results: Results, job_id: str) -> Results:
        """Add what the reduce function has left. If the store does not answer, the table is shown without it."""
        try:
            return results._replace(reduced=read_reduced_job(job_id, self._app))
        except MopsJobsError as error:
            problem = f"The outputs of a reduce function cannot be read: {error}"
            return results._replace(problems=[*results.problems, problem])


class _Collected:
    """The table of a job while its rows are read: once, for the text and for the numbers."""

    def __init__(self, table: ResultsTable, job_id: str) -> None:
        self._table = table
        self._job_id = job_id
        self._names = [name for name, _ in table.parameters]
        self._first = len(table.columns) - len(table.scalar_columns)
        columns = table.scalar_columns
        numeric = [place for place, one in enumerate(columns) if is_numeric(one.column.kinds)]
        self._numeric = numeric[:MAX_SCALARS]
        self._left_out = len(numeric) - len(self._numeric)
        self._sets: dict[object, int] = {}
        self._params: list[Mapping[str, Any]] = []
        self._set_of = array("L")
        self._values = [array("d") for _ in self._numeric]

    def results(self, now: float, state: ResultsState) -> Results:
        """Read the rows, and return the results."""
        table = TableRows()
        rows = self._rows()
        while batch := list(itertools.islice(rows, BATCH)):
            table.add(batch)
            if table.held > MAX_HELD_BYTES:
                raise _too_large_error(self._job_id, "a table of this size")
        names = [self._table.scalar_columns[place].column.name for place in self._numeric]
        count = max(1, MAX_NUMBERS // max(1, len(self._set_of)))
        return Results(
            made_at=now,
            state=state,
            columns=self._table.columns,
            rows=table,
            sets=self._params,
            set_ids=[str(one) for one in self._sets],
            set_of=self._set_of,
            scalars=dict(list(zip(names, self._values, strict=True))[:count]),
            left_out=self._left_out + max(0, len(names) - count),
            problems=self._table.problems(),
        )

    def _rows(self) -> Iterator[Sequence[object]]:
        for row in self._table.rows():
            if len(self._set_of) == MAX_TASKS:
                raise _too_large_error(self._job_id, f"a table of more than {MAX_TASKS:,} tasks")
            param_id = row[len(FIRST_COLUMNS) - 1]
            place = self._sets.setdefault(param_id, len(self._sets))
            if place == len(self._params):
                begin = len(FIRST_COLUMNS)
                values = row[begin : begin + len(self._names)]
                self._params.append(dict(zip(self._names, values, strict=True)))
            self._set_of.append(place)
            is_repeated = self._table.simulations is not None and row[self._first - 1] is not None  # it counts once
            for values_of_one, scalar in zip(self._values, self._numeric, strict=True):
                values_of_one.append(_number(None if is_repeated else row[self._first + scalar]))
            yield row


def _task_of(row: Sequence[Any]) -> int:
    return int(row[TASK])


def _number(value: object) -> float:
    """Return a scalar as a number to plot: not a number for null, and for a huge one."""
    return float(value) if is_number(value) else math.nan  # type: ignore[arg-type]


def _too_large_error(job_id: str, what: str) -> MopsJobsError:
    return MopsJobsError(f"The page does not read {what}. Use: {command_line('results', job_id, '--table FILE.csv')}")

"""What pages keep in memory of jobs: tables of results, outputs of tasks, and provenance.

The syncer reads it (`job_reads`), as the commands do. A page reads what is kept. Of an output it shows a preview of
bounded size, as text that is escaped, or an image that says so itself: see docs/decisions/0062-previews-of-outputs.md.
"""

from __future__ import annotations

import csv
import json
import math
import re
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from mopsjobs.app.origins.provenance import Provenance
from mopsjobs.app.origins.provenance import read_provenance as read_whole_provenance
from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import FreshnessPolicy
from mopsjobs.app.tasks.failures import separate_failed
from mopsjobs.app.tasks.result_sets import ResultSets, locate_sets, make_sets
from mopsjobs.app.tasks.results_table import (
    FIRST_COLUMNS,
    LAST_COLUMNS,
    SUCCEEDED,
    ResultsState,
    ResultsTable,
    find_cached_results,
    read_results_table,
    results_state,
)
from mopsjobs.app.tasks.task_outputs import TaskOutput, read_task_output
from mopsjobs.errors import MopsJobsError, RecordError, command_line
from mopsjobs.ledger.scalars import csv_rows, is_not_finite, read_result
from mopsjobs.studies.conditions import is_number
from mopsjobs.studies.separating import Finding
from mopsjobs.utils.table_files import BATCH, Column, is_numeric
from mopsjobs.utils.text import cut_to_length
from mopsjobs.web.drawings.heat_map import FAILED, KIND_OF, KINDS, SetTasks
from mopsjobs.web.drawings.plots import Series

MAX_ROWS = 20
MAX_COLUMNS = 20

MAX_CELL = 60

MAX_LINES = 200
MAX_CHARACTERS = 20_000
"""Of a text."""

MAX_PIXELS = 10_000_000
"""Of an image: a browser takes four bytes for each."""

_NUMBERS = re.compile(r"\[\n\s*[^\s\[\]{}\"][^\[\]{}\"]*\]?")
"""A list without texts or lists in it, as JSON with line breaks has it: a series of a day per line fills a screen."""

_PNG = b"\x89PNG\r\n\x1a\n"


class Preview(NamedTuple):
    """The part of an output that a page shows: a table, a text or an image, or none of them."""

    rows: Sequence[Sequence[str]] = ()
    """Of the table, its header first; empty without one."""
    text: str | None = None
    image: tuple[int, int] | None = None
    note: str | None = None
    """What is left out, or why there is nothing."""


def preview(name: str, value: bytes) -> Preview:
    """Return what a page shows of an output.

    Args:
        name: the name of the output. Its ending tells how to read it.
        value: its bytes.
    """
    if name.endswith(".png"):
        return _image(value)
    try:
        text = value.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return Preview(note="Not text: not shown.")
    try:
        if name.endswith(".csv"):
            return _table(value)
        if name.endswith(".json"):
            shown, is_cut = _pretty(value)
            return _text(shown, is_cut=is_cut)
        return _text(text)
    except (RecordError, csv.Error) as error:
        why = error.reason if isinstance(error, RecordError) else f"not CSV: {error}"
        raw = _text(text)
        return raw._replace(note=" ".join(filter(None, (f"Shown as it is ({why}).", raw.note))))


def _table(value: bytes) -> Preview:
    """Return the first rows and columns of CSV.

    Raises:
        csv.Error: if these rows are not CSV.
    """
    found = list(islice(csv_rows(value), MAX_ROWS + 2))
    width = min(columns := max(map(len, found), default=0), MAX_COLUMNS)
    rows = [[cut_to_length(cell, MAX_CELL) for cell in row[:width]] + [""] * (width - len(row)) for row in found]
    notes = [] if rows else ["It is empty."]
    notes += [f"The first {MAX_ROWS} rows."] if len(rows) > MAX_ROWS + 1 else []
    notes += [f"The first {width} of {columns:,} columns."] if columns > width else []
    return Preview(rows[: MAX_ROWS + 1], note=" ".join(notes) or None)


def _pretty(value: bytes) -> tuple[str, bool]:
    """Return JSON with line breaks, but within lists of numbers, and whether it has more than is shown.

    Raises:
        RecordError: if it is not JSON.
    """
    pieces, size = [], 0
    for piece in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(read_result(value)):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_CHARACTERS:  # a megabyte of brackets has a hundred megabytes of blanks
            break
    lines = _NUMBERS.sub(
        lambda match: re.sub(r"\n\s*", " ", match[0]).replace("[ ", "[").replace(" ]", "]"), "".join(pieces)
    )
    return lines, size > MAX_CHARACTERS


def _text(text: str, *, is_cut: bool = False) -> Preview:
    """Return the first lines of a text."""
    first = text[:MAX_CHARACTERS]
    lines = first.splitlines()
    is_cut = is_cut or len(text) > len(first) or len(lines) > MAX_LINES
    return Preview(text="\n".join(lines[:MAX_LINES]), note="Only the beginning is shown." if is_cut else None)


def _image(value: bytes) -> Preview:
    """Return the size of a PNG image, which its first chunk has."""
    if not value.startswith(_PNG) or value[12:16] != b"IHDR" or len(value) < 24:
        return Preview(note="Not a PNG image: not shown.")
    width, height = (int.from_bytes(value[begin : begin + 4], "big") for begin in (16, 20))
    if not 0 < width * height <= MAX_PIXELS:
        return Preview(note=f"An image of {width:,} x {height:,} pixels: not shown.")
    return Preview(image=(width, height))


MAX_JOBS = 10
"""Jobs whose results and provenance are kept: two comparisons of five."""

MAX_KEPT_BYTES = 300 * 1024 * 1024
"""Of all results that are kept, as far as they are tables and numbers: five of the largest jobs."""

MAX_TASKS = 200_000
"""Tasks of a table. `results --table` has no such limit."""

MAX_READ_OUTPUTS = 5_000
"""Tasks whose outputs are read one by one, since no chunk has their scalars: each costs a request."""

MAX_SCALARS = 50
"""Scalars of a job that can be plotted, the first ones, eight bytes per task each."""

MAX_HELD_BYTES = 32 * 1024 * 1024
"""Of a table that is kept, compressed."""

TASK = [name for name, _ in FIRST_COLUMNS].index("task")

SEED = [name for name, _ in LAST_COLUMNS].index("seed")

STATUS = [name for name, _ in LAST_COLUMNS].index("status")
"""The place of how the task ended behind the parameters of a row."""

FAILED_OR_NOT = {KIND_OF[FAILED]: True, KIND_OF[SUCCEEDED]: False}

COMPRESSION = 1
"""The level of zlib: numbers compress to a quarter with any."""


class Results(NamedTuple):
    """The results of a job and its ancestors, of one moment."""

    made_at: float
    state: ResultsState
    columns: list[Column]
    rows: TableRows
    sets: list[Mapping[str, Any]]
    set_ids: dict[str, int]
    set_of: array[int]
    """For each task, the place of its set."""
    scalars: dict[str, array[float]]
    """The values of each number in the outputs, one per task; see `Series.values`."""
    problems: list[str]
    tasks: array[int]
    seeds: array[int]
    kinds: array[int]
    """How each task ended, as its place in `heat_map.KINDS`."""
    separates: list[Finding]
    """What separates the failed tasks, whatever their errors, from those that succeeded."""
    table: ResultSets | None = None

    def series(self, name: str) -> Series:
        """Return a scalar to plot task by task, with those that failed."""
        return Series(self.sets, self.set_of, self.scalars[name], self.tasks, [kind == 0 for kind in self.kinds])

    def set_tasks(self) -> list[SetTasks]:
        """Return the tasks of each parameter set, to draw a map of them."""
        found = [SetTasks(params, []) for params in self.sets]
        for place, kind in zip(self.set_of, self.kinds, strict=True):
            found[place].kinds.append(kind)
        return found

    def simulations(self, names: Sequence[str]) -> Iterator[tuple[int, int, str, list[float | None]]]:
        """Yield the place of its set, the seed, the end and these scalars of each task that repeats no earlier one."""
        columns = [self.scalars.get(name) for name in names]
        seen: set[tuple[int, int]] = set()
        for place, (of, seed, kind) in enumerate(zip(self.set_of, self.seeds, self.kinds, strict=True)):
            if (of, seed) not in seen:
                seen.add((of, seed))
                values = [None if column is None or math.isnan(column[place]) else column[place] for column in columns]
                yield of, seed, KINDS[kind], values

    @property
    def held(self) -> int:
        """Return the bytes of memory that table and numbers take."""
        return self.rows.held + 8 * len(self.set_of) * (4 + len(self.scalars)) + (self.table.held if self.table else 0)


class TableRows:
    """The rows of a table, in compressed pieces. They never change once complete, so several readers may read them."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._firsts: list[int] = []
        self.count = 0
        self.held = 0
        """Bytes of memory."""

    def add(self, rows: Sequence[Sequence[object]]) -> None:
        """Add rows, which follow the others by the numbers of their tasks."""
        text = "\n".join(json.dumps(row, separators=(",", ":")) for row in rows)  # also with NaN: it stays here
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


def read_results(job_id: str, app: App) -> Results:
    """Read the results of a job.

    Args:
        job_id: the full id of a job that the cache has.
        app: the run.

    Raises:
        MopsJobsError: if they cannot be read, or are too large for a page.
    """
    now = app.now().timestamp()
    family = find_cached_results(job_id, app)
    state = app.cache.read_cached(lambda cache: results_state(cache, job_id, now=now)) or ()

    def check(tasks_read: int) -> None:
        if tasks_read > MAX_READ_OUTPUTS:
            raise _too_large_error(job_id, f"the outputs of more than {MAX_READ_OUTPUTS:,} tasks, one by one")

    file = locate_sets([family], app)

    def view(table: ResultsTable) -> Results:
        results = _collect(table, job_id, now, state)
        return results._replace(table=make_sets(table, *file, ResultSets.copy))

    return read_results_table([family], app, view, FreshnessPolicy(), check)


def _collect(table: ResultsTable, job_id: str, now: float, state: ResultsState) -> Results:
    """Read the rows of a table once, for the text and for the numbers."""
    names = [name for name, _ in table.parameters]
    begin, first = len(FIRST_COLUMNS), len(table.columns) - len(table.scalar_columns)
    numeric = [place for place, one in enumerate(table.scalar_columns) if is_numeric(one.column.kinds)]
    values = {place: array("d") for place in numeric[:MAX_SCALARS]}
    places: dict[str, int] = {}
    sets: list[Mapping[str, Any]] = []
    set_of, tasks, seeds, kinds = array("L"), array("L"), array("Q"), array("B")
    has_failed: list[bool | None] = []
    kept, rows = TableRows(), table.rows()
    while batch := list(islice(rows, BATCH)):
        for row in batch:
            if len(set_of) == MAX_TASKS:
                raise _too_large_error(job_id, f"a table of more than {MAX_TASKS:,} tasks")
            place_of_set = places.setdefault(str(row[begin - 1]), len(places))
            if place_of_set == len(sets):
                sets.append(dict(zip(names, row[begin : begin + len(names)], strict=True)))
            set_of.append(place_of_set)
            tasks.append(_task_of(row))
            seeds.append(int(str(row[begin + len(names) + SEED])))
            kinds.append(KIND_OF[str(row[begin + len(names) + STATUS])])
            is_repeated = table.simulations is not None and row[first - 1] is not None  # it counts once
            has_failed.append(None if is_repeated else FAILED_OR_NOT.get(kinds[-1]))
            for place, numbers in values.items():
                numbers.append(_number(None if is_repeated else row[first + place]))
        kept.add(batch)
        if kept.held > MAX_HELD_BYTES:
            raise _too_large_error(job_id, "a table of this size")
    return Results(
        made_at=now,
        state=state,
        columns=table.columns,
        rows=kept,
        sets=sets,
        set_ids=places,
        set_of=set_of,
        scalars={table.scalar_columns[place].column.name: numbers for place, numbers in values.items()},
        problems=table.problems(),
        tasks=tasks,
        seeds=seeds,
        kinds=kinds,
        separates=separate_failed(sets, set_of, has_failed),
    )


def _task_of(row: Sequence[Any]) -> int:
    return int(row[TASK])


def _number(value: object) -> float:
    """Return a scalar as `Series.values` has it. One that is too large to plot is not a number."""
    if is_not_finite(value):
        return math.inf
    return float(value) if is_number(value) else math.nan  # type: ignore[arg-type]


def _too_large_error(job_id: str, what: str) -> MopsJobsError:
    return MopsJobsError(f"The page does not read {what}. Use: {command_line('results', job_id, '--table FILE.csv')}")


MAX_OUTPUTS = 16
"""Outputs that are kept, of at most 1 MiB each. The first output of a task counts twice."""


class KeptOutput(NamedTuple):
    """An output of a task, of one moment."""

    made_at: float
    state: ResultsState
    output: TaskOutput
    preview: Preview | None

    def is_current(self, state: ResultsState) -> bool:
        """Return whether the output is what it was. That of a task that succeeded does not change."""
        is_final = self.output.value is not None and self.output.task.row.outcome == SUCCEEDED
        return is_final or self.state == state


def read_kept_output(job_id: str, number: str, name: str, app: App) -> KeptOutput:
    """Read an output of a task.

    Args:
        job_id: the full id of a job that the cache has.
        number: the task.
        name: the name of the output; empty for the first one.
        app: the run.

    Raises:
        MopsJobsError: if the outputs of the task cannot be listed.
    """
    now = app.now().timestamp()
    lineage = find_cached_results(job_id, app)
    state = app.cache.read_cached(lambda cache: results_state(cache, job_id, now=now)) or ()
    found = read_task_output(lineage, int(number), name or None, app)
    return KeptOutput(now, state, found, None if found.value is None else preview(str(found.name), found.value))


MAX_SETS = 20_000
"""Parameter sets of a job whose provenance is kept: they take some 12 MB. `diff` has no such limit."""


def read_provenance(job_id: str, app: App) -> Provenance:
    """Read the provenance of a job, by the function of `provenance`, without the archive of the bundle.

    Args:
        job_id: the full id of a job that the cache has.
        app: the run.

    Raises:
        MopsJobsError: if it cannot be read, or is too large for a page.
    """
    found = read_whole_provenance(job_id, app, with_hosts=False)._replace(archive=None)
    if found.manifest is not None and len(found.manifest.study.parameter_sets) > MAX_SETS:
        command = command_line("diff", job_id, "OTHER")
        raise MopsJobsError(f"The page does not compare more than {MAX_SETS:,} parameter sets. Use: {command}")
    return found

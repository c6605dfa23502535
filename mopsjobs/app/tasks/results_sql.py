"""SQL over the results of jobs: a table `results` with a row per task, in DuckDB if this Python has it, else in SQLite.

The rows are those of `ResultsTable`, so they come from the chunks of scalars in the cache. They are copied into an
empty database that lasts for one query, and is closed to files and to the network. With DuckDB, `series('name')` is a
table too: see series.py.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import glob
import json
import os
import re
import shlex
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mopsjobs.app.tasks.results_table import FIRST_COLUMNS, REPEATS, SUCCEEDED, ResultsTable
from mopsjobs.app.tasks.series import ROW, Series, named_series
from mopsjobs.cache.queries.tasks import temporary_database
from mopsjobs.cache.queries.user_sql import QueryResult, late_error, run_user_query
from mopsjobs.errors import MopsJobsError, UsageError
from mopsjobs.ledger.scalars import is_not_finite
from mopsjobs.studies.results import TABLE as TASKS_TABLE
from mopsjobs.utils.cores import usable_cores
from mopsjobs.utils.sizes import human_size
from mopsjobs.utils.table_files import CONVERTERS, distinct_name, identifier, import_package, type_of
from mopsjobs.utils.text import pluralize

TABLE = "results"

READERS = {"results.parquet": "read_parquet", "results.csv": "read_csv", "results.jsonl": "read_json"}
"""Files that `results --table` may have written into a download, and the functions of DuckDB that read them."""

MAX_NAMED = 40
"""Columns that an error names."""

LEAST_DUCKDB = (1, 4)
"""The oldest version that is used. Others are as if there was none."""

MEMORY = "1GB"
"""Of DuckDB. What is more goes to a temporary file."""

MAX_THREADS = 8
"""Of DuckDB: each may take an eighth of that."""

BATCH = 500
"""Rows that are fetched together."""

_DUCKDB_TYPES = {
    "boolean": "BOOLEAN", "integer": "BIGINT", "unsigned": "UBIGINT", "number": "DOUBLE", "text": "VARCHAR",
}  # fmt: skip
_SQLITE_TYPES = {"boolean": "INTEGER", "integer": "INTEGER", "unsigned": "", "number": "REAL", "text": "TEXT"}


class SqlAnswer(NamedTuple):
    """The rows that a query returns, and what they were made of."""

    result: QueryResult
    notes: Sequence[str]
    """Which tasks have no values, and how many bytes were read."""
    counts: Mapping[str, object]
    """The same for programs."""


def has_duckdb() -> bool:
    """Return whether this Python has a DuckDB that is new enough."""
    with contextlib.suppress(UsageError):
        return bool(_duckdb("SQL"))
    return False


def _duckdb(purpose: str) -> Any:
    """Import DuckDB.

    Raises:
        UsageError: if it is not installed, or too old.
    """
    hint = "Install it there. The table results does without."
    duckdb = import_package("duckdb", purpose, hint)
    if tuple(map(int, duckdb.__version__.split(".")[:2])) < LEAST_DUCKDB:
        least = ".".join(map(str, LEAST_DUCKDB))
        raise UsageError(
            f"{purpose} needs DuckDB {least} or later: {sys.executable} has {duckdb.__version__}.", hint=hint
        )
    return duckdb


@contextlib.contextmanager
def run_results_sql(
    table: ResultsTable,
    sql: str,
    *,
    seconds: float,
    series: Series,
    monotonic: Callable[[], float] = time.monotonic,
) -> Iterator[SqlAnswer]:
    """Run one SELECT over the tasks of a table. Its rows are read within the block.

    Args:
        table: the tasks.
        sql: the query.
        seconds: its time limit, up to the last row.
        series: reads the series that the query names.
        monotonic: a clock.

    Raises:
        UsageError: if it is not a query over `results`, or takes too long. Also while the rows are iterated.
    """
    names = named_series(sql)
    if names:
        _duckdb(f"series('{names[0]}')")
    rows = _CountedRows(table, sql)
    if not has_duckdb():
        with temporary_database("") as database:
            _fill_sqlite(database, rows)
            answer = run_user_query(database, sql, seconds=seconds, monotonic=monotonic, hint=rows.hint)
            yield rows.answer(answer, series)
        return
    duckdb = import_package("duckdb", "SQL")
    with (
        tempfile.TemporaryDirectory(prefix="mops-jobs-") as directory,
        contextlib.closing(duckdb.connect(os.path.join(directory, "results.duckdb"))) as database,
    ):
        threads = min(usable_cores(), MAX_THREADS)
        database.execute(
            f"SET memory_limit = '{MEMORY}'; SET threads = {threads}; SET python_enable_replacements = false"
        )
        try:
            _fill_duckdb(database, rows, os.path.join(directory, "rows.jsonl"))
            if names:
                series.add(database, names, [*rows.parameters, *([REPEATS] if rows.repeated else [])])
        except duckdb.Error as error:
            raise MopsJobsError(f"DuckDB cannot load the results: {_first_sentence(error)}.") from None
        except OSError as error:
            raise MopsJobsError(f"Cannot write {error.filename}: {error.strerror}.") from None
        database.execute("SET enable_external_access = false; SET lock_configuration = true")
        yield rows.answer(_run_duckdb(database, sql, seconds, rows.hint), series)


class _CountedRows:
    """The rows of a table with other names where SQL would take two for one, and what they lack."""

    def __init__(self, table: ResultsTable, sql: str) -> None:
        self.table = table
        self._outcomes: Counter[str] = Counter()
        self._lacking: Counter[str] = Counter()
        self._not_finite: Counter[str] = Counter()
        self._has_series = bool(named_series(sql))
        taken = {ROW}
        self.columns = [one._replace(name=distinct_name(one.name, taken)) for one in table.columns]
        scalars = len(self.columns) - len(table.scalar_columns)
        self._asked = [
            (place, one.name) for place, one in enumerate(self.columns) if place >= scalars and _is_in(one.name, sql)
        ]

    @property
    def parameters(self) -> list[str]:
        """Return the columns of parameters."""
        first = len(FIRST_COLUMNS)
        return [column.name for column in self.columns[first : first + len(self.table.parameters)]]

    @property
    def repeated(self) -> int:
        """Count the tasks that repeat another one."""
        return 0 if self.table.simulations is None else self.table.simulations.repeated

    @property
    def hint(self) -> str:
        """Return the columns of the table, for an error."""
        names = [_quoted(column.name) for column in self.columns[:MAX_NAMED]]
        series = "" if not self._has_series else " A series has job, task, parameters, index and value."
        return f"The columns of {TABLE} are {', '.join([*names, *['…'] * (len(self.columns) > MAX_NAMED)])}.{series}"

    def __iter__(self) -> Iterator[list[object]]:
        """Yield the row of each task, and count it."""
        for task, row in self.table.rows_of_tasks():
            outcome = self.table.outcome_of(task)
            self._outcomes[outcome] += 1
            if outcome == SUCCEEDED:
                self._lacking.update(name for place, name in self._asked if row[place] is None)
                self._not_finite.update(name for place, name in self._asked if is_not_finite(row[place]))
            yield row

    def answer(self, result: QueryResult, series: Series) -> SqlAnswer:
        """Return an answer with what it lacks, and how many bytes were read, also of series."""
        total, done = self._outcomes.total(), self._outcomes[SUCCEEDED]
        others = ", ".join(f"{count:,} {name}" for name, count in sorted(self._outcomes.items()) if name != SUCCEEDED)
        notes = [f"{_some(total - done, total, 'task')} no values: {others}."] if others else []
        lacking = self._lacking | series.lacking
        notes += [f"{_some(count, done, 'succeeded task')} no {name}." for name, count in lacking.items()]
        how = "leave them out by WHERE isfinite(…)" if has_duckdb() else "SQLite takes NaN for null"
        notes += [
            f"{_some(count, done, 'succeeded task')} NaN or an infinity as {name}: {how}."
            for name, count in self._not_finite.items()
        ]
        read = {"scalars": self.table.bytes_read, **series.bytes_read}
        sizes = ", ".join(f"{human_size(size)} of {name}" for name, size in read.items())
        counts = {
            "tasks": dict(self._outcomes),
            "repeated": self.repeated,
            "lacking": dict(lacking),
            "not_finite": dict(self._not_finite),
            "bytes_read": sum(read.values()),
        }
        return SqlAnswer(result, [*notes, f"Read {sizes}."], counts)


def _some(count: int, total: int, noun: str) -> str:
    """Return the beginning of a sentence about some of them."""
    return f"{count:,} of {pluralize(total, noun)} {'has' if count == 1 else 'have'}"


def _is_in(name: str, sql: str) -> bool:
    """Return whether a query names a column."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", sql, re.IGNORECASE) is not None


def _quoted(name: str) -> str:
    """Return a name as SQL takes it, whatever its characters."""
    return name if re.fullmatch("[A-Za-z_][A-Za-z_0-9]*", name) else '"' + name.replace('"', '""') + '"'


def duckdb_views(directory: Path) -> tuple[str, str | None]:
    """Return SQL of DuckDB that makes views of a download: `tasks`, and `results`, a table that `--table` wrote there.

    The file that `results` reads is the second value; None if it has the tasks alone.

    Raises:
        UsageError: if the directory is not that of a download.
    """
    if not (directory / TASKS_TABLE).is_file():
        hint = f"Download to it first: --download {shlex.quote(str(directory))}"
        raise UsageError(f"invalid directory '{directory}': expected one with a {TASKS_TABLE}.", hint=hint)
    file = next((name for name in READERS if (directory / name).is_file()), None)
    tasks, table = (_sql_text(glob.escape(str(directory / name))) for name in (TASKS_TABLE, file or ""))
    source = "tasks" if file is None else f"{READERS[file]}({table})"
    types = "types = {'param_id': 'VARCHAR', 'seed': 'UBIGINT'}"
    return (
        f"CREATE OR REPLACE VIEW tasks AS SELECT * EXCLUDE (bundle) FROM read_csv({tasks}, {types});\n"  # noqa: S608 - quoted texts
        f"CREATE OR REPLACE VIEW {TABLE} AS SELECT * FROM {source};\n"
    ), file


def _sql_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# --- SQLite ---------------------------------------------------------------------------------------------------------


def _fill_sqlite(database: sqlite3.Connection, rows: _CountedRows) -> None:
    types = [type_of(one.kinds) for one in rows.columns]
    columns = ", ".join(
        f"{identifier(one.name)} {_SQLITE_TYPES[kind]}" for one, kind in zip(rows.columns, types, strict=True)
    )
    database.execute(f"CREATE TABLE _results ({columns})")
    converters = [_sqlite_value if kind == "unsigned" else CONVERTERS[kind] for kind in types]
    values = (_converted(converters, row) for row in rows)
    database.executemany(f"INSERT INTO _results VALUES ({', '.join('?' * len(types))})", values)  # noqa: S608 - marks
    database.execute(f"CREATE VIEW {TABLE} AS SELECT * FROM _results")  # noqa: S608 - a constant


def _sqlite_value(value: Any) -> object:
    """Return a whole number as SQLite holds it: as a text from 2^63 on."""
    return int(value) if int(value) < 2**63 else str(value)


def _converted(converters: Sequence[Callable[[Any], object]], row: Iterable[object]) -> list[object]:
    return [None if value is None else convert(value) for convert, value in zip(converters, row, strict=True)]


# --- DuckDB ---------------------------------------------------------------------------------------------------------


def _fill_duckdb(database: Any, rows: _CountedRows, path: str) -> None:
    """Copy the rows by way of a file, which DuckDB reads a hundred times faster than it takes values one by one."""
    types = [type_of(column.kinds) for column in rows.columns]
    converters = [CONVERTERS[kind] for kind in types]
    encode = json.JSONEncoder(separators=(",", ":")).encode
    names = [column.name for column in rows.columns]
    places = ["n", *(f"c{place}" for place in range(len(types)))]
    with open(path, "w", encoding="ascii") as file:
        file.writelines(
            encode(dict(zip(places, [number, *_converted(converters, row)], strict=True))) + "\n"
            for number, row in enumerate(rows)
        )
    kinds = ["BIGINT", *(_DUCKDB_TYPES[kind] for kind in types)]
    form = ", ".join(f"{place}: '{kind}'" for place, kind in zip(places, kinds, strict=True))
    selected = ", ".join(f"{place} AS {identifier(name)}" for place, name in zip(places, [ROW, *names], strict=True))
    database.execute(
        f"CREATE TABLE _results AS SELECT {selected}"  # noqa: S608 - quoted names
        f" FROM read_ndjson(?, columns = {{{form}}})",
        [path],
    )
    os.unlink(path)
    database.execute(f"CREATE VIEW {TABLE} AS SELECT * EXCLUDE ({ROW}) FROM _results")  # noqa: S608 - constants


def _run_duckdb(database: Any, sql: str, seconds: float, hint: str) -> QueryResult:
    duckdb = import_package("duckdb", "SQL")
    is_over, is_late = threading.Event(), threading.Event()

    def interrupt() -> None:
        if not is_over.wait(seconds):
            is_late.set()
            while not is_over.wait(0.1):  # an interrupt before DuckDB begins has no effect
                database.interrupt()

    def translate(error: Exception) -> BaseException:
        if not isinstance(error, duckdb.Error):  # Ctrl-C, in place of which DuckDB raises a RuntimeError
            return KeyboardInterrupt()
        if is_late.is_set():
            return late_error(seconds)
        return UsageError(f"The query failed: {_first_sentence(error)}.", hint=hint)

    def rows(cursor: Any) -> Iterator[tuple[object, ...]]:
        try:
            while batch := cursor.fetchmany(BATCH):
                yield from (tuple(map(_plain, row)) for row in batch)
        except (duckdb.Error, RuntimeError) as error:
            raise translate(error) from None
        finally:
            is_over.set()

    try:
        statements = database.extract_statements(sql)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise UsageError("invalid query: expected one SELECT.", hint=hint)
        threading.Thread(target=interrupt, daemon=True).start()
        cursor = database.execute(statements[0])
    except (duckdb.Error, RuntimeError) as error:
        is_over.set()
        raise translate(error) from None
    return QueryResult(tuple(column[0] for column in cursor.description), rows(cursor))


def _first_sentence(error: Exception) -> str:
    """Return what an error of DuckDB says, without the lines of the query that it quotes."""
    return " ".join(str(error).partition("\n\n")[0].split()).rstrip(".")


def _finite(value: object) -> object:
    """Return a value within a list: JSON has null in place of a number that is not finite."""
    return None if is_not_finite(value) else value


def _plain(value: Any) -> object:
    """Return a value of DuckDB as one that JSON can hold, or as a number that is not finite."""
    match value:
        case None | int() | str() | float():
            return value
        case decimal.Decimal():
            return float(value)
        case list() | tuple():
            return [_finite(_plain(one)) for one in value]
        case dict():
            return {str(name): _finite(_plain(one)) for name, one in value.items()}
        case bytes():
            return value.hex()
    return value.isoformat() if isinstance(value, dt.date | dt.time) else str(value)

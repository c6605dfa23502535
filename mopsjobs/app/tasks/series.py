"""Series of tasks: arrays of numbers in JSON outputs, and columns of CSV and Parquet outputs with several rows.

`series('infected')` is a long table in the SQL of results. It has a row per task and place: the task, its parameters,
`index` from 0, and `value`. A series is named like a scalar: see `scalar_names`.

The first query reads all outputs of the tasks, and keeps their series as columns in Parquet files below
`<cache>.series/<job_id>/`. They have a row per task and series, sorted by series. A later query reads the row groups
of the series that it names, and outputs of tasks that have ended since. Nothing but speed is lost with the files.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import itertools
import json
import os
import re
import shutil
import sys
import tempfile
import urllib.parse
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TextIO

from mopsjobs.app.tasks.results_table import Member, scalar_names
from mopsjobs.cache.job_json import reused_tasks
from mopsjobs.cache.sync.fetcher import FailedRead, ParallelFetcher
from mopsjobs.errors import RecordError, UsageError
from mopsjobs.ledger.scalars import csv_rows, read_result
from mopsjobs.store.base import Entry, VersionedStore
from mopsjobs.store.bulk import bulk_reads
from mopsjobs.studies.outputs import scan_outputs
from mopsjobs.studies.results import parameter_columns
from mopsjobs.utils.files import directory_lock, make_directory
from mopsjobs.utils.table_files import identifier, import_package
from mopsjobs.utils.text import did_you_mean, join_first, pluralize

MEMBER, ROW = "_member", "_row"
"""Columns of `_results` besides those of `results`: the number of the job, and that of the row."""

BATCH_BYTES = 64 * 2**20
"""Of the outputs that are searched together."""

BATCH_TASKS = 4_000

MAX_LINE_BYTES = 2**28
"""Of an output, as a text of JSON."""

MAX_PROBLEMS = 1_000
"""Problems that are named."""

_NAMED = re.compile(r"(?<![\w.])series\s*\(\s*'((?:[^']|'')*)'\s*\)", re.IGNORECASE)

_NUMBERS = frozenset({"UBIGINT", "BIGINT", "HUGEINT", "DOUBLE", "BOOLEAN"})
"""Types of the values of an array that is a series, as DuckDB's `json_structure` names them."""


def named_series(sql: str) -> list[str]:
    """Return the names of the series that a query reads, each once."""
    return list(dict.fromkeys(name.replace("''", "'") for name in _NAMED.findall(sql)))


class _Task(NamedTuple):
    """The outputs of a task that may have series."""

    param_id: str
    seed: int
    entries: Mapping[str, Entry]


class Series:
    """Reads the series of some jobs."""

    def __init__(
        self,
        members: Sequence[Member],
        open_store: Callable[[], VersionedStore] | None,
        directory: str,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """Prepare to read.

        Args:
            members: the jobs.
            open_store: opens the store of the registry; None: outputs are not read.
            directory: keeps columns; made if it does not exist.
            on_progress: called with the number of tasks whose outputs were read.
        """
        self._members = members
        self._open_store = open_store
        self._directory = directory
        self._on_progress = on_progress
        self._tasks_read = 0
        self._output_bytes = self._column_bytes = 0
        self.lacking: Counter[str] = Counter()
        """How many tasks that succeeded lack a series that was named."""
        self.problems: list[str] = []
        """Outputs that cannot be read, as sentences."""

    def add(self, database: Any, names: Sequence[str], parameters: Sequence[str]) -> None:
        """Add the table `series(name)` to a database of DuckDB with the table `_results`.

        Args:
            database: the database.
            names: the names of the series that are read.
            parameters: the columns of parameters.

        Raises:
            UsageError: if no output has a series of that name.
            StoreError: if the store cannot be read.
        """
        sources = [(one, source) for one in self._members for source in (one.job.job_id, *reused_tasks(one.job.job)[1])]
        if self._open_store is not None:
            self._read_outputs(database, sources)
        files = {source: self._files(source) for _, source in sources}
        keys = _keys_of(database, names, [path for paths in files.values() for path in paths])
        database.execute(f"CREATE TABLE _values ({ROW} BIGINT, series VARCHAR, v DOUBLE[])")
        for member, source in sources:
            if files[source]:
                database.execute(_COLLECT, [files[source], list(keys.values()), member.number])
                self._column_bytes += _bytes_read(database, files[source], list(keys.values()))
        others = parameter_columns(parameters, ("index", "value"))
        selected = ", ".join(f"{identifier(name)} AS {identifier(others[name])}" for name in parameters)
        for name, key in keys.items():
            view, text = identifier(f"_series {name}"), key.replace("'", "''")
            database.execute(
                f"CREATE VIEW {view} AS SELECT job_id, task, param_id, seed{', ' * bool(selected)}{selected},"  # noqa: S608 - quoted names
                f" unnest(range(len(v))) AS index, unnest(v) AS value FROM _values JOIN _results USING ({ROW})"
                f" WHERE series = '{text}'"
            )
        database.execute(_MACRO)
        (done,) = database.execute("SELECT count(*) FROM _results WHERE status = 'succeeded'").fetchone()
        found = dict(database.execute("SELECT series, count(*) FROM _values GROUP BY series").fetchall())
        self.lacking.update({f"series {name}": done - found.get(key, 0) for name, key in keys.items()})

    @property
    def bytes_read(self) -> dict[str, int]:
        """Return how many bytes were read of what."""
        read = {"outputs, now kept as columns": self._output_bytes, "columns": self._column_bytes}
        return {name: size for name, size in read.items() if size}

    # --- outputs ----------------------------------------------------------------------------------------------------

    def _read_outputs(self, database: Any, sources: Sequence[tuple[Member, str]]) -> None:
        """Read the outputs of the tasks that no columns have, and keep their series."""
        for member, source in sources:
            known = set(database.execute(_KNOWN, [self._files(source)]).fetchall()) if self._files(source) else set()
            wanted = {
                (sys.intern(param_id), seed)
                for param_id, seed in database.execute(_SUCCEEDED, [member.number]).fetchall()
                if (param_id, seed) not in known
            }
            for earlier in (other for owner, other in sources if owner is member and other != source):
                if wanted and (files := self._files(earlier)):
                    wanted.difference_update(database.execute(_KNOWN, [files]).fetchall())
            if wanted:
                self._keep(database, source, wanted)

    def _keep(self, database: Any, job_id: str, wanted: set[tuple[str, int]]) -> None:
        """Read the outputs of some tasks of a job, and keep their series in further files."""
        directory = self._directory_of(job_id)
        make_directory(directory)
        store = self._open_store() if self._open_store is not None else None
        assert store is not None  # noqa: S101 - the caller has looked
        tasks = _tasks_of(store, job_id, wanted)
        with (
            directory_lock(directory),
            tempfile.TemporaryDirectory(prefix="mops-jobs-") as scratch,
            bulk_reads(store),
            ParallelFetcher.for_store(store) as fetcher,
        ):
            while batch := list(_take(tasks)):
                keys = [entry.key for task in batch for entry in task.entries.values() if entry.value is None]
                values = dict(zip(keys, fetcher.fetch(keys), strict=True))
                lines, tables = os.path.join(scratch, "lines.jsonl"), os.path.join(scratch, "tables")
                os.makedirs(tables, exist_ok=True)
                with open(lines, "w", encoding="ascii") as file:
                    for task in batch:
                        self._write(file, tables, task, values)
                part = os.path.join(directory, f"{uuid.uuid4().hex}.parquet")
                for problem in _convert(database, lines, tables, part + ".part"):
                    self._note(f"{job_id}: {problem}")
                os.replace(part + ".part", part)
                self._tasks_read += len(batch)
                if self._on_progress is not None:
                    self._on_progress(self._tasks_read)

    def _write(self, file: TextIO, tables: str, task: _Task, values: Mapping[str, Any]) -> None:
        """Write what DuckDB reads of the outputs of a task: a line per output, or a file of Parquet."""
        head = {"p": task.param_id, "s": task.seed}
        file.write(json.dumps(head) + "\n")
        for name, entry in task.entries.items():
            found = values.get(entry.key)
            if isinstance(found, FailedRead):
                self._note(f"{entry.key} cannot be read: {found.reason}.")
                continue
            value = entry.value if found is None else found.value
            if value is None:  # deleted meanwhile
                continue
            self._output_bytes += len(value)
            try:
                if name.endswith(".parquet"):
                    of_name = os.path.join(tables, urllib.parse.quote(name, safe=""))
                    os.makedirs(of_name, exist_ok=True)
                    with open(os.path.join(of_name, f"{task.param_id} {task.seed}"), "wb") as table:
                        table.write(value)
                    continue
                text = _columns(value) if name.endswith(".csv") else _json(value)
            except (UnicodeError, csv.Error) as error:
                self._note(f"{entry.key} cannot be read: {error}.")
                continue
            if text:
                file.write(json.dumps({**head, "n": name, "v": text}) + "\n")

    def _note(self, problem: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)

    def _directory_of(self, job_id: str) -> str:
        return os.path.join(self._directory, urllib.parse.quote(job_id, safe=""))

    def _files(self, job_id: str) -> list[str]:
        """Return the files with the columns of a job."""
        try:
            return sorted(one.path for one in os.scandir(self._directory_of(job_id)) if one.name.endswith(".parquet"))
        except OSError:
            return []


def _tasks_of(store: VersionedStore, job_id: str, wanted: set[tuple[str, int]]) -> Iterator[_Task]:
    """Yield those of the wanted tasks that have outputs in a job. One listing finds them."""
    for (param_id, seed), of_task in groupby(scan_outputs(store, job_id), key=lambda pair: pair[0][:2]):
        if seed.isdecimal() and (param_id, int(seed)) in wanted:
            entries = {
                name: entry
                for (_, _, name), entry in of_task
                if name.endswith((".json", ".csv", ".parquet")) and not name.startswith("_")
            }
            yield _Task(param_id, int(seed), entries)


def _take(tasks: Iterator[_Task]) -> Iterator[_Task]:
    """Yield the tasks of one batch."""
    size = 0
    for task in itertools.islice(tasks, BATCH_TASKS):
        yield task
        size += sum(entry.size or len(entry.value or b"") for entry in task.entries.values())
        if size > BATCH_BYTES:
            return


def _json(value: bytes) -> str:
    """Return a JSON output as DuckDB reads it, which takes NaN and Infinity for numbers."""
    with contextlib.suppress(RecordError):
        if b'"$not_finite"' in value:
            return json.dumps(read_result(value))
    return value.decode("utf-8-sig")


def _columns(value: bytes) -> str:
    """Return the columns of numbers of CSV as a JSON object of texts with commas; empty with fewer than two rows."""
    rows = list(csv_rows(value))
    if len(rows) < 3:
        return ""
    header, *cells = rows
    columns = zip(header, zip(*cells, strict=False), strict=False)
    return json.dumps({name: ",".join(column) for name, column in columns if name and _may_be_numbers(column)})


def _may_be_numbers(column: Sequence[str]) -> bool:
    """Return whether the first cell that is not empty is a number."""
    first = next(filter(None, column), "")
    try:
        float(first)
    except ValueError:
        return False
    return True


# --- DuckDB ---------------------------------------------------------------------------------------------------------

_MACRO = """
CREATE MACRO series(name) AS TABLE SELECT * FROM query_table('"_series ' || replace(name, '"', '""') || '"')
"""

_KNOWN = "SELECT param_id, seed FROM read_parquet(?) WHERE series = ''"

_SUCCEEDED = "SELECT param_id, seed FROM _results WHERE _member = ? AND status = 'succeeded'"

_COLLECT = """
INSERT INTO _values
SELECT _row, series, v FROM read_parquet($1) AS kept JOIN _results USING (param_id, seed)
WHERE list_contains($2, series) AND _member = $3 AND status = 'succeeded'
AND NOT EXISTS (SELECT 1 FROM _values AS other WHERE other._row = _results._row AND other.series = kept.series)
"""

_JSON = """
INSERT INTO _found
SELECT p, s, unnest($1) AS series, TRY_CAST(unnest(json_extract(TRY_CAST(v AS JSON), $2)) AS DOUBLE[])
FROM _lines WHERE n = $3
"""

_CSV = """
INSERT INTO _found
SELECT p, s, series, [TRY_CAST(cell AS DOUBLE) FOR cell IN string_split(cells, ',')]
FROM (SELECT p, s, unnest($1) AS series, unnest(json_extract_string(v, $2)) AS cells FROM _lines WHERE n = $3)
WHERE cells IS NOT NULL
"""

_READ = """
CREATE OR REPLACE TEMP TABLE _lines AS SELECT * FROM read_ndjson(
    $1, columns = {p: 'VARCHAR', s: 'UBIGINT', n: 'VARCHAR', v: 'VARCHAR'}, maximum_object_size = $2)
"""

_STRUCTURES = """
SELECT n, json_structure(TRY_CAST(v AS JSON)) AS structure, count(*) FROM _lines WHERE n IS NOT NULL GROUP BY ALL
"""

_DESCRIBE = "DESCRIBE SELECT * FROM read_parquet(?, union_by_name = true)"

_ADD = """
INSERT INTO _found
SELECT split_part(parse_filename(filename), ' ', 1), CAST(split_part(parse_filename(filename), ' ', 2) AS UBIGINT), ?,
    list(CAST(COLUMN AS DOUBLE) ORDER BY file_row_number)
FROM read_parquet(?, filename = true, file_row_number = true, union_by_name = true)
GROUP BY filename HAVING count(COLUMN) > 0
"""

_NUMERIC = re.compile("(U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL.*|BOOLEAN)$")

_WRITE = """
COPY (
    SELECT p AS param_id, s AS seed, series, v FROM _found WHERE v IS NOT NULL
    UNION ALL SELECT DISTINCT p, s, '', NULL FROM _lines
    ORDER BY series, param_id, seed
) TO ? (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 2048)
"""
"""The row without series says that the outputs of a task were read."""

_SERIES = "SELECT DISTINCT series FROM read_parquet(?) WHERE series != '' ORDER BY series"

_SIZE = """
WITH chunks AS (SELECT * FROM parquet_metadata($1)), groups AS (
    SELECT file_name, row_group_id FROM chunks WHERE path_in_schema = 'series'
    AND list_bool_or([key BETWEEN stats_min_value AND stats_max_value FOR key IN $2])
)
SELECT coalesce(sum(total_compressed_size), 0) FROM chunks JOIN groups USING (file_name, row_group_id)
"""


def _convert(database: Any, lines: str, tables: str, part: str) -> list[str]:
    """Turn the outputs of a batch into a file of columns. Return what cannot be read, as sentences."""
    database.execute(_READ, [lines, MAX_LINE_BYTES])
    database.execute("CREATE OR REPLACE TEMP TABLE _found (p VARCHAR, s UBIGINT, series VARCHAR, v DOUBLE[])")
    paths: dict[str, dict[str, None]] = {}
    problems = []
    for name, structure, count in database.execute(_STRUCTURES).fetchall():
        if structure is None:
            problems.append(f"{pluralize(count, 'output')} {name} cannot be read: not JSON.")
            continue
        found = _arrays(json.loads(structure), "VARCHAR" if name.endswith(".csv") else None)
        paths.setdefault(name, {}).update(dict.fromkeys(found))
    for name, of_name in paths.items():
        if of_name:
            series = [f"{name}/{path.removeprefix('/')}" for path in of_name]
            database.execute(_CSV if name.endswith(".csv") else _JSON, [series, list(of_name), name])
    for directory in os.scandir(tables):
        problems += _add_tables(database, directory.path, urllib.parse.unquote(directory.name))
        shutil.rmtree(directory.path)
    database.execute(_WRITE, [part])
    return problems


def _add_tables(database: Any, directory: str, name: str) -> list[str]:
    """Add the series of Parquet outputs of one name. Return what cannot be read, as sentences."""
    duckdb = import_package("duckdb", "A series")
    unreadable = 0
    for place in os.scandir(directory):
        try:
            database.execute("SELECT 1 FROM parquet_file_metadata(?)", [place.path])
        except duckdb.Error:
            os.unlink(place.path)
            unreadable += 1
    files = os.path.join(glob.escape(directory), "*")
    if os.listdir(directory):
        for column, kind, *_ in database.execute(_DESCRIBE, [files]).fetchall():
            if _NUMERIC.match(kind):
                key = f"{name}/{_step(column)}"
                database.execute(_ADD.replace("COLUMN", identifier(column)), [key, files])
    return [f"{pluralize(unreadable, 'output')} {name} cannot be read: not Parquet."] if unreadable else []


def _step(name: str) -> str:
    """Return a name as a step of a JSON Pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def _keys_of(database: Any, names: Sequence[str], files: Sequence[str]) -> dict[str, str]:
    """Return the keys of series by the names in a query: a whole key, or the short name of one.

    Raises:
        UsageError: if there is no series of a name.
    """
    found = database.execute(_SERIES, [files]).fetchall() if files else []
    by_name = {name: key for key, name in scalar_names((key for (key,) in found), ()).items()}
    keys = {**{key: key for (key,) in found}, **by_name}
    for name in names:
        if name not in keys:
            known = f"The series are {join_first(list(by_name))}." if by_name else "No output has series."
            raise UsageError(
                f"invalid series '{name}': no output has it.{did_you_mean(name, list(by_name))}", hint=known
            )
    return {name: keys[name] for name in names}


def _bytes_read(database: Any, files: Sequence[str], keys: Sequence[str]) -> int:
    """Return the bytes of the row groups that have some series: DuckDB skips the others."""
    (size,) = database.execute(_SIZE, [files, keys]).fetchone()
    return int(size)


def _arrays(structure: object, leaf: str | None, path: str = "") -> Iterator[str]:
    """Yield the JSON Pointers of the series in what `json_structure` returns; with `leaf`, those of such values."""
    if isinstance(structure, dict):
        for name, member in structure.items():
            yield from _arrays(member, leaf, f"{path}/{_step(name)}")
    elif structure == leaf or (isinstance(structure, list) and not {*structure} - _NUMBERS):
        yield path

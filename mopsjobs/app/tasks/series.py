"""Series of tasks: arrays of numbers in JSON outputs, and columns of CSV and Parquet outputs with several rows.

`series('infected')` is a long table in the SQL of results. It has a row per task and place: the task, its parameters,
`index` from 0, and `value`. A series is named like a scalar: see `scalar_names`.

The first query reads all outputs of the tasks, and keeps each series as a file of Parquet with a row per task. The
files lie in `<cache>-series/<job_id>/<part>/`. A later query reads those of the series that it names, and outputs of
tasks that have ended since. A part appears whole. Nothing but speed is lost with the files: those of the jobs that
were asked for last are kept. See docs/decisions/0115-series-as-columns.md.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import json
import os
import re
import shutil
import sys
import tempfile
import urllib.parse
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TextIO

from mopsjobs.app.tasks.results_table import Member, scalar_names
from mopsjobs.cache.job_json import reused_tasks
from mopsjobs.errors import RecordError, UsageError
from mopsjobs.ledger.scalars import csv_rows, read_result
from mopsjobs.store.base import Entry, VersionedStore
from mopsjobs.store.bulk import bulk_reads
from mopsjobs.store.fetcher import FailedRead, ParallelFetcher
from mopsjobs.studies.outputs import batches, scan_outputs
from mopsjobs.studies.packed_store import by_pack, pack_of
from mopsjobs.studies.results import parameter_columns
from mopsjobs.utils.files import directory_lock, make_directory
from mopsjobs.utils.table_files import identifier, import_package
from mopsjobs.utils.text import did_you_mean, join_first, pluralize

LINES, TABLES = "lines.jsonl", "tables"
"""The outputs of a batch, while DuckDB reads them: those of JSON and CSV as lines, and a directory with the others."""

TASKS = "tasks.parquet"
"""The file of a part with its tasks. The others have the names of series."""

UNFINISHED = "unfinished"
PART_NAME = 32
"""Characters of the name of a finished part."""

MAX_FILE_NAME = 255

MAX_KEPT_BYTES = 4 * 2**30
"""Of the columns of all jobs. Those of a query stay in any case, until the next one."""

ROW = "_row"
"""A column of `_results` besides those of `results`: the number of the row."""

BATCH_BYTES = 64 * 2**20
"""Of the outputs that are searched together."""

BATCH_TASKS = 4_000

LEAST_LINE_BYTES = 2**24
"""Of a line that DuckDB reads: its own limit. It holds some lines of the limit in memory."""

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
        self._longest = LEAST_LINE_BYTES
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
            parameters: the columns of parameters, and others of a task that a series has too.

        Raises:
            UsageError: if no output has a series of that name.
            StoreError: if the store cannot be read.
        """
        sources = [(one, source) for one in self._members for source in (one.job.job_id, *reused_tasks(one.job.job)[1])]
        if self._open_store is not None:
            for member, source in sources:
                self._read_outputs(database, member, source, [job for owner, job in sources if owner is member])
        _forget_old(self._directory, {self._directory_of(source) for _, source in sources})
        keys = _keys_of(names, [path for _, source in sources for path in self._parts(source)])
        others = parameter_columns(parameters, ("index", "value"))
        selected = "".join(f", {identifier(name)} AS {identifier(others[name])}" for name in parameters)
        (done,) = database.execute("SELECT count(*) FROM _results WHERE status = 'succeeded'").fetchone()
        for name, key in keys.items():
            table, view = identifier(f"_values {name}"), identifier(f"_series {name}")
            database.execute(f"CREATE TABLE {table} (_row BIGINT, v DOUBLE[])")
            for member, source in sources:
                if files := _files(self._parts(source), key):
                    database.execute(_COLLECT.replace("VALUES", table), [files, member.job.job_id])
                    self._column_bytes += sum(os.path.getsize(path) for path in files)
            database.execute(
                f"CREATE VIEW {view} AS SELECT job_id, task, param_id, seed{selected},"  # noqa: S608 - quoted names
                f" unnest(range(len(v))) AS index, unnest(v) AS value FROM {table} JOIN _results USING (_row)"
            )
            (found,) = database.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - a quoted name
            self.lacking[f"series {name}"] = done - found
        database.execute(_MACRO)

    @property
    def bytes_read(self) -> dict[str, int]:
        """Return how many bytes were read of what."""
        read = {"outputs, now kept as columns": self._output_bytes, "columns": self._column_bytes}
        return {name: size for name, size in read.items() if size}

    # --- outputs ----------------------------------------------------------------------------------------------------

    def _read_outputs(self, database: Any, member: Member, job_id: str, sources: Sequence[str]) -> None:
        """Read the outputs of tasks of a member that a job has and no part, and keep their series in further parts.

        Args:
            database: the database.
            member: the job that has the tasks.
            job_id: the job whose outputs are read.
            sources: the jobs that may have the outputs of the member's tasks.
        """
        directory = self._directory_of(job_id)
        make_directory(directory)
        with (
            directory_lock(directory),
            tempfile.TemporaryDirectory(prefix="mops-jobs-") as scratch,
        ):
            wanted = {
                (sys.intern(param_id), seed)
                for param_id, seed in database.execute(_SUCCEEDED, [member.job.job_id]).fetchall()
            }
            if files := [os.path.join(part, TASKS) for source in sources for part in self._parts(source)]:
                wanted.difference_update(database.execute(_KNOWN, [files]).fetchall())
            if not wanted or self._open_store is None:
                return
            store = self._open_store()
            tasks = by_pack(store, _tasks_of(store, job_id, wanted), lambda task: pack_of(task.entries))
            with bulk_reads(store), ParallelFetcher.for_store(store) as fetcher:
                for batch in batches(tasks, BATCH_TASKS, BATCH_BYTES, _bytes_of):
                    self._read_batch(fetcher, scratch, batch)
                    part = os.path.join(directory, uuid.uuid4().hex)
                    shutil.rmtree(f"{directory}/{UNFINISHED}", ignore_errors=True)
                    os.mkdir(f"{directory}/{UNFINISHED}", 0o700)
                    for problem in _convert(database, scratch, f"{directory}/{UNFINISHED}", self._longest):
                        self._note(f"{job_id}: {problem}")
                    os.rename(f"{directory}/{UNFINISHED}", part)

    def _read_batch(self, fetcher: ParallelFetcher, scratch: str, batch: Sequence[_Task]) -> None:
        """Read the outputs of some tasks, and write what DuckDB reads of them."""
        entries = [entry for task in batch for entry in task.entries.values() if entry.value is None]
        values = dict(zip((entry.key for entry in entries), fetcher.fetch_entries(entries), strict=True))
        with open(os.path.join(scratch, LINES), "w", encoding="ascii") as file:
            for task in batch:
                self._write(file, scratch, task, values)
        self._tasks_read += len(batch)
        if self._on_progress is not None:
            self._on_progress(self._tasks_read)

    def _write(self, file: TextIO, scratch: str, task: _Task, values: Mapping[str, Any]) -> None:
        """Write what DuckDB reads of the outputs of a task: a line per output, or a file of Parquet."""
        head = {"p": task.param_id, "s": task.seed}
        found_of_task = ((entry.key, values.get(entry.key)) for entry in task.entries.values())
        failed = [(key, one.reason) for key, one in found_of_task if isinstance(one, FailedRead)]
        for key, reason in failed:
            self._note(f"{key} cannot be read: {reason}.")
        if failed:  # the next query tries again
            return
        file.write(json.dumps(head) + "\n")
        for name, entry in task.entries.items():
            found = values.get(entry.key)
            value = entry.value if found is None else found.value
            if value is None:  # deleted meanwhile
                continue
            self._output_bytes += len(value)
            try:
                if name.endswith(".parquet"):
                    of_name = os.path.join(scratch, TABLES, urllib.parse.quote(name, safe=""))
                    os.makedirs(of_name, exist_ok=True)
                    with open(os.path.join(of_name, f"{task.param_id} {task.seed}"), "wb") as table:
                        table.write(value)
                    continue
                text = columns_of_csv(value) if name.endswith(".csv") else _json(value)
            except (UnicodeError, csv.Error) as error:
                self._note(f"{entry.key} cannot be read: {error}.")
                continue
            if text:
                length = file.write(json.dumps({**head, "n": name, "v": text}) + "\n")
                self._longest = max(self._longest, length)

    def _note(self, problem: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)

    def _directory_of(self, job_id: str) -> str:
        return os.path.join(self._directory, urllib.parse.quote(job_id, safe=""))

    def _parts(self, job_id: str) -> list[str]:
        """Return the directories with the columns of a job."""
        try:
            return sorted(one.path for one in os.scandir(self._directory_of(job_id)) if len(one.name) == PART_NAME)
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


def _bytes_of(task: _Task) -> int:
    return sum(entry.size or len(entry.value or b"") for entry in task.entries.values())


def _json(value: bytes) -> str:
    """Return a JSON output as DuckDB reads it, which takes NaN and Infinity for numbers."""
    with contextlib.suppress(RecordError):
        if b'"$not_finite"' in value:
            return json.dumps(read_result(value))
    return value.decode("utf-8-sig")


def columns_of_csv(value: bytes) -> str:
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


def _forget_old(directory: str, used: Collection[str]) -> None:
    """Remove the columns of jobs that were not used for longest."""
    kept = 0
    with contextlib.suppress(OSError):
        for path in used:
            os.utime(path)
        for job in sorted(os.scandir(directory), key=lambda entry: entry.stat().st_mtime, reverse=True):
            kept += sum(os.path.getsize(path) for path in glob.iglob(f"{glob.escape(job.path)}/*/*"))
            if kept > MAX_KEPT_BYTES and job.path not in used:
                shutil.rmtree(job.path)


# --- DuckDB ---------------------------------------------------------------------------------------------------------

_MACRO = """
CREATE MACRO series(name) AS TABLE SELECT * FROM query_table('"_series ' || replace(name, '"', '""') || '"')
"""

_KNOWN = "SELECT param_id, seed FROM read_parquet(?)"

_SUCCEEDED = "SELECT param_id, seed FROM _results WHERE job_id = ? AND status = 'succeeded'"

_COLLECT = """
INSERT INTO VALUES SELECT _row, v FROM read_parquet($1) JOIN _results USING (param_id, seed)
WHERE job_id = $2 AND status = 'succeeded' AND _row NOT IN (SELECT _row FROM VALUES)
"""

_READ = """
CREATE OR REPLACE TEMP TABLE _lines AS SELECT * FROM read_ndjson(
    $1, columns = {p: 'VARCHAR', s: 'UBIGINT', n: 'VARCHAR', v: 'VARCHAR'}, maximum_object_size = $2)
"""

_STRUCTURES = """
SELECT n, json_structure(TRY_CAST(v AS JSON)), count(*) FROM _lines WHERE n IS NOT NULL GROUP BY ALL
"""

_JSON = "SELECT p, s, {columns} FROM (SELECT p, s, json_extract(TRY_CAST(v AS JSON), $1) AS c FROM _lines WHERE n = $2)"

_CSV = "SELECT p, s, {columns} FROM (SELECT p, s, json_extract_string(v, $1) AS c FROM _lines WHERE n = $2)"

_PARQUET = """
SELECT split_part(parse_filename(filename), ' ', 1) AS p, CAST(split_part(parse_filename(filename), ' ', 2) AS UBIGINT)
    AS s, {columns}
FROM read_parquet($1, filename = true, file_row_number = true, union_by_name = true) GROUP BY filename
"""

_DESCRIBE = "DESCRIBE SELECT * FROM read_parquet(?, union_by_name = true)"

_NUMERIC = re.compile("(U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL.*|BOOLEAN)$")

_WRITE = """
COPY (SELECT p AS param_id, s AS seed, {0} AS v FROM _found WHERE {0} IS NOT NULL)
TO ? (FORMAT parquet, COMPRESSION zstd, PARQUET_VERSION v2)
"""

_WRITE_TASKS = "COPY (SELECT DISTINCT p AS param_id, s AS seed FROM _lines) TO ? (FORMAT parquet)"


def _convert(database: Any, scratch: str, part: str, longest: int) -> list[str]:
    """Turn the outputs of a batch, whose lines have this length at most, into files of columns.

    Return what cannot be read, as sentences.
    """
    database.execute(_READ, [os.path.join(scratch, LINES), longest])
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
            is_csv = name.endswith(".csv")
            value = (
                "[TRY_CAST(x AS DOUBLE) FOR x IN string_split(c[{}], ',')]" if is_csv else "TRY_CAST(c[{}] AS DOUBLE[])"
            )
            columns = {
                f"{name}/{path.removeprefix('/')}": value.format(place) for place, path in enumerate(of_name, start=1)
            }
            _write_columns(database, _CSV if is_csv else _JSON, [list(of_name), name], columns, part)
    tables = os.path.join(scratch, TABLES)
    for directory in os.scandir(tables) if os.path.isdir(tables) else ():
        problems += _write_tables(database, directory.path, urllib.parse.unquote(directory.name), part)
        shutil.rmtree(directory.path)
    database.execute(_WRITE_TASKS, [os.path.join(part, TASKS)])
    return problems


def _write_columns(database: Any, sql: str, values: Sequence[object], columns: Mapping[str, str], part: str) -> None:
    """Write a file for each series.

    Args:
        database: the database.
        sql: selects `p`, `s` and the columns.
        values: of its parameters.
        columns: the series by their keys, each as an expression.
        part: the directory of the files.
    """
    selected = ", ".join(f"{value} AS c{place}" for place, value in enumerate(columns.values()))
    database.execute(f"CREATE OR REPLACE TEMP TABLE _found AS {sql.format(columns=selected)}", values)
    for place, key in enumerate(columns):
        if len(file := urllib.parse.quote(key, safe="") + ".parquet") <= MAX_FILE_NAME:
            database.execute(_WRITE.format(f"c{place}"), [os.path.join(part, file)])


def _write_tables(database: Any, directory: str, name: str, part: str) -> list[str]:
    """Write the series of Parquet outputs of one name. Return what cannot be read, as sentences."""
    duckdb = import_package("duckdb", "A series")
    unreadable = 0
    for place in os.scandir(directory):
        try:
            database.execute("SELECT 1 FROM parquet_file_metadata(?)", [place.path])
        except duckdb.Error:
            os.unlink(place.path)
            unreadable += 1
    if os.listdir(directory):
        files = os.path.join(glob.escape(directory), "*")
        columns = {
            f"{name}/{step(column)}": f"CASE WHEN count({identifier(column)}) > 0"
            f" THEN list(CAST({identifier(column)} AS DOUBLE) ORDER BY file_row_number) END"
            for column in numbers_of_parquet(database, files)
        }
        if columns:
            _write_columns(database, _PARQUET, [files], columns, part)
    return [f"{pluralize(unreadable, 'output')} {name} cannot be read: not Parquet."] if unreadable else []


def numbers_of_parquet(database: Any, files: str) -> list[str]:
    """Return the columns of numbers of Parquet files, by DuckDB."""
    found = database.execute(_DESCRIBE, [files]).fetchall()
    return [column for column, kind, *_ in found if _NUMERIC.match(kind)]


def step(name: str) -> str:
    """Return a name as a step of a JSON Pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def _keys_of(names: Sequence[str], parts: Sequence[str]) -> dict[str, str]:
    """Return the keys of series by the names in a query: a whole key, or the short name of one.

    Raises:
        UsageError: if there is no series of a name.
    """
    files = {file for part in parts for file in os.listdir(part)} - {TASKS}
    found = {urllib.parse.unquote(file.removesuffix(".parquet")) for file in files}
    by_name = {name: key for key, name in scalar_names(found, ()).items()}
    keys = {**{key: key for key in found}, **by_name}
    for name in names:
        if name not in keys:
            known = f"The series are {join_first(list(by_name))}." if by_name else "No output has series."
            raise UsageError(
                f"invalid series '{name}': no output has it.{did_you_mean(name, list(by_name))}", hint=known
            )
    return {name: keys[name] for name in names}


def _files(parts: Sequence[str], key: str) -> list[str]:
    """Return the files of a series."""
    file = urllib.parse.quote(key, safe="") + ".parquet"
    return [path for part in parts if os.path.exists(path := os.path.join(part, file))]


def _arrays(structure: object, leaf: str | None, path: str = "") -> Iterator[str]:
    """Yield the JSON Pointers of the series in what `json_structure` returns; with `leaf`, those of such values."""
    if isinstance(structure, dict):
        for name, member in structure.items():
            yield from _arrays(member, leaf, f"{path}/{step(name)}")
    elif structure == leaf or (isinstance(structure, list) and not {*structure} - _NUMBERS):
        yield path

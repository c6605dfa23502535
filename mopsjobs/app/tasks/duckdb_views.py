"""SQL of DuckDB that makes views of a downloaded directory, with the names of `results --sql`.

`results` is a table that `--table` wrote there, else the table of tasks of the download. `series('NAME')` reads the
outputs: arrays of numbers in JSON, columns of CSV and Parquet. One file of each output tells which there are.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import json
import os
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from mopsjobs.app.tasks.results_table import scalar_names
from mopsjobs.app.tasks.series import columns_of_csv, numbers_of_parquet, step
from mopsjobs.errors import RecordError, UsageError
from mopsjobs.ledger.scalars import read_result
from mopsjobs.studies.results import TABLE
from mopsjobs.utils.table_files import identifier, import_package, kind_of

TABLES = {"results.parquet": "read_parquet", "results.csv": "read_csv", "results.jsonl": "read_json"}
"""Files that `results --table` may have written into the directory, and the functions that read them."""

MAX_TASKS = 20
"""Tasks of which a file is looked at, if those before had none of that name."""

_OF_FILE = "parse_path(filename)[-3] AS param_id, TRY_CAST(parse_path(filename)[-2] AS UBIGINT) AS seed"
"""What the path of an output tells. A reduction has no seed."""

_JSON = "SELECT {of_file}, TRY_CAST(json_extract(content, {path}) AS DOUBLE[]) AS v FROM read_text({files})"

_CSV = """SELECT {of_file}, list(TRY_CAST({column} AS DOUBLE) ORDER BY place) AS v
  FROM (SELECT *, row_number() OVER () AS place FROM read_csv({files}, filename = true, all_varchar = true))
  GROUP BY filename"""

_PARQUET = """SELECT {of_file}, list(CAST({column} AS DOUBLE) ORDER BY file_row_number) AS v
  FROM read_parquet({files}, filename = true, file_row_number = true) GROUP BY filename"""

_TASKS = """CREATE OR REPLACE VIEW tasks AS SELECT * EXCLUDE (bundle)
  FROM read_csv({file}, types = {{'param_id': 'VARCHAR', 'seed': 'UBIGINT'}});"""

_SERIES = """CREATE OR REPLACE VIEW {view} AS
  SELECT task.* EXCLUDE (status, job_id, error), unnest(range(len(v))) AS index, unnest(v) AS value
  FROM ({found}) JOIN tasks AS task USING (param_id, seed);"""

_MACRO = """CREATE OR REPLACE MACRO series(name) AS TABLE
  SELECT * FROM query_table('"series ' || replace(name, '"', '""') || '"');"""


def duckdb_views(directory: Path) -> tuple[str, str | None]:
    """Return the statements, and the name of the file that `results` reads; None if it has tasks alone.

    Raises:
        UsageError: if the directory is not that of a download.
    """
    if not (directory / TABLE).is_file():
        hint = f"Download to it first: --download {shlex.quote(str(directory))}"
        raise UsageError(f"invalid directory '{directory}': expected one with a {TABLE}.", hint=hint)
    file = next((name for name in TABLES if (directory / name).is_file()), None)
    statements = [_TASKS.format(file=_path(directory / TABLE))]
    source = "tasks" if file is None else f"{TABLES[file]}({_path(directory / file)})"
    statements.append(f"CREATE OR REPLACE VIEW results AS SELECT * FROM {source};")  # noqa: S608 - a quoted text
    found = dict(_selects(directory))
    for key, name in scalar_names(found, ()).items():
        statements.append(_SERIES.format(view=identifier(f"series {name}"), found=found[key]))
    return "\n".join([*statements, _MACRO, ""]), file


def _selects(directory: Path) -> Iterator[tuple[str, str]]:
    """Yield the keys of series, each with the statement that selects it."""
    for name, path in _examples(directory):
        files = _text(f"{glob.escape(str(directory))}/*/*/{glob.escape(name)}")
        if name.endswith(".json"):
            for pointer in _arrays(path):
                key = f"{name}/{pointer.removeprefix('/')}"
                yield key, _JSON.format(of_file=_OF_FILE, path=_text(pointer), files=files)
        else:
            form = _CSV if name.endswith(".csv") else _PARQUET
            for column in _columns(path):
                yield f"{name}/{step(column)}", form.format(of_file=_OF_FILE, column=identifier(column), files=files)


def _examples(directory: Path) -> Iterator[tuple[str, Path]]:
    """Yield a file of each output that the first tasks have."""
    found: dict[str, Path] = {}
    with (directory / TABLE).open(newline="", encoding="utf-8") as file:
        complete = (row for row in csv.DictReader(file) if row["status"] == "complete")
        for row, _ in zip(complete, range(MAX_TASKS), strict=False):
            place = directory / row["param_id"] / row["seed"]
            for name in sorted(os.listdir(place)) if place.is_dir() else ():
                found.setdefault(name, place / name)
    return ((name, path) for name, path in found.items() if name.endswith((".json", ".csv", ".parquet")))


def _arrays(path: Path) -> Iterable[str]:
    try:
        return list(_walk(read_result(path.read_bytes()), ""))
    except RecordError:
        return []


def _walk(value: object, path: str) -> Iterator[str]:
    """Yield the JSON Pointers of the arrays of numbers in a value."""
    if isinstance(value, dict):
        for name, member in value.items():
            yield from _walk(member, f"{path}/{step(name)}")
    elif isinstance(value, list):
        kinds = {kind_of(one) for one in value if one is not None}
        if kinds and kinds <= {"integer", "unsigned", "number", "boolean"}:
            yield path


def _columns(path: Path) -> list[str]:
    """Return the columns of numbers of an output."""
    with contextlib.suppress(UnicodeError, csv.Error, UsageError):
        if path.suffix == ".csv":
            return list(json.loads(columns_of_csv(path.read_bytes()) or "{}"))
        return numbers_of_parquet(import_package("duckdb", "A Parquet output"), glob.escape(str(path)))
    return []


def _path(path: Path) -> str:
    return _text(glob.escape(str(path)))


def _text(text: str) -> str:
    """Return a text in the quotes of SQL."""
    return "'" + text.replace("'", "''") + "'"

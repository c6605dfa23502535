"""Write tables as CSV, JSON Lines or Parquet, row by row.

Each column knows the kinds of its values beforehand. Whole numbers become floats in a column that has both. So each
reader finds the same type, be it from the first rows alone.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mopsjobs.errors import MopsJobsError, UsageError
from mopsjobs.utils import parquet_script
from mopsjobs.utils.csv_safe import csv_header, csv_text
from mopsjobs.utils.files import atomic_file, translate_write_errors
from mopsjobs.utils.text import last_line

NOT_FINITE = "$not_finite"
"""The member of a JSON object that names its numbers which are not finite, as in results: see engines/worker.py."""

BATCH = 500

GROUP = 5_000

Row = Sequence[object]
Convert = Callable[[Any], object]


START_SECONDS = 60.0


class Interpreter(NamedTuple):
    """An interpreter that the user has chosen, and its environment."""

    path: str
    env: Mapping[str, str]

    def runs(self, statement: str) -> bool:
        """Return whether it runs a statement."""
        try:
            done = subprocess.run(  # noqa: S603 - the user's own choice
                [self.path, "-c", statement], env=dict(self.env), stdin=subprocess.DEVNULL, capture_output=True,
                timeout=START_SECONDS, check=False,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            return False
        return done.returncode == 0

    def feed(self, script: str, documents: Iterable[object]) -> None:
        """Run a script that reads JSON documents, one per line. Its file need not be there for long.

        Raises:
            MopsJobsError: if it fails.
            OSError: if the interpreter cannot be started.
        """
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(  # noqa: S603 - the user's own choice
                [self.path, "-c", Path(script).read_text("utf-8")],
                env=dict(self.env),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
            assert process.stdin is not None  # noqa: S101 - a pipe
            try:
                with contextlib.suppress(BrokenPipeError), process.stdin as lines:
                    for document in documents:
                        lines.write(json.dumps(document).encode() + b"\n")
                is_done = process.wait() == 0
            finally:
                process.kill()  # of no effect if it has ended
                process.wait()
            if not is_done:
                errors.seek(0)
                raise MopsJobsError(f"{self.path} has failed: {last_line(errors.read()).rstrip('.')}.")


class Column(NamedTuple):
    """A column: its name, and the kinds of its values that are not null, as `kind_of` names them."""

    name: str
    kinds: frozenset[str]


def kind_of(value: object) -> str:
    """Return `boolean`, `integer`, `unsigned` (from 2^63 to 2^64), `number`, `text` or `other`.

    Lists, objects and whole numbers outside 64 bits are `other`.
    """
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        if -(2**63) <= value < 2**63:
            return "integer"
        return "unsigned" if 0 <= value < 2**64 else "other"
    if isinstance(value, float):
        return "number"
    return "text" if isinstance(value, str) else "other"


def free_name(name: str, prefix: str, taken: set[str]) -> str:
    """Return a name for a column that no other has: with the prefix as often as it takes. Add it to the taken ones."""
    while name in taken:
        name = f"{prefix}.{name}"
    taken.add(name)
    return name


def is_numeric(kinds: frozenset[str] | set[str]) -> bool:
    """Return whether a column has numbers and nothing else."""
    return bool(kinds) and kinds <= {"integer", "unsigned", "number"}


def form_of(path: str) -> str:
    """Return the form of a table by the name of its file: `csv`, `jsonl` or `parquet`. `-` is CSV.

    Raises:
        UsageError: if the name does not tell.
    """
    form = "csv" if path == "-" else os.path.splitext(path)[1].lower().removeprefix(".")
    if form not in _WRITERS or not path:
        raise UsageError(
            f"invalid table {path!r}: expected a name that ends in .csv, .jsonl or .parquet, or - for CSV on stdout."
        )
    return form


def check_table_file(path: str, others: Iterable[Interpreter] = ()) -> Interpreter | None:
    """Check the name of a table and its directory, before anything is read for it.

    Return the first other interpreter that has pyarrow, if the table needs it and this one does not have it.

    Raises:
        UsageError: if the name has another ending, if its directory does not exist, or if no interpreter has pyarrow.
    """
    form = form_of(path)
    directory = os.path.dirname(path) or "."
    if not os.path.isdir(directory):
        raise UsageError(
            f"invalid table {path!r}: expected a file in a directory that exists.",
            hint=f"Make the directory first: mkdir -p {shlex.quote(directory)}",
        )
    if form != "parquet" or _has_pyarrow():
        return None
    tried = [f"{sys.executable}, which runs mops-jobs"]
    for python in others:
        if python.path != sys.executable:
            if python.runs("import pyarrow.parquet"):
                return python
            tried.append(f"{python.path}, which runs the model")
    where = "there" if len(tried) == 1 else "in one of them"
    raise UsageError(
        f"A table in Parquet needs the package pyarrow, which is not in {', nor in '.join(tried)}.",
        hint=f"Install it {where}, or write .csv or .jsonl.",
    )


def write_table_file(
    path: str, columns: Sequence[Column], rows: Iterable[Row], python: Interpreter | None = None
) -> None:
    """Write a table to a file, whole or not at all. An existing file is replaced.

    Args:
        path: the file.
        columns: the columns.
        rows: the rows.
        python: writes Parquet; None: this interpreter.

    Raises:
        UsageError: if the name does not tell the form.
        MopsJobsError: if the file cannot be written.
    """
    write = functools.partial(_write_parquet, python=python) if form_of(path) == "parquet" else _WRITERS[form_of(path)]
    with translate_write_errors(path), atomic_file(path, 0o666) as part:
        write(part, columns, rows)
        os.replace(part, path)


def csv_pieces(columns: Sequence[Column], rows: Iterable[Row]) -> Iterator[str]:
    """Yield a table as text of CSV. A null is an empty cell without quotes, which no reader takes for a text.

    A column of several kinds has its values in quotes.
    """
    yield csv_header(column.name for column in columns)
    mixed = {place for place, one in enumerate(columns) if len(one.kinds) > 1 and not is_numeric(one.kinds)}
    rows = _convert(rows, _floats(columns))
    while batch := list(itertools.islice(rows, BATCH)):
        yield csv_text(batch, quotes_nulls=False, text_places=mixed)


def json_objects(columns: Sequence[Column], rows: Iterable[Row]) -> Iterator[str]:
    """Yield each row of a table as a JSON object; see `json_row`."""
    names = [column.name for column in columns]
    encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
    return (encode(json_row(names, row)) for row in _convert(rows, _floats(columns)))


def json_row(names: Sequence[str], row: Row) -> dict[str, object]:
    """Return a row as a JSON object, with the names of the columns.

    A number that is not finite is null, and `NOT_FINITE` has its kind: see `real_numbers` of engines/worker.py.
    """
    members = dict(zip(names, row, strict=True))
    odd = {name: one for name, one in members.items() if isinstance(one, float) and not math.isfinite(one)}
    if not odd:
        return members
    kinds = {"/" + name.replace("~", "~0").replace("/", "~1"): str(one) for name, one in odd.items()}
    return {**members, **dict.fromkeys(odd), NOT_FINITE: kinds}


def _floats(columns: Sequence[Column]) -> dict[int, Convert]:
    """Return the places of the columns that have whole numbers and floats."""
    return {place: float for place, one in enumerate(columns) if is_numeric(one.kinds) and "number" in one.kinds}


def _convert(rows: Iterable[Row], converters: Mapping[int, Convert]) -> Iterator[Row]:
    """Yield the rows with other values in some places. Nulls stay."""
    for row in rows:
        changed = list(row)
        for place, convert in converters.items():
            if changed[place] is not None:
                changed[place] = convert(changed[place])
        yield changed


def _write_csv(path: str, columns: Sequence[Column], rows: Iterable[Row]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        file.writelines(csv_pieces(columns, rows))


def _write_jsonl(path: str, columns: Sequence[Column], rows: Iterable[Row]) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.writelines(f"{text}\n" for text in json_objects(columns, rows))


def _write_parquet(
    path: str, columns: Sequence[Column], rows: Iterable[Row], python: Interpreter | None = None
) -> None:
    head, rows = _arrow_columns(columns), iter(rows)
    batches = iter(lambda: list(itertools.islice(rows, GROUP)), [])
    groups = (list(typed_columns(columns, batch).values()) for batch in batches)
    if python is None:
        parquet_script.write(path, head, groups)
    else:
        documents = itertools.chain([{"path": os.path.abspath(path), "columns": head}], groups)
        python.feed(parquet_script.__file__, documents)


def arrow_table(columns: Sequence[Column], rows: Iterable[Row]) -> Any:
    """Return a table of Arrow, with the types that a Parquet file would have.

    Raises:
        UsageError: if this Python has no pyarrow.
    """
    import_package("pyarrow", "A table of Arrow")
    return parquet_script.arrow_table(_arrow_columns(columns), typed_columns(columns, rows).values())


def _arrow_columns(columns: Sequence[Column]) -> list[tuple[str, str]]:
    return [(column.name, type_of(column.kinds)) for column in columns]


def typed_columns(columns: Sequence[Column], rows: Iterable[Row]) -> dict[str, list[Any]]:
    """Return the values of each column, as its type in a Parquet file has them. Nulls stay."""
    converters = [CONVERTERS[type_of(column.kinds)] for column in columns]
    values: list[list[Any]] = [[] for _ in columns]
    for row in rows:
        for column, convert, value in zip(values, converters, row, strict=True):
            column.append(None if value is None else convert(value))
    return {column.name: found for column, found in zip(columns, values, strict=True)}


def type_of(kinds: frozenset[str]) -> str:
    """Return the type of a column: `boolean`, `integer`, `unsigned`, `number` or `text`. Several kinds become texts."""
    if len(kinds) == 1 and kinds <= {"boolean", "integer", "unsigned"}:
        return next(iter(kinds))
    return "number" if is_numeric(kinds) and "number" in kinds else "text"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


CONVERTERS: dict[str, Convert] = {"boolean": bool, "integer": int, "unsigned": int, "number": float, "text": _text}


def identifier(name: str) -> str:
    """Return the name of a column as SQL takes it, whatever its characters."""
    return '"' + name.replace('"', '""') + '"'


def distinct_name(name: str, taken: set[str]) -> str:
    """Return a name that differs from the taken ones in more than the case of its letters. Add it to them."""
    number, found = 1, name
    while found.lower() in taken:
        number += 1
        found = f"{name}_{number}"
    taken.add(found.lower())
    return found


def typed_value(kinds: frozenset[str], value: object) -> object:
    """Return a value that is not null as a column of these kinds has it in a Parquet file."""
    return CONVERTERS[type_of(kinds)](value)


def import_package(name: str, purpose: str, hint: str | None = None) -> Any:
    """Import a package that is not installed with mops-jobs.

    Args:
        name: the package.
        purpose: what needs it, for the error.
        hint: what to do without it.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        return importlib.import_module(name)  # by name: mops-jobs does not depend on it
    except ImportError:
        raise UsageError(
            f"{purpose} needs the package {name.partition('.')[0]} in {sys.executable}, which runs mops-jobs.",
            hint=hint or "Install it there.",
        ) from None


def _has_pyarrow() -> bool:
    with contextlib.suppress(UsageError):
        return bool(import_package("pyarrow.parquet", "Parquet"))
    return False


_WRITERS: dict[str, Callable[[str, Sequence[Column], Iterable[Row]], None]] = {
    "csv": _write_csv,
    "jsonl": _write_jsonl,
    "parquet": _write_parquet,
}

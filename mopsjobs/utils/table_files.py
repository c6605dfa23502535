"""Write tables as CSV, JSON Lines or Parquet, row by row.

Each column knows the kinds of its values beforehand. Whole numbers become floats in a column that has both. So each
reader finds the same type, be it from the first rows alone.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mopsjobs.errors import UsageError
from mopsjobs.utils.csv_safe import csv_header, csv_text
from mopsjobs.utils.files import atomic_file

BATCH = 500
"""Rows of CSV that are written at once."""

GROUP = 5_000
"""Rows of a row group of Parquet."""

Row = Sequence[object]
Convert = Callable[[Any], object]


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
        UsageError: if the name does not tell, or if this Python cannot write Parquet.
    """
    form = "csv" if path == "-" else os.path.splitext(path)[1].lower().removeprefix(".")
    if form not in _WRITERS or not path:
        raise UsageError(
            f"invalid table {path!r}: expected a name that ends in .csv, .jsonl or .parquet, or - for CSV on stdout"
        )
    if form == "parquet":
        _import_pyarrow()
    return form


def write_table_file(path: str, columns: Sequence[Column], rows: Iterable[Row]) -> None:
    """Write a table to a file, whole or not at all. An existing file is replaced.

    Raises:
        UsageError: if the name does not tell the form, or if this Python cannot write Parquet.
        OSError: if the file cannot be written.
    """
    write = _WRITERS[form_of(path)]
    with atomic_file(path, 0o666) as part:
        write(part, columns, rows)
        os.replace(part, path)


def csv_pieces(columns: Sequence[Column], rows: Iterable[Row]) -> Iterator[str]:
    """Yield a table as text of CSV. A null is an empty cell without quotes, which no reader takes for a text.

    A column of several kinds has texts, in quotes.
    """
    yield csv_header(column.name for column in columns)
    mixed = {place: _text for place, one in enumerate(columns) if len(one.kinds) > 1 and not is_numeric(one.kinds)}
    rows = _convert(rows, mixed | _floats(columns))
    while batch := list(itertools.islice(rows, BATCH)):
        yield csv_text(batch, quotes_nulls=False)


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
    names = [column.name for column in columns]
    encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
    with open(path, "w", encoding="ascii") as file:
        converted = _convert(rows, _floats(columns))
        file.writelines(encode(dict(zip(names, row, strict=True))) + "\n" for row in converted)


def _write_parquet(path: str, columns: Sequence[Column], rows: Iterable[Row]) -> None:
    pyarrow, parquet = _import_pyarrow()
    types = [_parquet_type(pyarrow, column.kinds) for column in columns]
    schema = pyarrow.schema([(column.name, kind) for column, (kind, _) in zip(columns, types, strict=True)])
    rows = iter(rows)
    with contextlib.closing(parquet.ParquetWriter(path, schema)) as writer:
        while batch := list(itertools.islice(rows, GROUP)):
            arrays = [
                pyarrow.array([None if value is None else convert(value) for value in values], type=kind)
                for values, (kind, convert) in zip(zip(*batch, strict=True), types, strict=True)
            ]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))


def _parquet_type(pyarrow: Any, kinds: frozenset[str]) -> tuple[Any, Convert]:
    """Return the type of a column, and what makes its values. A column of several kinds has texts."""
    if kinds == {"boolean"}:
        return pyarrow.bool_(), bool
    if kinds == {"integer"}:
        return pyarrow.int64(), int
    if kinds == {"unsigned"}:
        return pyarrow.uint64(), int
    if is_numeric(kinds) and "number" in kinds:
        return pyarrow.float64(), float
    return pyarrow.string(), _text


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _import_pyarrow() -> tuple[Any, Any]:
    try:
        # By name: it is not installed with mops-jobs, and larger than all of it.
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UsageError(
            f"A table in Parquet needs the package pyarrow in {sys.executable}, which runs mops-jobs.",
            hint="Install it there, or write .csv or .jsonl.",
        ) from None


_WRITERS: dict[str, Callable[[str, Sequence[Column], Iterable[Row]], None]] = {
    "csv": _write_csv,
    "jsonl": _write_jsonl,
    "parquet": _write_parquet,
}

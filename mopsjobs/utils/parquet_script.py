"""Write a table as Parquet, in this interpreter or as a script in another one that has pyarrow.

Like engines/worker.py, the script may be started by a Python as old as 3.8, and imports nothing of mops-jobs. The first
line of its input is `{"path": PATH, "columns": [[NAME, TYPE], ...]}`. Each further line has the values of some rows: a
list per column.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

TYPES = {"boolean": "bool_", "integer": "int64", "unsigned": "uint64", "number": "float64", "text": "string"}
"""The functions of pyarrow by the types of columns."""


def arrow_table(columns: Sequence[Sequence[str]], values: Iterable[Sequence[object]]) -> Any:
    """Return a table of Arrow.

    Args:
        columns: name and type of each column.
        values: the values of each.
    """
    pyarrow = importlib.import_module("pyarrow")  # by name: mops-jobs does not depend on it
    schema = _schema(columns)
    return pyarrow.Table.from_arrays(
        [pyarrow.array(of_column, type=field.type) for of_column, field in zip(values, schema)],  # noqa: B905 - Python 3.8
        schema=schema,
    )


def write(path: str, columns: Sequence[Sequence[str]], groups: Iterable[Iterable[Sequence[object]]]) -> None:
    """Write a file, with a row group for each group of rows."""
    parquet = importlib.import_module("pyarrow.parquet")
    with parquet.ParquetWriter(path, _schema(columns)) as writer:
        for values in groups:
            writer.write_table(arrow_table(columns, values))


def _schema(columns: Sequence[Sequence[str]]) -> Any:
    pyarrow = importlib.import_module("pyarrow")
    return pyarrow.schema([(name, getattr(pyarrow, TYPES[kind])()) for name, kind in columns])


def main() -> None:
    """Write the table that comes in."""
    head = json.loads(sys.stdin.readline())
    write(head["path"], head["columns"], map(json.loads, sys.stdin))


if __name__ == "__main__":
    main()

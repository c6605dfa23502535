"""A table: rows as dicts, or as a frame of pandas, polars or Arrow, or as a file."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from mopsjobs.api.arguments import require
from mopsjobs.errors import UsageError
from mopsjobs.utils.table_files import (
    Column,
    Row,
    arrow_table,
    check_table_file,
    import_package,
    kind_of,
    type_of,
    typed_columns,
    write_table_file,
)
from mopsjobs.utils.written_tables import note_table

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]
    import polars as pl

    from mopsjobs.app.tasks.contrasts import ContrastChoice
    from mopsjobs.app.tasks.result_sets import SetChoice

T = TypeVar("T")

SHOWN_ROWS = 10
"""Rows that a notebook shows."""

_INSTALL = "Install it there, or use to_csv()."

_WITH_NULLS = {"boolean": "boolean", "integer": "Int64", "unsigned": "UInt64"}
"""The types of pandas for columns with nulls, which would become floats and lose digits."""

_OF_PANDAS = {"boolean": "bool", "integer": "int64", "unsigned": "uint64", "number": "float64", "text": None}
"""None: as pandas reads texts, which depends on its version."""

_OF_POLARS = {"boolean": "Boolean", "integer": "Int64", "unsigned": "UInt64", "number": "Float64", "text": "String"}


class ReadRows(Protocol):
    """Calls a view with the columns and the rows of a table, and returns its result. It may call it twice."""

    def __call__(self, view: Callable[[Sequence[Column], Iterable[Row]], T]) -> T:
        """Read the table."""


class Table:
    """A table with typed columns. As a list of dicts, it yields its rows, and takes `len(table)` and `table[:5]`.

    Rows are read when they are first needed, and then kept. `to_csv` and `to_parquet` hold a few thousand rows only,
    unless the rows are kept already. Numbers, texts and truth values are as `results --table` writes them.
    """

    def __init__(self, title: str, read: ReadRows, *, age: str = "live") -> None:
        """Prepare the table; nothing is read yet."""
        self._title = title
        self.age: str = age
        """How old the data is, in words."""
        self.notes: list[str] = []
        """What its numbers leave out, and how sure their order is, as sentences."""
        self._read = read
        self._held: tuple[list[Column], list[list[object]]] | None = None

    @classmethod
    def of(cls, title: str, names: Sequence[str], rows: Iterable[Row], *, age: str = "live") -> Table:
        """Return a table of rows at hand. The values tell the types of its columns."""
        held = [list(row) for row in rows]
        kinds: list[set[str]] = [set() for _ in names]
        for row in held:
            for found, value in zip(kinds, row, strict=True):
                if value is not None:
                    found.add(kind_of(value))
        columns = [Column(name, frozenset(found)) for name, found in zip(names, kinds, strict=True)]
        return cls.held(title, columns, held, age=age)

    @classmethod
    def held(
        cls, title: str, columns: Sequence[Column], rows: Iterable[Row], *, age: str, notes: Sequence[str] = ()
    ) -> Table:
        """Return a table of rows at hand, whose columns are known."""
        held = [list(row) for row in rows]

        def read(view: Callable[[Sequence[Column], Iterable[Row]], T]) -> T:
            return view(columns, held)

        table = cls(title, read, age=age)
        table.notes = list(notes)
        return table

    @property
    def columns(self) -> list[str]:
        """Return the names of the columns."""
        return [column.name for column in self._load()[0]]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Return all rows, each by the names of its columns."""
        return list(self)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        names, (_, rows) = self.columns, self._load()
        return (dict(zip(names, row, strict=True)) for row in rows)

    def __len__(self) -> int:
        return len(self._load()[1])

    @overload
    def __getitem__(self, place: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, place: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, place: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        names, (_, rows) = self.columns, self._load()
        if isinstance(place, slice):
            return [dict(zip(names, row, strict=True)) for row in rows[place]]
        return dict(zip(names, rows[place], strict=True))

    def to_pandas(self) -> pd.DataFrame:
        """Return a `pandas.DataFrame`. Whole numbers and truth values with nulls have nullable types.

        Raises:
            UsageError: if pandas is not installed.
        """
        pandas = import_package("pandas", "to_pandas()", _INSTALL)
        columns, rows = self._load()
        values = typed_columns(columns, rows)
        return pandas.DataFrame(
            {
                column.name: pandas.Series(values[column.name], dtype=_pandas_type(column, values[column.name]))
                for column in columns
            }
        )

    def to_polars(self) -> pl.DataFrame:
        """Return a `polars.DataFrame`.

        Raises:
            UsageError: if polars is not installed.
        """
        polars = import_package("polars", "to_polars()", _INSTALL)
        columns, rows = self._load()
        schema = {column.name: getattr(polars, _OF_POLARS[type_of(column.kinds)]) for column in columns}
        frame: pl.DataFrame = polars.DataFrame(typed_columns(columns, rows), schema=schema)
        return frame

    def to_arrow(self) -> Any:  # pyarrow tells no types
        """Return a `pyarrow.Table`.

        Raises:
            UsageError: if pyarrow is not installed.
        """
        return arrow_table(*self._load())

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a file that ends in `.csv`, whole or not at all. An existing one is replaced.

        Raises:
            UsageError: if the name does not end in `.csv`, or if its directory does not exist.
            MopsJobsError: if the file cannot be written.
        """
        self._write(path, "csv")

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write a file that ends in `.parquet`, whole or not at all. An existing one is replaced.

        Raises:
            UsageError: if the name does not end in `.parquet`, if its directory does not exist, or if pyarrow is not
                installed.
            MopsJobsError: if the file cannot be written.
        """
        self._write(path, "parquet")

    def _write(self, path: str | os.PathLike[str], form: str) -> None:
        name = os.fspath(path)
        if not name.lower().endswith(f".{form}"):
            raise UsageError(f"invalid table {name!r}: expected a name that ends in .{form}.")
        check_table_file(name)

        def view(columns: Sequence[Column], rows: Iterable[Row]) -> None:
            write_table_file(name, columns, rows)
            note_table(name, os.environ)

        if self._held is None:
            self._read(view)
        else:
            view(*self._held)

    def _load(self) -> tuple[list[Column], list[list[object]]]:
        if self._held is None:
            self._held = self._read(lambda columns, rows: (list(columns), [list(row) for row in rows]))
        return self._held

    def __repr__(self) -> str:
        return f"<Table of {self._title}>" if self._held is None else f"<Table of {self._title}: {len(self):,} rows>"

    def _repr_html_(self) -> str:
        columns, rows = self._load()
        head = "".join(f"<th>{html.escape(column.name)}</th>" for column in columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in row) + "</tr>" for row in rows[:SHOWN_ROWS]
        )
        count = f"{len(rows):,} rows" + (f", the first {SHOWN_ROWS} shown" if len(rows) > SHOWN_ROWS else "")
        count = " ".join([f"{count}; data: {html.escape(self.age)}.", *map(html.escape, self.notes)])
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{count}</p>"


class Results(Table):
    """The table of results of a job: a `Table` with a row per task, and the tables of its parameter sets."""

    def __init__(
        self,
        title: str,
        read: ReadRows,
        read_sets: Callable[[SetChoice], Table],
        read_contrast: Callable[[ContrastChoice, Sequence[str]], dict[str, Any]],
        *,
        age: str,
    ) -> None:
        """Prepare the table; nothing is read yet."""
        super().__init__(title, read, age=age)
        self._read_sets = read_sets
        self._read_contrast = read_contrast

    def sets(self, *, sort: str | None = None, limit: int = 0) -> Table:
        """Return a row per parameter set: how its tasks ended, and of each number its mean and its spread.

        The columns are those of `results --by set --table`. A task that repeats an earlier one is not counted.

        Args:
            sort: a result, for its mean, or a column; `-` in front for descending. None for the order of the study.
            limit: how many rows, 0 for all.

        Raises:
            UsageError: if the job has no such result or column.
            StoreError: if the registry cannot be read; offline, if the cache has no results of the job.
        """
        from mopsjobs.app.tasks.result_sets import SetChoice

        return self._read_sets(SetChoice(sort=sort, limit=limit))

    def best(self, result: str, limit: int = 10) -> Table:
        """Return the parameter sets with the lowest mean of a result, the best first.

        Its column `may_be_best` is true if the confidence interval of a set overlaps that of the first. It is None
        without an interval. `notes` say how sure the order is, and what the means leave out.

        Args:
            result: the result, like `loss`. With `-` in front, the highest mean is the best.
            limit: how many rows, 0 for all.

        Raises:
            UsageError: if the job has no such result.
            StoreError: if the registry cannot be read; offline, if the cache has no results of the job.
        """
        from mopsjobs.app.tasks.result_sets import SetChoice

        return self._read_sets(SetChoice(best=result, limit=limit))

    def contrast(self, contrast: str, *others: str) -> dict[str, Any]:
        """Return by how much results differ between two values of a parameter or label, or between two jobs.

        It is the document of `results --contrast --json` with all pairs of sets. Sets are paired by all other
        parameters, and replicates by seed if both sides have the same seeds. Else they are independent (Welch 1947).

        Args:
            contrast: `NAME=FIRST,SECOND`, like `scenario=base,vaccine`: the second minus the first. The name `job` is
                for two jobs.
            others: the ids of further jobs, whose results are compared too.

        Raises:
            UsageError: if the contrast is malformed, or if no two parameter sets differ in this alone.
            StoreError: if the registry cannot be read; offline, if the cache has no results of a job.
        """
        from mopsjobs.app.tasks.contrasts import parse_contrast

        require(isinstance(contrast, str), "contrast", contrast, "a text like 'scenario=base,vaccine'")
        return self._read_contrast(parse_contrast(contrast), others)


def table_of_dicts(title: str, names: Sequence[str], items: Iterable[Mapping[str, Any]], *, age: str) -> Table:
    """Return a table of JSON objects that have these members."""
    return Table.of(title, names, ([item[name] for name in names] for item in items), age=age)


class Failures(dict[str, Any]):
    """The failed tasks of a job by their errors, as `failures --json` has them. A notebook shows them as a table."""

    @property
    def table(self) -> Table:
        """Return a row per error: its tasks, type, message and place, and the condition that most of them meet."""
        names = ("count", "type", "message", "where", "tasks", "condition")
        rows = []
        for group in self["groups"]:
            tasks = ", ".join(map(str, group["tasks"]))
            condition = next((one["condition"] for one in group["separates"]), None)
            rows.append([*(group[name] for name in names[:4]), tasks, condition])
        return Table.of("failures", names, rows, age=f"synced {self['synced_at'] or 'never'}")

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


def _pandas_type(column: Column, values: Sequence[object]) -> str | None:
    kind = type_of(column.kinds)
    return _WITH_NULLS.get(kind, _OF_PANDAS[kind]) if None in values else _OF_PANDAS[kind]


def _cell(value: object) -> str:
    return "" if value is None else html.escape(str(value))

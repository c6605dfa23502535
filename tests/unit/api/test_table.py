"""Tables of a Python program. Tests with pandas, polars and Arrow run where these are installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.parquet
import pytest

from mopsjobs.api.table import Table
from mopsjobs.errors import MopsJobsError, UsageError

NAMES = ("task", "seed", "ok", "peak", "note", "mixed")
ROWS: list[list[object]] = [
    [0, 2**64 - 1, True, 1, "a <b>", 1],
    [1, 2**63, None, 2.5, None, "x"],
    [None, 2**63, False, None, "", True],
]


@pytest.fixture
def table() -> Table:
    """Return a table with a column of each kind."""
    return Table.of("a test", NAMES, ROWS)


def test_rows_are_dicts(table: Table) -> None:
    """Rows can be iterated, counted and picked."""
    assert table.columns == list(NAMES)
    assert table.rows == [dict(zip(NAMES, row, strict=True)) for row in ROWS]
    assert len(table) == 3
    assert table[-1]["seed"] == 2**63
    assert table[1:] == table.rows[1:]


def test_html_is_escaped(table: Table) -> None:
    """A notebook shows texts of models, which may hold any characters."""
    shown = table._repr_html_()
    assert "a &lt;b&gt;" in shown
    assert "3 rows; data: live" in shown


def test_a_csv_file_is_written(table: Table, tmp_path: Path) -> None:
    """Nulls are empty cells without quotes; numbers of a column have one type."""
    table.to_csv(tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().splitlines() == [
        '"task","seed","ok","peak","note","mixed"',
        '0,18446744073709551615,true,1.0,"a <b>","1"',
        '1,9223372036854775808,,2.5,,"x"',
        ',9223372036854775808,false,,"","true"',
    ]


@pytest.mark.parametrize("name", ["out.parquet", "-"])
def test_the_name_tells_the_form(table: Table, name: str) -> None:
    """A file of another name than its form would mislead every reader."""
    with pytest.raises(UsageError, match=rf"invalid table '{name}': expected a name that ends in \.csv\."):
        table.to_csv(name)


def test_a_file_that_cannot_be_written_is_named(table: Table, tmp_path: Path) -> None:
    """So is what the system says. The directory is looked at first."""
    with pytest.raises(UsageError, match=r"invalid table '.*none/out\.csv': expected a file in a dir"):
        table.to_csv(tmp_path / "none" / "out.csv")
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(MopsJobsError, match=r"Cannot write .*/out\.csv: Is a directory"):
        table.to_csv(tmp_path / "out.csv")


@pytest.mark.parametrize("method", ["pandas", "polars", "arrow"])
def test_a_missing_library_is_named(table: Table, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence names the package and the Python, and the hint says what works without it."""
    package = "pyarrow" if method == "arrow" else method
    monkeypatch.setitem(sys.modules, package, None)  # an import of it fails
    with pytest.raises(UsageError, match=rf"needs the package {package} in .*, which runs mops-jobs\."):
        getattr(table, f"to_{method}")()


def test_a_frame_of_pandas_keeps_every_digit(table: Table) -> None:
    """Columns with nulls have nullable types: a seed of 64 bits never becomes a float."""
    frame = table.to_pandas()
    assert [str(kind) for kind in frame.dtypes][:4] == ["Int64", "uint64", "boolean", "float64"]
    assert frame["seed"].tolist() == [2**64 - 1, 2**63, 2**63]
    assert frame["mixed"].tolist() == ["1", "x", "true"]
    assert frame["task"].isna().tolist() == [False, False, True]


def test_a_frame_of_polars_has_types(table: Table) -> None:
    """So has one whose column has nothing but nulls."""
    frame = table.to_polars()
    assert [str(kind) for kind in frame.dtypes] == ["Int64", "UInt64", "Boolean", "Float64", "String", "String"]
    assert frame["seed"].to_list() == [2**64 - 1, 2**63, 2**63]
    assert str(Table.of("a test", ("x",), [[None]]).to_polars().dtypes[0]) == "String"


def test_a_table_of_arrow_and_a_parquet_file_agree(table: Table, tmp_path: Path) -> None:
    """Both have the types of `results --table`."""
    table.to_parquet(tmp_path / "out.parquet")
    found = table.to_arrow()
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet").equals(found)
    assert found["task"].to_pylist() == [0, 1, None]

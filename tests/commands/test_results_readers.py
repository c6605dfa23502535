"""`results --table`, read by pandas, polars and duckdb."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import polars as pl
import pytest

from mopsjobs.studies.outputs import output_key
from support.ledgers import Ledger, add_job, attempt

if TYPE_CHECKING:
    from pathlib import Path

    from mopsjobs.registry.job_registry import JobRegistry
    from support.cli import Cli

RESULTS = [
    {"peak": 1, "ok": True, "note": 'a "quoted", text\nof two lines', "mixed": 1, "count": 2**53, "only": None},
    {"peak": 2.5, "ok": False, "note": "", "mixed": "x", "count": -3},
    {"peak": 1e300, "note": "é ß 漢", "mixed": True, "count": 0, "rare": 1e-9},
]


def _plain(value: Any) -> Any:
    """Return a value without the readers' own forms of nothing. In CSV, an empty text is one too."""
    if value is None or value == "" or value is pd.NA:
        return None
    if isinstance(value, float) and math.isnan(value):
        return None
    return value.item() if hasattr(value, "item") else value


def _rows(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    names = list(columns)
    return [dict(zip(names, map(_plain, row), strict=True)) for row in zip(*columns.values(), strict=True)]


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a table as each reader finds them."""
    form = path.suffix.removeprefix(".")
    if form == "csv":
        frames = pd.read_csv(path), pl.read_csv(path)
    elif form == "jsonl":
        frames = pd.read_json(path, lines=True, dtype=False, precise_float=True), pl.read_ndjson(path)
    else:
        frames = pd.read_parquet(path), pl.read_parquet(path)
    found = duckdb.sql(f"SELECT * FROM '{path}'")
    names = found.columns
    return {
        "pandas": _rows({name: frames[0][name].tolist() for name in frames[0].columns}),
        "polars": _rows(frames[1].to_dict(as_series=False)),
        "duckdb": [dict(zip(names, map(_plain, row), strict=True)) for row in found.fetchall()],
    }


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_pandas_polars_and_duckdb_read_a_table_equal(cli: Cli, jobs: JobRegistry, tmp_path: Path, form: str) -> None:
    """With a parameter named status, truth values, missing values, and integers among floats after 200 rows."""
    sets = [{"status": number % 3, "rate": 1 if number < 200 else 0.5, "name": f"n{number}"} for number in range(250)]
    manifest = add_job(jobs, "job", sets)
    Ledger(jobs.store)(*(attempt(number) for number in range(249)))
    for task in manifest.study.tasks():
        if task.number < 249:
            value = dict(RESULTS[task.number % 3])
            if form == "jsonl":
                value.pop("mixed")  # no reader of JSON takes several types in a column
            jobs.store.create_if_absent(output_key("job", task, "result.json"), json.dumps(value).encode())
    path = tmp_path / f"out.{form}"
    cli.ok("results", "job", "--table", str(path))
    found = _read(path)
    assert found["pandas"] == found["polars"]
    assert found["duckdb"] == found["polars"]
    first, last = found["polars"][0], found["polars"][-1]
    task = next(iter(manifest.study.tasks()))
    assert (first["params.status"], first["status"], first["seed"]) == (0, "succeeded", task.seed)
    assert (first["note"], first["ok"], first["peak"], first["count"]) == (RESULTS[0]["note"], True, 1.0, 2**53)
    assert (last["status"], last["peak"], last["rate"]) == ("waiting", None, 0.5)
    if form != "jsonl":
        assert [row["mixed"] for row in found["polars"][:3]] == ["1", "x", "true"]

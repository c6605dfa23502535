"""`results --sql`: SQL over the results of jobs, in DuckDB or SQLite, and over the series of their outputs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from mopsjobs.app.tasks import series as series_module
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.base import Entry, Versioned, VersionedStore
from mopsjobs.store.fetcher import FailedRead, ParallelFetcher
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.outputs import output_key
from support.cli import Cli
from support.ledgers import Ledger, add_job, attempt, leave_output, leave_scalars, run_task


@pytest.fixture(params=["duckdb", "sqlite"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the command with DuckDB in its interpreter, and without it."""
    if request.param == "sqlite":
        monkeypatch.setitem(sys.modules, "duckdb", None)
    return str(request.param)


def ask(cli: Cli, sql: str, *argv: str) -> dict[str, Any]:
    """Return what a query of the job prints as JSON."""
    document: dict[str, Any] = json.loads(cli.ok("results", "job", "--sql", sql, "--json", *argv).out)
    return document


def three_tasks(jobs: JobRegistry) -> Manifest:
    """Add a job of which the third task failed, and the second has no peak."""
    manifest = add_job(jobs, "job", [{"r0": 1.5, "mode": "x"}, {"r0": 1.5, "mode": "y"}, {"r0": 2.5, "mode": "x"}])
    Ledger(jobs.store)(attempt(0), attempt(1), attempt(2, "failed"))
    leave_scalars(jobs, "job", {0: {"peak": 10, "ok": True, "infected": [1, 2.5]}, 1: {"day": 3}})
    return manifest


def test_numbers_that_are_not_finite_stay_what_they_are(cli: Cli, jobs: JobRegistry, engine: str) -> None:
    """SQLite takes NaN for null. The answer counts them, since avg() does not say so."""
    add_job(jobs, "job", [{"x": 1}, {"x": 2}, {"x": 3}], attempts=map(attempt, range(3)))
    leave_scalars(jobs, "job", {0: {"loss": math.nan}, 1: {"loss": -math.inf}, 2: {"loss": 0.5}})
    found = ask(cli, "SELECT loss FROM results ORDER BY task")
    nan = {"loss": None, "$not_finite": {"/loss": "nan"}} if engine == "duckdb" else {"loss": None}
    assert found["rows"] == [nan, {"loss": None, "$not_finite": {"/loss": "-inf"}}, {"loss": 0.5}]
    assert (found["not_finite"], found["lacking"]) == ({"loss": 2}, {})
    ran = cli.ok("results", "job", "--sql", "SELECT loss FROM results ORDER BY task", "--csv")
    assert ran.out == '"loss"\n""\n""\n0.5\n'
    assert "2 of 3 succeeded tasks have NaN or an infinity as loss: " in ran.err
    if engine == "duckdb":
        assert ask(cli, "SELECT avg(loss) AS m FROM results WHERE isfinite(loss)")["rows"] == [{"m": 0.5}]


def test_a_series_has_numbers_that_are_not_finite(cli: Cli, jobs: JobRegistry) -> None:
    """As a worker marks them, and as Python and numpy write them. A null is none."""
    manifest = add_job(jobs, "job", [{"x": 1}, {"x": 2}], attempts=[attempt(0), attempt(1)])
    marked = b'{"$not_finite": {"/day/1": "nan"}, "day": [0.5, null, null]}'
    for task, value in zip(manifest.study.tasks(), (marked, b'{"day": [-Infinity, NaN]}'), strict=True):
        jobs.store.create_if_absent(output_key("job", task, "result.json"), value)
    found = ask(cli, "SELECT x, count(value) AS n, min(value) AS low FROM series('day') GROUP BY x ORDER BY x")
    assert [(row["n"], row["low"]) for row in found["rows"]] == [(2, 0.5), (2, None)]
    assert found["rows"][1]["$not_finite"] == {"/low": "-inf"}


# --- the table ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("engine")
def test_sql_groups_tasks_by_parameters_and_averages_scalars(cli: Cli, jobs: JobRegistry) -> None:
    """The answer says which tasks have no values, and how many bytes it read. No output is there to be read."""
    three_tasks(jobs)
    sql = "SELECT r0, avg(peak) AS peak, count(*) AS n FROM results GROUP BY r0 ORDER BY r0"
    found = ask(cli, sql)
    assert found["rows"] == [{"r0": 1.5, "peak": 10, "n": 2}, {"r0": 2.5, "peak": None, "n": 1}]
    assert (found["tasks"], found["lacking"]) == ({"succeeded": 2, "failed": 1}, {"peak": 1})
    assert 0 < found["bytes_read"] < 1000
    ran = cli.ok("results", "job", "--sql", sql, "--csv")
    assert ran.out.splitlines()[0] == '"r0","peak","n"'
    assert "1 of 3 tasks has no values: 1 failed." in ran.err
    assert "1 of 2 succeeded tasks has no peak." in ran.err
    assert " of scalars." in ran.err


@pytest.mark.usefixtures("engine")
def test_sql_finds_the_columns_of_the_table_of_results(cli: Cli, jobs: JobRegistry) -> None:
    """Names that differ in the case of letters alone, which SQL would take for one, get a number."""
    run_task(jobs, [{"R0": 1, "x": [1, {"a": None}], "big": 2**63}], r0=2.5, fit={"error": 1}, ok=False)
    (row,) = ask(cli, "SELECT * FROM results")["rows"]
    assert list(row) == [
        "job_id", "task", "param_id", "R0", "x", "big", "seed", "status", "seconds", "error", "fit.error", "ok", "r0_2",
    ]  # fmt: skip
    assert (row["R0"], row["x"], row["r0_2"], row["fit.error"]) == (1, '[1,{"a":null}]', 2.5, 1)
    assert int(row["big"]) == 2**63
    assert not row["ok"]


# --- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM results", "SELECT 1; SELECT 2", "SELECT peek FROM results", "", "ATTACH '/tmp/x.db'",
        "SELECT * FROM read_csv('/etc/passwd')", "COPY (SELECT 1) TO '/tmp/x.csv'", "SELEC 1",
    ],
)  # fmt: skip
@pytest.mark.usefixtures("engine")
def test_sql_reads_the_table_alone(cli: Cli, jobs: JobRegistry, sql: str) -> None:
    """Neither files nor other statements. The error lists the columns."""
    three_tasks(jobs)
    said = cli.fails(2, "results", "job", "--sql", sql)
    assert "The columns of results are job_id, task, param_id, r0, mode, seed," in " ".join(said.split())


def test_duckdb_is_interrupted_after_the_limit_of_time(cli: Cli, jobs: JobRegistry) -> None:
    three_tasks(jobs)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    ran = cli("results", "job", "--sql", endless, "--timeout", "0.2s")
    assert (ran.code, "takes longer than 0.2 s" in ran.err) == (2, True)


# --- series ---------------------------------------------------------------------------------------------------------

LONG = "SELECT task, r0, index, value FROM series('{}') ORDER BY ALL"


def rows(document: dict[str, Any]) -> list[list[object]]:
    return [[row[name] for name in document["columns"]] for row in document["rows"]]


def test_an_array_of_numbers_is_a_long_table(cli: Cli, jobs: JobRegistry) -> None:
    """Each task has its parameters, an index from 0, and a value. Its name is short, or the whole key."""
    manifest = three_tasks(jobs)
    leave_output(jobs, manifest, 0, peak=10, infected=[1, 2.5], fit={"trace": [True, None]}, note=["x"])
    leave_output(jobs, manifest, 1, infected=[7], empty=[])
    found = ask(cli, LONG.format("infected"))
    assert rows(found) == [[0, 1.5, 0, 1.0], [0, 1.5, 1, 2.5], [1, 1.5, 0, 7.0]]
    assert found["lacking"] == {}
    found = ask(cli, LONG.format("result.json/fit/trace"))
    assert rows(found) == [[0, 1.5, 0, 1.0], [0, 1.5, 1, None]]
    assert found["lacking"] == {"series result.json/fit/trace": 1}
    ran = cli("results", "job", "--sql", "FROM series('infcted')")
    assert (ran.code, "Did you mean 'infected'?" in ran.err) == (2, True)
    assert "note" not in ran.err


def test_parameters_with_names_of_a_series_stand_beside_its_columns(cli: Cli, jobs: JobRegistry) -> None:
    run_task(jobs, [{"index": 7, "value": "x", "task": 8, 'a"b': 9}], infected=[0.5])
    (row,) = ask(cli, "SELECT * EXCLUDE (job_id, param_id, seed) FROM series('infected')")["rows"]
    assert row == {
        "task": 0,
        "params.index": 7,
        "params.value": "x",
        "params.task": 8,
        'a"b': 9,
        "index": 0,
        "value": 0.5,
    }


def test_columns_of_csv_and_parquet_are_series(cli: Cli, jobs: JobRegistry, tmp_path: Path) -> None:
    """A row is a place. Cells that are not numbers are null, and columns of texts are left out."""
    manifest = add_job(jobs, "job", [{"r0": 1}], outputs=["daily.csv", "week.parquet"], attempts=[attempt(0)])
    (task,) = manifest.study.tasks()
    csv = b'day,infected,place\r\n0,1e2,"a,b"\r\n1,,c\r\n2,nan,d\r\n'
    pd.DataFrame({"dead": [1, 2], "week": ["a", "b"]}).to_parquet(tmp_path / "week.parquet")
    for name, value in (("daily.csv", csv), ("week.parquet", (tmp_path / "week.parquet").read_bytes())):
        jobs.store.create_if_absent(output_key("job", task, name), value)
    assert rows(ask(cli, LONG.format("infected"))) == [[0, 1, 0, 100.0], [0, 1, 1, None], [0, 1, 2, None]]
    assert rows(ask(cli, "SELECT count(value) FROM series('infected')")) == [[2]]  # nan is a number, null is none
    assert rows(ask(cli, LONG.format("dead"))) == [[0, 1, 0, 1.0], [0, 1, 1, 2.0]]
    assert "The series are day, infected, dead." in cli("results", "job", "--sql", "FROM series('place')").err


def test_series_are_read_from_columns_the_second_time(cli: Cli, jobs: JobRegistry) -> None:
    """Only the outputs of tasks that have ended since are read. What is gone from the store is still there."""
    manifest = add_job(jobs, "job", [{"r0": 1}, {"r0": 2}])
    write = Ledger(jobs.store)
    write(attempt(0))
    for number in (0, 1):
        leave_output(jobs, manifest, number, infected=[number])
    leave_scalars(jobs, "job", {0: {}})
    assert rows(ask(cli, LONG.format("infected"))) == [[0, 1, 0, 0.0]]  # the other task is at work
    first, second = (output_key("job", task, "result.json") for task in manifest.study.tasks())
    jobs.store.delete(first)
    write(attempt(1))
    leave_scalars(jobs, "job", {1: {}}, number=1)
    cli.clock.advance(seconds=60)
    ran = cli.ok("results", "job", "--sql", LONG.format("infected"), "--tsv")
    assert ran.out == "0\t1\t0\t0.0\n1\t2\t0\t1.0\n"
    assert f"{len(json.dumps({'infected': [1]}))} bytes of outputs, now kept as columns" in ran.err
    jobs.store.delete(second)
    ran = cli.ok("results", "job", "--offline", "--sql", LONG.format("infected"), "--tsv")
    assert ran.out == "0\t1\t0\t0.0\n1\t2\t0\t1.0\n"
    assert "of outputs," not in ran.err


def test_columns_of_jobs_that_were_asked_for_last_are_kept(
    cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a query stay also if they are too large."""
    monkeypatch.setattr(series_module, "MAX_KEPT_BYTES", 0)
    for job_id in ("job", "other"):
        manifest = add_job(jobs, job_id, [{"r0": 1}], attempts=[attempt(0)])
        leave_output(jobs, manifest, 0, infected=[1])
        cli.ok("results", job_id, "--sql", LONG.format("infected"))
    (kept,) = Path(cli.env["MOPS_JOBS_CACHE"]).parent.glob("*-series/*")
    assert kept.name == "other"


@pytest.mark.usefixtures("engine")
def test_query_and_results_have_the_same_table(cli: Cli, jobs: JobRegistry) -> None:
    """`query --job` reads the kept table of SQLite, `results --sql` the chunks: columns and rows are the same."""
    manifest = add_job(
        jobs, "job", [{"R0": 1, "on": True, "mode": "x"}, {"R0": 2.5}, {"R0": 1, "on": True, "mode": "x"}]
    )
    Ledger(jobs.store)(attempt(0), attempt(1, "failed"), attempt(2))
    leave_output(jobs, manifest, 0, r0=2.5, fit={"error": 1}, seed=3, text="ä")
    sql = "SELECT * FROM results ORDER BY task"
    assert "see column repeats" in cli.ok("results", "job", "--sql", sql).err
    found, queried = ask(cli, sql), cli.ok("query", "--job", "job", "--json", sql).json
    assert found["columns"] == queried["columns"]
    assert found["rows"] == queried["rows"]
    assert (found["repeated"], [row["repeats"] for row in found["rows"]]) == (1, [None, None, 0])


def test_a_series_tells_which_tasks_repeat_an_earlier_one(cli: Cli, jobs: JobRegistry) -> None:
    """So a mean over a series leaves them out by the same condition as over `results`."""
    manifest = add_job(jobs, "job", [{"r0": 1}, {"r0": 2}, {"r0": 1}], attempts=map(attempt, range(3)))
    leave_output(jobs, manifest, 0, infected=[1])
    leave_output(jobs, manifest, 1, infected=[4])
    sql = "SELECT count(*), avg(value) FROM series('infected')"
    assert rows(ask(cli, sql)) == [[3, 2.0]]
    assert rows(ask(cli, f"{sql} WHERE repeats IS NULL")) == [[2, 2.5]]


def test_a_family_has_the_series_of_the_job_that_did_the_task(cli: Cli, jobs: JobRegistry) -> None:
    sets = [{"r0": 1}, {"r0": 2}]
    parent = add_job(jobs, "job", sets, status="partial", attempts=[attempt(0), attempt(1, "failed")])
    leave_output(jobs, parent, 0, infected=[1])
    cli.clock.advance(seconds=60)
    child = add_job(jobs, "job.2", sets, only=(1,), attempts=[attempt(1)])
    leave_output(jobs, child, 1, infected=[2])
    ran = cli.ok("results", "job.2", "--tsv", "--sql", "SELECT job_id, r0, value FROM series('infected') ORDER BY ALL")
    assert ran.out == "job\t1\t1.0\njob.2\t2\t2.0\n"


def test_unreadable_outputs_are_named_and_the_others_read(cli: Cli, jobs: JobRegistry) -> None:
    manifest = add_job(jobs, "job", [{"r0": 1}, {"r0": 2}], outputs=["result.json", "week.parquet"])
    Ledger(jobs.store)(attempt(0), attempt(1))
    leave_scalars(jobs, "job", {0: {}, 1: {}})
    leave_output(jobs, manifest, 0, infected=[1])
    task = list(manifest.study.tasks())[1]
    for name in ("result.json", "week.parquet"):
        jobs.store.create_if_absent(output_key("job", task, name), b"{bad")
    ran = cli("results", "job", "--tsv", "--sql", "SELECT r0, value FROM series('infected')")
    assert (ran.code, ran.out) == (7, "1\t1.0\n")
    assert "1 output result.json cannot be read: not JSON." in ran.err
    assert "1 output week.parquet cannot be read: not Parquet." in ran.err


def test_an_output_that_the_store_does_not_send_is_read_by_the_next_query(
    cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = add_job(jobs, "job", [{"r0": 1}, {"r0": 2}], attempts=[attempt(0), attempt(1)], scalars={0: {}, 1: {}})
    for number in (0, 1):
        leave_output(jobs, manifest, number, infected=[number])
    sql = ("results", "job", "--tsv", "--sql", "SELECT r0 FROM series('infected') ORDER BY r0")
    refused = output_key("job", next(manifest.study.tasks()), "result.json")
    scan, fetch = series_module.scan_outputs, ParallelFetcher.fetch_entries

    def scan_without_values(store: VersionedStore, job_id: str) -> Iterator[tuple[tuple[str, str, str], Entry]]:
        return ((parts, entry._replace(value=None)) for parts, entry in scan(store, job_id))

    def fetch_others(self: ParallelFetcher, entries: Sequence[Entry]) -> Iterator[Versioned | FailedRead | None]:
        for entry, found in zip(entries, fetch(self, entries), strict=True):
            yield FailedRead("as asked") if entry.key == refused else found

    monkeypatch.setattr(series_module, "scan_outputs", scan_without_values)
    with monkeypatch.context() as patch:
        patch.setattr(ParallelFetcher, "fetch_entries", fetch_others)
        ran = cli(*sql)
    assert (ran.code, ran.out) == (7, "2\n")
    assert f"{refused} cannot be read: as asked." in ran.err
    assert cli.ok(*sql).out == "1\n2\n"


@pytest.mark.parametrize("version", [None, "1.3.2"])
def test_series_without_a_duckdb_that_is_new_enough_say_so(
    cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch, version: str | None
) -> None:
    """SQLite answers what needs no series."""
    three_tasks(jobs)
    if version is None:
        monkeypatch.setitem(sys.modules, "duckdb", None)
    else:
        monkeypatch.setattr(duckdb, "__version__", version)
    ran = cli("results", "job", "--sql", "FROM series('infected')")
    needs = "needs the package duckdb in " if version is None else "needs DuckDB 1.4 or later: "
    assert (ran.code, f"series('infected') {needs}" in ran.err) == (2, True)
    assert ask(cli, "SELECT count(*) AS n, sqlite_version() AS v FROM results")["rows"][0]["n"] == 3


# --- views of a download --------------------------------------------------------------------------------------------


def test_duckdb_reads_a_downloaded_directory_by_the_printed_views(cli: Cli, jobs: JobRegistry, tmp_path: Path) -> None:
    """The view `results` reads the table that lies there; without one, it has the tasks."""
    manifest = add_job(jobs, "job", [{"r0": 1}, {"r0": 2}])
    Ledger(jobs.store)(attempt(0, output_bytes=None), attempt(1, output_bytes=None))
    for number in (0, 1):
        leave_output(jobs, manifest, number, peak=number)
    out = tmp_path / "o'ut"
    cli.ok("results", "job", "--download", str(out))
    for columns, rows_of_view in (("r0", [(1,), (2,)]), ("r0, peak", [(1, 0), (2, 1)])):
        ran = cli.ok("results", "job", "--duckdb", str(out))
        assert ("results has no scalars. To have them, run `mops-jobs results job --table" in ran.err) is (
            columns == "r0"
        )
        database = duckdb.connect()
        database.execute(ran.out)
        assert database.execute(f"SELECT {columns} FROM results ORDER BY r0").fetchall() == rows_of_view
        cli.ok("results", "job", "--table", str(out / "results.parquet"))


def test_views_of_a_directory_without_a_download_are_refused(cli: Cli, jobs: JobRegistry, tmp_path: Path) -> None:
    add_job(jobs, "job", [{"r0": 1}])
    ran = cli("results", "job", "--duckdb", str(tmp_path))
    assert (ran.code, "expected one with a tasks.csv" in ran.err) == (2, True)

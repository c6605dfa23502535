"""`results --table`: a row per task, per parameter set or per reduction, also offline and of lost outputs."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from typing import TYPE_CHECKING, Any

import duckdb
import polars as pl
import pytest

import mopsjobs
from mopsjobs.cache.sync import scalars as scalars_module
from mopsjobs.cli.commands.view.results import CONTRADICTIONS
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.trust import remember_launch
from mopsjobs.engines.worker import real_numbers
from mopsjobs.errors import StoreUnavailableError
from mopsjobs.ledger.format import chunk_key
from mopsjobs.studies.manifest import Reuse, load_manifest
from mopsjobs.studies.outputs import output_key, results_prefix
from mopsjobs.web.site.kept import read_results
from support.cli import foreign, key
from support.ledgers import (
    BUNDLE,
    Ledger,
    add_job,
    attempt,
    leave_output,
    leave_scalars,
    put_manifest,
    results_table,
    run_task,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mopsjobs.registry.job_registry import JobRegistry
    from mopsjobs.studies.manifest import Manifest
    from support.cli import Cli, Remote


HEADER = ["job_id", "task", "param_id", "seed", "status", "seconds", "error"]


def without(rows: list[dict[str, str]], *names: str) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name not in names} for row in rows]


# --- rows -----------------------------------------------------------------------------------------------------------


def test_each_task_has_a_row_with_parameters_status_and_scalars(cli: Cli, jobs: JobRegistry) -> None:
    """Also of a running job, and of tasks that failed or wait."""
    manifest = add_job(jobs, "job", [{"beta": 0.5}, {"beta": 1.5}, {"beta": 2.5}])
    Ledger(jobs.store)(attempt(0), attempt(1, "failed"))
    leave_output(jobs, manifest, 0, peak=0.25, fit={"error": 1, "ok": True}, series=[1, 2], note="x")
    rows = results_table(cli, "job")
    assert list(rows[0]) == [
        "job_id", "task", "param_id", "beta", "seed", "status", "seconds", "error", "fit.error", "fit.ok", "note",
        "peak",
    ]  # fmt: skip
    seeds = [str(task.seed) for task in manifest.study.tasks()]
    assert without(rows, "param_id", "job_id") == [
        {"task": "0", "beta": "0.5", "seed": seeds[0], "status": "succeeded", "seconds": "2.5", "error": "",
         "fit.error": "1", "fit.ok": "true", "note": "x", "peak": "0.25"},
        {"task": "1", "beta": "1.5", "seed": seeds[1], "status": "failed", "seconds": "2.5",
         "error": "ValueError: beta is 0.93", "fit.error": "", "fit.ok": "", "note": "", "peak": ""},
        {"task": "2", "beta": "2.5", "seed": seeds[2], "status": "waiting", "seconds": "", "error": "",
         "fit.error": "", "fit.ok": "", "note": "", "peak": ""},
    ]  # fmt: skip


def test_a_table_goes_into_a_file(cli: Cli, jobs: JobRegistry, tmp_path: Path) -> None:
    """It replaces an earlier one. JSON Lines keep types, and lists."""
    run_task(jobs, [{"beta": [1, {"a": None}], "gamma": None}], peak=7)
    for name in ("out.csv", "out.csv", "out.jsonl"):
        ran = cli.ok("results", "job", "--table", str(tmp_path / name))
        assert (ran.out, ran.err) == ("", f"1 row in {tmp_path / name}\n")
    (row,) = csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text()))
    assert (row["beta"], row["gamma"], row["peak"]) == ('[1,{"a":null}]', "", "7")
    found = json.loads((tmp_path / "out.jsonl").read_text())
    assert (found["beta"], found["gamma"], found["peak"], found["error"]) == ([1, {"a": None}], None, 7, None)


def test_a_job_without_a_ledger_is_read_by_its_outputs(cli: Cli, jobs: JobRegistry) -> None:
    manifest = add_job(jobs, "job", [{"x": 1}, {"x": 2}], status="partial")
    leave_output(jobs, manifest, 1, peak=3)
    assert [(row["status"], row["peak"]) for row in results_table(cli, "job")] == [("missing", ""), ("succeeded", "3")]


def test_a_family_is_one_table(cli: Cli, jobs: JobRegistry) -> None:
    """Each task has the row of the last job that did it. One that a cancelled child did not try keeps its failure."""
    sets = [{"x": number} for number in range(4)]
    parent = add_job(jobs, "job", sets, status="partial")
    Ledger(jobs.store)(attempt(0), attempt(1, "failed"), attempt(2, "failed"), attempt(3, "failed"))
    leave_output(jobs, parent, 0, peak=0)
    cli.clock.advance(seconds=60)
    child = add_job(jobs, "job.2", sets, only=(1, 2, 3), attempts=[attempt(1), attempt(2, "oom")])
    leave_output(jobs, child, 1, peak=1)
    found = [(row["task"], row["job_id"], row["status"], row["peak"]) for row in results_table(cli, "job.2")]
    assert found == [
        ("0", "job", "succeeded", "0"),
        ("1", "job.2", "succeeded", "1"),
        ("2", "job.2", "oom", ""),
        ("3", "job.2", "waiting", ""),
    ]
    both = [(row["task"], row["job_id"], row["status"], row["peak"]) for row in results_table(cli, "job", "job.2")]
    assert both == found
    assert [row["job_id"] for row in results_table(cli, "job")] == ["job"] * 4
    jobs.update_status("job.2", "cancelled")
    assert [(row["job_id"], row["status"], row["error"]) for row in results_table(cli, "job.2")[2:]] == [
        ("job.2", "oom", ""),
        ("job", "failed", "ValueError: beta is 0.93"),
    ]


@pytest.mark.parametrize("parent", ["@latest", "job", "../job"])
def test_a_record_names_its_parent_by_its_whole_id_alone(cli: Cli, jobs: JobRegistry, parent: str) -> None:
    """Neither `@latest` nor a prefix of ids brings another job into the table, as it does in a command."""
    for job_id in ("job-1", "job-2", "other-1"):
        add_job(jobs, job_id, [{"x": 1}, {"x": 2}])
    put_manifest(jobs.store, "child", [{"x": 1}])
    record = json.loads(foreign("child", created_at="2026-01-01T10:00:00", parent_job_id=parent))
    jobs.store.create_if_absent(key("child"), json.dumps(record).encode())
    assert [row["job_id"] for row in results_table(cli, "child")] == ["child"]


def test_several_jobs_share_a_table(cli: Cli, jobs: JobRegistry) -> None:
    """A parameter or a scalar that one of them lacks is empty there."""
    for job_id, name in (("a", "x"), ("b", "y")):
        manifest = add_job(jobs, job_id, [{name: 1}], attempts=[attempt(0)])
        leave_output(jobs, manifest, 0, **{f"{job_id}_out": 2})
    assert without(results_table(cli, "b", "a"), "param_id", "seed", "seconds", "error", "task", "status") == [
        {"job_id": "b", "x": "", "y": "1", "a_out": "", "b_out": "2"},
        {"job_id": "a", "x": "1", "y": "", "a_out": "2", "b_out": ""},
    ]


# --- names ----------------------------------------------------------------------------------------------------------


def test_names_that_clash_are_prefixed_never_overwritten(cli: Cli, jobs: JobRegistry) -> None:
    params = {"status": "s", "seed": 7, "beta": 0.5, "params.seed": 8}
    others = {"a.b": 4, "params.status": 5}
    manifest = run_task(jobs, [params], outputs=("fit.json",), beta=1, error="e", peak=2, a={"b": 3}, **others)
    leave_output(jobs, manifest, 0, name="fit.json", peak=6, only=7)
    (row,) = results_table(cli, "job")
    expected = {
        "params.status": "s", "params.params.seed": "7", "params.seed": "8", "beta": "0.5", "result.beta": "1",
        "result.error": "e", "peak": "2", "fit.peak": "6", "only": "7", "result.params.status": "5",
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert {row["a.b"], row["result.a.b"]} == {"3", "4"}
    assert row["status"] == "succeeded"


def test_a_parameter_with_the_name_of_a_count_is_prefixed(cli: Cli, jobs: JobRegistry) -> None:
    """As are those that have the name of a column of a table of tasks."""
    run_task(jobs, [{"done": 1, "tasks": 2, "seed": 3}], done=4)
    (row,) = results_table(cli, "job", "--by", "set")
    assert list(row.items())[2:6] == [("params.done", "1"), ("params.tasks", "2"), ("params.seed", "3"), ("tasks", "1")]
    assert row["result.done.mean"] == "4.0"


@pytest.mark.claim("CSV has no formulas")
def test_a_text_like_a_formula_is_made_safe(cli: Cli, jobs: JobRegistry) -> None:
    """As in all CSV of mops-jobs, also in the header."""
    run_task(jobs, [{"=x": "=1+1"}], **{"@y": "-2+3", "n": -2})
    (row,) = results_table(cli, "job")
    assert (row["'=x"], row["'@y"], row["n"]) == ("'=1+1", "'-2+3", "-2")


# --- chunks ---------------------------------------------------------------------------------------------------------


def test_chunks_spare_the_reads_of_outputs(cli: Cli, jobs: JobRegistry) -> None:
    """No output is there to be read. A task that did not succeed has no scalars, whatever a chunk says."""
    add_job(jobs, "job", [{"x": 1}, {"x": 2}], attempts=[attempt(0), attempt(1, "failed")])
    leave_scalars(jobs, "job", {0: {"peak": 1}, 1: {"peak": "x", "other": 2}})
    rows = results_table(cli, "job")
    assert [row["peak"] for row in rows] == ["1", ""]
    assert "other" not in rows[0]


def test_two_chunks_that_differ_leave_it_to_the_outputs(cli: Cli, jobs: JobRegistry) -> None:
    """Two runs of a shard did the task, and the outputs are of the one that came first."""
    manifest = add_job(jobs, "job", [{"x": 1}])
    leave_attempts = Ledger(jobs.store)
    for number, peak in enumerate((1, 2, 1)):
        leave_scalars(jobs, "job", {0: {"peak": peak}}, number=number)
        leave_attempts(attempt(0, attempt=number + 1))
    leave_output(jobs, manifest, 0, peak=3)
    assert [row["peak"] for row in results_table(cli, "job")] == ["3"]


def test_a_chunk_that_cannot_be_read_is_named(cli: Cli, jobs: JobRegistry) -> None:
    """The outputs tell the same."""
    manifest = add_job(jobs, "job", [{"x": 1}], attempts=[attempt(0)])
    key = chunk_key("job", 0, "ab", 0, "scalars")
    jobs.store.create_if_absent(key, b"theirs")
    leave_output(jobs, manifest, 0, peak=3)
    ran = cli.ok("results", "job", "--table", "-")
    assert next(csv.DictReader(io.StringIO(ran.out)))["peak"] == "3"
    assert f"warning: {key} cannot be read (not gzip). The outputs of its tasks were read instead." in " ".join(
        ran.err.split()
    )


def test_what_is_left_out_is_told_once(cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scalars_module, "MAX_KEYS", 2)
    manifest = add_job(jobs, "job", [{"x": 1}, {"x": 2}], attempts=[attempt(0), attempt(1)])
    leave_output(jobs, manifest, 0, long="x" * 2000, a=1, b=2, c=3)
    leave_scalars(jobs, "job", {1: {"long": "x" * 2000, "a": 4}})
    ran = cli.ok("results", "job", "--table", "-")
    rows = list(csv.DictReader(io.StringIO(ran.out)))
    assert [(row["a"], row["b"], "c" in row) for row in rows] == [("1", "2", False), ("4", "", False)]
    assert "2 values of outputs left out: " in ran.err
    assert "more than 2,000 different values" in ran.err


# --- a registry across a network -------------------------------------------------------------------------------------


def _submitted(remote: Remote, number: int = 3) -> Manifest:
    manifest = add_job(remote.jobs, "job", [{"x": one} for one in range(number)])
    Ledger(remote.store.inner)(*(attempt(one) for one in range(number)))
    for one in range(number):
        leave_output(remote.jobs, manifest, one, peak=one)
    return manifest


def test_an_output_that_the_store_does_not_send_is_named(
    cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task has a row without results, and the exit code is 7."""
    manifest = _submitted(remote)
    key = output_key("job", next(iter(manifest.study.tasks())), "result.json")
    get, scan = remote.store.get, remote.store.scan

    def refuse(asked: str) -> Any:
        if asked == key:
            raise StoreUnavailableError("The reply was cut.")
        return get(asked)

    monkeypatch.setattr(remote.store, "get", refuse)
    monkeypatch.setattr(remote.store, "scan", lambda *of: (one._replace(value=None) for one in scan(*of)))
    ran = cli.ends(7, "results", "job", "--table", "-")
    assert f"warning: {key} cannot be read: The reply was cut." in " ".join(ran.err.split())
    assert [row["peak"] for row in csv.DictReader(io.StringIO(ran.out))] == ["", "1", "2"]


def test_an_outage_makes_no_table(cli: Cli, remote: Remote, tmp_path: Path) -> None:
    """A table without results would look like one of a job that left none. A hint names the flag that writes one."""
    _submitted(remote)
    remote.store.down = True
    ran = cli("results", "job", "--table", str(tmp_path / "out.csv"))
    assert (ran.code, list(tmp_path.glob("out*"))) == (5, [])
    assert "hint: To write what the cache has, add --offline.\n" in ran.err


# --- replicates -----------------------------------------------------------------------------------------------------


def test_means_over_replicates(cli: Cli, jobs: JobRegistry) -> None:
    """A row per parameter set; replicates without outputs count as tasks only. Sets of the same parameters are one."""
    sets = [{"x": 1}, {"x": 2}, {"params": {"x": 1}, "seed": 9}]
    manifest = add_job(jobs, "job", sets, n_replicates=3, status="partial")
    Ledger(jobs.store)(*(attempt(number) for number in (0, 1, 6)), attempt(2, "failed"))
    for number, peak in ((0, 1), (1, 2.0), (6, 6)):
        leave_output(jobs, manifest, number, peak=peak, note="x")
    rows = results_table(cli, "job", "--by", "set")
    statistics = ["peak.n", "peak.n_nan", "peak.mean", "peak.sd", "peak.half_width"]
    names = ["job_id", "x", "tasks", "done", "failed", "missing", "waiting", "error", *statistics]
    assert [list(row) for row in without(rows, "param_id")] == [names, names]
    assert [list(row.values()) for row in without(rows, "param_id")] == [
        ["job", "1", "4", "3", "1", "0", "0", "ValueError: beta is 0.93",
         "3", "0", "3.0", "2.6457513110645903", "6.572410607728432"],
        ["job", "2", "3", "0", "0", "3", "0", "", "0", "0", "", "", ""],
    ]  # fmt: skip
    assert "Not numbers, so without statistics: note." in cli.ok("results", "job", "--table", "-", "--by", "set").err


LOSSES = [1.0, math.nan, 3.0, math.nan, 5.0, -math.inf, 8.0, 10.0, 0.0, 6.0]


@pytest.mark.parametrize("has_chunk", [False, True], ids=["outputs", "chunk"])
def test_numbers_that_are_not_finite_are_in_every_form(
    cli: Cli, jobs: JobRegistry, tmp_path: Path, *, has_chunk: bool
) -> None:
    """Empty in CSV, null with its kind in JSON, itself where numbers have it. Means count those that they leave out."""
    manifest = add_job(jobs, "job", [{"x": 1}, {"x": 2}], n_replicates=5, attempts=map(attempt, range(10)))
    if has_chunk:
        leave_scalars(jobs, "job", {number: {"loss": loss} for number, loss in enumerate(LOSSES)})
    for number, loss in enumerate([] if has_chunk else LOSSES):
        leave_output(jobs, manifest, number, loss=loss)
    rows = results_table(cli, "job")
    assert [row["loss"] for row in rows] == ["1.0", "", "3.0", "", "5.0", "", "8.0", "10.0", "0.0", "6.0"]
    for form in ("jsonl", "parquet"):
        cli.ok("results", "job", "--table", str(tmp_path / f"t.{form}"))
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == [loss if math.isfinite(loss) else None for loss in LOSSES]
    assert [str(real_numbers(line)["loss"]) for line in lines] == list(map(str, LOSSES))
    assert lines[5]["$not_finite"] == {"/loss": "-inf"}
    with mopsjobs.connect(env=cli.env) as registry:
        table = registry.job("job").results()
        assert [str(row["loss"]) for row in table] == list(map(str, LOSSES))
        for found in (
            table.to_pandas()["loss"],
            table.to_polars()["loss"],
            table.to_arrow()["loss"].to_pylist(),
            pl.read_parquet(tmp_path / "t.parquet")["loss"],
            [row[0] for row in duckdb.sql(f"SELECT loss FROM '{tmp_path}/t.parquet'").fetchall()],
        ):
            assert list(map(str, found)) == list(map(str, LOSSES))
        assert [(one["loss.n"], one["loss.n_nan"], one["loss.mean"]) for one in table.sets()] == [(3, 2, 3), (4, 1, 6)]
        assert [one["x"] for one in table.best("-loss")] == [2, 1]
    sql = "SELECT count(*) AS n, count(loss) AS known, min(loss) AS low FROM results"
    (row,) = cli.ok("query", "--job", "job", "--json", sql).json["rows"]
    assert row == {"n": 10, "known": 8, "low": None, "$not_finite": {"/low": "-inf"}}  # SQLite takes NaN for null
    ran = cli.ok("results", "job", "--table", "-", "--by", "set")
    means = [
        (row["done"], row["loss.mean"], row["loss.n"], row["loss.n_nan"])
        for row in csv.DictReader(io.StringIO(ran.out))
    ]
    assert means == [("5", "3.0", "3", "2"), ("5", "6.0", "4", "1")]
    assert ran.err == "NaN or infinite, so counted as n_nan and in no mean: loss (3).\n2 rows\n"


def test_a_task_that_repeats_another_one_has_a_row_and_counts_once(cli: Cli, jobs: JobRegistry) -> None:
    """In means as in reductions. The table names the earlier task, so that its rows and the counts agree."""
    sets = [{"x": 1, "repeats": 0}, {"x": 2, "repeats": 0}, {"x": 1, "repeats": 0}]
    sets.append({"params": {"x": 1, "repeats": 0}, "seed": 9})
    manifest = add_job(jobs, "job", sets, n_replicates=2, status="partial")
    Ledger(jobs.store)(attempt(0), attempt(1), attempt(2, "failed"), attempt(3), attempt(6))
    for number, peak in ((0, 1), (1, 2), (3, 4), (6, 6)):
        leave_output(jobs, manifest, number, peak=peak)
    ran = cli.ok("results", "job", "--table", "-")
    rows = list(csv.DictReader(io.StringIO(ran.out)))
    assert list(rows[0])[-3:] == ["error", "repeats", "peak"]
    assert [row["params.repeats"] for row in rows] == ["0"] * 7
    assert [(row["task"], row["repeats"], row["peak"]) for row in rows if row["x"] == "1"] == [
        ("0", "", "1"), ("1", "", "2"), ("4", "0", "1"), ("5", "1", "2"), ("6", "", "6"),
    ]  # fmt: skip
    told = "7 tasks, 2 of which repeat an earlier one and share its outputs; "
    assert ran.err == f"{told}see column repeats\n7 rows\n"
    ran = cli.ok("results", "job", "--table", "-", "--by", "set")
    means = list(csv.DictReader(io.StringIO(ran.out)))
    assert [(row["tasks"], row["done"], row["peak.mean"]) for row in means] == [("3", "3", "3.0"), ("2", "1", "4.0")]
    first = [row for row in rows if not row["repeats"]]
    assert sum(int(row["tasks"]) for row in means) == len(first)
    assert sum(int(row["done"]) for row in means) == sum(row["status"] == "succeeded" for row in first)
    left = "1 failed of 5 tasks: the means leave them out.\n"
    assert ran.err == f"{left}{told}each is counted once.\n2 rows\n"


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["job", "--table", "out.xlsx"], "invalid table 'out.xlsx': expected a name that ends in .csv, .jsonl or"),
        (
            ["job", "--table", "none/out.csv"],
            "invalid table 'none/out.csv': expected a file in a directory that exists.",
        ),
        (["job", "--by", "task"], "--by task needs --table FILE."),
        (["job", "--tsv"], "--tsv needs --by set, --contrast or --sql."),
        (["job", "--best", "y", "--sort", "y"], "not allowed with argument"),
        (["--best", "y"], "Name a JOB, or select jobs by --label."),
        (["job", "--label", "a=1"], "A JOB contradicts --label, which selects jobs."),
        (["--label", "a=1", "--best", "y"], "No job with tasks has the label a=1."),
        (["job", "job"], "Several jobs need --table FILE, --by set, --sql, --explain or --contrast."),
        (
            ["job", "--offline"],
            "--offline needs --table FILE, --by set, --sql, --explain or --contrast: the cache has no outputs.",
        ),
        (["job", "--table", "-", "--json"], "not allowed with argument"),
    ],
)
def test_what_makes_no_table_is_refused(cli: Cli, jobs: JobRegistry, argv: list[str], sentence: str) -> None:
    add_job(jobs, "job", [{"x": 1}])
    assert sentence in " ".join(cli.fails(2, "results", *argv).split())


VALUES = {"task": " 0", "limit": " 0", "contrast": " x=a,b", "table": " -", "offline": "", "tsv": "", "csv": ""}
"""Of flags, where another value than `y` is needed."""


@pytest.mark.parametrize("pair", [(flag, other) for flag, others in CONTRADICTIONS.items() for other in others])
def test_flags_that_contradict_each_other_are_both_named(cli: Cli, pair: tuple[str, str]) -> None:
    """Before anything is read, and whatever the order in which they were typed."""
    flags = [f"--{name}{'' if name[:3] == 'by ' else VALUES.get(name, ' y')}" for name in pair]
    argv = f"{flags[1]} {flags[0]}".split()
    said = cli.fails(2, "results", "job", *argv)
    assert said == f"error: --{pair[0]} contradicts --{pair[1]}: leave out one of them.\n"


def test_parquet_is_written_by_the_python_of_the_model(
    cli: Cli, jobs: JobRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If that of the command lacks pyarrow: that of the launch from here, whatever a record says."""
    params = {"x": 1.5, "mode": "ä\n", "big": 2**63, "list": [1], "on": True}
    manifest = add_job(jobs, "job", [params, {"x": None}], attempts=[attempt(0), attempt(1, "failed")])
    leave_output(jobs, manifest, 0, loss=float("nan"), n=7)
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    cli.ok("results", "job", "--table", str(here))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o700)
    remember_launch(JobDir.for_job("job", cli.env), "local", {"python": str(python)})
    assert cli.ok("results", "job", "--table", str(there)).err == f"2 rows in {there}\n"
    monkeypatch.undo()
    assert pl.read_parquet(there).equals(pl.read_parquet(here))
    assert pl.read_parquet(there).schema == pl.read_parquet(here).schema


def test_parquet_without_pyarrow_says_where_to_install_it(
    cli: Cli, jobs: JobRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is read before, and nothing written."""
    add_job(jobs, "job", [{"x": 1}])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o700)
    remember_launch(JobDir.for_job("job", cli.env), "local", {"python": str(python)})
    said = cli.fails(2, "results", "job", "--table", str(tmp_path / "out.parquet"))
    assert " ".join(said.split()) == (
        f"error: A table in Parquet needs the package pyarrow, which is not in {sys.executable}, which runs mops-jobs,"
        f" nor in {python}, which runs the model. hint: Install it in one of them, or write .csv or .jsonl."
    )
    assert not (tmp_path / "out.parquet").exists()


def _ended_with_chunk(cli: Cli, remote: Remote, outputs: Mapping[int, object]) -> Manifest:
    """Leave an ended job of three tasks, of which a chunk has these outputs, and whose ledger is complete."""
    manifest = add_job(remote.jobs, "job", [{"x": one} for one in range(3)])
    Ledger(remote.store.inner)(*(attempt(one) for one in range(3)))
    leave_scalars(remote.jobs, "job", outputs)
    remote.jobs.finalize_job("job", "succeeded")
    cli.clock.advance(minutes=5)
    return manifest


def test_a_table_that_was_read_is_there_without_the_network(cli: Cli, remote: Remote) -> None:
    """The same rows, and the age of the data. Without --offline, an outage still makes no table."""
    _ended_with_chunk(cli, remote, {one: {"peak": one} for one in range(3)})
    expected = results_table(cli, "job")
    remote.store.down = True
    cli.clock.advance(hours=2)
    ran = cli.ok("results", "job", "--table", "-", "--offline")
    assert list(csv.DictReader(io.StringIO(ran.out))) == expected
    assert ran.err == "3 rows; data: synced 2h ago\n"
    assert results_table(cli, "@latest", "--offline", "--by", "set") == results_table(
        cli, "job", "--offline", "--by", "set"
    )
    assert cli("results", "job", "--table", "-").code == 5


def test_results_that_were_never_read_are_no_table(cli: Cli, remote: Remote) -> None:
    """A table without its values would look like one of a job that left none."""
    _ended_with_chunk(cli, remote, {0: {"peak": 0}})
    cli.ok("tasks", "job")
    said = cli.fails(5, "results", "job", "--table", "-", "--offline")
    assert "The results of job have never been read to this machine." in " ".join(said.split())


def test_results_of_outputs_are_not_kept(cli: Cli, remote: Remote) -> None:
    """One sentence counts the tasks that a table lacks offline, and the exit code is 7."""
    manifest = _ended_with_chunk(cli, remote, {0: {"peak": 0}, 1: {"peak": 1}})
    leave_output(remote.jobs, manifest, 2, peak=2)
    assert [row["peak"] for row in results_table(cli, "job")] == ["0", "1", "2"]
    remote.store.down = True
    ran = cli("results", "job", "--table", "-", "--offline")
    assert [row["peak"] for row in csv.DictReader(io.StringIO(ran.out))] == ["0", "1", ""]
    assert (ran.code, ran.err.splitlines()[0]) == (7, "warning: The cache lacks the results of 1 task.")


def test_a_pruned_parent_leaves_no_table_with_holes(cli: Cli, remote: Remote) -> None:
    """A late resume has the rows of its parent from the registry. Offline, that they are lacking is an error."""
    _ended_with_chunk(cli, remote, {one: {"peak": one} for one in range(3)})
    cli.ok("sync")
    cli.ok("prune", "--older-than", "1m", "--yes")
    child = add_job(remote.jobs, "job.2", [{"x": one} for one in range(3)], only=(1, 2))
    cli.ok("status", "job.2")
    said = cli.fails(5, "results", "job.2", "--table", "-", "--offline")
    assert "have never been synced to this machine." in " ".join(said.split())
    assert [row["job_id"] for row in results_table(cli, child.job_id)] == ["job"] * 3
    assert [row["tasks"] for row in results_table(cli, child.job_id, "--by", "set")] == ["1"] * 3


def test_a_lost_record_of_a_parent_is_told(cli: Cli, remote: Remote) -> None:
    """Its manifest says that it had tasks, which the table would lack."""
    _ended_with_chunk(cli, remote, {0: {"peak": 0}})
    add_job(remote.jobs, "job.2", [{"x": one} for one in range(3)], only=(1, 2))
    remote.store.delete(key("job"))
    said = cli.fails(3, "results", "job.2", "--table", "-")
    assert said.startswith("error: Job job not found.\nhint: List the outputs of it and of job.2, which")


def test_a_lost_embedded_registry_leaves_the_table(cli: Cli, jobs: JobRegistry) -> None:
    """Offline, an embedded registry is read if it is there, outputs included; else the cache tells."""
    manifest = add_job(jobs, "job", [{"x": one} for one in range(3)], attempts=(attempt(one) for one in range(3)))
    leave_scalars(jobs, "job", {0: {"peak": 0}, 1: {"peak": 1}})
    leave_output(jobs, manifest, 2, peak=2)
    assert [row["peak"] for row in results_table(cli, "job", "--offline")] == ["0", "1", "2"]
    (cli.cache.parent / "registry.db").unlink()
    ran = cli.ends(7, "results", "job", "--table", "-", "--offline")
    assert [row["peak"] for row in csv.DictReader(io.StringIO(ran.out))] == ["0", "1", ""]


SETS = [{"x": number} for number in range(3)]


def _leave_results(jobs: JobRegistry, manifest: Manifest, *numbers: int) -> None:
    """Leave attempts and outputs of tasks, each of 8 bytes."""
    Ledger(jobs.store, manifest.job_id)(*(attempt(number, output_bytes=8) for number in numbers))
    for number in numbers:
        leave_output(jobs, manifest, number, y=number)


def _lose(jobs: JobRegistry, prefix: str) -> None:
    for lost in list(jobs.store.list_keys(prefix)):
        jobs.store.delete(lost)


def _rows(cli: Cli, *argv: str) -> list[dict[str, str]]:
    ran = cli.ends(7, "results", "job", "--table", "-", *argv)
    assert ran.err.startswith("warning: The outputs of 2 tasks are gone, with their values.\n")
    return list(csv.DictReader(io.StringIO(ran.out)))


@pytest.fixture
def reusing(cli: Cli, remote: Remote) -> JobRegistry:
    """Return a registry with `job`, which did one task, and reuses two of `source`."""
    jobs = remote.jobs
    source = add_job(jobs, "source", SETS[:2])
    _leave_results(jobs, source, 0, 1)
    cli.ok("validate", "source")
    job = add_job(jobs, "job", SETS, reused=(Reuse("source", BUNDLE, ((0, 2),)),))
    _leave_results(jobs, job, 2)
    cli.ok("validate", "job")
    cli.clock.advance(minutes=5)
    cli.ok("sync")
    return jobs


@pytest.mark.parametrize("case", ["first look", "known before", "just ended"])
def test_lost_outputs_of_a_source_are_missing_in_all_views(cli: Cli, reusing: JobRegistry, case: str) -> None:
    """Only tasks whose values were read count in `n`. Attempts may still come where a job has just ended."""
    if case == "just ended":
        cli.clock.advance(minutes=-5)
        cli.ok("label", "job", "k=v")
    assert "when it ended, 3 verified, 0 missing" in cli.ok("status", "job").out
    if case == "known before":
        cli.ok("results", "job", "--table", "-")
    _lose(reusing, results_prefix("source"))
    _lose(reusing, "ledger/source/")
    ran = cli("validate", "job")
    assert (ran.code, ran.out) == (7, "job: 1 of 3 tasks verified; succeeded\n")
    assert ran.err == (
        "warning: The outputs of 2 tasks were lost or damaged since the job ended. To run them again: mops-jobs resume"
        " job\n"
    )
    document = cli("validate", "job", "--json").json
    assert (document["status"], document["tasks_verified"], len(document["missing_outputs"])) == ("succeeded", 1, 2)
    lines = cli.ok("tasks", "job", "--jsonl").objects
    assert [one["outcome"] for one in lines] == ["missing", "missing", "succeeded"]
    assert [(row["status"], row["y"]) for row in _rows(cli)] == [("missing", ""), ("missing", ""), ("succeeded", "2")]
    assert [(row["tasks"], row["done"], row["y.mean"]) for row in _rows(cli, "--by", "set")] == [
        ("1", "0", ""), ("1", "0", ""), ("1", "1", "2.0"),
    ]  # fmt: skip
    assert "3 verified, 0 missing; 2 tasks lost outputs since" in cli.ok("status", "job").out
    assert read_results("job", cli.app()).problems == ["The outputs of 2 tasks are gone, with their values."]


@pytest.mark.parametrize("case", ["first look", "known before"])
def test_values_of_a_ledger_outlive_outputs_in_each_job_that_has_them(
    cli: Cli, reusing: JobRegistry, case: str
) -> None:
    """The job that did the tasks and the one that reuses them say the same, also after a validation."""
    leave_scalars(reusing, "source", {0: {"y": 0}, 1: {"y": 1}})
    cli.clock.advance(minutes=5)
    if case == "known before":
        cli.ok("tasks", "job")
    _lose(reusing, results_prefix("source"))
    for job_id, others in (("source", []), ("job", ["2"])):
        assert cli("validate", job_id).code == 7
        for flags in ([], ["--by", "set"]):
            ran = cli.ok("results", job_id, "--table", "-", *flags)
            column = "y.mean" if flags else "y"
            values = [row[column] for row in csv.DictReader(io.StringIO(ran.out))]
            assert [float(value) for value in values] == [float(value) for value in ["0", "1", *others]]
            assert "The outputs of 2 tasks were lost when last validated: the ledger has their values." in ran.err
        outcomes = [one["outcome"] for one in cli.ok("tasks", job_id, "--jsonl").objects]
        assert set(outcomes) == {"succeeded"}


def test_a_child_tells_what_its_parent_has_lost(cli: Cli, remote: Remote) -> None:
    """It did not run these tasks, and the job was complete of them when it ended."""
    jobs = remote.jobs
    source = add_job(jobs, "source", SETS[:2])
    _leave_results(jobs, source, 0, 1)
    jobs.finalize_job("source", "succeeded")
    add_job(jobs, "job", SETS, reused=(Reuse("source", BUNDLE, ((0, 2),)),), attempts=[attempt(2, "failed")])
    cli("validate", "job")
    child = add_job(jobs, "job.2", SETS, only=[2], parent="job")
    _leave_results(jobs, child, 2)
    cli("validate", "job.2")
    cli.clock.advance(minutes=5)
    assert "gone" not in cli.ok("results", "job.2", "--table", "-").err
    _lose(jobs, results_prefix("source"))
    _lose(jobs, "ledger/source/")
    assert cli("validate", "job").code == 7
    ran = cli("results", "job.2", "--table", "-")
    assert ran.err.startswith("warning: The outputs of 2 tasks are gone, with their values.\n")
    rows = list(csv.DictReader(io.StringIO(ran.out)))
    assert [row["status"] for row in rows] == ["missing", "missing", "succeeded"]


def test_lost_outputs_of_attempts_are_no_values(cli: Cli, remote: Remote) -> None:
    """The attempts did succeed. Without a chunk of scalars, their values are gone."""
    manifest = add_job(remote.jobs, "job", SETS)
    _leave_results(remote.jobs, manifest, 0, 1, 2)
    remote.jobs.finalize_job("job", "succeeded")
    for number in (0, 1):
        task = next(task for task in manifest.study.tasks() if task.number == number)
        _lose(remote.jobs, f"{results_prefix('job')}{task.param_id}/")
    assert [(row["status"], row["y"]) for row in _rows(cli)] == [
        ("succeeded", ""),
        ("succeeded", ""),
        ("succeeded", "2"),
    ]
    assert [(row["done"], row["y.n"]) for row in _rows(cli, "--by", "set")] == [("1", "0"), ("1", "0"), ("1", "1")]


def test_a_task_without_scalars_has_lost_nothing(cli: Cli, remote: Remote) -> None:
    """A model may leave pictures, or nothing at all."""
    manifest = add_job(remote.jobs, "job", SETS[:2], outputs=None, attempts=[attempt(0), attempt(1)])
    leave_output(remote.jobs, manifest, 0, name="picture.png")
    leave_output(remote.jobs, manifest, 1, name="_outputs.json")
    remote.jobs.finalize_job("job", "succeeded")
    rows = list(csv.DictReader(io.StringIO(cli.ok("results", "job", "--table", "-", "--by", "set").out)))
    assert [row["done"] for row in rows] == ["1", "1"]


@pytest.fixture
def damaged(remote: Remote) -> str:
    """Cut an output of a job that has succeeded. Return how each view tells it."""
    jobs = remote.jobs
    manifest = add_job(jobs, "job", SETS)
    _leave_results(jobs, manifest, 0, 1, 2)
    jobs.update_status("job", "validating")
    jobs.update_status("job", "succeeded", tasks_verified=3, tasks_completed=3)
    cut = next(iter(jobs.store.list_keys(results_prefix("job"))))
    remote.put(cut, b'{"y": ')
    return f"warning: {cut.rpartition('/')[0]}/ has 6 bytes, and its ledger says 8.\n"


def test_an_output_of_another_size_is_damaged(cli: Cli, damaged: str, tmp_path: Path) -> None:
    """It is downloaded all the same. The table of tasks calls its task missing."""
    ran = cli("validate", "job")
    assert (ran.code, ran.out) == (7, "job: 2 of 3 tasks verified; succeeded\n")
    assert ran.err.startswith(damaged)
    ran = cli("results", "job", "--download", str(tmp_path / "out"))
    assert (ran.code, ran.err.startswith(damaged)) == (7, True)
    rows = csv.DictReader((tmp_path / "out" / "tasks.csv").read_text().splitlines())
    assert sorted(row["status"] for row in rows) == ["complete", "complete", "missing"]
    assert len(list((tmp_path / "out").glob("*/*/result.json"))) == 3
    ran = cli("provenance", "job", "--ro-crate", str(tmp_path / "crate"))
    assert (ran.code, damaged in ran.err) == (7, True)


def test_a_damaged_output_ends_no_job_as_succeeded(cli: Cli, remote: Remote) -> None:
    """A job whose runner is silent is compared by size, too."""
    manifest = add_job(remote.jobs, "job", SETS)
    _leave_results(remote.jobs, manifest, 0, 1, 2)
    remote.put(next(iter(remote.store.inner.list_keys(results_prefix("job")))), b"")
    assert (cli("validate", "job").code, cli("validate", "job").out) == (7, "job: 2 of 3 tasks verified; partial\n")


def test_a_child_that_did_a_damaged_task_again_replaces_it(
    cli: Cli, remote: Remote, damaged: str, tmp_path: Path
) -> None:
    """So the family has no damage that is told."""
    place = damaged.removeprefix("warning: ").partition(" ")[0]
    manifest = load_manifest(remote.store.inner, "job")
    (number,) = (task.number for _, task in manifest.tasks() if output_key("job", task, "") == place)
    child = add_job(remote.jobs, "job.2", SETS, only=[number])
    _leave_results(remote.jobs, child, number)
    remote.jobs.finalize_job("job.2", "succeeded")
    assert "resume" not in cli("validate", "job").err
    assert cli.ok("results", "job.2", "--download", str(tmp_path / "out")).err.count("warning") == 0


def test_sizes_are_compared_where_a_ledger_tells_them(cli: Cli, remote: Remote) -> None:
    """Not without a ledger, nor if two attempts left different sizes: the outputs are those of any of them."""
    manifest = add_job(remote.jobs, "job", SETS)
    ledger = Ledger(remote.store.inner)
    ledger(attempt(0, output_bytes=8), attempt(1, output_bytes=None), attempt(2, output_bytes=7))
    ledger(attempt(2, output_bytes=8))
    for number in range(3):
        leave_output(remote.jobs, manifest, number, y=number)
    assert cli.ok("validate", "job").out == "job: 3 of 3 tasks verified; succeeded\n"


def test_the_loss_of_all_outputs_is_told(cli: Cli, remote: Remote, tmp_path: Path) -> None:
    """`results` said that a job that had succeeded has no outputs, with exit code 0, and an RO-Crate said nothing."""
    manifest = add_job(remote.jobs, "job", SETS)
    _leave_results(remote.jobs, manifest, 0, 1, 2)
    cli.ok("validate", "job")
    _lose(remote.jobs, results_prefix("job"))
    said = "Job job has lost the outputs of all 3 tasks that had them."
    listed = cli("results", "job")
    assert (listed.code, listed.err) == (7, f"warning: {said}\n")
    assert cli("results", "job", "--download", str(tmp_path / "out")).err.startswith(f"error: {said}\n")
    crate = cli.ends(7, "provenance", "job", "--ro-crate", str(tmp_path / "crate"))
    assert f"warning: {said}\n" in crate.err

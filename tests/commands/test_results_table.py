"""`results --table`: a row per task with parameters, status and the scalars of its outputs."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from mopsjobs.cache.sync import scalars as scalars_module
from mopsjobs.errors import StoreUnavailableError
from mopsjobs.ledger.format import chunk_key
from mopsjobs.studies.outputs import output_key
from support.cli import foreign, key
from support.ledgers import Ledger, add_job, attempt, leave_output, leave_scalars, put_manifest, results_table

if TYPE_CHECKING:
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
    manifest = add_job(jobs, "job", [{"beta": [1, {"a": None}], "gamma": None}])
    Ledger(jobs.store)(attempt(0))
    leave_output(jobs, manifest, 0, peak=7)
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
    child = add_job(jobs, "job.2", sets, only=(1, 2, 3))
    Ledger(jobs.store, "job.2")(attempt(1), attempt(2, "oom"))
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
        manifest = add_job(jobs, job_id, [{name: 1}])
        Ledger(jobs.store, job_id)(attempt(0))
        leave_output(jobs, manifest, 0, **{f"{job_id}_out": 2})
    assert without(results_table(cli, "b", "a"), "param_id", "seed", "seconds", "error", "task", "status") == [
        {"job_id": "b", "x": "", "y": "1", "a_out": "", "b_out": "2"},
        {"job_id": "a", "x": "1", "y": "", "a_out": "2", "b_out": ""},
    ]


def test_tasks_with_the_same_outputs_have_the_same_scalars(cli: Cli, jobs: JobRegistry) -> None:
    manifest = add_job(jobs, "job", [{"params": {"x": 1}, "seed": 5}] * 2)
    Ledger(jobs.store)(attempt(0))
    leave_output(jobs, manifest, 0, peak=3)
    assert [(row["status"], row["peak"]) for row in results_table(cli, "job")] == [("succeeded", "3")] * 2


# --- names ----------------------------------------------------------------------------------------------------------


def test_names_that_clash_are_prefixed_never_overwritten(cli: Cli, jobs: JobRegistry) -> None:
    params = {"status": "s", "seed": 7, "beta": 0.5, "params.seed": 8}
    manifest = add_job(jobs, "job", [params], outputs=["result.json", "fit.json"])
    Ledger(jobs.store)(attempt(0))
    leave_output(jobs, manifest, 0, beta=1, error="e", peak=2, a={"b": 3}, **{"a.b": 4, "params.status": 5})
    leave_output(jobs, manifest, 0, name="fit.json", peak=6, only=7)
    (row,) = results_table(cli, "job")
    expected = {
        "params.status": "s", "params.params.seed": "7", "params.seed": "8", "beta": "0.5", "result.beta": "1",
        "result.error": "e", "peak": "2", "fit.peak": "6", "only": "7", "result.params.status": "5",
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert {row["a.b"], row["result.a.b"]} == {"3", "4"}
    assert row["status"] == "succeeded"


@pytest.mark.claim("CSV has no formulas")
def test_a_text_like_a_formula_is_made_safe(cli: Cli, jobs: JobRegistry) -> None:
    """As in all CSV of mops-jobs, also in the header."""
    manifest = add_job(jobs, "job", [{"=x": "=1+1"}])
    Ledger(jobs.store)(attempt(0))
    leave_output(jobs, manifest, 0, **{"@y": "-2+3", "n": -2})
    (row,) = results_table(cli, "job")
    assert (row["'=x"], row["'@y"], row["n"]) == ("'=1+1", "'-2+3", "-2")


# --- chunks ---------------------------------------------------------------------------------------------------------


def test_chunks_spare_the_reads_of_outputs(cli: Cli, jobs: JobRegistry) -> None:
    """No output is there to be read. A task that did not succeed has no scalars, whatever a chunk says."""
    add_job(jobs, "job", [{"x": 1}, {"x": 2}])
    Ledger(jobs.store)(attempt(0), attempt(1, "failed"))
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
    manifest = add_job(jobs, "job", [{"x": 1}])
    Ledger(jobs.store)(attempt(0))
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
    manifest = add_job(jobs, "job", [{"x": 1}, {"x": 2}])
    Ledger(jobs.store)(attempt(0), attempt(1))
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
    ran = cli("results", "job", "--table", "-")
    assert ran.code == 7
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


def test_means_and_quantiles_over_replicates(cli: Cli, jobs: JobRegistry) -> None:
    """A row per parameter set; replicates without outputs count as tasks only. Sets of the same parameters are one."""
    sets = [{"x": 1}, {"x": 2}, {"params": {"x": 1}, "seed": 9}]
    manifest = add_job(jobs, "job", sets, n_replicates=3, status="partial")
    Ledger(jobs.store)(*(attempt(number) for number in (0, 1, 6)), attempt(2, "failed"))
    for number, peak in ((0, 1), (1, 2.0), (6, 6)):
        leave_output(jobs, manifest, number, peak=peak, note="x")
    rows = results_table(cli, "job", "--mean", "--quantile", "0.1,0.5")
    assert without(rows, "param_id") == [
        {"job_id": "job", "x": "1", "tasks": "4", "n": "3", "peak.mean": "3.0", "peak.q0.1": "1.2", "peak.q0.5": "2.0"},
        {"job_id": "job", "x": "2", "tasks": "3", "n": "0", "peak.mean": "", "peak.q0.1": "", "peak.q0.5": ""},
    ]
    assert "Not numbers, so without statistics: note." in cli.ok("results", "job", "--table", "-", "--mean").err


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
    ran = cli.ok("results", "job", "--table", "-", "--mean")
    means = list(csv.DictReader(io.StringIO(ran.out)))
    assert [(row["tasks"], row["n"], row["peak.mean"]) for row in means] == [("3", "3", "3.0"), ("2", "1", "4.0")]
    first = [row for row in rows if not row["repeats"]]
    assert sum(int(row["tasks"]) for row in means) == len(first)
    assert sum(int(row["n"]) for row in means) == sum(row["status"] == "succeeded" for row in first)
    assert ran.err == f"{told}means and quantiles count each once\n2 rows\n"


def test_a_parameter_with_the_name_of_a_count_is_prefixed(cli: Cli, jobs: JobRegistry) -> None:
    """As are those that have the name of a column of a table of tasks."""
    manifest = add_job(jobs, "job", [{"n": 1, "tasks": 2, "seed": 3}])
    Ledger(jobs.store)(attempt(0))
    leave_output(jobs, manifest, 0, n=4)
    (row,) = results_table(cli, "job", "--mean")
    assert list(row.items())[2:] == [
        ("params.n", "1"), ("params.tasks", "2"), ("params.seed", "3"), ("tasks", "1"), ("n", "1"),
        ("result.n.mean", "4.0"),
    ]  # fmt: skip


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["job", "--table", "out.xlsx"], "invalid table 'out.xlsx': expected a name that ends in .csv, .jsonl or"),
        (["job", "--mean"], "--mean, --quantile and --reduced need --table FILE."),
        (["job", "job"], "Several jobs need --table FILE."),
        (["job", "--offline"], "--offline needs --table FILE: the cache has no outputs."),
        (["job", "--table", "-", "--quantile", "2"], "invalid quantiles '2': expected up to 20 numbers from 0 to 1"),
        (["job", "--table", "-", "--quantile", "0.5,.5"], "invalid quantiles '0.5,.5': one comes twice"),
        (["job", "--table", "-", "--json"], "not allowed with argument"),
    ],
)
def test_what_makes_no_table_is_refused(cli: Cli, jobs: JobRegistry, argv: list[str], sentence: str) -> None:
    add_job(jobs, "job", [{"x": 1}])
    ran = cli("results", *argv)
    assert (ran.code, ran.out) == (2, "")
    assert sentence in " ".join(ran.err.split())


def test_parquet_without_pyarrow_is_refused(cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    add_job(jobs, "job", [{"x": 1}])
    ran = cli("results", "job", "--table", "out.parquet")
    assert ran.code == 2
    assert "A table in Parquet needs the package pyarrow in " in " ".join(ran.err.split())


def test_a_file_in_a_directory_that_does_not_exist_is_refused(cli: Cli, tmp_path: Path) -> None:
    """Before the job is looked up."""
    ran = cli("results", "job", "--table", f"{tmp_path}/none/out.csv")
    problem = f"invalid table '{tmp_path}/none/out.csv': expected a file in a directory that exists."
    hint = f"Make the directory first: mkdir -p {tmp_path}/none"
    assert (ran.code, ran.err) == (2, f"error: {problem}\nhint: {hint}\n")

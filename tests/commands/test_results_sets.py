"""The table of parameter sets: `results --by set` and `--best`, SQL, Python and files have the same numbers."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import random
import sqlite3
import stat
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import polars as pl
import pytest

import mopsjobs
from mopsjobs.app.tasks import result_sets
from mopsjobs.ledger.attempt import AttemptError
from mopsjobs.studies.manifest import Manifest, Reuse, manifest_key
from mopsjobs.studies.study import param_id
from mopsjobs.utils.schemas import load_schema
from mopsjobs.web.site.kept import read_results
from support.ledgers import BUNDLE, Ledger, add_job, attempt, leave_output, leave_scalars, results_table, run_task
from support.runs import study

if TYPE_CHECKING:
    from mopsjobs.registry.job_registry import JobRegistry
    from support.cli import Cli, Remote

SETS = [{"x": 1, "mode": "a"}, {"x": 2, "mode": "a"}, {"x": 1, "mode": "a"}, {"x": 3, "mode": "b"}]
"""The third set repeats the first one."""

LOSSES = {0: 1.5, 1: math.nan, 2: 2.5, 3: 4.0, 4: 5.0, 9: 7.25, 10: -math.inf}
"""Of `job.2` and its parent: tasks 6 to 8 repeat 0 to 2, task 5 failed, 11 is missing."""

EXPECTED = {1: (3, 3, 0, 0, 0, 2, 1, 2.0), 2: (3, 2, 1, 0, 0, 2, 0, 4.5), 3: (3, 2, 0, 0, 1, 1, 1, 7.25)}
"""By x: tasks, done, failed, missing, waiting, and of the loss n, n_nan, mean."""


@pytest.fixture
def family(cli: Cli, jobs: JobRegistry) -> str:
    """Return a job that was resumed, and that reuses a task: with failures, repeats and values that are not numbers."""
    source = add_job(jobs, "source", [{"x": 3, "mode": "b"}], n_replicates=3, attempts=[attempt(0), attempt(1)])
    leave_scalars(jobs, "source", {0: {"loss": LOSSES[9]}, 1: {"loss": 0.5}})
    leave_output(jobs, source, 0, loss=LOSSES[9])
    jobs.finalize_job("source", "partial")
    reused = (Reuse("source", BUNDLE, ((9, 10),)),)
    parent = add_job(jobs, "job", SETS, n_replicates=3, reused=reused)
    Ledger(jobs.store)(
        attempt(0), attempt(1), attempt(2, "failed"), attempt(3), attempt(4, "oom"), attempt(5, "failed")
    )
    leave_scalars(jobs, "job", {number: {"loss": LOSSES[number], "note": "x"} for number in (0, 1, 3)})
    for number in (0, 1, 3):
        leave_output(jobs, parent, number, loss=LOSSES[number], note="x")
    jobs.finalize_job("job", "partial")
    cli.clock.advance(minutes=1)
    child = add_job(jobs, "job.2", SETS, n_replicates=3, only=(2, 4, 5, 8, 10, 11), status="running")
    Ledger(jobs.store, "job.2")(attempt(2), attempt(4), attempt(5, "failed"), attempt(10))
    leave_scalars(jobs, "job.2", {number: {"loss": LOSSES[number]} for number in (2, 4, 10)})
    for number in (2, 4, 10):
        leave_output(jobs, child, number, loss=LOSSES[number])
    return "job.2"


def test_a_job_that_has_got_the_id_of_another_has_its_own_numbers(cli: Cli, jobs: JobRegistry) -> None:
    """All of the first one was removed by hand. The kept table of sets is that of the first."""
    means = []
    for loss in (1.0, 2.0):
        for key in list(jobs.store.list_keys()):
            jobs.store.delete(key)
        cli.clock.advance(minutes=1)
        manifest = add_job(jobs, "job", [{"x": 1}], attempts=[attempt(0)], scalars={0: {"loss": loss}})
        leave_output(jobs, manifest, 0, loss=loss)
        jobs.finalize_job("job", "succeeded")
        cli("sync", "--full")
        means += [row["loss.mean"] for row in cli("results", "job", "--best", "loss", "--json").json["sets"]]
    assert means == [1.0, 2.0]


def numbers(row: dict[str, Any]) -> tuple[float, ...]:
    names = ("tasks", "done", "failed", "missing", "waiting", "loss.n", "loss.n_nan", "loss.mean")
    return tuple(float(row[name]) for name in names)


def test_all_forms_have_the_same_numbers(cli: Cli, family: str, tmp_path: Path) -> None:
    """Of a study with failures, repeats, a resume, a reused task and values that are not numbers."""
    ran = cli("results", family, "--by", "set", "--json")
    document = ran.json
    jsonschema.validate(document, load_schema("results"))
    cli("results", family, "--by", "set", "--table", str(tmp_path / "sets.parquet"))
    cli("results", family, "--by", "set", "--table", str(tmp_path / "sets.jsonl"))
    tsv = cli("results", family, "--by", "set", "--tsv").out.splitlines()
    query = "SELECT * FROM result_sets"
    means = "SELECT x, avg(loss) FROM results WHERE repeats IS NULL AND abs(loss) < 1e300 GROUP BY x"
    with mopsjobs.connect(env=cli.env) as registry:
        results = registry.job(family).results()
        forms: dict[str, Any] = {
            "JSON": document["sets"],
            "CSV": list(csv.DictReader(io.StringIO(cli("results", family, "--by", "set", "--table", "-").out))),
            "TSV": [dict(zip(document["columns"], line.split("\t"), strict=True)) for line in tsv],
            "JSON Lines": list(map(json.loads, (tmp_path / "sets.jsonl").read_text().splitlines())),
            "Parquet": pl.read_parquet(tmp_path / "sets.parquet").to_dicts(),
            "query": cli("query", query, "--job", family, "--json").json["rows"],
            "best": cli("results", family, "--best", "loss", "--json").json["sets"],
            "Python": results.sets().rows,
            "Python best": results.best("loss").rows,
            "Python query": registry.query(query, jobs=[family]).rows,
            "pandas": results.sets().to_pandas().to_dict("records"),
            "Arrow": results.sets().to_arrow().to_pylist(),
        }
    page = read_results(family, cli.app()).table
    assert page is not None
    forms["page"] = [dict(zip([one.name for one in page.columns], row, strict=True)) for row in page.rows()]
    found = {name: {int(row["x"]): numbers(row) for row in rows} for name, rows in forms.items()}
    assert found == dict.fromkeys(forms, EXPECTED)
    tasks = cli("query", means, "--job", family, "--json").json["rows"]
    assert [tuple(row.values()) for row in tasks] == [(1, 2.0), (2, 4.5), (3, 7.25)]
    assert document["tasks"] == {
        "sets": 3,
        "tasks": 9,
        "done": 7,
        "failed": 1,
        "missing": 0,
        "waiting": 1,
        "repeated": 3,
    }
    assert {row["x"]: row["error"] for row in document["sets"]} == {1: None, 2: "ValueError: beta is 0.93", 3: None}
    assert ran.err == (
        "1 failed and 1 waiting of 9 tasks: the means leave them out.\n"
        "NaN or infinite, so counted as n_nan and in no mean: loss (2).\n"
        "Not numbers, so without statistics: note.\n"
        "12 tasks, 3 of which repeat an earlier one and share its outputs; each is counted once.\n"
    )


@pytest.mark.parametrize("names", [["job.2", "source"], ["source", "job.2"], ["--label", "of=both"]])
def test_simulations_that_jobs_share_count_once(cli: Cli, family: str, names: list[str]) -> None:
    """Of a task that one job reuses from another, the row of the newest one counts, as in its own table."""
    del family
    for job in ("source", "job.2"):
        cli("label", job, "of=both")
    ran = cli("results", *names, "--by", "set", "--json")
    rows = {(row["job_id"], row["x"]): numbers(row) for row in ran.json["sets"]}
    assert rows == {("job.2", x): expected for x, expected in EXPECTED.items()} | {
        ("source", 3): (2, 1, 0, 1, 0, 1, 0, 0.5)
    }
    counts = {"sets": 4, "tasks": 11, "done": 8, "failed": 1, "missing": 1, "waiting": 1, "repeated": 4}
    assert ran.json["tasks"] == counts
    said = "15 tasks, 4 of which repeat another one and share its outputs; each is counted once."
    assert said in ran.json["notes"]
    rows = list(csv.DictReader(io.StringIO(cli("results", *names, "--table", "-").out)))
    assert [(row["job_id"], row["task"], row["repeats"]) for row in rows if row["x"] == "3" and row["repeats"]] == [
        ("source", "0", "9")
    ]
    counted = "SELECT count(*) AS n FROM results WHERE repeats IS NULL"
    found = cli("results", *names, "--sql", counted, "--json").json
    assert (found["rows"], found["repeated"]) == ([{"n": 11}], 4)
    asked = cli("query", counted, "--job", "source", "--job", "job.2", "--json").json
    assert asked["rows"] == [{"n": 11}]
    with mopsjobs.connect(env=cli.env) as registry:
        table = registry.query(counted, jobs=["source", "job.2"])
        assert (table.rows, said in table.notes) == ([{"n": 11}], True)


def test_outputs_that_a_validation_found_lost_are_told(cli: Cli, jobs: JobRegistry) -> None:
    """Their values come from the ledger, so they stay. Once the outputs are back, nothing is said."""
    manifest = add_job(jobs, "job", [{"x": 1}, {"x": 2}])
    Ledger(jobs.store)(attempt(0, output_bytes=None), attempt(1, output_bytes=None))
    leave_scalars(jobs, "job", {0: {"loss": 1.5}, 1: {"loss": 2.5}})
    for number in (0, 1):
        leave_output(jobs, manifest, number, loss=1.5 + number)
    cli.ok("validate", "job")
    said = "The outputs of 1 task were lost when last validated: the ledger has their values."
    assert said not in cli.ok("results", "job", "--best", "loss").err
    [lost, *_] = jobs.store.list_keys("results/job/")
    kept = jobs.store.get(lost)
    assert kept is not None
    jobs.store.delete(lost)
    assert cli("validate", "job").code == 7
    ran = cli.ok("results", "job", "--best", "loss", "--json")
    assert ([row["loss.mean"] for row in ran.json["sets"]], ran.json["problems"]) == ([1.5, 2.5], [said])
    assert f"warning: {said}\n" in cli.ok("query", "SELECT 1", "--job", "job").err
    assert "1 task lost outputs since" in cli.ok("status", "job").out
    jobs.store.create_if_absent(lost, kept.value)
    cli.ok("validate", "job")
    assert said not in cli.ok("results", "job", "--best", "loss").err


# --- the best -------------------------------------------------------------------------------------------------------


def leave_losses(jobs: JobRegistry, losses: list[list[float | None]], job_id: str = "job", **study: Any) -> None:
    """Leave an ended job whose sets have these losses. None is a task that failed."""
    add_job(jobs, job_id, [{"x": number} for number in range(len(losses))], n_replicates=len(losses[0]), **study)
    values = dict(enumerate(loss for of_set in losses for loss in of_set))
    Ledger(jobs.store, job_id)(
        *(attempt(task, "failed" if loss is None else "succeeded") for task, loss in values.items())
    )
    if found := {task: {"loss": loss} for task, loss in values.items() if loss is not None}:
        leave_scalars(jobs, job_id, found)
    jobs.finalize_job(job_id, "succeeded")


def test_the_best_sets_come_first_and_those_that_may_be_are_marked(cli: Cli, jobs: JobRegistry) -> None:
    leave_losses(jobs, [[5.0, 6.0, 7.0], [1.0, 2.0, 3.0], [9.0, 9.5, 9.25], [0.0, 3.0, 4.5], [None] * 3])
    ran = cli.ok("results", "job", "--best", "loss", "--limit", "4")
    assert ran.out == (
        "?  x  DONE  loss         ERROR\n"
        "*  1  3/3   2.0 ± 2.5\n"
        "*  3  3/3   2.5 ± 5.7\n"
        "*  0  3/3   6.0 ± 2.5\n"
        "   2  3/3   9.25 ± 0.62\n"
    )
    assert ran.err == (
        "2 more sets may be the best: their 95 % intervals overlap that of the first.\n"
        "1 set has no value of loss, and comes last.\n"
        "3 failed of 15 tasks: the means leave them out.\n"
        "The first 4 of 5 parameter sets (--limit 0 shows all).\n"
    )
    document = cli.ok("results", "job", "--worst", "loss", "--json").json
    jsonschema.validate(document, load_schema("results"))
    assert [(row["x"], row["may_be_worst"]) for row in document["sets"]] == [
        (2, True), (0, False), (3, False), (1, False), (4, None),
    ]  # fmt: skip
    assert (document["may_be_first"], document["sorted_by"], document["descending"]) == (0, "loss.mean", True)
    highest = cli.ok("results", "job", "--best=-loss", "--json").json
    assert [row["may_be_best"] for row in highest["sets"]] == [row["may_be_worst"] for row in document["sets"]]


def test_the_share_of_marked_sets_is_that_of_intervals_that_overlap(cli: Cli, jobs: JobRegistry) -> None:
    """A study with 30 % NaN has the right counts, means and best sets."""
    draw = random.Random(7)
    losses: list[list[float | None]] = [
        [math.nan if draw.random() < 0.3 else draw.gauss(number, 2) for _ in range(20)] for number in range(30)
    ]
    leave_losses(jobs, losses)
    document = cli.ok("results", "job", "--best", "loss", "--limit", "0", "--json").json
    finite = [[loss for loss in of_set if loss is not None and math.isfinite(loss)] for of_set in losses]
    assert document["total"] == 30
    for row in document["sets"]:
        values = finite[row["x"]]
        assert (row["loss.n"], row["loss.n_nan"]) == (len(values), 20 - len(values))
        assert (row["loss.mean"], row["loss.sd"]) == pytest.approx((statistics.fmean(values), statistics.stdev(values)))
    means = [row["loss.mean"] for row in document["sets"]]
    assert means == sorted(means)
    first = document["sets"][0]
    limit = first["loss.mean"] + first["loss.half_width"]
    marked = [row["loss.mean"] - row["loss.half_width"] <= limit for row in document["sets"]]
    assert [row["may_be_best"] for row in document["sets"]] == marked
    assert document["may_be_first"] == sum(marked) - 1 > 0
    assert sum(20 - len(values) for values in finite) == sum(row["loss.n_nan"] for row in document["sets"])


def test_a_mean_of_fewer_values_than_tasks_says_so(cli: Cli, jobs: JobRegistry) -> None:
    leave_losses(jobs, [[1.0, 3.0, math.nan]])
    assert cli.ok("results", "job", "--by", "set").out == "DONE  loss          ERROR\n3/3   2 ± 13 (n=2)\n"


def test_one_replicate_has_no_interval_and_says_so(cli: Cli, jobs: JobRegistry) -> None:
    leave_losses(jobs, [[2.0], [1.0]])
    ran = cli.ok("results", "job", "--best", "loss")
    assert ran.out == "?  x  DONE  loss  ERROR\n   1  1/1   1\n   0  1/1   2\n"
    assert ran.err == ("2 sets have one value of loss, so no interval: how sure the order is there is not known.\n")


def test_sets_are_sorted_by_a_result_or_a_column(cli: Cli, jobs: JobRegistry) -> None:
    leave_losses(jobs, [[2.0, None], [1.0, 4.0], [3.0, 3.0]])

    def order(*argv: str) -> list[int]:
        return [row["x"] for row in cli.ok("results", "job", *argv, "--json").json["sets"]]

    assert order("--sort", "loss") == [0, 1, 2]
    assert order("--sort=-loss") == [2, 1, 0]
    assert order("--sort=-failed", "--limit", "1") == [0]
    assert order("--sort=-x", "--limit", "2") == [2, 1]
    assert order("--sort", "loss.sd") == [2, 1, 0]


# --- names ----------------------------------------------------------------------------------------------------------


def test_a_result_has_a_short_name_if_no_other_has_it(cli: Cli, jobs: JobRegistry) -> None:
    run_task(jobs, [{"x": 1, "loss": 2}], loss=1, fit={"error": 2, "peak": 3}, data={"peak": 4}, text="a")
    for name in ("loss", "result.loss", "result.json/loss"):
        assert cli.ok("results", "job", "--best", name, "--json").json["sorted_by"] == "result.loss.mean"
    assert cli.ok("results", "job", "--best", "error", "--json").json["sorted_by"] == "fit.error.mean"
    for name, sentence in (
        ("peak", "several results have it. Name one of: data.peak, fit.peak."),
        ("text", "its values are not numbers. The numbers are: data.peak, fit.error, fit.peak, result.loss."),
        ("fit.peek", "no result has it. The numbers are: data.peak, fit.error, fit.peak, result.loss. Did you mean"),
    ):
        said = cli.fails(2, "results", "job", "--best", name)
        assert f"invalid scalar '{name}': {sentence}" in " ".join(said.split())


def test_a_job_without_numbers_says_so(cli: Cli, jobs: JobRegistry) -> None:
    """Its sets are there, and their errors."""
    leave_losses(jobs, [[None], [None]])
    ran = cli("results", "job", "--best", "loss")
    assert (ran.code, ran.err) == (2, "error: invalid scalar 'loss': no task has left a number so far.\n")
    assert cli.ok("results", "job", "--by", "set", "--csv").out.count("ValueError: beta is 0.93") == 2


def test_a_session_that_was_asked_for_nothing_has_an_empty_table(cli: Cli, jobs: JobRegistry) -> None:
    """Not an error: its sets may come later. SQL has no rows either."""
    empty = Manifest(job_id="job", study=study([], may_grow=True), bundle=BUNDLE, grows=60.0)
    jobs.store.create_if_absent(manifest_key("job"), empty.to_json())
    jobs.register_job("job", **empty.record_fields())
    assert cli.ok("results", "job", "--by", "set", "--json").json["sets"] == []
    assert cli.ok("results", "job", "--by", "set").lines[1:] == []
    assert cli.ok("query", "SELECT * FROM results", "--job", "job", "--json").json["rows"] == []


def test_sql_has_names_that_differ_by_more_than_case(cli: Cli, jobs: JobRegistry) -> None:
    """A list is a text, and a seed from 2^63 on keeps its digits."""
    run_task(jobs, [{"params": {"R": 1, "r": [2], 'a"b.c': True}, "seed": 2**63 + 1}], peak=1.5)
    sql = 'SELECT R, r_2, "a""b.c", seed, peak FROM results'
    (row,) = cli.ok("query", sql, "--job", "job", "--json").json["rows"]
    assert list(row.values()) == [1, "[2]", 1, str(2**63 + 1), 1.5]


def test_views_of_results_need_the_name_of_a_job(cli: Cli, jobs: JobRegistry) -> None:
    """With it, the other views are there too, and nothing else."""
    leave_losses(jobs, [[2.0], [1.0]])
    ran = cli("query", "SELECT * FROM result_sets")
    assert (ran.code, ran.err.splitlines()[-1]) == (2, "hint: Name the jobs whose results it reads: --job JOB.")
    sql = "SELECT count(*) AS n FROM results JOIN attempts USING (job_id, task) JOIN jobs USING (job_id)"
    assert cli.ok("query", sql, "--job", "job", "--json").json["rows"] == [{"n": 2}]
    assert cli("query", "SELECT * FROM task_row", "--job", "job").code == 2
    assert cli("query", "DELETE FROM cache.job", "--job", "job").code == 2


# --- jobs -----------------------------------------------------------------------------------------------------------


def test_jobs_with_a_label_share_a_table(cli: Cli, jobs: JobRegistry) -> None:
    """Each family has rows of its own: their code may differ."""
    leave_losses(jobs, [[3.0, 3.5]], "a")
    leave_losses(jobs, [[1.0, 1.5], [2.0, 2.0]], "b")
    leave_losses(jobs, [[0.0, 0.5]], "c")
    for job_id in ("a", "b"):
        jobs.change_labels(job_id, {"sweep": "7"})
    document = cli.ok("results", "--label", "sweep=7", "--best", "loss", "--json").json
    assert [(row["job_id"], row["x"], row["loss.mean"]) for row in document["sets"]] == [
        ("b", 0, 1.25), ("b", 1, 2.0), ("a", 0, 3.25),
    ]  # fmt: skip
    assert document["sets"][0]["param_id"] == document["sets"][2]["param_id"] == param_id({"x": 0})


# --- the file -------------------------------------------------------------------------------------------------------


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the paths of the files that are made."""
    paths: list[str] = []
    make = result_sets.make_sets
    monkeypatch.setattr(
        result_sets, "make_sets", lambda table, path, *rest: paths.append(path) or make(table, path, *rest)
    )
    return paths


def test_a_second_look_reads_the_file_and_a_new_chunk_makes_it_anew(
    cli: Cli, jobs: JobRegistry, made: list[str]
) -> None:
    add_job(jobs, "job", [{"x": 1}], n_replicates=3)
    ledger = Ledger(jobs.store)
    ledger(attempt(0))
    leave_scalars(jobs, "job", {0: {"loss": 1}})
    for _ in range(2):
        assert results_table(cli, "job", "--by", "set")[0]["loss.n"] == "1"
    assert len(made) == 1
    assert stat.S_IMODE(Path(made[0]).stat().st_mode) == 0o600
    ledger(attempt(1))
    leave_scalars(jobs, "job", {1: {"loss": 2}}, number=1)
    assert results_table(cli, "job", "--by", "set")[0]["loss.n"] == "2"
    assert len(made) == 2


@pytest.mark.parametrize("share", [0, 0.5, 0.9])
def test_a_damaged_file_is_made_anew(cli: Cli, jobs: JobRegistry, made: list[str], share: float) -> None:
    """A power cut may leave one: it is not waited for."""
    leave_losses(jobs, [[float(number), 1.0] for number in range(200)])
    expected = cli.ok("results", "job", "--by", "set", "--table", "-").out
    value = Path(made[0]).read_bytes()
    Path(made[0]).write_bytes(value[: int(len(value) * share)] + bytes(int(len(value) * (1 - share))))
    assert cli.ok("results", "job", "--by", "set", "--table", "-").out == expected
    assert len(made) == 2


def test_without_a_place_for_the_file_nothing_is_kept(cli: Cli, jobs: JobRegistry, made: list[str]) -> None:
    """The answer is the same, in SQL too."""
    leave_losses(jobs, [[2.0, 3.0], [1.0, 1.5]])
    Path(f"{cli.app().cache.path}-results").touch()
    for _ in range(2):
        (first, _) = cli.ok("results", "job", "--best", "loss", "--json").json["sets"]
        assert (first["x"], first["loss.mean"]) == (1, 1.25)
    assert cli.ok("query", "SELECT max(loss) FROM results", "--job", "job", "--tsv").out == "3.0\n"
    assert len(made) == 3


def test_values_of_outputs_are_read_again(cli: Cli, jobs: JobRegistry, made: list[str]) -> None:
    """They are in no chunk, and may change."""
    run_task(jobs, [{"x": 1}], loss=1)
    for _ in range(2):
        assert results_table(cli, "job", "--by", "set")[0]["loss.mean"] == "1.0"
    assert len(made) == 2


def test_the_file_answers_offline(cli: Cli, remote: Remote) -> None:
    leave_losses(remote.jobs, [[2.0, 3.0], [1.0, 1.5]])
    cli.clock.advance(minutes=5)
    expected = cli.ok("results", "job", "--best", "loss").out
    remote.store.down = True
    ran = cli.ok("results", "job", "--best", "loss", "--offline")
    assert ran.out == expected
    assert "; data: synced " in ran.err
    ran = cli("results", "job", "--best", "loss")
    assert (ran.code, ran.err.splitlines()[-1]) == (5, "hint: To write what the cache has, add --offline.")


def test_the_files_that_were_used_last_are_kept(
    cli: Cli, jobs: JobRegistry, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_sets, "MAX_FILES", 2)
    for job_id in ("a", "b", "c"):
        leave_losses(jobs, [[2.0]], job_id)
    for job_id in ("a", "b", "a", "c", "a", "b"):
        cli.ok("results", job_id, "--by", "set")
    a, b, c = made[:3]
    assert made == [a, b, c, b]


def test_a_table_with_too_many_columns_has_the_first_results(
    cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_sets, "MAX_COLUMNS", 11)
    run_task(jobs, [{"x": 1}], a=1, b=2, c=3)
    ran = cli.ok("results", "job", "--table", "-", "--by", "set")
    assert [name for name in ran.out.splitlines()[0].split(",") if "mean" in name] == ['"a.mean"', '"b.mean"']
    assert "1 more result: `--table` without `--by set` has all." in ran.err


def test_the_error_of_a_set_is_the_last_of_the_most_frequent_ones(cli: Cli, jobs: JobRegistry) -> None:
    """Errors are the same by their signature, whatever the numbers in their messages."""
    add_job(jobs, "job", [{"x": 1}], n_replicates=4)
    errors = [AttemptError(kind, "ValueError", "m.py:1", str(place)) for place, kind in enumerate("abba")]
    Ledger(jobs.store)(*(attempt(task, "failed", error=error) for task, error in enumerate(errors[:3])))
    (row,) = results_table(cli, "job", "--by", "set")
    assert (row["failed"], row["error"]) == ("3", "ValueError: 2")


def test_a_kept_table_goes_with_the_ledgers_of_reused_tasks(cli: Cli, jobs: JobRegistry, family: str) -> None:
    """If the outputs of a source and its ledgers are gone, no view has their values."""
    for _ in range(2):
        cli("results", family, "--by", "set")
    for key in list(jobs.store.list_keys()):
        if key.startswith(("ledger/source/", "results/source/")):
            jobs.store.delete(key)
    with contextlib.closing(sqlite3.connect(cli.cache)) as cache, cache:
        for name in ("ledger_chunk", "ledger", "task", "attempt"):
            cache.execute(f"DELETE FROM {name} WHERE job_id = 'source'")
    table = csv.DictReader(io.StringIO(cli("results", family, "--table", "-").out))
    rows = [row for row in table if row["x"] == "3" and row["loss"]]
    (found,) = [row for row in cli("results", family, "--by", "set", "--json").json["sets"] if row["x"] == 3]
    assert (len(rows), found["loss.n"]) == (0, 0)


def test_a_kept_table_goes_with_outputs_of_a_source(cli: Cli, jobs: JobRegistry) -> None:
    """After a prune, the outputs of a source tell which reused tasks are complete. Each view follows."""
    source = add_job(jobs, "source", [{"x": 1}, {"x": 2}], attempts=[attempt(0), attempt(1)])
    leave_scalars(jobs, "source", {number: {"loss": float(number)} for number in range(2)})
    for number in range(2):
        leave_output(jobs, source, number, loss=float(number))
    add_job(jobs, "job", [{"x": 1}, {"x": 2}, {"x": 3}], reused=(Reuse("source", BUNDLE, ((0, 2),)),))
    Ledger(jobs.store)(attempt(2, "failed"))
    for job_id in ("source", "job"):
        jobs.finalize_job(job_id, "succeeded")
    cli("list")
    for _ in range(2):
        sets = cli("results", "job", "--by", "set", "--json").json["sets"]
        assert [one["loss.n"] for one in sets] == [1, 1, 0]
    jobs.store.delete(next(iter(jobs.store.list_keys("results/source/"))))
    cli.clock.advance(minutes=5)
    cli("prune", "--older-than", "1m", "--yes")
    table = csv.DictReader(io.StringIO(cli("results", "job", "--table", "-").out))
    sets = cli("results", "job", "--by", "set", "--json").json["sets"]
    assert [one["loss.n"] for one in sets] == [int(row["loss"] != "") for row in table] != [1, 1, 0]


def test_no_set_is_surely_the_best_if_values_are_left_out(cli: Cli, jobs: JobRegistry) -> None:
    """A loss that is infinite in half of the replicates is in no mean, so the mean says little of its set."""
    manifest = add_job(jobs, "job", [{"x": 1}, {"x": 2}], n_replicates=4)
    losses = [0.1, math.inf, 0.2, math.inf, 2.0, 2.1, 2.2, 2.3]
    Ledger(jobs.store)(*map(attempt, range(8)))
    leave_scalars(jobs, "job", {number: {"loss": loss, "size": loss} for number, loss in enumerate(losses)})
    for number, loss in enumerate(losses):
        leave_output(jobs, manifest, number, loss=loss)
    jobs.finalize_job("job", "succeeded")
    told = cli("results", "job", "--best", "loss").err
    assert "No other 95 % interval overlaps that of the first; NaN and infinities of loss are in none.\n" in told
    assert "may be the best" not in told

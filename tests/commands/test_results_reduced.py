"""`results --reduced --table`: a row per parameter set, and one of the job, with what the reduce function left."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pytest

import mopsjobs
from mopsjobs.studies.manifest import NAMES_NAME
from mopsjobs.studies.outputs import reduction_key
from support.ledgers import add_job, leave_output, results_table

if TYPE_CHECKING:
    from mopsjobs.registry.job_registry import JobRegistry
    from mopsjobs.studies.manifest import Manifest
    from support.cli import Cli

REDUCE = {"reduce": "means:summarise", "n_replicates": 2}


def reduce(jobs: JobRegistry, manifest: Manifest, place: int | None, tasks: int, **outputs: bytes) -> None:
    """Store the outputs of a reduction, named without their endings, as a runner does."""
    param_id = None if place is None else list(manifest.study.sets_by_id())[place]
    endings = {"result": "json", "table": "csv", "plot": "png"}
    named = {f"{name}.{endings[name]}": value for name, value in outputs.items()}
    for name, value in {**named, NAMES_NAME: json.dumps(sorted(named)).encode()}.items():
        jobs.store.create_if_absent(reduction_key(manifest.job_id, param_id, tasks, name), value)


def made_by(out: str) -> list[tuple[str, str]]:
    """Return the job and the number of tasks of each row of a table."""
    return [(row["job_id"], row["tasks"]) for row in csv.DictReader(io.StringIO(out))]


@pytest.fixture
def reduced(jobs: JobRegistry) -> Manifest:
    """Return a job of three parameter sets, of which the function has reduced the first one to nothing."""
    manifest = add_job(jobs, "job", [{"beta": 0.5}, {"beta": 1}, {"beta": None}], status="partial", **REDUCE)
    leave_output(jobs, manifest, 2, peak=100)
    reduce(jobs, manifest, 0, 2)
    reduce(jobs, manifest, 2, 2, result=b'{"mean": 0.25, "fit": {"ok": true}, "series": [1, 2]}', plot=b"PNG")
    reduce(jobs, manifest, 1, 1, result=b'{"mean": 3}', table=b"low,high\n1,2\n")
    reduce(jobs, manifest, None, 3, result=b'{"loss": 7, "tasks": "three"}')
    return manifest


def test_each_reduction_has_a_row_and_the_job_comes_last(cli: Cli, reduced: Manifest) -> None:
    """In the order of the study, with parameters, the number of tasks, and scalars, named as in a table of tasks."""
    ids = list(reduced.study.sets_by_id())
    rows = results_table(cli, "job", "--reduced")
    assert list(rows[0]) == [
        "job_id", "param_id", "beta", "tasks", "fit.ok", "loss", "mean", "result.tasks", "high", "low",
    ]  # fmt: skip
    assert [list(row.values()) for row in rows] == [
        ["job", ids[0], "0.5", "2", "", "", "", "", "", ""],
        ["job", ids[1], "1.0", "1", "", "", "3.0", "", "2", "1"],
        ["job", ids[2], "", "2", "true", "", "0.25", "", "", ""],
        ["job", "", "", "3", "", "7", "", "three", "", ""],
    ]


def test_python_programs_have_the_same_table(cli: Cli, reduced: Manifest) -> None:
    with mopsjobs.connect(env=cli.env) as registry:
        table = registry.job("job").reduced_table()
    assert [row["mean"] for row in table] == [None, 3, 0.25, None]
    assert [row["tasks"] for row in table] == [2, 1, 2, 3]
    assert repr(table) == "<Table of reductions of job: 4 rows>"


def test_a_family_has_the_last_reduction_of_each_set(cli: Cli, jobs: JobRegistry, reduced: Manifest) -> None:
    """Each names the job that made it. A job that is not reduced yet is named."""
    child = add_job(jobs, "job.2", [{"beta": 0.5}, {"beta": 1}, {"beta": None}], only=(0, 1, 3), **REDUCE)
    reduce(jobs, child, 1, 2, result=b'{"mean": 4}')
    add_job(jobs, "other", [{"beta": 2}], **REDUCE)
    ran = cli("results", "job", "job.2", "other", "--table", "-", "--reduced")
    assert made_by(ran.out) == [("job", "2"), ("job.2", "2"), ("job", "2"), ("job", "3")]
    assert ran.code == 7
    assert "warning: Job other has no outputs of means:summarise." in ran.err
    assert [row["tasks"] for row in results_table(cli, "job", "--reduced")] == ["2", "1", "2", "3"]


@pytest.mark.parametrize("names", [["job.2", "job.3"], ["job.3", "job", "job.2"]])
def test_two_children_of_one_job_are_one_family(
    cli: Cli, jobs: JobRegistry, reduced: Manifest, names: list[str]
) -> None:
    """In whichever order they are named, the newest job that reduced a set has its row."""
    sets = [{"beta": 0.5}, {"beta": 1}, {"beta": None}]
    first, second = (add_job(jobs, job_id, sets, only=(0, 1, 3), **REDUCE) for job_id in ("job.2", "job.3"))
    reduce(jobs, first, 1, 2, result=b'{"mean": 4}')
    for place, child in enumerate((first, second)):
        reduce(jobs, child, None, 4 + place, result=b'{"loss": 6}')
    ran = cli.ok("results", *names, "--table", "-", "--reduced")
    assert made_by(ran.out) == [("job", "2"), ("job.2", "2"), ("job", "2"), ("job.3", "5")]


@pytest.mark.parametrize(
    ("places", "sentence"),
    [
        ([0, 2], "2 of 4 parameter sets of job job, and the whole job, are not reduced."),
        ([0, 2, None], "2 of 4 parameter sets of job job are not reduced."),
        ([0, 1, 2, None], "1 of 4 parameter sets of job job is not reduced."),
        ([0, 1, 2, 3], "Job job is not reduced as a whole."),
    ],
)
def test_what_is_not_reduced_is_counted(cli: Cli, jobs: JobRegistry, places: list[int | None], sentence: str) -> None:
    """The others have their rows. The exit code is that of a part that is lacking."""
    manifest = add_job(jobs, "job", [{"beta": beta} for beta in range(4)], status="partial", **REDUCE)
    for place in places:
        reduce(jobs, manifest, place, 2, result=b'{"mean": 3}')
    ran = cli("results", "job", "--table", "-", "--reduced")
    assert (ran.code, len(made_by(ran.out))) == (7, len(places))
    assert f"warning: {sentence}\n" in ran.err


def test_sets_with_new_tasks_of_a_child_count_as_not_reduced(cli: Cli, jobs: JobRegistry, reduced: Manifest) -> None:
    """Their reductions by the parent lack these tasks."""
    child = add_job(jobs, "job.2", [{"beta": 0.5}, {"beta": 1}, {"beta": None}], only=(0, 1, 3), **REDUCE)
    leave_output(jobs, child, 1, peak=100)
    ran = cli("results", "job.2", "--table", "-", "--reduced")
    assert (ran.code, made_by(ran.out)) == (7, [("job", "1"), ("job", "2")])
    assert "warning: 1 of 3 parameter sets of job job.2, and the whole job, are not reduced." in ran.err


def test_reductions_to_nothing_have_rows_without_scalars(cli: Cli, jobs: JobRegistry) -> None:
    manifest = add_job(jobs, "job", [{"beta": 1}], status="succeeded", **REDUCE)
    for place in (0, None):
        reduce(jobs, manifest, place, 2)
    rows = results_table(cli, "job", "--reduced")
    assert [list(row) for row in rows] == [["job_id", "param_id", "beta", "tasks"]] * 2
    assert [row["beta"] for row in rows] == ["1", ""]


def test_a_damaged_output_is_left_out_and_counted(cli: Cli, jobs: JobRegistry, reduced: Manifest) -> None:
    reduce(jobs, reduced, 0, 3, result=b"{")
    ran = cli.ok("results", "job", "--table", "-", "--reduced")
    assert len(ran.out.splitlines()) == 5
    assert "1 value of outputs left out" in ran.err


@pytest.mark.parametrize(
    ("study", "sentence"),
    [
        ({}, "Job job names no reduce function."),
        (REDUCE, "Job job has no outputs of means:summarise."),
    ],
)
def test_a_job_that_nothing_reduced_is_refused(
    cli: Cli, jobs: JobRegistry, study: dict[str, object], sentence: str
) -> None:
    add_job(jobs, "job", [{"beta": 1}], **study)  # type: ignore[arg-type] - as a study file has it
    ran = cli("results", "job", "--table", "-", "--reduced")
    assert (ran.code, ran.out, ran.err) == (6, "", f"error: {sentence}\n")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--mean"], "--reduced has a row per parameter set: it takes neither --mean nor --quantile."),
        (["--offline"], "--reduced does not work with --offline: the cache has no outputs."),
    ],
)
def test_what_reductions_do_not_have_is_refused(cli: Cli, reduced: Manifest, flags: list[str], sentence: str) -> None:
    ran = cli("results", "job", "--table", "-", "--reduced", *flags)
    assert (ran.code, ran.out, ran.err) == (2, "", f"error: {sentence}\n")

"""A study whose results are NaN and infinite, from its model through all that reads a job."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.cli import Cli
from support.desk import Desk

pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

MODEL = """
import math

def simulate(params, seed):
    if params["x"] == 2 and seed == 7:
        return {"result.json": {"fit": {"loss": math.nan}, "trace": [1.0, math.inf]}}
    if params["x"] == 2:
        return {"result.json": b'{"fit": {"loss": -Infinity}}'}
    return {
        "result.json": {"fit": {"loss": float(params["x"])}},
    }

def summarise(params, tasks):
    return {"losses": sorted(str(task.json()["fit"]["loss"]) for task in tasks)}
"""

SETS = [{"params": {"x": x}, "seed": seed} for x in (1, 2, 4) for seed in (7, 8)]


@pytest.fixture
def desk(cli: Cli, tmp_path: Path) -> Iterator[Desk]:
    with closing(Desk(cli, tmp_path / "desk")) as made:
        (made.home / "model.py").write_text(MODEL)
        yield made


def test_results_that_are_not_finite_are_kept_by_all_that_reads_a_job(desk: Desk) -> None:
    """Outputs are strict JSON or as the model wrote them. Means, reductions, comparisons and replays have values."""
    desk.submit(SETS, reduce="model:summarise")
    desk.submit(SETS, job_id="again")
    assert (desk.ended(), desk.ended("again")) == ("succeeded", "succeeded")
    outputs = desk.results("again").values()
    marked = b'{"$not_finite": {"/fit/loss": "nan", "/trace/1": "inf"}, "fit": {"loss": null}, "trace": [1.0, null]}'
    assert marked in outputs
    assert b'{"fit": {"loss": -Infinity}}' in outputs
    assert "6 of 6 tasks verified" in desk.ok("validate", "again").out
    rows = list(csv.DictReader(io.StringIO(desk.ok("results", "job", "--by", "set", "--table", "-").out)))
    assert [(row["fit.loss.n"], row["fit.loss.n_nan"], row["fit.loss.mean"]) for row in rows] == [
        ("2", "0", "1.0"), ("0", "2", ""), ("2", "0", "4.0"),
    ]  # fmt: skip
    reduced = [
        json.loads(value)["losses"]
        for name, value in desk.results().items()
        if name.endswith(("reduced-2/result.json", "reduced-6/result.json"))
    ]
    assert ["-inf", "nan"] in reduced
    assert ["-inf", "1.0", "1.0", "4.0", "4.0", "nan"] in reduced
    compared = json.loads(desk("diff", "job", "again", "--json").out)["results"]
    assert (compared["equal"], compared["different"]) == (6, 0)
    assert desk.ok("replay", "again", "2").code == 0


def test_a_study_that_refuses_nan_fails_these_tasks(desk: Desk) -> None:
    """With the key. The other tasks are done, and those of the study that allowed it are not reused."""
    desk.run("partial", SETS, allow_nan=False)
    groups = json.loads(desk.ok("failures", "job", "--json").out)["groups"]
    assert sorted((one["type"], one["message"]) for one in groups) == [
        ("ResultError", "key 'result.json/fit/loss' is -inf, and the study says allow_nan: false"),
        ("ResultError", "key 'result.json/fit/loss' is nan, and the study says allow_nan: false"),
    ]
    study = desk.write(SETS)
    reused = desk.ok("submit", study, "--auto", "--job-id", "more", "--extend", "job")
    assert "4 of 6 tasks" in reused.out + reused.err
    assert desk.ended("more") == "succeeded"
    desk.write(SETS, allow_nan=False)
    refused = desk("submit", study, "--auto", "--job-id", "strict", "--extend", "more", "--dry-run")
    assert "`allow_nan` of its study differs" in refused.out + refused.err

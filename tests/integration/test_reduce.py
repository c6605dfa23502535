"""A job with a reduce function on this machine: killed, resumed, repaired, and what each view shows of it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import mopsjobs as mj
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.studies.study import ParameterSet
from mopsjobs.studies.study_parser import parse_study
from support.cli import Cli
from support.desk import Desk
from support.runs import MODEL, calls, code, is_alive, kill, kill_between_reports, record, sets_of, until

# A runner outlives the process that launched it, here this very process.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

REDUCING = (
    MODEL
    + """
def summarise(params, tasks):
    with_seeds = [task.json() for task in tasks]
    path = next(iter(tasks)).params["calls"]
    note(path + "-reduced", "-1" if params is None else str(params["x"]))
    if params is not None and params["x"] == 2:
        end = time.monotonic() + 600
        while not os.path.exists(path + "-gate") and time.monotonic() < end:
            time.sleep(0.005)
        if not os.path.exists(path + "-allowed"):
            raise ValueError("two is refused")
    return {"tasks": len(with_seeds), "missing": tasks.missing}
"""
)


@pytest.fixture
def desk(cli: Cli, tmp_path: Path) -> Iterator[Desk]:
    """Yield a desk with a model that has a reduce function, which waits for a gate at the last set."""
    with closing(Desk(cli, tmp_path / "desk")) as made:
        code(made.home, REDUCING)
        yield made


def reduced(desk: Desk, job_id: str) -> dict[str, Any]:
    """Return what `results` lists of the reduce function: tasks by set, or None for the job."""
    listed = [json.loads(line) for line in desk.ok("results", job_id, "--json").out.splitlines()]
    assert all(one["task"] is None and one["seed"] is None for one in listed if one["reduced"] is not None)
    return {
        None if one["params"] is None else one["params"]["x"]: one["reduced"]
        for one in listed
        if one["reduced"] is not None
    }


def test_a_job_is_reduced_once_through_a_crash_and_an_error(desk: Desk, tmp_path: Path) -> None:
    """The runner of 3 x 4 tasks and a failing one is killed while it reduces. Then the function fails, then nothing.

    No task that is done is computed twice, and no reduction that is done.
    """
    noted, needed = tmp_path / "calls", tmp_path / "needed"
    of_reduce = Path(f"{noted}-reduced")
    sets = sets_of(3, calls=str(noted))
    failing = {"params": {"x": 3, "calls": str(noted), "needs": str(needed)}, "seed": 7}
    desk.submit([*sets, failing], n_replicates=4, reduce="model:summarise")
    desk.until(lambda: calls(of_reduce)[2], "the last set to be reduced")
    desk.until(lambda: len([name for name in desk.results() if "/reduced-" in name]) == 6, "the others to be stored")
    assert calls(noted) == {0: 4, 1: 4, 2: 4, 3: 1}
    kill(desk.runner())
    until(lambda: not is_alive(desk.runner()), "the runner to be gone")

    Path(f"{noted}-gate").touch()
    desk.ok("resume", "job")
    assert desk.ended() == "partial"
    assert calls(of_reduce) == {0: 1, 1: 1, 2: 2, -1: 1}  # the last set alone
    assert calls(noted) == {0: 4, 1: 4, 2: 4, 3: 2}  # a failed task is tried again, as without a reduce function
    said = "the reduce function model:summarise failed (1 reduction): x=2: ValueError: two is refused"
    status = desk.ok("status", "job", "--json").json
    assert (status["tasks_total"], status["tasks_completed"], status["tasks_failed"]) == (13, 12, 1)
    assert said in status["error_message"]
    assert said in " ".join(desk.ok("failures", "job").err.split())
    assert "in summarise" in desk.ok("logs", "job").out
    assert desk.ok("validate", "job").out == "job: 12 of 13 tasks, 3 of 4 reductions verified; partial\n"

    for path in (needed, Path(f"{noted}-allowed")):
        path.touch()
    assert desk.ok("resume", "job").out == "job.2\n"
    assert desk.ended("job.2") == "succeeded"
    assert calls(noted)[3] == 3
    assert calls(of_reduce) == {0: 1, 1: 1, 2: 3, 3: 1, -1: 2}
    assert reduced(desk, "job.2") == {0: 4, 1: 4, 2: 4, 3: 1, None: 13}
    assert "nothing is missing" in desk.ok("resume", "job.2").err
    _check_views(desk, parse_study({"model": "m", "parameter_sets": sets}).parameter_sets[1])


def test_a_kill_while_reducing_ends_the_job_at_the_next_look(desk: Desk, tmp_path: Path) -> None:
    """By its outputs and its reductions: all tasks are complete, and one reduction is missing. A child makes that."""
    noted = tmp_path / "calls"
    of_reduce = Path(f"{noted}-reduced")
    desk.submit(sets_of(3, calls=str(noted)), n_replicates=4, reduce="model:summarise")
    desk.until(lambda: calls(of_reduce)[2], "the last set to be reduced")
    desk.until(lambda: len([name for name in desk.results() if "/reduced-" in name]) == 6, "the others to be stored")
    desk.until(lambda: record(desk.jobs).tasks_completed == 12, "the report of the tasks")
    kill_between_reports(desk.runner(), JobDir.for_job("job", desk.env), lambda: record(desk.jobs).heartbeat_at)

    job = desk.ok("status", "job", "--json").json
    assert (job["status"], job["error_code"], job["tasks_completed"], job["tasks_failed"]) == ("partial", "LOST", 12, 0)
    left = "the reduce function model:summarise left no outputs (1 reduction)"
    assert left in job["error_message"]
    assert ["/reduced-4/" in name for name in job["missing_outputs"]] == [True]
    assert left in desk.ok("failures", "job").err
    assert desk.ok("validate", "job").out == "job: 12 of 12 tasks, 3 of 4 reductions verified; partial\n"
    for path in (f"{noted}-gate", f"{noted}-allowed"):
        Path(path).touch()
    assert desk.ok("resume", "job").out == "job.2\n"
    assert desk.ended("job.2") == "succeeded"
    assert reduced(desk, "job.2") == {0: 4, 1: 4, 2: 4, None: 12}
    assert calls(noted) == {0: 4, 1: 4, 2: 4}
    assert calls(of_reduce) == {0: 1, 1: 1, 2: 2, -1: 1}


def _check_views(desk: Desk, one: ParameterSet) -> None:
    """Look at what downloads, comparisons, the page and Python show of the job in the end."""
    desk.ok("results", "job.2", "--download", "out")
    out = desk.home / "out"
    assert json.loads((out / "all" / "reduced-13" / "result.json").read_text()) == {"tasks": 13, "missing": 0}
    assert (out / one.param_id / "reduced-4" / "result.json").exists()
    assert (out / "tasks.csv").read_text().count("complete") == 13
    assert len(desk.ok("results", "job.2", "--table", "-").out.splitlines()) == 14
    assert desk.ok("provenance", "job.2", "--json").json["study"]["reduce"] == "model:summarise"
    compared = desk("diff", "job", "job.2", "--json").json["results"]
    assert compared["equal"] + compared["only_second"] == 13
    with mj.connect(env=desk.env) as registry:
        job = registry.job("job.2")
        assert json.loads(job.reduced()["result.json"]) == {"tasks": 13, "missing": 0}
        assert json.loads(job.reduced(one.params)["result.json"]) == {"tasks": 4, "missing": 0}
        with pytest.raises(mj.NoOutputsError, match="has no outputs of model:summarise for that"):
            job.reduced({"x": 99})


def test_an_extension_reduces_over_reused_and_new_tasks(desk: Desk, tmp_path: Path) -> None:
    """And a job without tasks, made by `resume`, runs what failed of the reduce function alone."""
    noted = tmp_path / "calls"
    Path(f"{noted}-gate").touch()
    sets = sets_of(3, calls=str(noted))
    desk.run("partial", sets, n_replicates=2, reduce="model:summarise", job_id="first")
    assert "Next: mops-jobs logs first\n" in desk.ok("status", "first").err
    assert reduced(desk, "first") == {0: 2, 1: 2, None: 6}
    Path(f"{noted}-allowed").touch()
    assert "first.2: only the reduce function to run" in desk.ok("resume", "first").err
    assert desk.ended("first.2") == "succeeded"
    status = desk.ok("status", "first.2", "--json").json
    assert (status["tasks_total"], status["family"]["tasks_completed"]) == (0, 6)
    assert "first.2 has no tasks: it only runs the reduce function." in desk.ok("tasks", "first.2").err
    assert reduced(desk, "first.2") == {0: 2, 1: 2, 2: 2, None: 6}
    assert calls(noted) == {0: 2, 1: 2, 2: 2}
    desk.submit(sets, "--extend", "first", "--wait", n_replicates=3, reduce="model:summarise", job_id="more")
    assert calls(noted) == {0: 3, 1: 3, 2: 3}
    assert reduced(desk, "more") == {0: 3, 1: 3, 2: 3, None: 9}


COUNTING = """
def simulate(params, seed):
    return {"loss": params["x"]}


def summarise(params, tasks):
    return {"seen": sum(1 for _ in tasks)}
"""


def test_all_views_of_results_count_a_repeated_task_once(desk: Desk) -> None:
    """The table has its row. Means, reductions and `diff` count its simulation once, and each says how many repeat."""
    code(desk.home, COUNTING)
    for job_id in ("one", "two"):
        desk.submit([{"x": 1}, {"x": 2}, {"x": 1}], n_replicates=2, reduce="model:summarise", job_id=job_id)
        assert desk.ended(job_id) == "succeeded"
    told = "6 tasks, 2 of which repeat an earlier one and share its outputs"
    ran = desk.ok("results", "one", "--table", "-")
    rows = list(csv.DictReader(io.StringIO(ran.out)))
    assert (len(rows), sum(not row["repeats"] for row in rows)) == (6, 4)
    assert told in ran.err
    ran = desk.ok("results", "one", "--by", "set", "--table", "-")
    sets = list(csv.DictReader(io.StringIO(ran.out)))
    assert [(row["tasks"], row["loss.n"]) for row in sets] == [("2", "2"), ("2", "2")]
    assert told in ran.err
    listed = desk.ok("results", "one", "--json").objects
    assert sorted(one["reduced"] for one in listed if one["reduced"]) == [2, 2, 4]
    said = f"Reducing by model:summarise: 3 reductions of {told}."
    assert said in desk.ok("events", "one", "--json").out
    found = desk.ok("diff", "one", "two", "--json").json["results"]
    assert (found["equal"], found["repeated"]) == (4, [2, 2])
    sentence = "  2 tasks of {} repeat an earlier one and share its outputs: not counted\n"
    text = desk.ok("diff", "one", "two").out
    assert f"4 tasks equal\n{sentence.format('one')}{sentence.format('two')}" in text

"""`replay JOB TASK`: a task runs once more, and its outputs are compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.studies.outputs import results_prefix
from support.desk import Desk, make_desk
from support.docs import ROOT
from support.runs import make_venv, sets_of

MODEL = '''
"""A model of draws, which takes its seed unless it is told not to, and notes its calls."""
import os, random

def simulate(params, seed):
    with open(params["calls"], "a") as file:
        file.write("%s\\n" % params["x"])
    print("drawing", params["x"])
    if params.get("die"):
        os._exit(3)
    if params.get("fail"):
        raise ValueError("as asked")
    draw = random.Random(None if params.get("is_random") else seed).random()
    return {"result.json": {"draw": draw}, "large.bin": b"x" * 300_000}
'''

OUTPUTS = ["large.bin", "result.json"]


@pytest.fixture(scope="module")
def home_of_job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home with a job of three tasks: one takes its seed, one is random, and one fails.

    Each test copies its registry. The file `calls`, in which the model notes its calls, is a parameter of the tasks.
    """
    home = tmp_path_factory.mktemp("home")
    with closing(make_desk(home)) as desk:
        (desk.home / "model.py").write_text(MODEL)
        sets = sets_of(3, calls=str(home / "calls"))
        sets[1]["is_random"] = sets[2]["fail"] = True
        desk.run("partial", sets, outputs=OUTPUTS)
    shutil.copy(home / "calls", home / "calls-of-job")
    return home


@pytest.fixture
def noted(tmp_path: Path) -> Path:
    """Return the file in which the model notes its calls."""
    return tmp_path / "calls"


@pytest.fixture
def drawing(desk: Desk) -> Desk:
    """Return a desk with a model that draws."""
    (desk.home / "model.py").write_text(MODEL)
    return desk


@pytest.fixture
def ran(drawing: Desk, home_of_job: Path) -> Desk:
    """Return a desk with the job that has run."""
    return drawing.copy_registry(home_of_job)


@pytest.fixture
def noted_by_job(home_of_job: Path) -> Path:
    """Return the file in which the model of the job notes its calls. It has those of the job."""
    return Path(shutil.copy(home_of_job / "calls-of-job", home_of_job / "calls"))


def replayed(desk: Desk, *argv: str) -> tuple[int, dict[str, Any]]:
    """Replay a task. Return the exit code and the document."""
    found = desk("replay", *argv, "--json")
    assert found.out, found.err
    return found.code, found.json


def test_a_deterministic_task_is_equal_byte_for_byte(ran: Desk, noted_by_job: Path) -> None:
    before, stored = noted_by_job.read_text().split(), list(ran.store.scan())
    found = ran("replay", "job", "0")
    assert found.code == 0
    assert found.out.splitlines()[-1].split(None, 1) == ["Outputs", "equal: large.bin, result.json"]
    assert "drawing 0\n" in found.err
    assert noted_by_job.read_text().split() == [*before, "0"]
    assert list(ran.store.scan()) == stored, "the registry stays as it is"


def test_a_random_task_differs_in_what_it_draws(ran: Desk) -> None:
    found = ran("replay", "job", "1")
    assert found.code == 9
    assert found.out.splitlines()[-1].startswith("Different")
    code, document = replayed(ran, "job", "1")
    assert (code, document["equal"], document["different"]) == (9, False, ["result.json"])
    assert document["stored"].keys() == document["outputs"].keys() == set(OUTPUTS)


def test_a_task_that_fails_again_has_nothing_to_compare(ran: Desk) -> None:
    code, document = replayed(ran, "job", "2")
    assert (code, document["equal"], document["done_by"]) == (9, None, None)
    assert (document["error"]["type"], document["error"]["message"]) == ("ValueError", "as asked")


def test_a_task_whose_worker_dies_is_run_once(drawing: Desk, noted: Path) -> None:
    drawing.submit([{"x": 7, "calls": str(noted), "die": True}], "--retries", "0", outputs=OUTPUTS)
    assert drawing.ended() == "failed"
    assert replayed(drawing, "job", "0")[1]["error"]["type"] == "WorkerDied"
    assert noted.read_text().split() == ["7", "7"]


def test_an_output_that_was_changed_or_lost_is_named(ran: Desk) -> None:
    entries = {entry.key: entry for entry in ran.store.scan(results_prefix("job"))}
    (key,) = (
        f"{results_prefix('job')}{task['param_id']}/{task['seed']}/result.json"
        for task in map(json.loads, ran.ok("tasks", "job", "--jsonl").out.splitlines())
        if task["task"] == 0
    )
    assert ran.store.put(key, b"{}", entries[key].version)
    assert replayed(ran, "job", "0")[1]["different"] == ["result.json"]
    ran.store.delete(key)
    code, document = replayed(ran, "job", "0")
    assert (code, document["different"], list(document["stored"])) == (9, ["result.json"], ["large.bin"])


def test_a_task_of_a_family_or_a_source_is_compared_with_its_outputs(ran: Desk, noted_by_job: Path) -> None:
    """A child of `job` has one task. An extension of `job` has none of its own."""
    child = ran.ok("resume", "job", "--json").json["job_id"]
    ran.ended(child)
    assert replayed(ran, child, "0")[1]["done_by"] == "job"
    study = ran.write(sets_of(1, calls=str(noted_by_job)), outputs=OUTPUTS)
    ran.launched.add("more")
    ran.ok("submit", study, "--job-id", "more", "--extend", "job")
    assert ran.ended("more") == "succeeded"
    code, document = replayed(ran, "more", "0")
    assert (code, document["equal"], document["done_by"]) == (0, True, "job")


def test_another_interpreter_is_named_if_outputs_differ(ran: Desk, tmp_path: Path) -> None:
    python = make_venv(tmp_path / "one", numpy="1.0")
    ran.submit([{"x": 1, "is_random": True, "calls": str(tmp_path / "calls")}], "--python", str(python), job_id="venv")
    ran.ended("venv")
    assert replayed(ran, "venv", "0")[1]["python"] == str(python)  # that of the launch
    other = make_venv(tmp_path / "other", numpy="2.0")
    code, document = replayed(ran, "venv", "0", "--python", str(other))
    assert (code, document["environment"]) == (9, "its numpy was 1.0, and is 2.0 here")


@pytest.mark.parametrize("task", ["3", "-1", "x", "99999999999999999999"])
def test_a_task_that_the_job_lacks_is_refused(ran: Desk, task: str) -> None:
    found = ran("replay", "job", "--", task)
    assert (found.code, found.out) == (2, "")
    assert f"invalid task '{task}'" in found.err


STEPS = '''
"""A model of steps with a random generator, whose checkpoint lacks what its parameters say."""
import random
import mopsjobs as mj

def simulate(params, seed):
    rng, ck, total = random.Random(seed), mj.checkpoint(), []
    if (state := ck.load()) is not None:
        total = state["total"]
        if params["lacks"] != "rng":
            rng.setstate(state["rng"])
        if params["lacks"] == "seed":
            rng = random.Random()
    for step in range(ck.at or 0, 40):
        total.append(rng.random())
        if ck.due() or step % 10 == 9:
            ck.save({"total": total, "rng": rng.getstate()}, at=step + 1)
    return {"total": total}
'''


@pytest.fixture
def interrupted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], tuple[int, dict[str, Any]]]:
    """Return a function that runs a model, and replays it with two interruptions."""

    def replayed_twice(source: str, lacks: str) -> tuple[int, dict[str, Any]]:
        (desk.home / "model.py").write_text(source)
        desk.env["PYTHONPATH"] = str(ROOT)
        desk.run("succeeded", [{"lacks": lacks}])
        return replayed(desk, "job", "0", "--interrupt", "2")

    return replayed_twice


def test_a_model_that_saves_all_its_state_is_equal_when_interrupted(
    desk: Desk, interrupted: Callable[[str, str], tuple[int, dict[str, Any]]]
) -> None:
    code, document = interrupted(STEPS, "")
    found = document["interruption"]
    assert (code, found["equal"], found["at"][0], found["cause"]) == (0, True, "1", None)
    shown = desk("replay", "job", "0", "--interrupt", "1")
    assert (shown.code, shown.out.splitlines()[-1].split(None, 1)) == (
        0,
        ["Outputs", "equal to those of the run before"],
    )
    assert "1 of 1 time, and went on at 1" in shown.out


@pytest.mark.parametrize(
    ("lacks", "cause"),
    [
        ("rng", "Each run from the checkpoint 1 differs in the same way. The state lacks something"),
        ("seed", "Two runs from the checkpoint 1 differ. After load, the model draws or reads something"),
    ],
)
def test_a_model_that_does_not_save_its_generator_is_told_so(
    interrupted: Callable[[str, str], tuple[int, dict[str, Any]]], lacks: str, cause: str
) -> None:
    code, document = interrupted(STEPS, lacks)
    found = document["interruption"]
    assert (code, document["equal"], found["equal"]) == (9, True, False)
    assert found["different"] == {"result.json": "differs at key total from index 1 on"}
    assert found["cause"].startswith(cause)


def test_a_model_that_is_random_anyway_says_nothing_of_its_save(
    interrupted: Callable[[str, str], tuple[int, dict[str, Any]]],
) -> None:
    code, document = interrupted(STEPS.replace("random.Random(seed)", "random.Random()"), "")
    assert code == 9
    assert document["interruption"]["cause"].startswith("Two undisturbed runs differ, too.")


def test_a_model_without_checkpoints_has_nothing_to_interrupt(
    desk: Desk, interrupted: Callable[[str, str], tuple[int, dict[str, Any]]]
) -> None:
    code, document = interrupted("def simulate(params, seed): return seed\n", "")
    assert (code, document["equal"], document["interruption"]["at"]) == (9, True, [])
    assert "0 of 1 time, since it saved no checkpoint" in desk("replay", "job", "0", "--interrupt", "1").out


def test_a_program_that_asks_to_be_started_again_can_be_replayed(desk: Desk) -> None:
    """It needs the directory, and its exit code does not count as a failure."""
    (desk.home / "model.py").write_text(
        "import os, subprocess\n"
        "SCRIPT = 'cd $MOPS_JOBS_CHECKPOINT_DIR && if [ -e last/half ]; then exit 0; fi\\n"
        "mkdir -p new && echo 1 > part && mv part new/half && exit $MOPS_JOBS_CHECKPOINT_EXIT'\n"
        "def simulate(params, seed):\n"
        "    os.makedirs(os.environ['MOPS_JOBS_CHECKPOINT_DIR'], exist_ok=True)\n"
        "    subprocess.run(['sh', '-c', SCRIPT], check=True)\n"
        "    return 1\n"
    )
    desk.run("succeeded", [{}])
    assert replayed(desk, "job", "0")[0] == 0
    code, document = replayed(desk, "job", "0", "--interrupt", "1")
    assert (code, document["interruption"]["at"]) == (0, ["half"])

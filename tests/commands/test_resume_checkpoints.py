"""Jobs of this machine whose runner is killed or told to stop: what goes on, and what views say of it."""

from __future__ import annotations

import os
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines.job_dir import JobDir
from mopsjobs.utils.measurement import read_parents
from support.checkpoints import STEPS, steps_of, undisturbed
from support.desk import Desk
from support.docs import ROOT
from support.runs import code, is_alive, kill_between_reports, record, sets_of, until

KILLED, STOPPED = signal.SIGKILL, signal.SIGTERM


@pytest.fixture
def steps(desk: Desk, tmp_path: Path) -> Path:
    """Return the file with the steps of the model of the desk."""
    desk.env["PYTHONPATH"] = str(ROOT)
    code(desk.home, STEPS)
    return tmp_path / "steps"


@pytest.mark.parametrize("number", [KILLED, STOPPED])
def test_a_child_goes_on_where_a_runner_was_ended(desk: Desk, steps: Path, number: int) -> None:
    """A killed one loses the steps since the last checkpoint, and one that is told to stop none."""
    gate = steps.with_name("gate")
    sets = sets_of(1, steps=str(steps), steps_total=40, every=10, gates={"25": str(gate)})
    desk.submit(sets, "--grace", "5m")
    desk.until(gate.with_name("gate-reached").exists, "the task to be in the middle")
    journal = JobDir.for_job("job", desk.env).ledger(0)  # the attempt is noted a moment after its first step
    desk.until(lambda: any(path.stat().st_size for path in journal.glob("*")), "the runner to note the attempt")
    pid = desk.runner()
    ended = [pid, *(child for child, (parent, _) in read_parents().items() if parent == pid)]
    if number == KILLED:
        kill_between_reports(pid, JobDir.for_job("job", desk.env), lambda: record(desk.jobs).heartbeat_at)
    else:
        os.kill(pid, number)
    until(lambda: not any(map(is_alive, ended)), "the runner and its worker to end")
    gate.touch()
    assert desk.ok("status", "job", "--json").json["status"] == "failed"
    assert [task["outcome"] for task in desk.ok("tasks", "job", "--json").json["tasks"]] == [
        "lost" if number == KILLED else "preempted"
    ]
    child = desk.ok("resume", "job", *(["--only", "preempted"] if number == STOPPED else [])).out.strip()
    assert desk.ended(child) == "succeeded"
    again = range(20 if number == KILLED else 26, 40)
    assert steps_of(steps) == {0: [*range(26), *again]}
    assert desk.results(child) == undisturbed(sets)
    (task,) = desk.ok("tasks", child, "--json").json["tasks"]
    assert (task["outcome"], task["resumed_at"], task["resumes"]) == ("succeeded", str(again[0]), 1)
    assert not list(Path(desk.env["HOME"]).rglob("checkpoints/*"))


def test_views_say_where_a_task_went_on(desk: Desk, steps: Path) -> None:
    """Tasks say it of the last attempt, and the status how much was not repeated."""
    desk.submit(sets_of(1, steps=str(steps), steps_total=40, every=10, die=[15, 25], pause=0.002), "--retries", "2")
    assert desk.ended() == "succeeded"
    (task,) = desk.ok("tasks", "job", "--json").json["tasks"]
    assert (task["attempt"], task["resumed_at"], task["resumes"]) == (3, "20", 2)
    assert "RESUMED" in (table := desk.ok("tasks", "job").out)
    assert ", twice" in table
    saved = desk.ok("status", "job", "--json").json["saved_seconds"]
    assert saved >= task["resumed_seconds"] > 0
    assert "CPU saved by checkpoints: about" in desk.ok("status", "job").out


def test_a_task_at_work_tells_that_it_went_on(desk: Desk, steps: Path) -> None:
    """By an event, and what that saved counts at once; `tasks` shows it when the attempt has ended."""
    gate = steps.with_name("gate")
    first, *others = sets_of(10, steps=str(steps), steps_total=40, every=10, pause=0.01)  # their ends bring reports
    desk.submit([{**first, "die": [15], "gates": {"35": str(gate)}}, *others])
    desk.until(lambda: desk.ok("status", "job", "--json").json["saved_seconds"], "the record to have it")
    desk.until(lambda: " goes on at 10, after " in desk.ok("events", "job").out, "its event")
    gate.touch()
    assert desk.ended() == "succeeded"
    task = desk.ok("tasks", "job", "--json").json["tasks"][0]
    assert desk.ok("status", "job", "--json").json["saved_seconds"] == pytest.approx(task["resumed_seconds"], abs=0.01)


def test_a_cancellation_with_a_grace_lets_tasks_save(desk: Desk, steps: Path) -> None:
    """Its runner reads that in the record, saves and stops, and only then the job is cancelled."""
    gate = steps.with_name("gate")
    sets = sets_of(1, steps=str(steps), steps_total=40, every=100, gates={"25": str(gate)})
    desk.submit(sets)
    desk.until(gate.with_name("gate-reached").exists, "the task to be in the middle")
    told = desk.ok("cancel", "job", "--grace", "5m")
    assert "Tasks with checkpoints may save, up to 5m." in told.err
    assert desk.ended() == "cancelled"
    gate.touch()
    child = desk.ok("resume", "job").out.strip()
    assert desk.ended(child) == "succeeded"
    assert steps_of(steps) == {0: [*range(40)]}


SUMMARISE = """
def summarise(params, tasks):
    return {"sum": sum(task.json()["total"] for task in tasks)}
"""


@pytest.mark.parametrize(
    ("count", "fields"),
    [
        (1, {"n_replicates": {"min": 4, "max": 8, "until": {"total": {"confidence": 0.95, "absolute": 1e-9}}}}),
        (2, {"n_replicates": 2, "reduce": "model:summarise"}),
    ],
    ids=["adaptive", "reduced"],
)
def test_tasks_that_died_leave_what_others_would(desk: Desk, steps: Path, count: int, fields: dict[str, Any]) -> None:
    """With adaptive replicates or a reduction. The second job finds the marks of the first, and is undisturbed."""
    code(desk.home, STEPS + SUMMARISE)
    sets = sets_of(count, steps=str(steps), steps_total=40, every=10, die=[15, 25])
    for job_id in ("job", "again"):
        desk.submit(sets, "--retries", "2", job_id=job_id, **fields)
        assert desk.ended(job_id) == "succeeded"
    tasks = desk.ok("tasks", "job", "--json", "--limit", "0").json["tasks"]
    assert sum(task["resumes"] for task in tasks) == 2 * count
    assert len(steps_of(steps)) == count
    assert desk.results() == desk.results("again")
    assert not list(Path(desk.env["HOME"]).rglob("checkpoints/*"))


def test_an_attempt_that_takes_too_long_goes_on_from_its_checkpoint(desk: Desk, steps: Path) -> None:
    """The limit of an attempt is for each anew. On a busy machine, some may end before they reach the gate."""
    gate = steps.with_name("gate")
    desk.submit(
        sets_of(1, steps=str(steps), steps_total=40, every=10, gates={"25": str(gate)}),
        *("--attempt-timeout", "3s", "--retries", "99", "--retry-on", "timeout"),
    )
    until(lambda: steps.exists() and steps_of(steps)[0].count(25) > 1, "the second attempt")
    gate.touch()
    assert desk.ended() == "succeeded"
    (task,) = desk.ok("tasks", "job", "--json").json["tasks"]
    assert (task["outcome"], task["resumed_at"] in ("20", "30")) == ("succeeded", True)
    made = steps_of(steps)[0]
    assert made[made.index(25) + 1] == 20
    assert all(step in (before + 1, before // 10 * 10) for before, step in pairwise(made))

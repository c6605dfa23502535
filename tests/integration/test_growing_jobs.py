"""Sessions and growing jobs: rounds of parameter sets by one client or several, with kills, outages, and every view."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

import pytest

import mopsjobs as mj
from mopsjobs.app.jobs.reconcile import reconcile_jobs
from mopsjobs.engines.local import runner_pid
from mopsjobs.studies.journal import Journal
from mopsjobs.studies.rounds import EndedTask
from mopsjobs.studies.study_parser import parse_study
from mopsjobs.submission import calibrating
from mopsjobs.submission.growing import GrowingJob, begin_growing, continue_growing
from mopsjobs.submission.launch_options import LaunchOptions
from mopsjobs.submission.session import Session
from mopsjobs.submission.submit import Code, SubmitRequest
from support.calibrations import spec
from support.docs import ROOT
from support.existing import existing
from support.runs import PATIENCE, callers, calls, code, kill, until

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # a runner outlives the process that launched it
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def reg(env: dict[str, str]) -> Iterator[mj.Registry]:
    """Return an open registry."""
    with mj.connect(env=env) as registry:
        yield registry


def begin(
    reg: mj.Registry, home: Path, *, idle: float = 600.0, workers: int = 2, calibration: Any = None, **study: Any
) -> GrowingJob:
    """Begin a growing job without sets."""
    document = {"model": "model:simulate", "parameter_sets": [], **study}
    request = SubmitRequest(
        study=parse_study(document, may_grow=True),
        code=Code(directory=code(home)),
        job_id="grows",
        options=LaunchOptions(python=sys.executable, workers=workers),
        grows=idle,
        calibration=calibration,
    )
    return begin_growing(reg.app.session(), request)


def told(job: GrowingJob) -> dict[int, EndedTask]:
    """Return the tasks that end, by their numbers, once all have."""
    return {ended.number: ended for ended in job.ended(PATIENCE)}


def has_counts(reg: mj.Registry, *counts: object, waits: bool) -> bool:
    """Return whether the record has this status and these counts, and says that the job waits for its client."""
    job = reg.job("grows", refresh=True).status()
    found = (job.status, job["tasks_total"], job["tasks_completed"], job["tasks_failed"])
    return found == counts and (job["metadata"].get("waits_for") == "its client") == waits


def test_rounds_run_in_one_job_that_ends_with_its_client(reg: mj.Registry, tmp_path: Path) -> None:
    """Tasks end with their outputs or errors, also one that repeats another. Views show all sets, with one numbering.

    Workers stay: the second round begins no further one.
    """
    job, calls = begin(reg, tmp_path / "code"), str(tmp_path / "calls")
    assert job.add([{"x": 1, "calls": calls}, {"x": 2, "fail": True}]) == range(2)
    first = told(job)
    assert {number: one.error and one.error["message"] for number, one in first.items()} == {0: None, 1: "as asked"}
    assert job.add([{"x": 1, "calls": calls}, {"x": 3, "calls": calls}], replicates=2) == range(2, 6)
    second = told(job)
    assert second[2].outputs == first[0].outputs  # the same parameters and seed
    assert len({one.seed for one in second.values()}) == 4
    assert list(job.ended(PATIENCE)) == []
    until(lambda: has_counts(reg, "running", 6, 5, 1, waits=True), "it to wait for its client")
    assert len(reg.job("grows").tasks()) == 6
    job.end()
    with pytest.raises(mj.TerminalStateError, match="takes no further parameter sets"):
        job.add([{"x": 9}])
    assert reg.job("grows").wait(PATIENCE, interval=0.1).status == "partial"
    rows = reg.job("grows").results().rows
    assert [(row["task"], row["x"], row["status"]) for row in rows][:3] == [
        (0, 1, "succeeded"), (1, 2, "failed"), (2, 1, "succeeded")
    ]  # fmt: skip
    lines = Path(calls).read_text().splitlines()
    assert len(lines) == 4
    assert len({line.split()[1] for line in lines}) <= 2


def test_another_client_goes_on(reg: mj.Registry, tmp_path: Path) -> None:
    """It is told how all tasks ended, also those of rounds before. The first one cannot ask for other sets then."""
    first = begin(reg, tmp_path / "code")
    first.add([{"x": 1}, {"x": 2}])
    second = continue_growing(reg.app.session(), "grows")
    assert second.add([{"x": 3}]) == range(2, 3)
    assert sorted(told(second)) == [0, 1, 2]
    with pytest.raises(mj.JobBusyError, match="Another client continues grows"):
        first.add([{"x": 4}])
    second.end()
    assert reg.job("grows").wait(PATIENCE, interval=0.1).status == "succeeded"
    assert sorted(told(continue_growing(reg.app.session(), "grows"))) == [0, 1, 2]


def test_a_task_may_end_before_its_client_knows_its_number(
    reg: mj.Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner may be faster than the reply of the store. What it tells then is not forgotten."""
    job = begin(reg, tmp_path / "code")
    job.add([{"x": 1}])
    told(job)
    store = job._store_round

    def slowly(value: bytes) -> None:
        store(value)
        until(lambda: not [*job.ended(0.0)] and job._early, "the runner to tell")

    with monkeypatch.context() as patched:
        patched.setattr(job, "_store_round", slowly)
        job.add([{"x": 2, "fail": True}])
    assert [one.number for one in job.ended(0.0)] == [1]
    job.end()
    reg.job("grows").wait(PATIENCE, interval=0.1)


def test_outputs_do_not_stay_in_memory(reg: mj.Registry, tmp_path: Path) -> None:
    """A client may ask for millions of sets. Those of a set that is asked for again are read from the store."""
    job = begin(reg, tmp_path / "code")
    job.add([{"x": 1}, {"x": 2, "fail": True}])
    first = told(job)
    assert [end.outputs for end in job._ends.values()] == [None, None]
    job.add([{"x": 2, "fail": True}, {"x": 1}])
    again = told(job)
    assert first[0].outputs is not None
    assert (again[3].outputs, again[2].error) == (first[0].outputs, first[1].error)
    job.end()
    reg.job("grows").wait(PATIENCE, interval=0.1)


def test_a_coordinator_whose_journal_is_older_than_its_job_gives_way(
    reg: mj.Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one has asked for a round between: the next one would have its number in one, and not in the other."""
    job = begin(reg, tmp_path / "code", calibration={"spec": spec().to_dict()})
    read = calibrating.journal_of

    def read_before(job_id: str, session: Session) -> Journal:
        journal = read(job_id, session)
        job.add([{"a": 1, "b": 1, "c": 1, "d": "good"}])
        return journal

    with pytest.raises(mj.UsageError, match="whose sampler asks for its sets"):
        reg.session("grows")
    monkeypatch.setattr(calibrating, "journal_of", read_before)
    with pytest.raises(mj.JobBusyError, match="Another client continues grows"):
        calibrating._open("grows", None, reg.app.session(), lambda _job: None)  # type: ignore[arg-type] # no sampler is asked
    job.end()
    reg.job("grows").wait(PATIENCE, interval=0.1)


def test_it_ends_after_its_idle_time(reg: mj.Registry, tmp_path: Path) -> None:
    """Also if its client has asked for nothing."""
    job = begin(reg, tmp_path / "code", idle=1.0)
    assert reg.job("grows").wait(PATIENCE, interval=0.1).status == "succeeded"
    with pytest.raises(mj.TerminalStateError, match="none for 1s"):
        job.add([{"x": 1}])


def test_a_session_has_futures(reg: mj.Registry, tmp_path: Path) -> None:
    """Results come in the order of the sets or as they end, of several tasks as a list. Errors have their task.

    asyncio awaits them. At its end, the job has all tasks as any other.
    """
    home = code(tmp_path / "code")
    with reg.session("model:simulate", home, workers=2, python=sys.executable, sweep="fit", job_id="grows") as session:
        assert [one["x"] for one in session.map([{"x": 3}, {"x": 1}, {"x": 2}])] == [3, 1, 2]
        several, failing = session.submit({"x": 4}, replicates=3), session.submit({"x": 5, "fail": True})
        assert {one.params["x"] for one in session.as_completed()} == {4, 5}
        assert len({one["seed"] for one in several.result()}) == 3
        with pytest.raises(mj.TaskFailedError, match="Task 6 of grows failed: ValueError: as asked") as raised:
            failing.result()
        assert (raised.value.task, raised.value.error["at"]) == (6, "model.py:27")

        async def ask() -> Any:
            return await asyncio.wrap_future(session.submit({"x": 6}))

        assert asyncio.run(ask())["x"] == 6
        with pytest.raises(mj.UsageError, match="expected"):
            session.submit({"x": object()})
    with pytest.raises(mj.UsageError, match="is closed"):
        session.submit({"x": 7})
    assert session.job.wait(PATIENCE, interval=0.1).status == "partial"
    assert session.job.status().labels == {"sweep": "fit"}
    assert [row["x"] for row in session.job.results()] == [3, 1, 2, 4, 4, 4, 5, 6]


def test_threads_of_a_session_share_what_completes(
    reg: mj.Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each evaluation is yielded to one of them, and none waits for one that another has got.

    An interrupt while the session closes leaves a job that does what was asked for, and ends.
    """
    home, gate = code(tmp_path / "code"), tmp_path / "gate"
    session = reg.session("model:simulate", home, workers=2, python=sys.executable, job_id="grows")
    session.submit({"x": 1, "gate": str(gate)})
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(lambda: [one.params["x"] for one in session.as_completed()]) for _ in range(2)]
        gate.touch()
        assert sorted(one.result(PATIENCE) for one in waiting) == [[], [1]]
    wait_for = session._changed.wait_for

    def interrupted(condition: Callable[[], Any]) -> Any:
        if current_thread() is main_thread():
            raise KeyboardInterrupt
        return wait_for(condition)

    monkeypatch.setattr(session._changed, "wait_for", interrupted)
    session.submit({"x": 2})
    with pytest.raises(KeyboardInterrupt):
        session.close()
    assert reg.job("grows").wait(PATIENCE, interval=0.1).tasks_completed == 2


def test_sets_of_a_session_with_seeds_have_one_task_each(reg: mj.Registry, tmp_path: Path) -> None:
    """Others that share their round have several. What cannot be asked for is refused at once, and harms no other."""
    study = mj.Study("model:simulate", [{"x": 0}], replicates=2, seeds=[7, 8])
    home = code(tmp_path / "code")
    with reg.session(study, home, workers=2, python=sys.executable, job_id="grows") as session:
        with pytest.raises(mj.UsageError, match="expected at most 2, as the seeds listed"):
            session.submit({"x": 1}, replicates=3)
        sets = [{"params": {"x": 1}, "seed": 5}, {"x": 2}, {"params": {"x": 3}, "seed": 6}]
        one, two, three = session.map(sets)
        assert (one["x"], [each["seed"] for each in two], three["x"]) == (1, [7, 8], 3)
    session.job.wait(PATIENCE, interval=0.1)
    reg.job("grows").wait(PATIENCE, interval=0.1)


def test_a_session_names_what_it_takes(reg: mj.Registry) -> None:
    """A function is none, `cell(function)` is; an id that no job has is said to be none."""

    def model(params: dict[str, Any]) -> dict[str, Any]:
        return params

    with pytest.raises(mj.UsageError, match="invalid model model: expected a text like 'module:function'") as refused:
        reg.session(model)  # type: ignore[arg-type] # what people try
    assert refused.value.hint is not None
    assert "cell(model)" in refused.value.hint
    with pytest.raises(mj.JobNotFoundError, match="Job nothing not found"):
        reg.session("nothing")
    until_precise: Any = {"min": 2, "max": 9, "until": {"x": {"confidence": 0.9, "absolute": 1}}}
    with pytest.raises(mj.UsageError, match=r"n_replicates of a growing job: .*; expected a number") as refused:
        reg.session(mj.Study("model:simulate", [{"x": 0}], replicates=until_precise))
    assert "submit all sets as a study" in str(refused.value.hint)
    with pytest.raises(mj.UsageError, match=r"reduce of a growing job: .*; expected none") as refused:
        reg.session(mj.Study("model:simulate", [{"x": 0}], reduce="model:reduce"))
    assert "--extend JOB" in str(refused.value.hint)


def test_a_session_goes_on_with_a_job(reg: mj.Registry, tmp_path: Path) -> None:
    """A second program asks for more, and is not told what the first one asked for. A usual job is refused."""
    begin(reg, tmp_path / "code").add([{"x": 1}])
    with reg.session("grows") as session:
        assert session.submit({"x": 2}).result()["x"] == 2
    assert session.job.wait(PATIENCE, interval=0.1).status == "succeeded"
    assert [row["x"] for row in session.job.results()] == [1, 2]
    with pytest.raises(mj.TerminalStateError), reg.session("grows") as session:
        session.submit({"x": 3}).result()
    usual = reg.submit(mj.Study("model:simulate", [{"x": 1}]), tmp_path / "code", python=sys.executable)
    with pytest.raises(mj.UsageError, match="not a growing job"):
        reg.session(usual.id)
    usual.wait(PATIENCE, interval=0.1)


CLIENT = """
import os, sys, time
import mopsjobs as mj

mj.connect().session("grows").map([{"x": 2, "gate": sys.argv[1]}, {"x": 3}])
job = mj.connect().job("grows")
while job.status(refresh=True).tasks_total < 3:
    time.sleep(0.01)
os._exit(9)
"""


def test_a_killed_client_is_waited_for(reg: mj.Registry, env: dict[str, str], tmp_path: Path) -> None:
    """What it had asked for is done. Then the job waits for its client, and another one goes on."""
    job, gate = begin(reg, tmp_path / "code"), tmp_path / "gate"
    job.add([{"x": 1}])
    killed = subprocess.run(
        [sys.executable, "-c", CLIENT, str(gate)], env={**env, "PYTHONPATH": str(ROOT)}, check=False, timeout=PATIENCE
    )
    assert killed.returncode == 9
    gate.touch()
    until(lambda: has_counts(reg, "running", 3, 3, 0, waits=True), "what was asked for to be done")
    ended = told(continue_growing(reg.app.session(), "grows"))
    assert [one.params["x"] for _, one in sorted(ended.items())] == [1, 2, 3]
    with reg.session("grows") as session:
        assert session.submit({"x": 4}).result()["x"] == 4
    assert session.job.wait(PATIENCE, interval=0.1).tasks_completed == 4


def test_a_killed_runner_is_replaced_in_the_same_job(reg: mj.Registry, env: dict[str, str], tmp_path: Path) -> None:
    """Views leave the job active, and name the way on. The client goes on by itself, and no task ends twice."""
    job, noted, gate = begin(reg, tmp_path / "code"), tmp_path / "calls", tmp_path / "gate"
    job.add([{"x": 0, "calls": str(noted)}])
    told(job)
    job.add([{"x": number, "calls": str(noted), "gate": str(gate)} for number in range(1, 4)])
    until(lambda: len(calls(noted)) > 1, "a task at work")  # as many as there are cores
    for gone in ("at work", "waiting"):
        pid = existing(runner_pid("grows", env))
        kill(pid)
        until(lambda: runner_pid("grows", env) is None, f"its runner, {gone}, to be gone")
        assert reg.job("grows").status()["is_active"]
        gate.touch()
        assert existing(reg.job("grows").resume(yes=True)).id == "grows"
        assert sorted(told(job)) == ([1, 2, 3] if gone == "at work" else [])
    job.add([{"x": 4}])
    assert sorted(told(job)) == [4]
    job.end()
    assert reg.job("grows").wait(PATIENCE, interval=0.1).status == "succeeded"
    assert set(calls(noted).values()) <= {1, 2}
    assert [row["x"] for row in reg.job("grows").results()] == [0, 1, 2, 3, 4]


def test_views_of_a_job_that_lost_its_runner_change_nothing(
    reg: mj.Registry, env: dict[str, str], tmp_path: Path
) -> None:
    """Each says so, and names the way on. None writes the loss into the log, however often one looks."""
    job = begin(reg, tmp_path / "code")
    job.add([{"x": 1}])
    told(job)
    pid = existing(runner_pid("grows", env))
    kill(pid)
    until(lambda: runner_pid("grows", env) is None, "its runner to be gone")
    for _ in range(3):
        shown = reg.job("grows", refresh=True).status(refresh=True)
        assert (shown["is_active"], shown["suspect"]) == (True, "runner_ended")
        assert [one["suspect"] for one in reg.jobs()] == ["runner_ended"]
        assert reconcile_jobs([], reg.app) == []
    assert [event for event in reg.job("grows").events("runner") if event.get("error")] == []
    resumed = existing(reg.job("grows").resume(yes=True))
    job.end()
    assert resumed.wait(PATIENCE, interval=0.1).status == "succeeded"


def test_a_killed_worker_costs_its_task_an_attempt(reg: mj.Registry, tmp_path: Path) -> None:
    """One that dies while no task is at work is replaced with the next task."""
    job, noted = begin(reg, tmp_path / "code", workers=1), tmp_path / "calls"
    job.add([{"x": 1}, {"x": 2, "die": str(tmp_path / "died"), "calls": str(noted)}, {"x": 3, "always_die": True}])
    ended = told(job)
    assert [one.error and one.error["type"] for _, one in sorted(ended.items())] == [None, None, "WorkerDied"]
    assert calls(noted) == {2: 2}
    job.add([{"x": 4, "calls": str(noted)}])
    assert told(job)[3].error is None
    kill(callers(noted)[-1])
    job.add([{"x": 5}])
    assert told(job)[4].error is None
    job.end()
    reg.job("grows").wait(PATIENCE, interval=0.1)


def test_a_job_that_waits_can_be_cancelled(
    reg: mj.Registry, env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its runner ends. Its client is told, instead of waiting for ever.

    A second later, it asks for nothing more: no view shows a task that was asked for after the end.
    """
    monkeypatch.setattr("mopsjobs.submission.growing.END_SECONDS", math.inf)
    job = begin(reg, tmp_path / "code")
    job.add([{"x": 1}])
    told(job)
    assert reg.job("grows").cancel().status == "cancelled"
    until(lambda: runner_pid("grows", env) is None, "its runner to end")
    job.add([{"x": 2}])
    with pytest.raises(mj.JobCancelledError, match="1 task of it did not run"):
        told(job)
    monkeypatch.setattr("mopsjobs.submission.growing.END_SECONDS", 0.0)
    with pytest.raises(mj.JobCancelledError, match="Job grows is cancelled, and it takes no further parameter sets"):
        job.add([{"x": 3}])
    assert len(reg.job("grows").tasks()) == 2
    job.end()
    with pytest.raises(mj.TerminalStateError, match="takes no further parameter sets"):
        job.add([{"x": 3}])


def test_a_cache_from_before_the_last_round_shows_it(reg: mj.Registry, tmp_path: Path) -> None:
    """A view that looked at the job early shows all sets at its end, and counts the tasks that repeat others."""
    job = begin(reg, tmp_path / "code")
    assert [*reg.job("grows").tasks()] == []
    job.add([{"x": 1}, {"x": 2, "fail": True}])
    told(job)
    early = reg.job("grows", refresh=True)
    until(lambda: [row["outcome"] for row in early.tasks(refresh=True)] == ["succeeded", "failed"], "both to be seen")
    assert sum(group["count"] for group in early.failures()["groups"]) == 1
    job.add([{"y": 5, "x": 3}, {"x": 2, "fail": True}])
    told(job)
    job.end()
    early.wait(PATIENCE, interval=0.1)
    assert [row["params"]["x"] for row in early.tasks()] == [1, 2, 3, 2]
    assert sum(group["count"] for group in early.failures()["groups"]) == 2
    assert [(row["x"], row["y"]) for row in early.results()] == [(1, None), (2, None), (3, 5), (2, None)]


def test_without_the_registry_it_does_not_begin(env: dict[str, str], tmp_path: Path) -> None:
    """Its rounds would have nowhere to go: nothing is launched."""
    nowhere = "AccountName=a;AccountKey=AAAA;BlobEndpoint=http://127.0.0.1:1/a"
    away = {**env, "MOPS_JOBS_REGISTRY": "azure://jobs", "AZURE_STORAGE_CONNECTION_STRING": nowhere}
    with mj.connect(env=away) as lost, pytest.raises(mj.StoreUnavailableError):
        begin(lost, tmp_path / "code")
    assert runner_pid("grows", env) is None

"""Sessions and growing jobs: rounds of parameter sets by one client or several, with kills, outages, and every view."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mopsjobs as mj
from mopsjobs.studies.study_parser import parse_study
from mopsjobs.submission.growing import EndedTask, GrowingJob, begin_growing, continue_growing
from mopsjobs.submission.launch_options import LaunchOptions
from mopsjobs.submission.submit import Code, SubmitRequest
from support.runs import PATIENCE, code, until

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # a runner outlives the process that launched it
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def reg(env: dict[str, str]) -> Iterator[mj.Registry]:
    """Return an open registry."""
    with mj.connect(env=env) as registry:
        yield registry


def begin(reg: mj.Registry, home: Path, *, idle: float = 600.0, workers: int = 2, **study: Any) -> GrowingJob:
    """Begin a growing job without sets."""
    document = {"model": "model:simulate", "parameter_sets": [], **study}
    request = SubmitRequest(
        study=parse_study(document, may_grow=True),
        code=Code(directory=code(home)),
        job_id="grows",
        options=LaunchOptions(python=sys.executable, workers=workers),
        grows=idle,
    )
    return begin_growing(reg.app.session(), request)


def told(job: GrowingJob) -> dict[int, EndedTask]:
    """Return the tasks that end, by their numbers, once all have."""
    return {ended.number: ended for ended in job.ended(PATIENCE)}


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

    def waits() -> bool:
        job = reg.job("grows", refresh=True).status()
        counts = (job.status, job["tasks_total"], job["tasks_completed"], job["tasks_failed"])
        return counts == ("running", 6, 5, 1) and job["metadata"].get("waits_for") == "its client"

    until(waits, "it to wait for its client")
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

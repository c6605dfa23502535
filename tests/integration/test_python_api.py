"""A study from Python: submitted, waited for, read, found again by another process, and read from a copied cache."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import mopsjobs as mj
from mopsjobs.engines.local import runner_pid
from support.cli import command
from support.docs import ROOT
from support.runs import PATIENCE, code, until
from support.servers import PATIENT

if TYPE_CHECKING:
    from pathlib import Path


# A runner outlives the program that launched it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

STUDY = mj.Study(
    "model:simulate",
    [{"x": 1}, {"x": 2, "fail": True}, *mj.grid(x=[3, 4], say=["hello"])],
    replicates=2,
    outputs=["result.json"],
)

FAILING = mj.Study("model:simulate", [{"x": number, "fail": True} for number in range(9)], outputs=["result.json"])

REATTACH = """
import json, sys
import mopsjobs as mj
reg = mj.connect()
job = reg.job("py-1")
json.dump([dict(job.status()), job.results().rows, job.tasks().rows], sys.stdout)
"""


def _run(env: dict[str, str], *words: str) -> str:
    ran = subprocess.run(
        words, env={**env, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_a_study_runs_and_other_processes_find_it(
    env: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Tables equal those of the commands; a second process and a copied cache give the same. Nothing is printed."""
    with mj.connect(env=env) as reg:
        job = reg.submit(
            STUDY, code(tmp_path / "code"), job_id="py-1", labels={"exp": 7}, workers=1, python=sys.executable
        )
        assert job.wait(PATIENCE, interval=0.1).status == "partial"
        until(lambda: runner_pid(job.id, env) is None, "its runner to end")
        with pytest.raises(mj.JobPartialError, match="2 of 8 tasks"):
            job.raise_for_status()
        results, tasks, failures = job.results(), job.tasks().rows, job.failures()
        job.results().to_csv(tmp_path / "python.csv")
        assert job.logs(task=4) == ["hello"]
        provenance = job.provenance()
        assert capfd.readouterr() == ("", "")
        _run(env, *command("results", "py-1", "--table", str(tmp_path / "command.csv")))
        assert (tmp_path / "python.csv").read_text() == (tmp_path / "command.csv").read_text()
        assert [row["x"] for row in results if row["status"] == "failed"] == [2, 2]
        assert tasks == json.loads(_run(env, *command("tasks", "py-1", "--json", "--limit", "0")))["tasks"]
        assert failures["groups"] == json.loads(_run(env, *command("failures", "py-1", "--json")))["groups"]
        assert provenance == json.loads(_run(env, *command("provenance", "py-1", "--json")))

    again = json.loads(_run(env, sys.executable, "-c", PATIENT + REATTACH))
    assert (again[0]["status"], again[1:]) == ("partial", [results.rows, tasks])

    shutil.copy(tmp_path / "cache.db", tmp_path / "copy.db")
    with mj.connect(env=env, cache=tmp_path / "copy.db") as reg:
        there = mj.Job(reg, "py-1")
        assert there.status(offline=True).status == "partial"
        assert there.tasks(offline=True).rows == tasks
        assert there.failures(offline=True)["groups"] == failures["groups"]
        assert there.results(offline=True).rows == results.rows
        assert reg.query("SELECT job_id FROM jobs", offline=True).rows == [{"job_id": "py-1"}]
        assert reg.app.settings.is_local or reg.app._store is None, "offline, nothing is opened"


def test_tasks_come_while_the_job_runs(env: dict[str, str], tmp_path: Path) -> None:
    """A task that waits for a file goes on only after the tasks before it came. Each comes once, also later."""
    gate = tmp_path / "gate"
    sets = [{"x": 1}, {"x": 2, "fail": True}, {"x": 3, "gate": str(gate)}, {"x": 4}]
    study = mj.Study("model:simulate", sets, outputs=["result.json"])
    found: list[mj.TaskInfo] = []
    with mj.connect(env=env) as reg:
        job = reg.submit(study, code(tmp_path / "code"), job_id="py-3", workers=1, python=sys.executable)
        for task in job.as_completed(PATIENCE, interval=0.1):
            found.append(task)
            if len(found) == 2:
                assert job.status(refresh=True).status == "running"
                gate.touch()
        until(lambda: runner_pid(job.id, env) is None, "its runner to end")
        assert [task.number for task in found] == [0, 1, 2, 3]
        assert found == job.tasks().rows == list(job.as_completed())
        assert [task.error for task in found] == [None, "ValueError: as asked", None, None]
        assert [task.scalars.get("result.x") for task in found] == [1, None, 3, 4]
        assert all(task.seconds is not None for task in found)
        assert list(reg.as_completed([job])) == [job]


@pytest.mark.parametrize("place", ["embedded"], indirect=True)
def test_coroutines_run_jobs_side_by_side(env: dict[str, str], tmp_path: Path) -> None:
    """Two threads of one event loop submit a job each by the same registry, and wait for it."""

    def run(reg: mj.Registry, x: int) -> list[object]:
        study = mj.Study("model:simulate", mj.grid(x=[x, x + 1]), outputs=["result.json"])
        job = reg.submit(study, code(tmp_path / "code"), job_id=f"py-{x}", workers=1, python=sys.executable)
        for task in job.as_completed(PATIENCE, interval=0.1):
            assert task.status == "succeeded"
        assert job.wait(interval=0.1).status == "succeeded"
        return [row["result.x"] for row in job.results()]

    async def main() -> None:
        with mj.connect(env=env) as reg:
            both = asyncio.to_thread(run, reg, 10), asyncio.to_thread(run, reg, 20)
            assert await asyncio.gather(*both) == [[10, 11], [20, 21]]

    asyncio.run(main())
    for x in (10, 20):
        until(lambda x=x: runner_pid(f"py-{x}", env) is None, "the runners to end")


def test_missing_tasks_are_resumed(tmp_path: Path) -> None:
    """A child has them; a job without missing tasks gives none."""
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "MOPS_JOBS_REGISTRY": f"sqlite://{tmp_path}/registry.db"}
    needed = tmp_path / "needed"
    study = mj.Study("model:simulate", mj.grid(x=[1], needs=[str(needed)]), outputs=["result.json"])
    with mj.connect(env=env) as reg:
        job = reg.submit(study, code(tmp_path / "code"), job_id="py-2", workers=1, python=sys.executable)
        assert job.wait(PATIENCE, interval=0.1).status == "failed"
        until(lambda: runner_pid(job.id, env) is None, "its runner to end")
        needed.touch()
        child = job.resume(workers=1)
        assert child is not None
        assert (child.id, child.wait(PATIENCE, interval=0.1).status) == ("py-2.2", "succeeded")
        until(lambda: runner_pid(child.id, env) is None, "its runner to end")
        assert child.resume() is None
        assert [row["job_id"] for row in child.results()] == ["py-2.2"]


@pytest.mark.parametrize("place", ["embedded"], indirect=True)
def test_limits_of_a_job_are_arguments(env: dict[str, str], tmp_path: Path) -> None:
    """Of `submit` and `resume`. The error names the limit."""
    with mj.connect(env=env) as reg:
        source = code(tmp_path / "code")
        job = reg.submit(FAILING, source, job_id="py-5", first=0, max_failures=2, workers=1, python=sys.executable)
        assert job.wait(PATIENCE, interval=0.1).status == "failed"
        with pytest.raises(mj.JobFailedError, match=r"FAILURES: Ended by --max-failures 2: 3 failed, 0 completed"):
            job.raise_for_status()
        child = job.resume(first=4, max_failures="50%")
        assert child is not None
        assert child.wait(PATIENCE, interval=0.1).error_code == "FIRST"
        with pytest.raises(mj.UsageError, match=r"invalid max_failures '0\.1'"):
            reg.submit(FAILING, source, max_failures=0.1)  # type: ignore[arg-type]
        for one in ("py-5", child.id):
            until(lambda one=one: runner_pid(one, env) is None, "its runner to end")

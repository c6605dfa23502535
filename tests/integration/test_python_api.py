"""Studies from Python: submitted, waited for, read; by other processes, forks and threads, and from a copied cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mopsjobs as mj
from mopsjobs.engines.local import runner_pid
from support.cli import command
from support.docs import ROOT
from support.runs import PATIENCE, at_once, code, until
from support.servers import PATIENT

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


REATTACH = """
import json, sys
import mopsjobs as mj
reg = mj.connect()
job = reg.job("py-1")
json.dump([dict(job.status()), job.results().rows, job.tasks().rows], sys.stdout)
"""


def _run(env: dict[str, str], *words: str, told: str | None = None) -> str:
    """Run a program for a limited time: a deadlock fails the test. It may tell anything, or this on stderr."""
    env = {**env, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (ran.returncode, ran.stderr) == (0, ran.stderr if told is None else told)
    return ran.stdout


def _program(env: dict[str, str], text: str) -> str:
    return _run(env, sys.executable, "-W", "ignore::DeprecationWarning", "-c", PATIENT + text, told="")


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


# A runner outlives the program that launched it.

FORK_WHILE_OPENING = """
import os, signal, threading
import mopsjobs as mj

holds, done = threading.Event(), threading.Event()

def hold():
    with reg.app._opening():
        holds.set()
        done.wait()

with mj.connect() as reg:
    thread = threading.Thread(target=hold)
    thread.start()
    holds.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # a deadlock ends
        print(len(reg.jobs()), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    done.set()
    thread.join()
"""


def test_a_fork_while_another_thread_opens_the_registry(env: dict[str, str]) -> None:
    """The child has a lock of its own: no thread of it would ever release that of its parent."""
    assert _program(env, FORK_WHILE_OPENING) == "0\n"


def test_threads_share_a_registry(env: dict[str, str], tmp_path: Path) -> None:
    """Each submits a job, waits for it and reads it, while the others do."""
    source = code(tmp_path / "code")

    def work(number: int) -> list[int]:
        study = mj.Study("model:simulate", mj.grid(x=[number, number + 10]), outputs=["result.json"])
        job = reg.submit(study, source, job_id=f"job-{number}", workers=1, python=sys.executable)
        assert job.id in [row["job_id"] for row in reg.jobs(refresh=True)]
        assert job.wait(PATIENCE, interval=0.1).status == job.status().status == "succeeded"
        until(lambda: runner_pid(job.id, env) is None, "its runner to end")
        return [row["x"] for row in job.results()]

    with mj.connect(env=env) as reg:
        assert at_once(work, range(4)) == [[number, number + 10] for number in range(4)]

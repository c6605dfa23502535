"""The Python API with several threads, over a fork, and after its handles are gone."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import mopsjobs as mj
from mopsjobs.engines.local import runner_pid
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

FORK = """
import multiprocessing, os, sys
import mopsjobs as mj

def report(name):
    with mj.report(name, registry=reg):
        pass
    return reg.job(name).status().status

with mj.connect() as reg:
    report("before")
    child = os.fork()
    if child == 0:
        report("child")
        os._exit(0)
    report("parent")
    assert os.waitpid(child, 0)[1] == 0
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(report, ["a", "b", "c", "d"]) == ["succeeded"] * 4
    report("after")
    print(*sorted(row["job_id"] for row in reg.jobs(status="succeeded", refresh=True)))
"""

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


def _run(env: dict[str, str], program: str) -> str:
    """Run a program for a limited time: a deadlock fails the test."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PATIENT + program],
        env={**env, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def test_both_sides_of_a_fork_use_a_registry(env: dict[str, str]) -> None:
    """By os.fork and in a pool of multiprocessing: no write is lost on either side."""
    assert _run(env, FORK).split() == ["a", "after", "b", "before", "c", "child", "d", "parent"]


def test_a_fork_while_another_thread_opens_the_registry(env: dict[str, str]) -> None:
    """The child has a lock of its own: no thread of it would ever release that of its parent."""
    assert _run(env, FORK_WHILE_OPENING) == "0\n"


def test_threads_share_a_registry(env: dict[str, str], tmp_path: Path) -> None:
    """Each submits a job, waits for it and reads it, while the others do."""
    source, start = code(tmp_path / "code"), threading.Barrier(4)

    def work(number: int) -> list[int]:
        study = mj.Study("model:simulate", mj.grid(x=[number, number + 10]), outputs=["result.json"])
        start.wait()
        job = reg.submit(study, source, job_id=f"job-{number}", workers=1, python=sys.executable)
        assert job.id in [row["job_id"] for row in reg.jobs(refresh=True)]
        assert job.wait(PATIENCE, interval=0.1).status == job.status().status == "succeeded"
        until(lambda: runner_pid(job.id, env) is None, "its runner to end")
        return [row["x"] for row in job.results()]

    with mj.connect(env=env) as reg, ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, range(4))) == [[number, number + 10] for number in range(4)]


def test_a_job_goes_on_without_its_handle(env: dict[str, str], tmp_path: Path) -> None:
    """Neither a dropped handle nor a dropped or closed registry cancels it."""
    gate = tmp_path / "gate"
    study = mj.Study("model:simulate", mj.grid(x=[1], gate=[str(gate)]), outputs=["result.json"])
    reg = mj.connect(env=env)
    job = reg.submit(study, code(tmp_path / "code"), job_id="left", workers=1, python=sys.executable)
    del job, reg
    gc.collect()
    with mj.connect(env=env) as reg:
        reg.job("left")
    gate.touch()
    with mj.connect(env=env) as reg:
        assert reg.job("left").wait(PATIENCE, interval=0.1).status == "succeeded"
        until(lambda: runner_pid("left", env) is None, "its runner to end")

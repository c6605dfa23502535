"""Runners of one machine share its cores: real processes, started at once, stopped and killed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.base import VersionedStore
from support.cli import Cli, Spawn
from support.runs import PATIENCE, code, is_alive, kill, place, record, sets_of, study, until

Submit = Callable[..., subprocess.Popen[str]]

MODEL = '''
"""A model that notes how many workers of all jobs live, by their command lines, and then waits for a gate."""
import os, time

def workers(home):
    count = 0
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % name) as file:
                words = file.read().split("\\0")
        except OSError:
            continue
        count += any(word.startswith(home) and "/spool/" in word for word in words)
    return count

def note(params):
    file = os.open(params["noted"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, ("%s %d %d\\n" % (params["job"], os.getpid(), workers(params["home"]))).encode())
    os.close(file)

def simulate(params, seed):
    note(params)
    while not os.path.exists(params["gate"]):
        time.sleep(0.005)
    note(params)
    return {"x": params["x"]}
'''


class Notes:
    """Notes of the tasks: their job, their process, and how many workers lived."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def rows(self) -> list[list[str]]:
        return [line.split() for line in self._path.read_text().splitlines()] if self._path.exists() else []

    def processes(self, job_id: str) -> set[int]:
        return {int(pid) for job, pid, _ in self.rows() if job == job_id}

    def most_workers(self) -> int:
        return max(int(count) for *_, count in self.rows())


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path / "noted")


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """Yield the place of the gate. It is open at the end, so no worker is left."""
    yield tmp_path / "gate"
    (tmp_path / "gate").touch()


@pytest.fixture
def submit(
    cli: Cli, local_store: VersionedStore, local_registry: JobRegistry, tmp_path: Path, spawn: Spawn, gate: Path
) -> Submit:
    """Submit a job whose tasks wait at the gate, and start its runner, on a machine where jobs may have two workers."""

    def start(job_id: str, tasks: int = 6, *flags: str) -> subprocess.Popen[str]:
        home = cli.env["HOME"]
        params = {"noted": str(tmp_path / "noted"), "gate": str(gate), "home": home, "job": job_id}
        place(local_store, job_id, study(sets_of(tasks, **params)), code(tmp_path / "code", MODEL))
        local_registry.register_job(job_id, tasks_total=tasks)
        local_registry.update_status(job_id, "scheduled")
        return spawn("run", job_id, *flags, MOPS_JOBS_MAX_LOCAL_WORKERS="2")

    return start


def _waits(registry: JobRegistry, job_id: str) -> bool:
    return isinstance(record(registry, job_id).metadata.get("waits_for"), str)


def _end(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=PATIENCE)
    return process.returncode


def test_three_jobs_at_once_have_two_workers_on_two_cores(
    cli: Cli, submit: Submit, local_registry: JobRegistry, notes: Notes, gate: Path
) -> None:
    """With `--workers 5` too. A job without a core says so, stays `scheduled`, and counts that time as its wait."""
    first = submit("job-0")
    until(lambda: len(notes.processes("job-0")) == 2, "both workers at work", first)
    others = [submit("job-1", 6, "--workers", "5"), submit("job-2")]
    for job_id in ("job-1", "job-2"):
        until(lambda job_id=job_id: _waits(local_registry, job_id), f"{job_id} to say that it waits", *others)
        state = record(local_registry, job_id)
        assert (state.status, state.heartbeat_at is None) == ("scheduled", False)
        words = "Waits for  a core: other jobs use all that jobs may use on this machine"
        assert words in cli.ok("status", job_id).lines
        assert notes.processes(job_id) == set()
    gate.touch()
    assert [_end(process) for process in (first, *others)] == [0, 0, 0]
    assert notes.most_workers() == 2, notes.rows()
    for job_id in ("job-0", "job-1", "job-2"):
        state = record(local_registry, job_id)
        assert (state.status, state.tasks_completed) == ("succeeded", 6)
        assert not _waits(local_registry, job_id)
        assert "Waits for" not in cli.ok("status", job_id).out
        said = [line for line in cli.ok("events", job_id, "--kind", "runner").lines if "waits for a core" in line]
        assert len(said) == (job_id != "job-0")


def test_the_workers_of_a_killed_runner_end_with_it(
    submit: Submit, local_registry: JobRegistry, notes: Notes, gate: Path
) -> None:
    """Although their tasks have not ended. So the next job has both cores."""
    killed = submit("job-0")
    until(lambda: len(notes.processes("job-0")) == 2, "both workers at work", killed)
    kill(killed.pid)
    _end(killed)
    second = submit("job-1")
    until(lambda: len(notes.processes("job-1")) == 2, "both workers of the next job at work", second)
    until(lambda: not any(map(is_alive, notes.processes("job-0"))), "the workers of the first to be gone")
    gate.touch()
    assert _end(second) == 0
    assert len([job for job, *_ in notes.rows() if job == "job-0"]) == 2  # neither of its tasks came to its end


def test_a_job_that_is_stopped_while_it_waits_leaves_the_line(
    submit: Submit, local_registry: JobRegistry, notes: Notes, gate: Path
) -> None:
    """By a signal as by `cancel`: nothing of it was run, and no other job waits for it."""
    first = submit("job-0", 2)
    until(lambda: len(notes.processes("job-0")) == 2, "both workers at work", first)
    stopped, cancelled = submit("job-1"), submit("job-2")
    for job_id in ("job-1", "job-2"):
        until(
            lambda job_id=job_id: _waits(local_registry, job_id), f"{job_id} to say that it waits", stopped, cancelled
        )
    os.kill(stopped.pid, signal.SIGTERM)
    local_registry.cancel_job("job-2")
    assert _end(stopped) == 128 + signal.SIGTERM
    assert _end(cancelled) == 0
    state = record(local_registry, "job-1")
    assert (state.status, state.metadata["waits_for"]) == ("scheduled", None)
    last = submit("job-3", 2)
    gate.touch()
    assert [_end(first), _end(last)] == [0, 0]
    assert notes.processes("job-1") == notes.processes("job-2") == set()

"""The slurm engine on a real Slurm: a controller and two nodes on this machine; see support/slurm.py."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, Spawn
from support.runs import record, results, until
from support.slurm import Slurm, missing_programs, running

if TYPE_CHECKING:
    from mopsjobs.store.base import VersionedStore

# A runner outlives the one who launched it: that is what it is for.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Yield one Slurm for the whole run."""
    if missing := missing_programs():
        pytest.skip(f"There is no {', '.join(missing)}: on Debian as root, ./build.sh servers installs Slurm.")
    with running(tmp_path_factory.mktemp("slurm")) as started:
        yield started


class Lab:
    """The command beside a Slurm."""

    def __init__(self, cli: Cli, spawn: Spawn, slurm: Slurm, registry: JobRegistry) -> None:
        cli.env |= {"PATH": os.environ["PATH"], **slurm.env}
        self.cli = cli
        self.slurm = slurm
        self.registry = registry
        self._spawn = spawn

    def run(self, *words: str) -> tuple[int, str]:
        """Run the command by the clock of this machine. Return its exit code and what it said."""
        process = self._spawn(*words)
        out, err = process.communicate(timeout=90)
        return process.returncode, out + err

    def array_of(self, job_id: str) -> str:
        """Return the id that Slurm gave to the job array of a job."""
        return str(record(self.registry, job_id).metadata["slurm_job_id"])

    def states(self, job_id: str) -> set[str]:
        """Return the states that Slurm tells of the shards of a job."""
        words = ("--noheader", "--states=all", f"--jobs={self.array_of(job_id)}", "--format=%T")
        return set(self.slurm.run("squeue", *words).split())

    def await_states(self, job_id: str, *states: str) -> None:
        """Wait until all shards of a job are in one of these states."""
        until(lambda: self.states(job_id) <= {*states}, f"{job_id} to be {' or '.join(states)}")


@pytest.fixture
def lab(
    cli: Cli,
    spawn: Spawn,
    slurm_cluster: Slurm,
    local_registry: JobRegistry,
) -> Lab:
    return Lab(cli, spawn, slurm_cluster, local_registry)


def test_the_same_study_gives_the_same_bytes_on_slurm_and_here(
    lab: Lab, seir: list[str], local_store: VersionedStore
) -> None:
    """Two shards on two nodes work through it, and each task has what it used."""
    lab.cli.ok(*seir, "--job-id", "there", "--engine", "slurm", "--shards", "2", "--time", "10")
    lab.cli.ok(*seir, "--job-id", "here", "--workers", "1")
    assert [lab.run("wait", job)[0] for job in ("there", "here")] == [0, 0]
    there = results(local_store, "there")
    assert len(there) == 20
    assert there == results(local_store, "here")
    shown = lab.cli.ok("status", "there").out
    assert f"job {lab.array_of('there')} in partition main of lab" in shown
    tasks = [json.loads(line) for line in lab.cli.ok("tasks", "there", "--jsonl").lines]
    assert [task["outcome"] for task in tasks] == ["succeeded"] * 20
    assert all(task["max_rss_bytes"] > 0 and task["host"] for task in tasks)
    lab.await_states("there", "COMPLETED")

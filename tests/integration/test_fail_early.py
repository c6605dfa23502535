"""Jobs that end early, with one runner process per shard, as the pods of Kubernetes, and the registry in an Azurite."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from support.cli import Cli, Spawn
from support.runs import MODEL, PATIENCE, calls, code, place, record, sets_of, study

if TYPE_CHECKING:
    from mopsjobs.store.base import VersionedStore
    from support.servers import Azurite

pytestmark = pytest.mark.azurite

SHARDS = 4

CHANCY = """
import random

def simulate(params, seed):
    if random.Random(seed).random() < 0.03:
        raise ArithmeticError("by chance")
    return params["x"]
"""


class Cluster:
    """A registry in Azure, and pods that work through the job `job`."""

    def __init__(self, store: VersionedStore, env: dict[str, str], spawn: Spawn, tmp_path: Path) -> None:
        self.store, self.env, self._spawn, self._tmp_path = store, env, spawn, tmp_path
        self.jobs = JobRegistry(store)

    def submit(self, sets: list[dict[str, Any]], model: str = MODEL, **fields: Any) -> None:
        """Submit the job without launching it."""
        manifest = place(self.store, "job", study(sets, **fields), code(self._tmp_path / "code", model))
        self.jobs.register_job("job", **manifest.record_fields())

    def run(self, *flags: str) -> list[tuple[int, str]]:
        """Run one runner per shard, all at once, and return the exit code of each, and what it said."""
        pods = [
            self._spawn(
                *("run", "job", "--shards", str(SHARDS), "--workers", "1", *flags),
                JOB_COMPLETION_INDEX=str(index),
                XDG_STATE_HOME=str(self._tmp_path / f"pod-{index}"),
                **self.env,
            )
            for index in range(SHARDS)
        ]
        return [_ended(pod) for pod in pods]


def _ended(pod: subprocess.Popen[str]) -> tuple[int, str]:
    err = pod.communicate(timeout=PATIENCE)[1]
    return pod.returncode, err


@pytest.fixture
def cluster(azurite: Azurite, spawn: Spawn, tmp_path: Path) -> Iterator[Cluster]:
    env = {"AZURE_STORAGE_CONNECTION_STRING": azurite.connection_string}
    env["MOPS_JOBS_REGISTRY"] = f"azure://{azurite.new_container()}"
    with closing(open_store(env["MOPS_JOBS_REGISTRY"], env)) as store:
        yield Cluster(store, env, spawn, tmp_path)


def test_a_limit_ends_four_shards_within_their_workers(cluster: Cluster, cli: Cli, tmp_path: Path) -> None:
    """The job is partial, and each view says why."""
    noted, mended = tmp_path / "calls", tmp_path / "mended"
    cluster.submit([*sets_of(8), *sets_of(200, calls=str(noted), needs=str(mended))[8:]])
    ended = cluster.run("--max-failures", "10")
    assert [exit_code for exit_code, _ in ended] == [6] * SHARDS, "so that no pod is tried again"
    state = record(cluster.jobs)
    assert (state.status, state.error_code) == ("partial", "FAILURES")
    assert 11 <= state.tasks_failed <= 10 + SHARDS
    assert sum(calls(noted).values()) <= 10 + SHARDS
    reason = "Ended by --max-failures 10: "
    assert cli("status", "job", "--json", **cluster.env).json["error_message"].startswith(reason)
    assert cli("list", "--json", **cluster.env).json["jobs"][0]["error_message"].startswith(reason)
    assert f"FAILURES: {reason}" in cli("status", "job", **cluster.env).out
    assert reason in cli("events", "job", **cluster.env).out


def test_failures_by_chance_do_not_end_a_job_below_its_limit(cluster: Cluster) -> None:
    """Of 400 tasks, 3 % fail at random. A limit of 10 % is judged and not reached, and each task is tried."""
    cluster.submit(sets_of(100), CHANCY, n_replicates=4)
    assert [exit_code for exit_code, _ in cluster.run("--max-failures", "10%")] == [0] * SHARDS
    state = record(cluster.jobs)
    assert (state.status, state.error_code) == ("partial", "INCOMPLETE")
    assert state.tasks_completed + state.tasks_failed == 400
    assert 1 <= state.tasks_failed <= 30


def test_a_broken_import_runs_one_task_of_four_shards(cluster: Cluster, tmp_path: Path) -> None:
    """By default, as the job has more than 100 tasks and runs in pods. One of them loads the model, once."""
    noted = tmp_path / "calls"
    cluster.submit(sets_of(101), f"open({str(noted)!r}, 'a').write('0 0\\n')\nimport nothing_of_that_name\n")
    ended = cluster.run()
    assert calls(noted) == {0: 1}
    assert (record(cluster.jobs).status, record(cluster.jobs).error_code) == ("failed", "MODEL")
    assert "nothing_of_that_name" in str(record(cluster.jobs).error_message)
    assert [exit_code for exit_code, _ in ended] == [6] * SHARDS


def test_a_first_task_that_succeeds_lets_four_shards_begin(cluster: Cluster, tmp_path: Path) -> None:
    noted = tmp_path / "calls"
    cluster.submit(sets_of(101, calls=str(noted)))
    ended = cluster.run()
    assert [exit_code for exit_code, _ in ended] == [0] * SHARDS
    assert record(cluster.jobs).status == "succeeded"
    assert calls(noted) == dict.fromkeys(range(101), 1)
    waits = [err.count("Waiting for the first tasks of the job") for _, err in ended]
    assert (waits[0], max(waits) <= 1) == (0, True)  # one that begins late finds that the first task has ended

"""Shards of an adaptive study, as processes, that run tasks of each other."""

from __future__ import annotations

import subprocess
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.notes import PRECISION
from mopsjobs.registry.transitions import sharing_of_others
from mopsjobs.store import open_store
from mopsjobs.utils.files import replace_file
from support.adaptive import CALLS, MARKS, MODEL, REPLICATES, adaptive_study, counts_by_set, seeds
from support.cli import Cli, Spawn
from support.runs import PATIENCE, code, kill, place, record, results, until, work
from support.servers import Azurite


@pytest.mark.parametrize("backend", ["sqlite", pytest.param("azurite", marks=pytest.mark.azurite)])
@pytest.mark.parametrize("killed", [[], [0, 1]], ids=["undisturbed", "owner and helper are killed"])
def test_the_workers_of_all_shards_are_at_work_on_one_set(
    backend: str, killed: list[int], request: pytest.FixtureRequest, spawn: Spawn, tmp_path: Path
) -> None:
    """They begin before any task has ended: a helper would not wait for the end of the first hour."""
    study = adaptive_study([{"sd": 50.0, "holds": True}], n_replicates={**REPLICATES, "min": 24, "max": 24})
    model, calls, held = code(tmp_path / "model", MODEL), tmp_path / "calls", tmp_path / "holds"
    url, env = f"sqlite:///{tmp_path}/registry.db", dict[str, str]()
    if backend == "azurite":
        azurite: Azurite = request.getfixturevalue("azurite")
        url = azurite.url(azurite.new_container())
        env = {"AZURE_STORAGE_CONNECTION_STRING": azurite.connection_string}

    def start(shard: int) -> subprocess.Popen[str]:
        state = f"{tmp_path}/{shard}"
        shards = {"JOB_COMPLETION_INDEX": str(shard), CALLS: str(calls), MARKS: str(tmp_path), **env}
        return spawn(
            "run", "job", "--shards", "4", "--workers", "2", XDG_STATE_HOME=state, MOPS_JOBS_REGISTRY=url, **shards
        )

    def begun() -> Counter[str]:
        return Counter(line.split()[0] for line in calls.read_text().splitlines())

    held.write_text(" ".join(map(str, seeds(study, 0))))
    calls.touch()
    with closing(open_store(url, env)) as store:
        jobs = JobRegistry(store)
        jobs.register_job("job", **place(store, "job", study, model).record_fields())
        runners = [start(shard) for shard in range(4)]
        until(lambda: begun().total() == 8, "two tasks in each of four shards", *runners)
        assert begun() == dict.fromkeys("0123", 2)
        assert not results(store)
        for shard in killed:
            kill(runners[shard].pid)
            runners[shard] = start(shard)
        held.unlink()
        for runner in runners:
            out, err = runner.communicate(timeout=PATIENCE)
            assert runner.returncode == 0, (out, err)
        state = record(jobs)
        assert counts_by_set(store, study) == [24]
        assert (state.status, state.tasks_completed, state.tasks_failed) == ("succeeded", 24, 0)
        assert killed or begun().total() == 24, "each task is run once"


def test_a_shard_whose_sets_are_decided_runs_tasks_of_another(
    cli: Cli, azurite: Azurite, spawn: Spawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs and counts are those of one shard, although the helper is killed with tasks in hand."""
    study = adaptive_study([{"sd": 50.0, "holds": True}, {"sd": 0.1, "holds": True}])
    hard, easy = ([str(seed) for seed in seeds(study, place)] for place in (0, 1))
    model, calls, held = code(tmp_path / "model", MODEL), tmp_path / "calls", tmp_path / "holds"
    url = azurite.url(azurite.new_container())
    env = {"AZURE_STORAGE_CONNECTION_STRING": azurite.connection_string, "MOPS_JOBS_REGISTRY": url}
    shards = {CALLS: str(calls), MARKS: str(tmp_path), **env}

    def start(shard: int) -> subprocess.Popen[str]:
        return spawn(
            "run", "job", "--shard", f"{shard}/2", "--workers", "1", XDG_STATE_HOME=f"{tmp_path}/{shard}", **shards
        )

    def helped() -> list[str]:
        """Return the tasks of the hard set that the other shard has begun."""
        pairs = [line.split() for line in calls.read_text().splitlines()] if calls.exists() else []
        return [seed for shard, seed in pairs if shard == "1" and seed in hard]

    with closing(open_store(url, env)) as store:
        jobs = JobRegistry(store)
        for job_id in ("alone", "job"):
            jobs.register_job(job_id, **place(store, job_id, study, model).record_fields())
        work(store, jobs, tmp_path / "alone", "alone")
        held.write_text(" ".join(hard[4:] + easy))
        owner, helper = start(0), start(1)
        until(lambda: sharing_of_others(record(jobs), 1, "gives"), "a shard that gives tasks", owner, helper)
        replace_file(str(held), " ".join(hard[4:]).encode())
        until(lambda: record(jobs).shards.get("1", [0, 0, 0])[2], "the other shard to be done", owner, helper)
        assert counts_by_set(store, study)[1] == 4, "another shard that ends the job then finds its outputs"
        until(helped, "the other shard to help", owner, helper)
        kill(helper.pid)
        begun = len(helped())
        helper = start(1)
        until(lambda: len(helped()) > begun, "its next run to help", owner, helper)
        held.unlink()
        for runner in (owner, helper):
            out, err = runner.communicate(timeout=PATIENCE)
            assert runner.returncode == 0, (out, err)
        state = record(jobs)
        assert results(store, "job") == results(store, "alone")
        assert sum(counts_by_set(store, study)) == state.tasks_completed == state.tasks_total
        assert (state.status, state.tasks_failed, sum(counts[0] for counts in state.shards.values())) == (
            "succeeded", 0, state.tasks_total,
        )  # fmt: skip
        assert state.metadata[PRECISION] == record(jobs, "alone").metadata[PRECISION]
    tasks = cli("tasks", "job", "--json", "--limit", "0", **env).json["tasks"]
    assert [task["outcome"] for task in tasks] == ["succeeded"] * state.tasks_total

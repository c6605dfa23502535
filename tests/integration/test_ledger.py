"""The ledger from end to end: a runner works through a job, and `tasks` shows what it measured."""

from __future__ import annotations

from pathlib import Path

from mopsjobs.engines.base import Launch
from mopsjobs.engines.kubernetes.manifest import build_manifest
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.base import VersionedStore
from support.cli import Cli, Spawn
from support.runs import PATIENCE, place, sets_of, study, work


def test_tasks_shows_what_a_runner_measured(cli: Cli, jobs: JobRegistry, model: Path, tmp_path: Path) -> None:
    """Each attempt is there, of tasks that succeeded and of those that failed, and status names the reason at once."""
    sets = [*sets_of(3), {"x": 3, "fail": True}, {"x": 4, "always_die": True}]
    manifest = place(jobs.store, "job", study(sets), model)
    jobs.register_job("job", **manifest.record_fields())
    work(jobs.store, jobs, tmp_path / "work")
    (line,) = [line for line in cli.ok("status", "job").lines if line.startswith("Failed ")]
    assert line.startswith("Failed     2: 1 died, 1 ValueError in model.py:")
    tasks = cli.ok("tasks", "job", "--jsonl").objects
    assert [task["outcome"] for task in tasks] == ["succeeded", "succeeded", "succeeded", "failed", "died"]
    assert [task["params"]["x"] for task in tasks] == [0, 1, 2, 3, 4]
    assert all(task["attempt"] >= 1 and task["host"] for task in tasks)
    assert all(task["seconds"] >= 0 and task["max_rss_bytes"] > 0 for task in tasks[:4])
    assert all(task["output_bytes"] > 0 and task["error_key"] is None for task in tasks[:3])
    assert (tasks[3]["error_type"], tasks[3]["error_message"]) == ("ValueError", "as asked")
    assert cli.ok("tasks", "job", "-q", "--status", "failed,died").lines == ["3", "4"]


def test_pods_leave_a_ledger_each_of_their_shard(
    cli: Cli, spawn: Spawn, local_store: VersionedStore, local_registry: JobRegistry, model: Path, tmp_path: Path
) -> None:
    """By the command and the variables of the Kubernetes Job, in a process per index."""
    manifest = place(local_store, "job", study([*sets_of(5), {"x": 5, "fail": True}]), model)
    local_registry.register_job("job", **manifest.record_fields())
    options = {"image": "mops-jobs:1", "namespace": "models"}
    launch = Launch(job_id="job", registry_url="azure://models", options=options, shards=2)
    job = build_manifest(launch, namespace="models", launch_id="1", env={})
    (container,) = job["spec"]["template"]["spec"]["containers"]
    place_of = {launch.registry_url: cli.env["MOPS_JOBS_REGISTRY"]}  # a cluster reaches no file of this machine
    variables = {one["name"]: one["value"] for one in container["env"]}
    pods = [
        spawn(
            *(place_of.get(word, word) for word in container["args"]),
            **variables,
            JOB_COMPLETION_INDEX=str(index),
            XDG_STATE_HOME=str(tmp_path / f"{index}"),
        )
        for index in range(2)
    ]
    for pod in pods:
        pod.communicate(timeout=PATIENCE)
        assert pod.returncode in (0, 8)
    assert {key.split("/")[2].partition(".")[0] for key in local_store.list_keys("ledger/job/")} == {"0", "1"}
    tasks = cli.ok("tasks", "job", "--jsonl").objects
    assert [task["outcome"] for task in tasks] == ["succeeded"] * 5 + ["failed"]
    assert [task["shard"] for task in tasks] == [0, 1] * 3
    assert all(task["cpu_seconds"] >= 0 and task["host"] and task["started_at"] for task in tasks)

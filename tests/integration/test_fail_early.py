"""A job that ends early, with a runner process per shard, as pods of Kubernetes, and the registry in an Azurite."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from support.cli import Cli, Spawn
from support.runs import PATIENCE, calls, place, record, sets_of, study

if TYPE_CHECKING:
    from support.servers import Azurite

SHARDS = 4


def test_a_limit_ends_four_shards_within_their_workers(
    cli: Cli, azurite: Azurite, spawn: Spawn, model: Path, tmp_path: Path
) -> None:
    """The job is partial, each view says why, and no pod is tried again."""
    noted, mended = tmp_path / "calls", tmp_path / "mended"
    url = azurite.url(azurite.new_container())
    env = {"AZURE_STORAGE_CONNECTION_STRING": azurite.connection_string, "MOPS_JOBS_REGISTRY": url}
    with closing(open_store(url, env)) as store:
        jobs = JobRegistry(store)
        sets = [*sets_of(8), *sets_of(200, calls=str(noted), needs=str(mended))[8:]]
        jobs.register_job("job", **place(store, "job", study(sets), model).record_fields())
        words = ("run", "job", "--shards", str(SHARDS), "--workers", "1", "--max-failures", "10")
        pods = [
            spawn(*words, JOB_COMPLETION_INDEX=str(index), XDG_STATE_HOME=str(tmp_path / f"pod-{index}"), **env)
            for index in range(SHARDS)
        ]
        for pod in pods:
            pod.communicate(timeout=PATIENCE)
        assert [pod.returncode for pod in pods] == [6] * SHARDS
        state = record(jobs)
    assert (state.status, state.error_code) == ("partial", "FAILURES")
    assert 11 <= state.tasks_failed <= 10 + SHARDS
    assert sum(calls(noted).values()) <= 10 + SHARDS
    reason = "Ended by --max-failures 10: "
    assert cli("status", "job", "--json", **env).json["error_message"].startswith(reason)
    assert cli("list", "--json", **env).json["jobs"][0]["error_message"].startswith(reason)
    assert f"FAILURES: {reason}" in cli("status", "job", **env).out
    assert reason in cli("events", "job", **env).out

"""`resume` after a launch on Kubernetes that failed: what the user had asked for is not forgotten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.kubernetes.engine import KubernetesEngine
from support.cli import Cli, Remote
from support.kubernetes import Api
from support.runs import record

JOBS_PATH = "/apis/batch/v1/namespaces/models/jobs"
OPTIONS = (
    "--namespace", "models", "--shards", "2", "--secret", "keys", "--service-account", "sims", "--cpu", "2",
    "--memory", "4Gi", "--task-timeout", "5m", "--image", "i:1", "--queue", "team-a", "--gpus", "1",
    "--priority-class", "low", "--node-selector", "pool=gpu", "--toleration", "sku=gpu", "--toleration", "spot",
    "--backoff-limit", "1", "--ttl", "1h",
)  # fmt: skip
NOTED = {
    "k8s_shards": "2", "k8s_secret": "keys", "k8s_service_account": "sims", "k8s_cpu": "2", "k8s_memory": "4Gi",
    "k8s_task_timeout": "300", "k8s_image": "i:1", "k8s_queue": "team-a", "k8s_gpus": "1",
    "k8s_priority_class": "low", "k8s_node_selector": "pool=gpu", "k8s_toleration": "sku=gpu,spot",
    "k8s_backoff_limit": "1", "k8s_ttl": "1h",
}  # fmt: skip


def _refuse(api: Api, number: int = 0) -> None:
    """Make the cluster refuse one launch, counted from 0. The emulator creates the Job all the same; see `_delete`."""
    api.mock[f"post {JOBS_PATH}"][number : number + 1] << 403 << {"message": "exceeded quota"}


def _delete(cli: Cli) -> None:
    """Delete the Job from the cluster."""
    assert KubernetesEngine(cli.env).cancel({"job_id": "job", "k8s_namespace": "models"})


def _submit(cli: Cli, *argv: str) -> Any:
    return cli("submit", "study.json", "--auto", "--job-id", "job", "--engine", "kubernetes", *argv)


def _job(api: Api, number: int) -> dict[str, Any]:
    """Return a Job that was to be made there, without what is its own."""
    job: dict[str, Any] = json.loads(api.requests("post", JOBS_PATH)[number].body)
    job["spec"]["template"]["spec"]["containers"][0]["args"].pop(1)
    del job["metadata"], job["spec"]["template"]["metadata"]
    return job


def test_a_launch_that_failed_is_repeated_as_it_was_asked_for(cli: Cli, remote: Remote, cluster: Api) -> None:
    """The options are in the record before the launch, and this machine knows that its user chose them."""
    _refuse(cluster)
    ran = _submit(cli, *OPTIONS)
    assert (ran.code, "exceeded quota" in ran.err) == (4, True)
    failed = record(remote.jobs)
    assert (failed.status, failed.error_code, failed.k8s_namespace) == ("failed", "LAUNCH", "models")
    assert failed.metadata.items() >= NOTED.items()
    child = cli.ok("resume", "job").out.strip()
    assert _job(cluster, 1) == _job(cluster, 0)
    assert record(remote.jobs, child).metadata.items() >= NOTED.items()


def test_a_launch_that_failed_without_the_registry_is_repeated_too(cli: Cli, remote: Remote, cluster: Api) -> None:
    """This machine keeps the options. The delivered record is not `scheduled`: nothing runs."""
    _refuse(cluster)
    remote.store.down = True
    assert _submit(cli, *OPTIONS).code == 4
    _delete(cli)
    remote.store.down = False
    seen: list[tuple[str, object]] = []
    put = remote.store._write

    def noting(act: Any) -> Any:
        done = put(act)
        state = remote.jobs.get_job("job")
        seen.append((str(state and state.status), state and state.metadata.get("k8s_memory")))
        return done

    remote.store._write = noting  # type: ignore[method-assign]
    assert cli.ok("resume", "job").out == "job\n"
    assert ("pending", "4Gi") in seen
    assert _job(cluster, 1) == _job(cluster, 0)
    state = record(remote.jobs)
    assert (state.status, state.error_code) == ("scheduled", None)
    assert not JobDir.for_job("job", cli.env).launch_fields.exists()


def test_a_second_launch_that_failed_keeps_its_options_too(cli: Cli, remote: Remote, cluster: Api) -> None:
    """A job that lost its Job is launched again with other flags; the cluster refuses that once."""
    _refuse(cluster, 1)
    assert _submit(cli, "--namespace", "models", "--image", "i:1").code == 0
    _delete(cli)
    assert cli("resume", "job", "--memory", "8Gi").code == 4
    _delete(cli)
    state = record(remote.jobs)
    assert (state.status, state.metadata["k8s_memory"], state.k8s_uid) == ("scheduled", "8Gi", None)
    cli.ok("resume", "job")
    assert _job(cluster, 2) == _job(cluster, 1)


@pytest.mark.claim("A patch of pods comes from no record")
def test_a_patch_comes_from_the_user_of_each_launch(cli: Cli, remote: Remote, cluster: Api) -> None:
    """The record has its digest alone. A resume without the flag says so, and goes on without the patch."""
    _refuse(cluster)
    Path("patch.yaml").write_text("spec: {hostNetwork: true}")
    _submit(cli, "--namespace", "models", "--image", "i:1", "--pod-patch", "patch.yaml")
    noted = str(record(remote.jobs).metadata["k8s_pod_patch"])
    assert (noted[:7], len(noted), "hostNetwork" in str(record(remote.jobs).to_dict())) == ("sha256:", 71, False)
    ran = cli.ok("resume", "job")
    assert "warning: The job ran with a patch of its pods, which a record does not keep" in ran.err
    assert ran.err.rstrip().count("--pod-patch FILE") == 1
    assert "hostNetwork" not in _job(cluster, 1)["spec"]["template"]["spec"]
    remote.jobs.cancel_job(ran.out.strip())
    assert "warning" not in cli.ok("resume", ran.out.strip(), "--pod-patch", "patch.yaml").err
    assert _job(cluster, 2)["spec"]["template"]["spec"]["hostNetwork"] is True


@pytest.mark.claim("Queue, nodes and priority come from no record")
def test_where_pods_run_is_not_taken_from_a_record(cli: Cli, remote: Remote, cluster: Api) -> None:
    """A record of another machine chooses no nodes. Its user agrees to each choice, or names another."""
    _refuse(cluster)
    _submit(cli, *OPTIONS)
    JobDir.for_job("job", cli.env).own_launch.unlink()
    ran = cli("resume", "job")
    assert ran.code == 6
    for choice in ("queue:team-a", "priority-class:low", "node-selector:pool=gpu", "toleration:sku=gpu,spot"):
        assert f"--trust {choice}" in ran.err
    assert len(cluster.requests("post", JOBS_PATH)) == 1

"""`resume` of a Kubernetes job: it delivers what a submission kept, and launches anew where and as the job ran."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.kubernetes.engine import KubernetesEngine
from mopsjobs.engines.local import runner_pid
from mopsjobs.errors import NoManifestError, TooManyRetriesError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from support.cli import Cli, LineStore, Ran, Remote, add, sentences
from support.kubernetes import Api
from support.runs import PATIENCE, Bench, code, place, record, sets_of, study, until, work

ANY_JOBS_PATH = "/apis/batch/v1/namespaces/{}/jobs"
KUBERNETES = ("--engine", "kubernetes", "--image", "registry.example/model:1")


def _submit(cli: Cli, *argv: str) -> Ran:
    return cli.ok("submit", "study.json", "--auto", "--job-id", "job", *KUBERNETES, *argv)


def _launched(api: Api, namespace: str = "from-kubeconfig") -> list[dict[str, Any]]:
    """Return the Jobs that were made there."""
    return [json.loads(one.body) for one in api.requests("post", ANY_JOBS_PATH.format(namespace))]


def _keys(store: LineStore) -> list[str]:
    """Return what a job consists of in the store, besides what tells of its changes."""
    beside = ("events/", "changes/")
    return [key.partition("sha256/")[0] for key in store.inner.list_keys() if not key.startswith(beside)]


# --- delivery after an outage ---------------------------------------------------------------------------------------


def test_what_was_kept_is_delivered_and_the_job_registered(cli: Cli, remote: Remote, cluster: Api) -> None:
    """The record tells where the job runs, as if the registry had never been away; nothing is launched again."""
    remote.store.down = True
    ran = _submit(cli, "--owner", "me", "--context", "here")
    assert "When the registry answers, run here: mops-jobs resume job" in ran.err
    remote.store.down = False
    assert _keys(remote.store) == []
    ran = cli.ok("resume", "job")
    assert ran.out == "job\n"
    assert "job: delivered what this machine kept of it while the registry did not answer" in ran.err
    assert _keys(remote.store) == ["bundles/", "jobs/job/manifest.json", "jobs/job/state.json"]
    state = record(remote.jobs)
    assert (state.status, state.owner, state.tasks_total) == ("scheduled", "me", 3)
    assert (state.metadata["kubernetes_job"], state.k8s_namespace) == ("job", "from-kubeconfig")
    assert state.metadata["k8s_context"] == "here"
    assert len(_launched(cluster)) == 1
    again = cli("resume", "job")
    assert (again.code, sentences(again.err)) == (6, ["error: Job job is still running: nothing to resume."])


@pytest.mark.parametrize("survives", range(1, 6))
def test_a_delivery_that_breaks_off_goes_on_the_next_time(
    cli: Cli, remote: Remote, cluster: Api, survives: int
) -> None:
    """Whichever write it breaks off at, nothing kept is lost, and a manifest is never there before its bundle."""
    remote.store.down = True
    _submit(cli)
    remote.store.down = False
    written: list[int] = []
    write = remote.store._write

    def cut(act: Any) -> Any:
        written.append(1)
        if len(written) == survives:
            remote.store.down = True
            remote.store._enter("put")
        return write(act)

    remote.store._write = cut  # type: ignore[method-assign]
    broken = cli("resume", "job")
    assert remote.store.down == (broken.code == 5)
    keys = _keys(remote.store)
    assert "bundles/" in keys or "jobs/job/manifest.json" not in keys
    remote.store.down = False
    if broken.code == 5:
        cli.ok("resume", "job")
    assert _keys(remote.store) == ["bundles/", "jobs/job/manifest.json", "jobs/job/state.json"]
    assert record(remote.jobs).metadata["kubernetes_job"] == "job"


def test_an_id_that_became_that_of_another_job_is_left_alone(cli: Cli, remote: Remote, cluster: Api) -> None:
    remote.store.down = True
    _submit(cli)
    remote.store.down = False
    add(remote.jobs, "job", "running")
    ran = cli("resume", "job")
    assert (ran.code, len(sentences(ran.err))) == (6, 1)
    assert "In the registry, job is another job" in ran.err
    assert _keys(remote.store) == ["jobs/job/state.json"]
    with closing(SQLiteVersionedStore(JobDir.for_job("job", cli.env).path / "outbox.db")) as kept:
        assert len(list(kept.list_keys())) == 2


@pytest.mark.usefixtures("quick_runner")
def test_a_runner_that_waits_for_its_manifest_begins_when_it_comes(bench: Bench) -> None:
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(bench.work, wait_for_manifest=True)
        until(lambda: bench.line.calls["get"] > 2, "it to ask more than once")
        bench.given(sets_of(3))
        ran, said = running.result(PATIENCE)
    assert ran[:4] == ("succeeded", 3, 0, True)
    assert said == ["Waiting for the manifest of job job. Where it was submitted: mops-jobs resume job"]


@pytest.mark.usefixtures("quick_runner")
def test_a_runner_waits_no_longer_than_its_patience(line: LineStore, registry: JobRegistry, tmp_path: Path) -> None:
    with pytest.raises(NoManifestError, match="has no manifest"):
        work(line, registry, tmp_path / "job", wait_for_manifest=True, outage_seconds=2.0)
    assert line.calls["get"] > 1


# --- launched anew ----------------------------------------------------------------------------------------------------


def test_a_child_runs_as_its_parent_did_unless_flags_differ(cli: Cli, remote: Remote, cluster: Api) -> None:
    """In the same place, with the same options."""
    _submit(cli, "--namespace", "models", "--context", "here", "--secret", "keys", "--shards", "2", "--cpu", "2")
    remote.jobs.update_status("job", "failed")
    (parent,) = _launched(cluster, "models")
    child = cli.ok("resume", "job", "--memory", "2Gi", "--task-timeout", "5m").out.strip()
    told = _launched(cluster, "models")[1]
    before, after = (one["spec"]["template"]["spec"]["containers"][0] for one in (parent, told))
    assert told["spec"]["completions"] == 2
    assert (after["image"], after["envFrom"]) == (before["image"], before["envFrom"])
    assert after["resources"]["requests"] == {"cpu": "2", "memory": "2Gi"}
    assert after["args"][-2:] == ["--task-timeout", "300s"]
    state = record(remote.jobs, child)
    assert (state.k8s_namespace, state.metadata["k8s_context"]) == ("models", "here")
    remote.jobs.cancel_job(child)
    other = cli.ok("resume", child, "--namespace", "others", "--image", "other:2", "--shards", "1").out.strip()
    (elsewhere,) = _launched(cluster, "others")
    assert elsewhere["spec"]["completions"] == 1
    assert record(remote.jobs, other).metadata["k8s_image"] == "other:2"


def test_a_child_on_another_engine_keeps_the_limits_of_the_tasks(cli: Cli, remote: Remote, cluster: Api) -> None:
    """And nothing that describes the place. The record chooses none then, so nothing asks for trust."""
    place(remote.store.inner, "job", study(sets_of(3)), Path.cwd())
    add(remote.jobs, "job", "running", engine="slurm")
    noted = {"slurm_partition": "spot", "slurm_workers": "3", "slurm_python": "/none", "slurm_task_timeout": "300"}
    remote.jobs.update_fields("job", metadata={**noted, "slurm_retries": "4", "slurm_retry_on": "died"})
    refused = cli.ends(2, "resume", "job", *KUBERNETES)
    assert sentences(refused.err)[0] == "error: Job job has not ended: it continues on the slurm engine."
    remote.jobs.update_status("job", "failed")
    child = cli.ok("resume", "job", *KUBERNETES).out.strip()
    (told,) = _launched(cluster)
    (container,) = told["spec"]["template"]["spec"]["containers"]
    words = ["--task-timeout", "300s", "--retries", "4", "--retry-on", "died"]
    assert container["args"][container["args"].index("--workers") + 2 :] == words
    state = record(remote.jobs, child)
    assert (state.engine, state.parent_job_id) == ("kubernetes", "job")
    assert not [name for name in state.metadata if name.startswith("slurm_")]


def test_a_missing_image_is_a_usage_error_that_names_the_flag(cli: Cli, remote: Remote, cluster: Api) -> None:
    """A record of an older program does not tell it. Nothing of the child is stored."""
    add(remote.jobs, "job", "failed", engine="kubernetes")
    place(remote.store.inner, "job", study(sets_of(3)), Path.cwd())
    ran = cli("resume", "job", "--trust", "engine:kubernetes")
    assert (ran.code, len(sentences(ran.err))) == (2, 1)
    assert "--image" in ran.err
    assert [state.job_id for state in remote.jobs.list_jobs()] == ["job"]
    assert cli.ok("resume", "job", "--trust", "engine:kubernetes", MOPS_JOBS_IMAGE="from-env:1").out


def test_a_job_that_its_cluster_says_has_failed_is_reconciled_first(cli: Cli, remote: Remote, cluster: Api) -> None:
    add(remote.jobs, "seir-1", "running", engine="kubernetes", k8s_name="seir-1", namespace="models")
    place(remote.store.inner, "seir-1", study(sets_of(3)), Path.cwd())
    cluster.put_job(status={"conditions": [{"type": "Failed", "status": "True"}]})
    trusted = ("--trust", "engine:kubernetes", "--trust", "namespace:models")
    ran = cli("resume", "seir-1", "--image", "i", *trusted)
    assert (ran.code, len(sentences(ran.err))) == (2, 1)
    assert "hint: Run: mops-jobs reconcile" in ran.err


def _lock_of_runner(cli: Cli, jobs: JobRegistry, status: str) -> FileLock:
    """Return a job of this machine, and what its runner holds."""
    add(jobs, "job", status, engine="local")
    place(jobs.store, "job", study(sets_of(2)), code(Path("code")))
    directory = JobDir.for_job("job", cli.env).path
    directory.mkdir(parents=True)
    return FileLock(directory / "shard-0.lock")


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_a_runner_that_was_killed_a_moment_ago_is_not_at_work(cli: Cli, jobs: JobRegistry) -> None:
    """A worker that it was just starting holds its lock for an instant more: `resume` looks again, and goes on."""
    lock = _lock_of_runner(cli, jobs, "scheduled")

    def let_go(sleeps: int) -> None:
        if sleeps == 3:
            lock.release()

    cli.clock.on_sleep = let_go
    lock.acquire()
    cli.ok("resume", "job", "--workers", "1", "--yes")
    until(lambda: record(jobs).status == "succeeded", "the job to end")
    until(lambda: runner_pid("job", cli.env) is None, "its runner to end")


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_a_job_that_ends_while_its_runner_is_looked_at_has_ended(cli: Cli, jobs: JobRegistry) -> None:
    """Then its child does what is missing: no second runner for a job whose record is closed."""
    lock = _lock_of_runner(cli, jobs, "running")

    def end(sleeps: int) -> None:
        if sleeps == 3:
            jobs.update_status("job", "failed")
            lock.release()

    cli.clock.on_sleep = end
    lock.acquire()
    child = cli.ok("resume", "job", "--workers", "1").out.strip()
    assert child != "job"
    assert record(jobs, child).parent_job_id == "job"
    until(lambda: record(jobs, child).status == "succeeded", "the child to end")
    until(lambda: runner_pid(child, cli.env) is None, "its runner to end")


def test_a_runner_that_was_started_by_hand_is_at_work(cli: Cli, jobs: JobRegistry) -> None:
    """Who still holds the lock after a second works."""
    with _lock_of_runner(cli, jobs, "running"):
        ran = cli("resume", "job")
    assert (ran.code, sentences(ran.err)) == (6, ["error: Job job is still running: nothing to resume."])
    assert 1 <= sum(cli.clock.slept) < 2


@pytest.mark.parametrize("method", ["register_job", "update_status"])
def test_a_race_lost_too_often_while_registering_does_not_stop_the_launch(
    cli: Cli, remote: Remote, cluster: Api, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """And what was left undone is made up for by `resume`."""

    def lost(*_args: object, **_more: object) -> None:
        raise TooManyRetriesError("The race for the record was lost too often.", key="jobs/job/state.json", attempts=8)

    with monkeypatch.context() as patch:
        patch.setattr(JobRegistry, method, lost)
        ran = _submit(cli)
    assert ran.out == "job\n"
    assert "warning: The race for the record was lost too often. The job is launched anyway" in ran.err
    assert len(_launched(cluster)) == 1
    cli.ok("resume", "job")
    assert (record(remote.jobs).status, record(remote.jobs).metadata["kubernetes_job"]) == ("scheduled", "job")


# --- registering ------------------------------------------------------------------------------------------------------


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


def _launch(cli: Cli, *argv: str) -> Any:
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
    ran = _launch(cli, *OPTIONS)
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
    assert _launch(cli, *OPTIONS).code == 4
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
    assert _launch(cli, "--namespace", "models", "--image", "i:1").code == 0
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
    _launch(cli, "--namespace", "models", "--image", "i:1", "--pod-patch", "patch.yaml")
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
    _launch(cli, *OPTIONS)
    JobDir.for_job("job", cli.env).own_launch.unlink()
    ran = cli.ends(6, "resume", "job")
    for choice in ("queue:team-a", "priority-class:low", "node-selector:pool=gpu", "toleration:sku=gpu,spot"):
        assert f"--trust {choice}" in ran.err
    assert len(cluster.requests("post", JOBS_PATH)) == 1

"""`status` asks engines: of a silent job, and of any job while the registry is away."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mopsjobs.cache.job_json import job_fields
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.errors import EngineAccessError, EngineUnavailableError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.transitions import ShardReport
from mopsjobs.submission.shard_drop import ShardDrop
from support.cli import Cli, Remote, add
from support.engines import FAILED, GONE, NO_IMAGE, RUNNING, SUSPENDED, Cluster, add_kubernetes_job, answer_for_all
from support.kubernetes import Api, kubeconfig
from support.ledgers import add_job
from support.runs import sets_of


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Return what `status` takes for the kubernetes engine."""
    return answer_for_all(monkeypatch, Cluster(NO_IMAGE))


def test_status_says_why_a_job_has_not_begun(cli: Cli, jobs: JobRegistry, cluster: Cluster) -> None:
    """Once it is silent for ten seconds; after a minute it is suspect. Other views have it from the record."""
    add_kubernetes_job(jobs, "scheduled")
    cli.ok("status", "a")
    assert cluster.asked == []
    cli.clock.advance(seconds=15)
    assert "Waits for  ImagePullBackOff: no such image" in cli.ok("status", "a").lines
    assert cli.ok("list", "--stuck", "-q").lines == []
    cli.clock.advance(minutes=1)
    ran = cli.ok("status", "a")
    assert any("scheduled (suspect: ImagePullBackOff)" in line for line in ran.lines)
    assert "Next: kubectl -n models describe job a" in ran.err
    assert "(suspect: ImagePullBackOff)" in cli.ok("list", "--stuck").out
    cluster.says = RUNNING
    job = cli.ok("status", "a", "--json").json
    assert (job["status"], job["suspect"], job["metadata"]) == ("running", None, {"suspect": None, "waits_for": None})
    cluster.asked.clear()
    cli.ok("status", "a")
    assert cluster.asked == []


def test_status_shows_the_end_that_the_cluster_knows(cli: Cli, remote: Remote, cluster: Cluster) -> None:
    """Also if the cache is old. Offline, no cluster is asked."""
    add_kubernetes_job(remote.jobs, "scheduled")
    cli.ok("sync")
    cluster.says = FAILED
    cli.clock.advance(minutes=5)
    assert cli.ok("status", "a", "--offline", "--json").json["status"] == "scheduled"
    assert cli("status", "a", "--exit-status").code == 100


def test_status_shows_the_counts_that_it_delivers(cli: Cli, remote: Remote, cluster: Cluster) -> None:
    """Shards that report by files. If the files are not here, a warning says that the counts may be old."""
    add_job(remote.jobs, "job", sets_of(3))
    remote.jobs.update_fields("job", engine="slurm", metadata={"slurm_file_drop": "yes"})
    cli.ok("sync")
    drop = JobDir.for_job("job", cli.env).drop
    shard = JobRegistry(ShardDrop(drop, 0))
    add(shard, "job", "running", tasks_total=3)
    shard.report_shard("job", 0, 1, ShardReport(2, 0))
    cluster.says = RUNNING
    cli.clock.advance(minutes=1)
    ran = cli.ok("status", "job", "--json")
    assert (ran.json["tasks_completed"], ran.err) == (2, "")
    shutil.rmtree(drop)
    assert "cannot be asked about job: The shards of job report by files, and" in cli.ok("status", "job").err


@pytest.mark.parametrize(
    ("error", "flags", "is_told"),
    [
        (EngineUnavailableError("Cannot reach the cluster."), (), True),
        (EngineAccessError("There is no cluster to talk to."), (), False),
        (EngineAccessError("There is no cluster to talk to."), ("--refresh",), True),
    ],
)
def test_without_an_answer_status_shows_the_record(
    cli: Cli, jobs: JobRegistry, cluster: Cluster, *, error: Exception, flags: tuple[str, ...], is_told: bool
) -> None:
    """A user without access to the cluster is told of it only on demand."""
    add_kubernetes_job(jobs, "scheduled")
    cli.clock.advance(minutes=5)
    cluster.says = error
    ran = cli.ok("status", "a", *flags)
    assert (str(error) in ran.err) == is_told
    assert any("scheduled" in line for line in ran.lines)


def test_status_says_that_the_cluster_refuses(cli: Cli, jobs: JobRegistry, cluster: Cluster) -> None:
    """A token that is not accepted, or a role that lacks a verb: the words, and the state of the record."""
    add_kubernetes_job(jobs, "scheduled")
    cli.clock.advance(minutes=5)
    cli.env["KUBECONFIG"] = "config"
    cluster.says = EngineAccessError("The cluster at https://k does not accept the credentials: Unauthorized.")
    ran = cli.ok("status", "a")
    assert f"The kubernetes engine cannot be asked about a: {cluster.says} See: mops-jobs reconcile a" in ran.err
    assert any("scheduled" in line for line in ran.lines)


def test_a_job_that_its_cluster_suspended_is_not_taken_for_silent(
    cli: Cli, jobs: JobRegistry, cluster: Cluster
) -> None:
    """`status` asks, as long as the job waits, and no view advises to resume it."""
    add_kubernetes_job(jobs, "running")
    jobs.report_shard("a", 0, 1, ShardReport(0, 0))
    cluster.says = SUSPENDED
    cli.clock.advance(minutes=3)
    waited = cli("wait", "a", "--timeout", "2m").err
    assert "a: running, waits for Suspended: the Job is suspended by kubectl-patch" in waited
    assert "resume" not in waited
    ran = cli.ok("status", "a")
    assert "Waits for  Suspended: the Job is suspended by kubectl-patch" in ran.lines
    assert "suspect" not in ran.out
    assert cli.ok("list", "--stuck", "-q").lines == []
    cluster.says = GONE
    assert "suspect: k8s_job_missing" in cli.ok("status", "a").out


def test_an_outage_names_kubectl_for_a_job_that_is_not_known_here(cli: Cli, remote: Remote) -> None:
    """By the name that mops-jobs gives its Job, and by that of ModelOps. No cluster is asked: none is configured."""
    remote.store.down = True
    ran = cli("status", "job-1a")
    theirs = "If instead ModelOps submitted it: kubectl -n modelops-dask-dev get job job-1a"
    by_hand = f"By hand: kubectl get job job-1a. {theirs}"
    assert (ran.code, ran.out) == (5, "")
    assert ran.err == f"error: Cannot reach the registry: connection refused.\nhint: {by_hand}\n"
    assert by_hand.replace("get job", "delete job") in cli("cancel", "job-1a").err


@pytest.fixture
def far_cluster(cli: Cli, remote: Remote, api: Api, tmp_path: Path) -> Api:
    """Return a cluster, and a registry that is away."""
    cli.env["KUBECONFIG"] = str(kubeconfig(tmp_path, api.url))
    remote.store.down = True
    return api


def _put(api: Api, **status: object) -> None:
    metadata = {
        "name": "seir-1",
        "namespace": "from-kubeconfig",
        "uid": "u",
        "annotations": {"mops-jobs/job-id": "seir-1"},
    }
    api.mock.objects["batch/v1/jobs", "from-kubeconfig", "seir-1"] = {
        "metadata": metadata,
        "spec": {"template": {}},
        "status": status,
    }


def test_the_cluster_is_asked_and_its_word_marked(cli: Cli, far_cluster: Api) -> None:
    _put(far_cluster, active=1, ready=1)
    ran = cli.ok("status", "seir-1")
    assert ran.lines == ["Job        seir-1", "Engine     kubernetes says: running"]
    assert "Showing what the kubernetes engine says, not the job's record." in ran.err
    assert "Next: kubectl -n from-kubeconfig get job seir-1" in ran.err


def test_scripts_get_the_job_with_what_is_known(cli: Cli, far_cluster: Api) -> None:
    """Every field of a job is there, and the mark."""
    _put(far_cluster, conditions=[{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}])
    ran = cli("status", "seir-1", "--json", "--exit-status")
    assert ran.code == 100
    assert list(ran.json) == [*job_fields(), "engine_says"]
    assert (ran.json["status"], ran.json["engine"], ran.json["created_at"]) == ("failed", "kubernetes", None)
    assert ran.json["engine_says"]["look"] == "kubectl -n from-kubeconfig get job seir-1"


def test_an_unknown_job_leaves_the_outage(cli: Cli, far_cluster: Api) -> None:
    """Exit code 5: the record may well be there."""
    said = cli.fails(5, "status", "seir-1")
    gone = "hint: In the cluster, Job seir-1 was not found in namespace from-kubeconfig."
    assert f"{gone} If ModelOps submitted it: kubectl -n modelops-dask-dev get job seir-1\n" in said

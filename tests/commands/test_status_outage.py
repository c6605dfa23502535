"""`status JOB` without an answer of the registry: what the engine says of the job, marked as such."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mopsjobs.engines.job_dir import JobDir
from support.cli import Cli, Remote, sentences
from support.fields import JOB_FIELDS
from support.kubernetes import Api, kubeconfig

if TYPE_CHECKING:
    from pathlib import Path


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
def cluster(cli: Cli, remote: Remote, api: Api, tmp_path: Path) -> Api:
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


def test_the_cluster_is_asked_and_its_word_marked(cli: Cli, cluster: Api) -> None:
    _put(cluster, active=1, ready=1)
    ran = cli.ok("status", "seir-1")
    assert ran.lines == ["Job        seir-1", "Engine     kubernetes says: running"]
    assert "Showing what the kubernetes engine says, not the job's record." in ran.err
    assert "Next: kubectl -n from-kubeconfig get job seir-1" in ran.err


def test_scripts_get_the_job_with_what_is_known(cli: Cli, cluster: Api) -> None:
    """Every field of a job is there, and the mark."""
    _put(cluster, conditions=[{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}])
    ran = cli("status", "seir-1", "--json", "--exit-status")
    assert ran.code == 100
    assert list(ran.json) == [*JOB_FIELDS, "engine_says"]
    assert (ran.json["status"], ran.json["engine"], ran.json["created_at"]) == ("failed", "kubernetes", None)
    assert ran.json["engine_says"]["look"] == "kubectl -n from-kubeconfig get job seir-1"


def test_a_runner_on_this_machine_is_known_without_a_cluster(cli: Cli, remote: Remote) -> None:
    remote.store.down = True
    directory = JobDir.for_job("mine", cli.env).path
    directory.mkdir(parents=True)
    (directory / "runner.json").write_text("{}")
    ran = cli.ok("status", "mine")
    assert "local says: gone (RunnerEnded: its runner on this machine has ended)" in ran.out
    assert f"Next: tail -f {directory / 'runner.log'}" in ran.err


def test_an_unknown_job_leaves_the_outage(cli: Cli, cluster: Api) -> None:
    """Exit code 5: the record may well be there."""
    ran = cli("status", "seir-1")
    assert (ran.code, ran.out, len(sentences(ran.err))) == (5, "", 1)
    gone = "hint: In the cluster, Job seir-1 was not found in namespace from-kubeconfig."
    assert f"{gone} If ModelOps submitted it: kubectl -n modelops-dask-dev get job seir-1\n" in ran.err


def test_offline_sends_no_request(cli: Cli, cluster: Api) -> None:
    assert cli("status", "seir-1", "--offline").code == 5
    assert list(cluster.mock) == []

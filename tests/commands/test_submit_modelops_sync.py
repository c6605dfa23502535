"""`mops jobs sync` and `mops jobs list` of ModelOps beside mops-jobs: which records they end."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mopsjobs.registry.status import TRANSITIONS, JobStatus
from support.cli import Cli, Remote, foreign, key
from support.kubernetes import Api, kubeconfig

if TYPE_CHECKING:
    from mopsjobs.store.base import VersionedStore

ANSWERS = ("a pod succeeded", "a pod failed", "pods are active", "no pod yet", "no such Job", "no answer")
"""What ModelOps distinguishes in the answer of a cluster, in its order."""

STEPS = {
    # answer, with validation: the status that it sets, and the statuses in which it does so (None: all)
    ("a pod succeeded", True): ("validating", {"running"}),
    ("a pod succeeded", False): ("succeeded", None),
    ("a pod failed", True): ("failed", None),
    ("a pod failed", False): ("failed", None),
    ("pods are active", True): ("running", None),
    ("pods are active", False): ("running", None),
    ("no such Job", True): ("failed", {"running"}),
    ("no such Job", False): ("failed", {"running"}),
}
"""The steps of ModelOps' `_perform_sync`. All other answers change nothing. A status that its registry does not allow
as the next one is refused there, with a warning. A record without `k8s_name` is not looked up. The client of Kubernetes
refuses to ask for a Job without a name, and ModelOps warns and goes on."""


def sync_as_modelops(store: VersionedStore, job_id: str, answer: str, *, validate: bool) -> str:
    """Do to one record what ModelOps does when the cluster answers so; return its status then."""
    found = store.get(key(job_id))
    assert found is not None
    record = json.loads(found.value)
    status, only = STEPS.get((answer, validate), (None, None))
    is_looked_up = record["k8s_name"] is not None
    is_meant = only is None or record["status"] in only
    if is_looked_up and status is not None and is_meant and status in TRANSITIONS[JobStatus(record["status"])]:
        record["status"] = status
        store.put(key(job_id), json.dumps(record).encode(), found.version)
    return str(record["status"])


@pytest.fixture
def submitted(cli: Cli, remote: Remote, api: Api, tmp_path: Path) -> str:
    """Return a job of four shards that mops-jobs has launched on Kubernetes."""
    cli.env["KUBECONFIG"] = str(kubeconfig(tmp_path, api.url, namespace="models"))
    Path("study.json").write_text(
        json.dumps({"model": "m:f", "scenario": "s", "parameter_sets": [{"x": x} for x in range(4)]})
    )
    cli.ok(
        "submit", "study.json", "--auto", "--engine", "kubernetes", "--image", "i:1", "--job-id", "a", "--shards", "4"
    )
    return "a"


def test_no_sync_of_modelops_ends_a_job_of_mops_jobs(remote: Remote, submitted: str) -> None:
    """One finished shard of four made the record `validating`, and a Job of another cluster made it `failed`."""
    for status in ("scheduled", "running", "validating"):
        remote.jobs.update_status(submitted, status)
        for answer, validate in itertools.product(ANSWERS, (True, False)):
            assert sync_as_modelops(remote.store.inner, submitted, answer, validate=validate) == status


@pytest.mark.parametrize(
    ("answer", "validate", "status"),
    [
        ("a pod succeeded", True, "validating"),
        ("a pod succeeded", False, "succeeded"),
        ("a pod failed", True, "failed"),
        ("no such Job", True, "failed"),
        ("no pod yet", True, "running"),
    ],
)
def test_a_sync_of_modelops_still_ends_its_own_jobs(remote: Remote, answer: str, validate: bool, status: str) -> None:
    """A record that names its Job in `k8s_name` is that of one pod, as ModelOps expects."""
    remote.put(key("theirs"), foreign("theirs", "running"))
    assert sync_as_modelops(remote.store.inner, "theirs", answer, validate=validate) == status


def test_views_show_the_job_that_the_record_names_elsewhere(cli: Cli, submitted: str) -> None:
    """ModelOps shows it, too: it prints all metadata."""
    job = cli.ok("status", submitted, "--json", "--refresh").json
    assert (job["k8s_name"], job["k8s_namespace"], job["metadata"]["kubernetes_job"]) == ("a", "models", "a")
    assert "models/a" in cli.ok("status", submitted).out
    assert [one["k8s_name"] for one in cli.ok("list", "--name", "a", "--json").json["jobs"]] == ["a"]

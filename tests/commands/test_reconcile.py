"""`reconcile`: the command ends, marks and reports what the engine says."""

from __future__ import annotations

import pytest

from mopsjobs.engines.base import EngineState
from mopsjobs.errors import EngineAccessError, EngineUnavailableError
from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, add
from support.engines import COMPLETE, FAILED, PENDING, Cluster, add_kubernetes_job, answer_for_all


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Return what `reconcile` takes for the kubernetes engine."""
    return answer_for_all(monkeypatch, Cluster(COMPLETE))


def test_the_command_ends_what_has_ended_and_says_so(cli: Cli, jobs: JobRegistry, cluster: Cluster) -> None:
    add_kubernetes_job(jobs, "scheduled")
    ran = cli.ok("reconcile")
    assert ran.lines == ["a: scheduled -> succeeded"]
    assert "1 job checked, 1 changed" in ran.err


def test_the_command_says_what_a_job_waits_for(cli: Cli, jobs: JobRegistry, cluster: Cluster) -> None:
    """Until it does not. Another view has it from the record."""
    add_kubernetes_job(jobs, "scheduled")
    cluster.says = EngineState("pending", "Priority", "other jobs come first")
    assert cli.ok("reconcile").lines == ["a: scheduled, waits for Priority: other jobs come first"]
    assert "Waits for  Priority: other jobs come first" in cli.ok("status", "a").lines
    assert cli.ok("list", "--stuck", "-q").lines == []
    cluster.says = PENDING
    assert cli.ok("reconcile").lines == ["a: scheduled, waits no longer"]


def test_the_command_tells_scripts_what_it_did(cli: Cli, jobs: JobRegistry, cluster: Cluster) -> None:
    add_kubernetes_job(jobs, "running")
    cluster.says = FAILED
    document = cli.ok("reconcile", "--json").json
    assert (document["checked"], document["changed"]) == (1, 1)
    assert document["jobs"] == [
        {
            "job_id": "a", "action": "fail", "reason": FAILED.reason, "detail": FAILED.detail,
            "status_before": "running", "status": "failed", "changed": True, "problem": None,
        }
    ]  # fmt: skip


def test_without_a_job_to_ask_about_no_cluster_is_needed(cli: Cli, jobs: JobRegistry) -> None:
    add(jobs, "local", "running", engine="local")
    assert "0 jobs checked" in cli.ok("reconcile").err


def test_exit_codes_tell_what_stood_in_the_way(cli: Cli, jobs: JobRegistry, cluster: Cluster) -> None:
    add_kubernetes_job(jobs, "running")
    cluster.says = EngineUnavailableError("Cannot reach the cluster.")
    assert cli("reconcile").code == 5
    cluster.says = EngineAccessError("The cluster does not permit this.")
    assert cli("reconcile").code == 4
    add_kubernetes_job(jobs, "running", "b")

    def permit() -> None:
        if cluster.asked[-1] == "b":
            cluster.says = COMPLETE

    cluster.meanwhile = permit
    assert cli("reconcile").code == 7

"""`logs` of a job that has not ended: from the cluster while its pods live, from its events afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mopsjobs.engines.job_dir import JobDir
from support.cli import Cli, Remote, add
from support.events import Writer
from support.kubernetes import Api, kubeconfig, lines, log_path

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def cluster(cli: Cli, remote: Remote, api: Api, tmp_path: Path) -> Api:
    """A cluster with the Job of `seir-1`, which runs in one pod that has written three lines."""
    cli.env["KUBECONFIG"] = str(kubeconfig(tmp_path, api.url))
    add(remote.jobs, "seir-1", "running", engine="kubernetes", k8s_name="seir-1", namespace="models")
    api.put_job(status={"active": 1, "ready": 1})
    pod = api.put_pod(0, "Running")
    api.answer(log_path(pod), lines("[0] one", "[1] two", "[2] three"))
    return api


@pytest.fixture
def write(remote: Remote, cli: Cli) -> Writer:
    """What the runner has sent as events of the job."""
    return Writer(remote.store.inner, cli.clock, "seir-1")


def test_a_running_job_tells_its_lines_from_the_cluster(cli: Cli, cluster: Api, write: Writer) -> None:
    """One source at a time: what has come as an event already is not shown twice."""
    write("one", task=0)
    assert cli.ok("logs", "seir-1").lines == ["[0] one", "[1] two", "[2] three"]


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        (("--tail", "1"), ["[2] three"]),
        (("--grep", "t"), ["[1] two", "[2] three"]),
        (("--grep", "tw", "--tail", "1"), ["[1] two"]),
    ],
)
def test_lines_are_chosen_in_the_cluster_too(cli: Cli, cluster: Api, flags: tuple[str, ...], shown: list[str]) -> None:
    """`--tail` counts the lines that fit `--grep`, as it does with events."""
    assert cli.ok("logs", "seir-1", *flags).lines == shown


def test_since_is_asked_of_the_cluster(cli: Cli, cluster: Api) -> None:
    cli.ok("logs", "seir-1", "--since", "10m")
    (request,) = cluster.requests("get", log_path("seir-1-0-0"))
    assert request.params["sinceSeconds"] == "600"


def test_a_job_that_has_ended_tells_them_from_its_events(cli: Cli, remote: Remote, cluster: Api, write: Writer) -> None:
    write("from the event", task=0)
    remote.jobs.update_status("seir-1", "succeeded")
    assert cli.ok("logs", "seir-1").lines == ["[0] from the event"]
    assert cluster.requests("get", log_path("seir-1-0-0")) == []


def test_a_cluster_that_is_away_leaves_the_events(cli: Cli, cluster: Api, write: Writer) -> None:
    write("from the event", task=0)
    cluster.refuse(503, "not now")
    ran = cli.ok("logs", "seir-1")
    assert ran.lines == ["[0] from the event"]
    assert "Showing the events instead." in ran.err


def test_a_cluster_without_lines_leaves_the_events(cli: Cli, remote: Remote, api: Api, tmp_path: Path) -> None:
    """The pods are gone, and have taken their lines along."""
    cli.env["KUBECONFIG"] = str(kubeconfig(tmp_path, api.url))
    add(remote.jobs, "job", "running", engine="kubernetes", k8s_name="seir-1", namespace="models")
    api.put_job(job_id="job")
    Writer(remote.store.inner, cli.clock)("from the event", task=0)
    assert cli.ok("logs", "job").lines == ["[0] from the event"]


@pytest.mark.parametrize(("status", "code"), [("succeeded", 0), ("failed", 100), ("cancelled", 103)])
def test_following_ends_with_the_job_and_tells_how(
    cli: Cli, remote: Remote, cluster: Api, write: Writer, status: str, code: int
) -> None:
    """The cluster's lines until its Job has ended, nothing twice, then what the events tell of afterwards."""
    write("one", task=0)
    cli.clock.advance(seconds=1)
    cluster.put_pod(0, "Succeeded")
    cluster.put_job(status={"conditions": [{"type": "Complete", "status": "True"}]})

    def end(count: int) -> None:
        if count == 1:
            write("late", task=7)
            remote.jobs.update_status("seir-1", status)

    cli.clock.on_sleep = end
    ran = cli("logs", "seir-1", "-f")
    assert (ran.code, ran.lines) == (code, ["[0] one", "[1] two", "[2] three", "[7] late"])


def test_the_runner_speaks_for_itself_while_the_registry_is_away(cli: Cli, remote: Remote) -> None:
    """A job that runs on this machine, and that the cache does not know: its runner's own messages, marked as such."""
    remote.store.down = True
    assert cli("logs", "mine").code == 5
    directory = JobDir.for_job("mine", cli.env).path
    directory.mkdir(parents=True)
    (directory / "runner.log").write_text("first\nsecond\nthird\n")
    ran = cli("logs", "mine", "--grep", "ir", "--tail", "1")
    assert (ran.code, ran.lines) == (5, ["third"])
    assert "Showing the log of the job's runner on this machine." in ran.err

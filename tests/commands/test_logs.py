"""`logs`: the lines of a job, from the cluster while its pods live, from its events otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mopsjobs.engines.job_dir import JobDir
from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, Remote, add, during_sleeps, key, sentences
from support.engines import GONE, Cluster, add_kubernetes_job, answer_for_all
from support.events import Writer
from support.kubernetes import Api, kubeconfig, lines, log_path

if TYPE_CHECKING:
    from pathlib import Path

    from mopsjobs.store.base import VersionedStore


@pytest.fixture
def cluster(cli: Cli, remote: Remote, api: Api, tmp_path: Path) -> Api:
    """Return a cluster with the Job of `seir-1`, which runs in one pod that has written three lines."""
    cli.env["KUBECONFIG"] = str(kubeconfig(tmp_path, api.url))
    add(remote.jobs, "seir-1", "running", engine="kubernetes", k8s_name="seir-1", namespace="models")
    api.put_job(status={"active": 1, "ready": 1})
    pod = api.put_pod(0, "Running")
    api.answer(log_path(pod), lines("[0] one", "[1] two", "[2] three"))
    return api


@pytest.fixture
def write_seir(remote: Remote, cli: Cli) -> Writer:
    """Return what the runner has sent as events of the job."""
    return Writer(remote.store.inner, cli.clock, "seir-1")


def test_a_running_job_tells_its_lines_from_the_cluster(cli: Cli, cluster: Api, write_seir: Writer) -> None:
    """One source at a time: what has come as an event already is not shown twice."""
    write_seir("one", task=0)
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


def test_a_job_that_has_ended_tells_them_from_its_events(
    cli: Cli, remote: Remote, cluster: Api, write_seir: Writer
) -> None:
    write_seir("from the event", task=0)
    remote.jobs.update_status("seir-1", "succeeded")
    assert cli.ok("logs", "seir-1").lines == ["[0] from the event"]
    assert cluster.requests("get", log_path("seir-1-0-0")) == []


def test_a_cluster_that_is_away_leaves_the_events(cli: Cli, cluster: Api, write_seir: Writer) -> None:
    write_seir("from the event", task=0)
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
    cli: Cli, remote: Remote, cluster: Api, write_seir: Writer, status: str, code: int
) -> None:
    """The cluster's lines until its Job has ended, nothing twice, then what the events tell of afterwards."""
    write_seir("one", task=0)
    cli.clock.advance(seconds=1)
    cluster.put_pod(0, "Succeeded")
    cluster.put_job(status={"conditions": [{"type": "Complete", "status": "True"}]})

    def end(count: int) -> None:
        if count == 1:
            write_seir("late", task=7)
            remote.jobs.update_status("seir-1", status)

    cli.clock.on_sleep = end
    ran = cli("logs", "seir-1", "-f")
    assert (ran.code, ran.lines) == (code, ["[0] one", "[1] two", "[2] three", "[7] late"])


def test_the_log_of_a_runner_is_named_while_the_registry_is_away(cli: Cli, remote: Remote) -> None:
    """Of a job that was submitted on this machine, and that the cache does not know."""
    remote.store.down = True
    assert cli("logs", "mine").code == 5
    directory = JobDir.for_job("mine", cli.env)
    directory.path.mkdir(parents=True)
    directory.log.write_text("first\n")
    ran = cli("logs", "mine")
    assert (ran.code, ran.out) == (5, "")
    assert f"The log of its runner on this machine: tail -f {directory.log}" in ran.err


def test_latest_is_the_newest_job_of_the_registry(cli: Cli, remote: Remote, write: Writer) -> None:
    """As `wait @latest` finds it: a job that the cache does not know yet is the one whose lines are shown."""
    add(remote.jobs, "old", "running")
    cli.ok("sync")
    cli.clock.advance(minutes=1)
    add(remote.jobs, "job", "running")
    write("of the newest")
    assert cli.ok("logs", "@latest").lines == ["of the newest"]


def test_the_log_of_a_runner_is_named_for_a_job_that_the_cache_knows(cli: Cli, remote: Remote, write: Writer) -> None:
    """With the lines that the cache has: logs have one source at a time."""
    add(remote.jobs, "job", "running", engine="local")
    cli.ok("sync")
    directory = JobDir.for_job("job", cli.env)
    directory.path.mkdir(parents=True)
    directory.log.write_text("first\nsecond\n")
    hint = f"The log of its runner on this machine: tail -f {directory.log}"
    remote.store.down = True
    ran = cli.ok("logs", "job", "--grep", "nowhere")
    assert ran.err.splitlines()[-2:] == [hint, "Job job has no log lines that match."]
    remote.store.down = False
    write("from an event")
    cli.ok("sync")
    remote.store.down = True
    ran = cli.ok("logs", "job")
    assert (ran.lines, ran.err.splitlines()[-1]) == (["from an event"], hint)
    during_sleeps(
        cli,
        _2=lambda: setattr(remote.store, "down", False),
        _3=lambda: remote.jobs.update_status("job", "succeeded"),
    )
    assert cli.ok("logs", "job", "-f").err.splitlines()[-1] == hint


def test_logs_follow_from_before_the_start_to_the_end(cli: Cli, anywhere: VersionedStore) -> None:
    """On every backend: `logs -f` of a job that has not started waits, prints, and ends with the job's outcome."""
    clock = cli.clock
    registry, write = JobRegistry(anywhere, now=clock.now, sleep=clock.sleep), Writer(anywhere, clock)
    add(registry, "job")
    during_sleeps(
        cli,
        _2=lambda: (registry.update_status("job", "running"), write("a", "b", task=1)),
        _3=lambda: write("c"),
        _4=lambda: registry.update_status("job", "failed"),
    )
    ran = cli("logs", "job", "-f")
    assert (ran.code, ran.lines, ran.err) == (100, ["[1] a", "[1] b", "c"], "")


@pytest.mark.parametrize(("status", "code"), [("succeeded", 0), ("cancelled", 103), ("partial", 104)])
def test_logs_that_follow_end_as_the_job_does(cli: Cli, remote: Remote, status: str, code: int) -> None:
    add(remote.jobs, "job", "running")
    during_sleeps(cli, _2=lambda: remote.jobs.update_status("job", status))
    assert cli("logs", "job", "-f").code == code


def test_a_record_that_is_gone_ends_it(cli: Cli, remote: Remote, write: Writer) -> None:
    """A job that is deleted while it is followed will never end: exit code 3."""
    add(remote.jobs, "job", "running")
    during_sleeps(cli, _2=lambda: remote.store.inner.delete(key("job")))
    assert cli("logs", "job", "-f").code == 3


def test_logs_choose_lines(cli: Cli, remote: Remote, write: Writer) -> None:
    """`--grep`, `--tail` and `--since` choose among the log lines, alone and together; other kinds are none."""
    add(remote.jobs, "job", "running")
    write("one", "two", task=1)
    write("three", kind="runner")
    cli.clock.advance(minutes=10)
    write("four", "one more")
    assert cli.ok("logs", "job").lines == ["[1] one", "[1] two", "four", "one more"]
    assert cli.ok("logs", "job", "--grep", "^one").lines == ["[1] one", "one more"]
    assert cli.ok("logs", "job", "--tail", "2").lines == ["four", "one more"]
    assert cli.ok("logs", "job", "--tail", "1", "--grep", "o$").lines == ["[1] two"]
    assert cli.ok("logs", "job", "--tail", "0").lines == []
    assert cli.ok("logs", "job", "--since", "5m").lines == ["four", "one more"]


def test_tail_and_follow_go_together(cli: Cli, remote: Remote, write: Writer) -> None:
    """`-f --tail N`: the last N lines that are there, then all new ones."""
    add(remote.jobs, "job", "running")
    write("a", "b", "c")
    during_sleeps(cli, _1=lambda: (write("d"), remote.jobs.update_status("job", "succeeded")))
    assert cli("logs", "job", "-f", "--tail", "1").lines == ["c", "d"]


@pytest.mark.parametrize(
    ("status", "flags", "note"),
    [
        ("running", (), "Job job has no log lines yet."),
        ("running", ("--tail", "0"), ""),
        ("succeeded", ("-f",), "Job job has no log lines."),
        ("succeeded", ("--grep", "x"), "Job job has no log lines that match."),
    ],
)
def test_a_job_without_log_lines_says_so(
    cli: Cli, remote: Remote, write: Writer, status: str, flags: tuple[str, ...], note: str
) -> None:
    """A job whose tasks print nothing, or nothing that matches: a note on stderr, and exit code 0."""
    add(remote.jobs, "job", status)
    write("", kind="runner")
    ran = cli.ok("logs", "job", *flags)
    assert (ran.out, ran.err.strip()) == ("", note)


def test_missing_lines_are_told(cli: Cli, remote: Remote, write: Writer) -> None:
    """Where a writer had to drop lines, a warning says how many; stdout holds lines alone."""
    add(remote.jobs, "job", "running")
    write("", kind="dropped", count=12)
    write("a")
    ran = cli.ok("logs", "job")
    assert ran.lines == ["a"]
    assert "12 events are missing" in ran.err


@pytest.mark.parametrize("flags", [("--grep", "("), ("-f", "--offline")])
def test_impossible_wishes_are_refused(cli: Cli, remote: Remote, write: Writer, flags: tuple[str, ...]) -> None:
    """No expression, no duration, no number, or two wishes that contradict each other: exit code 2, one sentence."""
    add(remote.jobs, "job", "running")
    ran = cli("logs", "job", *flags)
    assert (ran.code, ran.out, len(sentences(ran.err))) == (2, "", 1)


def test_a_job_that_its_engine_does_not_know_is_not_waited_for(
    cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`logs -f` reads what the cluster has left, says so once, and goes on with the events."""
    add_kubernetes_job(jobs, "scheduled")
    cluster = answer_for_all(monkeypatch, Cluster(GONE))
    monkeypatch.setattr(cluster, "logs", lambda job, **how: iter(["the last line"]))
    during_sleeps(cli, _300=lambda: jobs.update_status("a", "failed"))
    ran = cli("logs", "a", "-f")
    assert (ran.code, ran.lines) == (100, ["the last line"])
    assert ran.err.count("a: suspect (k8s_job_missing). If its runner is gone: mops-jobs resume a") == 1

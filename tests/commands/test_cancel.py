"""`cancel` at the command line: by ids, by the filters of `list`, and what it stops besides the record."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines.job_dir import JobDir
from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, Remote, add, command, environment, sentences
from support.engines import RUNNING, Cluster
from support.kubernetes import Api, kubeconfig
from support.runs import PATIENCE, is_alive, until

JOB_PATH = "/apis/batch/v1/namespaces/models/jobs/seir-1"
ANSWERS = [("y", 0, "cancelled"), ("", 130, "running"), ("n", 130, "running")]


@pytest.fixture
def several(cli: Cli, jobs: JobRegistry) -> JobRegistry:
    """Register three active jobs, one that has ended."""
    for name, status in (("night-1", "running"), ("night-2", "pending"), ("day-1", "running"), ("night-0", "failed")):
        add(jobs, name, status, owner=name.partition("-")[0])
    return jobs


@pytest.fixture
def cluster(cli: Cli, remote: Remote, api: Api, tmp_path: Path) -> Api:
    """Return a cluster with the Job of `seir-1`, whose record is that of a running job."""
    cli.env["KUBECONFIG"] = str(kubeconfig(tmp_path, api.url))
    add(remote.jobs, "seir-1", "running", engine="kubernetes", k8s_name="seir-1", namespace="models")
    api.put_job()
    return api


def _status(jobs: JobRegistry, *names: str) -> list[str]:
    return [state.status for name in names if (state := jobs.get_job(name)) is not None]


# --- which jobs -----------------------------------------------------------------------------------------------------


def test_filters_choose_among_those_that_have_not_ended(cli: Cli, several: JobRegistry) -> None:
    """The set is shown on stderr, and `--yes` asks no question."""
    ran = cli.ok("cancel", "--name", "night*", "--yes")
    assert ran.out == ""
    assert ran.err.splitlines() == [
        "JOB      STATUS   OWNER  STOPS",
        "night-1  running  night",
        "night-2  pending  night",
        "night-1: cancelled",
        "night-2: cancelled",
    ]
    assert _status(several, "night-1", "night-2", "day-1", "night-0") == ["cancelled", "cancelled", "running", "failed"]


def test_nothing_saves_for_a_job_that_is_not_there(cli: Cli, several: JobRegistry) -> None:
    """The time is told only if a job may use it."""
    ran = cli("cancel", "nope", "--grace", "5m")
    assert (ran.code, ran.err.splitlines()[0]) == (3, "error: Job nope not found.")


def test_without_a_terminal_yes_has_to_be_said(cli: Cli, several: JobRegistry) -> None:
    ran = cli("cancel", "--owner", "night")
    assert (ran.code, ran.out) == (2, "")
    assert "error: There is no terminal to ask 'Cancel 2 jobs?'; nothing was done." in ran.err
    assert _status(several, "night-1", "night-2") == ["running", "pending"]


@pytest.mark.parametrize(("answer", "code", "status"), ANSWERS)
def test_a_real_terminal_is_asked(cli: Cli, several: JobRegistry, answer: str, code: int, status: str) -> None:
    """A process at a pseudo-terminal. `-q` hides nothing that one has to see to answer."""
    ours, theirs = os.openpty()
    argv = command("cancel", "-q", "--name", "day*")
    with subprocess.Popen(argv, env=environment(cli), stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        try:
            said = b""
            while b"[y/N]" not in said:
                assert select.select([ours], [], [], PATIENCE)[0], said
                said += os.read(ours, 4096)
            assert said.index(b"day-1") < said.index(b"Cancel 1 job?")
            os.write(ours, f"{answer}\n".encode())
            assert process.wait(PATIENCE) == code
        finally:
            process.kill()
            os.close(ours)
    assert _status(several, "day-1") == [status]


def test_a_dry_run_shows_the_jobs_and_does_nothing(cli: Cli, several: JobRegistry) -> None:
    ran = cli.ok("cancel", "--status", "running,failed", "--dry-run", "--json")
    assert [json.loads(line)["job_id"] for line in ran.lines] == ["day-1", "night-1"]
    assert "JOB" in cli.ok("cancel", "day-1", "night-0", "--dry-run").out
    assert _status(several, "night-1", "day-1") == ["running", "running"]


def test_a_window_is_taken_strictly(cli: Cli, several: JobRegistry) -> None:
    """A listing shows every active job whatever the window; what cancels jobs does not reach beyond it."""
    cli.clock.advance(hours=5)
    add(several, "young", "running")
    assert "night-1" in cli.ids("--hours", "2")
    cli.ok("cancel", "--hours", "2", "--yes")
    assert _status(several, "young", "night-1") == ["cancelled", "running"]


def test_nothing_that_fits_is_no_error(cli: Cli, several: JobRegistry) -> None:
    assert cli.ok("cancel", "--status", "failed").err == "No active job matches; nothing was cancelled.\n"


@pytest.mark.parametrize("argv", [(), ("day-1", "--name", "*"), ("--yes",), ("--hours", "2", "--since", "2h")])
def test_neither_or_both_is_a_wrong_usage(cli: Cli, several: JobRegistry, argv: tuple[str, ...]) -> None:
    """Without ids and without filters there is nothing to cancel; with both it is not clear what is meant."""
    ran = cli("cancel", *argv)
    assert (ran.code, len(sentences(ran.err))) == (2, 1)
    assert _status(several, "day-1") == ["running"]


def test_the_registry_is_asked_first(cli: Cli, remote: Remote) -> None:
    """What the cache does not know yet is chosen; and when the registry is away, an old picture is not acted on."""
    add(remote.jobs, "old", "running")
    cli.ok("sync")
    add(remote.jobs, "new", "running")
    remote.store.down = True
    assert cli("cancel", "--status", "active", "--yes").code == 5
    remote.store.down = False
    cli.ok("cancel", "--status", "active", "--yes")
    assert _status(remote.jobs, "old", "new") == ["cancelled", "cancelled"]


# --- what runs them ---------------------------------------------------------------------------------------------------


def test_the_job_of_the_cluster_is_deleted(cli: Cli, remote: Remote, cluster: Api) -> None:
    assert cli.ok("cancel", "seir-1", "--json").json["engine_stop"] == "stopped"
    assert len(cluster.requests("delete", JOB_PATH)) == 1
    assert _status(remote.jobs, "seir-1") == ["cancelled"]


def test_cancel_without_its_cluster_says_what_to_type(cli: Cli, remote: Remote, cluster: Api) -> None:
    """The record is cancelled all the same. And cancelling again, when it is back, stops what still runs."""
    add(remote.jobs, "seir-2", "running", engine="kubernetes", k8s_name="seir-2", namespace="models")
    cluster.refuse(503, "not now", "/apis")
    ran = cli.ends(7, "cancel", "seir-1", "seir-2")
    assert "seir-1 is cancelled, but could not be stopped: The cluster at" in ran.err
    assert "By hand: kubectl -n models delete job seir-1" in ran.err
    assert "By hand: kubectl -n models delete job seir-2" in ran.err
    assert len([one for one in cluster.mock if one.url.path.startswith("/apis")]) == 1  # it is asked once
    assert _status(remote.jobs, "seir-1") == ["cancelled"]


def test_cancel_without_a_registry_names_context_and_namespace(cli: Cli, remote: Remote, cluster: Api) -> None:
    """As this machine has launched the job. A job of another machine is looked for in the default namespace."""
    Path("study.json").write_text('{"model": "m:f", "scenario": "s", "parameter_sets": [{"x": 1}]}')
    place = ("--namespace", "others", "--context", "userless")
    cli.ok("submit", "study.json", "--auto", "--engine", "kubernetes", "--image", "i:1", "--job-id", "mine", *place)
    remote.store.down = True
    ran = cli("cancel", "mine")
    hint = "hint: To stop it by hand: kubectl --context userless -n others delete job mine"
    assert (ran.code, ran.err.splitlines()[-1]) == (5, hint)
    hint = "hint: In the cluster, Job theirs was not found in namespace from-kubeconfig. If ModelOps submitted it:"
    by_hand = "kubectl -n modelops-dask-dev delete job theirs"
    assert cli("cancel", "theirs").err.splitlines()[-1] == f"{hint} {by_hand}"


def test_cancelling_again_stops_what_still_runs(cli: Cli, remote: Remote, cluster: Api) -> None:
    remote.jobs.cancel_job("seir-1")
    assert cli.ok("cancel", "seir-1").err == "seir-1: cancelled, stopped\n"
    assert cli.ok("cancel", "seir-1", "--json").json["engine_stop"] == "nothing"


def test_a_job_that_has_ended_keeps_what_is_left_of_it_in_the_cluster(cli: Cli, remote: Remote, cluster: Api) -> None:
    remote.jobs.update_status("seir-1", "succeeded")
    assert cli("cancel", "seir-1").code == 6
    assert cluster.requests("delete", JOB_PATH) == []


def test_the_context_that_a_record_names_is_used(cli: Cli, remote: Remote, cluster: Api) -> None:
    """One that this machine's kubeconfig does not have is named; the environment goes before it."""
    remote.jobs.update_fields("seir-1", metadata={"k8s_context": "elsewhere"})
    ran = cli.ends(7, "cancel", "seir-1")
    assert "has no context elsewhere." in ran.err
    assert "kubectl --context elsewhere -n models delete job seir-1" in ran.err
    assert cli("cancel", "seir-1", MOPS_JOBS_KUBE_CONTEXT="here").err == "seir-1: cancelled, stopped\n"


def test_a_local_runner_is_stopped_and_one_elsewhere_is_no_alarm(cli: Cli, jobs: JobRegistry) -> None:
    for name in ("here", "elsewhere"):
        add(jobs, name, "running", engine="local")
    runner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        directory = JobDir.for_job("here", cli.env).path
        directory.mkdir(parents=True)
        started = int(Path(f"/proc/{runner.pid}/stat").read_text().rpartition(")")[2].split()[19])
        (directory / "runner.json").write_text(json.dumps({"pid": runner.pid, "started": started}))
        ran = cli.ok("cancel", "here", "elsewhere", "--json")
        told: list[Any] = ran.objects
        assert [one["engine_stop"] for one in told] == ["stopped", "nothing"]
        until(lambda: not is_alive(runner.pid), "the runner to end")
    finally:
        runner.kill()
        runner.wait()
    assert os.WIFSIGNALED(runner.returncode) or runner.returncode < 0


def test_cancel_takes_several_jobs(cli: Cli, jobs: JobRegistry) -> None:
    """Each is cancelled or refused by itself: 7 when only some were, and the reason is kept."""
    for name, status in (("a", "running"), ("b", "succeeded"), ("c", "cancelled")):
        add(jobs, name, status)
    ran = cli.ends(7, "cancel", "a", "b", "c", "--reason", "wrong seed", "--json")
    assert [json.loads(line)["job_id"] for line in ran.lines] == ["a", "c"]
    assert json.loads(ran.lines[0])["error_message"] == "Cancelled: wrong seed"
    assert "Job b has ended (succeeded)" in ran.err


@pytest.mark.parametrize(
    ("names", "code"), [(("ended", "no"), 3), (("no", "ended"), 6), (("no", "nor-this"), 3), (("ended", "a", "no"), 7)]
)
def test_cancel_that_cancels_nothing_ends_with_the_last_reason(
    cli: Cli, jobs: JobRegistry, names: tuple[str, ...], code: int
) -> None:
    """Every reason is told; the exit code is the last one's, and 7 only if something was cancelled."""
    add(jobs, "ended", "succeeded")
    add(jobs, "a", "running")
    ran = cli("cancel", *names)
    assert (ran.code, ran.out) == (code, "")
    told = {"ended": "Job ended has ended", "no": "Job no not found.", "nor-this": "Job nor-this not found."}
    for name in names:
        assert (told.get(name, "a: cancelled")) in ran.err


def test_a_cancelled_job_with_a_drop_of_files_names_its_delivery(
    cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No command delivers by itself what the shards of a job that has ended have stored."""
    monkeypatch.setattr("mopsjobs.submission.cancel.open_engine", lambda name, env, trust: Cluster(RUNNING))
    for name, drop in (("a", "yes"), ("b", "no")):
        add(jobs, name, "running", engine="slurm", metadata={"slurm_file_drop": drop})
    JobDir.for_job("a", cli.env).drop.mkdir(parents=True)
    assert cli.ok("cancel", "a", "b").err.splitlines() == [
        "a: cancelled, stopped",
        "b: cancelled, stopped",
        "a: its shards report by files. When they have stopped, run: mops-jobs validate a",
    ]

"""`wait`: until jobs end, whatever way; the exit code tells how."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, Remote, add, during_sleeps, foreign, key, sentences
from support.engines import FAILED, GONE, NO_IMAGE, Cluster, add_kubernetes_job, answer_for_all
from support.notify import Hook

ENDS = [("succeeded", 0), ("failed", 100), ("cancelled", 103), ("partial", 104)]


@pytest.mark.parametrize(("status", "code"), ENDS)
def test_any_end_ends_the_wait(cli: Cli, jobs: JobRegistry, status: str, code: int) -> None:
    """A job that ends while it is waited for ends the wait, whatever its end; the exit code tells which."""
    add(jobs, "job", "running")
    during_sleeps(cli, _3=lambda: jobs.update_status("job", status))
    assert cli("wait", "job").code == code
    assert cli.clock.slept == [1.0, 1.0, 1.0]


def test_a_job_that_has_ended_is_not_waited_for(cli: Cli, jobs: JobRegistry) -> None:
    """Ended jobs give the worst exit code at once. `--json` prints one object a line, in the order asked for."""
    add(jobs, "b", "succeeded")
    add(jobs, "a", "failed")
    ran = cli("wait", "b", "a", "--timeout", "1s", "--json", "-q")
    assert (ran.code, cli.clock.slept) == (100, [])
    assert [line.split(",")[0] for line in ran.lines] == ['{"job_id":"b"', '{"job_id":"a"']


def test_the_end_is_found_in_the_registry_not_in_the_cache(cli: Cli, remote: Remote) -> None:
    """An old cache does not delay the end, nor invent one. Later views know it."""
    add(remote.jobs, "job", "running")
    cli.ok("sync")
    remote.jobs.update_status("job", "succeeded")
    assert cli("wait", "job").code == 0
    assert cli.ids("--status", "succeeded", "--offline") == ["job"]


def test_latest_is_the_newest_job_of_the_registry_not_of_the_cache(cli: Cli, remote: Remote) -> None:
    """`@latest` syncs first: a job that another user has just registered is the one that is waited for."""
    add(remote.jobs, "old", "succeeded")
    cli.ok("sync")
    cli.clock.advance(minutes=1)
    add(remote.jobs, "new", "failed")
    assert cli("wait", "@latest").code == 100


def test_each_change_is_told_once(cli: Cli, jobs: JobRegistry) -> None:
    """On the way, status and progress are told on stderr when they change; `-q` says nothing. Stdout stays empty."""
    add(jobs, "job", tasks_total=4)
    during_sleeps(
        cli,
        _2=lambda: jobs.update_status("job", "running"),
        _4=lambda: jobs.update_progress("job", 3),
        _5=lambda: jobs.update_status("job", "succeeded"),
    )
    ran = cli("wait", "job")
    assert ran.out == ""
    assert ran.err.splitlines()[:-1] == [
        "job: pending, 0/4 tasks",
        "job: running, 0/4 tasks",
        "job: running, 3/4 tasks",
        "job: succeeded, 3/4 tasks",
    ]
    assert cli("wait", "job", "-q") == (0, "", "")


def test_the_engine_s_word_ends_the_wait(cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else would: no pod of the job has reported. The wait says why, and what to type next."""
    add_kubernetes_job(jobs, "scheduled", tasks_total=4)
    cluster = answer_for_all(monkeypatch, Cluster(NO_IMAGE))

    def fail() -> None:
        cluster.says = FAILED

    during_sleeps(cli, _20=fail)
    ran = cli("wait", "a", "--timeout", "5m")
    assert (ran.code, sum(cli.clock.slept), len(cluster.asked)) == (100, 21, 2)
    assert ran.err.splitlines() == [
        "a: scheduled, 0/4 tasks",
        "a: scheduled, 0/4 tasks, waits for ImagePullBackOff: no such image",
        "a: failed, 0/4 tasks",
        f"a: {FAILED.reason}: {FAILED.detail}",
        "Next: kubectl -n models describe job a",
    ]


def test_a_job_that_its_engine_does_not_know_is_told_of_once(
    cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record stays as it is, without end: Slurm has forgotten the job, or a Kubernetes Job was deleted."""
    add_kubernetes_job(jobs, "scheduled", tasks_total=4)
    answer_for_all(monkeypatch, Cluster(GONE))
    ran = cli("wait", "a", "--timeout", "10m")
    assert (ran.code, ran.err.splitlines()) == (
        8,
        [
            "a: scheduled, 0/4 tasks",
            "warning: a: suspect (k8s_job_missing). If its runner is gone: mops-jobs resume a",
            "Not finished after 10m.",
        ],
    )


@pytest.mark.parametrize(
    ("flag", "ends", "code", "sleeps"),
    [
        ("--all", ["failed", "succeeded", "cancelled"], 100, 3),
        ("--all", ["cancelled", "succeeded", "succeeded"], 103, 3),
        ("--all", ["succeeded", "failed", "partial"], 100, 3),
        ("--all", ["partial", "cancelled", "succeeded"], 104, 3),
        ("--any", ["succeeded", "failed", "failed"], 0, 1),
        ("--any", ["failed", "succeeded", "succeeded"], 100, 1),
        ("--fail-fast", ["succeeded", "cancelled", "failed"], 103, 2),
    ],
)
def test_a_flag_tells_which_end_ends_the_wait(
    cli: Cli, jobs: JobRegistry, flag: str, ends: list[str], code: int, sleeps: int
) -> None:
    """With `--all` the last end; a failure outweighs partial, that cancelled, that success.

    With `--any` the first end, whose exit code it has. With `--fail-fast` the first that is not a success.
    """
    for name in "abc":
        add(jobs, name, "running")
    todo = dict(enumerate(zip("abc", ends, strict=True), 1))
    cli.clock.on_sleep = lambda count: jobs.update_status(*todo.pop(count))
    assert cli("wait", "a", "b", "c", flag).code == code
    assert len(cli.clock.slept) == sleeps


def test_a_resumed_job_names_the_newest_of_its_family(cli: Cli, jobs: JobRegistry) -> None:
    """As `status` does: only that job can be resumed, and has the results. `Next` is that of `status`."""
    bundle = {"bundle": "sha256:0"}
    add(jobs, "nightly", "failed", metadata=bundle)
    for number, status in ((2, "failed"), (3, "running")):
        add(jobs, f"nightly.{number}", status, metadata=bundle, parent_job_id="nightly")
        cli.clock.advance(minutes=1)
    family = "nightly: the newest job of its family is nightly.3, which is running"
    following = "Next: mops-jobs wait nightly.3"
    assert cli("wait", "nightly").err.splitlines() == ["nightly: failed", family, following]
    assert cli("status", "nightly").err.splitlines()[-1] == following
    assert cli("wait", "nightly", "nightly.2", "-q").err == ""
    several = cli("wait", "nightly", "nightly.3", "--any").err.splitlines()
    assert several == ["nightly: failed", "nightly.3: running", family], "the next command is that of a single job"
    during_sleeps(cli, _1=lambda: jobs.update_status("nightly.3", "succeeded"))
    assert cli("wait", "nightly.3").err.splitlines()[-1] == "Next: mops-jobs results nightly.3 --download DIR"


def test_an_outage_is_survived(cli: Cli, remote: Remote) -> None:
    """A registry that stops answering is asked again, with pauses that grow; the job's end is then told as ever.

    Every ten minutes, a line says that it still does not answer.
    """
    add(remote.jobs, "job", "running")

    def cut() -> None:
        remote.store.down = True

    def mend() -> None:
        remote.store.down = False
        remote.jobs.update_status("job", "succeeded")

    during_sleeps(cli, _2=cut, _8=lambda: cli.clock.advance(minutes=10), _12=mend)
    ran = cli.ok("wait", "job")
    assert len(cli.clock.slept) == 12
    assert len(re.findall(r"No answer for 1\dm.*, still trying\.", ran.err)) == 1
    assert max(cli.clock.slept[2:]) <= 30
    assert ran.err.count("Trying again until it answers.") == 1
    assert ran.err.splitlines()[-2:] == ["job: succeeded", "Next: mops-jobs status job --json"]


def test_an_outage_backs_off_with_jitter(cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses double from the interval up to half a minute, and are spread over the whole range."""
    monkeypatch.setattr("random.random", lambda: 0.5)
    add(remote.jobs, "job", "running")
    remote.store.down = True
    assert cli("wait", "job", "--timeout", "3m", "--interval", "4s").code == 5
    assert cli.clock.slept[:5] == [4.0, 8.0, 15.0, 15.0, 15.0]


def test_a_timeout_exits_8(cli: Cli, jobs: JobRegistry) -> None:
    """When the time is up first, the exit code is 8, not a second later than asked for, and the jobs are shown."""
    add(jobs, "job", "running")
    begun = cli.clock.monotonic()
    ran = cli.ends(8, "wait", "job", "--timeout", "12s", "--json")
    assert ran.json["status"] == "running"
    assert "Not finished after 12s." in ran.err
    assert cli.clock.monotonic() - begun == 12


def test_out_of_reach_at_the_deadline_exits_5(cli: Cli, remote: Remote) -> None:
    """When the registry cannot be reached at the deadline, the end is unknown: exit code 5, not 8 nor a job's end."""
    add(remote.jobs, "job", "running")

    def cut() -> None:
        remote.store.down = True

    during_sleeps(cli, _1=cut)
    ran = cli("wait", "job", "--timeout", "2m")
    assert (ran.code, ran.out) == (5, "")
    assert ran.err.splitlines()[-1].startswith("error: Cannot reach the registry")


def test_a_registry_file_that_is_not_there_is_waited_for(cli: Cli, jobs: JobRegistry) -> None:
    """A disk that is not mounted has no job of that name either."""
    add(jobs, "job", "running")
    cli.ok("sync")
    registry = Path(cli.env["MOPS_JOBS_REGISTRY"].removeprefix("sqlite://"))
    registry.rename(registry.with_name("away"))
    ran = cli("wait", "job", "--timeout", "30s")
    assert (ran.code, sentences(ran.err)[-1]) == (5, f"error: The registry {registry} is gone: it had 1 job.")


def test_a_job_deleted_meanwhile_ends_the_wait(cli: Cli, jobs: JobRegistry) -> None:
    """A record that is deleted while it is waited for will never end: exit code 3."""
    add(jobs, "job", "running")
    during_sleeps(cli, _2=lambda: jobs.store.delete(key("job")))
    assert cli("wait", "job").code == 3


def test_a_status_from_the_future_has_not_ended(cli: Cli, remote: Remote) -> None:
    """A status that this version does not know is not an end."""
    remote.put(key("odd"), foreign("odd", "hibernating"))
    assert cli("wait", "odd", "--timeout", "10s").code == 8


@pytest.mark.parametrize("flags", [("--interval", "0s"), ("--timeout", "1"), ("--any", "--all"), ("--interval", "x")])
def test_impossible_wishes_are_refused(cli: Cli, jobs: JobRegistry, flags: tuple[str, ...]) -> None:
    """No duration, an interval of nothing, or two wishes that contradict each other: exit code 2, one sentence."""
    add(jobs, "job", "running")
    cli.clock.on_sleep = lambda count: pytest.fail("It waits.") if count > 3 else None
    cli.fails(2, "wait", "job", *flags)


@pytest.mark.claim("Printed commands quote what records say")
def test_the_command_for_a_silent_job_is_quoted(cli: Cli, remote: Remote) -> None:
    """The id of a record is one word of the command line that `wait` prints, whatever is in it."""
    name = "a; id"
    remote.put(key(name), foreign(name, heartbeat_at="2026-03-01T11:00:00Z"))
    assert "gone: mops-jobs resume 'a; id'\n" in cli("wait", name, "--timeout", "1m").err


def test_an_end_that_is_waited_for_is_told(cli: Cli, remote: Remote, hook: Hook) -> None:
    """Once: a later wait, and a sync, find the claim."""
    add(remote.jobs, "job", "running")
    during_sleeps(cli, _2=lambda: remote.jobs.update_status("job", "failed"))
    assert (cli("wait", "job").code, hook.titles) == (100, ["job is failed"])
    assert cli("wait", "job").code == 100
    cli.ok("sync")
    assert len(hook.received) == 1


def test_a_suspect_is_told_while_the_wait_goes_on(cli: Cli, remote: Remote, hook: Hook) -> None:
    """The wait does not stop for it."""
    add(remote.jobs, "job", "running")
    during_sleeps(
        cli,
        _1=lambda: remote.jobs.update_fields("job", metadata={"suspect": {"reason": "pod_gone"}}),
        _4=lambda: remote.jobs.update_status("job", "succeeded"),
    )
    assert cli("wait", "job").code == 0
    assert sorted(hook.titles) == ["job is succeeded", "job may be stuck: pod_gone"]


def test_a_server_that_refuses_changes_no_exit_code(cli: Cli, remote: Remote, hook: Hook) -> None:
    """The wait has done its work. One line says what failed. A wait that is not over tells no end."""
    add(remote.jobs, "job", "running")
    assert (cli("wait", "job", "--timeout", "10s").code, hook.received) == (8, [])
    hook.code = 500
    remote.jobs.update_status("job", "partial")
    ran = cli.ends(104, "wait", "job")
    (line,) = (line for line in sentences(ran.err) if "rule hook" in line)
    assert "the server answered 500" in line

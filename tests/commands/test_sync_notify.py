"""`sync` with rules of notifications: each end is told once, by whichever machine syncs first, and never an old one."""

from __future__ import annotations

import pytest

from mopsjobs.app.following.notify import claims, notifier
from mopsjobs.registry.transitions import ShardReport
from mopsjobs.utils.times import record_time
from support.cli import START, Cli, Remote, add, foreign, key, sentences
from support.notify import VARIABLE, Hook, hook_rule
from support.runs import PATIENCE

HOLD_SECONDS = 0.2


def test_each_end_is_told_once(cli: Cli, remote: Remote, hook: Hook) -> None:
    """With its outcome and what to type; a later sync says nothing more, and asks nothing of the claims."""
    cli.ok("sync")
    add(remote.jobs, "job", "running", tasks_total=4, owner="ada", labels={"exp": "7"})
    cli.ok("sync")
    assert hook.received == []
    remote.jobs.update_progress("job", 3, 4, tasks_failed=1)
    remote.jobs.update_status("job", "failed", error_code="MODEL", error_message="no such file")
    cli.ok("sync")
    assert hook.titles == ["job is failed: 3 of 4 tasks done, 1 failed"]
    [told] = hook.received
    assert (told["event"], told["job"]) == ("end", cli.ok("status", "job", "--json").json)
    assert "Error: MODEL: no such file" in told["text"]
    assert told["next"] == "mops-jobs status job --json"
    event = cli.ok("events", "job", "--kind", "notified", "--json").json
    assert (event["text"], event["recipient"]) == ("the job has ended", "webhook")
    assert not {"hook", hook.url} & {str(value) for value in event.values()}
    assert cli.ok("events", "job", "--kind", "notified").lines[0].endswith("  webhook: the job has ended")
    writes = remote.store.calls["create_if_absent"]
    cli.ok("sync")
    assert len(hook.received) == 1
    assert remote.store.calls["create_if_absent"] == writes


def test_a_new_rule_tells_nothing_old(cli: Cli, remote: Remote, hook: Hook) -> None:
    """Ends before the first sync with it, and ends of more than a day ago, are not told."""
    add(remote.jobs, "before", "succeeded")
    cli.clock.advance(hours=1)
    cli.ok("sync")
    add(remote.jobs, "weekend", "succeeded")
    cli.clock.advance(days=2)
    add(remote.jobs, "now", "succeeded")
    cli.ok("sync")
    assert hook.titles == ["now is succeeded"]


def test_a_new_rule_tells_of_no_job_that_fell_silent_before(cli: Cli, remote: Remote, hook: Hook) -> None:
    """A registry may have many jobs that died long ago. One that falls silent later is told, also after days."""
    for job_id in ("before", "later"):
        add(remote.jobs, job_id, "running", tasks_total=20)
        remote.jobs.report_shard(job_id, 0, 1, ShardReport(0, 10, False))
    cli.clock.advance(hours=1)
    cli.ok("sync")
    assert hook.received == []
    remote.jobs.report_shard("later", 0, 1, ShardReport(1, 10, False))
    cli.clock.advance(days=2)
    cli.ok("sync")
    assert sorted(hook.titles) == ["later may be stuck: no_update", "later: 10 of 11 ended tasks failed"]


def test_a_rule_that_covers_more_tells_nothing_old(cli: Cli, remote: Remote, hook: Hook) -> None:
    """It is a new one, though its recipient is known."""
    hook_rule(cli, hook, 'jobs = "all"\nlabel = ["exp"]')
    cli.ok("sync")
    add(remote.jobs, "before", "succeeded")
    cli.clock.advance(hours=1)
    hook_rule(cli, hook)
    cli.ok("sync")
    add(remote.jobs, "now", "succeeded")
    cli.ok("sync")
    assert hook.titles == ["now is succeeded"]


def test_a_suspect_and_many_failures_are_told_while_a_job_runs(cli: Cli, remote: Remote, hook: Hook) -> None:
    """Each once per job, and its end after them."""
    add(remote.jobs, "job", "running", tasks_total=100)
    remote.jobs.update_progress("job", 30, 100, tasks_failed=10)
    cli.ok("sync")
    cli.ok("sync")
    remote.jobs.update_fields("job", metadata={"suspect": {"reason": "pod_gone"}})
    cli.ok("sync")
    cli.ok("sync")
    remote.jobs.update_status("job", "failed")
    cli.ok("sync")
    assert hook.titles == [
        "job: 10 of 40 ended tasks failed",
        "job may be stuck: pod_gone",
        "job is failed: 30 of 100 tasks done, 10 failed",
    ]


def test_a_recipient_gets_ten_messages_per_minute(cli: Cli, remote: Remote, hook: Hook) -> None:
    """The others wait for the next sync, and a line says so. None is lost."""
    cli.ok("sync")
    for number in range(13):
        add(remote.jobs, f"job-{number}", "succeeded")
    ran = cli.ok("sync", "-q")
    assert len(hook.received) == notifier.MAX_MESSAGES
    assert "3 notifications more than 10 per minute: the next mops-jobs sync goes on." in ran.err
    assert sentences(cli.ok("sync", "-q").err) == []
    assert sorted(hook.titles) == sorted(f"job-{number} is succeeded" for number in range(13))


@pytest.mark.parametrize("code", [302, 503])
def test_a_message_that_is_refused_is_sent_again_later(cli: Cli, remote: Remote, hook: Hook, code: int) -> None:
    """Its reason is said once for all jobs. After a pause, the next sync tries again."""
    cli.ok("sync")
    hook.code = code
    for number in range(3):
        add(remote.jobs, f"job-{number}", "succeeded")
    ran = cli.ok("sync", "-q")
    [said] = sentences(ran.err)
    assert "The rule hook has not told of job-" in said
    assert f"the server answered {code}" in said
    hook.code = 200
    assert sentences(cli.ok("sync", "-q").err) == []
    assert len(hook.received) == 3, "the pause is over"
    cli.clock.moment += claims.RETRY
    assert sentences(cli.ok("sync", "-q").err) == []
    assert len(hook.received) == 6


def test_a_server_that_hangs_is_left_at_its_bound(
    cli: Cli, remote: Remote, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sync ends while the request is still open, and says so."""
    monkeypatch.setattr(notifier, "BOUND_SECONDS", HOLD_SECONDS)
    cli.ok("sync")
    hook.hangs = True
    add(remote.jobs, "job", "succeeded")
    ran = cli.ok("sync", "-q")
    assert hook.holds.wait(PATIENCE)
    assert not hook.released.is_set()
    assert sentences(ran.err) == ["warning: The rule hook may not have told of job: no answer within 0.2 s"]


def test_a_missing_secret_is_named_and_claims_nothing(cli: Cli, remote: Remote, hook: Hook) -> None:
    """Another machine that has it sends the message. The sync is done all the same."""
    cli.ok("sync")
    add(remote.jobs, "job", "succeeded")
    ran = cli.ok("sync", "-q", **{VARIABLE: ""})
    assert sentences(ran.err) == [f"warning: The rule hook sends nothing: {VARIABLE} is not set."]
    assert not list(remote.store.inner.list_keys(claims.PREFIX))
    cli.ok("sync")
    assert hook.titles == ["job is succeeded"]


def test_a_registry_that_takes_no_claims_is_named(cli: Cli, remote: Remote, hook: Hook) -> None:
    """As with a credential that may only read. Nothing is sent: each watcher would."""
    cli.ok("sync")
    add(remote.jobs, "job", "succeeded")
    remote.store.fail_next(1, "create_if_absent")
    assert "The rule hook has not told of job: it could not be claimed" in cli.ok("sync", "-q").err
    assert hook.received == []


def test_a_slow_sync_takes_no_job_for_silent(cli: Cli, remote: Remote, hook: Hook) -> None:
    """A row is as old as the sync that read it. A runner that is silent for a minute when a sync begins is told."""
    cli.ok("sync")
    add(remote.jobs, "job", "running", tasks_total=4)
    remote.jobs.report_shard("job", 0, 1, ShardReport(1, 0, False))
    remote.store.after_listing = lambda: cli.clock.advance(seconds=90)
    cli.ok("sync", "--full")
    remote.store.after_listing = lambda: None
    assert hook.received == []
    cli.clock.advance(seconds=61)
    cli.ok("sync")
    assert hook.titles == ["job may be stuck: no_update"]


def test_the_end_of_a_sweep_is_told_once_and_not_of_each_job(cli: Cli, remote: Remote, hook: Hook) -> None:
    """A minute after the last end, by one of two machines. A job that failed is told at once, as it needs a person."""
    other = {"MOPS_JOBS_CACHE": str(cli.cache.with_name("other.db"))}
    cli.ok("sync")
    cli.ok("sync", **other)
    for job_id in ("a", "b", "c", "d"):
        add(remote.jobs, job_id, "running", labels={"sweep": "night"}, tasks_total=2, owner="ada")
    for job_id, status in (("a", "succeeded"), ("b", "cancelled"), ("c", "failed")):
        remote.jobs.update_status(job_id, status)
    remote.put(key("theirs"), foreign("theirs", "succeeded", labels={"sweep": "night"}, updated_at=record_time(START)))
    cli.ok("sync")
    assert hook.titles == ["c is failed: 0 of 2 tasks done"]
    cli.clock.advance(seconds=1)
    remote.jobs.update_status("d", "succeeded")
    cli.clock.advance(seconds=59)
    cli.ok("sync")
    assert len(hook.titles) == 1  # another job may follow
    cli.clock.advance(seconds=2)
    cli.ok("sync")
    cli.ok("sync", **other)
    cli.ok("sync")
    assert hook.titles[1:] == ["sweep night has ended: 1 failed, 1 cancelled, 3 succeeded"]
    told = hook.received[-1]
    assert (told["event"], told["job"]["job_id"], told["next"]) == (
        "sweep_end",
        "d",
        "mops-jobs list --label sweep=night",
    )
    assert told["sweep"] == {"name": "night", "jobs": 5, "statuses": {"failed": 1, "cancelled": 1, "succeeded": 3}}
    assert told["text"].splitlines()[1:] == ["Owner: ada", "Took: 2h", "Next: mops-jobs list --label sweep=night"]
    event = cli.ok("events", "d", "--kind", "notified", "--json").json
    assert event["text"] == "the sweep night has ended"


def test_a_sweep_that_goes_on_ends_again(cli: Cli, remote: Remote, hook: Hook) -> None:
    """A loop that submits a job after the end of another is one sweep, and one message, unless it pauses."""
    cli.ok("sync")
    for number in range(5):
        add(remote.jobs, f"job-{number}", "succeeded", labels={"sweep": "loop"})
        cli.clock.advance(seconds=30)
        cli.ok("sync")
    assert hook.titles == []
    for job_id in ("late-1", "late-2"):
        cli.clock.advance(seconds=61)
        cli.ok("sync")
        add(remote.jobs, job_id, "succeeded", labels={"sweep": "loop"})
    assert hook.titles == [f"sweep loop has ended: {count} succeeded" for count in (5, 6)]
    cli.clock.advance(days=2)
    cli.ok("sync")
    assert len(hook.titles) == 2  # nothing that ended more than a day ago


def test_the_first_failure_of_a_day_in_a_sweep_is_told(cli: Cli, remote: Remote, hook: Hook) -> None:
    """It says that others are told at the end of the sweep, also by a rule for failures alone."""
    hook_rule(cli, hook, 'jobs = "all"\non = ["failed"]')
    cli.ok("sync")
    for number in range(4):
        add(remote.jobs, f"n-{number}", "failed", labels={"sweep": "night"})
        cli.ok("sync", **({"MOPS_JOBS_CACHE": str(cli.cache.with_name("other.db"))} if number == 2 else {}))
    assert hook.titles == ["n-0 is failed"]
    assert "Further failures in the sweep night: at its end" in hook.received[0]["text"].splitlines()
    cli.clock.advance(days=1)
    add(remote.jobs, "n-4", "failed", labels={"sweep": "night"})
    cli.ok("sync")
    cli.clock.advance(minutes=2)
    cli.ok("sync")
    assert hook.titles[1:] == ["n-4 is failed", "sweep night has ended: 5 failed"]


def test_a_rule_for_failures_says_nothing_of_a_sweep_with_one(cli: Cli, remote: Remote, hook: Hook) -> None:
    """It has told of the job. What is told of active jobs is as of any job."""
    hook_rule(cli, hook, 'jobs = "all"\non = ["failed", "failures"]')
    cli.ok("sync")
    add(remote.jobs, "a", "running", labels={"sweep": "x"}, tasks_total=20)
    remote.jobs.update_progress("a", 5, 20, tasks_failed=10)
    cli.ok("sync")
    remote.jobs.update_status("a", "partial")
    cli.ok("sync")
    cli.clock.advance(minutes=2)
    cli.ok("sync")
    assert [told["event"] for told in hook.received] == ["failures", "end"]

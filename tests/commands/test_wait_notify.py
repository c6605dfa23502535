"""`wait` with rules of notifications: it tells what it sees, delays nothing, and ends as it would without them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mopsjobs.app.following.notify import notifier
from support.cli import Cli, Remote, add, during_sleeps, sentences
from support.notify import Hook
from support.runs import PATIENCE

if TYPE_CHECKING:
    pass

HOLD_SECONDS = 0.2


def test_an_end_that_is_waited_for_is_told(cli: Cli, remote: Remote, hook: Hook) -> None:
    """Once: a later wait, and a sync, find the claim."""
    add(remote.jobs, "job", "running")
    during_sleeps(cli, _2=lambda: remote.jobs.update_status("job", "failed"))
    ran = cli("wait", "job")
    assert (ran.code, hook.titles) == (100, ["job is failed"])
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


def test_a_job_that_ended_long_ago_is_not_told(cli: Cli, remote: Remote, hook: Hook) -> None:
    """Who waits for it again knows that it has ended."""
    add(remote.jobs, "job", "succeeded")
    cli.clock.advance(hours=1)
    assert cli("wait", "job").code == 0
    assert hook.received == []


@pytest.mark.parametrize("code", [302, 500])
def test_a_server_that_refuses_changes_no_exit_code(cli: Cli, remote: Remote, hook: Hook, code: int) -> None:
    """The wait has done its work. One line says what failed."""
    hook.code = code
    add(remote.jobs, "job", "partial")
    ran = cli("wait", "job")
    assert ran.code == 104
    assert [line for line in sentences(ran.err) if "rule hook" in line] == [
        next(line for line in ran.err.splitlines() if f"the server answered {code}" in line)
    ]


def test_a_server_that_hangs_ends_no_wait_later(
    cli: Cli, remote: Remote, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait ends while the request is still open."""
    monkeypatch.setattr(notifier, "BOUND_SECONDS", HOLD_SECONDS)
    hook.hangs = True
    add(remote.jobs, "job", "succeeded")
    ran = cli("wait", "job")
    assert hook.holds.wait(PATIENCE)
    assert not hook.released.is_set()
    assert ran.code == 0
    assert "warning: The rule hook may not have told of job: no answer within 0.2 s" in ran.err


def test_a_wait_that_is_not_over_tells_no_end(cli: Cli, remote: Remote, hook: Hook) -> None:
    """The time of the wait was up, not that of the job."""
    add(remote.jobs, "job", "running")
    assert cli("wait", "job", "--timeout", "10s").code == 8
    assert hook.received == []


def test_many_ends_at_once_are_told_in_turn(cli: Cli, remote: Remote, hook: Hook) -> None:
    """A wait for more jobs than a recipient gets messages says how many are left to the next sync."""
    names = [f"job-{number}" for number in range(12)]
    for name in names:
        add(remote.jobs, name, "succeeded")
    ran = cli("wait", *names)
    assert (ran.code, len(hook.received)) == (0, 10)
    assert "2 notifications more than 10 per minute" in ran.err

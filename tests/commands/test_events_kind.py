"""`events --kind`: events of some kinds only, also those of other writers."""

from __future__ import annotations

import json

import pytest

from support.cli import Cli, Remote, add, during_sleeps
from support.events import Writer, event_texts


def test_kinds_choose_events(cli: Cli, remote: Remote, write: Writer) -> None:
    """One kind, several, repeated; also kinds of other writers, and each with its cursor."""
    add(remote.jobs, "job", "running")
    for kind in ("log", "task_failed", "runner", "custom", "log"):
        write(kind, kind=kind)
    for flags, shown in {
        ("--kind", "runner"): ["runner"],
        ("--kind", "task_failed, log"): ["log", "task_failed", "log"],
        ("--kind", "runner", "--kind", "custom"): ["runner", "custom"],
    }.items():
        assert event_texts(cli.ok("events", "--json", *flags)) == shown
        assert event_texts(cli.ok("events", "job", "--json", *flags)) == shown
    cursor = json.loads(cli.ok("events", "--json", "--kind", "task_failed").out)["cursor"]
    assert event_texts(cli.ok("events", "--json", "--kind", "log", "--since", cursor)) == ["log"]


def test_a_follower_of_one_kind_ends_with_the_job(cli: Cli, remote: Remote, write: Writer) -> None:
    """The event of the end ends it, and is not printed."""
    add(remote.jobs, "job", "running")
    during_sleeps(
        cli,
        _1=lambda: write("a", kind="task_failed"),
        _2=lambda: (remote.jobs.update_status("job", "failed"), write("b"), write("", kind="state", status="failed")),
    )
    ran = cli.ok("events", "job", "--follow", "--json", "--kind", "task_failed")
    assert event_texts(ran) == ["a"]
    assert cli.clock.slept == [2.0] * 3


@pytest.mark.parametrize(("kind", "nearest"), [("task_faild", "task_failed"), ("log,stat", "state"), ("", "")])
def test_a_mistyped_kind_is_refused(cli: Cli, remote: Remote, kind: str, nearest: str) -> None:
    """Exit code 2, with the known kinds and the nearest one."""
    ran = cli("events", f"--kind={kind}")
    assert (ran.code, ran.out) == (2, "")
    assert "expected one of state, task_failed, log, runner, straggler, note, labels, notified, dropped." in ran.err
    assert f"Did you mean '{nearest}'?" in ran.err or not nearest


def test_a_kind_without_events_is_noted(cli: Cli, remote: Remote, write: Writer) -> None:
    """So a kind that no writer knows is noticed; the exit code is 0."""
    write("a")
    ran = cli.ok("events", "--kind", "custom,runner")
    assert (ran.out, ran.err.strip()) == ("", "There are no events of kind custom or runner.")

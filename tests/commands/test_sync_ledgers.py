"""`sync` and ledgers: it refreshes those that a view has looked at, until they are complete."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from support.cli import Cli, Remote
from support.ledgers import Ledger, add_job, attempt, leave_outputs
from support.runs import sets_of


def _outcomes(cli: Cli) -> list[list[str]]:
    ran = cli.ok("query", "--tsv", "SELECT task, outcome, basis FROM tasks ORDER BY task")
    return [line.split("\t") for line in ran.lines]


def test_sync_refreshes_what_was_looked_at_until_it_is_complete(
    cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger is complete a minute after the end of its job. A job that no view looked at costs nothing."""
    for name in ("looked", "other"):
        add_job(remote.jobs, name, sets_of(3))
        Ledger(remote.store.inner, name)(attempt(0))
    cli.ok("tasks", "looked")
    runner = Ledger(remote.store.inner, "looked", run="cd")
    runner(attempt(1, "failed"))
    assert cli.ok("sync", "--json").json["attempts_added"] == 1
    remote.jobs.update_status("looked", "failed")
    runner(attempt(2))
    assert "1 new attempt" in cli.ok("sync").out
    cli.clock.advance(seconds=120)
    cli.ok("sync")
    assert _outcomes(cli) == [["0", "succeeded", "ledger"], ["1", "failed", "ledger"], ["2", "succeeded", "ledger"]]
    listed: list[str] = []
    list_keys = remote.store.list_keys
    monkeypatch.setattr(remote.store, "list_keys", lambda prefix="": listed.append(prefix) or list_keys(prefix))
    assert cli.ok("sync", "--json").json["attempts_added"] == 0
    assert listed != []
    assert not any(prefix.startswith("ledger/") for prefix in listed)


def test_tasks_without_an_attempt_are_told_by_outputs_at_the_end(cli: Cli, remote: Remote) -> None:
    """The disk of a runner, and its last attempts with it, may be lost; the outputs are there."""
    manifest = add_job(remote.jobs, "job", sets_of(4))
    Ledger(remote.store.inner)(attempt(0), attempt(1, "lost"))
    leave_outputs(remote.store.inner, manifest, 0, 1, 2)
    cli.ok("tasks", "job")
    assert _outcomes(cli) == [["0", "succeeded", "ledger"], ["1", "lost", "ledger"]]
    remote.jobs.update_status("job", "partial")
    cli.ok("sync")
    assert _outcomes(cli) == [["0", "succeeded", "ledger"], ["1", "succeeded", "ledger"], ["2", "succeeded", "outputs"]]


def test_a_manifest_that_is_gone_does_not_stop_a_sync(cli: Cli, remote: Remote) -> None:
    """The ledger gets a problem, and those of other jobs go on."""
    for name in ("a", "b"):
        add_job(remote.jobs, name, sets_of(2))
        cli.ok("tasks", name)
    Ledger(remote.store.inner, "b")(attempt(1))
    remote.store.inner.delete("jobs/a/manifest.json")
    assert cli.ok("sync", "--json").json["attempts_added"] == 1
    (problem,) = cli.ok("query", "--tsv", "SELECT problem FROM ledgers WHERE job_id = 'a'").lines
    assert "has no manifest" in problem


def test_pruned_and_removed_jobs_take_their_ledgers_along(cli: Cli, remote: Remote) -> None:
    """The cache keeps nothing of the tasks of a job that it no longer has."""
    for name in ("pruned", "deleted"):
        add_job(remote.jobs, name, sets_of(2))
        Ledger(remote.store.inner, name)(attempt(0), attempt(1, "failed"))
        remote.jobs.update_status(name, "failed")
        cli.ok("tasks", name)
    remote.store.inner.delete("jobs/deleted/state.json")
    cli.ok("sync", "--full")
    cli.clock.advance(days=40)
    cli.ok("prune", "--older-than", "30d", "--yes")
    with closing(sqlite3.connect(cli.cache)) as connection:
        for table in ("ledger", "ledger_chunk", "attempt", "task", "parameter_set"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table

"""`status`: the line on failed tasks, from what the cache has of a ledger."""

from __future__ import annotations

from mopsjobs.registry.transitions import ShardReport
from support.cli import Cli, Remote
from support.ledgers import Ledger, add_job, attempt
from support.runs import sets_of


def _line(cli: Cli) -> str | None:
    lines = [line for line in cli.ok("status", "job", "--offline").lines if line.startswith("Failed")]
    return lines[0].removeprefix("Failed").strip() if lines else None


def test_status_says_which_tasks_failed_and_why(cli: Cli, remote: Remote) -> None:
    """Before the first look, it counts them as the record does; then it names the three most frequent reasons."""
    add_job(remote.jobs, "job", sets_of(50))
    runner = Ledger(remote.store.inner)
    cli.ok("sync")
    assert _line(cli) is None
    remote.jobs.report_shard("job", 0, 1, ShardReport(1, 40))
    runner(*(attempt(number, "failed") for number in range(38)), attempt(38, "oom"), attempt(39, "oom"), attempt(40))
    cli.ok("sync")
    assert _line(cli) == "40; to see why: mops-jobs failures job"
    cli.ok("tasks", "job")
    assert _line(cli) == "40: 38 ValueError in model.py:21, 2 out of memory"
    runner(attempt(41, "timeout"), attempt(42, "died"), attempt(43, "lost"), attempt(44, "cancelled"))
    cli.ok("sync")
    assert _line(cli) == "43: 38 ValueError in model.py:21, 2 out of memory, 1 died, 2 for other reasons"


def test_failed_tasks_that_only_the_record_counts_are_told(cli: Cli, remote: Remote) -> None:
    """The record is newer than what was read of the ledger. Two lines of one view name the same number."""
    add_job(remote.jobs, "job", sets_of(50))
    Ledger(remote.store.inner)(attempt(0, "failed"), attempt(1, "oom"))
    cli.ok("tasks", "job")
    remote.jobs.report_shard("job", 0, 1, ShardReport(30, 5))
    cli.ok("sync")
    assert "30/50 tasks, 60 %, 5 failed" in cli.ok("status", "job", "--offline").out
    assert _line(cli) == "5: 1 ValueError in model.py:21, 1 out of memory, 3 not read"


def test_repeated_tasks_share_the_failure_and_are_counted(cli: Cli, remote: Remote) -> None:
    """`status`, `tasks` and `failures` count alike: each of the tasks with the same parameters and seed is a task."""
    one, other = {"params": {"beta": 1}, "seed": 7}, {"params": {"beta": 2}, "seed": 7}
    manifest = add_job(remote.jobs, "job", [one, other, one, one, other])
    assert manifest.record_fields()["metadata"]["n_duplicate_tasks"] == 3
    Ledger(remote.store.inner)(attempt(0, "failed"), attempt(1, "oom"))
    assert len(cli.ok("tasks", "job", "--status", "failed,oom", "-q").lines) == 5
    assert _line(cli) == "5: 3 ValueError in model.py:21, 2 out of memory"
    assert cli.ok("failures", "job").lines[0] == "5 of 5 tasks of job failed, for 2 reasons."
    groups = cli.ok("failures", "job", "--json").json["groups"]
    assert [(group["count"], group["tasks"]) for group in groups] == [(3, [0, 2, 3]), (2, [1, 4])]


def test_a_job_none_of_whose_tasks_failed_has_no_such_line(cli: Cli, remote: Remote) -> None:
    """A task that failed first and then succeeded has not failed."""
    add_job(remote.jobs, "job", sets_of(2))
    Ledger(remote.store.inner)(attempt(0, "failed"), attempt(0, attempt=2, started_at=attempt(1).started_at))
    cli.ok("tasks", "job")
    assert _line(cli) is None


def test_a_long_place_and_type_are_cut_and_cleaned(cli: Cli, remote: Remote) -> None:
    """They come from a model."""
    add_job(remote.jobs, "job", sets_of(1))
    error = attempt(0, "failed").error
    assert error is not None
    hostile = error._replace(type="T\x1b[31m" + "t" * 150, where="w\n" * 80)
    Ledger(remote.store.inner)(attempt(0, "failed", error=hostile))
    cli.ok("tasks", "job")
    line = _line(cli)
    assert line is not None
    assert line.startswith("1 T[31mttt")
    assert len(line) < 150

"""The ledger from end to end: a runner works through a job, and `tasks` shows what it measured."""

from __future__ import annotations

from pathlib import Path

from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli
from support.runs import place, sets_of, study, work


def test_tasks_shows_what_a_runner_measured(cli: Cli, jobs: JobRegistry, model: Path, tmp_path: Path) -> None:
    """Each attempt is there, of tasks that succeeded and of those that failed, and status names the reason at once."""
    sets = [*sets_of(3), {"x": 3, "fail": True}, {"x": 4, "always_die": True}]
    manifest = place(jobs.store, "job", study(sets), model)
    jobs.register_job("job", **manifest.record_fields())
    work(jobs.store, jobs, tmp_path / "work")
    (line,) = [line for line in cli.ok("status", "job").lines if line.startswith("Failed ")]
    assert line.startswith("Failed     2: 1 died, 1 ValueError in model.py:")
    tasks = cli.ok("tasks", "job", "--jsonl").objects
    assert [task["outcome"] for task in tasks] == ["succeeded", "succeeded", "succeeded", "failed", "died"]
    assert [task["params"]["x"] for task in tasks] == [0, 1, 2, 3, 4]
    assert all(task["attempt"] >= 1 and task["host"] for task in tasks)
    assert all(task["seconds"] >= 0 and task["max_rss_bytes"] > 0 for task in tasks[:4])
    assert all(task["output_bytes"] > 0 and task["error_key"] is None for task in tasks[:3])
    assert (tasks[3]["error_type"], tasks[3]["error_message"]) == ("ValueError", "as asked")
    assert cli.ok("tasks", "job", "-q", "--status", "failed,died").lines == ["3", "4"]

"""`progress`: a job reports how many tasks are done."""

from __future__ import annotations

import pytest

from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, add, sentences


def test_progress_that_goes_back_is_written_and_told(cli: Cli, jobs: JobRegistry) -> None:
    """A pod that was begun anew counts from the beginning; a typing error is seen. Also with `-q` and `--json`."""
    cli.ok("register", "job", "--total", "10")
    assert cli.ok("progress", "job", "5/10", "-q")[1:] == ("", "")
    assert cli.ok("progress", "job", "5/10", "-q")[1:] == ("", "")
    warning = "warning: job: progress went back from 5 to 3 tasks.\n"
    assert cli.ok("progress", "job", "3/10").err == f"{warning}job: running, 3/10 tasks\n"
    assert cli.ok("status", "job", "--json").json["tasks_completed"] == 3
    assert cli.ok("progress", "job", "2", "-q")[1:] == ("", warning.replace("5 to 3", "3 to 2"))
    ran = cli.ok("progress", "job", "0", "--json")
    assert (ran.json["tasks_completed"], ran.err) == (0, warning.replace("5 to 3", "2 to 0"))
    assert cli.ok("progress", "job", "1", "-q")[1:] == ("", "")


@pytest.mark.parametrize("done", ["5/4", "x", "-1", "99999999999999999999", "5/0"])
def test_impossible_progress_is_refused(cli: Cli, jobs: JobRegistry, done: str) -> None:
    """More done than there are, or no numbers at all: exit code 2, one sentence, nothing written."""
    add(jobs, "job")
    before = jobs.get_record("job")
    ran = cli("progress", "job", done)
    assert (ran.code, ran.out, len(sentences(ran.err))) == (2, "", 1)
    assert jobs.get_record("job") == before


def test_tasks_done_are_told_without_a_total(cli: Cli) -> None:
    """Progress of a job whose size is unknown is a count."""
    cli.ok("register", "a")
    assert cli.ok("progress", "a", "1").err == "a: running, 1 task done\n"
    assert "Progress   1 task done" in cli.ok("status", "a").lines
    assert cli.ok("progress", "a", "5").err == "a: running, 5 tasks done\n"

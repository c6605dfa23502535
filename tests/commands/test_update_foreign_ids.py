"""Records of other programs with ids that mops-jobs does not give, such as `team/run 1`."""

from __future__ import annotations

import json

import pytest

from support.cli import Cli, Remote, foreign, key
from support.web import Web

NAME = "team/run 1"


def test_a_job_with_a_slash_in_its_id_is_shown_and_ended(
    cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was missing in each view, and `update` refused its id. So did a negative count."""
    remote.put(key(NAME), foreign(NAME, "running", tasks_total=4, tasks_completed=-1))
    assert cli.ids("--refresh") == [NAME]
    shown = cli.ok("status", NAME).out
    assert "Progress   [------------------------] 0/4 tasks, 0 %" in shown
    assert "Remark     invalid field tasks_completed: expected a count, from 0 to 2^53; shown as 0" in shown
    cli.ok("progress", NAME, "3")
    cli.ok("update", NAME, "failed")
    found = remote.store.inner.get(key(NAME))
    assert found is not None
    assert [json.loads(found.value)[name] for name in ("status", "tasks_completed")] == ["failed", 3]
    cli.ok("sync")
    assert "failed 3/4 tasks" in cli.ok("events", NAME).out
    web = Web(cli, capsys)
    assert "/jobs/team%2Frun%201" in web.ok("/jobs")
    for page in ("", "/tasks", "/logs"):
        assert "team/run 1" in web.ok(f"/jobs/team%2Frun%201{page}")
    assert json.loads(web.ok("/api/v1/jobs/team%2Frun%201"))["job_id"] == NAME


def test_a_pruned_job_with_a_slash_in_its_id_stays_pruned(cli: Cli, remote: Remote) -> None:
    """`team/run` is not a prefix of it, though the cache has another id that begins so."""
    for job_id, status in (("team/run", "failed"), ("team/run 1", "running")):
        remote.put(key(job_id), foreign(job_id, status))
    cli.clock.advance(days=1)
    cli.ok("sync")
    cli.ok("prune", "--older-than", "1h", "--yes")
    ran = cli("status", "team/run", "--offline")
    assert (ran.code, ran.err.splitlines()[1].partition(". ")[0]) == (3, "hint: It was pruned from this cache")
    assert cli.ok("status", "team/run", "--json").json["job_id"] == "team/run"


@pytest.mark.parametrize("below", ["tasks", "logs", "results", "events"])
def test_an_id_that_ends_as_a_path_has_its_own_page(
    cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str], below: str
) -> None:
    """The link to `x/tasks` in the list of jobs led to the tasks of `x`, and the API had no such job."""
    for job_id in ("x", f"x/{below}"):
        remote.put(key(job_id), foreign(job_id, "running"))
    cli.ok("sync")
    web = Web(cli, capsys)
    assert f"<h1>x/{below}</h1>" in web.ok(f"/jobs/x%2F{below}")
    assert json.loads(web.ok(f"/api/v1/jobs/x%2F{below}"))["job_id"] == f"x/{below}"
    if below != "events":
        assert "<h1>x</h1>" in web.ok(f"/jobs/x/{below}")

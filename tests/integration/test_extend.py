"""An extension of a job on Azure: what commands, the page and Python show of it, and what the store holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import mopsjobs as mj
from support.cli import Cli
from support.desk import Desk
from support.runs import calls, sets_of
from support.servers import Azurite
from support.web import Web

# A runner outlives the process that launched it, here this very process.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")


@pytest.fixture
def extended(cli: Cli, azurite: Azurite, tmp_path: Path) -> Iterator[Desk]:
    """Yield a desk at Azurite with `job`, of 2 x 3 tasks, and `more`, which extends it to 2 x 4."""
    cli.env["MOPS_JOBS_REGISTRY"] = azurite.url(azurite.new_container())
    with closing(Desk(cli, tmp_path / "desk")) as desk:
        sets = sets_of(2, calls=str(tmp_path / "calls"))
        desk.submit(sets, "--wait", n_replicates=3)
        desk.submit(sets, "--wait", "--extend", "job", job_id="more", n_replicates=4)
        assert calls(tmp_path / "calls") == {0: 4, 1: 4}
        yield desk


def test_views_on_azure_show_reused_tasks_at_once(extended: Desk, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands without a refresh, and the pages of the job, from the same cache."""
    assert len(extended.results("more")) == 2
    assert extended.ok("list", "--json", "--fields", "job_id,tasks_completed").json["jobs"][0]["tasks_completed"] == 8
    assert "6 of 8 tasks, from job" in extended.ok("status", "more").out
    tasks = extended.ok("tasks", "more", "--json").json["tasks"]
    assert [(one["outcome"], one["attempt"]) for one in tasks] == [*[("succeeded", 0)] * 3, ("succeeded", 1)] * 2
    assert extended.ok("failures", "more").out == "No task of more has failed.\n"
    table = extended.ok("results", "more", "--table", "-").out.splitlines()
    assert len(table) == 9
    assert extended.ok("results", "more", "--table", "-", "--offline").out.splitlines() == table
    web = Web(cli, capsys, reads=True)
    page = web.ok("/jobs/more")
    assert '<dt>Reused</dt><dd dir="auto">6 of 8 tasks, from <a href="/jobs/job">job</a></dd>' in page
    web.ok("/jobs/more/results?task=0")
    web.read_asked()
    assert "result.json" in web.ok("/jobs/more/results?task=0")


def test_python_extends_and_replays_as_the_command_does(extended: Desk, tmp_path: Path) -> None:
    grid = mj.Study(
        "model:simulate", [{"x": 0, "calls": str(tmp_path / "calls")}], replicates=5, outputs=["result.json"]
    )
    with mj.connect(env=extended.env) as registry:
        job = registry.submit(grid, extend=registry.job("more"), job_id="most", workers=1)
        extended.launched.add("most")
        assert job.wait(interval=0.1)["status"] == "succeeded"
        assert calls(tmp_path / "calls")[0] == 5
        assert job.provenance()["reused"] == [{"job_id": "more", "tasks": 1}, {"job_id": "job", "tasks": 3}]
        assert [task["x"] for task in job.results()] == [0] * 5
        assert all(task["result.seed"] == task["seed"] for task in job.results())
        found = job.replay(0)
        assert (found["equal"], found["done_by"]) == (True, "job")
        with pytest.raises(mj.UsageError, match="no such task"):
            job.replay(5)

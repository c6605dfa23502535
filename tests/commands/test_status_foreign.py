"""`status JOB` of a record that another program writes: what is not reported is not known."""

from __future__ import annotations

import json

import pytest

from support.cli import Cli, Remote, add, foreign, key
from support.web import Web


def test_a_record_of_another_program_is_shown(cli: Cli, remote: Remote) -> None:
    """A record without a history shows what it has, and no times that were not reported."""
    remote.put(key("theirs"), foreign("theirs", "succeeded", tasks_total=4, tasks_completed=4))
    lines = cli.ok("status", "theirs").lines
    assert lines[:3] == [
        "Job        theirs",
        "Status     succeeded, since 2026-03-01T11:00:00Z",
        "Progress   [########################] 4/4 tasks, 100 %",
    ]
    assert not [line for line in lines if line.startswith(("Queued", "Ran", "Timeline"))]


def test_the_metadata_of_modelops_are_shown(cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    """Image and type, as `mops jobs status` shows them; on the page too. Those of mops-jobs have lines of their own."""
    metadata = {
        "type": "SimJob",
        "blob_key": "sim/1.json",
        "image": "ghcr.io/runner:1",
        "note": "mine",
        "suspect": None,
    }
    remote.put(key("job-1a"), foreign("job-1a", metadata=metadata))
    remote.put(key("ours"), foreign("ours", metadata={"bundle": "sha256:0", "study": "m/s"}))
    shown = "type: SimJob, blob_key: sim/1.json, image: ghcr.io/runner:1"
    assert f"Metadata   {shown}" in cli.ok("status", "job-1a").lines
    assert "Metadata" not in cli.ok("status", "ours").out
    assert shown in Web(cli, capsys).ok("/jobs/job-1a")


@pytest.mark.parametrize("status", ["scheduled", "running"])
def test_a_start_that_nothing_reported_has_no_time(cli: Cli, remote: Remote, status: str) -> None:
    """`update` ends a job of another program: neither its last write nor that of the end is its start."""
    remote.put(key("theirs"), foreign("theirs", status))
    cli.clock.advance(hours=10)
    job = cli.ok("update", "theirs", "succeeded", "--json").json
    assert [step["at"] for step in job["transitions"][:-1]] == [None] * (len(job["transitions"]) - 1)
    assert (job["started_at"], job["queued_seconds"], job["run_seconds"]) == (None, None, None)
    assert job["ended_at"] == job["status_since"] == "2026-03-01T22:00:00Z"
    assert cli.ok("status", "theirs", "--json").json == job
    lines = cli.ok("status", "theirs").lines
    assert not [line for line in lines if line.startswith(("Queued", "Ran"))]
    assert lines[-2:] == ["Timeline", "  2026-03-01 22:00:00Z  succeeded"]


def test_a_label_after_the_end_leaves_the_time_of_the_end(cli: Cli, remote: Remote) -> None:
    """Also of a job that another program ended: every view, with the registry or without it, shows the same end."""
    remote.put(key("theirs"), foreign("theirs", "failed"))
    cli.clock.advance(hours=10)
    job = cli.ok("update", "theirs", "--label", "checked=yes", "--json").json
    end = "2026-03-01T11:00:00Z"
    assert (job["status_since"], job["ended_at"], [step["at"] for step in job["transitions"]]) == (end, end, [end])
    assert cli.ok("status", "theirs", "--json").json == job
    assert cli.ok("status", "theirs").lines[-1] == "  2026-03-01 11:00:00Z  failed"
    remote.store.down = True
    waited = cli("wait", "theirs", "--json").json
    assert (waited["ended_at"], waited["transitions"]) == (end, job["transitions"])


def test_a_label_does_not_say_that_no_task_has_run(cli: Cli, remote: Remote) -> None:
    """Another program ended a job that was registered here. Whether its tasks ran is not known."""
    add(remote.jobs, "a")
    found = remote.store.get(key("a"))
    assert found is not None
    record = json.loads(found.value) | {"status": "succeeded", "updated_at": "2026-03-01T14:00:00+00:00"}
    remote.put(key("a"), json.dumps(record))
    before = cli.ok("status", "a", "--json").json
    after = cli.ok("label", "a", "checked=yes", "--json").json
    for job in (before, after):
        assert (job["started_at"], job["queued_seconds"], job["run_seconds"]) == (None, None, None)
    assert before["duration_seconds"] == after["duration_seconds"]

"""`label`: labels of a job, and archived jobs, which lists leave out."""

from __future__ import annotations

import pytest

from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, Remote, add


def test_labels_are_set_and_removed_after_the_end(cli: Cli, remote: Remote) -> None:
    """Filters find them at once, on other machines after a sync. `status` and `events` tell who changed what."""
    add(remote.jobs, "job", "succeeded", labels={"draft": "1"})
    cli.ok("sync")
    cli.clock.advance(hours=1)
    assert cli.ok("label", "job", "paper=fig2", "draft-", USER="ada").err == "job: labels paper=fig2\n"
    assert (cli.ids("--label", "paper=fig2", "--offline"), cli.ids("--label", "draft", "--offline")) == (["job"], [])
    ran = cli.ok("status", "job", "--offline")
    assert "Labels     paper=fig2" in ran.lines
    assert "  2026-03-01 13:00:00Z  ada: without draft, paper=fig2" in ran.lines
    (event,) = cli.ok("events", "job", "--kind", "labels", "--json").objects
    assert (event["labels"], event["by"]) == ({"draft": None, "paper": "fig2"}, "ada")
    cli.ok("sync", "--cache", "elsewhere.db", "-q")
    assert cli.ok("list", "-q", "--label", "paper", "--cache", "elsewhere.db", "--offline").lines == ["job"]
    assert cli.ok("label", "job", "paper-").err == "job: no labels\n"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (["paper"], "invalid label 'paper': expected key=value, or key- to remove it."),
        (["-"], "invalid label '-': expected key=value, or key- to remove it."),
        (["=1"], "invalid label '=1': expected key=value."),
        (["a=1", "a=2"], "invalid label 'a=2': expected one value per key; 'a=1' is given too."),
        (["a-", "a=2"], "invalid label 'a-': expected one change per key; 'a=2' is given too."),
    ],
)
def test_malformed_changes_are_wrong_usage(cli: Cli, jobs: JobRegistry, changes: list[str], problem: str) -> None:
    """Exit code 2, and nothing is written."""
    add(jobs, "job")
    before = jobs.get_record("job")
    assert cli("label", "job", "--", *changes) == (2, "", f"error: {problem}\n")
    assert jobs.get_record("job") == before


def test_lists_leave_out_archived_jobs_and_say_so(cli: Cli, jobs: JobRegistry) -> None:
    """A filter for the label shows them. Their total is not in that of the list; `status` and `summary` have them."""
    for job_id, status in (("old", "failed"), ("new", "failed"), ("busy", "running")):
        add(jobs, job_id, status)
    for job_id in ("old", "busy"):
        cli.ok("label", job_id, "archived=true")
    assert sorted(cli.ids()) == ["busy", "new"]  # an active job is never left out
    assert cli.ids("--status", "failed") == ["new"]
    assert (cli.ok("list", "--json").json["total"], cli.ok("list", "--json").json["returned"]) == (2, 2)
    assert cli.ids("--label", "archived=true", "--status", "failed") == ["old"]
    assert sorted(cli.ids("--label", "archived")) == ["busy", "old"]
    said = cli.ok("list", "--status", "failed").err
    assert "1 archived job not shown; to see: mops-jobs list --label archived" in said
    assert "archived job" not in cli.ok("list", "--status", "running").err
    assert cli.ok("summary", "--json").json["by_status"]["failed"] == 2
    assert cli.ok("status", "old", "--json").json["labels"] == {"archived": "true"}


@pytest.mark.parametrize("undo", ["archived-", "archived=false"])
def test_a_job_comes_back_into_lists_without_the_label(cli: Cli, jobs: JobRegistry, undo: str) -> None:
    """The label hides with the value `true` alone."""
    add(jobs, "job", "failed")
    cli.ok("label", "job", "archived=true")
    assert cli.ids() == []
    cli.ok("label", "job", undo)
    assert cli.ids() == ["job"]


def test_a_change_that_changes_nothing_writes_nothing(cli: Cli, jobs: JobRegistry) -> None:
    """Neither a label that is set to its value, nor the removal of one that is not there."""
    add(jobs, "job", "succeeded", labels={"a": "1"})
    before = jobs.get_record("job")
    assert cli.ok("label", "job", "a=1", "b-").err == "job: labels a=1\n"
    assert jobs.get_record("job") == before

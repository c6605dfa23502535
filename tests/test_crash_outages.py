"""Servers that lose their data, and clocks that are set back: nothing is wiped in silence, nothing passes for fresh."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from conftest import Azurite
from mopsjobs.registry import JobRegistry
from mopsjobs.store import open_store
from support_cli import Cli, Remote, add, foreign, key

MANY = 1100
"""So many that syncs are deltas."""


# --- a registry that is empty, gone, or another one ------------------------------------------------------------------


@pytest.fixture
def mirrored(cli: Cli, private_azurite: Azurite) -> JobRegistry:
    """A container with three jobs, and a cache of it."""
    cli.env["MOPS_JOBS_REGISTRY"] = f"{private_azurite.endpoint}/jobs"
    cli.env["AZURE_STORAGE_CONNECTION_STRING"] = private_azurite.connection_string
    jobs = JobRegistry(open_store(cli.env["MOPS_JOBS_REGISTRY"], cli.env), now=cli.clock.now)
    for number in range(3):
        add(jobs, f"job-{number}", "running")
    cli.ok("sync")
    return jobs


@pytest.mark.azurite
def test_a_container_that_is_gone_is_not_an_empty_one(
    cli: Cli, mirrored: JobRegistry, private_azurite: Azurite
) -> None:
    """After a restart without data, or a deletion: the sync fails and says why; listings show the jobs, as stale."""
    private_azurite.stop()
    ran = cli("sync")
    assert (ran.code, ran.out) == (5, "")
    private_azurite.start()
    ran = cli("sync", "-q")
    assert (ran.code, ran.out) == (5, "")
    assert "empty or gone" in ran.err
    assert "3 jobs" in ran.err
    listed = cli.ok("list", "--json").json
    assert (listed["total"], listed["stale"]) == (3, True)
    ran = cli.ok("list", "--refresh")
    assert "empty or gone" in ran.err
    # Whoever means it says so.
    assert "3 removed" in cli.ok("sync", "--full").out
    assert cli.ids() == []
    assert cli.ok("sync").code == 0


@pytest.mark.azurite
def test_a_container_made_anew_has_other_jobs(cli: Cli, mirrored: JobRegistry, private_azurite: Azurite) -> None:
    """Then the cache has these, and the sync says that the others are gone; one that is still empty changes nothing."""
    with private_azurite.client("jobs") as container:
        container.delete_container()
        assert cli("sync").code == 5
        container.create_container()
    assert cli("sync").code == 5
    add(mirrored, "other", "running")
    ran = cli.ok("sync")
    assert "1 added, 3 removed" in ran.out
    assert cli.ids() == ["other"]


@pytest.mark.azurite
def test_credentials_that_stop_working_take_nothing_away(cli: Cli, mirrored: JobRegistry) -> None:
    """The sync ends with 4; listings show what was there, as stale."""
    cli.env["AZURE_STORAGE_CONNECTION_STRING"] = cli.env["AZURE_STORAGE_CONNECTION_STRING"].replace("Eby8", "AAAA")
    ran = cli("sync")
    assert ran.code == 4, ran
    listed = cli.ok("list", "--json").json
    assert (listed["total"], listed["stale"]) == (3, True)


def test_a_delta_sync_notices_that_the_registry_is_gone(cli: Cli, remote: Remote) -> None:
    """Without a registry there are no announcements: silence alone must not pass for a sync."""
    for number in range(MANY):
        remote.put(key(f"job-{number:04}"), foreign(f"job-{number:04}"))
    for _ in range(3):
        last = cli.ok("sync", "--json").json
    assert last["mode"] == "delta"
    for one in list(remote.store.inner.list_keys()):
        remote.store.inner.delete(one)
    cli.clock.advance(minutes=1)
    ran = cli("sync")
    assert (ran.code, ran.out) == (5, "")
    assert "1,100 jobs" in ran.err
    assert cli.ok("list", "--json").json["total"] == MANY


# --- the clock ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("back", [timedelta(minutes=10), timedelta(days=365)])
def test_a_clock_set_back_hides_nothing(cli: Cli, remote: Remote, back: timedelta) -> None:
    """Jobs from the time to come are listed; no age is negative; what is not known to be fresh is synced, or stale."""
    add(remote.jobs, "old", "running")
    cli.ok("sync")
    cli.clock.moment -= back
    listed = cli.ok("list", "--hours", "1", "--json").json
    assert [job["job_id"] for job in listed["jobs"]] == ["old"]
    assert listed["age_seconds"] == 0
    assert listed["stale"]
    assert all((job["duration_seconds"] or 0) >= 0 for job in listed["jobs"])
    assert "still to come" in cli.ok("list").err
    add(remote.jobs, "new", "running")
    assert set(cli.ids("--max-age", "1h")) == {"new", "old"}
    assert "still to come" not in cli.ok("list").err


@pytest.mark.parametrize("back", [timedelta(minutes=10), timedelta(days=365)])
def test_a_clock_set_back_costs_no_sync_a_change(cli: Cli, remote: Remote, back: timedelta) -> None:
    """What is written by a clock that was set back, and read by it, is seen by the very next sync, and later too."""
    for number in range(MANY):
        remote.put(key(f"job-{number:04}"), foreign(f"job-{number:04}"))
    for _ in range(3):
        cli.ok("sync")
    cli.clock.moment -= back
    for number in range(3):
        add(remote.jobs, f"new-{number}", "running")
        cli.clock.advance(minutes=1)
        remote.jobs.update_progress(f"new-{number}", tasks_completed=number, tasks_total=9)
        cli.ok("sync")
        job = json.loads(cli.ok("status", f"new-{number}", "--json").out)
        assert (job["status"], job["tasks_completed"]) == ("running", number)
    assert cli.ok("list", "--json").json["total"] == MANY + 3


def test_a_record_does_not_go_back_with_the_clock(cli: Cli, remote: Remote) -> None:
    """Its times only grow, whatever the clock of a writer says."""
    add(remote.jobs, "job", "running")
    before = remote.jobs.get_job("job")
    cli.clock.advance(days=-365)
    remote.jobs.update_status("job", "failed")
    after = remote.jobs.get_job("job")
    assert before is not None
    assert after is not None
    assert after.updated_at >= before.updated_at
    assert [step["at"] for step in after.transitions] == sorted(step["at"] for step in after.transitions)
    cli.ok("sync")
    assert (cli.ok("status", "job", "--json").json["duration_seconds"] or 0) >= 0

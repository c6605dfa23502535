"""Servers that lose their data, and clocks that are set back: nothing is wiped in silence, nothing passes for fresh."""

from __future__ import annotations

import contextlib
import json
from datetime import timedelta
from pathlib import Path

import pytest

from conftest import Azurite
from mopsjobs.registry import JobRegistry
from mopsjobs.store import open_store
from mopsjobs.store.sqlite import SQLiteVersionedStore
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
def test_a_container_made_anew_is_another_registry(cli: Cli, mirrored: JobRegistry, private_azurite: Azurite) -> None:
    """Its first jobs do not make the cache forget the others, whoever reported them; sync --full takes it as it is.

    A job that this very machine reported is in the cache at once, and must not pass for one of the old ones.
    """
    with private_azurite.client("jobs") as container:
        container.delete_container()
        assert cli("sync").code == 5
        container.create_container()
    assert cli("sync").code == 5
    add(mirrored, "other", "running")
    cli.ok("register", "mine")
    for _ in range(2):
        ran = cli("sync")
        assert ran.code == 5
        assert "none is there" in ran.err
        assert sorted(cli.ids()) == ["job-0", "job-1", "job-2", "mine"]
    assert "3 removed" in cli.ok("sync", "--full").out
    assert sorted(cli.ids()) == ["mine", "other"]
    assert cli.ok("sync").err == ""


@pytest.mark.azurite
def test_one_job_of_the_last_sync_is_enough(cli: Cli, mirrored: JobRegistry) -> None:
    """Where somebody has removed the others by hand, the sync believes it, whichever is left."""
    for job_id in ("job-0", "job-1"):
        mirrored.store.delete(key(job_id))
    assert "2 removed" in cli.ok("sync").out
    assert cli.ids() == ["job-2"]


def test_a_registry_whose_disk_is_not_mounted_is_not_made_anew(cli: Cli, tmp_path: Path) -> None:
    """Writes are refused with 5, as in any outage, and leave nothing in its place; reads show what the cache has."""
    disk = tmp_path / "disk"
    cli.env["MOPS_JOBS_REGISTRY"] = f"sqlite://{disk}/registry.db"
    cli.ok("register", "a")
    assert cli.ids() == ["a"]
    disk.rename(tmp_path / "away")
    disk.mkdir()
    for words in (["register", "b"], ["progress", "b", "1/2"], ["update", "b", "failed"]):
        ran = cli(*words)
        assert (ran.code, ran.out) == (5, "")
        assert "is gone. It had 1 job" in ran.err
    assert list(disk.iterdir()) == []
    ran = cli.ok("list", "--json")
    assert (ran.json["total"], ran.json["stale"]) == (1, True)
    disk.rmdir()
    (tmp_path / "away").rename(disk)
    cli.ok("register", "b")
    assert sorted(cli.ids()) == ["a", "b"]


def test_a_registry_that_somebody_else_made_anew_is_another_one(cli: Cli, tmp_path: Path) -> None:
    """Where a program without our cache has put another file there, the jobs of the first are not forgotten."""
    path = tmp_path / "registry.db"
    cli.env["MOPS_JOBS_REGISTRY"] = f"sqlite://{path}"
    cli.ok("register", "a")
    assert cli.ids() == ["a"]
    path.unlink()
    with contextlib.closing(SQLiteVersionedStore(path)) as store:
        JobRegistry(store).register_job("other")
    ran = cli("sync")
    assert (ran.code, ran.out) == (5, "")
    listed = cli.ok("list", "--json").json
    assert ([job["job_id"] for job in listed["jobs"]], listed["stale"]) == (["a"], True)
    assert "1 added, 1 removed" in cli.ok("sync", "--full").out


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

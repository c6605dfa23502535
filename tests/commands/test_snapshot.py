"""`snapshot` publishes the jobs of a registry, and the first sync of another cache begins with them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from mopsjobs.cache.snapshots import format as snapshot_format
from mopsjobs.cache.snapshots.format import MANIFEST_KEY
from mopsjobs.cache.sync import mirror
from support.cli import Cli, Remote, add, key

if TYPE_CHECKING:
    from pathlib import Path

    from mopsjobs.registry.job_registry import JobRegistry

JOBS = 12


@pytest.fixture
def large(cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> Remote:
    """Return a registry of a dozen jobs, which count as many, and whose writers are known to announce."""
    monkeypatch.setattr(mirror, "SMALL_REGISTRY", 4)
    monkeypatch.setattr(mirror, "MAX_SHARE_READ", 1e6)
    monkeypatch.setattr(snapshot_format, "PART_ROWS", 5)
    for number in range(JOBS):
        add(remote.jobs, f"job-{number:02}", "running", owner="ada", labels={"exp": str(number % 3)})
    cli.clock.advance(hours=1)
    cli.ok("sync")
    return remote


@pytest.fixture
def other(cli: Cli, tmp_path: Path) -> dict[str, str]:
    """Return the environment of another machine, whose cache is empty."""
    return {"MOPS_JOBS_CACHE": str(tmp_path / "other.db")}


def test_a_first_sync_begins_with_the_snapshot(cli: Cli, large: Remote, other: dict[str, str]) -> None:
    """It reads the parts, some records to compare, and what was announced since; it lists no records."""
    assert cli.ok("snapshot").err.startswith(f"Published a snapshot of {JOBS} jobs, 0.0 MB, in ")
    known_to = cli.ok("list", "--json").json["foreign_writes_known_to"]
    cli.clock.advance(minutes=30)
    large.jobs.update_status("job-03", "failed")
    large.store.calls.clear()
    document = cli.ok("sync", "--json", **other).json
    assert document["snapshot"] == {"jobs": JOBS, "known_to": known_to}
    assert (document["mode"], document["seen"], document["changed"]) == ("delta", 1, 1)
    jobs = {job["job_id"]: job for job in cli.ok("list", "--json", "--limit", "0", **other).json["jobs"]}
    assert jobs == {job["job_id"]: job for job in cli.ok("list", "--refresh", "--json", "--limit", "0").json["jobs"]}
    assert jobs["job-03"]["status"] == "failed"


def test_views_say_how_old_the_scan_of_the_publisher_is(cli: Cli, large: Remote, other: dict[str, str]) -> None:
    """What other programs have changed since is not known, until the next scan verifies the snapshot."""
    known_to = cli.ok("snapshot", "--json").json["known_to"]
    cli.clock.advance(minutes=30)
    cli.ok("sync", **other)
    view = cli.ok("list", "--json", **other).json
    assert (view["foreign_writes_known_to"], view["age_seconds"]) == (known_to, 1800.0)
    cli.clock.advance(minutes=31)
    assert cli.ok("sync", "--json", **other).json["mode"] == "full"
    assert cli.ok("list", "--json", **other).json["age_seconds"] == 0.0


def test_an_old_snapshot_is_followed_by_a_scan(cli: Cli, large: Remote, other: dict[str, str]) -> None:
    """Records whose versions are right are not read again."""
    cli.ok("snapshot")
    cli.clock.advance(days=3)
    large.jobs.update_status("job-03", "failed")
    large.store.delete(key("job-04"))
    document = cli.ok("sync", "--json", **other).json
    names = ("mode", "seen", "unchanged", "changed", "removed")
    assert [document[name] for name in names] == ["full", JOBS - 1, JOBS - 2, 1, 1]


def test_sync_says_that_it_began_with_a_snapshot(cli: Cli, large: Remote, other: dict[str, str]) -> None:
    """The counts are of what it read after that."""
    cli.ok("snapshot")
    assert cli.ok("sync", **other).out.startswith(
        f"Began with a snapshot of {JOBS} jobs, then synced 0 announced jobs in"
    )
    assert cli.ok("sync", **other).out.startswith("Synced 0 announced jobs in ")


def test_a_full_sync_reads_no_snapshot(cli: Cli, large: Remote, other: dict[str, str]) -> None:
    """`sync --full` reads every record."""
    cli.ok("snapshot")
    document = cli.ok("sync", "--full", "--json", **other).json
    assert (document["snapshot"], document["added"]) == (None, JOBS)


def _assert_refused_once_pruned(cli: Cli, remote: Remote) -> None:
    """Prune the job that has failed, and see that no snapshot is made without it."""
    cli.clock.advance(days=100)
    cli.ok("sync")
    cli.ok("prune", "--older-than", "90d", "--yes")
    ran = cli("snapshot")
    assert ran.code == 2
    assert "The cache lacks 1 pruned job, and so would a snapshot of it." in ran.err
    assert remote.store.inner.get(MANIFEST_KEY) is None


def test_local_marks_stay_on_their_machine(cli: Cli, large: Remote) -> None:
    """A cache from which jobs were pruned is refused, since its snapshot would lack them."""
    large.jobs.update_status("job-00", "failed")
    _assert_refused_once_pruned(cli, large)


def test_a_cache_with_only_pruned_jobs_is_no_empty_registry(cli: Cli, remote: Remote) -> None:
    """The message names the pruned jobs, and does not doubt the name of the registry."""
    add(remote.jobs, "a", "running")
    remote.jobs.update_status("a", "failed")
    _assert_refused_once_pruned(cli, remote)


def test_an_embedded_registry_takes_no_snapshot(cli: Cli, jobs: JobRegistry) -> None:
    """It is refused in one sentence, with a hint."""
    add(jobs, "a")
    ran = cli("snapshot")
    assert (ran.code, ran.out) == (2, "")
    assert "An embedded registry takes no snapshot: its syncs read a file on this machine." in ran.err
    assert "hint: Name the registry of your team by --registry or MOPS_JOBS_REGISTRY." in ran.err
    assert cli("snapshot", "--registry", cli.env["MOPS_JOBS_REGISTRY"]).err == ran.err


def test_a_registry_without_jobs_gets_no_snapshot(cli: Cli, remote: Remote) -> None:
    """Its name may be mistyped, and a write would make it. Nothing is written."""
    ran = cli("snapshot", "--json")
    assert (ran.code, ran.out) == (2, "")
    assert "The registry has no jobs to publish." in ran.err
    assert remote.store.inner.get(MANIFEST_KEY) is None


def test_a_manifest_of_a_newer_version_is_not_replaced(cli: Cli, large: Remote) -> None:
    """The message names the key."""
    large.put(MANIFEST_KEY, json.dumps({"schema_version": 2}))
    ran = cli("snapshot")
    assert ran.code == 6
    assert f"{MANIFEST_KEY}: not a manifest of snapshots of schema 1" in ran.err


def test_snapshot_of_a_small_registry_says_that_none_is_needed(cli: Cli, remote: Remote, other: dict[str, str]) -> None:
    """Up to 1,000 jobs, a sync lists them in one request."""
    add(remote.jobs, "a")
    assert "First syncs use it from 1,001 jobs on" in cli.ok("snapshot").err
    assert cli.ok("sync", "--json", **other).json["snapshot"] is None


def test_doctor_tells_the_age_of_the_snapshot(cli: Cli, large: Remote) -> None:
    """Without a snapshot, `doctor` does not check one."""

    def check() -> dict[str, str | None] | None:
        checks = {one["name"]: one for one in cli.ok("doctor", "--json").json["checks"]}
        return checks.get("snapshot")

    assert check() is None
    cli.ok("snapshot")
    cli.clock.advance(hours=2)
    assert check() == {
        "name": "snapshot", "state": "ok", "detail": f"{JOBS} jobs, 0.0 MB, scanned 2h ago", "fix": None,
    }  # fmt: skip


@pytest.mark.parametrize("value", ["", '{"schema_version": 2}'])
def test_doctor_names_a_snapshot_that_cannot_be_read(cli: Cli, large: Remote, value: str) -> None:
    """Of a newer mops-jobs, or damaged: first syncs pass it over, and `snapshot` does not replace it."""
    large.put(MANIFEST_KEY, value)
    check = next(one for one in cli.ok("doctor", "--json").json["checks"] if one["name"] == "snapshot")
    assert check["state"] == "warn"
    assert check["detail"].startswith(f"{MANIFEST_KEY}: ")
    assert check["detail"].endswith("first syncs use none, and none can be published")
    assert check["fix"] == "Use a newer mops-jobs, or delete that key."


def test_store_that_refuses_to_remove_is_a_warning(cli: Cli, large: Remote) -> None:
    """The snapshot is published; the old one stays, and the exit code is 7."""
    cli.ok("snapshot")
    cli.clock.advance(hours=2)
    cli.ok("snapshot")
    cli.clock.advance(hours=2)
    large.store.fail_next(1, "delete")
    ran = cli("snapshot")
    assert ran.code == 7
    assert "Published a snapshot" in ran.err
    assert "Old snapshots stay until the next one." in ran.err


def test_rows_from_before_the_first_sync_are_verified(cli: Cli, large: Remote, other: dict[str, str]) -> None:
    """A row that a command has left may be older than the snapshot, so the sync scans."""
    large.store.down = True
    assert cli("sync", **other).code == 5
    large.store.down = False
    cli.ok("status", "job-03", "--refresh", **other)
    large.jobs.update_status("job-03", "failed")
    cli.clock.advance(minutes=40)
    cli.ok("snapshot")
    cli.clock.advance(minutes=20)
    document = cli.ok("sync", "--json", **other).json
    assert (document["snapshot"]["jobs"], document["mode"], document["changed"]) == (JOBS, "full", 1)
    assert cli.ok("list", "-q", "--status", "failed", **other).lines == ["job-03"]

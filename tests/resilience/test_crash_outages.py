"""Servers that lose their data, and clocks that are set back: nothing is wiped in silence, nothing passes for fresh."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from mopsjobs.engines.job_dir import JobDir
from mopsjobs.errors import StoreUnavailableError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from mopsjobs.store.sqlite.store import PAGE_ROWS, SQLiteVersionedStore
from support.cli import Cli, Remote, add, foreign, key, sentences
from support.docs import ROOT
from support.runs import PATIENCE
from support.servers import Azurite

MANY = 1100
"""So many that syncs are deltas."""


# --- a registry that is empty, gone, or another one ------------------------------------------------------------------


@pytest.fixture
def mirrored(cli: Cli, private_azurite: Azurite) -> JobRegistry:
    """Return a container with three jobs, and a cache of it."""
    cli.env["MOPS_JOBS_REGISTRY"] = f"{private_azurite.endpoint}/jobs"
    cli.env["AZURE_STORAGE_CONNECTION_STRING"] = private_azurite.connection_string
    jobs = JobRegistry(open_store(cli.env["MOPS_JOBS_REGISTRY"], cli.env), now=cli.clock.now)
    for number in range(3):
        add(jobs, f"job-{number}", "running")
    cli.ok("sync")
    return jobs


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
    assert "empty, gone or replaced" in ran.err
    assert "3 jobs" in ran.err
    listed = cli.ok("list", "--json").json
    assert (listed["total"], listed["stale"]) == (3, True)
    ran = cli.ends(5, "list", "--refresh")
    assert "empty, gone or replaced" in ran.err
    # The user says so.
    assert "3 removed" in cli.ok("sync", "--full").out
    assert cli.ids() == []
    assert cli.ok("sync").code == 0


def test_a_registry_whose_disk_is_not_mounted_is_not_made_anew(cli: Cli, tmp_path: Path) -> None:
    """Writes are refused with 5, as in any outage, and leave nothing in its place; reads show what the cache has."""
    disk = tmp_path / "disk"
    cli.env["MOPS_JOBS_REGISTRY"] = f"sqlite://{disk}/registry.db"
    cli.ok("register", "a")
    assert cli.ids() == ["a"]
    disk.rename(tmp_path / "away")
    disk.mkdir()
    for words in (["register", "b"], ["progress", "b", "1/2"], ["update", "b", "failed"]):
        assert "is gone: it had 1 job" in cli.fails(5, *words)
    assert list(disk.iterdir()) == []
    ran = cli.ok("list", "--json")
    assert (ran.json["total"], ran.json["stale"]) == (1, True)
    disk.rmdir()
    (tmp_path / "away").rename(disk)
    cli.ok("register", "b")
    assert sorted(cli.ids()) == ["a", "b"]


def refused(cli: Cli, kept: set[str]) -> None:
    """Sync fail, again and again, and the cache keeps these jobs."""
    for _ in range(3):
        assert "no record of the last sync exists" in cli.fails(5, "sync")
    assert kept <= set(cli.ids())
    assert cli("doctor").code == 5


def emptied(remote: Remote) -> None:
    """Empty the registry, as if its container had been made anew."""
    for one in list(remote.store.inner.list_keys()):
        remote.store.inner.delete(one)


def test_a_job_of_the_same_id_is_another_one(cli: Cli, remote: Remote) -> None:
    """A runner that misses its record registers its job anew; a nightly job has the id of the one before."""
    for job_id in ("a", "nightly"):
        add(remote.jobs, job_id, "running")
    cli.ok("sync")
    emptied(remote)
    cli.clock.advance(seconds=1)
    add(remote.jobs, "nightly", "running")
    refused(cli, {"a", "nightly"})
    assert "1 changed, 1 removed" in cli.ok("sync", "--full").out


def test_a_program_that_writes_a_record_anew_keeps_the_job(cli: Cli, remote: Remote) -> None:
    """Its time is in another notation, without the fractions of a second."""
    remote.put(key("a"), foreign("a", created_at="2026-03-01T10:00:00.523961+00:00"))
    cli.ok("sync")
    remote.put(key("a"), foreign("a", "failed", created_at="2026-03-01T12:00:00+02:00"))
    assert "1 changed" in cli.ok("sync").out


@pytest.mark.parametrize(("jobs", "left"), [(3, 1), (MANY, 5)])
def test_a_few_jobs_of_the_last_sync_prove_the_registry(cli: Cli, remote: Remote, jobs: int, left: int) -> None:
    """Where a user has removed the others by hand, the next sync notices, whichever are left."""
    for number in range(jobs):
        remote.put(key(f"job-{number:04}"), foreign(f"job-{number:04}"))
    for _ in range(3):
        cli.ok("sync")
    for one in list(remote.store.inner.list_keys("jobs/"))[left:]:
        remote.store.inner.delete(one)
    assert cli.ok("sync", "--json").json["removed"] == jobs - left
    assert len(cli.ids()) == left


def test_a_pruned_job_proves_the_registry(cli: Cli, remote: Remote) -> None:
    """Also one that changes later, and one that is all that is left of what a sync saw."""
    remote.put(key("old"), foreign("old", "failed"))
    remote.put(key("young"), foreign("young"))
    cli.clock.advance(hours=1)
    cli.ok("sync")
    cli.ok("prune", "--older-than", "1m", "--yes")
    remote.store.inner.delete(key("young"))
    assert "1 removed" in cli.ok("sync").out
    assert cli.ids() == []
    remote.put(key("old"), foreign("old", "failed", metadata={"seen": True}))
    assert "1 added" in cli.ok("sync").out


def test_a_registry_whose_jobs_are_all_pruned_is_missed(cli: Cli, tmp_path: Path) -> None:
    """It is not made anew, and one that another program puts in its place is another one."""
    path = tmp_path / "registry.db"
    cli.env["MOPS_JOBS_REGISTRY"] = f"sqlite://{path}"
    cli.ok("register", "a")
    cli.ok("update", "a", "failed")
    cli.ok("list")
    cli.clock.advance(hours=1)
    cli.ok("prune", "--older-than", "1s", "--yes")
    path.unlink()
    assert cli("register", "b").code == 5
    assert not path.exists()
    with contextlib.closing(SQLiteVersionedStore(path)) as store:
        store.create_if_absent(key("other"), foreign("other").encode())
    assert cli("sync").code == 5
    assert 'mops_sync_errors_total{kind="network"} 0.0' not in cli.ok("metrics").out
    cli.ok("sync", "--full")
    assert cli.ids() == ["other"]


@pytest.mark.parametrize("jobs", [3, MANY])
def test_what_this_machine_wrote_since_the_last_sync_proves_nothing(cli: Cli, remote: Remote, jobs: int) -> None:
    """Not if it wrote to each job that the cache has, nor to new ones."""
    for number in range(jobs):
        remote.put(key(f"job-{number:04}"), foreign(f"job-{number:04}"))
    for _ in range(3):
        cli.ok("sync")
    for number in range(3):
        cli.ok("update", f"job-{number:04}", "failed")
    emptied(remote)
    cli.ok("register", "mine")
    add(remote.jobs, "other", "running")
    refused(cli, {"mine", "job-0000", "job-0001", "job-0002"})
    assert f"1 added, {jobs:,} removed" in cli.ok("sync", "--full").out


def test_an_open_store_sees_that_its_file_is_gone_or_another(tmp_path: Path) -> None:
    """A page of `serve` has it open all day: it must not read the old one, nor write to a removed file."""
    disk, away = tmp_path / "disk", tmp_path / "away"
    path = disk / "registry.db"
    missing: list[bool] = []
    with contextlib.closing(SQLiteVersionedStore(path, lambda: missing.append(True))) as store:
        store.create_if_absent("a", b"1")
        assert missing == [True]
        disk.rename(away)
        assert store.get("a") is None
        assert missing == [True, True]
        with contextlib.closing(SQLiteVersionedStore(path)) as other:
            other.create_if_absent("b", b"2")
            assert list(store.list_keys()) == ["b"]
            assert store.create_if_absent("c", b"3") is not None
            assert other.get("c") is not None
        shutil.rmtree(disk)
        away.rename(disk)
        assert list(store.list_keys()) == ["a"]


def test_writes_to_a_removed_file_do_not_enter_the_next(tmp_path: Path) -> None:
    """The last writes, which are still in the WAL.

    Its WAL lies beside it still, as after `kill -9`, and SQLite takes it for that of any file of the name.
    """
    path = tmp_path / "registry.db"
    writer = (
        "import os, sys; from mopsjobs.store.sqlite.store import SQLiteVersionedStore;"
        " store = SQLiteVersionedStore(sys.argv[1]); store.create_if_absent('old', b''); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", writer, str(path)], cwd=ROOT).returncode == 9
    assert path.with_name("registry.db-wal").stat().st_size > 0
    path.unlink()
    with contextlib.closing(SQLiteVersionedStore(path)) as store:
        store.create_if_absent("new", b"")
        assert list(store.list_keys()) == ["new"]
    assert path.with_name("registry.db-wal.lost").stat().st_size > 0


@pytest.mark.skipif(sys.platform != "linux", reason="Locks are read as Linux tells them.")
def test_threads_that_make_a_file_together_keep_the_locks_on_it(tmp_path: Path) -> None:
    """Each of them has SQLite's: else the next process to leave takes the WAL away, with what they acknowledge."""
    for number in range(10):
        path = tmp_path / f"{number}.db"
        with contextlib.closing(SQLiteVersionedStore(path)) as store, ThreadPoolExecutor(6) as threads:
            together = threading.Barrier(6)

            def write(one: int, store: SQLiteVersionedStore = store, together: threading.Barrier = together) -> str:
                together.wait(PATIENCE)
                assert store.create_if_absent(f"k{one}", b"") is not None
                together.wait(PATIENCE)  # while all have it open
                return Path("/proc/locks").read_text()

            locks = list(threads.map(write, range(6)))
            assert f":{path.stat().st_ino} " in locks[0]


def test_a_maker_that_was_killed_leaves_no_second_name_to_write_to(tmp_path: Path) -> None:
    """It may have put the file in place already: then its draft is the registry itself, or one moved elsewhere."""
    path, away = tmp_path / "registry.db", tmp_path / "away.db"
    with contextlib.closing(SQLiteVersionedStore(path)) as store:
        store.create_if_absent("old", b"")
    os.link(path, f"{path}.part")
    path.rename(away)
    with contextlib.closing(SQLiteVersionedStore(path)) as store:
        store.create_if_absent("new", b"")
        assert list(store.list_keys()) == ["new"]
    with contextlib.closing(SQLiteVersionedStore(away)) as store:
        assert list(store.list_keys()) == ["old"]
    assert not os.path.exists(f"{path}.part")


@pytest.mark.parametrize("damage", ["another file", "a table less", "nothing left"])
def test_a_damaged_cache_does_not_make_a_lost_registry_new(cli: Cli, tmp_path: Path, damage: str) -> None:
    """Nor does any view, which would put an empty one in its place: with the registry back it is set aside as ever."""
    path, away = tmp_path / "registry.db", tmp_path / "away.db"
    cli.env["MOPS_JOBS_REGISTRY"] = f"sqlite://{path}"
    del cli.env["MOPS_JOBS_CACHE"]
    cli.ok("register", "a")
    cache = Path(cli.ok("config", "show", "--json").json["cache"]["value"])
    cli.ok("list")
    path.rename(away)
    if damage == "another file":
        cache.write_bytes(b"junk" * 5000)
    elif damage == "nothing left":
        cache.write_bytes(b"")
    else:
        with contextlib.closing(sqlite3.connect(cache)) as connection:
            connection.execute("DROP TABLE job")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for words in (["list"], ["list", "--offline"], ["sync"], ["status", "a"], ["register", "b"]):
        assert "is gone: whether it had jobs is unknown" in cli.fails(5, *words)
    assert not list(cache.parent.glob("*.damaged-*"))
    assert not path.exists()
    away.rename(path)
    ran = cli.ok("list", "-q")
    assert ran.lines == ["a"]
    assert ("Set aside as" in ran.err) == (damage != "nothing left")


@pytest.mark.parametrize(
    ("at", "value", "problem"),
    [(68, b"\xff" * 4, "is not a cache of mops-jobs"), (60, b"\x00\x00\xff\xff", "made by a newer mops-jobs")],
)
def test_a_cache_that_cannot_be_used_does_not_make_a_lost_registry_new(
    cli: Cli, tmp_path: Path, at: int, value: bytes, problem: str
) -> None:
    """It is left alone, but may be that of this registry, at a path that mops-jobs chose."""
    path = tmp_path / "registry.db"
    cli.env["MOPS_JOBS_REGISTRY"] = f"sqlite://{path}"
    del cli.env["MOPS_JOBS_CACHE"]
    cache = Path(cli.ok("config", "show", "--json").json["cache"]["value"])
    lose_after_a_listing(cli, path)
    whole = cache.read_bytes()
    cache.write_bytes(whole[:at] + value + whole[at + 4 :])
    said = cli.fails(5, "register", "b")
    assert "whether it had jobs is unknown" in said
    assert problem in said
    assert not path.exists()


def test_a_named_file_that_is_no_cache_tells_nothing_of_a_registry(cli: Cli, tmp_path: Path) -> None:
    """Such as one that `mktemp` has made: the registry that is not there was never made, and is now."""
    (tmp_path / "named").touch()
    flags = ("--cache", str(tmp_path / "named"), "--registry", f"sqlite://{tmp_path}/registry.db")
    cli.ok("list", *flags)
    cli.ok("register", "a", *flags)
    assert cli.ids(*flags) == ["a"]


def test_a_write_waits_for_no_cache_and_needs_none(cli: Cli, tmp_path: Path) -> None:
    """If none can be made, or another process has it, the record and its event are written all the same, silently."""
    cli.env["MOPS_JOBS_REGISTRY"] = f"sqlite://{tmp_path}/registry.db"
    del cli.env["MOPS_JOBS_CACHE"]
    cli.ok("list")
    cache = Path(cli.ok("config", "show", "--json").json["cache"]["value"])
    with contextlib.closing(sqlite3.connect(cache)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        assert cli.ok("register", "a", "-q").err == ""
        connection.rollback()
    assert cli.ok("register", "b", "-q", HOME="/dev/null/x", XDG_CACHE_HOME="/dev/null/x").err == ""
    assert {json.loads(line)["job_id"] for line in cli.ok("events", "--json").lines} == {"a", "b"}


def test_a_registry_is_made_where_a_link_leads(cli: Cli, tmp_path: Path) -> None:
    """Also the first time, when nothing is there, and the link stays one; into a missing directory it is refused."""
    (tmp_path / "disk").mkdir()
    link, real = tmp_path / "registry.db", tmp_path / "disk" / "real.db"
    link.symlink_to(real)
    cli.env["MOPS_JOBS_REGISTRY"] = f"sqlite://{link}"
    cli.ok("register", "a")
    assert cli.ids() == ["a"]
    assert (link.is_symlink(), real.is_file(), list(tmp_path.glob("registry.db*"))) == (True, True, [link])
    (tmp_path / "other.db").symlink_to(tmp_path / "no" / "other.db")
    ran = cli("register", "b", "--registry", f"sqlite://{tmp_path}/other.db")
    assert (ran.code, len(sentences(ran.err))) == (4, 1)
    assert "No such file or directory" in ran.err


def test_a_job_that_the_registry_has_not_got_yet_is_told_as_such(cli: Cli, remote: Remote) -> None:
    """It was launched from here while the registry took nothing: that there is none would invite a second one."""
    directory = JobDir.for_job("a", cli.env).path
    directory.mkdir(parents=True)
    (directory / "launched.json").write_text("{}")
    said = cli.fails(3, "status", "a")
    assert "Job a not found" in said
    assert "hint: It was submitted here while the registry did not answer. Deliver it: mops-jobs resume a" in said


def test_a_registry_that_nobody_has_looked_at_is_missed_all_the_same(cli: Cli, tmp_path: Path) -> None:
    """A machine that only reports has no listing behind it; that it has written is enough."""
    path = tmp_path / "registry.db"
    cli.env["MOPS_JOBS_REGISTRY"] = f"sqlite://{path}"
    del cli.env["MOPS_JOBS_CACHE"]
    cli.ok("register", "a")
    cli.ok("progress", "a", "1/2")
    path.unlink()
    for words in (["progress", "a", "2/2"], ["register", "b"], ["sync"], ["results", "a"]):
        ran = cli(*words)
        assert (ran.code, len(sentences(ran.err))) == (5, 1), words
        assert "is gone: it had jobs." in ran.err
    assert not path.exists()


def lose_after_a_listing(cli: Cli, path: Path) -> None:
    """Make an embedded registry of one job there, list it, and take it away."""
    cli.env["MOPS_JOBS_REGISTRY"] = f"sqlite://{path}"
    cli.ok("register", "a")
    cli.ok("list")
    path.unlink()


def test_a_lost_registry_with_a_damaged_cache_needs_a_full_sync(cli: Cli, tmp_path: Path) -> None:
    """No other command begins anew.

    With `--full`, the registry is taken as it is; the damaged cache is kept all the same.
    """
    lose_after_a_listing(cli, tmp_path / "registry.db")
    os.truncate(cli.cache, cli.cache.stat().st_size // 2)
    assert cli("list").code == 5
    assert "Set aside as" in cli.ok("sync", "--full").err
    cli.ok("register", "b")
    assert cli.ids() == ["b"]


def test_a_listing_does_not_go_on_in_another_file(tmp_path: Path) -> None:
    """Half of each would look like a registry that has lost the rest."""
    path = tmp_path / "registry.db"
    with contextlib.closing(SQLiteVersionedStore(path)) as store:
        for number in range(PAGE_ROWS + 1):
            store.create_if_absent(f"{number:05}", b"")
        listed = store.list_keys()
        next(listed)
        path.unlink()
        SQLiteVersionedStore(path).create_if_absent("0", b"")
        with pytest.raises(StoreUnavailableError, match="replaced while it was read"):
            list(listed)


def test_credentials_that_stop_working_take_nothing_away(cli: Cli, mirrored: JobRegistry) -> None:
    """The sync ends with 4; listings show what was there, as stale."""
    cli.env["AZURE_STORAGE_CONNECTION_STRING"] = cli.env["AZURE_STORAGE_CONNECTION_STRING"].replace("Eby8", "AAAA")
    cli.fails(4, "sync")
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
    assert "1,100 jobs" in cli.fails(5, "sync")
    assert cli.ok("list", "--json").json["total"] == MANY


# --- the clock ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("back", [timedelta(minutes=10), timedelta(days=365)])
def test_a_clock_set_back_hides_nothing(cli: Cli, remote: Remote, back: timedelta) -> None:
    """Jobs from the future are listed, and no age is negative. What is not known to be fresh is synced, or stale."""
    add(remote.jobs, "old", "running")
    cli.ok("sync")
    cli.clock.moment -= back
    listed = cli.ok("list", "--hours", "1", "--json").json
    assert [job["job_id"] for job in listed["jobs"]] == ["old"]
    assert listed["age_seconds"] == 0
    assert listed["stale"]
    assert all((job["duration_seconds"] or 0) >= 0 for job in listed["jobs"])
    assert "in the future" in cli.ok("list").err
    add(remote.jobs, "new", "running")
    assert set(cli.ids("--max-age", "1h")) == {"new", "old"}
    assert "in the future" not in cli.ok("list").err


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

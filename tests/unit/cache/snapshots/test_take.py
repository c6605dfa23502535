"""A snapshot of another machine may be a lie, damaged, or out of reach: a first sync ends as by a listing."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from typing import TYPE_CHECKING

import pytest

from mopsjobs.cache import database as cache_database
from mopsjobs.cache import pruning
from mopsjobs.cache.snapshots import format as snapshot_format
from mopsjobs.cache.snapshots import take
from mopsjobs.cache.snapshots.publish import publish_snapshot
from mopsjobs.cache.sync import mirror
from mopsjobs.errors import StoreUnavailableError, ValueTooLargeError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.memory import InMemoryVersionedStore
from support.cli import REMOTE_URL, Clock, key

if TYPE_CHECKING:
    from pathlib import Path

    from mopsjobs.cache.sync.batch import SyncReport
    from mopsjobs.store.base import Versioned

JOBS = 12


class Store(InMemoryVersionedStore):
    """A registry of a dozen jobs whose reads can fail, by key."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: dict[str, Exception] = {}

    def get(self, key: str) -> Versioned | None:
        if key in self.refused:
            raise self.refused[key]
        return super().get(key)


class Team:
    """A publisher and a reader, on machines of their own."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.clock = clock
        self.store = Store()
        self.jobs = JobRegistry(self.store, now=clock.now, sleep=clock.sleep)
        self.publisher, self.reader = f"{directory}/publisher.db", f"{directory}/reader.db"
        for number in range(JOBS):
            self.jobs.register_job(f"job-{number:02}", owner="ada", tasks_total=4, labels={"exp": "1"})
        clock.advance(seconds=1)
        self.sync(self.publisher)

    def sync(self, path: str, *, scan: bool = False) -> SyncReport:
        return mirror.sync(self.jobs, path, REMOTE_URL, scan=scan, now=self.clock.now)

    def publish(self, change: str = "SELECT 1") -> snapshot_format.Manifest:
        """Publish a copy of the publisher's cache, changed by a statement."""
        copy = shutil.copy(self.publisher, f"{self.publisher}-copy")
        with contextlib.closing(cache_database.open_to_write(copy, REMOTE_URL)) as connection:
            connection.execute(change)
            connection.commit()
            return publish_snapshot(self.store, connection, now=self.clock.now).manifest

    def rows(self, path: str, columns: str = "key, version, owner") -> list[tuple[object, ...]]:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            return connection.execute(f"SELECT {columns} FROM job ORDER BY key").fetchall()

    def meta(self, path: str, name: str) -> str | None:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
            return None if row is None else str(row[0])


@pytest.fixture
def team(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Team:
    """Return them; a part has two rows, and a window one part."""
    monkeypatch.setattr(mirror, "SMALL_REGISTRY", 4)
    monkeypatch.setattr(snapshot_format, "PART_ROWS", 2)
    monkeypatch.setattr(take, "WINDOW", 1)
    return Team(tmp_path, clock)


def _copies_of_killed_readers(team: Team) -> list[str]:
    """Return what a reader leaves that is killed after each part."""
    copies: list[str] = []

    def copy(_jobs: int) -> None:
        copies.append(f"{team.reader}-{len(copies)}")
        with (
            contextlib.closing(sqlite3.connect(team.reader)) as source,
            contextlib.closing(sqlite3.connect(copies[-1])) as target,
        ):
            source.backup(target)

    with contextlib.closing(cache_database.open_to_write(team.reader, REMOTE_URL)) as connection:
        take.take_snapshot(team.jobs, connection, 2, started=team.clock.now(), fewest=0, on_progress=copy)
    return copies


def test_rows_that_were_not_compared_do_not_outlive_a_killed_sync(team: Team) -> None:
    """No scan finds a false value under a right version. So the next sync removes them, also without that snapshot."""
    team.publish("UPDATE job SET owner = 'a lie'")
    copies = _copies_of_killed_readers(team)
    assert len(copies) == JOBS // 2
    for number, path in enumerate(copies):
        if number % 2:
            team.store.delete(snapshot_format.MANIFEST_KEY)
        team.sync(path)
        assert team.rows(path) == team.rows(team.publisher)


def test_a_killed_first_sync_begins_anew_with_the_snapshot(team: Team) -> None:
    """What it left of a true snapshot is replaced, and no scan is needed."""
    team.clock.advance(hours=1)
    team.sync(team.publisher, scan=True)  # now it has seen that all writers announce
    team.publish()
    for path in _copies_of_killed_readers(team):
        report = team.sync(path)
        assert (report.jobs_of_snapshot, report.is_full) == (JOBS, False)
        assert team.rows(path) == team.rows(team.publisher)


def test_a_sync_beside_another_one_does_not_take_its_rows_for_its_own(team: Team) -> None:
    """The second of two first syncs removes what the first one has written, which then gives up."""
    team.publish()
    reports: list[SyncReport] = []
    report = mirror.sync(
        team.jobs,
        team.reader,
        REMOTE_URL,
        now=team.clock.now,
        on_progress=lambda _: None if reports else reports.append(team.sync(team.reader)),
    )
    assert (report.jobs_of_snapshot, reports[0].jobs_of_snapshot) == (0, JOBS)
    assert team.rows(team.reader) == team.rows(team.publisher)


@pytest.mark.parametrize("name", ["manifest", "part"])
def test_a_snapshot_that_the_store_does_not_send_is_not_used(team: Team, name: str) -> None:
    """An object that is too large, or in an archive, ends no sync: the others are listed."""
    manifest = team.publish()
    unread = snapshot_format.MANIFEST_KEY if name == "manifest" else manifest.part_keys()[3]
    for error in (ValueTooLargeError("It has too many bytes."), StoreUnavailableError("It is in an archive.")):
        team.store.refused = {unread: error}
        path = f"{team.reader}-{type(error).__name__}"
        report = team.sync(path)
        assert (report.jobs_of_snapshot, report.added) == (0, JOBS)
        assert team.rows(path) == team.rows(team.publisher)


def test_a_snapshot_from_the_future_dates_nothing(team: Team) -> None:
    """Views of a cache whose first sync broke off behind such a snapshot do not claim its time."""
    team.publish("UPDATE meta SET value = '2999-01-01T00:00:00Z' WHERE name = 'full_synced_at'")
    with contextlib.closing(cache_database.open_to_write(team.reader, REMOTE_URL)) as connection:
        assert take.take_snapshot(team.jobs, connection, 2, started=team.clock.now(), fewest=0) is not None
    assert team.meta(team.reader, "synced_at") is None
    report = team.sync(team.reader)
    assert (report.jobs_of_snapshot, report.is_full, report.added) == (JOBS, True, 0)


@pytest.mark.parametrize(
    "lie",
    [
        "UPDATE job SET record = '{}'",
        "UPDATE job SET record = json_remove(record, '$.transitions')",
        "UPDATE job SET record = json_set(record, '$.metadata', json('[]'))",
        "UPDATE job SET record = json_set(record, '$.tasks_total', 'many')",
        "UPDATE job SET record = replace(record, '\"ada\"', '\"\\ud800\"')",
        "UPDATE job SET record = json_set(record, '$.job_id', 'job-99')",
        "UPDATE job SET usage = '{\"cpu_seconds\": \"much\"}'",
        "UPDATE job SET forecast = '{\"earliest\": 1}'",
        "UPDATE job SET record = record || ' '",
        "UPDATE job SET forecast = '{\"earliest\": 1e999, \"latest\": 1, \"basis\": {}, \"stragglers\": null}'",
        "UPDATE job SET status_since = 'yesterday'",
        "UPDATE job SET progress = 1e9",
        "UPDATE job SET is_active = 7",
    ],
)  # fmt: skip
def test_a_row_that_no_record_makes_is_not_taken(team: Team, lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it is not among those compared: views of all jobs would end by an internal error."""
    monkeypatch.setattr(take, "SAMPLE", 1)
    team.publish(f"{lie} WHERE job_id = 'job-05'")
    assert team.sync(team.reader).jobs_of_snapshot == 0
    names = ", ".join((*snapshot_format.SHARED, "record"))
    assert team.rows(team.reader, names) == team.rows(team.publisher, names)


def test_a_part_of_too_many_rows_is_not_taken(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite takes 250,000 values in a statement at most, and fewer in most builds."""
    monkeypatch.setattr(snapshot_format, "PART_ROWS", JOBS)
    team.publish()
    monkeypatch.setattr(snapshot_format, "PART_ROWS", JOBS - 1)
    assert team.sync(team.reader).jobs_of_snapshot == 0
    assert team.rows(team.reader) == team.rows(team.publisher)


def test_jobs_that_were_pruned_before_the_first_sync_stay_away(team: Team) -> None:
    """A first sync broke off, and what it had brought was pruned. The labels of no job come twice, or without it."""
    team.jobs.update_status("job-03", "failed")
    team.sync(team.publisher)
    team.publish()
    shutil.copy(team.publisher, team.reader)
    with contextlib.closing(cache_database.open_to_write(team.reader, REMOTE_URL)) as connection:
        connection.execute("DELETE FROM meta WHERE name LIKE '%synced%'")
        connection.commit()
        team.clock.advance(days=1)
        pruning.prune(connection, team.clock.now().timestamp())
    team.sync(team.reader)
    assert len(team.rows(team.reader)) == JOBS - 1
    with contextlib.closing(sqlite3.connect(team.reader)) as connection:
        assert connection.execute("SELECT key FROM pruned").fetchall() == [(key("job-03"),)]
        labelled = connection.execute("SELECT job_id FROM job_label ORDER BY 1").fetchall()
    assert labelled == team.rows(team.reader, "job_id")

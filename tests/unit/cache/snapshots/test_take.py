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
            self.jobs.register_job(f"job-{number:02}", owner="ada", tasks_total=4)
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

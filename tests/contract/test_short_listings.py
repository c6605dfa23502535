"""A listing that lacks keys for a moment removes no job: over each store, only records that a read misses go."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.cache.sync import mirror, records
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.base import Entry, VersionedStore
from support.cli import Clock

JOBS = [f"job-{number}" for number in range(8)]


class ShortStore:
    """A store whose listings lack some keys."""

    is_local = False

    def __init__(self, inner: VersionedStore) -> None:
        self.inner = inner
        self.lacks: set[str] = set()
        self.read: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def get(self, key: str) -> Any:
        self.read.append(key)
        return self.inner.get(key)

    def scan(self, *words: Any) -> Iterator[Entry]:
        return (entry for entry in self.inner.scan(*words) if entry.key not in self.lacks)


class World:
    """A registry behind such a store, and a cache."""

    def __init__(self, store: VersionedStore, path: Path, clock: Clock) -> None:
        self.store = ShortStore(store)
        self.clock = clock
        self.jobs = JobRegistry(self.store, now=clock.now)
        self._path = str(path / "cache.db")
        for job_id in JOBS:
            self.jobs.register_job(job_id)
        self.sync()

    def sync(self, *, full: bool = False) -> Any:
        self.clock.advance(minutes=1)
        self.store.read.clear()
        return mirror.sync(self.jobs, self._path, "registry", full=full, scan=True, now=self.clock.now)

    def lack(self, *job_ids: str) -> None:
        """Let listings lack these jobs from now on, and no other."""
        self.store.lacks = {self.jobs.key_of(job_id) for job_id in job_ids}

    def ask(self, sql: str) -> dict[str, str]:
        with contextlib.closing(sqlite3.connect(self._path)) as connection:
            return dict(connection.execute(sql).fetchall())

    @property
    def revisions(self) -> dict[str, str]:
        """Return the jobs of the cache, with their revisions."""
        return self.ask("SELECT job_id, json_extract(record, '$.revision') FROM job ORDER BY job_id")

    @property
    def notes(self) -> dict[str, str]:
        """Return the ids of the jobs that the last listings lacked, with the reasons."""
        found = self.ask("SELECT key, reason FROM problem WHERE kind = 'unlisted' ORDER BY key")
        return {str(self.jobs.job_id_of(key)): reason for key, reason in found.items()}


@pytest.fixture
def world(store: VersionedStore, tmp_path: Path, clock: Clock) -> World:
    """Return a world over each store in turn."""
    return World(store, tmp_path, clock)


def test_a_job_that_a_listing_lacks_stays_and_is_read(world: World) -> None:
    """It has what was written meanwhile, and a note until a listing has it again. A record that is gone goes."""
    world.jobs.update_fields("job-3", owner="ada")
    world.store.delete(world.jobs.key_of("job-5"))
    world.lack("job-2", "job-3")
    report = world.sync()
    assert report.removed == 1
    assert list(world.revisions) == [job_id for job_id in JOBS if job_id != "job-5"]
    assert world.revisions["job-3"] == 2
    assert world.notes == dict.fromkeys(("job-2", "job-3"), records.EXISTS)
    assert sorted(world.notes) == [str(world.jobs.job_id_of(problem.key)) for problem in report.news]
    assert world.sync().news == []
    world.lack()
    assert world.sync().removed == 0
    assert world.notes == {}
    assert world.revisions["job-3"] == 2


def test_a_removal_of_many_is_believed_at_once(world: World) -> None:
    """One sync reads all that the listing lacked, also if it lacked others that exist."""
    for job_id in JOBS[3:]:
        world.store.delete(world.jobs.key_of(job_id))
    world.lack("job-1")
    assert world.sync().removed == 5
    assert list(world.revisions) == JOBS[:3]
    assert world.notes == {"job-1": records.EXISTS}


def test_a_sync_with_nothing_new_reads_one_record(world: World) -> None:
    """It is the one that shows that the registry is the same."""
    world.sync()
    world.sync()
    assert len(world.store.read) == 1

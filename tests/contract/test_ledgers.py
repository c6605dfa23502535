"""The mirror of ledgers, on every backend: each attempt once, the last one of each task, problems by key."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mopsjobs.cache.database import open_to_write
from mopsjobs.cache.sync.ledger import sync_ledger
from mopsjobs.ledger.format import ledger_prefix
from mopsjobs.store.base import VersionedStore
from support.ledgers import Ledger, attempt, leave_outputs, put_manifest
from support.runs import sets_of

TASKS = "SELECT task, outcome, attempt, basis FROM tasks ORDER BY task"


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Return an empty cache, open to write."""
    with closing(open_to_write(str(tmp_path / "cache.db"), "registry")) as connection:
        yield connection


def test_a_second_look_brings_only_what_is_new(store: VersionedStore, cache: sqlite3.Connection) -> None:
    """Each chunk is read once; the row of a task is that of its last attempt, whatever the order of the chunks."""
    put_manifest(store, "job", sets_of(4))
    runner = Ledger(store)
    runner(attempt(0), attempt(1, "failed"))
    report = sync_ledger(store, cache, "job")
    assert (report.listed, report.chunks, report.entries) == (1, 1, 2)
    Ledger(store, run="cd", shard=1)(attempt(1, attempt=1, started_at=attempt(50).started_at), attempt(3, "died"))
    report = sync_ledger(store, cache, "job")
    assert (report.listed, report.chunks, report.entries) == (2, 1, 2)
    assert sync_ledger(store, cache, "job").chunks == 0
    ended = [(0, "succeeded", 1, "ledger"), (1, "succeeded", 2, "ledger"), (3, "died", 1, "ledger")]
    assert cache.execute(TASKS).fetchall() == ended
    assert cache.execute("SELECT count(*) FROM attempts").fetchone() == (4,)


def test_a_chunk_that_is_not_one_is_told_by_key(store: VersionedStore, cache: sqlite3.Connection) -> None:
    """The rest goes on. It is told once, and read again only by a full sync. Other keys are skipped."""
    put_manifest(store, "job", sets_of(2))
    key = f"{ledger_prefix('job')}0.ff-000000.attempts.gz"
    store.create_if_absent(key, b"not gzip")
    store.create_if_absent(f"{ledger_prefix('job')}0.ff-000000.scalars.gz", b"of another kind")
    store.create_if_absent(f"{ledger_prefix('job')}notes.txt", b"of another program")
    strange = Ledger(store)(attempt(0), attempt(7, "failed"))
    assert sorted(sync_ledger(store, cache, "job").problems) == [
        (strange, "it has attempts at tasks that are not of the job, as task 7"),
        (key, "not gzip"),
    ]
    assert cache.execute(TASKS).fetchall() == [(0, "succeeded", 1, "ledger")]
    assert sync_ledger(store, cache, "job").problems == []
    assert len(cache.execute("SELECT * FROM ledger_problems").fetchall()) == 2
    again = sync_ledger(store, cache, "job", full=True)
    assert (len(again.problems), again.entries) == (2, 0)


def test_a_job_without_a_ledger_is_told_by_its_outputs(store: VersionedStore, cache: sqlite3.Connection) -> None:
    """Its complete tasks succeeded, nothing else is known of them, and the views say so."""
    manifest = put_manifest(store, "job", sets_of(3))
    leave_outputs(store, manifest, 0, 2)
    sync_ledger(store, cache, "job")
    assert cache.execute(TASKS).fetchall() == [(0, "succeeded", 0, "outputs"), (2, "succeeded", 0, "outputs")]
    assert cache.execute("SELECT basis, tasks_total FROM ledgers").fetchall() == [("outputs", 3)]


def test_two_looks_at_once_leave_each_attempt_once(store: VersionedStore, tmp_path: Path) -> None:
    """Several processes may look at the same job for the first time."""
    put_manifest(store, "job", sets_of(40))
    runner = Ledger(store)
    for number in range(40):
        runner(attempt(number, "failed"), attempt(number, attempt=2, started_at=attempt(60).started_at))
    path = str(tmp_path / "cache.db")
    failures: list[BaseException] = []

    def look() -> None:
        try:
            with closing(open_to_write(path, "registry")) as connection:
                sync_ledger(store, connection, "job")
        except BaseException as error:  # noqa: BLE001 - it is raised below
            failures.append(error)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with closing(open_to_write(path, "registry")) as connection:
        assert connection.execute("SELECT count(*) FROM attempts").fetchone() == (80,)
        assert connection.execute(TASKS).fetchall() == [(number, "succeeded", 2, "ledger") for number in range(40)]

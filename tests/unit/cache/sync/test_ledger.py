"""Which attempt tells how a task ended, when a ledger is complete, and what a sync fetches."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mopsjobs.cache.database import open_to_write
from mopsjobs.cache.queries.ledgers import read_ledger
from mopsjobs.cache.stored_study import StoredStudy
from mopsjobs.cache.sync import ledger
from mopsjobs.cache.sync.ledger import sync_ledger
from mopsjobs.errors import NoManifestError
from mopsjobs.ledger.attempt import Attempt
from mopsjobs.store.memory import InMemoryVersionedStore
from support.cli import START
from support.ledgers import Ledger, attempt, put_manifest
from support.runs import sets_of

OUTCOMES = "SELECT task, outcome FROM tasks ORDER BY task"


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Return an empty cache, open to write."""
    with closing(open_to_write(str(tmp_path / "cache.db"), "registry")) as connection:
        yield connection


def _at(outcome: str, second: float | None) -> Attempt:
    started = None if second is None else START.timestamp() + second
    return attempt(0, outcome, started_at=started)


@pytest.mark.parametrize(
    ("attempts", "outcome"),
    [
        ([_at("failed", 1), _at("timeout", 2)], "timeout"),
        ([_at("succeeded", 1), _at("lost", 2)], "succeeded"),
        ([_at("failed", 1), _at("lost", 2)], "lost"),
        ([_at("succeeded", 1), _at("failed", 2), _at("lost", 3)], "succeeded"),
        ([_at("died", None), _at("oom", 1)], "oom"),
        ([_at("failed", 1), _at("timeout", 2), _at("cancelled", 3)], "timeout"),
    ],
)
def test_the_order_of_chunks_does_not_matter(attempts: list[Attempt], outcome: str, tmp_path: Path) -> None:
    """The last attempt tells how a task ended, unless one succeeded: by another clock, it may have been earlier.

    One that was stopped tells nothing if another one was not: two runners may work on one shard.
    """
    for number, order in enumerate(itertools.permutations(range(len(attempts)))):
        store = InMemoryVersionedStore()
        put_manifest(store, "job", sets_of(1))
        with closing(open_to_write(str(tmp_path / f"{number}.db"), "registry")) as cache:
            for place in order:
                Ledger(store, run=f"a{place}")(attempts[place])
                sync_ledger(store, cache, "job")
            rows = cache.execute("SELECT outcome, attempt FROM tasks").fetchall()
        assert rows == [(outcome, len(attempts))]


def test_equal_starts_are_told_apart_by_run_and_place(cache: sqlite3.Connection) -> None:
    """A clock of whole seconds gives several attempts of a task the same start."""
    store = InMemoryVersionedStore()
    put_manifest(store, "job", sets_of(1))
    runner = Ledger(store)
    runner(_at("failed", 1), _at("died", 1))
    runner(_at("timeout", 1))
    sync_ledger(store, cache, "job")
    assert cache.execute(OUTCOMES).fetchall() == [(0, "timeout")]


def test_a_start_beyond_the_calendar_is_unknown(cache: sqlite3.Connection) -> None:
    """A broken clock, or a hostile chunk, gives no time that Python cannot show."""
    store = InMemoryVersionedStore()
    put_manifest(store, "job", sets_of(1))
    Ledger(store)(attempt(0, started_at=2.0**42))
    sync_ledger(store, cache, "job")
    assert cache.execute("SELECT started_at FROM tasks").fetchall() == [(None,)]


def test_a_large_seed_keeps_all_its_digits(cache: sqlite3.Connection) -> None:
    """A study may name a seed up to 2^64, which SQLite's integers cannot hold."""
    store = InMemoryVersionedStore()
    put_manifest(store, "job", [{"params": {"x": 1}, "seed": 2**64 - 1}, {"params": {"x": 2}, "seed": 2**63 - 1}])
    Ledger(store)(attempt(0), attempt(1))
    sync_ledger(store, cache, "job")
    seeds = [int(seed) for (seed,) in cache.execute("SELECT seed FROM tasks ORDER BY task")]
    assert seeds == [2**64 - 1, 2**63 - 1]


@pytest.mark.parametrize("rule", ["mops-jobs", "modelops", "common", [5, 2**64 - 1, 0], {"base": 2**63 - 1}])
def test_the_cache_has_the_seeds_of_the_study(cache: sqlite3.Connection, rule: object) -> None:
    """Also of repeated sets and named seeds, for each task and for each that repeats another."""
    store, sets = InMemoryVersionedStore(), [{"x": 1}, {"x": 2}, {"x": 1}, {"params": {"x": 1}, "seed": 3407198642}]
    study = put_manifest(store, "job", sets, n_replicates=3, seeds=rule).study
    sync_ledger(store, cache, "job")
    stored = StoredStudy.load(cache, "job")
    assert stored is not None
    places = [stored.place_of(task.number) for task in study.tasks()]
    assert [int(place[1]) for place in places if place is not None] == [task.seed for task in study.tasks()]
    assert dict(stored.duplicates()) == study.duplicate_tasks()


def test_a_child_has_the_sets_of_its_own_tasks(cache: sqlite3.Connection) -> None:
    """Of a study with replicates, it has the sets with a task of its own. Attempts at others are left out."""
    store = InMemoryVersionedStore()
    put_manifest(store, "job.2", sets_of(5), n_replicates=10, only=[9, 10, 11, 35])
    Ledger(store, "job.2")(*(attempt(number) for number in (9, 10, 12, 35, 36)))
    report = sync_ledger(store, cache, "job.2")
    assert [first for (first,) in cache.execute("SELECT first_task FROM parameter_set ORDER BY 1")] == [0, 10, 30]
    assert [task for task, _ in cache.execute(OUTCOMES)] == [9, 10, 35]
    assert "as task 12" in report.problems[0][1]


def test_a_job_that_nobody_submitted_leaves_nothing(cache: sqlite3.Connection) -> None:
    """Without a manifest, nothing says which tasks a job has."""
    with pytest.raises(NoManifestError):
        sync_ledger(InMemoryVersionedStore(), cache, "job")
    assert read_ledger(cache, "job") is None


def test_an_interrupted_first_look_is_made_again(cache: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it has ended, views know nothing of the ledger. What was written before stays."""
    store = InMemoryVersionedStore()
    put_manifest(store, "job", sets_of(2))
    Ledger(store)(attempt(0))
    with monkeypatch.context() as broken:
        broken.setattr(ledger, "_basis", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sync_ledger(store, cache, "job")
    assert read_ledger(cache, "job") is None
    cache.rollback()
    assert sync_ledger(store, cache, "job").chunks == 0
    assert read_ledger(cache, "job") is not None

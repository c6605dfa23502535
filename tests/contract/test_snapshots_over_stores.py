"""Snapshots over every store: publishers that meet, that sleep or die, and the removal of what no manifest names."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING

import pytest

from mopsjobs.cache import database as cache_database
from mopsjobs.cache.snapshots import format as snapshot_format
from mopsjobs.cache.snapshots.publish import PublishReport, publish_snapshot
from mopsjobs.cache.snapshots.take import find_manifest, take_snapshot
from mopsjobs.cache.sync import mirror
from mopsjobs.errors import StoreUnavailableError
from mopsjobs.registry.job_registry import JobRegistry
from support.cli import REMOTE_URL, Clock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mopsjobs.store.base import VersionedStore, VersionToken

JOBS = 7

in_memory = pytest.mark.parametrize("backend", ["memory"], indirect=True)
"""For claims about keys and times alone, which each backend keeps alike."""


class Publisher:
    """A machine with a cache of its own."""

    def __init__(self, store: VersionedStore, clock: Clock, path: Path) -> None:
        self.store = store
        self.clock = clock
        self.jobs = JobRegistry(store, now=clock.now, sleep=clock.sleep)
        self._path = str(path)
        self.sync()

    def sync(self) -> None:
        mirror.sync(self.jobs, self._path, REMOTE_URL, now=self.clock.now)

    def publish(
        self, on_progress: Callable[[int], None] | None = None, *, store: VersionedStore | None = None
    ) -> PublishReport:
        with contextlib.closing(cache_database.open_to_write(self._path, REMOTE_URL)) as connection:
            return publish_snapshot(store or self.store, connection, now=self.clock.now, on_progress=on_progress)


@pytest.fixture
def publisher(store: VersionedStore, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publisher:
    """Return a publisher of a registry of seven jobs, in parts of three."""
    monkeypatch.setattr(snapshot_format, "PART_ROWS", 3)
    jobs = JobRegistry(store, now=clock.now, sleep=clock.sleep)
    for number in range(JOBS):
        jobs.register_job(f"job-{number}", labels={"exp": str(number)})
    return Publisher(store, clock, tmp_path / "publisher.db")


def _parts(store: VersionedStore) -> set[str]:
    return set(store.list_keys(snapshot_format.PREFIX)) - {snapshot_format.MANIFEST_KEY}


def test_a_snapshot_fills_an_empty_cache(publisher: Publisher, tmp_path: Path) -> None:
    """All rows are those of the publisher, and the cache says when its scan began."""
    done = publisher.publish()
    assert (done.manifest.jobs, len(done.manifest.parts), done.is_overtaken) == (JOBS, 3, False)
    path = str(tmp_path / "reader.db")
    with contextlib.closing(cache_database.open_to_write(path, REMOTE_URL)) as connection:
        assert take_snapshot(publisher.jobs, connection, 2, fewest=0, started=publisher.clock.now()) == done.manifest
        assert connection.execute("SELECT job_id FROM job ORDER BY key").fetchall() == [
            (f"job-{number}",) for number in range(JOBS)
        ]
        meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
        assert meta["synced_at"] == meta["full_synced_at"] == done.manifest.known_to
        assert (
            take_snapshot(publisher.jobs, connection, 4, fewest=0, started=publisher.clock.now()) is None
        )  # it is not empty any more


@in_memory
def test_snapshots_meet_no_other_listing(publisher: Publisher) -> None:
    """Old clients list these prefixes, and see the same keys as before."""
    prefixes = ("jobs/", "changes/", "events/", "ledger/", "environments/", "results/", "bundles/")
    before = {prefix: list(publisher.store.list_keys(prefix)) for prefix in prefixes}
    publisher.publish()
    assert {prefix: list(publisher.store.list_keys(prefix)) for prefix in prefixes} == before


def test_one_of_two_publishers_at_once_gives_up(publisher: Publisher, clock: Clock, tmp_path: Path) -> None:
    """The manifest names parts that exist, and the parts of the other one are gone."""
    other = Publisher(publisher.store, clock, tmp_path / "other.db")
    first = publisher.publish()
    won: list[PublishReport] = []
    lost = publisher.publish(lambda jobs: won.append(other.publish()) if jobs == JOBS else None)
    assert (lost.is_overtaken, lost.removed) == (True, 3)
    assert find_manifest(publisher.jobs) == won[0].manifest
    assert _parts(publisher.store) == {*first.manifest.part_keys(), *won[0].manifest.part_keys()}


def test_one_of_two_first_publishers_gives_up(publisher: Publisher, clock: Clock, tmp_path: Path) -> None:
    """There is no manifest before that could be compared."""
    other = Publisher(publisher.store, clock, tmp_path / "other.db")
    won: list[PublishReport] = []
    assert publisher.publish(lambda jobs: won.append(other.publish()) if jobs == JOBS else None).is_overtaken
    assert find_manifest(publisher.jobs) == won[0].manifest
    assert _parts(publisher.store) == set(won[0].manifest.part_keys())


@in_memory
def test_a_publisher_that_slept_cannot_name_removed_parts(publisher: Publisher, clock: Clock, tmp_path: Path) -> None:
    """Its parts look abandoned and are removed. That takes a new manifest, which it then does not replace."""
    other = Publisher(publisher.store, clock, tmp_path / "other.db")
    publisher.publish()

    def sleep(jobs: int) -> None:
        if jobs == JOBS:
            uploaded = _parts(publisher.store)
            clock.advance(hours=5)
            other.publish()
            assert not uploaded & _parts(publisher.store) - set(current.part_keys())

    current = find_manifest(publisher.jobs)
    assert current is not None
    assert publisher.publish(sleep).is_overtaken
    manifest = find_manifest(publisher.jobs)
    assert manifest is not None
    assert set(manifest.part_keys()) <= _parts(publisher.store)


@in_memory
def test_replaced_snapshots_stay_for_an_hour(publisher: Publisher, clock: Clock) -> None:
    """A reader that has begun to download one can go on, however old the snapshot was when it was replaced."""
    first = publisher.publish()
    clock.advance(days=2)
    second = publisher.publish()
    assert _parts(publisher.store) == {*first.manifest.part_keys(), *second.manifest.part_keys()}
    clock.advance(minutes=59)
    publisher.publish()
    assert set(first.manifest.part_keys()) <= _parts(publisher.store)
    clock.advance(minutes=2)
    last = publisher.publish()
    assert last.removed == 3
    assert not set(first.manifest.part_keys()) & _parts(publisher.store)
    assert set(second.manifest.part_keys()) <= _parts(publisher.store)


@in_memory
def test_an_abandoned_upload_is_removed_later(publisher: Publisher, clock: Clock) -> None:
    """Not within an hour, since it may still go on. The snapshot before stays the current one."""
    first = publisher.publish()

    def die(jobs: int) -> None:
        if jobs == JOBS:
            raise KeyboardInterrupt

    clock.advance(hours=2)
    with pytest.raises(KeyboardInterrupt):
        publisher.publish(die)
    abandoned = _parts(publisher.store) - set(first.manifest.part_keys())
    assert len(abandoned) == 3
    assert find_manifest(publisher.jobs) == first.manifest
    clock.advance(minutes=50)
    publisher.publish()
    assert abandoned <= _parts(publisher.store)
    clock.advance(minutes=20)
    publisher.publish()
    assert not abandoned & _parts(publisher.store)


class LostReplies:
    """A store that loses the reply to each write below `snapshots/` once."""

    def __init__(self, inner: VersionedStore) -> None:
        self._inner = inner
        self.get, self.delete, self.list_keys = inner.get, inner.delete, inner.list_keys
        self._lost: set[str] = set()

    def put(self, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        return self._lose(key, self._inner.put(key, value, version))

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        return self._lose(key, self._inner.create_if_absent(key, value))

    def _lose(self, key: str, version: VersionToken | None) -> VersionToken | None:
        if key not in self._lost:
            self._lost.add(key)
            raise StoreUnavailableError("The reply was lost.")
        return version


def test_a_lost_reply_is_no_other_publisher(publisher: Publisher) -> None:
    """Parts and manifest are recognised as those of this publisher, the first manifest and the next ones."""
    for _ in range(2):
        done = publisher.publish(store=LostReplies(publisher.store))  # type: ignore[arg-type]
        assert not done.is_overtaken
        assert find_manifest(publisher.jobs) == done.manifest


def test_parts_of_records_that_do_not_shrink_are_smaller(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value of DynamoDB has 400 KiB, and a thousand records with hashes do not fit into one."""
    monkeypatch.setattr(snapshot_format, "PART_ROWS", 1000)
    noise = random.Random(0)
    for number in range(JOBS):
        hashes = [noise.randbytes(30_000).hex() for _ in range(2)]
        publisher.jobs.update_fields(f"job-{number}", metadata={"hashes": hashes})
    publisher.sync()
    done = publisher.publish()
    found = [publisher.store.get(part) for part in done.manifest.part_keys()]
    assert len(found) == 2
    assert all(part is not None and len(part.value) <= snapshot_format.PART_BYTES for part in found)
    assert done.manifest.jobs == JOBS


@in_memory
def test_a_snapshot_that_was_replaced_in_the_future_is_removed(publisher: Publisher, clock: Clock) -> None:
    """A publisher with a wrong clock has replaced it; it would stay until that time."""
    first = publisher.publish()
    clock.advance(days=300)
    publisher.publish()
    clock.advance(days=-299)
    assert publisher.publish().removed == 3
    assert not set(first.manifest.part_keys()) & _parts(publisher.store)

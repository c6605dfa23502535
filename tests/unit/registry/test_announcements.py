"""Announcements: made before each write, once a slot, and found again by a reader whose clock differs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopsjobs.errors import StoreUnavailableError
from mopsjobs.registry import announcements
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.base import VersionedStore, VersionToken
from mopsjobs.store.memory import InMemoryVersionedStore
from support.cli import START, Clock, key
from support.doubles import FaultyStore, RecordingSleep

WRITES: dict[str, Callable[[JobRegistry], object]] = {
    "register_job": lambda jobs: jobs.register_job("b"),
    "update_status": lambda jobs: jobs.update_status("a", "submitting"),
    "update_fields": lambda jobs: jobs.update_fields("a", owner="ada"),
    "update_progress": lambda jobs: jobs.update_progress("a", 1, 2),
    "finalize_job": lambda jobs: jobs.finalize_job("a", "failed"),
    "cancel_job": lambda jobs: jobs.cancel_job("a"),
}


class Recording(FaultyStore):
    """Remembers the keys in the order of the attempts to write them."""

    def __init__(self, inner: VersionedStore) -> None:
        super().__init__(inner)
        self.written: list[str] = []

    def put(self, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        self.written.append(key)
        return super().put(key, value, version)

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        self.written.append(key)
        return super().create_if_absent(key, value)


@pytest.fixture
def line() -> Recording:
    """Return a store with the job `a` in it, which no writer has announced."""
    inner = InMemoryVersionedStore()
    JobRegistry(inner).register_job("a")
    for announcement in list(inner.list_keys(announcements.PREFIX)):
        inner.delete(announcement)
    return Recording(inner)


@pytest.fixture
def registry(line: Recording, clock: Clock) -> JobRegistry:
    """Return one process of mops-jobs."""
    return JobRegistry(line, now=clock.now, sleep=RecordingSleep())


@pytest.mark.parametrize("write", WRITES)
def test_each_write_is_announced_first(line: Recording, registry: JobRegistry, clock: Clock, write: str) -> None:
    """Whatever changes a record, the job is announced under the writer's slot before the record is touched."""
    WRITES[write](registry)
    job = "b" if write == "register_job" else "a"
    assert line.written == [f"{announcements.slot_of(clock.now())}{job}", key(job)]


def test_a_process_announces_a_job_once_a_slot(line: Recording, registry: JobRegistry, clock: Clock) -> None:
    """A job written every second costs one more request in ten minutes; another process pays its own."""
    for number in range(1200):
        registry.update_fields("a", metadata={"n": number})
        clock.advance(seconds=1)
    assert sum(one.startswith(announcements.PREFIX) for one in line.written) == 2
    JobRegistry(line, now=clock.now).update_fields("a", owner="ada")
    assert sum(one.startswith(announcements.PREFIX) for one in line.written) == 3


def test_a_record_is_not_written_unannounced(line: Recording, registry: JobRegistry) -> None:
    """While the store takes no announcement, the record stays as it is, and the error is that of an outage."""
    line.fail_next(99, "create_if_absent")
    with pytest.raises(StoreUnavailableError):
        registry.update_fields("a", owner="ada")
    assert line.calls["put"] == 0
    assert line.calls["create_if_absent"] == 3


def test_an_attempt_in_a_later_slot_is_announced_anew(line: Recording, registry: JobRegistry, clock: Clock) -> None:
    """A race that lasts into the next slot is announced there as well, before the next attempt."""
    line.conflict_next()
    line.before_put = lambda _key: clock.advance(minutes=10)
    registry.update_fields("a", owner="ada")
    first = announcements.slot_of(clock.now() - timedelta(minutes=20))
    second = announcements.slot_of(clock.now() - timedelta(minutes=10))
    assert line.written[:4] == [f"{first}a", key("a"), f"{second}a", key("a")]


def test_a_write_that_took_until_another_slot_is_announced_again(
    line: Recording, registry: JobRegistry, clock: Clock
) -> None:
    """After a night's sleep between announcing and writing, the job is announced where readers look now."""
    line.before_put = lambda _key: clock.advance(hours=8)
    registry.update_fields("a", owner="ada")
    assert line.written[-1] == f"{announcements.slot_of(clock.now())}a"


def test_a_write_that_landed_is_no_failure_for_a_late_announcement(
    line: Recording, registry: JobRegistry, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The late announcement fails: that is logged, and the caller has the record."""

    def sleep(_key: str) -> None:
        clock.advance(hours=8)
        line.fail_next(1, "create_if_absent")

    line.before_put = sleep
    assert registry.update_fields("a", owner="ada").owner == "ada"
    assert "could not be announced" in caplog.text


MOMENTS = st.floats(0, 365 * 86400).map(lambda seconds: START + timedelta(seconds=seconds))
SKEWS = st.floats(-600, 600)


@given(since=MOMENTS, hours=st.floats(0, 2), part=st.floats(0, 1), skew=SKEWS, landing=st.floats(0, 300))
def test_the_slots_cover_every_change(since: datetime, hours: float, part: float, skew: float, landing: float) -> None:
    """A write that landed between two looks is in the slots, if clocks differ by ten minutes at most."""
    until = since + timedelta(hours=hours)
    landed = since + (until - since) * part
    looked = landed - timedelta(seconds=landing) + timedelta(seconds=skew)
    listed = announcements.slots_between(since, until)
    assert announcements.slot_of(looked) in listed
    assert len(listed) == len(set(listed)) <= hours * 6 + 5


def test_names_that_are_no_jobs_are_ignored() -> None:
    """Anything may lie there: what is not a job's id is not an announcement."""
    now, store = datetime(2026, 3, 1, 12, tzinfo=UTC), InMemoryVersionedStore()
    slot = announcements.slot_of(now)
    for name in ("a", "b/c", "d" * 600, "é"):
        store.create_if_absent(f"{slot}{name}", b"-")
    store.create_if_absent("changes/20990101T0000/far", b"-")
    assert announcements.announced_jobs(store, now, now) == {"a", "b/c", "é"}


def test_too_many_names_are_not_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound, in one slot or in all together, the answer is that listing everything is cheaper."""
    monkeypatch.setattr(announcements, "MAX_NAMES", 5)
    now, store = datetime(2026, 3, 1, 12, tzinfo=UTC), InMemoryVersionedStore()
    for number in range(3):
        store.create_if_absent(f"{announcements.slot_of(now)}a{number}", b"-")
        store.create_if_absent(f"{announcements.slot_of(now - timedelta(minutes=10))}b{number}", b"-")
    assert announcements.announced_jobs(store, now, now) is None
    store.delete(f"{announcements.slot_of(now)}a0")
    assert announcements.announced_jobs(store, now, now) == {"a1", "a2", "b0", "b1", "b2"}

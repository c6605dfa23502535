"""Delta sync keeps its promise: whatever writers, clocks, crashes and caches do in between.

*No change made through JobRegistry is missed for longer than one sync; none by another program for longer than one full
scan.* A state machine draws the interleavings; with `MOPS_TEST_DELTA_EXAMPLES` it draws more of them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from mopsjobs.cache.sync import mirror, records
from mopsjobs.cache.sync.records import SyncReport
from mopsjobs.cache.write_through import cached_version, write_through
from mopsjobs.errors import StoreUnavailableError
from mopsjobs.events.retention import Retention
from mopsjobs.registry import announcements
from mopsjobs.registry.job_registry import JobRegistry, TakeRecord
from mopsjobs.store import open_store
from mopsjobs.store.base import Entry, Versioned, VersionedStore, VersionToken, WantsValues, always
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.utils.times import parse_time
from support.cli import REMOTE_URL, START, foreign, key
from support.machines import SyncMachine
from support.servers import S3, Azurite, Dynalite

EXAMPLES = int(os.environ.get("MOPS_TEST_DELTA_EXAMPLES", "10"))
STEPS = 40

JOBS = st.sampled_from([f"job-{number}" for number in range(6)])
WRITERS = st.integers(0, 2)
CACHES = st.integers(0, 1)
OFFSETS = st.sampled_from([-300.0, 300.0]) | st.floats(-300, 300)
"""Seconds by which a clock is off: any two differ by up to ten minutes."""
PAUSES = st.sampled_from([0.001, 300.0, 600.0, 3601.0]) | st.floats(0, 2400)
QUIET = st.sampled_from([0.0, 0.0, 1600.0, 2000.0])
"""Seconds in which nothing happens before a write: what was announced before may then be out of a reader's sight."""
SYNCED = st.sampled_from([None, 0, 1])
"""Which mirror is synced before and after a write."""
FAILURES = st.sampled_from([None, None, None, "before", "after", "reply"])
LANDINGS = st.sampled_from([0.0, 300.0]) | st.floats(0, 300)
"""Seconds between looking at the clock for an announcement and the write landing: up to five minutes."""


KEPT = mirror.MAX_FULL_SYNC_AGE + 2 * announcements.MAX_CLOCK_SKEW + announcements.MAX_WRITE_DELAY
"""How long announcements are kept here: no longer than the promise needs, so that it would break if that were less."""


class CrashError(BaseException):
    """Ends a writer where it stands."""


def _nothing() -> None:
    pass


class World:
    """The store as all see it. It knows the order in which writes landed, and calls back at the points in between."""

    def __init__(self, inner: VersionedStore) -> None:
        self.inner = inner
        self.landed: dict[str, int] = {}
        """The place of each version of a record in the order of all writes."""
        self.ours: dict[str, int] = {}
        """The place of the last write of mops-jobs to each key."""
        self.is_ours = False
        self.fails = False
        self.before_landing: Callable[[], None] = _nothing
        self.after_landing: Callable[[], None] = _nothing
        self.after_listing: Callable[[], None] = _nothing
        self._places = itertools.count(1)

    def get(self, key: str) -> Versioned | None:
        return self.inner.get(key)

    def put(self, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        return self._write(key, lambda: self.inner.put(key, value, version))

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        return self._write(key, lambda: self.inner.create_if_absent(key, value))

    def delete(self, key: str) -> bool:
        self.ours.pop(key, None)
        return self.inner.delete(key)

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        return self.inner.list_keys(prefix)

    def scan(self, prefix: str = "", wants_values: WantsValues = always, after: str = "") -> Iterator[Entry]:
        entries = list(self.inner.scan(prefix, wants_values, after))
        if self.fails:
            yield from entries[:1]
            raise StoreUnavailableError("The listing broke off.")
        self.after_listing()
        for entry in entries:  # without their records, unless these are wanted: as in Azure
            yield entry if wants_values() else entry._replace(value=None)

    def close(self) -> None:
        """Do nothing: the machine closes the inner store."""

    def _write(self, key: str, write: Callable[[], VersionToken | None]) -> VersionToken | None:
        if not key.startswith("jobs/"):
            return write()
        self.before_landing()
        version = write()
        if version is not None:
            self.landed[version.value] = next(self._places)
            if self.is_ours:
                self.ours[key] = self.landed[version.value]
            self.after_landing()
        return version


class Begun(NamedTuple):
    """The writes that had landed when a sync began."""

    ours: dict[str, int]
    records: dict[str, str]


class DeltaSync(SyncMachine):
    """Three writers of mops-jobs and one of another program, two mirrors, and a clock for each."""

    def __init__(self, inner: VersionedStore, template: str) -> None:
        super().__init__()
        self.limit(records, GET_COST=2)
        self.limit(records, BATCH=4)
        self.limit(announcements, RETENTION=KEPT)
        self._inner = inner
        self._directory = tempfile.mkdtemp(dir=os.path.dirname(template))
        self._paths = [shutil.copy(template, f"{self._directory}/{number}.db") for number in range(2)]
        self.world = World(inner)
        self.clock = START
        self.offsets = [0.0] * 5
        self.last_full: list[datetime | None] = [None] * 2
        self.modes: set[bool] = set()
        self.writers = [self._writer(number) for number in range(3)]

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self._directory)
        self._inner.close()

    # --- what may happen ---------------------------------------------------------------------------------------

    @initialize(offsets=st.lists(OFFSETS, min_size=5, max_size=5))
    def begin(self, offsets: list[float]) -> None:
        """Register some jobs: both mirrors have seen that all writers announce."""
        self.offsets = offsets
        for number in range(6):
            self._write(number % 3, f"job-{number}")
        for cache in (0, 1, 0, 1):
            self.sync(cache)

    @rule(seconds=PAUSES)
    def time_passes(self, seconds: float) -> None:
        self.clock += timedelta(seconds=seconds)

    @rule(writer=WRITERS, job=JOBS, landing=LANDINGS, quiet=QUIET, synced=SYNCED, fails=FAILURES)
    def write(self, writer: int, job: str, landing: float, quiet: float, synced: int | None, fails: str | None) -> None:
        """Change a job as a writer of mops-jobs, or register it.

        It may be killed when it has announced, or when its write has landed, before it can say more; another process
        takes its place. Or the reply is lost.
        """
        with self._around(quiet, synced):
            self.world.before_landing = self._crash if fails == "before" else lambda: self._pass(landing)
            self.world.after_landing = {"after": self._crash, "reply": self._lose_reply}.get(fails or "", _nothing)
            self._write(writer, job)

    @rule(writer=WRITERS, job=JOBS, cache=CACHES, landing=LANDINGS, part=st.sampled_from([0.0, 0.5, 1.0]), quiet=QUIET)
    def write_with_syncs_in_between(
        self, writer: int, job: str, cache: int, landing: float, part: float, quiet: float
    ) -> None:
        """Sync a mirror after the announcement, and when the write has landed, before its reply."""

        def before_landing() -> None:
            self._pass(landing * part)
            self.sync(cache)
            self._pass(landing * (1 - part))

        self._pass(quiet)
        self.world.before_landing = before_landing
        self.world.after_landing = lambda: self.sync(cache)
        self._write(writer, job)

    @rule(writer=WRITERS, job=JOBS, seconds=st.floats(300, 20_000), synced=SYNCED)
    def sleep_before_the_write(self, writer: int, job: str, seconds: float, synced: int | None) -> None:
        """Let a laptop sleep after announcing, while mirrors go on, wakes, and writes."""

        def sleep() -> None:
            self._pass(seconds)
            if synced is not None:
                self.sync(synced)

        with self._around(0.0, synced):
            self.world.before_landing = sleep
            self._write(writer, job)

    @rule(job=JOBS)
    def foreign_write(self, job: str) -> None:
        """Write a job as another program, which announces nothing. A registry of new jobs alone would count as lost."""
        self.world.ours.pop(key(job), None)
        found = self.world.inner.get(key(job))
        created = {} if found is None else {"created_at": json.loads(found.value)["created_at"]}
        self.world.inner.delete(key(job))
        self.world.create_if_absent(key(job), foreign(job, **created).encode())

    @rule(job=JOBS.filter(lambda job: job != "job-0"))
    def foreign_delete(self, job: str) -> None:
        """Delete a job. One stays: a registry without any record of the last sync counts as lost."""
        self.world.delete(key(job))

    @rule(clock=st.integers(0, 4), offset=OFFSETS)
    def set_clock(self, clock: int, offset: float) -> None:
        """Set the clock of one of three writers and two readers."""
        self.offsets[clock] = offset

    @rule(cache=CACHES, full=st.sampled_from([False, False, False, True]))
    def sync(self, cache: int, full: bool = False) -> None:
        """Sync with nothing else at work. A full one leaves the cache equal to the registry."""
        begun = self._begun()
        if self._sync(cache, full=full).is_full:
            assert self._rows(cache) == begun.records

    @rule(cache=CACHES, writer=WRITERS, job=JOBS, full=st.booleans(), lasting=QUIET)
    def sync_while_somebody_writes(self, cache: int, writer: int, job: str, full: bool, lasting: float) -> None:
        """Land a write after the sync has listed what it reads. The sync may take long after that."""

        def meanwhile() -> None:
            self._write(writer, job)
            self._pass(lasting)

        self._sync(cache, full=full, meanwhile=meanwhile)

    @rule(cache=CACHES, writer=WRITERS, job=JOBS, full=st.booleans())
    def sync_overtaken_by_another(self, cache: int, writer: int, job: str, full: bool) -> None:
        """Write, and then sync the same cache, while the first sync is at work."""

        def meanwhile() -> None:
            self._write(writer, job)
            self._pass(0.5)
            self.sync(cache)

        self._sync(cache, full=full, meanwhile=meanwhile, overtaken=True)

    @rule(offset=OFFSETS)
    def retain(self, offset: float) -> None:
        """Remove, by a clock of its own, from the store what no reader needs."""
        self._retain(offset)

    @rule(cache=CACHES, writer=WRITERS, job=JOBS, full=st.booleans(), quiet=QUIET, sleeping=PAUSES, offset=OFFSETS)
    def sync_of_a_laptop_that_sleeps(
        self, cache: int, writer: int, job: str, full: bool, quiet: float, sleeping: float, offset: float
    ) -> None:
        """Let a sync sleep before it looks at anything. Meanwhile, remove what others no longer need."""
        self._write(writer, job)
        self._pass(quiet)

        def sleep() -> None:
            self._pass(sleeping)
            self._retain(offset)

        self._sync(cache, full=full, asleep=sleep)

    @rule(cache=CACHES)
    def sync_that_breaks_off(self, cache: int) -> None:
        """Let a sync fail: it claims nothing."""
        before = self._synced_at(cache)
        self.world.fails = True
        with contextlib.suppress(StoreUnavailableError):
            self._sync(cache, full=True)
            raise AssertionError("it should have failed")
        self.world.fails = False
        assert self._synced_at(cache) == before

    # --- how it is done ----------------------------------------------------------------------------------------

    def _writer(self, number: int) -> JobRegistry:
        """Return a process of its own, on the machine of the first mirror if it is the first writer."""

        def observe(key: str) -> TakeRecord:
            path, job_id = self._paths[0], key.split("/")[1]
            before = cached_version(path, REMOTE_URL, job_id, key)
            return lambda record: write_through(path, REMOTE_URL, job_id, key, record, before)

        return JobRegistry(
            self.world,
            now=lambda: self.clock + timedelta(seconds=self.offsets[number]),
            sleep=self._pass,
            observe=observe if number == 0 else None,
        )

    def _write(self, number: int, job: str) -> None:
        self.world.is_ours = True
        writer = self.writers[number]
        try:
            if self.world.inner.get(key(job)) is None:
                writer.register_job(job)
            else:
                writer.update_fields(job, metadata={"at": self.clock.isoformat()})
        except CrashError:
            self.writers[number] = self._writer(number)
        finally:
            self.world.is_ours = False
            self.world.before_landing = self.world.after_landing = _nothing

    @contextlib.contextmanager
    def _around(self, quiet: float, synced: int | None) -> Iterator[None]:
        """Let time pass; then sync a mirror before and after the block, if one is named."""
        self._pass(quiet)
        if synced is not None:
            self.sync(synced)
        yield
        if synced is not None:
            self.sync(synced)

    def _crash(self) -> None:
        raise CrashError

    def _lose_reply(self) -> None:
        self.world.after_landing = _nothing
        raise StoreUnavailableError("The reply was lost.")

    def _pass(self, seconds: float) -> None:
        self.clock += timedelta(seconds=seconds)

    def _now(self, cache: int) -> datetime:
        return self.clock + timedelta(seconds=self.offsets[3 + cache])

    def _retain(self, offset: float) -> None:
        now = self.clock + timedelta(seconds=offset)
        Retention(JobRegistry(self.world), timedelta(hours=1), now=now, sleep=self._pass).remove()

    def _sync(
        self,
        cache: int,
        *,
        full: bool,
        asleep: Callable[[], None] = _nothing,
        meanwhile: Callable[[], None] = _nothing,
        overtaken: bool = False,
    ) -> SyncReport:
        """Sync, and check what that brought.

        `asleep` happens when it has begun, `meanwhile` after it has listed everything, or the announcements it goes by.
        """

        def once() -> None:
            nonlocal meanwhile
            happens, meanwhile = meanwhile, _nothing
            self.world.after_listing = _nothing
            happens()

        def announced(*args: object, **named: object) -> set[str] | None:
            nonlocal asleep
            happens, asleep = asleep, _nothing
            happens()
            found = list_announced(*args, **named)  # type: ignore[arg-type]
            once()
            return found

        list_announced = announcements.announced_jobs
        self.world.after_listing = once
        begun, started = self._begun(), self._now(cache)
        with mock.patch.object(announcements, "announced_jobs", announced):
            report = mirror.sync(
                JobRegistry(self.world), self._paths[cache], REMOTE_URL, full=full, now=lambda: self._now(cache)
            )
        self._check(cache, begun, report, started, overtaken=overtaken)
        return report

    def _begun(self) -> Begun:
        records = {entry.key: entry.version.value for entry in self.world.inner.scan("jobs/")}
        return Begun(dict(self.world.ours), records)

    def _check(
        self, cache: int, begun: Begun, report: SyncReport, started: datetime, *, overtaken: bool = False
    ) -> None:
        rows = self._rows(cache)
        for place, landed in begun.ours.items():
            if place in self.world.ours:  # else it has been deleted since
                assert place in rows, f"{place} is missing"
                assert self.world.landed[rows[place]] >= landed, f"a change of {place} is missing"
        if not overtaken:
            assert parse_time(report.synced_at) == started
        assert parse_time(self._synced_at(cache) or "") <= self._now(cache)
        last_full = self.last_full[cache]
        if overtaken and last_full is not None and last_full > started:
            return  # by a full one, begun later: whatever this one was, it does not take its place
        if report.is_full:
            self.last_full[cache] = started
        else:
            assert last_full is not None
            assert timedelta() <= started - last_full <= mirror.MAX_FULL_SYNC_AGE

    def _rows(self, cache: int) -> dict[str, str]:
        with contextlib.closing(sqlite3.connect(self._paths[cache])) as connection:
            return dict(connection.execute("SELECT key, version FROM job"))

    def _synced_at(self, cache: int) -> str | None:
        with contextlib.closing(sqlite3.connect(self._paths[cache])) as connection:
            row = connection.execute("SELECT value FROM meta WHERE name = 'synced_at'").fetchone()
        return None if row is None else str(row[0])


def _run(machine: Callable[[], DeltaSync], examples: int, steps: int) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=steps))


def test_no_change_is_missed_in_memory(template: str, pytestconfig: pytest.Config) -> None:
    """Over the store in memory, many interleavings, and with `--long` twice as many."""
    _run(lambda: DeltaSync(InMemoryVersionedStore(), template), EXAMPLES * (1 + pytestconfig.option.long), STEPS)


def test_no_change_is_missed_in_sqlite(template: str, tmp_path: Path) -> None:
    """Over SQLite files, some."""
    numbers = itertools.count()
    _run(lambda: DeltaSync(open_store(f"sqlite://{tmp_path}/{next(numbers)}.db", {}), template), 5, 20)


def test_no_change_is_missed_in_azure(template: str, azurite: Azurite) -> None:
    """Over Azurite, a few."""
    _run(lambda: DeltaSync(open_store(f"{azurite.endpoint}/{azurite.new_container()}", {}), template), 4, 15)


def test_no_change_is_missed_in_dynamodb(template: str, dynalite: Dynalite) -> None:
    """Over dynalite, a few."""
    _run(lambda: DeltaSync(open_store(dynalite.new_table(), {}), template), 4, 15)


def test_no_change_is_missed_in_s3(template: str, moto: S3) -> None:
    """Over moto, a few: each record is read by itself."""
    _run(lambda: DeltaSync(open_store(moto.new_prefix(), {}), template), 2, 15)

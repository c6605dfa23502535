"""A snapshot is an accelerator and never the truth: after a scan, a cache that began with one equals the registry.

A state machine draws writers, other programs, and objects that are damaged. Publishers meet, crash, lie or are old.
Readers are killed, overtaken, or prune their caches. Old keys are removed meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from mopsjobs.cache import database as cache_database
from mopsjobs.cache import deferred_indexes, pruning, totals
from mopsjobs.cache.snapshots import format as snapshot_format
from mopsjobs.cache.snapshots import publish, take
from mopsjobs.cache.snapshots.format import MANIFEST_KEY
from mopsjobs.cache.sync import mirror
from mopsjobs.errors import MopsJobsError, StoreUnavailableError
from mopsjobs.events.retention import Retention
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from mopsjobs.store.base import always
from mopsjobs.store.memory import InMemoryVersionedStore
from reliability.storm.snapshots import LIES
from support.cli import REMOTE_URL, Clock, foreign, key, put
from support.machines import SyncMachine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from mopsjobs.store.base import Entry, Versioned, VersionedStore, VersionToken, WantsValues
    from support.servers import Azurite

SCHEMA = "SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2"
JOBS = st.sampled_from([f"job-{number}" for number in range(8)])
LOSABLE = JOBS.filter(lambda job: job != "job-0")
"""A registry that has none of the jobs of the last sync counts as lost."""
PAUSES = st.sampled_from([1.0, 600.0, 4000.0, 100_000.0])
DISTURBANCES = st.just("death") | st.sampled_from(["write", "delete", "other sync", "other publisher", "prune --store"])
"""What happens in the middle of a first sync."""
LIE = st.sampled_from(sorted(LIES))
READERS = st.integers(0, 1)


class DeathError(BaseException):
    """Ends a process where it stands."""


class Line:
    """A store that breaks off after a number of writes and removals below `snapshots/`, or kills who writes."""

    def __init__(self, inner: VersionedStore) -> None:
        self.inner = inner
        self.writes_left: int | None = None
        self.kills = False
        self.hides_snapshots = False
        """Whether a client behaves as one that does not know of snapshots."""
        self.seen: list[str] = []

    def get(self, key: str) -> Versioned | None:
        self.seen.append(key)
        return None if self.hides_snapshots and key.startswith("snapshots/") else self.inner.get(key)

    def put(self, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        self._break_off(key)
        return self.inner.put(key, value, version)

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        self._break_off(key)
        return self.inner.create_if_absent(key, value)

    def delete(self, key: str) -> bool:
        self._break_off(key)
        return self.inner.delete(key)

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        return self.inner.list_keys(prefix)

    def scan(self, prefix: str = "", wants_values: WantsValues = always, after: str = "") -> Iterator[Entry]:
        return self.inner.scan(prefix, wants_values, after)

    def close(self) -> None:
        """Do nothing: the machine closes the inner store."""

    def _break_off(self, key: str) -> None:
        if self.writes_left is not None and key.startswith("snapshots/"):
            self.writes_left -= 1
            if self.writes_left < 0:
                if self.kills:
                    raise DeathError
                raise StoreUnavailableError("The line broke off.", sent=False, silent=True)


class Snapshots(SyncMachine):
    """One registry, two publishers with caches of their own, caches that begin, and two that last."""

    def __init__(self, inner: VersionedStore, template: str) -> None:
        super().__init__()
        self.limit(snapshot_format, PART_ROWS=3)
        self.limit(take, WINDOW=1)
        self.limit(deferred_indexes, MIN_JOBS=5)
        self.store = Line(inner)
        self.clock = Clock()
        self.jobs = JobRegistry(self.store, now=self.clock.now, sleep=self.clock.sleep)
        self._template = template
        with contextlib.closing(sqlite3.connect(template)) as connection:
            self._schema = connection.execute(SCHEMA).fetchall()
        self._directory = tempfile.mkdtemp(dir=os.path.dirname(template))
        self.publisher, self.other = self._empty("publisher"), self._empty("other")
        self.readers = [self._empty(f"lasting-{number}") for number in range(2)]
        self.manifests: list[bytes] = []

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self._directory)
        self.store.inner.close()

    # --- what may happen ---------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        for number in range(6):
            self.jobs.register_job(f"job-{number}", labels={"exp": str(number)})
        self.publish()

    @rule(seconds=PAUSES)
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds=seconds)

    @rule(job=JOBS)
    def write(self, job: str) -> None:
        if self.store.inner.get(key(job)) is None:
            self.jobs.register_job(job)
        with contextlib.suppress(MopsJobsError):  # a record that is damaged stays, and one with an unknown status
            self.jobs.update_fields(job, metadata={"at": self.clock.now().isoformat()})

    @rule(job=JOBS)
    def end(self, job: str) -> None:
        """End a job, so that it can be pruned."""
        with contextlib.suppress(MopsJobsError):
            self.jobs.update_status(job, "failed")

    @rule(job=LOSABLE, value=st.sampled_from(["record", "{", '{"job_id": 1}']))
    def another_program_writes(self, job: str, value: str) -> None:
        put(self.store.inner, key(job), foreign(job, status="odd") if value == "record" else value)

    @rule(job=LOSABLE)
    def delete(self, job: str) -> None:
        self.store.delete(key(job))

    @rule()
    def publish(self) -> None:
        """Scan and publish, as the command does."""
        self._scan(self.publisher)
        self._publish(self.publisher)

    @rule(writes=st.integers(0, 8), kills=st.booleans())
    def publisher_breaks_off(self, writes: int, kills: bool) -> None:
        """Lose the line, or die, between two parts, before or after the manifest, or while removing."""
        self._scan(self.publisher)
        self.store.writes_left, self.store.kills = writes, kills
        with contextlib.suppress(StoreUnavailableError, DeathError):
            self._publish(self.publisher)
        self.store.writes_left = None

    @rule(seconds=PAUSES)
    def publishers_meet(self, seconds: float) -> None:
        """Publish while another publisher uploads, which may sleep meanwhile: it gives up."""
        self._scan(self.publisher)
        self._scan(self.other)
        won: list[publish.PublishReport | None] = []

        def meet(_jobs: int) -> None:
            if not won:
                self.clock.advance(seconds=seconds)
                won.append(self._publish(self.other))

        lost = self._publish(self.publisher, meet)
        if lost is not None:
            assert lost.is_overtaken
            assert won[0] is not None
            assert self.store.inner.get(MANIFEST_KEY).value == snapshot_format.encode_manifest(won[0].manifest)
            assert not set(lost.manifest.part_keys()) & set(self.store.list_keys("snapshots/"))

    @rule(lie=LIE)
    def publisher_lies(self, lie: str) -> None:
        self._scan(self.publisher)
        liar = shutil.copy(self.publisher, f"{self._directory}/liar.db")
        with contextlib.closing(cache_database.open_to_write(liar, REMOTE_URL)) as connection:
            connection.execute(LIES[lie])
            connection.commit()
        self._publish(liar)

    @rule(number=st.integers(0, 5))
    def old_manifest_comes_back(self, number: int) -> None:
        """Restore an old manifest, whose parts may be gone."""
        if self.manifests:
            put(self.store.inner, MANIFEST_KEY, self.manifests[number % len(self.manifests)])

    @rule(number=st.integers(0, 5), value=st.sampled_from([b"", b"{}", b"x" * 100, None]) | st.binary(max_size=30))
    def part_is_damaged(self, number: int, value: bytes | None) -> None:
        """Remove a part, or put other bytes in its place."""
        parts = list(self.store.list_keys("snapshots/2"))
        if parts:
            self.store.delete(parts[number % len(parts)])
            if value is not None:
                put(self.store.inner, parts[number % len(parts)], value)

    @rule(value=st.sampled_from([b"", b"{}", b'{"schema_version": 2}', b"[" * 1000]))
    def manifest_is_damaged(self, value: bytes) -> None:
        put(self.store.inner, MANIFEST_KEY, value)

    @rule()
    def manifest_is_removed(self) -> None:
        self.store.delete(MANIFEST_KEY)

    @rule()
    def cache_begins(self) -> None:
        """Begin a cache with whatever snapshot is there. After a scan it equals one that was filled by a listing."""
        path = self._empty("reader")
        self._sync(path)
        self._scan(path)
        self._check_equal(path)

    @rule()
    def view_with_a_scan_begins_a_cache(self) -> None:
        """Begin a cache by a view that asks for a scan: it equals the registry at once."""
        path = self._empty("reader")
        self._scan(path)
        self._check_equal(path)

    @rule(reader=READERS)
    def reader_begins_anew(self, reader: int) -> None:
        self.readers[reader] = self._empty(f"lasting-{reader}")

    @rule(reader=READERS)
    def reader_syncs(self, reader: int) -> None:
        """Sync by announcements, if the snapshot or the last sync allows it."""
        self._sync(self.readers[reader])

    @rule(
        reader=READERS,
        act=DISTURBANCES,
        at=st.integers(1, 3),
        job=LOSABLE,
        lie=st.none() | st.just("all values") | LIE,
        scans=st.booleans(),
    )
    def first_sync_is_disturbed(self, reader: int, act: str, at: int, job: str, lie: str | None, scans: bool) -> None:
        """Let something happen between two parts of a snapshot, or between two pages of a listing."""
        if lie is not None:
            self.publisher_lies(lie)
        self.reader_begins_anew(reader)
        calls = 0

        def disturb(_jobs: int) -> None:
            nonlocal calls
            calls += 1
            if calls == at:
                self._disturb(act, self.readers[reader], job)

        with contextlib.suppress(DeathError):
            self._sync(self.readers[reader], on_progress=disturb)
        if scans:
            self.reader_scans(reader)

    @rule(reader=READERS)
    def reader_prunes(self, reader: int) -> None:
        """Prune the cache of jobs that have ended."""
        with contextlib.closing(cache_database.open_to_write(self.readers[reader], REMOTE_URL)) as connection:
            pruning.prune(connection, self.clock.now().timestamp() - 600)

    @rule()
    def prune_store(self) -> None:
        """Remove old announcements, as `prune --store` does."""
        Retention(self.jobs, timedelta(hours=1), now=self.clock.now(), sleep=self.clock.sleep).remove()

    @rule(reader=READERS)
    def reader_scans(self, reader: int) -> None:
        """Scan a cache with any past: it equals the registry, but for jobs that it has pruned."""
        self._scan(self.readers[reader])
        self._check_equal(self.readers[reader])

    # --- how it is done ----------------------------------------------------------------------------------------

    def _empty(self, name: str) -> str:
        path = f"{self._directory}/{name}.db"
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path + suffix)
        return shutil.copy(self._template, path)

    def _disturb(self, act: str, path: str, job: str) -> None:
        self.clock.advance(seconds=1)
        if act == "write":
            self.write(job)
        elif act == "delete":
            self.delete(job)
        elif act == "other sync":
            self._sync(path)
        elif act == "other publisher":
            self.clock.advance(hours=2)  # so that replaced snapshots are removed
            self._scan(self.other)
            self._publish(self.other)
        elif act == "prune --store":
            self.prune_store()
        else:
            raise DeathError

    def _sync(self, path: str, *, scan: bool = False, on_progress: Callable[[int], None] | None = None) -> None:
        """Sync. What a false snapshot has left may be of no record that is there: then the error names the way out."""
        try:
            mirror.sync(self.jobs, path, REMOTE_URL, scan=scan, now=self.clock.now, on_progress=on_progress)
        except StoreUnavailableError as error:
            if "sync --full" not in (error.hint or ""):
                raise
            mirror.sync(self.jobs, path, REMOTE_URL, full=True, now=self.clock.now)

    def _scan(self, path: str) -> None:
        self.clock.advance(seconds=1)
        self._sync(path, scan=True)

    def _publish(self, path: str, on_progress: Callable[[int], None] | None = None) -> publish.PublishReport | None:
        """Publish a cache. Return None if the manifest is damaged, which is removed then."""
        began, there = self.clock.now(), set(self.store.list_keys("snapshots/2"))
        with contextlib.closing(cache_database.open_to_write(path, REMOTE_URL)) as connection:
            try:
                done = publish.publish_snapshot(self.store, connection, now=self.clock.now, on_progress=on_progress)
            except ValueError:  # the manifest is damaged, or of a newer version: it is not replaced
                assert not self._is_sound(MANIFEST_KEY)
                self.store.delete(MANIFEST_KEY)
                return None
        assert done.is_overtaken == (on_progress is not None)
        if not done.is_overtaken:
            self._check_published(done, began, there)
        return done

    def _check_published(self, done: publish.PublishReport, began: datetime, before: set[str]) -> None:
        """Check that all parts are there, those of the last hour too, and none that no manifest has named since."""
        self.manifests.append(snapshot_format.encode_manifest(done.manifest))
        assert all(self.store.inner.get(part) is not None for part in done.manifest.part_keys())
        reachable = {done.manifest.id, *(one.id for one in done.manifest.retired)}
        left = set(self.store.list_keys("snapshots/2"))
        for part in before | left:
            found = snapshot_format.part_id(part)
            assert found is not None
            is_kept = found in reachable or not snapshot_format.begun_before(found, began - publish.GRACE)
            assert (part in left) == is_kept or (done.problem and not is_kept), part

    def _is_sound(self, name: str) -> bool:
        found = self.store.inner.get(name)
        assert found is not None
        with contextlib.suppress(ValueError):
            snapshot_format.parse_manifest(found.value)
            return True
        return False

    def _check_equal(self, path: str) -> None:
        """Check that a cache has what a listing gives, but for jobs that it has pruned."""
        with contextlib.closing(sqlite3.connect(path)) as connection:
            pruned = set(connection.execute("SELECT key, version FROM pruned"))
        listed = self._listed()
        gone = {row[1] for row in listed["job"] if (row[0], row[2]) in pruned}
        listed["job"] = [row for row in listed["job"] if row[1] not in gone]
        listed["label"] = [row for row in listed["label"] if row[-1] not in gone]
        assert self._content(path) == listed

    def _listed(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return what a client has in its cache that does not know of snapshots."""
        path = self._empty("listed")
        self.store.hides_snapshots = True
        self._sync(path)
        self.store.hides_snapshots = False
        return self._content(path)

    def _content(self, path: str) -> dict[str, list[tuple[Any, ...]]]:
        """Return jobs, labels and problems, without the last good rows of records that cannot be read any more."""
        names = ", ".join((*snapshot_format.SHARED, "record"))
        good = "key NOT IN (SELECT key FROM problem WHERE kind = 'unreadable')"
        with contextlib.closing(sqlite3.connect(path)) as connection:
            sums = f"{totals.SUMS} {totals.GROUPED} ORDER BY 1, 2, 3"
            kept = connection.execute("SELECT * FROM tally WHERE jobs > 0 ORDER BY 1, 2, 3").fetchall()
            assert kept == connection.execute(sums).fetchall()
            assert connection.execute(SCHEMA).fetchall() == self._schema
            labels = f"SELECT * FROM job_label WHERE job_id IN (SELECT job_id FROM job WHERE {good})"
            return {
                "job": connection.execute(f"SELECT {names} FROM job WHERE {good} ORDER BY key").fetchall(),
                "label": connection.execute(f"{labels} ORDER BY 1, 2, 3").fetchall(),
                "problem": connection.execute("SELECT * FROM problem ORDER BY key").fetchall(),
            }


def test_a_cache_equals_the_registry_after_a_scan(template: str) -> None:
    """Over the store in memory, many interleavings."""
    run_state_machine_as_test(
        lambda: Snapshots(InMemoryVersionedStore(), template),
        settings=settings(max_examples=60, stateful_step_count=20),
    )


def test_a_cache_equals_the_registry_after_a_scan_in_azure(template: str, azurite: Azurite) -> None:
    """Over Azurite, a few."""
    run_state_machine_as_test(
        lambda: Snapshots(open_store(f"{azurite.endpoint}/{azurite.new_container()}", {}), template),
        settings=settings(max_examples=4, stateful_step_count=12),
    )

"""`sync` and `prune` killed at random instants: is the cache right about each row, and does the next run heal it?"""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from bench.registry_data import states
from mopsjobs.cache import rows, totals
from mopsjobs.cache.database import APPLICATION_ID, SCHEMA_VERSION
from mopsjobs.cache.job_row import JobRow
from mopsjobs.cache.sync.mirror import SMALL_REGISTRY
from mopsjobs.errors import EXIT_PARTLY_DONE, EXIT_UNREACHABLE, StoreUnavailableError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.status import JobStatus
from mopsjobs.store import open_store
from mopsjobs.store.base import Entry, VersionToken
from mopsjobs.utils.times import record_time, utc_now
from reliability.crashes.processes import OWN_SUFFIXES, Ended, Forker, Killed, check_leftovers, killing
from reliability.trial import hold

JOBS = 1100
"""More than a listing of all costs one request for: so deltas are worth while."""
BUSY = 20
"""Active jobs, which change again and again: few enough for a delta."""
CHANGES = 4
"""Changes between two syncs."""
ATTEMPTS = 10

T = TypeVar("T")


class Mirrored:
    """A registry, all states that its records have ever had, and a cache of it."""

    def __init__(self, url: str, env: dict[str, str], cache: Path, chance: random.Random, jobs: int = JOBS) -> None:
        """Fill an empty registry with this many jobs."""
        self.url = url
        self.cache = cache
        self.had: dict[tuple[str, str], bytes] = {}
        """What each record was at each of its versions."""
        self.can_be_delta = jobs > SMALL_REGISTRY
        self._rows: dict[tuple[str, str], rows.MirroredJob] = {}
        self._chance = chance
        self.store = open_store(url, env)
        self.registry = JobRegistry(self.store)
        self.busy = [f"busy-{number:02}" for number in range(BUSY)]
        busy = [
            JobState(
                job_id=job_id,
                status=JobStatus.RUNNING,
                created_at=record_time(utc_now()),
                updated_at=record_time(utc_now()),
                tasks_total=1_000_000,
                labels={"kind": "busy", "of": job_id},
            )
            for job_id in self.busy
        ]
        # With the mark of a record that mops-jobs wrote: of others, a sync of an embedded registry is always full.
        made = [
            (f"jobs/{state.job_id}/state.json", replace(state, write_id=f"{chance.getrandbits(64):016x}").to_json())
            for state in [*states(jobs, utc_now()), *busy]
        ]
        with ThreadPoolExecutor(1 if url.startswith("sqlite:") else 8) as writers:
            list(writers.map(lambda one: patiently(lambda: self.store.create_if_absent(*one)), made))
        self._note(patiently(lambda: list(self.store.scan("jobs/"))))

    def close(self) -> None:
        """Hang up."""
        self.store.close()

    def change(self) -> None:
        """Let some records change, as another machine does."""
        for job_id in self._chance.sample(self.busy, CHANGES):
            done = self._chance.randrange(1_000_000)
            patiently(lambda job_id=job_id, done=done: self.registry.update_progress(job_id, tasks_completed=done))
            key = f"jobs/{job_id}/state.json"
            found = patiently(lambda key=key: self.store.get(key))
            assert found is not None
            self.had[key, found.version.value] = found.value

    def command(self, *words: str) -> tuple[str, ...]:
        """Return a command on this registry and this cache."""
        return (*words, "--registry", self.url, "--cache", str(self.cache))

    def forget(self) -> None:
        """Take the cache away."""
        for suffix in OWN_SUFFIXES:
            Path(f"{self.cache}{suffix}").unlink(missing_ok=True)

    def check(self) -> None:
        """Check that each row is what its record really was, that sums fit, and that no file is left.

        Raises:
            PromiseBroken: not so.
        """
        with contextlib.closing(_opened(self.cache)) as connection:
            (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            hold(found == "ok", f"the cache is damaged: {found}")
            (mark,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            hold(mark in (0, APPLICATION_ID), f"the cache is marked as another program's: {mark}")
            if version == SCHEMA_VERSION:
                self._check_rows(connection)
        check_leftovers(self.cache)

    def check_equal(self) -> None:
        """Check that the cache has each record as the registry has it, or has pruned it as that, and no other.

        Raises:
            PromiseBroken: not so.
        """
        self.check()
        there = patiently(lambda: {entry.key: entry.version.value for entry in self.store.scan("jobs/")})
        with contextlib.closing(_opened(self.cache)) as connection:
            cached = dict(connection.execute("SELECT key, version FROM job UNION ALL SELECT key, version FROM pruned"))
        differing = {key for key in there.keys() | cached.keys() if there.get(key) != cached.get(key)}
        hold(not differing, f"a sync has left {len(differing)} jobs unlike the registry, such as {differing}"[:300])

    def _check_rows(self, connection: sqlite3.Connection) -> None:
        labels = defaultdict(list)
        for label, value, job_id in connection.execute("SELECT label, value, job_id FROM job_label"):
            labels[job_id].append((label, value, job_id))
        columns = ", ".join(JobRow._fields)
        seen = set()
        for row in connection.execute(f"SELECT {columns} FROM job"):
            key, job_id, version = row[:3]  # and after them the generation, which is the cache's own
            seen.add(job_id)
            made = self._made(key, job_id, version)
            hold(made.row[:3] + made.row[4:] == row[:3] + row[4:], f"the row of {job_id} is none of its states")
            hold(sorted(made.labels) == sorted(labels.get(job_id, [])), f"the labels of {job_id} are not its own")
        hold(labels.keys() <= seen, "there are labels without their jobs")
        both = connection.execute("SELECT count(*) FROM job JOIN pruned USING (key)").fetchone()[0]
        hold(not both, f"{both} jobs are there and pruned as well")
        sums = connection.execute(f"{totals.SUMS} {totals.GROUPED}").fetchall()
        kept = connection.execute("SELECT * FROM tally WHERE jobs > 0").fetchall()
        hold(sorted(sums) == sorted(kept), "the sums are not those of the jobs")

    def _made(self, key: str, job_id: str, version: str) -> rows.MirroredJob:
        """Return what the cache has to hold of a record at a version that it really had."""
        if (made := self._rows.get((key, version))) is None:
            value = self.had.get((key, version))
            hold(value is not None, f"{job_id} never had the version {version}")
            found = rows.to_row(key, job_id, value or b"", VersionToken(version), 0)
            assert isinstance(found, rows.MirroredJob)
            made = self._rows[key, version] = found
        return made

    def _note(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            assert entry.value is not None  # these are small, so listings have them
            self.had[entry.key, entry.version.value] = entry.value


def patiently(act: Callable[[], T]) -> T:
    """Return what `act` gives, when the server answers: on a busy machine it may take longer than its clients wait."""
    for _ in range(ATTEMPTS):
        with contextlib.suppress(StoreUnavailableError):
            return act()
    return act()


def synced(forker: Forker, sync: Sequence[str]) -> str:
    """Sync to the end, again where the exit code says so, and return what it said.

    Raises:
        PromiseBroken: it does not succeed.
    """
    for _ in range(ATTEMPTS):
        ended = forker.run(sync)
        if ended.codes != [EXIT_UNREACHABLE]:
            break
    hold(ended.codes == [0], f"a sync ended with {ended.codes}: {ended.out}")
    is_refused = '"already_running": true' in ended.out or "Another sync is running" in ended.out
    hold(not is_refused, "a sync takes one that was killed for one that is running")
    return ended.out


def kill_syncs(
    mirrored: Mirrored,
    forker: Forker,
    chance: random.Random,
    wanted: int,
    *,
    full: bool,
    fresh: bool = False,
) -> Killed:
    """Kill syncs of one kind, look at the cache after each, and let another sync heal it.

    Args:
        mirrored: the registry and its cache.
        forker: runs the syncs.
        chance: where all chance comes from.
        wanted: how many kills are to fall inside.
        full: whether every record is read again.
        fresh: whether there is no cache before.

    Raises:
        PromiseBroken: the cache was wrong, or the next sync did not heal it.
    """
    sync = mirrored.command("sync", "--json", *(["--full"] if full else []))
    heal = mirrored.command("sync", "--json")
    for _ in range(3):  # until announcements are trusted
        synced(forker, heal)

    def prepare() -> None:
        mirrored.change()
        if fresh:
            mirrored.forget()

    def look(_ended: Ended) -> None:
        if mirrored.cache.exists():
            mirrored.check()
        said = synced(forker, heal)
        hold(full or fresh or not mirrored.can_be_delta or '"mode": "delta"' in said, f"this was to be a delta: {said}")
        mirrored.check_equal()

    # A busy server may keep a sync from its end, or from the events.
    ends = (0,) if mirrored.url.startswith("sqlite:") else (0, EXIT_UNREACHABLE, EXIT_PARTLY_DONE)
    return killing(forker, lambda: [sync], chance, wanted, prepare=prepare, look=look, ends=ends)


def kill_prunes(mirrored: Mirrored, forker: Forker, chance: random.Random, wanted: int) -> Killed:
    """Kill prunes of a cache that has much to prune, look at it, prune again to the end, and sync.

    Raises:
        PromiseBroken: the cache was wrong, or what came after did not heal it.
    """
    full = mirrored.cache.with_name("unpruned.db")
    mirrored.forget()
    synced(forker, mirrored.command("sync", "--full"))
    shutil.copyfile(mirrored.cache, full)
    # All that ended: half of the jobs are younger than fifteen days, and the trial is of much work.
    prune = mirrored.command("prune", "--older-than", "1s", "--yes")

    def prepare() -> None:
        mirrored.forget()
        shutil.copyfile(full, mirrored.cache)

    def look(_ended: Ended) -> None:
        mirrored.check()
        hold(forker.run(prune).codes == [0], "the next prune does not succeed")
        synced(forker, mirrored.command("sync"))
        mirrored.check_equal()
        with contextlib.closing(_opened(mirrored.cache)) as connection:
            left = connection.execute("SELECT count(*) FROM job WHERE is_active = 0").fetchone()[0]
        hold(not left, f"{left} jobs came back that were pruned")

    return killing(forker, lambda: [prune], chance, wanted, prepare=prepare, look=look)


def _opened(path: Path) -> sqlite3.Connection:
    """Return the cache as any reader opens it."""
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True)

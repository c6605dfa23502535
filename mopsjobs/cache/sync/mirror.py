"""Sync: make the cache equal the registry, at a cost that follows what changed.

A delta sync (delta.py) looks at the jobs that writers have announced (mopsjobs/changes.py) since the last complete
sync began. A full one (merge.py) lists everything. It is made when there is nothing to start from, when the last one is
an hour old, while programs write that announce nothing, and where it costs less.

Several syncs and writers may be at the cache at once; the generations of their rows (state.py) keep them apart.
Interrupting a sync at any instant leaves a cache that is right about every row it has, as of some moment since the sync
began.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from mopsjobs.cache import counters, rows, sync_state
from mopsjobs.cache.database import open_to_write, translate_sqlite_errors
from mopsjobs.cache.sync import identity as registry_identity
from mopsjobs.cache.sync.batch import SyncReport
from mopsjobs.cache.sync.delta import Delta
from mopsjobs.cache.sync.full import Merge, OnProgress
from mopsjobs.errors import StoreAccessError, StoreError, StoreUnavailableError
from mopsjobs.registry import announcements
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.base import VersionToken
from mopsjobs.utils.times import json_time, parse_time, utc_now

FULL_SCAN = timedelta(hours=1)
"""How old the last full sync may be at a delta sync: so long may a change stay unseen that nobody announced."""


SMALL = 1000
"""Up to so many jobs, a listing of all is one request, and cheaper than the few that list the announcements."""


GET_COST = 10
"""Jobs that a listing brings in the time that reading one record takes; 6 against Azurite."""


WRITE_THROUGH_SECONDS = 1.0
"""How long a write to the registry waits for whoever has the cache. The next sync brings it anyway."""


def sync(
    registry: JobRegistry,
    path: str,
    registry_id: str,
    *,
    full: bool = False,
    on_progress: OnProgress | None = None,
    now: Callable[[], datetime] = utc_now,
) -> SyncReport:
    """Mirror the registry into the cache at `path`.

    Args:
        registry: what to mirror.
        path: the cache; made when there is none.
        registry_id: the registry's identity, which the cache remembers.
        full: read every record again, also those whose version has not changed.
        on_progress: called with the number of jobs seen so far.
        now: the time, in UTC.

    Raises:
        StoreError: the registry cannot be listed. Rows mirrored before stay, and none has been removed.
        CacheError: the cache cannot be written.
    """
    begun = time.monotonic()
    connection = open_to_write(path, registry_id)
    try:
        with translate_sqlite_errors(path):
            one = _Sync(registry, connection, now)
            try:
                one.run(on_progress, full=full)
            except sync_state.SupersededError:
                pass  # what the other sync left is younger than this one's; the report says so
            except StoreError as error:
                with sync_state.transaction(connection):
                    sync_state.set_meta(connection, {"last_error": str(error)})
                    counters.add(connection, {(counters.SYNC_ERRORS, (_kind(error),)): 1})
                raise
            one.report.synced_at = sync_state.get_meta(connection, sync_state.SYNCED_AT) or json_time(one.started)
    finally:
        connection.close()
    one.report.seconds = time.monotonic() - begun
    return one.report


def write_through(path: str, registry_id: str, job_id: str, key: str, value: bytes, version: VersionToken) -> None:
    """Take a record that this machine has just written into the cache, so that the next listing shows it.

    A row from a sync is older than what this machine has just written, unless that sync is at work right now; then
    the next one mends it. Of two own writes since, the later one stays: the times of a record's writes never go back,
    while a program that drops our fields resets the revision.
    """
    connection = open_to_write(path, registry_id, patience=WRITE_THROUGH_SECONDS)
    try:
        with translate_sqlite_errors(path), sync_state.transaction(connection):
            generation = sync_state.last_generation(connection) + 1
            record = rows.to_row(key, job_id, value, version, generation)
            if not isinstance(record, rows.JobRow):
                return
            newer = connection.execute(
                "SELECT 1 FROM job WHERE job_id = ?1 AND generation = ?2"
                " AND (changed_ts, CAST(json_extract(record, '$.revision') AS INTEGER))"
                " >= (?3, CAST(json_extract(?4, '$.revision') AS INTEGER))",
                (job_id, generation, record.changed, value.decode()),
            ).fetchone()
            if newer is None:
                rows.write_rows(connection, [record])
                connection.execute("DELETE FROM problem WHERE key = ?", (key,))
    finally:
        connection.close()


class _Sync:
    """One sync, of either kind."""

    def __init__(self, registry: JobRegistry, connection: sqlite3.Connection, now: Callable[[], datetime]) -> None:
        self.report = SyncReport()
        self._begun = time.monotonic()
        self._registry = registry
        self._connection = connection
        self._now = now
        with sync_state.transaction(connection):
            self.started = now()  # in here, so that of two syncs the one with the higher generation began later
            self._generation = sync_state.next_generation(connection)
            sync_state.set_meta(connection, {"attempted_at": json_time(self.started)})
            self._last = self._time_of(sync_state.SYNCED_AT)
            self._last_full = self._time_of(sync_state.FULL_SYNCED_AT)
            self._is_announced = sync_state.get_meta(connection, sync_state.FOREIGN_WRITES) == "no"

    def run(self, on_progress: OnProgress | None, *, full: bool) -> None:
        """Choose the kind, and do it."""
        announced = self._announced() if self._has_more_than(SMALL) else None
        can_be_delta = not full and self._is_announced and self._age(self._last_full) is not None
        is_worth_it = announced is not None and can_be_delta and self._has_more_than(GET_COST * len(announced))
        is_sure = full or registry_identity.check_same_registry(self._registry, self._connection)
        if announced is not None and is_worth_it and is_sure:
            self._delta(announced, on_progress)
        else:
            self._merge(announced, on_progress, again=full)
        self.report.problems = [
            rows.Problem(*row)
            for row in self._connection.execute("SELECT key, kind, reason, version FROM problem ORDER BY key")
        ]

    def _delta(self, announced: set[str], on_progress: OnProgress | None) -> None:
        self.report.is_full = False
        delta = Delta(self._registry, self._connection, self.report, self._generation, announced)
        delta.run(on_progress)
        with sync_state.transaction_if_latest(self._connection, self._generation, sync_state.SYNCED_GENERATION):
            delta.finish()
            self._complete()

    def _merge(self, announced: set[str] | None, on_progress: OnProgress | None, *, again: bool) -> None:
        merge = Merge(self._registry, self._connection, self.report, self._generation, announced, again=again)
        merge.run(on_progress)
        if not self.report.seen and not again:
            registry_identity.check_not_emptied(self._connection)
        foreign = ""
        if announced is not None:
            # What was announced while the listing was under way may be in it.
            unannounced = merge.unannounced and (merge.unannounced - (self._announced() or set()))
            foreign = "yes" if unannounced else "no"
        with sync_state.transaction_if_latest(self._connection, self._generation, sync_state.FULL_GENERATION):
            merge.finish()
            sync_state.set_meta(
                self._connection,
                {
                    sync_state.FULL_SYNCED_AT: json_time(self.started),
                    sync_state.FULL_GENERATION: str(self._generation),
                    sync_state.FOREIGN_WRITES: foreign,
                },
            )
            if int(sync_state.get_meta(self._connection, sync_state.SYNCED_GENERATION) or 0) < self._generation:
                self._complete()

    def _complete(self) -> None:
        # The data is as old as the beginning of the listing, not as its end.
        names = ("seen", "added", "changed", "unchanged", "removed", "fetched")
        done = {"seconds": round(time.monotonic() - self._begun, 3)}
        values = {
            sync_state.SYNCED_AT: json_time(self.started),
            sync_state.SYNCED_GENERATION: str(self._generation),
            sync_state.LAST_SYNC: json.dumps(done | {name: getattr(self.report, name) for name in names}),
            "last_error": "",
        }
        sync_state.set_meta(self._connection, values)
        registry_identity.remember_witnesses(self._connection, self._generation)
        if self._connection.execute("SELECT 1 FROM problem WHERE kind = ? LIMIT 1", (rows.UNREADABLE,)).fetchone():
            counters.add(self._connection, {(counters.SYNC_ERRORS, ("parse",)): 1})

    def _announced(self) -> set[str] | None:
        """The jobs announced since the last complete sync; None if that is too long ago, or they are too many.

        By the time they are listed, that sync must not be so long ago that some may have been removed.
        """
        if self._last is None or self._age(self._last) is None:
            return None
        found = announcements.announced_jobs(self._registry.store, self._last, self._now())
        # A laptop may have slept since this sync began, and somebody have removed by now what it needed.
        return found if self._now() - self._last <= announcements.max_sync_age() else None

    def _age(self, moment: datetime | None) -> timedelta | None:
        """How long ago that was; None if it is never, in the future, or longer ago than a full sync may be."""
        age = None if moment is None else self.started - moment
        return age if age is not None and timedelta() <= age <= FULL_SCAN else None

    def _time_of(self, name: str) -> datetime | None:
        text = sync_state.get_meta(self._connection, name)
        return parse_time(text) if text else None

    def _has_more_than(self, count: int) -> bool:
        """Whether the registry has more jobs than that: counting them all takes long where they are a million."""
        sql = "SELECT 1 FROM (SELECT 1 FROM job UNION ALL SELECT 1 FROM pruned) LIMIT 1 OFFSET ?"
        return self._connection.execute(sql, (count,)).fetchone() is not None


def _kind(error: StoreError) -> str:
    """What kind of failure ended a sync."""
    if isinstance(error, StoreAccessError):
        return "auth"
    if isinstance(error, StoreUnavailableError):
        return "throttled" if error.throttled else "network"
    return "parse"

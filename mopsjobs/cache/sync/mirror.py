"""Sync: make the cache equal to the registry, at a cost that follows what changed.

A delta sync reads the jobs that were announced (registry/announcements.py) since the last complete sync began. A full
sync lists everything. It is made if there is no earlier one, or it is an hour old, or ten minutes where other programs
write. It is also made while programs write without announcements, if it costs less, and if a view asks for it.

Several syncs and writers may use the cache at once; generations keep their rows apart (sync_state.py). An interruption
at any moment leaves each row right as of some moment since the sync began.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from mopsjobs.cache import counters, pruning, rows, sync_state
from mopsjobs.cache.database import open_to_write, translate_sqlite_errors
from mopsjobs.cache.sync import identity as registry_identity
from mopsjobs.cache.sync.records import GET_COST, DeltaSync, FullSync, OnProgress, SyncReport
from mopsjobs.errors import StoreAccessError, StoreError, StoreUnavailableError
from mopsjobs.registry import announcements
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.bulk import bulk_reads
from mopsjobs.utils.times import json_time, parse_time, utc_now

MAX_FULL_SYNC_AGE = timedelta(hours=1)
"""How old the last full sync may be at a delta sync. So long, an unannounced change may be missed."""

FOREIGN_SCAN_AGE = timedelta(minutes=10)
"""The same in a registry to which other programs write: with a sync per minute, views are not stale."""

SMALL_REGISTRY = 1000
"""Up to this number of jobs, a listing is one request, and cheaper than listing the announcements."""


MAX_SHARE_READ = 1 / GET_COST
"""Share of the jobs from which a scan takes less time than reading them."""


def sync(
    registry: JobRegistry,
    path: str,
    registry_id: str,
    *,
    full: bool = False,
    scan: bool = False,
    registry_file: str | None = None,
    on_progress: OnProgress | None = None,
    now: Callable[[], datetime] = utc_now,
) -> SyncReport:
    """Mirror the registry into the cache at `path`.

    Args:
        registry: the registry.
        path: the cache; created if it does not exist.
        registry_id: the identity of the registry, which the cache notes.
        full: read every record again, also those with a known version.
        scan: list every record, also if a delta sync is possible.
        registry_file: the state of the file of an embedded registry, which the cache notes; None for a remote one.
        on_progress: called with the number of jobs seen so far.
        now: the time, in UTC.

    Raises:
        StoreError: if the registry cannot be listed. Rows that were mirrored before stay, and none is removed.
        CacheError: if the cache cannot be written.
    """
    started_at = time.monotonic()
    connection = open_to_write(path, registry_id)
    try:
        with translate_sqlite_errors(path), bulk_reads(registry.store):
            current = _Sync(registry, connection, registry_file, now)
            try:
                current.run(on_progress, full=full, scan=scan or current.is_scan_due())
            except sync_state.SupersededError:
                pass  # the rows of the other sync are younger; the report has its time
            except StoreError as error:
                with sync_state.transaction(connection):
                    sync_state.set_meta(connection, {"last_error": str(error)})
                    counters.add(connection, {(counters.SYNC_ERRORS, (_failure_kind(error),)): 1})
                raise
            current.report.synced_at = sync_state.get_meta(connection, sync_state.SYNCED_AT) or json_time(
                current.started
            )
    finally:
        connection.close()
    current.report.seconds = time.monotonic() - started_at
    return current.report


class _Sync:
    """One sync, of either kind."""

    def __init__(
        self,
        registry: JobRegistry,
        connection: sqlite3.Connection,
        registry_file: str | None,
        now: Callable[[], datetime],
    ) -> None:
        self.report = SyncReport()
        self._started_at = time.monotonic()
        self._registry = registry
        self._connection = connection
        self._registry_file = registry_file
        self._now = now
        with sync_state.transaction(connection):
            self.started = now()  # in the transaction, so that the sync with the higher generation began later
            self._generation = sync_state.next_generation(connection)
            sync_state.set_meta(connection, {"attempted_at": json_time(self.started)})
            self._last_sync = self._time_of(sync_state.SYNCED_AT)
            self._last_full = self._time_of(sync_state.FULL_SYNCED_AT)
            self._synced_generation = int(sync_state.get_meta(connection, sync_state.SYNCED_GENERATION) or 0)
            self._all_announced = sync_state.get_meta(connection, sync_state.FOREIGN_WRITES) == "no"
            self._has_foreign = sync_state.get_meta(connection, sync_state.FOREIGN_RECORDS)
        self._known_jobs = self._count_known()

    def is_scan_due(self) -> bool:
        """Return whether other programs write to the registry, and the last scan is too old.

        Views of an embedded registry say that they are live, and a scan of it costs little.
        """
        age = FOREIGN_SCAN_AGE if self._registry_file is None else timedelta()
        return self._has_foreign == "yes" and (self._last_full is None or self.started - self._last_full >= age)

    def run(self, on_progress: OnProgress | None, *, full: bool, scan: bool) -> None:
        """Choose the kind of sync, and run it."""
        if not full:
            self.report.named_before = set(self._connection.execute("SELECT key, version FROM problem"))
        is_delta_possible = not (full or scan) and self._all_announced and self._age(self._last_full) is not None
        most = math.ceil(self._known_jobs * MAX_SHARE_READ) - 1
        is_delta_possible = is_delta_possible and self._known_jobs > SMALL_REGISTRY
        announced = self._announced_jobs(most) if is_delta_possible else None
        is_same_registry = full or registry_identity.check_same_registry(self._registry, self._connection)
        if announced is not None and is_same_registry:
            self._run_delta(announced, on_progress)
        else:
            self._run_full(on_progress, accepts_loss=full)
        self._bring_back_relatives()
        self.report.problems = [
            rows.Problem(*row)
            for row in self._connection.execute("SELECT key, kind, reason, version FROM problem ORDER BY key")
        ]

    def _run_delta(self, announced: set[str], on_progress: OnProgress | None) -> None:
        self.report.is_full = False
        delta = DeltaSync(self._registry, self._connection, self.report, self._generation)
        delta.run(announced, on_progress)
        with sync_state.transaction_if_latest(self._connection, self._generation, sync_state.SYNCED_GENERATION):
            delta.finish()
            self._note_foreign_records()
            self._complete()

    def _run_full(self, on_progress: OnProgress | None, *, accepts_loss: bool) -> None:
        is_rebuilt = self._last_full is None and self._last_sync is not None
        reread = accepts_loss or is_rebuilt
        full_sync = FullSync(self._registry, self._connection, self.report, self._generation, reread=reread)
        full_sync.run(on_progress)
        if not self.report.seen and not accepts_loss:
            registry_identity.check_not_emptied(self._connection, self._generation)
        full_sync.confirm_vanished()
        foreign = self._foreign_writes(full_sync.changed)
        with sync_state.transaction_if_latest(self._connection, self._generation, sync_state.FULL_GENERATION):
            full_sync.finish()
            sync_state.set_meta(
                self._connection,
                {
                    sync_state.FULL_SYNCED_AT: json_time(self.started),
                    sync_state.FULL_GENERATION: str(self._generation),
                    sync_state.FOREIGN_WRITES: foreign,
                },
            )
            self._note_foreign_records(is_known=foreign == "yes", all_rows=reread)
            if int(sync_state.get_meta(self._connection, sync_state.SYNCED_GENERATION) or 0) < self._generation:
                self._complete()

    def _bring_back_relatives(self) -> None:
        """Read the pruned jobs of the families of which the cache has a job: a family is pruned as one."""
        seen: set[str] = set()
        while relatives := pruning.pruned_relatives(self._connection) - seen:
            seen |= relatives
            report = SyncReport()
            delta = DeltaSync(self._registry, self._connection, report, self._generation)
            delta.run(relatives, None, returning=relatives)
            self.report.added += report.added

    def _foreign_writes(self, changed: set[str]) -> str:
        """Return whether a job has changed without an announcement, as `sync_state.FOREIGN_WRITES` has it.

        The announcements are listed after the jobs: a change that was announced meanwhile may be among those seen. If
        nothing has changed, they are not listed.
        """
        if self._known_jobs <= SMALL_REGISTRY or self._age(self._last_sync) is None:
            return ""
        changed = changed | self._jobs_read_since()
        announced = self._announced_jobs(announcements.MAX_NAMES) if changed else set()
        if announced is None:
            return ""
        return "yes" if changed - announced else "no"

    def _complete(self) -> None:
        # The data is as old as the begin of the listing, not its end.
        names = ("seen", "added", "changed", "unchanged", "removed", "fetched")
        counts: dict[str, float] = {"seconds": round(time.monotonic() - self._started_at, 3)}
        values = {
            sync_state.SYNCED_AT: json_time(self.started),
            sync_state.SYNCED_GENERATION: str(self._generation),
            sync_state.REGISTRY_FILE: self._file_to_note(),
            sync_state.LAST_SYNC: json.dumps(counts | {name: getattr(self.report, name) for name in names}),
            "last_error": "",
        }
        sync_state.set_meta(self._connection, values)
        registry_identity.remember_witnesses(self._connection, self._generation)
        if self._connection.execute("SELECT 1 FROM problem WHERE kind = ? LIMIT 1", (rows.UNREADABLE,)).fetchone():
            counters.add(self._connection, {(counters.SYNC_ERRORS, ("parse",)): 1})

    def _file_to_note(self) -> str:
        """Return the state of the file if the cache has all that the file had then; else empty: the next view syncs.

        A delta sync misses changes without announcements. A row that a command has written during this sync may be
        older than what this sync has read.
        """
        if not self._registry_file or not self.report.is_full:
            return ""
        sql = "SELECT 1 FROM job WHERE generation > ? LIMIT 1"
        return "" if self._connection.execute(sql, (self._generation,)).fetchone() else self._registry_file

    def _note_foreign_records(self, *, is_known: bool = False, all_rows: bool = False) -> None:
        """Store whether other programs write records, as far as known. The caller holds the transaction.

        Args:
            is_known: whether they are known to write.
            all_rows: look at all rows, not only at those since the last sync, and forget earlier findings.
        """
        if not (is_known or (self._has_foreign == "yes" and not all_rows)):
            since = 0 if all_rows or self._has_foreign is None else self._synced_generation
            # Only mops-jobs writes a `write_id`.
            sql = "SELECT 1 FROM job WHERE generation > ? AND json_extract(record, '$.write_id') IS NULL LIMIT 1"
            is_known = self._connection.execute(sql, (since,)).fetchone() is not None
        elif not is_known:
            return
        sync_state.set_meta(self._connection, {sync_state.FOREIGN_RECORDS: "yes" if is_known else "no"})

    def _jobs_read_since(self) -> set[str]:
        """Return the changed jobs whose records commands of this machine have read or written since the last sync."""
        sql = "SELECT job_id FROM job WHERE generation > ? AND generation < ? AND generation % 2 = 1"
        return {row[0] for row in self._connection.execute(sql, (self._synced_generation, self._generation))}

    def _announced_jobs(self, most: int) -> set[str] | None:
        """Return the jobs announced since the last complete sync; None if it is too long ago, or they are more.

        After they are listed, that sync must not be so long ago that announcements since then may have been removed.
        """
        if self._last_sync is None or self._age(self._last_sync) is None:
            return None
        jobs = announcements.announced_jobs(self._registry.store, self._last_sync, self._now(), most)
        # A laptop may have slept since this sync began, and announcements may have been removed meanwhile.
        return jobs if self._now() - self._last_sync <= announcements.max_sync_age() else None

    def _age(self, moment: datetime | None) -> timedelta | None:
        """Return how long ago a moment is; None if unknown, in the future, or longer ago than a full sync may be."""
        age = None if moment is None else self.started - moment
        return age if age is not None and timedelta() <= age <= MAX_FULL_SYNC_AGE else None

    def _time_of(self, name: str) -> datetime | None:
        text = sync_state.get_meta(self._connection, name)
        return parse_time(text) if text else None

    def _count_known(self) -> int:
        """Return the number of jobs that the cache knows, pruned ones included, at once: its sums have it."""
        sql = "SELECT (SELECT total(jobs) FROM tally) + (SELECT count(*) FROM pruned)"
        return int(self._connection.execute(sql).fetchone()[0])


def _failure_kind(error: StoreError) -> str:
    """Return the kind of failure that ended a sync, for counters."""
    if isinstance(error, StoreAccessError):
        return "auth"
    if isinstance(error, StoreUnavailableError):
        return "throttled" if error.throttled else "network"
    return "parse"

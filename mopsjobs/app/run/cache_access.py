"""Access to the local cache: read it as fresh as a view needs it, write it, sync it, and repair it if it is damaged.

A query may find the damage after its first rows. So `read`, `read_cached` and `write` take a function, which
`_with_repair` calls again over the rebuilt cache. The body of a `with` could not run twice. See
docs/decisions/0021-the-cache-file.md. Below it, context managers open the cache and know nothing of repairs.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime

from mopsjobs.app.run.config import Settings
from mopsjobs.app.run.embedded_registry import CacheLocation, EmbeddedRegistry
from mopsjobs.app.run.freshness import Freshness, FreshnessPolicy, never_synced_error
from mopsjobs.cache.database import (
    DamagedCacheError,
    cannot_write,
    check_is_cache,
    open_to_read,
    open_to_write,
    quarantine,
    translate_sqlite_errors,
)
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.console.printer import Printer
from mopsjobs.errors import CacheError, StoreError, StoreUnavailableError, command_line
from mopsjobs.utils import user_dirs
from mopsjobs.utils.times import parse_duration, parse_time

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import TypeVar

    from mopsjobs.cache.sync.chunks import ChunkReport
    from mopsjobs.cache.sync.lock import Holder
    from mopsjobs.cache.sync.records import OnProgress, SyncReport
    from mopsjobs.registry.job_registry import JobRegistry, TakeRecord
    from mopsjobs.store.base import Versioned, VersionedStore

    T = TypeVar("T")
    OpenToRead = Callable[[], contextlib.AbstractContextManager[sqlite3.Connection | None]]

MAX_LOCK_WAIT = 60.0
"""Seconds. How long a view that must be fresh waits for another sync."""


class CacheAccess:
    """The cache of one run."""

    def __init__(
        self,
        settings: Settings,
        out: Printer,
        *,
        location: CacheLocation,
        embedded: EmbeddedRegistry,
        open_registry: Callable[[], JobRegistry],
        now: Callable[[], datetime],
    ) -> None:
        """Prepare the access; nothing is opened yet.

        Args:
            settings: the settings of the run.
            out: takes the line that tells of a repair.
            location: where the cache is.
            embedded: refuses to forget a lost registry.
            open_registry: returns the registry that a sync reads, opened at the first call.
            now: the time, in UTC.
        """
        self._settings = settings
        self._out = out
        self._location = location
        self._embedded = embedded
        self._open_registry = open_registry
        self._now = now

    @property
    def path(self) -> str:
        """Return the path of the cache."""
        return self._location.path

    # --- read and write --------------------------------------------------------------------------------------

    def read(self, view: Callable[[sqlite3.Connection, Freshness], T], policy: FreshnessPolicy) -> T:
        """Call `view` with the cache and its age, after a sync if one is due.

        A sync is due if `policy` says so, or if the cache was never filled. It is also due if the registry is a file on
        this machine that has changed. If it fails, the view gets the old rows and their age, which has the exit code.
        `view` may be called twice: see the module's docstring.

        Raises:
            StoreError: if the cache was never filled, and the registry cannot be reached either.
            CacheError: if the cache cannot be used.
        """

        def attempt() -> T:
            with self._open_fresh(policy) as (connection, freshness):
                return view(connection, freshness)

        return self._with_repair(attempt, offline=policy.offline)

    def read_cached(
        self, view: Callable[[sqlite3.Connection], T], open_cache: OpenToRead | None = None, *, offline: bool = False
    ) -> T | None:
        """Call `view` with the cache, without a sync; return None if there is no cache.

        Args:
            view: reads the cache; may be called twice: see the module's docstring.
            open_cache: opens the cache in place of a new connection, as the page does, which keeps connections open.
            offline: leave a damaged cache where it is, since nothing will fill a new one.

        Raises:
            CacheError: if the cache cannot be used.
        """

        def attempt() -> T | None:
            with (open_cache or self._open_to_read)() as connection:
                return None if connection is None else view(connection)

        return self._with_repair(attempt, offline=offline)

    def write(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """Call `action` with the cache, open to write; create the cache if there is none.

        Raises:
            CacheError: if the cache cannot be used or created.
        """

        def attempt() -> T:
            self._embedded.protect_emptied_cache()
            opened = open_to_write(self.path, self._settings.registry_id)
            with contextlib.closing(opened) as connection, translate_sqlite_errors(self.path):
                return action(connection)

        return self._with_repair(attempt)

    def freshness(self, connection: sqlite3.Connection) -> Freshness | None:
        """Return the age of what the cache holds; None if it was never filled."""
        meta = job_queries.all_meta(connection)
        return self._freshness(meta, None) if "synced_at" in meta else None

    def check_writable(self) -> None:
        """Check that the cache can be written, by writing what is there already.

        Raises:
            CacheError: if it cannot be written or created.
        """
        if os.path.exists(self.path):
            self.write(lambda cache: cache.execute("UPDATE meta SET value = value WHERE name = 'registry'"))
            if not self._settings.is_local:
                from mopsjobs.cache.sync.lock import sync_lock

                with sync_lock(self.path, 0):
                    pass
        elif not user_dirs.can_be_created(os.path.dirname(self.path)):
            raise cannot_write(self.path, "its directory takes no files")

    def _with_repair(self, attempt: Callable[[], T], *, offline: bool = False) -> T:
        """Return `attempt()`; if it finds the cache damaged, set the cache aside and attempt once more.

        While an embedded registry is lost, the damaged cache stays: a new one would not know of the loss. It stays too
        if `offline` forbids to fill a new one: the next view would say that there never was one.
        """
        try:
            return attempt()
        except DamagedCacheError as error:
            if not self._location.is_default or os.path.islink(self.path):
                check_is_cache(self.path)
            if offline and not self._settings.is_local:
                error.hint = f"To fill a new one from the registry, run: {command_line('sync')}"
                raise
            self._embedded.refuse_lost()
            aside = quarantine(self.path, self._now().strftime("%Y%m%dT%H%M%S"))
            if aside is not None:
                self._out.warn(f"{error} Set aside as {aside}; rebuilding it.")
            return attempt()

    @contextlib.contextmanager
    def _open_to_read(self) -> Iterator[sqlite3.Connection | None]:
        """Open the cache to read; yield None if there is none."""
        connection = open_to_read(self.path, self._settings.registry_id)
        if connection is None:
            yield None
            return
        with contextlib.closing(connection), translate_sqlite_errors(self.path):
            yield connection

    @contextlib.contextmanager
    def _open_fresh(self, policy: FreshnessPolicy) -> Iterator[tuple[sqlite3.Connection, Freshness]]:
        """Sync if a sync is due, open the cache to read, and yield it with its age."""
        if not (policy.refresh or policy.sync):
            with self._open_to_read() as connection:
                meta = {} if connection is None else job_queries.all_meta(connection)
                if self._settings.is_local:
                    meta = self._embedded.notes_if_unchanged(meta, self._now())
                if connection is not None and self._is_fresh_enough(meta, policy):
                    yield connection, self._freshness(meta, None)
                    return
        failure = None
        if self._settings.is_local or not policy.offline:
            failure = self._freshen(scan=policy.needs_scan)
        with self._open_to_read() as connection:
            meta = {} if connection is None else job_queries.all_meta(connection)
            if connection is None or "synced_at" not in meta:
                raise failure or never_synced_error(f"Run: {command_line('sync')}")
            freshness = self._freshness(meta, failure)
            if failure is not None and policy.needs_scan:
                freshness.note_failed_refresh(failure)
            yield connection, freshness

    # --- age -------------------------------------------------------------------------------------------------

    def _is_fresh_enough(self, meta: Mapping[str, str], policy: FreshnessPolicy) -> bool:
        """Return whether a cache with these notes about itself needs no sync first."""
        if "synced_at" not in meta or policy.offline:
            return "synced_at" in meta
        if "full_synced_at" not in meta or policy.max_age is None:  # a rebuilt cache has no such note
            return "full_synced_at" in meta
        scanned_at = parse_time(meta["full_synced_at"])
        return 0 <= (self._now() - scanned_at).total_seconds() <= policy.max_age

    def _freshness(self, meta: Mapping[str, str], failure: StoreError | CacheError | None) -> Freshness:
        stale_after, is_local = parse_duration(self._settings.stale_after.value), self._settings.is_local
        problem = None if failure is None else str(failure)
        return Freshness(meta, self._now(), stale_after=stale_after, is_local=is_local, problem=problem)

    # --- sync ------------------------------------------------------------------------------------------------

    def sync(
        self, *, wait: float | None, full: bool = False, scan: bool = False, on_progress: OnProgress | None = None
    ) -> SyncReport | None:
        """Mirror the registry into the cache.

        Args:
            wait: seconds to wait for a sync that is already running; None to run beside it.
            full: see `mopsjobs.cache.sync.mirror.sync`, as for `scan`.
            scan: list the whole registry.
            on_progress: called with the number of jobs seen so far.

        Returns:
            What it did; None if another sync was running for longer than `wait`.

        Raises:
            StoreError: if the registry cannot be read.
            CacheError: if the cache cannot be written.
        """
        return self._with_repair(lambda: self._sync(wait, full=full, scan=scan, on_progress=on_progress))

    def sync_to_change(self, undone: str) -> None:
        """Mirror the whole registry: an old cache must not decide which jobs to change.

        Args:
            undone: what is said if it cannot be mirrored: `Nothing was cancelled.`

        Raises:
            StoreError: if the registry cannot be read, or another sync takes too long.
        """
        if self.sync(wait=None if self._settings.is_local else MAX_LOCK_WAIT, scan=True) is None:
            problem = self.other_sync_error()
            raise StoreUnavailableError(f"{problem} {undone}", hint=problem.hint)

    def sync_events(
        self, *, job_id: str | None = None, since: datetime | None = None, full: bool = False
    ) -> ChunkReport:
        """Mirror the events of the registry into the cache; see `mopsjobs.cache.sync.events.sync_events`."""
        from mopsjobs.cache.sync.events import sync_events

        return self.mirror_more(
            lambda store, cache: sync_events(store, cache, job_id=job_id, since=since, full=full, now=self._now)
        )

    def sync_ledger(self, job_id: str, *, full: bool = False) -> ChunkReport:
        """Mirror the attempts at the tasks of a job; see `mopsjobs.cache.sync.ledger.sync_ledger`."""
        from mopsjobs.cache.sync.ledger import sync_ledger

        return self.mirror_more(lambda store, cache: sync_ledger(store, cache, job_id, full=full, now=self._now))

    def sync_ledgers(self, *, full: bool = False) -> ChunkReport:
        """Mirror the attempts of all jobs that need it; see `mopsjobs.cache.sync.ledger.sync_ledgers`."""
        from mopsjobs.cache.sync.ledger import sync_ledgers

        return self.mirror_more(lambda store, cache: sync_ledgers(store, cache, full=full, now=self._now))

    def mirror_more(self, action: Callable[[VersionedStore, sqlite3.Connection], T]) -> T:
        """Call `action` with the store and the cache. It needs no lock, since concurrent calls are safe."""
        self._embedded.note_missing()
        return self.write(lambda cache: action(self._open_registry().store, cache))

    def sync_holder(self) -> Holder | None:
        """Return the sync that runs on this machine's cache now, if one does."""
        from mopsjobs.cache.sync.lock import find_holder

        return find_holder(self.path)

    def other_sync_error(self) -> StoreUnavailableError:
        """Return the error of a view that waited too long for another sync."""
        holder, now = self.sync_holder(), self._now()
        if holder is None:
            return StoreUnavailableError("Another sync has just ended.", hint="Try again.")
        hint = f"To go on, {holder.fix()}." if holder.is_stalled(now) else "Try again when it has ended."
        return StoreUnavailableError(f"{holder.describe_as_other(now)}.", hint=hint)

    def _freshen(self, *, scan: bool) -> StoreError | CacheError | None:
        """Sync for a view. Return the failure if the old rows may be shown nevertheless.

        Raises:
            DamagedCacheError: if the cache is damaged: it has no rows that may be shown.
        """
        try:
            # Two local syncs at once are safe, so no lock: its import would cost more than the sync.
            if self._sync(None if self._settings.is_local else MAX_LOCK_WAIT, scan=scan) is None:
                return self.other_sync_error()
        except DamagedCacheError:
            raise
        except (StoreError, CacheError) as error:  # a full or read-only disk can be read
            return error
        return None

    def _sync(
        self, wait: float | None, *, full: bool = False, scan: bool, on_progress: OnProgress | None = None
    ) -> SyncReport | None:
        """Sync once, without a repair; see `sync`."""
        self._embedded.note_missing()
        self._embedded.accepts_loss = full
        self._embedded.protect_emptied_cache()
        # Before the lock: Azure's SDK starts a program when it is opened (`uname`). That would inherit the lock, and
        # hold it for an instant longer than this process, should this process be killed.
        registry = self._open_registry()
        if wait is None:
            return self._mirror(registry, on_progress, full=full, scan=scan)
        from mopsjobs.cache.sync.lock import sync_lock

        with sync_lock(self.path, wait, self._now) as note_progress:
            if note_progress is None:
                return None

            def on_job(seen: int) -> None:
                note_progress()
                if on_progress is not None:
                    on_progress(seen)

            return self._mirror(registry, on_job, full=full, scan=scan)

    def _mirror(self, registry: JobRegistry, on_progress: OnProgress | None, *, full: bool, scan: bool) -> SyncReport:
        from mopsjobs.cache.sync import mirror

        return mirror.sync(
            registry,
            self.path,
            self._settings.registry_id,
            full=full,
            scan=scan,
            registry_file=self._embedded.state_to_note(registry.store, self._now()),
            on_progress=on_progress,
            now=self._now,
        )

    # --- what a run leaves in the cache ----------------------------------------------------------------------

    def observe(self, key: str) -> TakeRecord:
        """Return a function that puts the record of `key` into the cache, after a request to the registry.

        A failure does not spoil the request: the next sync brings the record.
        """
        job_id, before = self._open_registry().job_id_of(key), None
        assert job_id is not None  # noqa: S101 - the registry made this key from a job id
        with self._failures_ignored():
            if os.path.exists(self.path):
                from mopsjobs.cache.write_through import cached_version

                before = cached_version(self.path, self._settings.registry_id, job_id, key)

        def take(record: Versioned) -> None:
            with self._failures_ignored():
                self._write_through(job_id, key, record, before)

        return take

    def _write_through(self, job_id: str, key: str, record: Versioned, before: str | None) -> None:
        if record.version.value == before or not (os.path.exists(self.path) or self._embedded.needs_evidence()):
            return
        from mopsjobs.cache.write_through import write_through

        for relative in write_through(self.path, self._settings.registry_id, job_id, key, record, before):
            self._open_registry().get_job(relative)  # which takes it into the cache

    @contextlib.contextmanager
    def _failures_ignored(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the next sync brings a record; else only a count is missing
            self._out.debug(f"The cache did not take a change: {error}")

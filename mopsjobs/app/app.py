"""What a command works with: settings, registry, cache, clock and streams of one run, made when first asked for."""

from __future__ import annotations

import argparse
import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime

from mopsjobs.app.config import NO_HOME_ORIGIN, Settings
from mopsjobs.app.embedded_registry import EmbeddedRegistry
from mopsjobs.app.freshness import Freshness, FreshnessPolicy
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
from mopsjobs.errors import CacheError, StoreError, StoreUnavailableError
from mopsjobs.utils import user_dirs
from mopsjobs.utils.sqlite_file import file_names
from mopsjobs.utils.times import json_time, parse_duration, parse_time, utc_now

TYPE_CHECKING = False  # typing itself costs 3 ms, on the one path that must be instant

if TYPE_CHECKING:
    from typing import TypeVar

    from mopsjobs.cache.sync.batch import SyncReport
    from mopsjobs.cache.sync.events import EventsReport
    from mopsjobs.cache.sync.full import OnProgress
    from mopsjobs.cache.sync.lock import Holder
    from mopsjobs.registry.job_registry import JobRegistry
    from mopsjobs.store.base import VersionedStore, VersionToken

    T = TypeVar("T")
    Opened = Callable[[], contextlib.AbstractContextManager[sqlite3.Connection | None]]


LIST_VERSION = 1
"""Of the JSON document of `list`. Fields are only ever added, so it stays until one has to go."""


LOCK_SECONDS = 60.0
"""How long a view that must be fresh waits for a sync that somebody else has begun."""


class App:
    """One run of the command."""

    def __init__(
        self,
        settings: Settings,
        out: Printer,
        env: Mapping[str, str],
        build_parser: Callable[[], argparse.ArgumentParser],
        *,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.out = out
        self.env = env
        self.build_parser = build_parser
        """Makes the parser of the whole command line, for what describes it."""
        self.now = now
        self.sleep = sleep
        self.monotonic = monotonic
        self._store: VersionedStore | None = None
        self._registry: JobRegistry | None = None
        self._cache_path: str | None = None
        self.embedded = EmbeddedRegistry(settings, lambda: self.cache_path, out)
        """The registry as a file, where it is one."""

    @property
    def cache_path(self) -> str:
        """Where the cache is: where the settings say, or in a private directory where there is no writable home.

        A cache in a home that cannot be written is used: it can be read.
        """
        if self._cache_path is None:
            path, origin = self.settings.cache.value, self.settings.cache.origin
            is_lost = origin == "default" and not os.path.exists(path)
            if origin == NO_HOME_ORIGIN or (is_lost and not user_dirs.can_be_created(os.path.dirname(path))):
                path = os.path.join(user_dirs.private_directory(), os.path.basename(path))
                self.out.note(f"There is no writable home; the cache is {path}")
            self._cache_path = path
        return self._cache_path

    def own_files(self) -> list[str]:
        """The files that registry and cache are, or may come to be, on this machine."""
        paths = [path for path in (self.cache_path, self.embedded.path) if path is not None]
        every = [*paths, *map(os.path.realpath, paths)]
        return [name for path in every for name in (*file_names(path), path + ".lock")]

    @property
    def store(self) -> VersionedStore:
        """The store of the registry, opened once."""
        if self._store is None:
            from mopsjobs.store import open_store

            self._store = open_store(self.settings.registry.value, self.env, when_missing=self.embedded.refuse_lost)
        return self._store

    @property
    def registry(self) -> JobRegistry:
        """The registry. What it writes goes into the cache too, and leaves an event."""
        if self._registry is None:  # made once: it remembers what it has announced
            from mopsjobs.registry.job_registry import JobRegistry

            self._registry = JobRegistry(self.store, now=self.now, sleep=self.sleep, on_write=self._after_write)
        return self._registry

    def close(self) -> None:
        """Release what was opened."""
        if self._registry is not None and self._registry.conflicts:
            self._count_conflicts(self._registry.conflicts)
        if self._store is not None:
            self._store.close()

    # --- the cache -------------------------------------------------------------------------------------------

    def read(self, view: Callable[[sqlite3.Connection, Freshness], T], wanted: FreshnessPolicy) -> T:
        """Call `view` with the cache and its age, after a sync if one is called for.

        A listing is silent on the network, except: `wanted` says otherwise; the cache has never been filled; or the
        registry lives on this machine, where reading it fresh costs nothing. A sync that fails does not take away what
        is there: the view gets the old rows, and says so.

        Raises:
            StoreError: the cache has never been filled, and the registry cannot be reached either.
            CacheError: the cache cannot be used.
        """
        return self._with_repair(lambda: self._read(view, wanted))

    def read_cached(self, view: Callable[[sqlite3.Connection], T], opened: Opened | None = None) -> T | None:
        """Call `view` with the cache as it lies, without a sync; None when there is no cache.

        `opened` stands in for a connection of its own; whoever looks again and again keeps one.
        """

        def look() -> T | None:
            with (opened or self._opened)() as connection:
                return None if connection is None else view(connection)

        return self._with_repair(look)

    def check_cache(self) -> None:
        """Find out whether the cache can be written, by writing what is there already.

        Raises:
            CacheError: it cannot, or not be made.
        """
        if os.path.exists(self.cache_path):
            self.write_cache(lambda cache: cache.execute("UPDATE meta SET value = value WHERE name = 'registry'"))
            if not self.settings.is_local:
                from mopsjobs.cache.sync.lock import sync_lock

                with sync_lock(self.cache_path, 0):
                    pass
        elif not user_dirs.can_be_created(os.path.dirname(self.cache_path)):
            raise cannot_write(self.cache_path, "its directory takes no files")

    def freshness(self, connection: sqlite3.Connection) -> Freshness | None:
        """How old what the cache holds is; None when it has never been filled."""
        known = job_queries.all_meta(connection)
        return self._freshness(known, None) if "synced_at" in known else None

    def listing(self, page: job_queries.JobList, freshness: Freshness) -> dict[str, object]:
        """The JSON document of a listing, all but its jobs, which come last in it."""
        return {
            "schema_version": LIST_VERSION,
            "generated_at": json_time(self.now()),
            "synced_at": freshness.synced_at,
            "age_seconds": freshness.age_seconds,
            "stale": freshness.stale,
            "registry": self.settings.registry_id,
            "registry_from": self.settings.registry.origin,
            "total": page.total,
            "returned": len(page),
        }

    def write_cache(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """Call `action` with the cache, open to write; it is made if there is none."""

        def act() -> T:
            self.embedded.keep_emptied()
            opened = open_to_write(self.cache_path, self.settings.registry_id)
            with contextlib.closing(opened), translate_sqlite_errors(self.cache_path):
                return action(opened)

        return self._with_repair(act)

    def _with_repair(self, action: Callable[[], T]) -> T:
        """`action`; once more if it finds the cache damaged, after setting that aside.

        Not while an embedded registry is gone: a new cache would know nothing of it, and nobody would miss it.
        """
        try:
            return action()
        except DamagedCacheError as error:
            if self.settings.cache.origin != "default" or os.path.islink(self.cache_path):
                check_is_cache(self.cache_path)
            self.embedded.refuse_lost()
            aside = quarantine(self.cache_path, self.now().strftime("%Y%m%dT%H%M%S"))
            if aside is not None:
                self.out.warn(f"{error} Set aside as {aside}; rebuilding it.")
            return action()

    def _read(self, view: Callable[[sqlite3.Connection, Freshness], T], wanted: FreshnessPolicy) -> T:
        failure: StoreError | CacheError | None = None
        if not (wanted.refresh or self.settings.is_local):
            with self._opened() as connection:
                known = {} if connection is None else job_queries.all_meta(connection)
                if connection is not None and self._will_do(known.get("synced_at"), wanted):
                    return view(connection, self._freshness(known, None))
        if not wanted.offline or self.settings.is_local:
            failure = self._freshen()
        with self._opened() as connection:
            known = {} if connection is None else job_queries.all_meta(connection)
            if connection is None or "synced_at" not in known:
                raise failure or StoreUnavailableError(
                    "The registry has never been synced to this machine.", hint="Run: mops-jobs sync"
                )
            return view(connection, self._freshness(known, failure))

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection | None]:
        connection = open_to_read(self.cache_path, self.settings.registry_id)
        if connection is None:
            yield None
            return
        with contextlib.closing(connection), translate_sqlite_errors(self.cache_path):
            yield connection

    def _will_do(self, synced_at: str | None, wanted: FreshnessPolicy) -> bool:
        """Whether a cache of that age is fresh enough for a view with these wishes."""
        may_be_old = wanted.offline or wanted.max_age is None
        return synced_at is not None and (may_be_old or 0 <= self._age(synced_at) <= (wanted.max_age or 0.0))

    def _freshen(self) -> StoreError | CacheError | None:
        """Sync. Returns the failure, if it failed and old rows may do."""
        try:
            # Two local syncs at once do each other no harm; so no lock, whose import would cost more than the sync.
            if self.sync(wait=None if self.settings.is_local else LOCK_SECONDS) is None:
                return self.held_up()
        except DamagedCacheError:
            raise
        except (StoreError, CacheError) as error:  # a disk that is full, or read-only, can be read
            return error
        return None

    def held_up(self) -> StoreUnavailableError:
        """What to say where another sync held the lock for longer than a view waits."""
        holder, now = self.sync_holder(), self.now()
        if holder is None:
            return StoreUnavailableError("Another sync has just ended.", hint="Try again.")
        hint = f"To go on, {holder.fix()}." if holder.is_stalled(now) else "Try again when it has ended."
        return StoreUnavailableError(f"Another sync is running{holder.described(now)}.", hint=hint)

    def _freshness(self, known: Mapping[str, str], failure: StoreError | CacheError | None) -> Freshness:
        age = self._age(known["synced_at"])
        late = age < 0 or age > parse_duration(self.settings.stale_after.value)
        return Freshness(
            synced_at=known["synced_at"],
            age_seconds=round(max(age, 0.0), 3),
            is_ahead=age < 0,
            stale=failure is not None or (late and not self.settings.is_local) or bool(known.get("last_error")),
            is_local=self.settings.is_local and failure is None,
            problem=None if failure is None else str(failure),
            sync_failed=failure is not None or bool(known.get("last_error")),
        )

    def _age(self, synced_at: str) -> float:
        return (self.now() - parse_time(synced_at)).total_seconds()

    def sync(
        self, *, wait: float | None, full: bool = False, on_progress: OnProgress | None = None
    ) -> SyncReport | None:
        """Mirror the registry into the cache.

        Args:
            wait: seconds to wait for a sync that is already running; None to run beside it.
            full: see `mopsjobs.cache.sync.mirror.sync`.
            on_progress: called with the number of jobs seen so far.

        Returns:
            What it did; None when another sync was running for longer than `wait`.
        """
        return self._with_repair(lambda: self._sync(wait, full=full, on_progress=on_progress))

    def _sync(self, wait: float | None, *, full: bool, on_progress: OnProgress | None) -> SyncReport | None:
        self.embedded.tell_missing()
        self.embedded.is_believed_missing = full
        self.embedded.keep_emptied()
        # Before the lock: Azure's SDK starts a program when it is opened (`uname`), which would inherit the lock, and
        # hold it for an instant longer than this process, should that be killed.
        registry = self.registry
        if wait is None:
            return self._mirror(registry, on_progress, full=full)
        from mopsjobs.cache.sync.lock import sync_lock

        with sync_lock(self.cache_path, wait, self.now) as progressed:
            if progressed is None:
                return None

            def tell(seen: int) -> None:
                progressed()
                if on_progress is not None:
                    on_progress(seen)

            return self._mirror(registry, tell, full=full)

    def _mirror(self, registry: JobRegistry, on_progress: OnProgress | None, *, full: bool) -> SyncReport:
        from mopsjobs.cache.sync.mirror import sync

        path, registry_id = self.cache_path, self.settings.registry_id
        return sync(registry, path, registry_id, full=full, on_progress=on_progress, now=self.now)

    def sync_holder(self) -> Holder | None:
        """The sync that runs on this machine's cache now, if one does."""
        from mopsjobs.cache.sync.lock import find_holder

        return find_holder(self.cache_path)

    def sync_events(
        self, *, job_id: str | None = None, since: datetime | None = None, full: bool = False
    ) -> EventsReport:
        """Mirror the events of the registry into the cache; see `mopsjobs.cache.sync.events.sync_events`.

        No lock: several at once do each other no harm.
        """
        from mopsjobs.cache.sync.events import sync_events

        self.embedded.tell_missing()
        return self.write_cache(
            lambda cache: sync_events(self.store, cache, job_id=job_id, since=since, full=full, now=self.now)
        )

    def _after_write(self, key: str, value: bytes, version: VersionToken) -> None:
        """What follows each write of a record: this machine's cache has it at once, and an event tells everybody."""
        from mopsjobs.events.writer import record_state

        self._write_through(key, value, version)
        if not record_state(self.store, value, now=self.now):
            self.out.debug("The registry took the write, but not the event that tells of it.")

    def _write_through(self, key: str, value: bytes, version: VersionToken) -> None:
        """Show this machine its own writes at once. A cache that cannot be written must not spoil the write."""
        try:
            if not (self.embedded.needs_trace() if self.settings.is_local else os.path.exists(self.cache_path)):
                return
            from mopsjobs.cache.sync.mirror import write_through

            job_id = self.registry.job_id_of(key)
            assert job_id is not None  # noqa: S101 - the registry made this key from a job id
            write_through(self.cache_path, self.settings.registry_id, job_id, key, value, version)
        except Exception as error:  # noqa: BLE001 - the next sync brings it; the job's record is what counts
            self.out.debug(f"The cache did not take the write: {error}")

    def _count_conflicts(self, conflicts: Mapping[str, int]) -> None:
        """Add lost races to the counters of the cache. It must not spoil what the run has done."""
        from mopsjobs.cache.counters import add_conflicts

        try:
            if os.path.exists(self.cache_path):
                self.write_cache(lambda cache: add_conflicts(cache, conflicts))
        except Exception as error:  # noqa: BLE001 - it is a count, and no more
            self.out.debug(f"The cache did not take the count of lost races: {error}")

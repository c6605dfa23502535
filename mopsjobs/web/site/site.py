"""The state that all request handlers share: the app, the changes, the rendered pages, the age of the data."""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeVar

from mopsjobs.app.following.notify.notifier import CacheNotifier
from mopsjobs.app.origins.provenance import Provenance
from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import Freshness, never_synced_error
from mopsjobs.app.tasks.failures import keep_job_failures
from mopsjobs.app.tasks.journals import mirror_journal
from mopsjobs.cache import sync_state
from mopsjobs.cache.database import is_current, open_to_read, translate_sqlite_errors
from mopsjobs.cache.queries.jobs import find_job
from mopsjobs.errors import MopsJobsError, command_line
from mopsjobs.utils.sqlite_file import FileIdentity, file_identity
from mopsjobs.utils.times import parse_duration
from mopsjobs.web.site.background import ChangeSignal, RenderedPage, Syncer, cache_state
from mopsjobs.web.site.job_reads import FAILURES, JOURNAL, OUTPUT, PROVENANCE, RESULTS, JobReads
from mopsjobs.web.site.kept import (
    MAX_JOBS,
    MAX_KEPT_BYTES,
    MAX_OUTPUTS,
    KeptOutput,
    Results,
    read_kept_output,
    read_provenance,
    read_results,
)
from mopsjobs.web.site.memo import LastUsed, Memo

T = TypeVar("T")

MAX_PAGES = 64

MAX_PAGE_AGE = 2.0
"""Seconds until a page is rendered again without a change, since it shows durations."""

MAX_IDLE = 4
"""Idle connections, at most; each may hold 2 MB of the file. Few requests come at the same time."""


class ConnectionPool:
    """Connections to one cache, each used by one request at a time. To open one costs a fifth of the page of jobs."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._idle: list[tuple[FileIdentity | None, sqlite3.Connection]] = []

    @contextlib.contextmanager
    def acquire(self) -> Iterator[sqlite3.Connection | None]:
        """Yield a read-only connection; None if there is no cache. After an error, it is closed."""
        path = self._app.cache.path
        with translate_sqlite_errors(path), contextlib.ExitStack() as stack:
            file = None
            with contextlib.suppress(OSError):
                file = file_identity(path)
            connection = self._take(file) or open_to_read(path, self._app.settings.registry_id)
            if connection is None:
                yield None
                return
            stack.callback(connection.close)
            connection.execute("BEGIN")  # all that a page shows is of one moment
            yield connection
            connection.rollback()
            if len(self._idle) < MAX_IDLE:
                stack.pop_all()
                self._idle.append((file, connection))

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop()[1].close()

    def _take(self, file: FileIdentity | None) -> sqlite3.Connection | None:
        """Return an idle connection to that file; a cache that was replaced is another file."""
        with contextlib.suppress(IndexError):  # other threads take them too
            while True:
                opened, connection = self._idle.pop()  # the last used one has the most in memory
                if opened == file is not None and is_current(connection):
                    return connection
                connection.close()
        return None


class Site:
    """The state of a server."""

    def __init__(
        self, app: App, changes: ChangeSignal, syncer: Syncer | None = None, *, user: str | None = None
    ) -> None:
        self.app = app
        self.user = user
        """Who runs a server for this machine alone; None if other people may send requests."""
        self.changes = changes
        self.syncer = syncer
        """None if the server does not sync."""
        self.reads: JobReads | None = None
        """None if the server never uses the network."""
        self.results: LastUsed[Results] = LastUsed(MAX_JOBS, MAX_KEPT_BYTES, lambda one: one.held)
        self.provenances: LastUsed[Provenance] = LastUsed(MAX_JOBS)
        self.outputs: LastUsed[KeptOutput] = LastUsed(MAX_OUTPUTS)
        """By job, number of the task, and name of the output."""
        self.readers = ConnectionPool(app)
        self.pages: Memo[RenderedPage] = Memo(app.monotonic, MAX_PAGES)

    def rendered(
        self, key: str, render: Callable[[], str], *, max_age: float = MAX_PAGE_AGE, follows: bool = True
    ) -> RenderedPage:
        """Return a page; render it again if it is too old or, unless it does not follow, if the cache has changed.

        Args:
            key: names the page.
            render: renders it.
            max_age: seconds.
            follows: whether a change of the cache is shown at once.
        """
        state = self.state() if follows else None  # read first: a change meanwhile makes the page old at once
        return self.pages.get(key, state, lambda: RenderedPage(render()), max_age=max_age, max_share=math.inf)

    def state(self) -> Hashable:
        """Return a value that differs after each change of what pages show."""
        return self.changes.number, cache_state(self.app.cache.path)

    def prepare_syncs(self, every: float) -> None:
        """Make the thread that syncs regularly, and reads between syncs what pages ask for.

        Args:
            every: seconds between two syncs.
        """
        self.reads = self.make_reads()
        self.syncer = Syncer(self.app, self.changes, every, self.reads.run_next, CacheNotifier(self.app).tell_at_once)

    def make_reads(self) -> JobReads:
        """Return what reads the jobs that pages ask for."""
        actions: dict[str, Callable[..., object]] = {
            FAILURES: lambda job_id: keep_job_failures(job_id, self.app),
            RESULTS: lambda job_id: self.results.put(job_id, read_results(job_id, self.app)),
            PROVENANCE: lambda job_id: self.provenances.put(job_id, read_provenance(job_id, self.app)),
            JOURNAL: lambda job_id: mirror_journal(job_id, self.app),
            OUTPUT: self._read_output,
        }
        return JobReads(self.app, self.changes, actions)

    def _read_output(self, job_id: str, number: str, name: str) -> None:
        kept = read_kept_output(job_id, number, name, self.app)
        for one in {name, kept.output.name or name}:  # a link to the file has its name
            self.outputs.put((job_id, number, one), kept)

    def read_cached(self, view: Callable[[sqlite3.Connection], T]) -> T | None:
        """Return what `view` returns for the cache, read-only; None if there is no cache.

        Raises:
            CacheError: if the cache cannot be used.
        """
        return self.app.cache.read_cached(view, self.readers.acquire)

    def read(self, view: Callable[[sqlite3.Connection, Freshness], T]) -> T:
        """Return what `view` returns for the cache, read-only, and its age.

        Raises:
            StoreUnavailableError: if the registry was never synced.
            CacheError: if the cache cannot be used.
        """

        def view_with_age(connection: sqlite3.Connection) -> T | None:
            freshness = self.app.cache.freshness(connection)
            return None if freshness is None else view(connection, freshness)

        result = self.read_cached(view_with_age)
        if result is None:
            waiting = "The first sync is still running, or it failed."
            raise never_synced_error(f"Run: {command_line('sync')}" if self.syncer is None else waiting)
        return result

    def read_job(self, job_id: str, view: Callable[[sqlite3.Connection, dict[str, Any], float], T]) -> T:
        """Return what `view` returns for the cache, a job, and the time in seconds since 1970. Raise as `read`."""

        def view_job(connection: sqlite3.Connection, _freshness: Freshness) -> T:
            now = self.app.now().timestamp()
            return view(connection, find_job(connection, job_id, now=now), now)

        return self.read(view_job)

    def header(self) -> dict[str, Any]:
        """Return the age of the data, for the head of a page; if the cache cannot be used, say why."""
        try:
            found = self.read_cached(lambda cache: self.header_of(cache, self.app.cache.freshness(cache)))
            return found or self._header(None, None)
        except MopsJobsError as error:
            unusable = {"synced": "the cache cannot be used", "problem": str(error), "notice": str(error)}
            return self._header(None, None) | unusable

    def header_of(self, connection: sqlite3.Connection, freshness: Freshness | None) -> dict[str, Any]:
        """Return the same, for a connection and its freshness."""
        return self._header(freshness, sync_state.get_meta(connection, "last_error"))

    def _header(self, freshness: Freshness | None, last_error: str | None) -> dict[str, Any]:
        """Return text and figures for the head of a page.

        `synced` has the `ages` in words, in their order. `stale_in` is after how many seconds the data becomes stale.
        """
        problem = (None if self.syncer is None else self.syncer.problem) or last_error or None
        stale_after = parse_duration(self.app.settings.stale_after.value)
        ages: list[float] = []
        is_late, stale_in = True, None
        if freshness is not None:
            foreign_age = freshness.foreign_age_seconds
            ages = [freshness.sync_age_seconds, *([] if foreign_age is None else [foreign_age])]
            # Also for an embedded registry: commands read it live, but a server shows its last sync.
            is_late = freshness.is_ahead or freshness.sync_age_seconds > stale_after
            stale_in = stale_after - (ages[0] if self.app.settings.is_local else ages[-1])
        return {
            "synced": "never synced" if freshness is None else freshness.describe_sync(),
            "ages": ages,
            "synced_at": None if freshness is None else freshness.synced_at,
            "age_seconds": None if freshness is None else freshness.age_seconds,
            "stale_in": stale_in,
            "stale": freshness is None or freshness.stale or is_late or problem is not None,
            "problem": problem,
            "notice": None if problem is None else f"Last sync failed: {problem}",
        }

"""Watch the cache and keep it fresh, once for all browsers: threads, the signal of a change, and rendered pages.

A page is rendered once per change, for any number of browsers, and a browser that asks late finds the newest state. See
docs/decisions/0028-page-server.md.
"""

from __future__ import annotations

import contextlib
import functools
import re
import sqlite3
import threading
from collections.abc import Callable

from mopsjobs.app.jobs.current_jobs import read_current
from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import FreshnessPolicy
from mopsjobs.cache.database import open_to_read
from mopsjobs.errors import MopsJobsError
from mopsjobs.utils.sqlite_file import FileIdentity, file_identity

POLL_SECONDS = 0.5
"""Seconds between two checks of the cache. A check is a pragma of some microseconds."""

MAX_WAIT_SECONDS = 1.0
"""How often a thread that waits for work checks that the server goes on."""

MAX_SHARE = 0.1
"""The share of time for syncs, at most: a large embedded registry is then synced less often."""


_COUNTED = re.compile(r'(<time [^>]*>)[^<]*(?=</time>)|<p id="fresh".*?</p>', re.DOTALL)
"""What the script of a page counts, or reads from a header. Jinja escapes each `<` and `>` of a value."""


class ChangeSignal:
    """Counts the changes of the cache, and lets threads wait for the next one."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._number = 0
        self.is_over = False

    @property
    def number(self) -> int:
        """Return the number of changes so far."""
        return self._number

    def add(self) -> None:
        """Count a change, and wake all threads that wait."""
        with self._condition:
            self._number += 1
            self._condition.notify_all()

    def end(self) -> None:
        """Wake all threads that wait, since the server is ending."""
        with self._condition:
            self.is_over = True
            self._condition.notify_all()

    def wait(self, seen: int, seconds: float) -> int:
        """Wait for more changes than `seen`, up to `seconds`. Return the number of changes."""
        with self._condition:
            self._condition.wait_for(lambda: self._number > seen or self.is_over, seconds)
            return self._number


class Watcher(threading.Thread):
    """Detects changes of the cache: by this process, a sync from cron, a command on this machine."""

    def __init__(self, app: App, changes: ChangeSignal) -> None:
        super().__init__(name="watcher", daemon=True)
        self._app = app
        self._changes = changes
        self._connection: sqlite3.Connection | None = None
        self._file: FileIdentity | None = None

    def run(self) -> None:
        """Check until the server ends."""
        seen: object = None
        while not self._changes.is_over:
            version = self._read_version()
            if version != seen:
                seen = version
                self._changes.add()
            self._changes.wait(1 << 62, POLL_SECONDS)
        self._close()

    def _read_version(self) -> object:
        """Return a value that differs after each change. A cache that was replaced is another file."""
        try:
            file = file_identity(self._app.cache.path)
            if file != self._file:
                self._close()
                self._connection = open_to_read(self._app.cache.path, self._app.settings.registry_id)
                self._file = file
            if self._connection is None:
                return None
            return (self._file, self._connection.execute("PRAGMA data_version").fetchone()[0])
        except (OSError, sqlite3.Error, MopsJobsError):
            self._close()
            return None

    def _close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection, self._file = None, None


class Syncer(threading.Thread):
    """Syncs the cache regularly. Pages show the error of a failed sync, until the next one succeeds."""

    def __init__(
        self,
        app: App,
        changes: ChangeSignal,
        every: float,
        between: Callable[[float], object] | None = None,
        after: Callable[[], None] | None = None,
    ) -> None:
        """Prepare.

        Args:
            app: the run.
            changes: counts a change of the problem, and tells when the server ends.
            every: seconds between two syncs.
            between: what to do meanwhile: called with the seconds that it may wait for work.
            after: called after each complete sync; it has to return at once.
        """
        super().__init__(name="syncer", daemon=True)
        self._between = between or (lambda seconds: changes.wait(1 << 62, seconds))
        self._app = app
        self._changes = changes
        self._every = every
        self._after = after
        self.problem: str | None = None
        """Why the last sync failed; None if it did not."""

    def run(self) -> None:
        """Sync until the server ends."""
        while not self._changes.is_over:
            started_at = self._app.monotonic()
            problem = self._sync()
            if problem != self.problem:
                if problem is not None:
                    self._app.out.warn(problem)
                self.problem = problem
                self._changes.add()
            spent = self._app.monotonic() - started_at
            next_at = self._app.monotonic() + max(self._every, spent * (1 / MAX_SHARE - 1))
            while (left := next_at - self._app.monotonic()) > 0 and not self._changes.is_over:
                self._between(min(left, MAX_WAIT_SECONDS))

    def _sync(self) -> str | None:
        try:
            # Wait for another sync of an embedded registry, as commands do. Elsewhere, a running sync is enough.
            report = self._app.cache.sync(wait=None if self._app.settings.is_local else 0.0)
            holder, now = (self._app.cache.sync_holder() if report is None else None), self._app.now()
            if holder is not None and holder.is_stalled(now):
                return f"{holder.describe_as_other(now)}."
            read_current(self._app, lambda _cache, _freshness: None, FreshnessPolicy())
            self._app.cache.sync_events()
            self._app.cache.sync_ledgers()
            if self._after is not None and report is not None:
                self._after()
        except MopsJobsError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - the server goes on after any error, and shows it
            return f"Unexpected: {type(error).__name__}: {error}"
        return None


class RenderedPage:
    """The text of a page."""

    def __init__(self, text: str) -> None:
        self.text = text

    @functools.cached_property
    def version(self) -> str:
        """Return a name for what it shows, but for the time. Another process names the same text otherwise."""
        shown = _COUNTED.sub(r"\1", self.text)
        return f"{hash(shown) & (1 << 64) - 1:x}"

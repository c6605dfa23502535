"""One look at the cache for all browsers: a thread that sees it change, one that keeps it fresh, and what waits for it.

A stream holds no queue. It waits for the number of the last change, and then reads for itself what is new; a browser
that is slow, or was away, finds the newest state, and costs no memory meanwhile. Pages are made once for each change,
however many browsers ask for them.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable

from mopsjobs.app.app import App
from mopsjobs.cache.database import open_to_read
from mopsjobs.errors import MopsJobsError
from mopsjobs.utils.sqlite_file import FileIdentity, file_identity

POLL_SECONDS = 0.5
"""Between two looks at the cache. One is a pragma, some microseconds."""


MAX_SHARE = 0.1
"""Of its time that the thread spends in syncs, at most: a large embedded registry is then synced less often."""


KEPT_PAGES = 64


MAX_PAGE_AGE = 5.0
"""Seconds. A page tells how long things take, so it does not stay right when nothing changes."""


class ChangeSignal:
    """The number of changes of the cache seen so far, and a way to wait for the next one."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._number = 0
        self.is_over = False
        """Whether the server is about to end."""

    @property
    def number(self) -> int:
        """How many there were."""
        return self._number

    def add(self) -> None:
        """Tell everybody of a change."""
        with self._condition:
            self._number += 1
            self._condition.notify_all()

    def end(self) -> None:
        """Tell everybody that there will be no more."""
        with self._condition:
            self.is_over = True
            self._condition.notify_all()

    def wait(self, seen: int, seconds: float) -> int:
        """Wait until there were more than `seen`, for so many seconds at most. Returns how many there were."""
        with self._condition:
            self._condition.wait_for(lambda: self._number > seen or self.is_over, seconds)
            return self._number


class Watcher(threading.Thread):
    """Looks whether anybody has changed the cache: this process, a sync from cron, a command on this machine."""

    def __init__(self, app: App, changes: ChangeSignal) -> None:
        super().__init__(name="watcher", daemon=True)
        self._app = app
        self._changes = changes
        self._connection: sqlite3.Connection | None = None
        self._file: FileIdentity | None = None

    def run(self) -> None:
        """Look until the end."""
        seen: object = None
        while not self._changes.is_over:
            now = self._look()
            if now != seen:
                seen = now
                self._changes.add()
            self._changes.wait(1 << 62, POLL_SECONDS)
        self._close()

    def _look(self) -> object:
        """What is another value after each change. A cache that was set aside and made anew is another file."""
        try:
            found = file_identity(self._app.cache.path)
            if found != self._file:
                self._close()
                self._connection = open_to_read(self._app.cache.path, self._app.settings.registry_id)
                self._file = found
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
    """Keeps the cache fresh. What goes wrong is shown, and tried again."""

    def __init__(self, app: App, changes: ChangeSignal, every: float) -> None:
        super().__init__(name="syncer", daemon=True)
        self._app = app
        self._changes = changes
        self._every = every
        self.problem: str | None = None
        """Why the last sync has failed; None when it has not."""

    def run(self) -> None:
        """Sync until the end."""
        while not self._changes.is_over:
            begun = self._app.monotonic()
            problem = self._sync()
            if problem != self.problem:
                if problem is not None:
                    self._app.out.warn(problem)
                self.problem = problem
                self._changes.add()
            spent = self._app.monotonic() - begun
            end = self._app.monotonic() + max(self._every, spent * (1 / MAX_SHARE - 1))
            while (left := end - self._app.monotonic()) > 0 and not self._changes.is_over:
                self._changes.wait(1 << 62, left)

    def _sync(self) -> str | None:
        try:
            # As a view of an embedded registry does; elsewhere, a sync that is already running will do.
            report = self._app.cache.sync(wait=None if self._app.settings.is_local else 0.0)
            holder, now = (self._app.cache.sync_holder() if report is None else None), self._app.now()
            if holder is not None and holder.is_stalled(now):
                return f"Another sync is running{holder.describe(now)}."
            self._app.cache.sync_events()
        except MopsJobsError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the page goes on, and shows it
            return f"Unexpected: {type(error).__name__}: {error}"
        return None


class PageCache:
    """Pages as they were made last, each for the state of the cache that it shows."""

    def __init__(self, changes: ChangeSignal, monotonic: Callable[[], float]) -> None:
        self._changes = changes
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._made: OrderedDict[str, _Page] = OrderedDict()

    def get(self, key: str, make: Callable[[int], str], *, max_age: float = MAX_PAGE_AGE) -> str:
        """The page under `key`, made anew if the cache has changed since, or the page is too old.

        `make` is told the number of the last change. Whoever else wants the page meanwhile waits for it.
        """
        with self._lock:
            page = self._made.setdefault(key, _Page())
            self._made.move_to_end(key)
            while len(self._made) > KEPT_PAGES:
                self._made.popitem(last=False)
        with page.lock:
            number = self._changes.number  # before the page is made: a change meanwhile makes it old at once
            if page.text is None or page.number != number or self._monotonic() - page.at > max_age:
                page.text = make(number)
                page.number, page.at = number, self._monotonic()
            return page.text


class _Page:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.text: str | None = None
        self.number = -1
        self.at = 0.0

"""Keep the cache fresh, once for all browsers: the thread that syncs, signs of a change, and rendered pages.

A page is rendered once per change, for any number of browsers, and a browser that asks late finds the newest state. See
docs/decisions/0028-page-server.md.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import threading
from collections.abc import Callable, Hashable

from mopsjobs.app.jobs.current_jobs import read_current
from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import FreshnessPolicy
from mopsjobs.errors import MopsJobsError

MAX_WAIT_SECONDS = 1.0
"""How often a thread that waits for work checks that the server goes on."""

MAX_SHARE = 0.1
"""The share of time for syncs, at most: a large embedded registry is then synced less often."""


_COUNTED = re.compile(r'(<time [^>]*>)[^<]*(?=</time>)|<p id="fresh".*?</p>', re.DOTALL)
"""What the script of a page counts, or reads from a header. Jinja escapes each `<` and `>` of a value."""


class ChangeSignal:
    """Counts the changes of what the server keeps in memory, and says when the server ends."""

    def __init__(self) -> None:
        self.number = 0
        self.is_over = False

    def add(self) -> None:
        """Count a change."""
        self.number += 1


def cache_state(path: str) -> Hashable:
    """Return a value that differs after each write to the cache, also one by another process, and for another file."""
    found = []
    for name in (path, f"{path}-wal"):
        with contextlib.suppress(OSError):
            file = os.stat(name)
            found += (
                [(file.st_ino, file.st_mtime_ns, file.st_size)] if file.st_size else []
            )  # a reader makes an empty WAL
    return tuple(found)


class Syncer(threading.Thread):
    """Syncs the cache regularly. Pages show the error of a failed sync, until the next one succeeds."""

    def __init__(
        self,
        app: App,
        changes: ChangeSignal,
        every: float,
        between: Callable[[float], object],
        after: Callable[[], None],
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
        self._between = between
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
            if report is not None:
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

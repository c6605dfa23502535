"""What all handlers work with: the run, the changes, the pages that are made, and how old the data is."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

from mopsjobs.app.app import App
from mopsjobs.app.freshness import Freshness
from mopsjobs.cache import sync_state
from mopsjobs.errors import StoreUnavailableError
from mopsjobs.utils.times import human_age, parse_duration
from mopsjobs.web.background import ChangeSignal, PageCache, Syncer
from mopsjobs.web.cache_connections import ConnectionPool

T = TypeVar("T")


class Site:
    """One server's state."""

    def __init__(self, app: App, changes: ChangeSignal, syncer: Syncer | None) -> None:
        self.app = app
        self.changes = changes
        self.syncer = syncer
        """None when the cache is shown as it lies."""
        self.readers = ConnectionPool(app)
        self.pages = PageCache(changes, app.monotonic)
        self.charts = PageCache(ChangeSignal(), app.monotonic)
        """Charts read every job: they are as old as they may be, whatever changes."""

    def read_cached(self, view: Callable[[sqlite3.Connection], T]) -> T | None:
        """Call `view` with the cache, read-only; None when there is none.

        Raises:
            CacheError: it cannot be used.
        """
        return self.app.cache.read_cached(view, self.readers.opened)

    def read(self, view: Callable[[sqlite3.Connection, Freshness], T]) -> T:
        """Call `view` with the cache, read-only, and its age.

        Raises:
            StoreUnavailableError: it has never been filled.
            CacheError: it cannot be used.
        """

        def look(connection: sqlite3.Connection) -> T | None:
            freshness = self.app.cache.freshness(connection)
            return None if freshness is None else view(connection, freshness)

        found = self.read_cached(look)
        if found is None:
            hint = "Run: mops-jobs sync" if self.syncer is None else "The first sync is still running, or has failed."
            raise StoreUnavailableError("The registry has never been synced to this machine.", hint=hint)
        return found

    def header(self) -> dict[str, Any]:
        """How old the data is, as every page tells it.

        Raises:
            CacheError: the cache cannot be used.
        """
        return self.read_cached(lambda cache: self.header_of(cache, self.app.cache.freshness(cache))) or self._header(
            None, None
        )

    def header_of(self, connection: sqlite3.Connection, freshness: Freshness | None) -> dict[str, Any]:
        """The same, for who is looking at the cache already, and knows how old it is."""
        return self._header(freshness, sync_state.get_meta(connection, "last_error"))

    def _header(self, freshness: Freshness | None, last_error: str | None) -> dict[str, Any]:
        problem = (None if self.syncer is None else self.syncer.problem) or last_error or None
        age = None if freshness is None else freshness.age_seconds
        # An embedded registry too: commands read it fresh, but a server shows it as of its last sync.
        is_late = age is None or age > parse_duration(self.app.settings.stale_after.value)
        return {
            "synced": "never synced" if age is None else f"synced {human_age(age)}",
            "synced_at": None if freshness is None else freshness.synced_at,
            "age_seconds": age,
            "stale": freshness is None or freshness.stale or is_late or problem is not None,
            "problem": problem,
        }

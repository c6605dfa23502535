"""What all handlers work with: the run, the changes, the pages that are made, and how old the data is."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from mopsjobs.cache import queries
from mopsjobs.context import Context, Freshness
from mopsjobs.errors import StoreUnavailableError
from mopsjobs.times import human_age
from mopsjobs.web.live import Changes, Pages, Syncer

T = TypeVar("T")


class Site:
    """One server's state."""

    def __init__(self, context: Context, changes: Changes, syncer: Syncer | None) -> None:
        self.context = context
        self.changes = changes
        self.syncer = syncer
        """None when the cache is shown as it lies."""
        self.pages = Pages(changes, context.monotonic)
        self.charts = Pages(Changes(), context.monotonic)
        """Charts read every job: they are as old as they may be, whatever changes."""

    def read(self, view: Callable[[sqlite3.Connection, Freshness], T]) -> T:
        """Call `view` with the cache, read-only, and its age.

        Raises:
            StoreUnavailableError: it has never been filled.
            CacheError: it cannot be used.
        """

        def look(connection: sqlite3.Connection) -> T | None:
            freshness = self.context.freshness(connection)
            return None if freshness is None else view(connection, freshness)

        found = self.context.peek(look)
        if found is None:
            hint = "Run: mops-jobs sync" if self.syncer is None else "The first sync is still running, or has failed."
            raise StoreUnavailableError("The registry has never been synced to this machine.", hint=hint)
        return found

    def header(self) -> dict[str, Any]:
        """How old the data is, as every page tells it.

        Raises:
            CacheError: the cache cannot be used.
        """
        return self.context.peek(self.header_of) or self._header(None, {})

    def header_of(self, connection: sqlite3.Connection) -> dict[str, Any]:
        """The same, for who is looking at the cache already."""
        return self._header(self.context.freshness(connection), queries.meta(connection))

    def _header(self, freshness: Freshness | None, known: Mapping[str, str]) -> dict[str, Any]:
        problem = (None if self.syncer is None else self.syncer.problem) or known.get("last_error") or None
        age = None if freshness is None else freshness.age_seconds
        return {
            "synced": "never synced" if age is None else f"synced {human_age(age)}",
            "synced_at": None if freshness is None else freshness.synced_at,
            "age_seconds": age,
            "stale": freshness is None or freshness.stale or problem is not None,
            "problem": problem,
        }

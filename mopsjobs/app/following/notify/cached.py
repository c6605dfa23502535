"""Tell of the jobs of the cache, each time after a sync.

The cache remembers which messages need nothing more, so a sync without news sends no request for them. It also has the
time of the first sync with each rule, before which nothing is told. A new cache learns the former from the claims.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from mopsjobs.app.following.notify.claims import WINDOW
from mopsjobs.app.following.notify.notifier import RECENT, Notifier
from mopsjobs.app.run.app import App
from mopsjobs.cache.job_json import COLUMNS, job_json
from mopsjobs.cache.sync_state import known_to, transaction
from mopsjobs.errors import MopsJobsError
from mopsjobs.registry.status import END_STATUSES

_ENDED = ", ".join(f"'{status}'" for status in END_STATUSES)

_JOBS = (
    f"SELECT {COLUMNS} FROM job WHERE is_active = 1 UNION ALL"  # noqa: S608 - constant names
    f" SELECT {COLUMNS} FROM job WHERE is_active = 0 AND status IN ({_ENDED}) AND ended_ts >= ?"
)

FIRST = "first sync for "
"""Begins the name of the time of the first sync for a rule."""


class CacheNotifier:
    """Tells of the jobs of the cache, each time after a sync."""

    def __init__(self, app: App) -> None:
        """Find the recipients. Nothing is sent yet."""
        self._app = app
        self._notifier = Notifier(app)
        self._cached_keys: set[str] = set()
        """The keys that the cache remembers."""

    def tell(self, seconds: float | None = None) -> list[str]:
        """Tell what is due, and return what the user should know. See `Notifier.finish`."""
        try:
            return self._tell(seconds)
        except (MopsJobsError, OSError) as error:
            return [f"No notifications: {error}"]

    def _tell(self, seconds: float | None) -> list[str]:
        app, notifier = self._app, self._notifier
        now = app.now().timestamp()
        if not notifier.since.keys() >= {*notifier.marks.values()}:
            app.cache.write(self._begin)

        def view(connection: sqlite3.Connection) -> list[dict[str, Any]]:
            known = known_to(connection, now)
            rows = connection.execute(_JOBS, (now - WINDOW.total_seconds(),))
            return [job for row in rows if notifier.is_due(job := job_json(row, now=now, known_to=known))]

        for job in app.cache.read_cached(view) or ():
            notifier.offer(job)
        problems = notifier.finish(seconds)
        if new := notifier.settled - self._cached_keys:
            app.cache.write(lambda connection: _keep(connection, new, now))
            self._cached_keys |= new
        return problems

    def _begin(self, connection: sqlite3.Connection) -> None:
        """Read what the cache remembers, note rules that it does not know, and forget what is too old."""
        notifier, now = self._notifier, self._app.now()
        begin = (now - RECENT).timestamp()
        with transaction(connection):
            connection.execute("DELETE FROM notified WHERE at_ts < ? AND name NOT LIKE ?", (
                (now - 2 * WINDOW).timestamp(), f"{FIRST}%",
            ))  # fmt: skip
            connection.executemany(
                "INSERT OR IGNORE INTO notified (name, at_ts) VALUES (?, ?)",
                [(FIRST + mark, begin) for mark in notifier.marks.values()],
            )
            for name, at in connection.execute("SELECT name, at_ts FROM notified").fetchall():
                if name.startswith(FIRST):
                    notifier.since[name.removeprefix(FIRST)] = at
                else:
                    notifier.settled.add(name)
                    self._cached_keys.add(name)


def _keep(connection: sqlite3.Connection, keys: set[str], now: float) -> None:
    with transaction(connection):
        rows = [(key, now) for key in keys]
        connection.executemany("INSERT OR REPLACE INTO notified (name, at_ts) VALUES (?, ?)", rows)

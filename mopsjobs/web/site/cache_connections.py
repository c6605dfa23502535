"""Keep connections to the cache open from one request to the next.

A new connection has to open the file, read the schema and check the registry, and has nothing in memory yet.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from typing import NamedTuple

from mopsjobs.app.run.app import App
from mopsjobs.cache.database import is_current, open_to_read, translate_sqlite_errors
from mopsjobs.utils.sqlite_file import FileIdentity, file_identity

MAX_IDLE = 4
"""Idle connections, at most; each may hold 2 MB of the file. Few requests come at the same time."""


class _Pooled(NamedTuple):
    connection: sqlite3.Connection
    file: FileIdentity | None


class ConnectionPool:
    """A pool of connections to one cache, each used by one request at a time."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._idle: list[_Pooled] = []

    @contextlib.contextmanager
    def acquire(self) -> Iterator[sqlite3.Connection | None]:
        """Yield a read-only connection; None if there is no cache. After an error, it is closed."""
        path = self._app.cache.path
        with translate_sqlite_errors(path):
            file = _file_identity(path)
            pooled = self._pop_idle(file)
            if pooled is None:
                connection = open_to_read(path, self._app.settings.registry_id)
                if connection is None:
                    yield None
                    return
                pooled = _Pooled(connection, file)
            try:
                pooled.connection.execute("BEGIN")  # all that a page shows is of one moment
                yield pooled.connection
            except BaseException:
                pooled.connection.close()
                raise
        self._put_back(pooled)

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for pooled in idle:
            pooled.connection.close()

    def _pop_idle(self, file: FileIdentity | None) -> _Pooled | None:
        """Return an idle connection to that file; a cache that was replaced is another file."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                pooled = self._idle.pop()  # the last used one has the most in memory
            if pooled.file == file is not None and is_current(pooled.connection):
                return pooled
            pooled.connection.close()

    def _put_back(self, pooled: _Pooled) -> None:
        pooled.connection.rollback()
        with self._lock:
            if len(self._idle) < MAX_IDLE:
                self._idle.append(pooled)
                return
        pooled.connection.close()


def _file_identity(path: str) -> FileIdentity | None:
    with contextlib.suppress(OSError):
        return file_identity(path)
    return None

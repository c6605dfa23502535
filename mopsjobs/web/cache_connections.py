"""Connections to the cache that stay open from one request to the next.

A new one opens the file, reads the schema and checks whose cache it is, and has no page of the file and no statement
ready.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from typing import NamedTuple

from mopsjobs.app.app import App
from mopsjobs.cache.database import is_current, open_to_read, translate_sqlite_errors
from mopsjobs.utils.sqlite_file import FileIdentity, file_identity

MAX_IDLE = 4
"""Connections that wait for the next request; each may hold 2 MB of the file. Few requests come at the same time."""


class _Reader(NamedTuple):
    connection: sqlite3.Connection
    file: FileIdentity | None


class ConnectionPool:
    """Connections to one cache, each lent to one request at a time."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._idle: list[_Reader] = []

    @contextlib.contextmanager
    def opened(self) -> Iterator[sqlite3.Connection | None]:
        """A connection to read with, as `open_to_read` gives it; None when there is no cache.

        One that something has gone wrong on is not lent again.
        """
        path = self._app.cache.path
        with translate_sqlite_errors(path):
            file = _file_at(path)
            reader = self._idle_one(file)
            if reader is None:
                connection = open_to_read(path, self._app.settings.registry_id)
                if connection is None:
                    yield None
                    return
                reader = _Reader(connection, file)
            try:
                yield reader.connection
            except BaseException:
                reader.connection.close()
                raise
        self._put_back(reader)

    def close(self) -> None:
        """Close those that nobody has."""
        with self._lock:
            idle, self._idle = self._idle, []
        for reader in idle:
            reader.connection.close()

    def _idle_one(self, file: FileIdentity | None) -> _Reader | None:
        """One that is open on that file: a cache that was set aside and made anew is another one."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                reader = self._idle.pop()  # the one used last has the most in its memory
            if reader.file == file is not None and is_current(reader.connection):
                return reader
            reader.connection.close()

    def _put_back(self, reader: _Reader) -> None:
        reader.connection.rollback()  # a listing is read in a transaction, which would hold on to what it saw
        with self._lock:
            if len(self._idle) < MAX_IDLE:
                self._idle.append(reader)
                return
        reader.connection.close()


def _file_at(path: str) -> FileIdentity | None:
    with contextlib.suppress(OSError):
        return file_identity(path)
    return None

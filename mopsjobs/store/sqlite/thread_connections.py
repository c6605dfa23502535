"""One connection to SQLite per thread, which a forked child refuses to use.

POSIX gives locks on files to processes, so SQLite keeps a table of the locks of its process. A forked child inherits
the table. It relies on the locks of its parent and takes none of its own. When the parent has left, the next process to
leave removes the WAL, with all writes of the child that were acknowledged. To close the inherited connections does not
help (https://www.sqlite.org/howtocorrupt.html, "Carrying an open database connection across a fork()").

So a forked child refuses the files that its parent had open. See docs/decisions/0008-forks.md.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from typing import NamedTuple

from mopsjobs.errors import StoreError
from mopsjobs.utils.sqlite_file import FileIdentity


class _OpenFile(NamedTuple):
    """A file that is open."""

    path: str
    file: FileIdentity | None


class _Files:
    """The files that this process has open, and those that its ancestors had open when they forked."""

    def __init__(self) -> None:
        self.opened: dict[object, _OpenFile] = {}
        """A connection stays here until it is closed."""
        self.inherited: list[_OpenFile] = []
        self.never_closed: list[sqlite3.Connection] = []
        """Inherited connections. SQLite forbids a child to close them, so this list keeps them alive."""
        self._pid = os.getpid()

    def detect_fork(self) -> None:
        """Note, in a forked child, that the open files are those of the parent."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self.inherited.extend(self.opened.values())
            self.opened.clear()


_files = _Files()


class ThreadConnection:
    """The connection of one thread to a file, until the thread ends or its store is closed.

    A call takes it, and gives it back at its end. A new connection is taken from the start.
    """

    def __init__(
        self, path: str, file: FileIdentity | None, *, is_writable: bool, connect: Callable[[], sqlite3.Connection]
    ):
        self.file = file
        self.is_writable = is_writable
        self.is_open = True
        self._is_to_close = False
        self._taken = threading.Lock()
        self._taken.acquire()
        self._pid = os.getpid()
        self._token = object()
        # Registered before it is open, so that no fork comes in between.
        _files.opened[self._token] = _OpenFile(os.path.realpath(path), file)
        try:
            self.connection = connect()
        except BaseException:
            _files.opened.pop(self._token, None)
            raise

    @property
    def is_own(self) -> bool:
        """Return True if this process has opened it, and not an ancestor."""
        return self._pid == os.getpid()

    def acquire(self) -> bool:
        """Take it for a call. Return False if it is closed, about to be closed, or taken by another call."""
        if not self.is_own or not self._taken.acquire(blocking=False):
            return False
        if self.is_open:
            return True
        self._taken.release()
        return False

    def release(self) -> None:
        """Release it at the end of a call."""
        self._taken.release()
        if self._is_to_close:
            self.close()

    def close(self) -> None:
        """Close it now, or at the end of the call that has it. An inherited one stays open."""
        self._is_to_close = True
        if self.acquire():
            try:
                self._close()
            finally:
                self._taken.release()

    def _close(self) -> None:
        self.is_open = False
        try:
            self.connection.close()
        finally:
            if _is_closed(self.connection):  # an interrupt may have come before, or after
                _files.opened.pop(self._token, None)

    def __del__(self) -> None:
        if "connection" not in self.__dict__:
            return
        if self.is_own:
            self._close()
        else:
            _files.never_closed.append(self.connection)


def _is_closed(connection: sqlite3.Connection) -> bool:
    try:
        return connection.total_changes < 0
    except sqlite3.ProgrammingError:
        return True


def check_not_inherited(path: str, file: FileIdentity | None) -> None:
    """Refuse a file that was open when this process was forked.

    Raises:
        StoreError: if it was.
    """
    _files.detect_fork()
    real = os.path.realpath(path) if _files.inherited else ""
    if any(opened.path == real or (file is not None and opened.file == file) for opened in _files.inherited):
        raise StoreError(
            f"The registry {path} was open when this process was forked, and SQLite would lose writes from here.",
            hint="Close the store before the fork, or start the process by spawn or forkserver.",
        )

"""A connection to SQLite for each thread, and none across a fork.

SQLite forbids to carry a connection across a fork, and to close it there would not help: a process keeps a table of the
locks that it has on each file, since POSIX gives them to processes, and the child inherits that. It believes in locks
that its parent has, takes none of its own, and as soon as the parent has left, the next process to leave takes the WAL
away from under it, with all that it was told is written. So a fork waits until no thread is at it, and closes every
connection: https://www.sqlite.org/howtocorrupt.html, "Carrying an open database connection across a fork()".
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator

from mopsjobs.sqlite_file import File

_FORK = threading.Lock()
"""Held from before a fork until after it. Who has it may look through what there is, and add to it."""


class ThreadConnection:
    """The connection of one thread, for as long as it lives, its store is open, and the process does not fork."""

    def __init__(self) -> None:
        self.connection: sqlite3.Connection | None = None
        self.file: File | None = None
        """The file that it is open on."""
        self.is_writable = False
        self.in_use = threading.RLock()

    def close(self) -> None:
        """Close it, when its thread is not at it. The next use opens another."""
        with self.in_use:
            if self.connection is not None:
                self.connection.close()
                self.connection = None

    def __del__(self) -> None:
        self.close()


class ThreadConnections:
    """The connections of one store."""

    def __init__(self) -> None:
        self._thread = threading.local()
        self._opened: weakref.WeakSet[ThreadConnection] = weakref.WeakSet()

    @contextlib.contextmanager
    def using(self) -> Iterator[ThreadConnection]:
        """That of the thread that asks. Until the block ends, nobody else closes it, and the process does not fork.

        It goes with the thread: a server that syncs has had thousands of threads by the end of the day.
        """
        mine: ThreadConnection | None = self._thread.__dict__.get("connection")
        if mine is None:
            mine = self._thread.connection = ThreadConnection()
            with _FORK:
                self._opened.add(mine)
                _EVERY.add(mine)
        elif _FORK.locked():
            with _FORK:  # who uses it again and again would let a fork that waits for it never come to it
                pass
        with mine.in_use:
            yield mine

    def close(self) -> None:
        """Close all, each when its thread is not at it."""
        with _FORK:
            opened = list(self._opened)
        for connection in opened:
            connection.close()


_EVERY: weakref.WeakSet[ThreadConnection] = weakref.WeakSet()
_HELD: list[ThreadConnection] = []


def _before_fork() -> None:
    _FORK.acquire()
    _HELD.extend(_EVERY)
    for held in _HELD:
        held.in_use.acquire()
        with contextlib.suppress(sqlite3.Error):
            held.close()


def _after_fork() -> None:
    while _HELD:
        _HELD.pop().in_use.release()
    _FORK.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)

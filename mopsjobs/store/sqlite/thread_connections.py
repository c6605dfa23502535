"""A connection to SQLite for each thread, and what a fork makes of them.

POSIX gives locks on files to processes, so SQLite keeps a table of those that its process has. A forked child inherits
the table: it believes in locks that its parent has, takes none of its own, and as soon as the parent has left, the next
process to leave takes the WAL away, with all that the child was told is written. Closing what it has inherited would
not help it (https://www.sqlite.org/howtocorrupt.html, "Carrying an open database connection across a fork()").

So before a fork the connections that nobody uses just then are closed, and open again on both sides. What stays in use,
or is being made, for longer than a fork can wait for it, the child refuses for good. Nobody waits without end here: a
lock that a fork has to have would be a deadlock for whoever forks at a bad moment.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mopsjobs.errors import StoreError
from mopsjobs.utils.sqlite_file import FileIdentity

PATIENCE_SECONDS = 1.0
"""How long a fork waits for other threads. A call takes milliseconds, unless somebody else holds the file."""


POLL_SECONDS = 0.001
"""Between two looks whether they are done."""


class _Opened(NamedTuple):
    """What is open, or being made."""

    path: str
    file: FileIdentity | None
    thread: int
    connection: Callable[[], ThreadConnection | None]


class _Files:
    """What this process has open, and what those had open that it was forked from."""

    def __init__(self) -> None:
        self.opened: dict[object, _Opened] = {}
        """What is being thrown away stays here until it is closed."""
        self.inherited: list[_Opened] = []
        self.never_closed: list[sqlite3.Connection] = []
        """Inherited too. SQLite forbids to close them here, so somebody has to hold them."""
        self._pid = os.getpid()

    def close_unused(self) -> None:
        """Before a fork, close what can be closed soon."""
        end = time.monotonic() + PATIENCE_SECONDS
        while self._are_others_left() and time.monotonic() < end:
            time.sleep(POLL_SECONDS)

    def _are_others_left(self) -> bool:
        """Close what nobody uses; whether another thread has something open still, or again.

        What this very thread is at would not end before its fork.
        """
        for one in list(self.opened.values()):
            if (connection := one.connection()) is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
        return any(one.thread != threading.get_ident() for one in list(self.opened.values()))

    def look_for_fork(self) -> None:
        """In a child, take what the parent had open for what it is."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self.inherited.extend(self.opened.values())
            self.opened.clear()


_files = _Files()


class ThreadConnection:
    """The connection of one thread to a file, for as long as the thread lives, its store is open, and nobody forks.

    A new one is taken; whoever has it gives it back after each call, and takes it before the next.
    """

    def __init__(
        self, path: str, file: FileIdentity | None, *, is_writable: bool, connect: Callable[[], sqlite3.Connection]
    ):
        self.file = file
        """The file that it is open on."""
        self.is_writable = is_writable
        self.is_open = True
        self._is_to_close = False
        self._taken = threading.Lock()
        self._taken.acquire()
        self._pid = os.getpid()
        self._token = object()
        # Before it is, so that no fork comes in between.
        _files.opened[self._token] = _Opened(os.path.realpath(path), file, threading.get_ident(), weakref.ref(self))
        try:
            self.connection = connect()
        except BaseException:
            _files.opened.pop(self._token, None)
            raise

    @property
    def is_ours(self) -> bool:
        """Whether this very process has opened it."""
        return self._pid == os.getpid()

    def take(self) -> bool:
        """Take it for a call. False where that cannot be: it is closed, or about to be, or a call has it already."""
        if not self.is_ours or not self._taken.acquire(blocking=False):
            return False
        if self.is_open:
            return True
        self._taken.release()
        return False

    def give_back(self) -> None:
        """A call is over."""
        self._taken.release()
        if self._is_to_close:
            self.close()

    def close(self) -> None:
        """Close it, or let the call that has it do so in the end; unless that is for another process to do."""
        self._is_to_close = True
        if self.take():
            try:
                self._close()
            finally:
                self._taken.release()

    def _close(self) -> None:
        self.is_open = False
        try:
            self.connection.close()
        finally:
            if _is_closed(self.connection):  # an interrupt may have come before it was, or after
                _files.opened.pop(self._token, None)

    def __del__(self) -> None:
        if "connection" not in self.__dict__:
            return
        if self.is_ours:
            self._close()
        else:
            _files.never_closed.append(self.connection)


def _is_closed(connection: sqlite3.Connection) -> bool:
    try:
        return connection.total_changes < 0
    except sqlite3.ProgrammingError:
        return True


def refuse_inherited(path: str, file: FileIdentity | None) -> None:
    """Refuse a file that was open, or being made, when this process was forked.

    Raises:
        StoreError: it was.
    """
    _files.look_for_fork()
    real = os.path.realpath(path) if _files.inherited else ""
    if any(one.path == real or (file is not None and one.file == file) for one in _files.inherited):
        raise StoreError(
            f"The registry {path} was in use when this process was forked, and SQLite would lose what is written here.",
            hint="Close the store before the fork, or start the process by spawn or forkserver.",
        )


@contextlib.contextmanager
def being_made(path: str) -> Iterator[None]:
    """Let a child that is forked during the block refuse the file, which the block makes."""
    token = object()
    _files.opened[token] = _Opened(os.path.realpath(path), None, threading.get_ident(), lambda: None)
    try:
        yield
    finally:
        _files.opened.pop(token, None)


# Whoever asks before this hook of ours, or was forked by C code that runs no hooks, is told by the process id.
os.register_at_fork(before=_files.close_unused, after_in_child=_files.look_for_fork)

"""A connection to SQLite for each thread, and what a fork makes of them.

POSIX gives locks on files to processes, so SQLite keeps a table of those that its process has. A forked child inherits
the table: it believes in locks that its parent has, takes none of its own, and as soon as the parent has left, the next
process to leave takes the WAL away, with all that the child was told is written. Closing what it has inherited would
not help it (https://www.sqlite.org/howtocorrupt.html, "Carrying an open database connection across a fork()").

So a thread that forks closes its own connections before, and they open again on both sides. A file that others have
open just then, other threads or a call that the fork interrupts, the child refuses for good. Nothing waits for anything
here: a lock that a fork has to wait for would be a deadlock for whoever forks at a bad moment.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mopsjobs.errors import StoreError
from mopsjobs.sqlite_file import File


class _Opened(NamedTuple):
    """What is open, or being made."""

    path: str
    file: File | None


class _Files:
    """What this process has open, and what those had open that it was forked from."""

    def __init__(self) -> None:
        self.opened: dict[object, _Opened] = {}
        """No weak references: what is being thrown away is open until it is closed."""
        self.inherited: list[_Opened] = []
        self.never_closed: list[sqlite3.Connection] = []
        """Inherited too. SQLite forbids to close them here, so somebody has to hold them."""
        self._pid = os.getpid()

    def look_for_fork(self) -> None:
        """In a child, take what the parent had open for what it is."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self.inherited.extend(self.opened.values())
            self.opened.clear()


_files = _Files()

_here = threading.local()
"""The connections of each thread."""


class ThreadConnection:
    """The connection of one thread to a file, for as long as the thread lives, its store is open, and it does not fork.

    Its thread says when it is `in_use`, so that a fork in the middle of that leaves it alone.
    """

    def __init__(self, path: str, file: File | None, *, is_writable: bool, connect: Callable[[], sqlite3.Connection]):
        self.file = file
        """The file that it is open on."""
        self.is_writable = is_writable
        self.in_use = False
        self.is_open = True
        self._pid = os.getpid()
        self._token = object()
        _files.opened[self._token] = _Opened(
            os.path.realpath(path), file
        )  # before it is, so that no fork comes in between
        try:
            self.connection = connect()
        except BaseException:
            del _files.opened[self._token]
            raise
        _here.__dict__.setdefault("opened", weakref.WeakSet()).add(self)

    @property
    def is_ours(self) -> bool:
        """Whether this very process has opened it."""
        return self._pid == os.getpid()

    def close(self) -> None:
        """Close it, unless that is for another process to do."""
        if self.is_ours:
            self.is_open = False
            self.connection.close()
            if not self.in_use:  # else SQLite has it open until its thread is done
                _files.opened.pop(self._token, None)

    def __del__(self) -> None:
        if "connection" not in self.__dict__:
            return
        self.in_use = False
        self.close()
        if not self.is_ours:
            _files.never_closed.append(self.connection)


def refuse_inherited(path: str, file: File | None) -> None:
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
    _files.opened[token] = _Opened(os.path.realpath(path), None)
    try:
        yield
    finally:
        _files.opened.pop(token, None)


def _before_fork() -> None:
    for opened in list(_here.__dict__.get("opened", ())):
        if not opened.in_use:
            with contextlib.suppress(sqlite3.Error):
                opened.close()


# Whoever asks before this hook of ours, or was forked by C code that runs no hooks, is told by the process id.
os.register_at_fork(before=_before_fork, after_in_child=_files.look_for_fork)

"""A versioned store in one SQLite file: the embedded default, so that nobody needs an account to try mops-jobs.

Durability: WAL with `synchronous=FULL`, so a write that was acknowledged has been fsynced. Concurrency: writers queue
on SQLite's own lock for up to `BUSY_SECONDS`; readers never wait. WAL needs shared memory, so the file belongs on a
local disk, not on a network file system (`doctor` says so).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from mopsjobs.errors import StoreAccessError, StoreError, StoreUnavailableError, ValueTooLargeError
from mopsjobs.store.base import Entry, Versioned, VersionToken, check_key
from mopsjobs.store.sqlite.thread_connections import ThreadConnection, being_made, refuse_inherited
from mopsjobs.utils.files import make_directory
from mopsjobs.utils.sqlite_file import FileIdentity, connect, create, file_identity

BUSY_SECONDS = 10.0
"""How long a writer waits for another one before it gives up. A write takes milliseconds; ten seconds mean trouble."""


PAGE_ROWS = 1000
"""Keys read at once by a scan. No statement stays open between pages, so a slow reader never holds back the WAL."""


APPLICATION_ID = 0x6D6F7073
"""Marks the file as ours in its header ("mops"), so that `file` and `open` can tell it from any other database."""


_NOT_ONE = "If it was one, bring back a copy of it; else name the right one: --registry sqlite:///path/registry.db"


_ELSEWHERE = "Name another place: --registry sqlite:///path/registry.db"


_SCHEMA = """
CREATE TABLE objects (key TEXT PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE store (id TEXT NOT NULL, writes INTEGER NOT NULL);
"""


class SQLiteVersionedStore:
    """The contract of `VersionedStore` over one SQLite file, which the first write creates (mode 0600).

    A version is `<store id>-<n>`: n counts the writes to the whole file, and the id is drawn when the file is made.
    So no version comes twice, not for a key that was deleted and made again, nor for a file that was.
    """

    is_local = True
    """Reading costs no network; see `mopsjobs.cache.sync.fetcher.ParallelFetcher`."""

    def __init__(self, path: str | os.PathLike[str], when_missing: Callable[[], None] = lambda: None) -> None:
        """Name the file.

        Args:
            path: where it is, or will be.
            when_missing: called where it is not there, before that passes for an empty store, or it is made; what it
                raises stops that.
        """
        self.path = os.path.abspath(os.fspath(path))
        self._when_missing = when_missing
        self.location = self.path
        self._threads = threading.local()
        self._opened: dict[int, weakref.ref[ThreadConnection]] = {}
        """Those of all threads. No lock: in a forked child, a thread that is there no more might have it."""
        self._closed = False

    def get(self, key: str) -> Versioned | None:
        """See `VersionedStore.get`."""
        check_key(key)
        with self._reading() as connection:
            if connection is None:
                return None
            row = connection.execute(
                "SELECT value, store.id || '-' || version FROM objects, store WHERE key = ?", (key,)
            ).fetchone()
        return None if row is None else Versioned(bytes(row[0]), VersionToken(row[1]))

    def put(self, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        """See `VersionedStore.put`."""
        check_key(key)
        with self._writing() as connection:
            written = connection.execute(
                "UPDATE objects SET value = ?, version = (SELECT writes + 1 FROM store)"
                " WHERE key = ? AND (SELECT id FROM store) || '-' || version = ?",
                (value, key, version.value),
            ).rowcount
            return self._new_version(connection) if written else None

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        """See `VersionedStore.create_if_absent`."""
        check_key(key)
        with self._writing() as connection:
            written = connection.execute(
                "INSERT INTO objects SELECT ?, ?, writes + 1 FROM store WHERE true ON CONFLICT DO NOTHING", (key, value)
            ).rowcount
            return self._new_version(connection) if written else None

    def delete(self, key: str) -> bool:
        """See `VersionedStore.delete`."""
        check_key(key)
        if self._file() is None:
            return False
        with self._writing() as connection:
            return connection.execute("DELETE FROM objects WHERE key = ?", (key,)).rowcount > 0

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """See `VersionedStore.list_keys`."""
        return (key for (key,) in self._pages("key", prefix))

    def scan(self, prefix: str = "") -> Iterator[Entry]:
        """See `VersionedStore.scan`. Every entry carries its value."""
        columns = "key, store.id || '-' || version, value"
        return (
            Entry(key, VersionToken(version), bytes(value), len(value))
            for key, version, value in self._pages(columns, prefix)
        )

    def close(self) -> None:
        """See `VersionedStore.close`."""
        self._closed = True
        for reference in list(self._opened.values()):
            if (opened := reference()) is not None:
                opened.close()

    def _pages(self, columns: str, prefix: str) -> Iterator[tuple[Any, ...]]:
        after = ""
        # No key holds U+10FFFF, which does not print: it bounds the keys with this prefix from above.
        end = prefix + "\U0010ffff"
        begun: FileIdentity | None = None
        while True:
            with self._using(create=False) as mine:
                file = None if mine is None else mine.file
                if begun is not None and file != begun:
                    raise StoreUnavailableError(f"The registry {self.path} has been replaced while it was read.")
                if mine is None:
                    return
                begun = file
                rows = mine.connection.execute(
                    f"SELECT {columns} FROM objects, store"  # noqa: S608 - the columns are two literals of this class
                    " WHERE key >= ? AND key < ? AND key > ? ORDER BY key LIMIT ?",
                    (prefix, end, after, PAGE_ROWS),
                ).fetchall()
            yield from rows
            if len(rows) < PAGE_ROWS:
                return
            after = rows[-1][0]

    @staticmethod
    def _new_version(connection: sqlite3.Connection) -> VersionToken:
        connection.execute("UPDATE store SET writes = writes + 1")
        (version,) = connection.execute("SELECT id || '-' || writes FROM store").fetchone()
        return VersionToken(version)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        with self._using(create=False) as mine:
            yield None if mine is None else mine.connection

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._using(create=True) as mine:
            assert mine is not None  # noqa: S101 - create=True always gives one
            try:
                mine.connection.execute("BEGIN IMMEDIATE")
                yield mine.connection
                if not mine.is_ours:
                    refuse_inherited(self.path, mine.file)
                mine.connection.commit()
            except BaseException:
                if mine.is_ours and mine.connection.in_transaction:
                    mine.connection.rollback()
                raise

    @contextlib.contextmanager
    def _using(self, *, create: bool) -> Iterator[ThreadConnection | None]:
        """This thread's connection, with the errors of the contract; see `_connected`."""
        with self._errors():
            mine = self._connected(create=create)
            if mine is None:
                yield None
                return
            try:
                yield mine
            finally:
                mine.give_back()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what sqlite3 raises into the errors of the contract."""
        try:
            yield
        except OverflowError as error:  # a value of 2 GiB does not even reach SQLite
            raise ValueTooLargeError(f"A value is too large for the registry {self.path}: {error}.") from error
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            where = f"the registry {self.path}"
            if code == sqlite3.SQLITE_TOOBIG:
                raise ValueTooLargeError(f"A value is too large for {where}: {error}.") from error
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise StoreUnavailableError(f"Somebody else has held {where} for {BUSY_SECONDS:g} s.") from error
            if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
                raise StoreAccessError(f"Not allowed to use {where}: {error}.") from error
            if code == sqlite3.SQLITE_FULL:  # and then the transaction was rolled back
                raise StoreUnavailableError(f"The disk has no room for {where}: {error}.", sent=False) from error
            if code == sqlite3.SQLITE_IOERR:
                raise StoreUnavailableError(f"The disk refused to serve {where}: {error}.") from error
            raise StoreError(f"Cannot use {where}: {error}.", hint=_NOT_ONE) from error

    def _connected(self, *, create: bool) -> ThreadConnection | None:
        """This thread's connection, taken; None when there is no file and none is to be made.

        It goes with the thread: a server that syncs has had thousands of threads by the end of the day.
        """
        if self._closed:
            raise StoreError(f"The store {self.path} is closed.")
        mine: ThreadConnection | None = self._threads.__dict__.get("connection")
        file = self._file()
        refuse_inherited(self.path, file)
        if mine is not None:
            # A file that is gone, or has made room for another, would take what is written to it along.
            if mine.file == file and (mine.is_writable or not create) and mine.take():
                return mine
            if create and mine.is_ours and mine.is_open and mine.connection.in_transaction:
                raise StoreError(f"This thread is in the middle of a write to the registry {self.path}.")
            mine.close()
        self._threads.__dict__.clear()  # should opening it to write fail, then the next reader opens its own
        if os.path.isdir(self.path):
            raise StoreAccessError(f"The registry {self.path} is a directory, and should be a file.", hint=_ELSEWHERE)
        if file is None:
            self._when_missing()
            if create:
                self._create_file()
            file = self._file()
            if file is None and not create:
                return None
        mine = ThreadConnection(self.path, file, is_writable=create, connect=lambda: self._open(create=create))
        self._threads.connection = mine
        opened, key = self._opened, id(mine)
        opened[key] = weakref.ref(mine, lambda _: opened.pop(key, None))
        return mine

    def _file(self) -> FileIdentity | None:
        """What lies at the path; None where nothing does.

        Raises:
            StoreAccessError: that is not ours to know.
        """
        try:
            return file_identity(self.path)
        except OSError as error:
            raise StoreAccessError(f"Not allowed to use the registry {self.path}: {error.strerror}.") from None

    def _open(self, *, create: bool) -> sqlite3.Connection:
        connection = connect(self.path, writable=create, busy_seconds=BUSY_SECONDS, synchronous="FULL")
        try:
            (application_id,) = connection.execute("PRAGMA application_id").fetchone()
            if application_id != APPLICATION_ID:
                raise StoreError(f"{self.path} is a SQLite file, but no mops-jobs registry.", hint=_NOT_ONE)
        except BaseException:
            connection.close()
            raise
        return connection

    def _create_file(self) -> None:
        def fill(connection: sqlite3.Connection) -> None:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.executescript(_SCHEMA)
            connection.execute("INSERT INTO store VALUES (?, 0)", (secrets.token_hex(4),))

        try:
            make_directory(os.path.dirname(self.path))
            with being_made(self.path):
                create(os.path.realpath(self.path), fill)
        except TimeoutError as error:
            raise StoreUnavailableError(
                f"Cannot create the registry {self.path}: {error.strerror}.", sent=False
            ) from error
        except OSError as error:
            raise StoreAccessError(
                f"Cannot create the registry {self.path}: {error.strerror}.",
                hint=_ELSEWHERE,
            ) from error

"""A versioned store in one SQLite file: the embedded default, which needs no account.

Durability: WAL with `synchronous=FULL`, so an acknowledged write is on disk. Concurrency: writers wait for SQLite's own
lock for up to `BUSY_SECONDS`; readers never wait. WAL needs shared memory, so the file belongs on a local disk, not on
a network file system (`doctor` warns of one). See docs/decisions/0007-sqlite-files-and-power-cuts.md.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from mopsjobs.errors import StoreAccessError, StoreError, StoreUnavailableError, ValueTooLargeError
from mopsjobs.store.base import Entry, Versioned, VersionToken, WantsValues, always, check_key
from mopsjobs.utils.files import make_directory
from mopsjobs.utils.sqlite_file import FileIdentity, connect, create, file_identity

BUSY_SECONDS = 30.0
"""How long a writer waits for others. A write takes milliseconds, but on a busy disk some seconds, and SQLite lets
writers in without an order."""

PAGE_ROWS = 1000
"""Keys per page of a scan. No statement stays open between pages, so a slow reader never holds back the WAL."""

APPLICATION_ID = 0x6D6F7073
"""Marks the file in its header ("mops"), so that `file` and the store can tell it from other databases."""

_RESTORE = "Restore a copy of the registry, or name the right one: --registry sqlite:///path/registry.db"

_ELSEWHERE = "Name another place: --registry sqlite:///path/registry.db"

_SCHEMA = """
CREATE TABLE objects (key TEXT PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE store (id TEXT NOT NULL, writes INTEGER NOT NULL);
"""


class SQLiteVersionedStore:
    """The contract of `VersionedStore` over one SQLite file, which the first write creates (mode 0600).

    A version is `<store id>-<n>`: n counts the writes to the whole file, and each new file gets a random id. So no
    version comes twice, neither for a key nor for a file that was deleted and created again.
    """

    is_local = True
    """Reading costs no network; see `mopsjobs.store.fetcher.ParallelFetcher`."""

    def __init__(self, path: str | os.PathLike[str], when_missing: Callable[[], None] = lambda: None) -> None:
        """Set the path, and open nothing.

        Args:
            path: where it is, or will be.
            when_missing: called if there is no file, before this counts as an empty store, or the file is made. An
                error from it prevents both.
        """
        self.path = os.path.abspath(os.fspath(path))
        self._when_missing = when_missing
        self.location = self.path
        self._threads = threading.local()
        self._opened: dict[int, weakref.ref[ThreadConnection]] = {}
        """The connections of all threads. Without a lock, since a forked child could inherit it locked."""
        self._closed = False

    def get(self, key: str) -> Versioned | None:
        """See `VersionedStore.get`."""
        check_key(key)
        with self._borrow_connection(create=False) as handle:
            if handle is None:
                return None
            row = handle.connection.execute(
                "SELECT value, store.id || '-' || version FROM objects, store WHERE key = ?", (key,)
            ).fetchone()
        return None if row is None else Versioned(bytes(row[0]), VersionToken(row[1]))

    def put(self, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        """See `VersionedStore.put`."""
        check_key(key)
        with self._write_transaction() as connection:
            written = connection.execute(
                "UPDATE objects SET value = ?, version = (SELECT writes + 1 FROM store)"
                " WHERE key = ? AND (SELECT id FROM store) || '-' || version = ?",
                (value, key, version.value),
            ).rowcount
            return self._new_version(connection) if written else None

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        """See `VersionedStore.create_if_absent`."""
        check_key(key)
        with self._write_transaction() as connection:
            written = connection.execute(
                "INSERT INTO objects SELECT ?, ?, writes + 1 FROM store WHERE true ON CONFLICT DO NOTHING", (key, value)
            ).rowcount
            return self._new_version(connection) if written else None

    def create_all_if_absent(self, values: Sequence[tuple[str, bytes]]) -> None:
        """See `TransactionalStore.create_all_if_absent`."""
        for key, _ in values:
            check_key(key)
        with self._write_transaction() as connection:
            (writes,) = connection.execute("SELECT writes FROM store").fetchone()
            rows = ((key, value, number) for number, (key, value) in enumerate(values, writes + 1))
            connection.executemany("INSERT INTO objects VALUES (?, ?, ?) ON CONFLICT DO NOTHING", rows)
            connection.execute("UPDATE store SET writes = writes + ?", (len(values),))

    def delete(self, key: str) -> bool:
        """See `VersionedStore.delete`."""
        check_key(key)
        if self._file_identity() is None:
            return False
        with self._write_transaction() as connection:
            return connection.execute("DELETE FROM objects WHERE key = ?", (key,)).rowcount > 0

    def delete_all(self, keys: Sequence[str]) -> None:
        """See `TransactionalStore.delete_all`."""
        if keys and self._file_identity() is not None:
            with self._write_transaction() as connection:
                connection.executemany("DELETE FROM objects WHERE key = ?", ((key,) for key in keys))

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """See `VersionedStore.list_keys`."""
        return (key for (key,) in self._pages("key", prefix))

    def scan(self, prefix: str = "", wants_values: WantsValues = always, after: str = "") -> Iterator[Entry]:
        """See `VersionedStore.scan`. Every entry carries its value."""
        columns = "key, store.id || '-' || version, value"
        return (
            Entry(key, VersionToken(version), bytes(value), len(value))
            for key, version, value in self._pages(columns, prefix, after)
        )

    def has_writer(self) -> bool:
        """Return whether a write may be under way, without waiting for it; True also if that cannot be told.

        A writer holds SQLite's lock until readers see what it has written.
        """
        with contextlib.suppress(StoreError):
            if self._file_identity() is None:
                return True
            with self._borrow_connection(create=True) as handle:
                assert handle is not None  # noqa: S101 - create=True always gives one
                handle.connection.execute("PRAGMA busy_timeout = 0")
                try:
                    handle.connection.execute("BEGIN IMMEDIATE")
                    handle.connection.rollback()
                finally:
                    handle.connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")
            return False
        return True

    def close(self) -> None:
        """See `VersionedStore.close`."""
        self._closed = True
        for reference in list(self._opened.values()):
            if (opened := reference()) is not None:
                opened.close()

    def _pages(self, columns: str, prefix: str, after: str = "") -> Iterator[tuple[Any, ...]]:
        # No key holds U+10FFFF, which does not print: it bounds the keys with this prefix from above.
        end = prefix + "\U0010ffff"
        first_file: FileIdentity | None = None
        while True:
            with self._borrow_connection(create=False) as handle:
                file = None if handle is None else handle.file
                if first_file is not None and file != first_file:
                    raise StoreUnavailableError(f"The registry {self.path} was replaced while it was read.")
                if handle is None:
                    return
                first_file = file
                rows = handle.connection.execute(
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
    def _write_transaction(self) -> Iterator[sqlite3.Connection]:
        with self._borrow_connection(create=True) as handle:
            assert handle is not None  # noqa: S101 - create=True always gives one
            try:
                handle.connection.execute("BEGIN IMMEDIATE")
                yield handle.connection
                if not handle.is_own:
                    check_not_inherited(self.path, handle.file)
                handle.connection.commit()
            except BaseException:
                if handle.is_own and handle.connection.in_transaction:
                    handle.connection.rollback()
                raise

    @contextlib.contextmanager
    def _borrow_connection(self, *, create: bool) -> Iterator[ThreadConnection | None]:
        """Acquire this thread's connection for the block, and translate its errors; see `_acquire_connection`."""
        with self._translate_errors():
            handle = self._acquire_connection(create=create)
            if handle is None:
                yield None
                return
            try:
                yield handle
            finally:
                handle.release()

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Turn the errors of sqlite3 into those of the contract."""
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
                raise StoreUnavailableError(f"Other processes have held {where} for {BUSY_SECONDS:g} s.") from error
            if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
                raise StoreAccessError(f"Not allowed to use {where}: {error}.") from error
            if code == sqlite3.SQLITE_FULL:  # SQLite has rolled the transaction back
                raise StoreUnavailableError(f"The disk has no room for {where}: {error}.", sent=False) from error
            if code == sqlite3.SQLITE_IOERR:
                raise StoreUnavailableError(f"The disk refused to serve {where}: {error}.") from error
            raise StoreError(f"Cannot use {where}: {error}.", hint=_RESTORE) from error

    def _acquire_connection(self, *, create: bool) -> ThreadConnection | None:
        """Take this thread's connection, or open one. Return None if there is no file and none is to be made.

        It ends with the thread: a server that syncs has had thousands of threads by the end of the day.
        """
        if self._closed:
            raise StoreError(f"The store {self.path} is closed.")
        handle: ThreadConnection | None = self._threads.__dict__.get("connection")
        file = self._file_identity()
        check_not_inherited(self.path, file)
        if handle is not None:
            # A write to a file that was removed or replaced would be lost.
            if handle.file == file and (handle.is_writable or not create) and handle.acquire():
                return handle
            if create and handle.is_own and handle.is_open and handle.connection.in_transaction:
                raise StoreError(f"This thread is in the middle of a write to the registry {self.path}.")
            handle.close()
        self._threads.__dict__.clear()  # if opening it to write fails, the next reader opens its own
        if os.path.isdir(self.path):
            raise StoreAccessError(f"invalid registry {self.path}: expected a file, not a directory.", hint=_ELSEWHERE)
        if file is None:
            self._when_missing()
            if create:
                self._create_file()
            file = self._file_identity()
            if file is None and not create:
                return None
        handle = ThreadConnection(self.path, file, is_writable=create, connect=lambda: self._connect(create=create))
        self._threads.connection = handle
        opened, key = self._opened, id(handle)
        opened[key] = weakref.ref(handle, lambda _: opened.pop(key, None))
        return handle

    def _file_identity(self) -> FileIdentity | None:
        """Return the identity of the file at the path; None if there is none.

        Raises:
            StoreAccessError: if this user may not read the directory.
        """
        try:
            return file_identity(self.path)
        except OSError as error:
            raise StoreAccessError(f"Not allowed to use the registry {self.path}: {error.strerror}.") from None

    def _connect(self, *, create: bool) -> sqlite3.Connection:
        connection = connect(self.path, writable=create, busy_seconds=BUSY_SECONDS, synchronous="FULL")
        try:
            (application_id,) = connection.execute("PRAGMA application_id").fetchone()
            if application_id != APPLICATION_ID:
                raise StoreError(
                    f"invalid registry {self.path}: expected a registry, not another SQLite database.", hint=_RESTORE
                )
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


# --- connections ------------------------------------------------------------------------------------------------------

# One connection to SQLite per thread, which a forked child refuses to use.
#
# POSIX gives locks on files to processes, so SQLite keeps a table of the locks of its process. A forked child
# inherits the table. It relies on the locks of its parent and takes none of its own. When the parent has left, the
# next process to leave removes the WAL, with all writes of the child that were acknowledged. To close the inherited
# connections does not help (https://www.sqlite.org/howtocorrupt.html, "Carrying an open database connection across a
# fork()").
#
# So a forked child refuses the files that its parent had open. See docs/decisions/0008-forks.md.


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

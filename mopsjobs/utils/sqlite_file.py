"""Make and open a SQLite file, in the same way for the embedded registry and for the cache."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator

WAL_BYTES = 4 * 2**20
"""The size to which SQLite cuts a WAL when it starts it again. Without a bound, the WAL keeps the size of the largest
write until the last connection closes. `serve` may hold such a connection for weeks after its first sync."""

MAKING_SECONDS = 30.0
"""How long to wait for another process that makes the file, which takes milliseconds."""

LOST = ".lost"
"""Added to the name of a WAL that was moved aside."""

BESIDE = ("-wal", "-shm", "-journal")
"""What SQLite adds to the name of a database for the files beside it."""

FileIdentity = tuple[int, int]
"""Device and inode. They differ if another file has taken the path."""


def file_identity(path: str) -> FileIdentity | None:
    """Return the identity of the file at `path`; None if there is none.

    Raises:
        OSError: if it cannot be read, as in a directory of another user.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def file_names(path: str) -> list[str]:
    """Return the name of a database, and of all files that may lie beside it: of SQLite, of `create`, moved aside."""
    from mopsjobs.utils.files import SUFFIX

    own = [path + suffix for suffix in ("", *BESIDE, ".build")]
    return [
        *own,
        *(name + SUFFIX for name in own),
        *(path + SUFFIX + suffix for suffix in BESIDE),
        *(path + suffix + LOST for suffix in BESIDE),
    ]


def create(path: str, fill: Callable[[sqlite3.Connection], None], timeout: float = MAKING_SECONDS) -> None:
    """Make a database, for its owner alone, in WAL mode and on disk, unless another process makes it first.

    It is made whole under another name and linked into place. To turn WAL on in a file that others have open fails
    instead of waiting. A reader could not clear up after a process that was killed while it made the file.

    Processes that make it wait for each other at a lock file. Only SQLite ever opens a database. By POSIX, closing it
    elsewhere would release the locks that other threads of this process have on it. The next process to leave
    would then remove the WAL, with all writes that were acknowledged since.

    Args:
        path: where the database goes.
        fill: writes its content.
        timeout: seconds to wait for another process that makes it.

    Raises:
        OSError: if the file cannot be made there; a `TimeoutError` if another process took longer.
        sqlite3.Error: if its content cannot be written.
    """
    from mopsjobs.utils.files import SUFFIX

    part = path + SUFFIX
    with creation_lock(path, timeout):
        # Left by a process that was killed. It may be another name of the finished database: remove it unopened.
        _remove(part)
        if os.path.exists(path):
            return
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600))
        try:
            with contextlib.closing(sqlite3.connect(part, isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                fill(connection)
                # To close the connection does it, too, but hides the error of a full disk.
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            _move_orphans_aside(path)
            _link_into_place(part, path)
        finally:
            _remove(part)


@contextlib.contextmanager
def creation_lock(path: str, timeout: float = MAKING_SECONDS) -> Iterator[None]:
    """Hold the lock for making, or moving away, the database at a real path.

    Raises:
        OSError: if the lock file cannot be made there; a `TimeoutError` if another process held it for longer.
    """
    from mopsjobs.utils.files import atomic_file  # here: no listing needs it

    with atomic_file(path + ".build", 0o600, timeout):
        yield


def _remove(path: str, suffixes: Iterable[str] = ("", *BESIDE)) -> None:
    for suffix in suffixes:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + suffix)


def _link_into_place(part: str, path: str) -> None:
    try:
        os.link(part, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links; the creation lock keeps other processes out
        if file_identity(path) is None:
            os.rename(part, path)


def _move_orphans_aside(path: str) -> None:
    """Move the files of SQLite away that a removed database has left, since SQLite would apply them to the new one.

    A WAL may hold the last writes of the removed database, so it stays, as `.lost`.
    """
    for orphan in (path + "-wal", path + "-journal"):
        if _is_filled(orphan):
            target = orphan + LOST
            while os.path.lexists(target):
                target += "x"
            os.rename(orphan, target)
    _remove(path, BESIDE)


def connect(path: str, *, writable: bool, busy_seconds: float, synchronous: str) -> sqlite3.Connection:
    """Connect to a database, which must exist. The connection begins no transaction by itself.

    Args:
        path: the database.
        writable: whether to write.
        busy_seconds: how long to wait for other connections that hold it.
        synchronous: SQLite's level of durability, `FULL` or `NORMAL`.

    Raises:
        sqlite3.Error: if the file cannot be opened, or is not a SQLite database.
    """
    if writable:
        return _connect(path, "mode=rw", busy_seconds, synchronous)
    try:
        return _connect(path, "mode=ro", busy_seconds, synchronous)
    except sqlite3.OperationalError as error:
        # In a read-only directory, or on a full disk, WAL mode has no place for its shared memory. Without a WAL, no
        # process writes, and the file can be read as it is.
        if not os.access(path, os.R_OK):
            raise
        if not _is_filled(path + "-wal"):
            return _connect(path, "mode=ro&immutable=1", busy_seconds, synchronous)
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_IOERR or not os.access(path, os.W_OK):
            raise
        # An exclusive connection needs no shared memory: others wait until it is closed.
        return _connect(path, "mode=rw", busy_seconds, synchronous, alone=True)


def _is_filled(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0
    except FileNotFoundError:
        return False


def _connect(
    path: str, options: str, busy_seconds: float, synchronous: str, *, alone: bool = False
) -> sqlite3.Connection:
    # The three characters with a meaning in a SQLite URI. urllib would cost each listing 3 ms.
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    connection = sqlite3.connect(
        f"file:{quoted}?{options}", uri=True, timeout=busy_seconds, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        if alone:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        # SQLite opens lazily: only a query shows whether the file can be used.
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection

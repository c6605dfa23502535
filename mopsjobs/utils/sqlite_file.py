"""Making and opening a SQLite file, the same way for the embedded registry and for the cache."""

from __future__ import annotations

import contextlib
import os
import sqlite3

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


WAL_BYTES = 4 * 2**20
"""To this a WAL is cut when it is begun anew, which SQLite does after as many. Without a bound it would keep the size
of the largest write for as long as anybody has the file open: a page of `serve`, say, that made the first sync."""


MAKING_SECONDS = 30.0
"""How long to wait for somebody else who makes the file, which takes milliseconds."""


LOST = ".lost"
"""Behind the name of a WAL that was put aside."""


BESIDE = ("-wal", "-shm", "-journal")
"""What SQLite puts behind the name of a file, beside it."""


FileIdentity = tuple[int, int]
"""Device and inode: what tells a file from another that has its path by now."""


def file_identity(path: str) -> FileIdentity | None:
    """The file at `path`; None where there is none.

    Raises:
        OSError: it cannot be told, as in a directory that is not ours to look into.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def file_names(path: str) -> list[str]:
    """The file, and all that may lie beside it: SQLite's, what is left of makers, and what was put aside."""
    from mopsjobs.utils.files import SUFFIX

    own = [path + suffix for suffix in ("", *BESIDE, ".build")]
    return [
        *own,
        *(name + SUFFIX for name in own),
        *(path + SUFFIX + suffix for suffix in BESIDE),
        *(path + suffix + LOST for suffix in BESIDE),
    ]


def create(path: str, fill: Callable[[sqlite3.Connection], None], patience: float = MAKING_SECONDS) -> None:
    """Make the file, for its owner alone, in WAL mode and on disk, unless somebody else does it first.

    It is made whole under another name and linked into place. Half-made, it would be nobody's: turning WAL on in a
    file that others have open fails instead of waiting, and whoever only reads cannot clear up after a killed maker.

    Makers wait for each other at a file of its own, and nobody but SQLite ever opens one that is a database: closing it
    again would give up the locks that other threads of this process have on it (POSIX has it so), and the next process
    to leave would take the WAL away from under them, with all that was acknowledged since.

    Args:
        path: where.
        fill: writes what is to be in it.
        patience: seconds to wait for somebody else who makes it.

    Raises:
        OSError: the directory does not take it; a `TimeoutError` where somebody else took longer.
        sqlite3.Error: the disk does not.
    """
    with creation_lock(path, patience):
        from mopsjobs.utils.files import SUFFIX

        _create(path, path + SUFFIX, fill)


@contextlib.contextmanager
def creation_lock(path: str, patience: float = MAKING_SECONDS) -> Iterator[None]:
    """Be the only one in the block, of all that make the file at that real path, or move it away.

    Raises:
        OSError: the directory does not take it; a `TimeoutError` where somebody was at it for `patience` seconds.
    """
    from mopsjobs.utils.files import atomic_file  # here: no listing needs it

    with atomic_file(path + ".build", 0o600, patience):
        yield


def _create(path: str, beside: str, fill: Callable[[sqlite3.Connection], None]) -> None:
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Of a maker that was killed. It may be another name of the file that it has made, so nobody writes to it.
        _remove(beside)
        # What is looked for and what is put aside lie in one directory, whatever is mounted over it meanwhile.
        if _has(directory, os.path.basename(path)):
            return
        os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            with contextlib.closing(sqlite3.connect(beside, isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                fill(connection)
                # Closing does it too, but says nothing of a disk that was full by then.
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not _has(directory, os.path.basename(path)):  # a disk may have been mounted since
                _put_aside_orphans(directory, os.path.basename(path))
            _put_in_place(beside, path)
        finally:
            _remove(beside)
    finally:
        os.close(directory)


def _remove(path: str) -> None:
    for suffix in ("", *BESIDE):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + suffix)


def _put_in_place(beside: str, path: str) -> None:
    try:
        os.link(beside, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links; of those who come this way, nobody else is here now
        if file_identity(path) is None:
            os.rename(beside, path)


def _put_aside_orphans(directory: int, name: str) -> None:
    """What lies beside a file that is gone must not come into the new one, as SQLite would have it.

    Whoever moved or removed the file alone has left its WAL, and in it perhaps the last writes: it stays, as `.lost`.
    """
    for orphan in (name + "-wal", name + "-journal"):
        if not _has(directory, orphan):
            continue
        if os.stat(orphan, dir_fd=directory).st_size == 0:
            os.unlink(orphan, dir_fd=directory)
            continue
        kept = orphan + LOST
        while _has(directory, kept):
            kept += "x"
        os.rename(orphan, kept, src_dir_fd=directory, dst_dir_fd=directory)
    if _has(directory, name + "-shm"):
        os.unlink(name + "-shm", dir_fd=directory)


def _has(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory)
    except FileNotFoundError:
        return False
    return True


def connect(path: str, *, writable: bool, busy_seconds: float, synchronous: str) -> sqlite3.Connection:
    """A connection to the file at `path`, which must be there. No transaction is begun that was not asked for.

    Args:
        path: the file.
        writable: whether to write.
        busy_seconds: how long to wait for others that hold it.
        synchronous: SQLite's level of durability, `FULL` or `NORMAL`.

    Raises:
        sqlite3.Error: it cannot be opened, or is no SQLite file.
    """
    if writable:
        return _connect(path, "mode=rw", busy_seconds, synchronous)
    try:
        return _connect(path, "mode=ro", busy_seconds, synchronous)
    except sqlite3.OperationalError as error:
        # In a directory that we may not write, or on a full disk, reading in WAL mode has no place for its shared
        # memory. Without a WAL nobody is writing, and the file can be read as it lies.
        if not os.access(path, os.R_OK):
            raise
        if not _is_filled(path + "-wal"):
            return _connect(path, "mode=ro&immutable=1", busy_seconds, synchronous)
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_IOERR or not os.access(path, os.W_OK):
            raise
        # Who has the file alone needs no shared memory: as long as this is open, others wait.
        return _connect(path, "mode=rw", busy_seconds, synchronous, alone=True)


def _is_filled(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0
    except FileNotFoundError:
        return False


def _connect(
    path: str, options: str, busy_seconds: float, synchronous: str, *, alone: bool = False
) -> sqlite3.Connection:
    # The three characters that mean something in a SQLite URI; urllib would cost 3 ms, on the way to every listing.
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    connection = sqlite3.connect(
        f"file:{quoted}?{options}", uri=True, timeout=busy_seconds, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        if alone:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        # SQLite opens lazily: only this finds out whether the file can be used.
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection

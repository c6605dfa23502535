"""The cache file: open it to read or to write, move a damaged one aside, refuse one of a newer version.

Its mode is 0600, since names and errors of jobs are private. It is in WAL mode, so that readers never wait for a sync.
It has a busy timeout, so that writers wait for each other instead of failing. With `synchronous=NORMAL`, a power cut
may lose the last transactions, which the next sync brings back; it cannot damage the file. See
docs/decisions/0021-the-cache-file.md.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import stat
from collections.abc import Iterator

from mopsjobs.errors import CacheError, UsageError
from mopsjobs.utils.sqlite_file import connect, create, creation_lock

SCHEMA_VERSION = 26
"""`PRAGMA user_version` of a cache whose tables are those of schema.sql."""

NEW_SCHEMA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "schema.sql")

APPLICATION_ID = 0x6D6F7063
"""Marks a file as a cache in its header ("mopc"). Any other file at its path is left unchanged."""

_APPLICATION_ID_OFFSET = 68
"""Offset in the header: https://www.sqlite.org/fileformat.html, "Application ID"."""

BUSY_SECONDS = 30.0
"""How long a writer waits for other writers. Their transactions are single batches of milliseconds."""

_OTHER_PATH_HINT = "Use another path: --cache PATH."


class OtherCacheError(UsageError):
    """The cache mirrors another registry."""


class DamagedCacheError(CacheError):
    """The file is not an SQLite database, or is damaged. It can be rebuilt from the registry."""


def open_to_read(path: str, registry_id: str) -> sqlite3.Connection | None:
    """Open the cache to read; return None if it does not exist, or was never filled.

    Raises:
        CacheError: if the file is damaged, or from a newer mops-jobs.
        OtherCacheError: if it mirrors another registry.
        UsageError: if it is not a cache.
    """
    if not _is_file(path):
        return None
    with translate_sqlite_errors(path):
        connection = _connect(path, writable=False)
        with contextlib.ExitStack() as stack:
            stack.callback(connection.close)
            version = _schema_version(connection, path)
            if version == SCHEMA_VERSION:
                _check_registry(connection, path, registry_id)
                stack.pop_all()
                return connection
        _check_not_newer(path, version)
        return open_to_read(path, registry_id) if version and _upgrade(path, registry_id) else None


def open_to_write(path: str, registry_id: str, busy_seconds: float = BUSY_SECONDS) -> sqlite3.Connection:
    """Open the cache to write. It is created or rebuilt first. Wait up to `busy_seconds` for other writers.

    Raises:
        CacheError: if the file is damaged or from a newer mops-jobs, or its directory cannot be written.
        OtherCacheError: if it mirrors another registry.
        UsageError: if it is not a cache.
    """
    with translate_sqlite_errors(path):
        try:
            from mopsjobs.utils.files import make_directory  # here: no listing needs it

            make_directory(os.path.dirname(path))
            _create_if_missing(path, registry_id, busy_seconds)
        except OSError as error:
            raise cannot_write(path, error.strerror) from None
        connection = _connect(path, writable=True, busy_seconds=busy_seconds)
        try:
            version = _schema_version(connection, path)
            if version != SCHEMA_VERSION:
                _check_not_newer(path, version)
                _rebuild(connection, path, registry_id)
            _check_registry(connection, path, registry_id)
        except BaseException:
            connection.close()
            raise
    return connection


def is_emptied(path: str) -> bool:
    """Return True if the file exists and is empty. A cache is created with its tables, so it was emptied."""
    try:
        return os.stat(path).st_size == 0
    except OSError:
        return False


def is_current(connection: sqlite3.Connection) -> bool:
    """Return True if an open cache still has the schema of this version. A newer mops-jobs may have changed it."""
    return bool(connection.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION)


@functools.cache
def new_schema() -> str:
    """Return the script that creates the tables, without comments: tables, indexes, views, and an id.

    It is read once: the program's files may be removed under a server.
    """
    with open(NEW_SCHEMA, encoding="utf-8") as script:
        return "".join(line for line in script if not line.startswith(("--", "\n")))


def check_is_cache(path: str) -> None:
    """Refuse a damaged file that was never a cache: at a path that the user named, it may be the user's own.

    Raises:
        UsageError: if it is not a cache.
    """
    if not _is_sound(path) and not _has_cache_header(path):
        raise _not_a_cache_error(path)


def quarantine(path: str, stamp: str) -> str | None:
    """Move a damaged cache aside, and return its new path; None if another process has just done so.

    Nothing is deleted.

    Args:
        path: the cache.
        stamp: the time, for the new name.

    Raises:
        CacheError: if its directory cannot be written.
    """
    with _cache_lock(path):
        if _is_sound(path):
            return None
        path = os.path.realpath(path)  # as SQLite does: files beside a link do not belong to the cache
        target = f"{path}.damaged-{stamp}"
        while os.path.exists(target):
            target += "x"
        try:
            os.replace(path, target)
        except FileNotFoundError:  # removed by another process
            return None
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.replace(path + suffix, target + suffix)
        return target


@contextlib.contextmanager
def translate_sqlite_errors(path: str) -> Iterator[None]:
    """Turn errors of sqlite3 over the cache at `path` into `CacheError`, or `DamagedCacheError` if it is damaged."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if str(error).startswith("user-defined function raised"):  # Ctrl-C within a search by a regular expression
            from mopsjobs.cache.queries.matching import raise_search_error

            raise_search_error()
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        # A missing table in a cache of the current schema is damage too.
        is_incomplete = str(error).startswith(("no such table", "no such column"))
        if is_incomplete or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT):
            raise DamagedCacheError(f"The cache {path} is damaged: {error}.") from None
        if isinstance(error, sqlite3.OperationalError):
            raise CacheError(f"Cannot use the cache {path}: {error}.", hint=_OTHER_PATH_HINT) from None
        raise


def cannot_write(path: str, reason: str | None) -> CacheError:
    """Return the error of a cache that cannot be created or changed."""
    return CacheError(f"Cannot write the cache {path}: {reason}.", hint=_OTHER_PATH_HINT)


def _connect(path: str, *, writable: bool, busy_seconds: float = BUSY_SECONDS) -> sqlite3.Connection:
    return connect(path, writable=writable, busy_seconds=busy_seconds, synchronous="NORMAL")


def _is_file(path: str) -> bool:
    """Return True if the file exists.

    Raises:
        UsageError: if something else is there: a directory, or a pipe, at which opening would wait.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    if not stat.S_ISREG(mode):
        raise _not_a_cache_error(path)
    return True


def _is_sound(path: str) -> bool:
    if not os.path.exists(path):
        return True
    try:
        with translate_sqlite_errors(path), contextlib.closing(_connect(path, writable=True)) as connection:
            if _schema_version(connection, path) == SCHEMA_VERSION:
                connection.execute("SELECT 1 FROM job, job_label, problem, meta, counter, pruned LIMIT 1").fetchone()
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")
    except DamagedCacheError:
        return False


def _has_cache_header(path: str) -> bool:
    """Return True if a damaged file was a cache. Closing one in use would release the locks on it."""
    try:
        with open(path, "rb") as file:
            header = file.read(_APPLICATION_ID_OFFSET + 4)
    except FileNotFoundError:  # removed by another process
        return True
    except PermissionError:
        return False
    application_id = int.from_bytes(header[_APPLICATION_ID_OFFSET:], "big")
    return not header or (header.startswith(b"SQLite format 3\0") and application_id == APPLICATION_ID)


def _schema_version(connection: sqlite3.Connection, path: str) -> int:
    """Return the schema of the cache, 0 for an empty file.

    Raises:
        UsageError: if the file is not a cache.
    """
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application_id != APPLICATION_ID and (application_id or tables):
        raise _not_a_cache_error(path)
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _check_not_newer(path: str, version: int) -> None:
    if version > SCHEMA_VERSION:
        raise CacheError(
            f"The cache {path} was made by a newer mops-jobs (schema {version}, this one knows {SCHEMA_VERSION}).",
            hint="Use the newer version, or another cache: --cache PATH.",
        )


def _check_registry(connection: sqlite3.Connection, path: str, registry_id: str) -> None:
    row = connection.execute("SELECT value FROM meta WHERE name = 'registry'").fetchone()
    if row is not None and row[0] != registry_id:
        raise OtherCacheError(
            f"The cache {path} mirrors {row[0]}, not {registry_id}.",
            hint="Leave out --cache: each registry has a cache of its own.",
        )


def _create_if_missing(path: str, registry_id: str, busy_seconds: float) -> None:
    """Create the cache with its tables, unless it exists. SQLite gives the WAL its mode.

    Only SQLite may open an existing cache. By POSIX, closing a second descriptor would release the locks that this
    process has on the file. The next process to leave would then remove the WAL that is still in use.
    """

    def fill(connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.executescript(f"BEGIN;\n{new_schema()}COMMIT;")
        _finish(connection, registry_id)

    if not _is_file(path):
        create(os.path.realpath(path), fill, busy_seconds)


def _upgrade(path: str, registry_id: str) -> bool:
    open_to_write(path, registry_id).close()
    return True


def _rebuild(connection: sqlite3.Connection, path: str, registry_id: str) -> None:
    """Make a cache of an older version, or an empty file, one of this version, with the rows that it has."""
    from mopsjobs.cache.schema import rebuild
    from mopsjobs.cache.sync_state import transaction

    # Switching to WAL does not wait for other connections, it fails. So one process at a time does it.
    with _cache_lock(path):
        if _schema_version(connection, path) == SCHEMA_VERSION:
            return
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        with transaction(connection):
            rebuild(connection, new_schema())
            _finish(connection, registry_id)


def _finish(connection: sqlite3.Connection, registry_id: str) -> None:
    """Note which registry the cache mirrors, and that its schema is current."""
    connection.execute("INSERT INTO meta VALUES ('registry', ?) ON CONFLICT DO NOTHING", (registry_id,))
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


@contextlib.contextmanager
def _cache_lock(path: str) -> Iterator[None]:
    """Hold the lock for creating, rebuilding or moving the cache.

    Raises:
        CacheError: if its directory cannot be written.
    """
    try:
        with creation_lock(os.path.realpath(path)):
            yield
    except OSError as error:
        raise cannot_write(path, error.strerror) from None


def _not_a_cache_error(path: str) -> UsageError:
    return UsageError(f"{path} is not a cache of mops-jobs; it is left unchanged.", hint=_OTHER_PATH_HINT)

"""The cache file: opened to read or to write, set aside when damaged, refused when from the future.

Mode 0600, since names and errors of jobs are not everybody's business. WAL, so that readers never wait for a sync,
and a busy timeout, so that writers wait for each other instead of failing. `synchronous=NORMAL`: a power cut may cost
the last transactions of a mirror, which the next sync brings back; it cannot damage the file.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import stat
from collections.abc import Iterator

from mopsjobs.errors import CacheError, UsageError
from mopsjobs.utils.files import make_directory
from mopsjobs.utils.sqlite_file import connect, create, creation_lock

SCHEMA_VERSION = 5
"""What `PRAGMA user_version` of a current cache says: how many migrations schema.py has."""


NEW_SCHEMA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "schema.sql")
"""Makes a new cache, without the migrations of schema.py, which take longer to import than a listing takes."""


APPLICATION_ID = 0x6D6F7063
"""Marks the file as ours in its header ("mopc"): whatever else lies where the cache should be is left alone."""


_MARK_AT = 68
"""Where the header has it: https://www.sqlite.org/fileformat.html, "Application ID"."""


BUSY_SECONDS = 30.0
"""How long a writer waits for others. Their transactions are single batches, milliseconds each."""


_ELSEWHERE = "Name another place: --cache PATH."


def open_to_read(path: str, registry_id: str) -> sqlite3.Connection | None:
    """A read-only connection to the cache; None when there is none, or one that was never begun.

    Raises:
        CacheError: the file is damaged, or a newer mops-jobs has made it.
        OtherCacheError: it mirrors another registry.
        UsageError: it is no cache.
    """
    if not _is_file(path):
        return None
    with translate_sqlite_errors(path):
        connection = _connect(path, writable=False)
        version = _schema_version(connection, path)
        if version != SCHEMA_VERSION:
            connection.close()
            _refuse_future(path, version)
            return open_to_read(path, registry_id) if version and _upgrade(path, registry_id) else None
        _check_registry(connection, path, registry_id)
    return connection


def _is_file(path: str) -> bool:
    """Whether there is a file.

    Raises:
        UsageError: what is there is none: a directory, or a pipe, which whoever opens it would wait at.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    if not stat.S_ISREG(mode):
        raise _not_ours(path)
    return True


def is_emptied(path: str) -> bool:
    """Whether the file is there and has nothing in it. A cache is made with its tables, so somebody has emptied it."""
    try:
        return os.stat(path).st_size == 0
    except OSError:
        return False


def is_current(connection: sqlite3.Connection) -> bool:
    """Whether an open cache still has the schema of this version: a newer mops-jobs may have changed it meanwhile."""
    return bool(connection.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION)


def open_to_write(path: str, registry_id: str, patience: float = BUSY_SECONDS) -> sqlite3.Connection:
    """A connection to the cache, which is made or brought up to date first. Waits `patience` seconds for others.

    Raises:
        CacheError: the file is damaged or from a newer mops-jobs, or its directory cannot be written.
        OtherCacheError: it mirrors another registry.
        UsageError: it is no cache.
    """
    with translate_sqlite_errors(path):
        try:
            make_directory(os.path.dirname(path))
            _make(path, registry_id, patience)
        except OSError as error:
            raise cannot_write(path, error.strerror) from None
        connection = _connect(path, writable=True, patience=patience)
        try:
            version = _schema_version(connection, path)
            if version != SCHEMA_VERSION:
                _refuse_future(path, version)
                _build(connection, path, registry_id)
            _check_registry(connection, path, registry_id)
        except BaseException:
            connection.close()
            raise
    return connection


@functools.cache
def new_schema() -> str:
    """The script that makes the tables of a new cache, read once: the program's files may be removed under a server."""
    with open(NEW_SCHEMA, encoding="utf-8") as script:
        return script.read()


def _make(path: str, registry_id: str, patience: float) -> None:
    """Make the cache, whole, unless there is one. SQLite gives the WAL its mode.

    One that is there must not be opened by anything but SQLite: closing it again would release the locks that this
    process has on it (that is how POSIX has it), and the next process to leave would take the WAL away from under it.
    """

    def fill(connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.executescript(f"BEGIN;\n{new_schema()}COMMIT;")
        _mark(connection, registry_id)

    if not _is_file(path):
        create(os.path.realpath(path), fill, patience)


def check_is_cache(path: str) -> None:
    """Refuse a damaged file that has never been a cache: where the user named it, it may be the user's own.

    Raises:
        CacheError: it was one, in a directory that cannot be written.
        UsageError: it is no cache.
    """
    try:
        with creation_lock(os.path.realpath(path)):
            is_foreign = not _is_sound(path) and not _begins_as_cache(path)
    except OSError as error:
        # Where files can be made, another may be in its place by now, and in use.
        if isinstance(error, TimeoutError) or _begins_as_cache(path):
            raise cannot_write(path, error.strerror) from None
        is_foreign = True
    if is_foreign:
        raise _not_ours(path)


def quarantine(path: str, stamp: str) -> str | None:
    """Move a damaged cache out of the way, and return its new path; None when somebody else has just done so.

    Nothing is deleted.

    Args:
        path: the cache.
        stamp: what tells this time from others.

    Raises:
        CacheError: its directory cannot be written.
    """
    with _alone(path):
        if _is_sound(path):
            return None
        path = os.path.realpath(path)  # as SQLite has it: what lies beside a link is not the cache's
        aside = f"{path}.damaged-{stamp}"
        while os.path.exists(aside):
            aside += "x"
        try:
            os.replace(path, aside)
        except FileNotFoundError:  # somebody has removed it
            return None
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.replace(path + suffix, aside + suffix)
        return aside


@contextlib.contextmanager
def _alone(path: str) -> Iterator[None]:
    """Be the only one that makes, upgrades or moves the cache.

    Raises:
        CacheError: its directory cannot be written.
    """
    try:
        with creation_lock(os.path.realpath(path)):
            yield
    except OSError as error:
        raise cannot_write(path, error.strerror) from None


def cannot_write(path: str, why: str | None) -> CacheError:
    """The error of a cache that cannot be made, or not be changed."""
    return CacheError(f"Cannot write the cache {path}: {why}.", hint=_ELSEWHERE)


def _begins_as_cache(path: str) -> bool:
    """Whether a damaged file was a cache of ours. Closing one that is in use would give up the locks on it."""
    try:
        with open(path, "rb") as file:
            header = file.read(_MARK_AT + 4)
    except FileNotFoundError:  # somebody has removed it
        return True
    except PermissionError:
        return False
    mark = int.from_bytes(header[_MARK_AT:], "big")
    return not header or (header.startswith(b"SQLite format 3\0") and mark == APPLICATION_ID)


def _not_ours(path: str) -> UsageError:
    return UsageError(f"{path} is no cache of mops-jobs; it is left alone.", hint=_ELSEWHERE)


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


class OtherCacheError(UsageError):
    """The cache mirrors another registry."""


class DamagedCacheError(CacheError):
    """The file is no SQLite database, or not one that can be read any more. It can be rebuilt from the registry."""


def _connect(path: str, *, writable: bool, patience: float = BUSY_SECONDS) -> sqlite3.Connection:
    return connect(path, writable=writable, busy_seconds=patience, synchronous="NORMAL")


def _schema_version(connection: sqlite3.Connection, path: str) -> int:
    """The schema of the cache, 0 for a file that is still empty.

    Raises:
        UsageError: the file is somebody else's.
    """
    (mark,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if mark != APPLICATION_ID and (mark or tables):
        connection.close()
        raise _not_ours(path)
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _refuse_future(path: str, version: int) -> None:
    if version > SCHEMA_VERSION:
        raise CacheError(
            f"The cache {path} was made by a newer mops-jobs (schema {version}, this one knows {SCHEMA_VERSION}).",
            hint="Use the newer version, or another cache: --cache PATH.",
        )


def _upgrade(path: str, registry_id: str) -> bool:
    open_to_write(path, registry_id).close()
    return True


def _build(connection: sqlite3.Connection, path: str, registry_id: str) -> None:
    """Bring a cache of an older version, or a file that is still empty, up to date."""
    from mopsjobs.cache.schema import migrate

    # Turning WAL on does not wait for other connections, it fails: so one builder at a time.
    with _alone(path):
        if _schema_version(connection, path) == SCHEMA_VERSION:
            return
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        migrate(connection)
        _mark(connection, registry_id)


def _mark(connection: sqlite3.Connection, registry_id: str) -> None:
    """Say whose the cache is, and that it is up to date."""
    connection.execute("INSERT INTO meta VALUES ('registry', ?) ON CONFLICT DO NOTHING", (registry_id,))
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _check_registry(connection: sqlite3.Connection, path: str, registry_id: str) -> None:
    row = connection.execute("SELECT value FROM meta WHERE name = 'registry'").fetchone()
    if row is not None and row[0] != registry_id:
        raise OtherCacheError(
            f"The cache {path} mirrors {row[0]}, not {registry_id}.",
            hint="Leave --cache out: each registry has its own.",
        )


@contextlib.contextmanager
def translate_sqlite_errors(path: str) -> Iterator[None]:
    """Turn what sqlite3 raises over the cache at `path` into a `CacheError`, a `DamagedCacheError` where it is that."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if str(error).startswith("user-defined function raised"):  # what ended the search of a regular expression
            from mopsjobs.cache.queries.matching import raise_kept

            raise_kept()
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        # A table that is gone from a cache of the right schema is damage too, of another kind.
        is_torn = str(error).startswith(("no such table", "no such column"))
        if is_torn or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT):
            raise DamagedCacheError(f"The cache {path} is damaged: {error}.") from None
        if isinstance(error, sqlite3.OperationalError):
            raise CacheError(f"Cannot use the cache {path}: {error}.", hint=_ELSEWHERE) from None
        raise

"""Put records into the cache that a command of this machine has read or written, so that each later view shows them.

A command notes the version of the cached row before its request to the registry. If the row still has that version
afterwards, the record is the newer one, whatever the clocks of its writers say. Only if another command or a sync has
replaced the row meanwhile, the contents decide. See docs/decisions/0039-later-views-show-at-least-that.md.
"""

from __future__ import annotations

import contextlib
import sqlite3

from mopsjobs.cache import rows, sync_state
from mopsjobs.cache.database import open_to_read, open_to_write, translate_sqlite_errors
from mopsjobs.cache.job_row import JobRow
from mopsjobs.cache.pruning import pruned_relatives
from mopsjobs.store.base import Versioned

PATIENCE_SECONDS = 5.0
"""How long a command waits for other writers of the cache. The next sync brings the record anyway."""


def cached_version(path: str, registry_id: str, job_id: str, key: str) -> str | None:
    """Return the version of a record that the cache has, or has pruned; None if it has none.

    A pruned job is as one that the cache has not, if it has parent or child: a family is pruned as one.

    Raises:
        CacheError: if the cache cannot be read.
    """
    connection = open_to_read(path, registry_id)
    if connection is None:
        return None
    with contextlib.closing(connection), translate_sqlite_errors(path):
        return _version(connection, job_id, key)


def write_through(
    path: str, registry_id: str, job_id: str, key: str, record: Versioned, before: str | None
) -> set[str]:
    """Write a record into the cache, unless the row there is newer.

    The row gets the generation after that of the last sync that began. So a sync that runs right now does not replace
    it, and the next one does if the record has changed.

    Args:
        path: the cache; created if it does not exist.
        registry_id: the identity of the registry.
        job_id: the job.
        key: the key of the record.
        record: the record, and its version.
        before: what `cached_version` returned before the record was read or written.

    Returns:
        The pruned relatives of the job: they are to be read, and come back.

    Raises:
        CacheError: if the cache cannot be written.
    """
    connection = open_to_write(path, registry_id, busy_seconds=PATIENCE_SECONDS)
    with contextlib.closing(connection), translate_sqlite_errors(path), sync_state.transaction(connection):
        generation = sync_state.last_generation(connection) + 1
        mirrored = rows.to_row(key, job_id, record.value, record.version, generation)
        if isinstance(mirrored, rows.Problem):
            return set()
        row = mirrored.row
        cached = _version(connection, job_id, key)
        if cached == record.version.value or (cached != before and _is_cached_newer(connection, row, record.value)):
            return set()
        sync_state.set_meta(connection, {sync_state.REGISTRY_FILE: ""})  # the row may be older than the last sync
        rows.write_rows(connection, [mirrored])
        rows.replace_problems(connection, [key], [] if mirrored.problem is None else [mirrored.problem])
        return pruned_relatives(connection, job_id)


def _version(connection: sqlite3.Connection, job_id: str, key: str) -> str | None:
    found = connection.execute(
        "SELECT version FROM job WHERE key = ?1 UNION ALL SELECT version FROM pruned WHERE key = ?1"
        " AND NOT EXISTS (SELECT 1 FROM job WHERE parent_job_id = ?2)"
        " AND NOT EXISTS (SELECT 1 FROM job WHERE job_id = pruned.parent_job_id)",
        (key, job_id),
    ).fetchone()
    return None if found is None else str(found[0])


def _is_cached_newer(connection: sqlite3.Connection, row: JobRow, record: bytes) -> bool:
    """Return True if the cached row is newer by its contents: of a later registration, ended, or changed later.

    The time of a change comes before the revision, since another program may drop the revision.
    """
    found = connection.execute(
        "SELECT created_ts - ?2 >= ?6 OR (abs(created_ts - ?2) < ?6 AND"
        " (NOT is_active, changed_ts, CAST(json_extract(record, '$.revision') AS INTEGER))"
        " > (?3, ?4, CAST(json_extract(?5, '$.revision') AS INTEGER)))"
        " FROM job WHERE job_id = ?1",
        (row.job_id, row.created_ts, not row.is_active, row.changed_ts, record.decode(), rows.ROUNDING_SECONDS),
    ).fetchone()
    return found is not None and bool(found[0])


def mark_suspect(connection: sqlite3.Connection, job_id: str, reason: str) -> None:
    """Mark an active job as suspect in this cache alone, until its record changes."""
    connection.execute("UPDATE job SET suspect = ? WHERE job_id = ? AND is_active = 1", (reason, job_id))

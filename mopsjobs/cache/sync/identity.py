"""Check that the registry is still the one that the cache mirrors.

mops-jobs never deletes a record. So a registry that has none of the jobs of the last sync has lost its data, or is
another one. Its container was deleted, or its disk is not mounted. It need not be empty: new jobs may have been
reported to it. A runner whose record is missing also registers its job again, under the same id.

So each sync stores a few records that it saw, the witnesses, and the next sync checks that one of them still exists.
Later writes of this machine prove nothing, since they may have gone to the new registry. See
docs/decisions/0006-registry-identity.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from typing import NamedTuple

from mopsjobs.cache import sync_state
from mopsjobs.cache.database import OtherCacheError, is_emptied, open_to_read, translate_sqlite_errors
from mopsjobs.cache.rows import ROUNDING_SECONDS
from mopsjobs.errors import (
    CacheError,
    RecordError,
    StoreError,
    StoreUnavailableError,
    UsageError,
    ValueTooLargeError,
    command_line,
)
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.utils.text import pluralize
from mopsjobs.utils.times import parse_time

MAX_WITNESSES = 4
"""Witnesses. The first one is nearly always enough; the others save a listing if it was removed."""

_UNKNOWN = "whether it had jobs is unknown"


class _Witness(NamedTuple):
    """A record as a sync saw it."""

    key: str
    version: str
    created: float | None
    """When its job was registered, in seconds since 1970; None for a job that the cache has pruned."""


def remember_witnesses(connection: sqlite3.Connection, generation: int) -> None:
    """Store witnesses from the records that a complete sync has seen. The caller holds the transaction.

    They are the records that changed last: a rule of the store that removes old jobs leaves these.
    """
    witnesses = _last_changed(connection, generation)
    if not any(witness.created for witness in witnesses) and sync_state.known_jobs(connection):
        # Only pruned jobs, without a time, or jobs that were written during the sync: the earlier witnesses are better.
        witnesses = _stored_witnesses(connection) or witnesses
    sync_state.set_meta(connection, {sync_state.WITNESSES: json.dumps(witnesses)})


def check_same_registry(registry: JobRegistry, connection: sqlite3.Connection) -> bool:
    """Refuse a registry that has none of the records of the last sync. It costs one read in nearly all cases.

    Returns:
        True if the first witness exists. False if only others do: then a program has removed records.

    Raises:
        StoreUnavailableError: if it is another registry, or has lost its data.
    """
    synced = int(sync_state.get_meta(connection, sync_state.SYNCED_GENERATION) or 0)
    witnesses = _stored_witnesses(connection) or _last_changed(connection, synced)
    for witness in witnesses:
        if _is_there(registry, witness):
            return witness is witnesses[0]
    if witnesses and not _is_any_there(registry, connection, synced):
        check_not_emptied(connection)
    return not witnesses


def check_not_emptied(connection: sqlite3.Connection, generation: int | None = None) -> None:
    """Refuse a registry without records if the cache knows any.

    Args:
        connection: the cache.
        generation: that of the sync whose listing was empty. Younger rows are of jobs that came after that listing.

    Raises:
        StoreUnavailableError: if the cache knows records.
    """
    if count := sync_state.known_jobs(connection, generation):
        raise StoreUnavailableError(
            "The registry is empty, gone or replaced: no record of the last sync exists. The cache keeps its"
            f" {pluralize(count, 'job')} until sync --full.",
            hint=f"Mount its disk, or use the right registry. To accept it as it is: {command_line('sync --full')}",
        )


def evidence_of_registry(path: str, registry_id: str, *, is_default: bool) -> str | None:
    """Return what the cache at `path` says about a registry that is missing: that it existed, or that this is unknown.

    Return None without evidence: if there is no cache, or one of another registry, or the user named another kind of
    file.

    Args:
        path: the cache.
        registry_id: the registry that it should mirror.
        is_default: whether the path is the default one, where only a cache can be.
    """
    if not os.path.isfile(path):
        return None
    try:
        # Without a repair: a damaged cache that was rebuilt would know nothing.
        connection = open_to_read(path, registry_id)
        if connection is None:
            return f"{_UNKNOWN} (The cache {path} is empty)" if is_default and is_emptied(path) else None
        with contextlib.closing(connection), translate_sqlite_errors(path):
            count = sync_state.known_jobs(connection)
            is_complete = sync_state.get_meta(connection, sync_state.SYNCED_AT)
    except OtherCacheError:
        return None
    except UsageError as error:
        return f"{_UNKNOWN} ({error.message.rstrip('.')})" if is_default else None
    except CacheError as error:
        return f"{_UNKNOWN} ({error.message.rstrip('.')})"
    return f"it had {pluralize(count, 'job') if is_complete else 'jobs'}" if count else None


def _stored_witnesses(connection: sqlite3.Connection) -> list[_Witness]:
    return [_Witness(*fields) for fields in json.loads(sync_state.get_meta(connection, sync_state.WITNESSES) or "[]")]


def _last_changed(connection: sqlite3.Connection, generation: int) -> list[_Witness]:
    jobs = connection.execute(
        "SELECT key, version, created_ts FROM job WHERE generation <= ? ORDER BY changed_ts DESC LIMIT ?",
        (generation, MAX_WITNESSES),
    )
    rows = jobs.fetchall() or connection.execute("SELECT key, version, NULL FROM pruned LIMIT ?", (MAX_WITNESSES,))
    return [_Witness(*row) for row in rows]


def _is_there(registry: JobRegistry, witness: _Witness) -> bool:
    try:
        found = registry.store.get(witness.key)
    except ValueTooLargeError:
        return True
    except StoreError:
        # The store may not send this record alone. An outage ends the listing too.
        entry = next(registry.store.scan(witness.key), None)
        return entry is not None and entry.key == witness.key and entry.version.value == witness.version
    return found is not None and _is_same(witness, found.version.value, found.value)


def _is_same(witness: _Witness, version: str, value: bytes) -> bool:
    """Return True if a present record is that of the witness, changed or not, and not a new one with the same id."""
    if version == witness.version:
        return True
    if witness.created is None:
        return False
    try:
        created = parse_time(JobState.from_json(value).created_at).timestamp()
    except RecordError:  # damaged, but not another record
        return True
    return abs(created - witness.created) < ROUNDING_SECONDS


def _is_any_there(registry: JobRegistry, connection: sqlite3.Connection, synced: int) -> bool:
    """Return True if the registry has any record of the last sync. It lists until it finds one."""
    for entry in registry.scan():
        row = connection.execute(
            "SELECT version, created_ts FROM job WHERE key = ?1 AND generation <= ?2"
            " UNION ALL SELECT version, NULL FROM pruned WHERE key = ?1",
            (entry.key, synced),
        ).fetchone()
        if row is not None and (entry.version.value == row[0] or _is_there(registry, _Witness(entry.key, *row))):
            return True
    return False

"""Is the registry still the one that the cache mirrors?

Nothing of ours deletes a record. So a registry that has none of the jobs of the last sync has lost its data, or is
another one: a container was deleted, a disk is not mounted. What came in its place need not be empty, since somebody
may have reported a job to it; and a runner that misses its record registers its job anew, under the same id.

So each sync remembers a few records that it saw, and the next one looks whether one of them is still there. What this
machine has written since proves nothing, since it may have gone to the new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from typing import NamedTuple

from mopsjobs.cache import sync_state
from mopsjobs.cache.database import OtherCacheError, is_emptied, open_to_read, translate_sqlite_errors
from mopsjobs.errors import CacheError, RecordError, StoreUnavailableError, UsageError, ValueTooLargeError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.utils.times import parse_time

COUNT = 4
"""Records that are remembered. The first is enough nearly always; the others save a listing where that was removed."""


ROUNDING_SECONDS = 1.0
"""So much a program may change of a time that it only writes again: some keep no fractions of a second."""


class _Witness(NamedTuple):
    """A record as a sync saw it."""

    key: str
    version: str
    created: float | None
    """When its job was registered, in seconds since 1970; None of a job that the cache has pruned."""


def remember_witnesses(connection: sqlite3.Connection, generation: int) -> None:
    """Remember records that the sync of that generation, which is complete, has seen. The caller holds the transaction.

    Those that changed last: whoever removes old jobs by a rule of the store leaves these.
    """
    found = _seen(connection, generation)
    if not any(witness.created for witness in found) and sync_state.known_jobs(connection):
        # Pruned jobs alone, of which less is known, or jobs that were written to while it synced: the old ones will do.
        found = _remembered(connection) or found
    sync_state.set_meta(connection, {sync_state.WITNESSES: json.dumps(found)})


def check_same_registry(registry: JobRegistry, connection: sqlite3.Connection) -> bool:
    """Refuse a registry that has none of the records of the last sync.

    Returns:
        Whether the first one looked for was there; else others were, and somebody has removed some without a word.

    Raises:
        StoreUnavailableError: it is another one, or has lost its data.
    """
    synced = int(sync_state.get_meta(connection, sync_state.SYNCED_GENERATION) or 0)
    witnesses = _remembered(connection) or _seen(connection, synced)
    for witness in witnesses:
        if _is_there(registry, witness):
            return witness is witnesses[0]
    if witnesses and not _is_any_there(registry, connection, synced):
        check_not_emptied(connection)
    return not witnesses


def check_not_emptied(connection: sqlite3.Connection) -> None:
    """Refuse a registry without a record that the cache knows; does nothing where the cache knows none.

    Raises:
        StoreUnavailableError: it knows some.
    """
    if count := sync_state.known_jobs(connection):
        raise StoreUnavailableError(
            "The registry is empty or gone, or another one: no record of the last sync is there. The cache keeps its"
            f" {_jobs(count)} until sync --full.",
            hint="Mount its disk, or name the right one. To take it as it is: mops-jobs sync --full",
        )


def evidence_of_registry(path: str, registry_id: str, *, is_default: bool) -> str | None:
    """What the cache at `path` says of a registry that is not there: that it was, or that nobody can tell.

    None where nothing says so: there is no cache, or one of another registry; or what the user has named is none.

    Args:
        path: the cache.
        registry_id: whose it should be.
        is_default: whether the path is of our own choosing, where nothing but a cache has ever been.
    """
    if not os.path.isfile(path):
        return None
    try:
        # As it lies: one that is damaged, and made anew, would know of nothing.
        connection = open_to_read(path, registry_id)
        if connection is None:
            return f"{_UNKNOWN} (The cache {path} is empty)" if is_default and is_emptied(path) else None
        with contextlib.closing(connection), translate_sqlite_errors(path):
            count, is_whole = sync_state.known_jobs(connection), sync_state.get_meta(connection, sync_state.SYNCED_AT)
    except OtherCacheError:
        return None
    except UsageError as error:
        return f"{_UNKNOWN} ({error.message.rstrip('.')})" if is_default else None
    except CacheError as error:
        return f"{_UNKNOWN} ({error.message.rstrip('.')})"
    return f"it had {_jobs(count) if is_whole else 'jobs'}" if count else None


_UNKNOWN = "whether it had jobs cannot be told"


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count:,} jobs"


def _remembered(connection: sqlite3.Connection) -> list[_Witness]:
    return [_Witness(*one) for one in json.loads(sync_state.get_meta(connection, sync_state.WITNESSES) or "[]")]


def _seen(connection: sqlite3.Connection, generation: int) -> list[_Witness]:
    jobs = connection.execute(
        "SELECT key, version, created_ts FROM job WHERE generation <= ? ORDER BY changed_ts DESC LIMIT ?",
        (generation, COUNT),
    )
    found = jobs.fetchall() or connection.execute("SELECT key, version, NULL FROM pruned LIMIT ?", (COUNT,))
    return [_Witness(*row) for row in found]


def _is_there(registry: JobRegistry, witness: _Witness) -> bool:
    try:
        found = registry.store.get(witness.key)
    except ValueTooLargeError:
        return True
    return found is not None and _is_same(witness, found.version.value, found.value)


def _is_same(witness: _Witness, version: str, value: bytes) -> bool:
    """Whether a record that is there now is the one that was seen, changed or not, and no other of the same id."""
    if version == witness.version:
        return True
    if witness.created is None:
        return False
    try:
        created = parse_time(JobState.from_json(value).created_at).timestamp()
    except RecordError:  # spoilt, not another
        return True
    return abs(created - witness.created) < ROUNDING_SECONDS


def _is_any_there(registry: JobRegistry, connection: sqlite3.Connection, synced: int) -> bool:
    """Whether the registry has any record that was seen: looks at all there is, until there is one."""
    for entry in registry.scan():
        row = connection.execute(
            "SELECT version, created_ts FROM job WHERE key = ?1 AND generation <= ?2"
            " UNION ALL SELECT version, NULL FROM pruned WHERE key = ?1",
            (entry.key, synced),
        ).fetchone()
        if row is not None and (entry.version.value == row[0] or _is_there(registry, _Witness(entry.key, *row))):
            return True
    return False

"""Let a first sync create most indexes of jobs after the rows, since each row goes to another place in each of them.

With the indexes, a row takes the longer, the more rows there are. Their statements lie in the notes of the cache from
the transaction that drops them to the one that creates them. So after a kill, the next sync creates them. A cache that
was ever synced has all its indexes. See docs/decisions/0066-indexes-after-the-rows.md.
"""

from __future__ import annotations

import json
import sqlite3

from mopsjobs.cache import sync_state

MIN_JOBS = 2000
"""New jobs after which indexes are deferred. Creating an index reads all rows again.

A listing does not tell how many jobs follow. So 4,000 jobs take 0.06 s more than with all indexes; 10,000 take 0.3 s
less. A higher number would only move the loss to larger registries, and take from the gain of 10,000.
"""

NEEDED_INDEXES = ("idx_job_key", "idx_job_active", "idx_job_parent")
"""Indexes that syncs, completions and families need meanwhile. They get rows in the order of a sync, or only a few."""


def defer_indexes(connection: sqlite3.Connection) -> None:
    """Drop the other indexes of jobs, unless a sync of this cache was complete."""
    with sync_state.transaction(connection):
        if sync_state.get_meta(connection, sync_state.SYNCED_AT):
            return
        found = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'job' AND sql IS NOT NULL"
            " ORDER BY rowid"
        )
        dropped = {name: sql for name, sql in found.fetchall() if name not in NEEDED_INDEXES}
        for name in dropped:
            connection.execute(f'DROP INDEX "{name}"')
        if dropped:
            _note(connection, _deferred(connection) | dropped)


def create_indexes(connection: sqlite3.Connection) -> None:
    """Create the deferred indexes, each in a transaction of its own, so that other writers wait for one at most."""
    while _deferred(connection):
        with sync_state.transaction(connection):
            _create_next(connection)


def create_rest(connection: sqlite3.Connection) -> None:
    """Create what another first sync has deferred since `create_indexes`.

    The caller holds the transaction in which the cache becomes a synced one.
    """
    while _deferred(connection):
        _create_next(connection)


def _create_next(connection: sqlite3.Connection) -> None:
    deferred = _deferred(connection)
    if deferred:  # else another sync has created them
        name = next(iter(deferred))  # in the order of the schema
        connection.execute(deferred.pop(name))
        _note(connection, deferred)


def _deferred(connection: sqlite3.Connection) -> dict[str, str]:
    """Return the names and statements of the deferred indexes."""
    return dict(json.loads(sync_state.get_meta(connection, sync_state.DEFERRED_INDEXES) or "{}"))


def _note(connection: sqlite3.Connection, deferred: dict[str, str]) -> None:
    if deferred:
        sync_state.set_meta(connection, {sync_state.DEFERRED_INDEXES: json.dumps(deferred)})
    else:
        connection.execute("DELETE FROM meta WHERE name = ?", (sync_state.DEFERRED_INDEXES,))

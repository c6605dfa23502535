"""Let a first sync create most indexes of jobs after the rows, since each row goes to another place in each of them.

With the indexes, a row takes the longer, the more rows there are. A sync that was killed leaves a cache without them,
and the next one creates them. A cache that was ever synced has all its indexes. See
docs/decisions/0066-indexes-after-the-rows.md.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Mapping

from mopsjobs.cache import sync_state
from mopsjobs.cache.database import new_schema

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
        if not sync_state.get_meta(connection, sync_state.SYNCED_AT):
            for name in _deferrable():
                connection.execute(f"DROP INDEX IF EXISTS {name}")


def create_indexes(connection: sqlite3.Connection) -> None:
    """Create the deferred indexes, each in a transaction of its own, so that other writers wait for one at most."""
    if not sync_state.get_meta(connection, sync_state.SYNCED_AT):
        for statement in _deferrable().values():
            with sync_state.transaction(connection):
                connection.execute(statement)


def create_rest(connection: sqlite3.Connection) -> None:
    """Create what another first sync has deferred since `create_indexes`.

    The caller holds the transaction in which the cache becomes a synced one.
    """
    if not sync_state.get_meta(connection, sync_state.SYNCED_AT):
        for statement in _deferrable().values():
            connection.execute(statement)


@functools.cache
def _deferrable() -> Mapping[str, str]:
    """Return names and statements of the indexes that may come later, in the order of the schema."""
    statements = [text for text in new_schema().split(";\n") if text.startswith("CREATE INDEX") and " ON job " in text]
    return {
        name: text.replace("INDEX", "INDEX IF NOT EXISTS", 1)
        for text in statements
        if (name := text.split()[2]) not in NEEDED_INDEXES
    }

"""What the cache remembers of its syncs, and how concurrent syncs stay apart.

Each sync draws an even `generation`. A record that a command has read or written goes into the cache at once, with the
odd generation after it. A sync overwrites and removes only rows of its own generation or an older one. So what a sync
read before never replaces the row of that record. See docs/decisions/0005-cache-generations.md.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping

from mopsjobs.store.urls import is_local
from mopsjobs.utils.times import parse_time

GENERATION = "generation"

SYNCED_AT = "synced_at"

SYNCED_GENERATION = "synced_generation"

FULL_SYNCED_AT = "full_synced_at"

FULL_GENERATION = "full_generation"

LAST_SYNC = "last_sync"
"""The counts of the last complete sync, and its `seconds`, as a JSON object."""

REGISTRY_FILE = "registry_file"
"""The state of the file of an embedded registry whose records the cache has, all of them; empty if not known."""

WITNESSES = "witnesses"
"""A few records that the last complete sync saw; see sync/identity.py."""

FOREIGN_WRITES = "foreign_writes"
"""Whether the last full sync saw changes without announcements: `yes` or `no`; empty if it could not tell."""

FOREIGN_RECORDS = "foreign_records"
"""Whether other programs write records: `yes` from the first one that a sync saw until `sync --full`; else `no`."""


class SupersededError(Exception):
    """A sync that began later has completed; the rest of this one would be older."""


def last_generation(connection: sqlite3.Connection) -> int:
    """Return the generation of the last sync that began; 0 if there was none."""
    return int(get_meta(connection, GENERATION) or 0)


def next_generation(connection: sqlite3.Connection) -> int:
    """Draw a generation for a sync that begins."""
    generation = last_generation(connection) + 2
    set_meta(connection, {GENERATION: str(generation)})
    return generation


def known_jobs(connection: sqlite3.Connection, generation: int | None = None) -> int:
    """Count the jobs that the cache knows, pruned ones included; without rows that are younger than a generation."""
    row = connection.execute(
        "SELECT (SELECT count(*) FROM job WHERE ?1 IS NULL OR generation <= ?1) + (SELECT count(*) FROM pruned)",
        (generation,),
    ).fetchone()
    return int(row[0])


def known_to(connection: sqlite3.Connection, now: float) -> float:
    """Return up to when the cache knows what runners wrote, in seconds since 1970: silence is measured up to then.

    That is the begin of the last complete sync. Each view reads a registry on this machine, so that is known up to now.
    """
    names = (SYNCED_AT, "registry", "last_error")
    meta = dict(connection.execute("SELECT name, value FROM meta WHERE name IN (?, ?, ?)", names).fetchall())
    is_live = is_local(str(meta.get("registry"))) and not meta.get("last_error")
    return now if is_live or SYNCED_AT not in meta else min(now, parse_time(meta[SYNCED_AT]).timestamp())


def get_meta(connection: sqlite3.Connection, name: str) -> str | None:
    """Return the value under a name, or None."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def set_meta(connection: sqlite3.Connection, values: Mapping[str, str]) -> None:
    """Store values under their names. The caller holds the transaction."""
    connection.executemany("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", list(values.items()))


def read_one_state(connection: sqlite3.Connection) -> None:
    """Have all reads of this connection see one state of the cache, until its transaction ends."""
    if not connection.in_transaction:
        connection.execute("BEGIN")


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Run the block in one transaction. It waits for other writers at its begin, so it never fails in the middle."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


@contextlib.contextmanager
def transaction_if_latest(connection: sqlite3.Connection, generation: int, completed: str) -> Iterator[None]:
    """Run the block in a transaction of the sync of a generation.

    Args:
        connection: the cache, open to write.
        generation: that of the sync.
        completed: `SYNCED_GENERATION` or `FULL_GENERATION`: which completed syncs supersede this one.

    Raises:
        SupersededError: if a sync that began later has completed.
    """
    with transaction(connection):
        if int(get_meta(connection, completed) or 0) > generation:
            raise SupersededError
        yield

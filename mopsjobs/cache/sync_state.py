"""What the cache remembers of its syncs, and how they keep out of each other's way.

Each sync draws an even `generation`; a record that this machine wrote itself goes into the cache at once, under the odd
one after it. A sync overwrites and removes only rows of its own generation or an older one. So what a sync read before
a write never covers what the write left.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping

GENERATION = "generation"
"""That of the last sync that began."""


SYNCED_AT = "synced_at"
"""When the last complete sync began."""


SYNCED_GENERATION = "synced_generation"


FULL_SYNCED_AT = "full_synced_at"
"""When the last complete sync began that looked at every record."""


FULL_GENERATION = "full_generation"


LAST_SYNC = "last_sync"
"""What the last complete sync did: a JSON object of its counts, and `seconds`."""


WITNESSES = "witnesses"
"""Records that the last complete sync saw; see witnesses.py."""


FOREIGN_WRITES = "foreign_writes"
"""Whether that one saw changes which nobody had announced: `yes` or `no`; empty if it could not tell."""


class SupersededError(Exception):
    """A sync that began later has been completed; whatever this one would still write is older."""


def last_generation(connection: sqlite3.Connection) -> int:
    """The generation that the last sync drew; 0 when there was none."""
    return int(get_meta(connection, GENERATION) or 0)


def next_generation(connection: sqlite3.Connection) -> int:
    """Draw one for a sync that begins."""
    generation = last_generation(connection) + 2
    set_meta(connection, {GENERATION: str(generation)})
    return generation


def known_jobs(connection: sqlite3.Connection) -> int:
    """How many jobs the cache knows of, those that it has pruned included."""
    row = connection.execute("SELECT (SELECT count(*) FROM job) + (SELECT count(*) FROM pruned)").fetchone()
    return int(row[0])


def get_meta(connection: sqlite3.Connection, name: str) -> str | None:
    """What was remembered under that name, or None."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def set_meta(connection: sqlite3.Connection, values: Mapping[str, str]) -> None:
    """Keep these values under their names. The caller holds the transaction."""
    connection.executemany("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", list(values.items()))


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """One transaction, begun as a writer, so that it waits for others at its begin and never fails in the middle."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


@contextlib.contextmanager
def transaction_if_latest(connection: sqlite3.Connection, generation: int, by: str) -> Iterator[None]:
    """A transaction of the sync of that generation.

    Raises:
        OvertakenError: the last sync of the kind `by`, a name of this module's, began after it and is complete.
    """
    with transaction(connection):
        if int(get_meta(connection, by) or 0) > generation:
            raise SupersededError
        yield

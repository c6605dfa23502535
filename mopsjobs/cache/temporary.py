"""A temporary SQLite database: a place for what would fill the memory while a command runs."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator


@contextlib.contextmanager
def temporary_database(schema: str) -> Iterator[sqlite3.Connection]:
    """Yield an empty database with this schema. SQLite keeps it in the memory, then in a file that has no name."""
    with contextlib.closing(sqlite3.connect("")) as database:
        database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + schema)
        database.execute("BEGIN")  # one transaction: each statement of its own would take as long as ten
        yield database

"""Give a cache of another version the tables of this one, which schema.sql describes.

Only this module imports sqlite-utils, whose import takes longer than a listing. For the same reason rows.py writes with
plain `executemany`: on 10,000 records, an upsert by sqlite-utils takes twice as long.
"""

from __future__ import annotations

import sqlite3

from sqlite_utils import Database

from mopsjobs.cache import sync_state, totals

_ASIDE = "former_"
"""Before the name of a table of another version, while its rows are copied."""

_NOT_COPIED = (sync_state.FULL_SYNCED_AT, sync_state.REGISTRY_FILE)
"""Notes by which the rows of the cache would count as complete."""


def rebuild(connection: sqlite3.Connection, script: str) -> None:
    """Give a cache of another version, or an empty file, the tables of a script. The caller holds the transaction.

    Rows are copied by the names of tables and columns, except those that cannot be in the new table. New columns are
    empty, so the next sync reads every record again: see docs/decisions/0021-the-cache-file.md.
    """
    db = Database(connection)
    for kind, name in db.execute(
        "SELECT type, name FROM sqlite_master WHERE type IN ('view', 'index') AND sql IS NOT NULL"
    ).fetchall():
        db.execute(f'DROP {kind} "{name}"')
    former = [name for name in db.table_names() if not name.startswith("sqlite_")]
    for name in former:
        db.rename_table(name, _ASIDE + name)
    statements = script.split(";\n")
    tables = [statement for statement in statements if statement.startswith("CREATE TABLE")]
    for statement in tables:
        db.execute(statement)
    for name in former:
        columns = db.table(_ASIDE + name).columns_dict.keys() & db.table(name).columns_dict.keys()
        if columns and name != "tally":
            names = ", ".join(f'"{column}"' for column in sorted(columns))
            db.execute(f'INSERT OR IGNORE INTO "{name}" ({names}) SELECT {names} FROM "{_ASIDE}{name}"')  # noqa: S608 - names of columns
    if "event" in former:  # a cursor may name an event that was pruned: no later one gets its number
        db.execute("DELETE FROM sqlite_sequence WHERE name = 'event'")
        db.execute("UPDATE sqlite_sequence SET name = 'event' WHERE name = ?", (f"{_ASIDE}event",))
    for name in former:
        db.table(_ASIDE + name).drop()
    db.execute(totals.FILL)
    for statement in statements[len(tables) :]:  # indexes and views, which SQLite makes faster after the rows
        db.execute(statement)
    db.conn.executemany("DELETE FROM meta WHERE name = ?", [(name,) for name in _NOT_COPIED])

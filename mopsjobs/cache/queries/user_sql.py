"""Questions in SQL that somebody else has written: answered from the views alone, within limits, and never writing."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mopsjobs.errors import UsageError

MAX_VALUE_BYTES = 10_000_000
"""The longest value that a question may make."""


STEPS = 10_000
"""Instructions of SQLite between two looks at the clock: some tenths of a millisecond."""


_FUNCTIONS = ("json_each", "json_tree")
"""Functions that stand where a table does."""


class QueryResult(NamedTuple):
    """What a question came to. The rows are read as they are taken."""

    columns: tuple[str, ...]
    rows: Iterator[tuple[object, ...]]


def views(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """The views and their columns: what may be asked about."""
    names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'view' ORDER BY name")]
    return {name: [column[0] for column in connection.execute(f"SELECT * FROM {name}").description] for name in names}  # noqa: S608 - names of ours


def run_user_query(
    connection: sqlite3.Connection, sql: str, *, seconds: float, monotonic: Callable[[], float] = time.monotonic
) -> QueryResult:
    """Ask the cache, which from then on answers nothing else through this connection.

    Args:
        connection: the cache, open to read.
        sql: one SELECT.
        seconds: how long it may take, until the last row is taken.
        monotonic: a clock.

    Raises:
        UsageError: it is no question about the views, or takes too long. Also while the rows are taken.
    """
    known = views(connection)
    end = monotonic() + seconds
    late = False

    def look() -> bool:
        nonlocal late
        late = monotonic() >= end
        return late

    def refused(error: Exception) -> BaseException:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT and not late:
            return KeyboardInterrupt()  # Ctrl-C, which SQLite has turned into an error of its own
        if late:
            return UsageError(f"The query takes longer than {seconds:g} s.", hint="Give it more: --timeout 5m.")
        return _refused(error, known)

    def rows(cursor: sqlite3.Cursor) -> Iterator[tuple[object, ...]]:
        try:
            for row in cursor:
                yield tuple(_value(value) for value in row)
        except sqlite3.Error as error:
            raise refused(error) from None

    connection.execute("PRAGMA query_only = ON")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.text_factory = lambda value: value.decode("utf-8", "replace")
    connection.set_progress_handler(look, STEPS)
    connection.set_authorizer(lambda *asked: _allows(known, *asked))
    try:
        cursor = connection.execute(sql)
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise refused(error) from None
    except ValueError as error:  # a NUL character
        raise UsageError(f"That is no query: {error}.") from None
    if cursor.description is None:
        raise UsageError("That is no query: it gives no rows.", hint=_hint(known))
    return QueryResult(tuple(column[0] for column in cursor.description), rows(cursor))


def _allows(
    known: dict[str, list[str]], action: int, one: str | None, two: str | None, database: str | None, view: str | None
) -> int:
    """SQLite's authorizer. Views may be read, and what stands behind them by way of them; nothing else may be done."""
    if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE):
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_FUNCTION:
        return sqlite3.SQLITE_DENY if two == "load_extension" else sqlite3.SQLITE_OK
    # Of a table without a column nothing is read: count(*), of a subquery too.
    if action == sqlite3.SQLITE_READ and (not two or one in known or one in _FUNCTIONS or view in known):
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def _refused(error: Exception, known: dict[str, list[str]]) -> UsageError:
    text = str(error).rstrip(".")
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_AUTH or text.startswith(
        ("access to", "cannot modify")
    ):
        return UsageError("A query may only read the views of the cache.", hint=_hint(known))
    return UsageError(f"The query cannot be answered: {text}.", hint=_hint(known))


def _hint(known: dict[str, list[str]]) -> str:
    return f"The views are {', '.join(known)}; `mops-jobs query` alone shows their columns."


def _value(value: object) -> object:
    """A value as JSON can have it."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

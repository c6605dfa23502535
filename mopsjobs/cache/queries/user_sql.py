"""Run SQL of a user: it reads the documented views only, within limits, and never writes.

See docs/decisions/0023-queries-go-to-views.md.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from mopsjobs.errors import UsageError, command_line
from mopsjobs.utils.text import did_you_mean

MAX_VALUE_BYTES = 10_000_000

STEPS = 10_000
"""Instructions of SQLite between two checks of the clock: some tenths of a millisecond."""

RESULTS = ("results", "result_sets")

_FUNCTIONS = ("json_each", "json_tree")


class QueryResult(NamedTuple):
    """The result of a query. Rows are read as they are iterated."""

    columns: tuple[str, ...]
    rows: Iterator[tuple[object, ...]]


def views(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """Return the views that a query may read, with their columns."""
    listed = connection.execute(
        "SELECT name FROM (SELECT * FROM sqlite_master UNION ALL SELECT * FROM sqlite_temp_master)"
        " WHERE type = 'view' ORDER BY name"
    )
    names = [name for (name,) in listed]
    return {name: [column[0] for column in connection.execute(f"SELECT * FROM {name}").description] for name in names}  # noqa: S608 - constant names


def run_user_query(
    connection: sqlite3.Connection,
    sql: str,
    *,
    seconds: float,
    monotonic: Callable[[], float] = time.monotonic,
    hint: str | None = None,
) -> QueryResult:
    """Run a query. The connection can only be used for this query afterwards.

    Args:
        connection: the cache, open to read.
        sql: one SELECT.
        seconds: the time limit, up to the last row.
        monotonic: a clock.
        hint: what the views have, for an error; None: how to list them.

    Raises:
        UsageError: if it is not a query over the views, or takes too long. Also while the rows are iterated.
    """
    view_columns = views(connection)
    deadline = monotonic() + seconds
    is_late = False

    def check_time() -> bool:
        nonlocal is_late
        is_late = monotonic() >= deadline
        return is_late

    def translate(error: Exception) -> BaseException:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT and not is_late:
            return KeyboardInterrupt()  # Ctrl-C, which SQLite has replaced by an error of its own
        if is_late:
            return late_error(seconds)
        return _query_error(error, view_columns, hint)

    def rows(cursor: sqlite3.Cursor) -> Iterator[tuple[object, ...]]:
        try:
            for row in cursor:
                yield tuple(_plain(value) for value in row)
        except sqlite3.Error as error:
            raise translate(error) from None

    connection.execute("PRAGMA query_only = ON")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.text_factory = lambda value: value.decode("utf-8", "replace")
    connection.set_progress_handler(check_time, STEPS)
    connection.set_authorizer(lambda *request: _authorize(view_columns, *request))
    try:
        cursor = connection.execute(sql)
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise translate(error) from None
    except ValueError as error:  # a NUL character
        raise UsageError(f"invalid query: {error}.") from None
    if cursor.description is None:
        raise UsageError("invalid query: it returns no rows.", hint=hint or _hint(view_columns))
    return QueryResult(tuple(column[0] for column in cursor.description), rows(cursor))


def late_error(seconds: float) -> UsageError:
    """Return the error of a query that takes too long."""
    return UsageError(f"The query takes longer than {seconds:g} s.", hint="Set a longer limit: --timeout 5m.")


def check_distinct(columns: Sequence[str]) -> None:
    """Refuse columns of one name: a row could not name them.

    Raises:
        UsageError: if there are two.
    """
    for name in columns:
        if columns.count(name) > 1:
            raise UsageError(f"Two columns have the name '{name}'.", hint="Rename one with AS.")


def _authorize(
    view_columns: dict[str, list[str]],
    action: int,
    first: str | None,
    second: str | None,
    _database: str | None,
    view: str | None,
) -> int:
    """Decide as SQLite's authorizer. A query may read views, and tables by way of views; all else is denied."""
    if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE):
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_FUNCTION:
        return sqlite3.SQLITE_DENY if second == "load_extension" else sqlite3.SQLITE_OK
    # Without a column nothing of the table is read: count(*), also of a subquery.
    if action == sqlite3.SQLITE_READ and (
        not second or first in view_columns or first in _FUNCTIONS or view in view_columns
    ):
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def _query_error(error: Exception, view_columns: dict[str, list[str]], hint: str | None) -> UsageError:
    hint = hint or _hint(view_columns)
    text = str(error).rstrip(".")
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_AUTH or text.startswith(
        ("access to", "cannot modify")
    ):
        return UsageError("A query may only read the views.", hint=hint)
    if text.rpartition(": ")[2] in RESULTS and text.startswith("no such table"):
        where = "It is a view of: mops-jobs query --job JOB." if view_columns.keys() & set(RESULTS) else None
        return UsageError(
            f"The query failed: {text}.", hint=where or "Name the jobs whose results it reads: --job JOB."
        )
    return UsageError(f"The query failed: {text}.{_nearest_name(text, view_columns)}", hint=hint)


def _nearest_name(problem: str, view_columns: dict[str, list[str]]) -> str:
    """Return a suggestion for the mistyped column or view in a message of SQLite; an empty text for other messages."""
    kind, _, name = problem.removeprefix("no such ").partition(": ")
    known: set[str] = set()
    if kind == "column":
        known = {column for columns in view_columns.values() for column in columns}
    elif kind == "table":
        known = set(view_columns)
    word = name.rpartition(".")[2]
    return "" if word in known else did_you_mean(word, sorted(known))


def _hint(view_columns: dict[str, list[str]]) -> str:
    return f"The views are {', '.join(view_columns)}; `{command_line('query')}` alone shows their columns."


def _plain(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value

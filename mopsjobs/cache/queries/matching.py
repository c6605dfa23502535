"""Search ids by a regular expression of the user, within a query of SQLite.

Python's `re` backtracks: `(a+)+$` on sixty times `a` never ends. Ctrl-C ends it in the main thread. In a thread of a
server nothing does, so `serve` accepts no regular expressions. SQLite replaces an exception of its functions by its own
error; `raise_search_error` restores it. See docs/decisions/0034-regular-expressions-end.md.
"""

from __future__ import annotations

import sqlite3

from mopsjobs.utils.text import compile_pattern

_search_errors: list[BaseException] = []


def add_regexp(connection: sqlite3.Connection, pattern: str) -> None:
    """Add the function REGEXP for a pattern to a connection."""
    search = compile_pattern(pattern).search

    def regexp(_pattern: str, text: str | None) -> bool:
        try:
            return text is not None and search(text) is not None
        except BaseException as error:
            _search_errors[:] = [error]
            raise

    connection.create_function("REGEXP", 2, regexp, deterministic=True)


def raise_search_error() -> None:
    """Raise the exception that ended a search, if there was one."""
    if _search_errors:
        raise _search_errors.pop()

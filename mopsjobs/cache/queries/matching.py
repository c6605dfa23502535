"""Regular expressions over the cache that end: at once with Ctrl-C, else after a time limit.

Python's `re` backtracks: `(a+)+$` on sixty times `a` never ends, and holds the interpreter. In the main thread, signal
handlers run during a search, and can end it. In another thread nothing can, so `serve` accepts no regular expressions.
SQLite replaces an exception of its functions by its own error; `raise_search_error` restores it. See
docs/decisions/0034-regular-expressions-end.md.
"""

from __future__ import annotations

import re
import signal
import sqlite3

from mopsjobs.errors import OptionError

MAX_SECONDS = 5.0
"""Of searching, for all rows of one query. A simple expression needs one second for a million ids."""

TICK_SECONDS = 0.25

_search_errors: list[BaseException] = []


def add_regexp(connection: sqlite3.Connection, pattern: str) -> None:
    """Add the function REGEXP for a pattern to a connection."""
    connection.create_function("REGEXP", 2, _Matcher(pattern), deterministic=True)


def raise_search_error() -> None:
    """Raise the exception that ended a search, if there was one."""
    if _search_errors:
        raise _search_errors.pop()


class _Matcher:
    """The function REGEXP, with a timer that runs only during searches."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._search = re.compile(pattern).search
        self._is_searching = False
        self._is_timed = not hasattr(signal, "setitimer")
        self._left = MAX_SECONDS

    def __call__(self, _pattern: str, text: str | None) -> bool:
        if text is None:
            return False
        try:
            self._is_searching = True
            if not self._is_timed:
                self._start()
            return self._search(text) is not None
        except BaseException as error:
            _search_errors[:] = [error]
            raise
        finally:
            self._is_searching = False

    def _start(self) -> None:
        self._is_timed = True
        signal.signal(signal.SIGALRM, self._tick)
        signal.setitimer(signal.ITIMER_REAL, TICK_SECONDS)

    def _tick(self, _number: int, _frame: object) -> None:
        """Count the time of a search. Between two searches, stop the timer: the next search starts it again."""
        self._is_timed = False
        if not self._is_searching:
            return
        self._left -= TICK_SECONDS
        if self._left <= 0:
            raise OptionError(
                f"match '{self._pattern}' takes longer than {MAX_SECONDS:g} seconds.",
                "match",
                hint="Use --name GLOB, or an expression without a repetition inside another one.",
            )
        self._start()

"""Regular expressions of the user that end: at once with Ctrl-C, else after a time limit.

Python's `re` backtracks: `(a+)+$` on sixty times `a` never ends, and holds the interpreter. In the main thread, signal
handlers run during a search, and can end it. In another thread nothing can, so `serve` accepts no regular expressions.
SQLite replaces an exception of its functions by its own error; `raise_search_error` restores it. See
docs/decisions/0034-regular-expressions-end.md.
"""

from __future__ import annotations

import signal
import sqlite3

from mopsjobs.errors import OptionError, UsageError
from mopsjobs.utils.text import compile_pattern

MAX_SECONDS = 5.0
"""Of searching, for all rows of one query. A simple expression needs one second for a million ids."""

TICK_SECONDS = 0.25

HINT = "an expression without a repetition inside another one."

_search_errors: list[BaseException] = []


def add_regexp(connection: sqlite3.Connection, pattern: str) -> None:
    """Add the function REGEXP for a pattern to a connection."""
    text = f"match '{pattern}' takes longer than {MAX_SECONDS:g} seconds."
    search = TimedSearch(pattern, OptionError(text, "match", hint=f"Use --name GLOB, or {HINT}"))

    def regexp(_pattern: str, text: str | None) -> bool:
        try:
            return text is not None and search(text)
        except BaseException as error:
            _search_errors[:] = [error]
            raise

    connection.create_function("REGEXP", 2, regexp, deterministic=True)


def raise_search_error() -> None:
    """Raise the exception that ended a search, if there was one."""
    if _search_errors:
        raise _search_errors.pop()


class TimedSearch:
    """A search for a regular expression, with a timer that runs only during searches.

    Other threads than the main one have no timer.
    """

    def __init__(self, pattern: str, error: UsageError) -> None:
        """Compile the expression.

        Args:
            pattern: the expression.
            error: raised when all searches together take too long.

        Raises:
            UsageError: if the expression is not valid.
        """
        self._search = compile_pattern(pattern).search
        self._error = error
        self._is_searching = False
        self._is_timed = not hasattr(signal, "setitimer")
        self._left = MAX_SECONDS

    def __call__(self, text: str) -> bool:
        """Return True if the text contains a match.

        Raises:
            UsageError: if all searches together take too long.
        """
        try:
            self._is_searching = True
            if not self._is_timed:
                self._start()
            return self._search(text) is not None
        finally:
            self._is_searching = False

    def restart(self) -> None:
        """Grant the searches from here on the whole time."""
        self._left = MAX_SECONDS

    def _start(self) -> None:
        self._is_timed = True
        try:
            signal.signal(signal.SIGALRM, self._tick)
        except ValueError:  # not in the main thread
            return
        signal.setitimer(signal.ITIMER_REAL, TICK_SECONDS)

    def _tick(self, _number: int, _frame: object) -> None:
        """Count the time of a search. Between two searches, stop the timer: the next search starts it again."""
        self._is_timed = False
        if not self._is_searching:
            return
        self._left -= TICK_SECONDS
        if self._left <= 0:
            raise self._error
        self._start()

"""Regular expressions over the cache, which end: with Ctrl-C at once, and by themselves after a bound.

Python's `re` backtracks: `(a+)+$` on sixty times `a` takes for ever, and holds the interpreter. In the main thread `re`
runs signal handlers while it searches, so a handler can end a search. In another thread nothing can, so `serve` takes
no regular expression. SQLite replaces what is raised below it by an error of its own; `raise_kept` brings it back.
"""

from __future__ import annotations

import re
import signal
import sqlite3

from mopsjobs.errors import UsageError

MAX_SECONDS = 5.0
"""Of searching, for all rows of one query. A million ids take a plain expression one second."""


TICK_SECONDS = 0.25


_kept: list[BaseException] = []


def add_regexp(connection: sqlite3.Connection, pattern: str) -> None:
    """Give a connection the function REGEXP, for this pattern."""
    connection.create_function("REGEXP", 2, _Matcher(pattern), deterministic=True)


def raise_kept() -> None:
    """Raise what ended a search below SQLite, if anything did."""
    if _kept:
        raise _kept.pop()


class _Matcher:
    """The function REGEXP, with a timer that only runs while rows are searched."""

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
            _kept[:] = [error]
            raise
        finally:
            self._is_searching = False

    def _start(self) -> None:
        self._is_timed = True
        signal.signal(signal.SIGALRM, self._tick)
        signal.setitimer(signal.ITIMER_REAL, TICK_SECONDS)

    def _tick(self, _number: int, _frame: object) -> None:
        """Count the time of a search; between two searches, stop the timer: the next one starts it again."""
        self._is_timed = False
        if not self._is_searching:
            return
        self._left -= TICK_SECONDS
        if self._left <= 0:
            raise UsageError(
                f"--match '{self._pattern}' takes longer than {MAX_SECONDS:g} seconds.",
                hint="Use --name GLOB, or an expression without a repetition inside of another.",
            )
        self._start()

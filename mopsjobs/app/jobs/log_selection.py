"""Choose log lines: by their text, their age and their task."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from mopsjobs.errors import OptionError, UsageError
from mopsjobs.events.format import DROPPED, LOG, RUNNER, TASK_FAILED
from mopsjobs.utils.text import compile_pattern, error_line, parse_whole_number
from mopsjobs.utils.times import parse_time

KINDS = frozenset((LOG, TASK_FAILED, RUNNER, DROPPED))
"""The kinds of events that have lines, or tell that lines are missing."""

MAX_TASK = 2**53


class LogLine(NamedTuple):
    """A line, and the task that wrote it; None if the line itself says so, or if no task wrote it."""

    text: str
    task: object = None


class LogSelection:
    """The lines that a request selects."""

    def __init__(
        self, *, pattern: str | None = None, after: float | None = None, tasks: Collection[int] | None = None
    ) -> None:
        """Prepare to select lines.

        Args:
            pattern: a regular expression of which they contain a match; None for all.
            after: their age, as seconds since 1970 after which they were written; None for all.
            tasks: the tasks that wrote them; None for all, and for lines of no task.

        Raises:
            UsageError: if the expression is not valid.
        """
        self.after = after
        self.tasks = tasks
        self._search = None if pattern is None else compile_pattern(pattern).search

    def has_match(self, text: str) -> bool:
        """Return True if a line contains a match of the pattern."""
        return self._search is None or self._search(text) is not None

    def lines(self, event: Mapping[str, object]) -> list[LogLine]:
        """Return the lines of an event if it is selected: all of them, if one of a traceback contains a match."""
        task = event.get("task")
        if event["kind"] != LOG and not _is_error(event):
            return []
        if self.tasks is not None and not (type(task) is int and task in self.tasks):
            return []
        if self.after is not None and parse_time(str(event["at"])).timestamp() < self.after:
            return []
        lines = _lines(event)
        return lines if any(self.has_match(line.text) for line in lines) else []


def parse_tasks(text: str) -> frozenset[int]:
    """Read numbers of tasks, separated by commas.

    Raises:
        UsageError: if one is not a whole number.
    """
    numbers = frozenset(parse_whole_number(word.strip(), 0, MAX_TASK) for word in text.split(","))
    if None in numbers:
        raise UsageError(f"invalid task '{text}': expected the number of a task, or several as in 3,17.")
    return frozenset(number for number in numbers if number is not None)


def check_tail(tail: int | None) -> None:
    """Refuse a number of lines below 0.

    Raises:
        OptionError: if it is below 0.
    """
    if tail is not None and tail < 0:
        raise OptionError(f"invalid tail '{tail}': expected 0 or more.", "tail")


def _is_error(event: Mapping[str, object]) -> bool:
    """Return True if the event is the error of a task, or of a runner that could not load the model."""
    return event["kind"] in (TASK_FAILED, RUNNER) and event.get("error") is not None


def _lines(event: Mapping[str, object]) -> list[LogLine]:
    """Return the lines of an event: its text, or the traceback of its error; without one, type and message."""
    task, error = event.get("task"), event.get("error")
    if not _is_error(event):
        return [LogLine(str(event.get("text", "")), task)]
    if isinstance(error, Mapping):
        message = error_line(error.get("type"), error.get("message"))
        text = str(error.get("traceback") or message)
    else:  # the event was shortened
        text = str(error)
    return [LogLine(line, task) for line in text.splitlines()]

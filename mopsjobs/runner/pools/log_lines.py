"""Split what a worker prints into lines, and keep the first and the last lines of each task.

A task that prints without end would fill the registry. Its first lines are passed on as they come. The last ones are
passed on when it ends, since errors stand there. This module is sent to Dask workers as text, so it imports nothing of
mops-jobs.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MARK = b"\x1e"
"""On its standard error, a worker writes this before the number of a task that begins."""

MAX_DIGITS = 20
"""Of the number of a task."""

MAX_CHARACTERS = 8000
"""Of a line. Longer ones are cut."""

MAX_LINE_BYTES = 4 * MAX_CHARACTERS

KEPT_LINES = 500
"""How many of the first lines of a task are kept, and how many of the last."""

KEPT_BYTES = 128 * 1024
"""How many bytes of the first lines of a task are kept, and how many of the last."""

LATER = "… the next lines follow when the task ends"


class LogLines:
    """The lines of one worker. Each attempt at a task has limits of its own, and so has the loading of the model."""

    def __init__(self, on_line: Callable[[int | None, str], None]) -> None:
        """Prepare to read.

        Args:
            on_line: called with each line that is kept, and the number of its task; None before the first task.
        """
        self._on_line = on_line
        self._partial = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._left_out = 0
        self._begin(None)

    def feed(self, data: bytes) -> None:
        """Take bytes that the worker has written."""
        self._partial += data
        *lines, self._partial = self._partial.split(b"\n")
        if len(self._partial) > 2 * MAX_LINE_BYTES:
            del self._partial[MAX_LINE_BYTES : -2 * MAX_DIGITS]  # a mark at its end stays
        for line in lines:
            self._take(line)

    def end_task(self, task: int) -> None:
        """Pass on the last lines of a task that has ended, unless lines of the next one have come already."""
        if task == self._task:
            self._end_task()

    def _end_task(self) -> None:
        """Pass on how many lines are left out, and the last lines."""
        if self._left_out:
            words = "line is" if self._left_out == 1 else "lines are"
            self._on_line(self._task, f"… {self._left_out:,} {words} left out")
            self._left_out = 0
        while self._tail:
            self._pass_on(self._tail.popleft())
        self._tail_bytes = 0

    def end(self) -> None:
        """Pass on what is left when the worker has ended, also a line without its end."""
        self._take(self._partial)
        self._partial = bytearray()
        self._end_task()

    def _begin(self, task: int | None) -> None:
        self._task = task
        self._is_head = True
        self._head_lines = 0
        self._head_bytes = 0
        self._left_out = 0

    def _take(self, line: bytearray) -> None:
        text, mark, number = line.rpartition(MARK)
        is_marked = bool(mark) and number.isdigit() and len(number) <= MAX_DIGITS
        if not is_marked:
            text = line
        if text:
            self._add(bytes(text[:MAX_LINE_BYTES]))
        if is_marked:
            self._end_task()
            self._begin(int(number))

    def _add(self, line: bytes) -> None:
        if self._is_head:
            self._head_lines += 1
            self._head_bytes += len(line)
            if self._head_lines <= KEPT_LINES and self._head_bytes <= KEPT_BYTES:
                self._pass_on(line)
                return
            self._is_head = False
            self._on_line(self._task, LATER)
        self._tail.append(line)
        self._tail_bytes += len(line)
        while len(self._tail) > KEPT_LINES or self._tail_bytes > KEPT_BYTES:
            self._tail_bytes -= len(self._tail.popleft())
            self._left_out += 1

    def _pass_on(self, line: bytes) -> None:
        self._on_line(self._task, line.decode("utf-8", "replace").rstrip("\r")[:MAX_CHARACTERS])

"""Estimate the time that is left from the counts of what is done."""

from __future__ import annotations

import math
from collections import deque

ROUNDS = 2
"""How many tasks per worker have to be done before there is an estimate."""

WINDOW_ROUNDS = 5
WINDOW_TASKS = 40
"""The rate is that of the last tasks: this many per worker, and at least this many."""

LEAST_SHARE = 0.05
"""The share of the tasks that has to be done before there is an estimate, if the workers are not known."""


class TimeLeft:
    """The time that is left of work on equal terms: the rate of the last tasks holds for the others.

    The rate is counted from `begin`, so the start-up of workers is not in it.
    """

    def __init__(self) -> None:
        self._total: int | None = None
        self._workers: int | None = None
        self._counts: deque[tuple[float, int]] = deque()
        """When each count was reached. The first is the beginning of the window."""
        self._begun_with = 0

    def begin(self, now: float, done: int, total: int | None, *, workers: int | None = None) -> None:
        """Begin to count, when the first task begins.

        Args:
            now: seconds of a monotonic clock.
            done: what was done before, by an earlier run for example.
            total: what there is to do, with that; None if it is not known.
            workers: how many tasks run at once; None if it is not known.
        """
        self._total = total
        self._workers = None if workers is None or total is None else max(1, min(workers, total - done))
        self._begun_with = done
        self._counts = deque([(now, done)])

    def add(self, now: float, done: int) -> None:
        """Note how much is done."""
        if not self._counts or done <= self._counts[-1][1]:
            return
        self._counts.append((now, done))
        while len(self._counts) > ROUNDS and done - self._counts[1][1] >= self._window():
            self._counts.popleft()

    def seconds(self, now: float) -> float | None:
        """Return the seconds that are left; None if it is too early to say, or if the total is not known or reached."""
        if self._total is None or not self._counts:
            return None
        (first_at, first), (last_at, last) = self._counts[0], self._counts[-1]
        left = self._total - last
        if left <= 0 or last - self._begun_with < self._enough() or last_at <= first_at:
            return None
        workers = self._workers or 1
        round_seconds = workers * (last_at - first_at) / (last - first)
        # No task has ended for longer than a task takes: the rate is lower than it was.
        last_at = max(last_at, now - round_seconds)
        rate = (last - first) / (last_at - first_at)
        # The last tasks run side by side, each as long as any other.
        return max(0.0, last_at + max(left, workers) / rate - now)

    def _enough(self) -> int:
        todo = (self._total or 0) - self._begun_with
        least = max(ROUNDS, math.ceil(LEAST_SHARE * todo)) if self._workers is None else ROUNDS * self._workers
        return min(least, math.ceil(todo / 2))

    def _window(self) -> int:
        todo = (self._total or 0) - self._begun_with
        return max(WINDOW_TASKS, WINDOW_ROUNDS * (self._workers or math.ceil(LEAST_SHARE * todo)))

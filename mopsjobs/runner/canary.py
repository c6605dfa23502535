"""The first tasks of a job, which run before the others: a model that fails each task then costs a few of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

from mopsjobs.runner.pools.base import NextTasks
from mopsjobs.runner.shard import Shard
from mopsjobs.studies.study import Task

TRIES = 5
"""Failures before the first success that end a job: of tasks that fail at 3 %, all five do so in one of 40 million."""

WAIT_SECONDS = 600.0
"""How long the other tasks wait for the first ones, at most: these may be long, or their runner may be gone."""

DEFAULT_SIZE = 1

DEFAULT_ABOVE = 100
"""A job on a cluster that has more tasks runs some first, unless the user says otherwise."""

MAX_SKIPPED = 2000
"""Tasks between two further tries, at most. They are kept in memory."""


def canary_size(shard: Shard, tasks_total: int) -> int:
    """Return how many tasks of a job run before the others."""
    if shard.first is not None:
        return shard.first
    is_cluster = shard.scheduler is not None or shard.wait_for_manifest  # the latter in a pod
    return DEFAULT_SIZE if is_cluster and tasks_total > DEFAULT_ABOVE else 0


class Canary:
    """The first tasks of a job, as the shard sees them that runs them."""

    def __init__(
        self, size: int, completed: int = 0, failed: int = 0, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin with the tasks that have ended already.

        Args:
            size: how many tasks run before the others.
            completed: tasks of the job that have completed.
            failed: tasks of the job that have failed.
            clock: a monotonic clock in seconds.
        """
        self.size = size
        self._completed = completed
        self._failed = min(failed, self.tries - 1)  # one more failure is needed to end the job
        self._clock = clock
        self._late_at = clock() + WAIT_SECONDS
        self._has_passed = completed > 0 and completed + failed >= size

    @property
    def tries(self) -> int:
        """Return how many tasks have to fail, and none to complete, so that the job is ended."""
        return max(self.size, TRIES)

    @property
    def has_passed(self) -> bool:
        """Return True if the other tasks may begin, also since they have waited long enough."""
        if not self.size or self._clock() >= self._late_at:
            self._has_passed = True
        return self._has_passed

    @property
    def has_failed(self) -> bool:
        """Return True if the job is to be ended."""
        return not self._has_passed and not self._completed and self._failed >= self.tries

    @property
    def is_retrying(self) -> bool:
        """Return True if the first tasks have all failed."""
        return not self._completed and self._failed >= self.size

    def note(self, *, has_failed: bool) -> None:
        """Take the end of a task."""
        self._completed += not has_failed
        self._failed += has_failed
        if self._completed and self._completed + self._failed >= self.size:
            self._has_passed = True

    def admits(self, in_hand: int) -> bool:
        """Return whether one more task may begin, beside those in hand."""
        target = self.tries if self.is_retrying else self.size
        return self.has_passed or self._completed + self._failed + in_hand < target


class TaskGate:
    """The tasks of a shard for its pool, each when it may begin: an iterator that yields None if none may now."""

    def __init__(
        self, tasks: Iterator[tuple[int, Task]], todo: int, canary: Canary, most_in_hand: int | None = None
    ) -> None:
        """Take the tasks.

        Args:
            tasks: the position in the job, and the task.
            todo: how many there are.
            canary: decides whether more than the first ones may begin.
            most_in_hand: how many the pool may have at once; None: as many as it takes.
        """
        self._tasks = tasks
        self._skipped: deque[tuple[int, Task]] = deque()
        self._between = min(todo // TRIES, MAX_SKIPPED)
        self._canary = canary
        self._most_in_hand = most_in_hand
        self.in_hand = 0
        """Tasks that the pool has, and that have not ended."""
        self._again = 0
        """Those of them whose first attempt has ended. They may wait for the next one while others run."""

    def __iter__(self) -> NextTasks:
        """Return the iterator itself."""
        return self

    def __next__(self) -> tuple[int, Task] | None:
        """Return the next task; None if there is one, and it may not begin now."""
        is_full = self._most_in_hand is not None and self.in_hand - self._again >= self._most_in_hand
        if is_full or not self._canary.admits(self.in_hand):
            return None
        following = self._next_task()
        self.in_hand += 1
        return following

    def _next_task(self) -> tuple[int, Task]:
        """Return the next task. After failures alone it is one further on: neighbours often fail for one reason."""
        if not self._canary.has_passed and self._canary.is_retrying:
            self._skipped.extend(islice(self._tasks, self._between))
            further = next(self._tasks, None)
            if further is not None:
                return further
        return self._skipped.popleft() if self._skipped else next(self._tasks)

    def note(self, attempt: int, *, is_final: bool, has_failed: bool) -> None:
        """Take the end of an attempt.

        Args:
            attempt: which one at its task, from 1.
            is_final: whether the task is not tried again.
            has_failed: whether it failed.
        """
        if not is_final:
            self._again += attempt == 1
            return
        self._again -= attempt > 1
        self.in_hand -= 1
        self._canary.note(has_failed=has_failed)

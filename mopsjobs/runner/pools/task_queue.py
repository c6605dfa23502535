"""The tasks of a run in the order in which they are begun: those that came back first, and then the new ones."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from mopsjobs.ledger.attempt import Outcome
from mopsjobs.ledger.retry_policy import MEMORY_LIMIT, RetryPolicy
from mopsjobs.runner.pools.base import NextTasks
from mopsjobs.studies.study import Task


class Assignment(NamedTuple):
    """A try at a task, as it is given to a worker."""

    position: int
    task: Task
    attempt: int = 1
    doublings: int = 0
    """How often its limit of memory was doubled: once for each attempt that exceeded it."""
    is_alone: bool = False
    """Whether it has to be the first task of its worker: memory that earlier tasks left is then not its own."""


class TaskQueue:
    """The tasks that are still to be begun."""

    def __init__(self, tasks: NextTasks, policy: RetryPolicy, most_doublings: int, clock: Callable[[], float]) -> None:
        """Take the tasks of a run; none is read yet.

        Args:
            tasks: the position in the job, and the task.
            policy: which attempts are followed by another one.
            most_doublings: how often the limit of memory of a task may be doubled.
            clock: a monotonic clock in seconds.
        """
        self._tasks = tasks
        self._policy = policy
        self._most_doublings = most_doublings
        self._clock = clock
        self._returned: deque[Assignment] = deque()
        self._waiting: list[tuple[float, int, Assignment]] = []
        """Those that wait for their next attempt, by its time."""

    def next(self) -> Assignment | None:
        """Return the next task, which the caller begins; None if there is none now."""
        if self._waiting and self.seconds_to_next() == 0:
            return heapq.heappop(self._waiting)[-1]
        if self._returned:
            return self._returned.popleft()
        following = next(self._tasks, None)
        return None if following is None else Assignment(*following)

    def seconds_to_next(self) -> float | None:
        """Return the seconds until a task has waited long enough; None if none waits."""
        return max(0.0, self._waiting[0][0] - self._clock()) if self._waiting else None

    def seconds_to_wait(self, most: float) -> float:
        """Return how long a pool may wait for events, after it has begun all tasks that it could.

        Args:
            most: seconds to wait at most. Also if a task has waited long enough: no worker was free for it.
        """
        return min(self.seconds_to_next() or most, most)

    def put_back(self, *assignments: Assignment) -> None:
        """Put back tasks that were not begun, in front of the others, or whose attempt does not count."""
        self._returned.extendleft(reversed(assignments))

    def try_again(self, ended: Assignment, outcome: Outcome, error_type: str | None) -> bool:
        """Put a task back whose attempt ended so, if the policy says so. Return whether it did."""
        if not self._policy.tries_again(ended.attempt, outcome, error_type):
            return False
        following = ended._replace(attempt=ended.attempt + 1)
        if error_type == MEMORY_LIMIT:
            if ended.doublings >= self._most_doublings:
                return False  # it would end in the same way
            following = following._replace(doublings=ended.doublings + 1)
        pause = self._policy.pause(ended.attempt, outcome)
        if pause:
            heapq.heappush(self._waiting, (self._clock() + pause, ended.position, following))
        else:
            self.put_back(following)
        return True


def most_doublings(limit: int | None, size: int | None) -> int:
    """Return how often a limit of memory can be doubled within this many bytes; None: no limit, or unknown."""
    return 0 if limit is None or size is None else max(0, (size // limit).bit_length() - 1)

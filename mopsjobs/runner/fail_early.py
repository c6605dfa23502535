"""End a job early: after its first tasks, if none of them succeeds, when too many have failed, or at its CPU budget.

All are judged by the record, in which each shard has its counts and what it used. So shards need no other way to reach
each other. A shard that has died delays the first tasks of the others for a limited time only.

**The budget.** No attempt begins once the record has as much processor time as the job may use. Tasks at work end, and
count. Before a worker begins its next task, its shard reports what the last one used, unless that is less than
`UNREPORTED_SHARE` of what is left. So the tasks that end after the budget is reached were at work then, at most one
per worker. Short ones may add that share at most. The last shard whose tasks have ended ends the job. Shards that have
not begun need not: each reports before its first task.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable
from itertools import islice

from mopsjobs.registry.cpu_budget import SECONDS, budget_reason
from mopsjobs.registry.failure_limit import Tally, parse_failure_limit, tally
from mopsjobs.runner.pools.base import NextTasks, Pool, TaskResult
from mopsjobs.runner.reporter import Counts, Reporter
from mopsjobs.runner.retry import OutageRetry
from mopsjobs.runner.shard import Shard
from mopsjobs.studies.study import Task
from mopsjobs.studies.validation import BUDGET, FAILURES, FIRST, TARGET, EarlyEnd, decided_end
from mopsjobs.utils.text import pluralize
from mopsjobs.utils.times import human_duration

TRIES = 5
"""Failures before the first success that end a job: of tasks that fail at 3 %, all five do so in one of 40 million."""

WAIT_SECONDS = 600.0
"""How long the other tasks wait for the first ones, at most: these may be long, or their runner may be gone."""

DEFAULT_SIZE = 1

DEFAULT_ABOVE = 100
"""A job on a cluster that has more tasks runs some first, unless the user says otherwise."""

MAX_SKIPPED = 2000
"""Tasks between two further tries, at most. They are kept in memory."""


UNREPORTED_SHARE = 0.01
"""Of the budget that is left, what all shards together may have used without a report. Near its end that is nothing."""


def canary_size(shard: Shard, tasks_total: int) -> int:
    """Return how many tasks of a job run before the others."""
    if shard.first is not None:
        return shard.first
    is_cluster = shard.scheduler is not None or shard.wait_for_manifest  # the latter in a pod
    return DEFAULT_SIZE if is_cluster and tasks_total > DEFAULT_ABOVE else 0


@dataclasses.dataclass
class TaskGate:
    """The tasks of a shard for its pool, each when it may begin: an iterator that yields None if none may now.

    The first tasks of the job run before the others: a model that fails each task then costs a few of them.

    Args:
        _tasks: the position in the job, and the task; None if none may begin now.
        _todo: how many there are.
        _size: how many tasks of the job run before the others.
        _completed: tasks of the job that have completed already.
        _failed: tasks of the job that have failed already.
        most_in_hand: how many the pool may have at once; None: as many as it takes.
        _withholds: asked before a task begins; True: neither that one nor a later one may.
        clock: a monotonic clock in seconds.
    """

    _tasks: NextTasks
    _todo: int
    _size: int
    _completed: int = 0
    _failed: int = 0
    most_in_hand: int | None = None
    _withholds: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic
    in_hand: int = 0
    """Tasks that the pool has, and that have not ended."""

    def __post_init__(self) -> None:
        self.tries = max(self._size, TRIES)
        """How many tasks have to fail, and none to complete, so that the job is ended."""
        self._has_passed = have_passed(self._size, self._completed, self._failed)
        self._failed = min(self._failed, self.tries - 1)  # one more failure is needed to end the job
        self._late_at = self.clock() + WAIT_SECONDS
        self._skipped: deque[tuple[int, Task]] = deque()
        self._between = min(self._todo // TRIES, MAX_SKIPPED)
        self._again = 0
        """Those in hand whose first attempt has ended. They may wait for the next one while others run."""

    @property
    def has_passed(self) -> bool:
        """Return True if the other tasks may begin, also since they have waited long enough."""
        self._has_passed |= self.clock() >= self._late_at
        return self._has_passed

    @property
    def has_failed(self) -> bool:
        """Return True if the job is to be ended."""
        return not self._has_passed and not self._completed and self._failed >= self.tries

    @property
    def _is_retrying(self) -> bool:
        """Return True if the first tasks have all failed."""
        return not self.has_passed and not self._completed and self._failed >= self._size

    def __iter__(self) -> NextTasks:
        """Return the iterator itself."""
        return self

    def __next__(self) -> tuple[int, Task] | None:
        """Return the next task; None if there is one, and it may not begin now."""
        first = self.tries if self._is_retrying else self._size
        may_begin = self.has_passed or self._completed + self._failed + self.in_hand < first
        is_full = self.most_in_hand is not None and self.in_hand - self._again >= self.most_in_hand
        if is_full or not may_begin:
            return None
        following = self._next_task()
        if self._withholds():
            raise StopIteration
        self.in_hand += following is not None
        return following

    def _next_task(self) -> tuple[int, Task] | None:
        """Return the next task. After failures alone it is one further on: neighbours often fail for one reason."""
        if self._is_retrying:
            self._skipped.extend(filter(None, islice(self._tasks, self._between)))
            if (further := next(self._tasks, None)) is not None:
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
        self._completed += not has_failed
        self._failed += has_failed
        self._has_passed |= have_passed(self._size, self._completed, self._failed)


def have_passed(size: int, completed: int, failed: int) -> bool:
    """Return True if the first tasks have ended, and not all of them by failures."""
    return not size or (completed > 0 and completed + failed >= size)


@dataclasses.dataclass
class FailEarly:
    """Decides for one run over a shard which tasks may begin, and whether the job is to be ended.

    Args:
        _shard: the shard, with what the user has asked for. In the record of a drop, it is alone.
        tasks_total: the tasks of the job; of a growing one, those so far.
        _counts: those of the shard.
        _reporter: reports them, and reads the record.
        _retry: knows of a request to stop.

    Raises:
        OptionError: if a limit is invalid.
    """

    _shard: Shard
    tasks_total: int
    _counts: Counts
    _reporter: Reporter
    _retry: OutageRetry

    def __post_init__(self) -> None:
        shard = self._shard
        self._budget = shard.max_cpu_hours
        """The CPU-hours of the job. In the record of a drop: the part of the shard."""
        self._is_spent = self._is_draining = self._has_withheld = False
        if shard.drop is not None:
            self._budget = None if self._budget is None else self._budget / shard.shards
            self._shard = dataclasses.replace(shard, number=0, shards=1)
        self._limit = None if shard.max_failures is None else parse_failure_limit(shard.max_failures)
        self._size = canary_size(shard, self.tasks_total)
        self._ended_before = (0, 0)
        """The tasks of the job that have completed and failed before those of this run."""
        self._gate: TaskGate | None = None
        self._pool: Pool | None = None
        self.lacks: Callable[[], str | None] = lambda: None
        """Returns in words which result no task of an adaptive study leaves."""
        self._cut: EarlyEnd | None = None
        self._ended = self._todo = 0
        """Tasks that have ended in this run, and those that it has."""

    @property
    def is_over(self) -> bool:
        """Return whether the run has to end: by a request to stop, since the job has ended, or since it is to end."""
        return self._retry.is_stopping or self.is_decided

    @property
    def is_decided(self) -> bool:
        """Return whether the job has ended, or is to be ended: what its tasks still leave does not count."""
        return self._reporter.ended.is_set() or self.cut is not None

    def withholds(self) -> bool:
        """Return whether the budget is used, so that the next task may not begin."""
        self._has_withheld |= self._is_used()
        return self._has_withheld

    def _is_used(self) -> bool:
        if self._budget is not None and not self._is_spent:
            self._is_spent = self._reporter.cpu_seconds()[0] >= self._budget * SECONDS
        return self._is_spent

    def drain(self, pool: Pool) -> None:
        """Begin no further attempt if the budget is used. Call it at least every half second."""
        if not self._is_draining and self._is_used():
            self._is_draining = True
            pool.keep_only()

    def wait(self, on_log: Callable[[str], None]) -> bool:
        """Wait until the first tasks of the job have ended in other shards, up to a limit.

        This makes no request, since the reporter reads the record anyway.

        Args:
            on_log: called with one line if this waits.

        Returns:
            Whether tasks may begin: False if the run has to end.
        """
        if (first := self._first_tasks()) is None:
            duration = human_duration(WAIT_SECONDS)
            on_log(f"Waiting for the first tasks of the job, which another shard runs, up to {duration}.")
            self._retry.pause(WAIT_SECONDS, lambda: self._first_tasks() is not None or self.is_over)
            first = self._first_tasks()
        if first is None:
            self._size = 0  # they were waited for long enough
        else:
            self._ended_before = first
        return not self.is_over

    def _first_tasks(self) -> tuple[int, int] | None:
        """Return how many tasks have completed and failed so far, if this shard may begin. None if it has to wait.

        It may if the first tasks have passed, or if it is the first shard that has work left: then it runs them.
        """
        number, state = self._shard.number, self._reporter.state
        if self._size and number and state is None:
            return None
        completed, failed, _ = self._tally()
        before = [state and state.shards.get(str(shard)) for shard in range(number)]
        is_next = all(isinstance(counts, (list, tuple)) and counts[2] for counts in before)
        return (completed, failed) if is_next or have_passed(self._size, completed, failed) else None

    def _tally(self) -> Tally:
        state = self._reporter.state
        by_shard = {} if state is None else state.shards
        return tally(by_shard, self._shard.shards, self._shard.number, self._counts.snapshot())

    def admit(self, tasks: NextTasks, todo: int, pool: Pool) -> TaskGate:
        """Return the tasks for a pool, each when it may begin.

        With a limit or a budget, a worker has no second task waiting. So what is at work when that is reached is one
        task per worker. Tasks that wait for their next attempt do not count: workers would idle.

        Args:
            tasks: the tasks of the shard.
            todo: how many there are.
            pool: is to run them.
        """
        self._pool, self._todo = pool, todo
        if self._budget is not None:
            self._reporter.report()  # a shard that is not in the record has no task at work
        most = None if self._limit is None and self._budget is None else pool.workers
        self._gate = TaskGate(tasks, todo, self._size, *self._ended_before, most, self.withholds)
        return self._gate

    @property
    def have_first_passed(self) -> bool:
        """Return whether the other tasks may begin."""
        return self._gate is not None and self._gate.has_passed

    def keep_one_each(self, workers: int) -> None:
        """Give no worker a second task: workers of other shards have none."""
        if self._gate is not None:
            self._gate.most_in_hand = workers

    def note_elsewhere(self, *, has_failed: bool) -> None:
        """Take the end of a task that another shard has run."""
        if has_failed and self._limit is not None:
            self._reporter.report()

    def note(self, result: TaskResult, *, has_failed: bool) -> None:
        """Take the result of an attempt. A failure or a use that may end the job is reported at once.

        Args:
            result: the result.
            has_failed: whether the attempt failed, also by what it left.
        """
        if self._gate is None:
            return
        self._gate.note(result.attempt, is_final=result.is_final, has_failed=has_failed)
        self._ended += result.is_final
        is_telling = result.is_final and has_failed and (self._limit is not None or not self._gate.has_passed)
        if is_telling or self._must_report_use():
            self._reporter.report()

    def _must_report_use(self) -> bool:
        if self._budget is None:
            return False
        used, unreported = self._reporter.cpu_seconds()
        left = max(0.0, self._budget * SECONDS - used)
        return unreported > left * UNREPORTED_SHARE / self._shard.shards

    @property
    def end(self) -> EarlyEnd | None:
        """Return why the job is to be ended, at once or when its last task at work has ended; None if it may go on."""
        return self.cut or self._end_by_budget()

    @property
    def cut(self) -> EarlyEnd | None:
        """Return why the job is to be ended at once, whatever is at work; None if it is not."""
        if self._cut is None:
            self._cut = decided_end(self._reporter.state) or self._end_by_first() or self._end_by_limit()
            if self._cut is None and (lacks := self.lacks()) is not None:
                self._cut = EarlyEnd(TARGET, lacks)
        return self._cut

    def affordable(self, todo: int) -> int:
        """Return how many of the tasks of this run the budget seems to allow: by what those that ended have used."""
        measured = self._reporter.measured
        used = None if measured is None else measured()[0].cpu_seconds
        if self._budget is None or not used or not self._ended:
            return todo
        left = max(0.0, self._budget * SECONDS - self._reporter.cpu_seconds()[0]) / max(1, self._tally().unfinished)
        return min(todo, self._ended + math.ceil(left * self._ended / used))

    def _end_by_budget(self) -> EarlyEnd | None:
        used = self._reporter.cpu_seconds()[0]
        hours, part, is_alone = self._shard.max_cpu_hours, self._budget, self._shard.drop is not None
        if hours is None or part is None or used < part * SECONDS:
            return None
        completed, failed, _ = self._tally()
        state = self._reporter.state
        total = (state and state.tasks_total) or self.tasks_total  # an adaptive study may need fewer
        is_ended = self._ended >= self._todo if is_alone else completed + failed >= total
        if not self._has_withheld and is_ended:
            return None
        return EarlyEnd(BUDGET, budget_reason(used, hours, part if is_alone else None))

    def _end_by_first(self) -> EarlyEnd | None:
        if self._gate is None or not self._gate.has_failed:
            return None
        failed = pluralize(self._gate.tries, "task")
        return EarlyEnd(FIRST, f"Ended by --first {self._size}: the first {failed} failed")

    def _end_by_limit(self) -> EarlyEnd | None:
        if self._limit is None:
            return None
        completed, failed, unfinished = self._tally()
        # Each worker of a shard that has work left counts as one with a task at work. Where that is too many, the job
        # is ended a little later. Reports come too rarely to tell: shards with failures are the first to report.
        at_work = unfinished * self._workers()
        if not self._limit.is_exceeded(failed, min(completed + failed + at_work, self.tasks_total)):
            return None
        text = f"Ended by --max-failures {self._limit.text}: {failed:,} failed, {completed:,} completed"
        return EarlyEnd(FAILURES, text)

    def _workers(self) -> int:
        if self._pool is None:
            return self._shard.workers or 1
        return len(self._pool.at_work()) if self._pool.workers is None else self._pool.workers

"""End a job early: after its first tasks, if none of them succeeds, or when too many tasks have failed.

Both are judged by the record, in which each shard has its counts. So shards need no other way to reach each other, and
a shard that has died delays the others for a limited time only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mopsjobs.registry.failure_limit import Tally, parse_failure_limit, tally
from mopsjobs.runner.canary import WAIT_SECONDS, Canary, TaskGate, canary_size
from mopsjobs.runner.pools.base import Pool, TaskResult
from mopsjobs.runner.reporter import Counts, Reporter
from mopsjobs.runner.retry import OutageRetry
from mopsjobs.runner.shard import Shard
from mopsjobs.studies.study import Task
from mopsjobs.studies.validation import FAILURES, FIRST, EarlyEnd
from mopsjobs.utils.text import pluralize
from mopsjobs.utils.times import human_duration


class FailEarly:
    """Decides for one run over a shard which tasks may begin, and whether the job is to be ended."""

    def __init__(self, shard: Shard, tasks_total: int, counts: Counts, reporter: Reporter, retry: OutageRetry) -> None:
        """Take the limits of a job.

        Args:
            shard: the shard, with what the user has asked for. In the record of a drop, it is alone.
            tasks_total: the tasks of the job.
            counts: those of the shard.
            reporter: reports them, and reads the record.
            retry: knows of a request to stop.

        Raises:
            OptionError: if a limit is invalid.
        """
        self._shard = shard if shard.drop is None else shard._replace(number=0, shards=1)
        self._tasks_total = tasks_total
        self._counts = counts
        self._reporter = reporter
        self._retry = retry
        self._limit = None if shard.max_failures is None else parse_failure_limit(shard.max_failures)
        self._canary = Canary(canary_size(self._shard, tasks_total))
        self._gate: TaskGate | None = None
        self._pool: Pool | None = None
        self._end: EarlyEnd | None = None

    @property
    def is_over(self) -> bool:
        """Return whether the run has to end: by a request to stop, since the job has ended, or since it is to end."""
        return self._retry.is_stopping or self._reporter.ended.is_set() or self.end is not None

    def wait(self, on_log: Callable[[str], None]) -> bool:
        """Wait until the first tasks of the job have ended in other shards, up to a limit.

        This makes no request, since the reporter reads the record anyway.

        Args:
            on_log: called with one line if this waits.

        Returns:
            Whether tasks may begin: False if the run has to end.
        """
        found = self._first_tasks()
        if found is None:
            duration = human_duration(WAIT_SECONDS)
            on_log(f"Waiting for the first tasks of the job, which another shard runs, up to {duration}.")

            def has_found() -> bool:
                nonlocal found
                found = self._first_tasks()
                return found is not None or self.is_over

            self._retry.pause(WAIT_SECONDS, has_found)
        self._canary = found or Canary(0)
        return not self.is_over

    def _first_tasks(self) -> Canary | None:
        """Return how the first tasks have ended so far, if this shard may begin. None if it has to wait.

        It may if they have passed, or if it is the first shard that has work left: then it runs them.
        """
        number, state, size = self._shard.number, self._reporter.state, self._canary.size
        if size and number and state is None:
            return None
        completed, failed, _ = self._tally()
        found = Canary(size, completed, failed)
        return found if found.has_passed or self._is_done(range(number)) else None

    def _is_done(self, shards: range) -> bool:
        by_shard = {} if self._reporter.state is None else self._reporter.state.shards
        counts = [by_shard.get(str(shard)) for shard in shards]
        return all(isinstance(one, (list, tuple)) and one[2] for one in counts)

    def _tally(self) -> Tally:
        state = self._reporter.state
        by_shard = {} if state is None else state.shards
        return tally(by_shard, self._shard.shards, self._shard.number, self._counts.snapshot())

    def admit(self, tasks: Iterator[tuple[int, Task]], todo: int, pool: Pool) -> TaskGate:
        """Return the tasks for a pool, each when it may begin.

        With a limit, a worker has no second task waiting. So what is at work when the limit is reached is one task per
        worker. Tasks that wait for their next attempt do not count: workers would idle.

        Args:
            tasks: the tasks of the shard.
            todo: how many there are.
            pool: is to run them.
        """
        self._pool = pool
        self._gate = TaskGate(tasks, todo, self._canary, None if self._limit is None else pool.workers)
        return self._gate

    def note(self, result: TaskResult, *, has_failed: bool) -> None:
        """Take the result of an attempt. A failure that may end the job is reported at once.

        Args:
            result: the result.
            has_failed: whether the attempt failed, also by what it left.
        """
        if self._gate is None:
            return
        self._gate.note(result.attempt, is_final=result.is_final, has_failed=has_failed)
        if result.is_final and has_failed and (self._limit is not None or not self._canary.has_passed):
            self._reporter.report()

    @property
    def end(self) -> EarlyEnd | None:
        """Return why the job is to be ended; None if it may go on."""
        if self._end is None:
            self._end = self._end_by_first() or self._end_by_limit()
        return self._end

    def _end_by_first(self) -> EarlyEnd | None:
        if not self._canary.has_failed:
            return None
        failed = pluralize(self._canary.tries, "task")
        return EarlyEnd(FIRST, f"Ended by --first {self._canary.size}: the first {failed} failed")

    def _end_by_limit(self) -> EarlyEnd | None:
        if self._limit is None:
            return None
        completed, failed, unfinished = self._tally()
        # Each worker of a shard that has work left counts as one with a task at work. Where that is too many, the job
        # is ended a little later. Reports come too rarely to tell: shards with failures are the first to report.
        at_work = unfinished * self._workers()
        if not self._limit.is_exceeded(failed, min(completed + failed + at_work, self._tasks_total)):
            return None
        return EarlyEnd(
            FAILURES, f"Ended by --max-failures {self._limit.text}: {failed:,} failed, {completed:,} completed"
        )

    def _workers(self) -> int:
        if self._pool is None:
            return self._shard.workers or 1
        return len(self._pool.at_work()) if self._pool.workers is None else self._pool.workers

"""The contract of a pool: run tasks, yield a result for each. And the queue of tasks that all pools have."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from mopsjobs.ledger.attempt import NO_USAGE, Outcome, Resumed, Usage
from mopsjobs.ledger.retry_policy import MEMORY_LIMIT, OUT_OF_MEMORY, RetryPolicy
from mopsjobs.runner.checkpoints import EXIT_CODE, MAX_BEGINNING
from mopsjobs.studies.study import Task
from mopsjobs.utils.file_watch import MAX_FILES, FileWatch
from mopsjobs.utils.sizes import format_size

STARTS = 2
"""How often a worker is started that ends before it has loaded the model."""

GRACE_SECONDS = 5.0
"""How long all workers together may take to end."""

LOOK_SECONDS = 0.2
"""How often a checkpoint is looked for that is on its way."""

NextTasks = Iterator["tuple[int, Task] | None"]
"""The position of each task in the job, and the task; None while there are more and none may begin. The pool then asks
again when a task has ended, or when it was woken; see `Pool.run`."""

OnLog = Callable[["int | None", str], None]
"""Called with the task's number, or None, and each line of the model that is kept."""


class Feed(Protocol):
    """Reads outputs of tasks for reductions."""

    def __call__(self, reduction: Task, *, is_first: bool) -> bytes:
        """Return the next outputs for a reduction, or the first ones, as a line for engines/reduce_script.py."""


class TaskLimits(NamedTuple):
    """Limits of each attempt at a task, and which attempts are followed by another one."""

    timeout: float | None = None
    """Seconds that a task may take, in all attempts that went on from each other; None: no limit."""
    memory: int | None = None
    """Bytes that a task may have, with all processes that it starts; None: no limit. After an attempt that had more,
    the next one may have twice as many."""
    policy: RetryPolicy = RetryPolicy()
    attempt_timeout: float | None = None
    """Seconds that an attempt may take; None: no limit."""

    def seconds_of(self, resumed: Resumed | None) -> float:
        """Return the seconds that an attempt may take: without those that the task had worked by its checkpoint."""
        before = 0.0 if resumed is None else resumed.seconds
        return min(
            math.inf if self.timeout is None else self.timeout - before,
            math.inf if self.attempt_timeout is None else self.attempt_timeout,
        )

    def lateness(self, resumed: Resumed | None) -> End:
        """Return the end of an attempt that took longer: equal for each attempt, as its signature is."""
        if self.attempt_timeout is not None and self.seconds_of(resumed) == self.attempt_timeout:
            return lateness_of(self.attempt_timeout)
        return lateness_of(self.timeout)


NO_LIMITS = TaskLimits()


class TaskResult(NamedTuple):
    """An attempt at a task that has ended, with its outputs or with its error."""

    position: int
    task: Task
    outputs: dict[str, bytes] | None
    error: Mapping[str, str] | None
    """`type` and `message`; of an error in the model also `traceback`, and `at` if the model's own code raised it."""
    outcome: Outcome = Outcome.SUCCEEDED
    attempt: int = 1
    """Which attempt at the task it was, from 1."""
    started_at: float | None = None
    """Seconds since the epoch."""
    usage: Usage = NO_USAGE
    is_final: bool = True
    """False if the task is tried again."""
    resumed: Resumed | None = None
    """The checkpoint that it went on from."""


class TaskAtWork(NamedTuple):
    """An attempt at a task that runs now."""

    position: int
    task: Task
    attempt: int
    started_at: float | None
    """Seconds since the epoch; None if the pool does not know whether it has begun."""
    host: str | None
    resumed: Resumed | None = None
    """The checkpoint that it went on from."""


class SeenFiles:
    """The files of the bundle that the processes of a pool have opened, as others told; see `utils.file_watch`."""

    def __init__(self, opened: frozenset[str] | None = None) -> None:
        """Begin with these files; None: nothing tells which are opened."""
        self._opened = opened
        self._written: str | None = None

    def add(self, opened: Sequence[object] | None, written: object) -> None:
        """Add what a worker told."""
        known = None if self._opened is None or opened is None else self._opened.union(map(str, opened))
        self._opened = known if known is None or len(known) <= MAX_FILES else None
        if self._written is None and written is not None:
            self._written = str(written)

    def opened(self) -> frozenset[str] | None:
        """Return the files that were opened so far, by their names in the bundle; None if that is not known."""
        return self._opened

    def written(self) -> str | None:
        """Return a file that was written beside those of the bundle; None if none was seen."""
        return self._written

    def close(self) -> None:
        """See no more."""


class Pool(Protocol):
    """Runs the tasks of one model."""

    workers: int | None
    """How many tasks run at once; None if the pool does not know."""
    is_ready: bool
    """Whether a worker has loaded the model, so that tasks run."""
    is_waiting: bool
    """Whether no task runs, since other jobs use all cores of this machine."""

    @property
    def files(self) -> SeenFiles | FileWatch:
        """Return which files of the bundle were opened."""

    def run(self, tasks: NextTasks, *, wake_seconds: float = 0.5) -> Generator[TaskResult | None, None, None]:
        """Run the tasks; yield a result per attempt, in any order, and None at least every `wake_seconds`.

        The caller may close the generator at any time. The workers are then stopped, and their tasks left undone.

        Args:
            tasks: what to run. `run` ends when it is over, and no task is at work.
            wake_seconds: seconds between two yields, at most.

        Raises:
            ModelError: if the model cannot be loaded.
            EngineUnavailableError: if the cluster does not answer any more. What was not yielded is to be run again.
            EngineError: if the cluster cannot be used.
        """

    def at_work(self) -> Sequence[TaskAtWork]:
        """Return the attempts that run now."""

    def keep_only(self, tasks: Collection[int] | None = None) -> None:
        """End all attempts but those at these tasks, by their numbers, and begin no more. `run` ends with the last.

        Without numbers, all stay that workers have: one that is about to say that it is ready may have begun its task.
        """


End = tuple[Outcome, Mapping[str, str] | None]
"""Outcome and error of an attempt."""

NOTHING_SAVED: End = (
    Outcome.FAILED,
    {"type": "NoCheckpoint", "message": f"it ended with code {EXIT_CODE}, but has left no new checkpoint"},
)


def outcome_of(error: Mapping[str, str] | None) -> Outcome:
    """Return the outcome of an attempt that the model itself ended, with this error or without one."""
    if error is None:
        return Outcome.SUCCEEDED
    return Outcome.OOM if error.get("type") == "MemoryError" else Outcome.FAILED


def death_of(exit_text: str, *, is_oom: bool) -> End:
    """Return the end of an attempt whose worker died: equal for each attempt, as its signature is.

    Args:
        exit_text: the exit code, in words.
        is_oom: whether the kernel killed the worker for its memory.
    """
    if is_oom:
        message = f"the kernel killed its worker for its memory ({exit_text})"
        return Outcome.OOM, {"type": OUT_OF_MEMORY, "message": message}
    return Outcome.DIED, {"type": "WorkerDied", "message": f"its worker died ({exit_text})"}


def memory_excess_of(limit: int) -> End:
    """Return the end of an attempt that used more memory than its limit, in bytes."""
    message = f"it used more memory than its limit of {format_size(limit)}"
    return Outcome.OOM, {"type": MEMORY_LIMIT, "message": message}


def lateness_of(timeout: float | None) -> End:
    """Return the end of an attempt that took longer than the timeout."""
    return Outcome.TIMEOUT, {"type": "Timeout", "message": f"it took longer than {timeout:g} s"}


def task_message(task: Task, attempt: int = 1) -> dict[str, object]:
    """Return the line by which engines/worker.py runs a task."""
    return {
        "task": task.number,
        "params": dict(task.params),
        "param_id": task.param_id,
        "seed": task.seed,
        "attempt": attempt,
    }


class Assignment(NamedTuple):
    """A try at a task, as it is given to a worker."""

    position: int
    task: Task
    attempt: int = 1
    doublings: int = 0
    """How often its limit of memory was doubled: once for each attempt that exceeded it."""
    is_alone: bool = False
    """Whether it has to be the first task of its worker: memory that earlier tasks left is then not its own."""
    preemptions: int = 0
    """How many attempts before were preempted. They do not count as retries."""
    losses: int = 0
    """How many Dask workers were lost with it since it has come on."""
    resumed: Resumed | None = None
    """The checkpoint that it goes on from."""
    is_prepared: bool = False
    """Whether that is in place."""


@dataclasses.dataclass
class TaskQueue:
    """The tasks that are still to be begun: those that came back first, and then the new ones.

    Args:
        _tasks: the position in the job, and the task; none is read yet.
        _policy: which attempts are followed by another one.
        _most_doublings: how often the limit of memory of a task may be doubled.
        _clock: a monotonic clock in seconds.
    """

    _tasks: NextTasks
    _policy: RetryPolicy
    _most_doublings: int
    _clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._returned: deque[Assignment] = deque()
        self._has_all = False
        """Whether no further task comes."""
        self._waiting: list[tuple[float, int, Assignment]] = []
        """Those that wait for their next attempt, by its time."""
        self._aside: deque[Assignment] = deque()
        """Those whose checkpoint is on its way."""

    def next_prepared(self, prepare: Callable[[Assignment], Assignment | None]) -> Assignment | None:
        """Return the next task that can begin, as `next` does. Tasks whose checkpoint takes longer let others go first.

        These keep their order: the first ones are on their way, and are asked for each time.

        Args:
            prepare: brings the checkpoint of a task into place; None if it takes longer.
        """
        for place, waiting in enumerate(itertools.islice(self._aside, MAX_BEGINNING)):
            if (prepared := prepare(waiting)) is not None:
                del self._aside[place]
                return prepared
        while (assignment := self.next()) is not None:
            if (prepared := assignment if assignment.is_prepared else prepare(assignment)) is not None:
                return prepared
            self._aside.append(assignment)
        return None

    def next(self) -> Assignment | None:
        """Return the next task, which the caller begins; None if there is none now."""
        if self._waiting and self._waiting[0][0] <= self._clock():
            return heapq.heappop(self._waiting)[-1]
        if self._returned:
            return self._returned.popleft()
        try:
            following = next(self._tasks)
        except StopIteration:
            self._has_all = True
            return None
        return None if following is None else Assignment(*following)

    @property
    def is_over(self) -> bool:
        """Return whether no task is left to begin, now or later."""
        return self._has_all and not (self._returned or self._waiting or self._aside)

    def seconds_to_next(self) -> float | None:
        """Return the seconds until a task has waited long enough; None if none waits."""
        seconds = max(0.0, self._waiting[0][0] - self._clock()) if self._waiting else None
        return min(LOOK_SECONDS, LOOK_SECONDS if seconds is None else seconds) if self._aside else seconds

    def put_back(self, *assignments: Assignment) -> None:
        """Put back tasks that were not begun, in front of the others, or whose attempt does not count."""
        self._returned.extendleft(reversed(assignments))

    def result(
        self,
        assignment: Assignment,
        outputs: dict[str, bytes] | None,
        end: End,
        started_at: float | None = None,
        usage: Usage = NO_USAGE,
    ) -> TaskResult:
        """Return the result of an attempt. The task is put back, if it is to be tried again."""
        outcome, error = end
        again = self.try_again(assignment, outcome, None if error is None else error["type"])
        return TaskResult(
            *assignment[:2], outputs, error, outcome, assignment.attempt, started_at, usage, not again,
            assignment.resumed,
        )  # fmt: skip

    def try_again(self, ended: Assignment, outcome: Outcome, error_type: str | None) -> bool:
        """Put a task back whose attempt ended so, if the policy says so. Return whether it did."""
        following = ended._replace(attempt=ended.attempt + 1, is_prepared=False)
        if outcome == Outcome.PREEMPTED:
            self.put_back(following._replace(preemptions=ended.preemptions + 1))
            return True
        count = ended.attempt - ended.preemptions
        if outcome == Outcome.SUCCEEDED or not self._policy.tries_again(count, outcome, error_type):
            return False
        if error_type == MEMORY_LIMIT:
            if ended.doublings >= self._most_doublings:
                return False  # it would end in the same way
            following = following._replace(doublings=ended.doublings + 1)
        pause = self._policy.pause(count, outcome)
        if pause:
            heapq.heappush(self._waiting, (self._clock() + pause, ended.position, following))
        else:
            self.put_back(following)
        return True


def most_doublings(limit: int | None, size: int | None) -> int:
    """Return how often a limit of memory can be doubled within this many bytes; None: no limit, or unknown."""
    return 0 if limit is None or size is None else max(0, (size // limit).bit_length() - 1)

"""The contract of a pool: run tasks, yield a result for each."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from mopsjobs.ledger.attempt import NO_USAGE, Outcome, Usage
from mopsjobs.ledger.retry_policy import MEMORY_LIMIT, OUT_OF_MEMORY, RetryPolicy
from mopsjobs.studies.study import Task
from mopsjobs.utils.sizes import format_size

STARTS = 2
"""How often a worker is started that ends before it has loaded the model."""

GRACE_SECONDS = 5.0
"""How long all workers together may take to end."""

NextTasks = Iterator["tuple[int, Task] | None"]
"""The position of each task in the job, and the task; None while there are more and none may begin. The pool then asks
again when a task has ended."""

OnLog = Callable[["int | None", str], None]
"""Called with the task's number, or None, and each line of the model that is kept."""


class Feed(Protocol):
    """Reads outputs of tasks for reductions."""

    def __call__(self, reduction: Task, *, is_first: bool) -> bytes:
        """Return the next outputs for a reduction, or the first ones, as a line for engines/reduce_script.py."""


class TaskLimits(NamedTuple):
    """Limits of each attempt at a task, and which attempts are followed by another one."""

    timeout: float | None = None
    """Seconds that an attempt may take; None: no limit."""
    memory: int | None = None
    """Bytes that a task may have, with all processes that it starts; None: no limit. After an attempt that had more,
    the next one may have twice as many."""
    policy: RetryPolicy = RetryPolicy()


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


class TaskAtWork(NamedTuple):
    """An attempt at a task that runs now."""

    position: int
    task: Task
    attempt: int
    started_at: float | None
    """Seconds since the epoch; None if the pool does not know whether it has begun."""
    host: str | None


class Pool(Protocol):
    """Runs the tasks of one model."""

    workers: int | None
    """How many tasks run at once; None if the pool does not know."""
    is_ready: bool
    """Whether a worker has loaded the model, so that tasks run."""
    is_waiting: bool
    """Whether no task runs, since other jobs use all cores of this machine."""

    def run(self, tasks: NextTasks, *, wake_seconds: float = 0.5) -> Generator[TaskResult | None, None, None]:
        """Run the tasks; yield a result per attempt, in any order, and None at least every `wake_seconds`.

        The caller may close the generator at any time. The workers are then stopped, and their tasks left undone.

        Args:
            tasks: what to run. None comes only while a task is at work.
            wake_seconds: seconds between two yields, at most.

        Raises:
            ModelError: if the model cannot be loaded.
            EngineUnavailableError: if the cluster does not answer any more. What was not yielded is to be run again.
            EngineError: if the cluster cannot be used.
        """

    def at_work(self) -> Sequence[TaskAtWork]:
        """Return the attempts that run now."""


def outcome_of(error: Mapping[str, str] | None) -> Outcome:
    """Return the outcome of an attempt that the model itself ended, with this error or without one."""
    if error is None:
        return Outcome.SUCCEEDED
    return Outcome.OOM if error.get("type") == "MemoryError" else Outcome.FAILED


def death_of(exit_text: str, *, is_oom: bool) -> tuple[Outcome, dict[str, str]]:
    """Return outcome and error of an attempt whose worker died: equal for each attempt, as its signature is.

    Args:
        exit_text: the exit code, in words.
        is_oom: whether the kernel killed the worker for its memory.
    """
    if is_oom:
        message = f"the kernel killed its worker for its memory ({exit_text})"
        return Outcome.OOM, {"type": OUT_OF_MEMORY, "message": message}
    return Outcome.DIED, {"type": "WorkerDied", "message": f"its worker died ({exit_text})"}


def memory_excess_of(limit: int) -> tuple[Outcome, dict[str, str]]:
    """Return outcome and error of an attempt that used more memory than its limit, in bytes."""
    message = f"it used more memory than its limit of {format_size(limit)}"
    return Outcome.OOM, {"type": MEMORY_LIMIT, "message": message}


def lateness_of(timeout: float | None) -> tuple[Outcome, dict[str, str]]:
    """Return outcome and error of an attempt that took longer than the timeout."""
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

"""The contract of a pool: run tasks, yield a result for each."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import NamedTuple, Protocol

from mopsjobs.studies.study import Task

ATTEMPTS = 2
"""How often a task is begun before the death of its worker counts as its failure."""

MAX_LOG_CHARACTERS = 8000
"""Longer lines of a model are cut."""

GRACE_SECONDS = 5.0
"""How long all workers together may take to end."""

OnLog = Callable[["int | None", str], None]
"""Called with the task's number, or None, and each line that the model printed."""


class TaskResult(NamedTuple):
    """A task that has ended, with its outputs or with its error (`type`, `message`, `traceback`)."""

    position: int
    task: Task
    outputs: dict[str, bytes] | None
    error: Mapping[str, str] | None


class Pool(Protocol):
    """Runs the tasks of one model."""

    workers: int | None
    """How many tasks run at once; None if the pool does not know."""
    is_ready: bool
    """Whether a worker has loaded the model, so that tasks run."""

    def run(
        self, tasks: Iterator[tuple[int, Task]], *, wake_seconds: float = 0.5
    ) -> Generator[TaskResult | None, None, None]:
        """Run the tasks; yield each result, in any order, and None at least every `wake_seconds`.

        The caller may close the generator at any time. The workers are then stopped, and their tasks left undone.

        Args:
            tasks: the position in the job, and the task.
            wake_seconds: seconds between two yields, at most.

        Raises:
            ModelError: if the model cannot be loaded.
            EngineUnavailableError: if the cluster does not answer any more. What was not yielded is to be run again.
            EngineError: if the cluster cannot be used.
        """

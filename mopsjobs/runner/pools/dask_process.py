"""A `DaskPool` in a process of its own, which has none of the runner's secrets; see `engines.child`."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Generator, Iterator, Mapping
from typing import Any

from mopsjobs.engines.child_process import Child
from mopsjobs.engines.dask_client import check_installed
from mopsjobs.errors import EngineError
from mopsjobs.runner.model_errors import ModelError
from mopsjobs.runner.pools.local import OnLog, TaskResult
from mopsjobs.studies.study import Task

CHILD = "mopsjobs.runner.pools.dask_child"


class DaskProcess:
    """The workers of a Dask cluster, for one model."""

    def __init__(
        self,
        scheduler: str,
        bundle: bytes,
        entrypoint: str,
        env: Mapping[str, str],
        *,
        python: str | None = None,
        task_timeout: float | None = None,
        on_log: OnLog | None = None,
    ) -> None:
        """Prepare a pool; nothing is started before `run`.

        Args:
            scheduler: its address.
            bundle: the code, a tar.gz that has been unpacked by our rules.
            entrypoint: what in it to run.
            env: the environment of the runner.
            python: the model's interpreter, a path on the workers; None: that of each worker.
            task_timeout: seconds that a task may take; None: no limit.
            on_log: called with the task's number and each line that the model printed, when the task has ended.
        """
        self._env = env
        self._on_log = on_log or (lambda _task, _line: None)
        self._setup = {
            "scheduler": scheduler,
            "bundle": base64.b64encode(bundle).decode(),
            "entrypoint": entrypoint,
            "python": python,
            "task_timeout": task_timeout,
        }

    def run(
        self, tasks: Iterator[tuple[int, Task]], *, wake_seconds: float = 0.5
    ) -> Generator[TaskResult | None, None, None]:
        """Work through the tasks; see `WorkerPool.run`.

        Raises:
            ModelError: if the model cannot be loaded.
            EngineUnavailableError: if the scheduler does not answer any more. What was not yielded is to be run again.
            EngineError: if it cannot be used.
        """
        check_installed()
        child = Child(CHILD, {**self._setup, "wake_seconds": wake_seconds}, self._env)
        given: dict[int, Task] = {}
        woken = time.monotonic()
        try:
            while True:
                message = child.hear(wake_seconds)
                if message is None or time.monotonic() - woken > wake_seconds:
                    yield None
                    woken = time.monotonic()
                if message is None:
                    continue
                if "end" in message:
                    return
                if "next" in message:
                    following = next(tasks, None)
                    child.tell({"task": None if following is None else _told(*following)})
                    if following is not None:
                        given[following[0]] = following[1]
                    continue
                try:
                    finished = self._heard(message, given)
                except (LookupError, TypeError, ValueError, AttributeError):
                    raise EngineError("The process that talks to Dask tells of a task in another form.") from None
                if finished is not None:
                    yield finished
        finally:
            child.close()

    def _heard(self, message: Mapping[str, Any], given: dict[int, Task]) -> TaskResult | None:
        """What a message says of a task.

        It is read strictly: the process may run what the scheduler says.

        Raises:
            ModelError: if the model cannot be loaded.
            LookupError, TypeError, ValueError, AttributeError: if it has another form.
        """
        if "model" in message:
            told = message["model"]
            error = told["error"]
            texts = None if error is None else {str(name): str(text) for name, text in error.items()}
            raise ModelError(str(told["message"]), hint=told["hint"] and str(told["hint"]), error=texts)
        if "log" in message:
            number, line = message["log"]
            if number not in {task.number for task in given.values()}:
                raise ValueError(number)
            self._on_log(number, str(line))
            return None
        position, outputs, error = message["finished"]
        task = given.pop(position)
        if outputs is not None:
            outputs = {str(name): _bytes(text) for name, text in outputs.items()}
        if error is not None:
            error = {str(name): str(text) for name, text in error.items()}
        if (outputs is None) == (error is None):
            raise ValueError(position)
        return TaskResult(position, task, outputs, error)


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(text[:20]) from error


def _told(position: int, task: Task) -> dict[str, object]:
    return {"position": position, "number": task.number, "seed": task.seed, "params": dict(task.params)}

"""Run a `DaskPool` in a child process without the runner's secrets; see `engines.child_process`."""

from __future__ import annotations

import base64
import binascii
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from mopsjobs.engines.child_process import Child
from mopsjobs.engines.dask import check_installed
from mopsjobs.engines.model_errors import ModelError
from mopsjobs.errors import EngineError
from mopsjobs.ledger.attempt import Outcome, Usage
from mopsjobs.runner.pools.base import NO_LIMITS, NextTasks, OnLog, TaskAtWork, TaskLimits, TaskResult
from mopsjobs.studies.study import Task

CHILD = "mopsjobs.runner.pools.dask"
"""The module of the child process."""


class DaskProcess:
    """Runs the tasks of one model on the workers of a Dask cluster, through a child process."""

    def __init__(
        self,
        scheduler: str,
        bundle: bytes,
        entrypoint: str,
        env: Mapping[str, str],
        *,
        outputs: Sequence[str] | None = None,
        python: str | None = None,
        limits: TaskLimits = NO_LIMITS,
        on_log: OnLog | None = None,
    ) -> None:
        """Prepare a pool; nothing is started before `run`.

        Args:
            scheduler: the address of the scheduler.
            bundle: the code, a tar.gz that the runner has checked by unpacking it.
            entrypoint: the model and scenario to run.
            env: the environment of the runner, and the variables of the job and the shard for the model.
            outputs: the outputs that the study names; None: it names none.
            python: the model's interpreter, a path on the workers; None: that of each worker.
            limits: limits of each attempt.
            on_log: called with the task's number and each line that the model printed, when the task has ended.
        """
        self.workers: int | None = None  # they come and go, and only the scheduler knows them
        self.is_ready = False
        self.is_waiting = False  # a cluster has its own line
        self._env = env
        self._on_log = on_log or (lambda _task, _line: None)
        self.on_environment: Callable[[object], None] = lambda _answer: None
        """Called with what the model's interpreter says on a worker; see engines/interpreter_script.py."""
        self._setup = {
            "scheduler": scheduler,
            "bundle": base64.b64encode(bundle).decode(),
            "entrypoint": entrypoint,
            "outputs": outputs,
            "python": python,
            "timeout": limits.timeout,
            "memory": limits.memory,
            "retries": limits.policy.retries,
            "causes": sorted(limits.policy.causes),
        }
        self._sent: dict[int, Task] = {}

    def run(self, tasks: NextTasks, *, wake_seconds: float = 0.5) -> Generator[TaskResult | None, None, None]:
        """Run the tasks; see `Pool.run`."""
        check_installed()
        child = Child(CHILD, {**self._setup, "wake_seconds": wake_seconds}, self._env)
        sent = self._sent = {}
        yielded_at = time.monotonic()
        try:
            while True:
                message = child.receive(wake_seconds)
                if message is None or time.monotonic() - yielded_at > wake_seconds:
                    yield None
                    yielded_at = time.monotonic()
                if message is None:
                    continue
                if "end" in message:
                    return
                if "next" in message:
                    following = next(tasks, None)
                    child.send({"task": following and [following[0], *following[1]]})
                    if following is not None:
                        sent[following[0]] = following[1]
                    continue
                try:
                    result = self._read_message(message, sent)
                except (LookupError, TypeError, ValueError, AttributeError):
                    raise EngineError("The process that talks to Dask sent an invalid message about a task.") from None
                if result is not None:
                    yield result
        finally:
            child.close()

    def _read_message(self, message: Mapping[str, Any], sent: dict[int, Task]) -> TaskResult | None:
        """Return the result in a message about a task, or pass on its log line.

        The message is read strictly: the child process may run code that the scheduler sends.

        Raises:
            ModelError: if the model cannot be loaded.
            LookupError, TypeError, ValueError, AttributeError: if the message is invalid.
        """
        if "model" in message:
            model = message["model"]
            error = model["error"]
            texts = None if error is None else {str(name): str(text) for name, text in error.items()}
            raise ModelError(str(model["message"]), hint=model["hint"] and str(model["hint"]), error=texts)
        if "log" in message:
            number, line = message["log"]
            if number not in {task.number for task in sent.values()}:
                raise ValueError(number)
            self._on_log(number, str(line))
            return None
        if "environment" in message:
            self.on_environment(message["environment"])
            return None
        position, outputs, error, outcome, attempt, started_at, usage, is_final = message["finished"]
        self.is_ready = True
        task = sent.pop(position) if is_final else sent[position]
        if outputs is not None:
            outputs = {str(name): _decode(text) for name, text in outputs.items()}
        if error is not None:
            error = {str(name): str(text) for name, text in error.items()}
        if (outputs is None) == (error is None):
            raise ValueError(position)
        seconds, user, system, peak, host, python = usage
        measured = Usage(_number(seconds), _number(user), _number(system), _number(peak), _text(host), _text(python))
        return TaskResult(
            position,
            task,
            outputs,
            error,
            Outcome(outcome),
            int(attempt),
            _number(started_at),
            measured,
            bool(is_final),
        )

    def at_work(self) -> Sequence[TaskAtWork]:
        """Return the attempts that were sent; see `Pool.at_work`."""
        return [TaskAtWork(position, task, 1, None, None) for position, task in self._sent.items()]


def _number(value: object) -> Any:
    """Return a number that is finite and not negative, or None.

    Raises:
        ValueError: if it is something else.
    """
    if value is not None and not (type(value) in (int, float) and 0 <= value < math.inf):  # type: ignore[operator]
        raise ValueError(str(value)[:20])
    return value


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(text[:20]) from error


def _text(value: object) -> str | None:
    return None if value is None else str(value)

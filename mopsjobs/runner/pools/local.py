"""Warm workers: hand out tasks, take results, survive a worker that dies and stop one that takes too long.

One thread, one selector. Each worker has the task it works on and one more, so that it never waits for us between
two; what a worker had when it died is known exactly: the first of its tasks was being worked on, the other was not
begun.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from mopsjobs.runner.model_errors import ModelError, ended, no_python, not_loaded, not_ready
from mopsjobs.studies.study import Task

AHEAD = 2
"""Tasks a worker has at once."""


ATTEMPTS = 2
"""How often a task is begun before the deaths of its workers are held against it."""


MAX_LINE_BYTES = 256 * 2**20
"""An answer longer than this is no answer but a worker gone astray."""


MARK = b"\x1e"
"""What the worker puts before the number of a task, on its standard error, when the task begins."""


MAX_LOG_CHARACTERS = 8000


LOOK_SECONDS = 1.0
"""How often workers are looked at whether they live."""


GRACE_SECONDS = 5.0
"""How long the workers that are asked to end may take, all together."""


OnLog = Callable[["int | None", str], None]


class TaskResult(NamedTuple):
    """A task that has come to its end, with its outputs or with its error (`type`, `message`, `traceback`)."""

    position: int
    task: Task
    outputs: dict[str, bytes] | None
    error: Mapping[str, str] | None


class Pool(Protocol):
    """Whoever works through tasks: processes of this machine, or a cluster."""

    def run(
        self, tasks: Iterator[tuple[int, Task]], *, wake_seconds: float = 0.5
    ) -> Generator[TaskResult | None, None, None]:
        """See `WorkerPool.run`."""


class _Assigned(NamedTuple):
    position: int
    task: Task
    attempt: int


class _Worker:
    """One process with all that it starts, and the tasks it has.

    It leads a session of its own, hence a group of processes, so that what a model starts can be ended with it. The
    price: a terminal's Ctrl-C does not reach it, and neither does the end of a runner that is killed outright. For the
    latter there is the end of its input; see worker.py.
    """

    def __init__(self, command: list[str], setup: bytes, env: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(  # noqa: S603 - the interpreter is the user's own choice
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(env),
            bufsize=0,
            start_new_session=True,
        )
        assert self.process.stdin is not None  # noqa: S101 - asked for by the line above, as are the other two
        assert self.process.stdout is not None  # noqa: S101
        assert self.process.stderr is not None  # noqa: S101
        self.stdin, self.stdout, self.stderr = self.process.stdin, self.process.stdout, self.process.stderr
        for stream in (self.stdin, self.stdout, self.stderr):
            os.set_blocking(stream.fileno(), False)
        self.outgoing = bytearray(setup)
        self.answers = bytearray()
        self.logs = bytearray()
        self.tasks: deque[_Assigned] = deque()
        self.begun = 0.0
        """When the first of its tasks became the first."""
        self.is_ready = False
        self.speaking: int | None = None
        """The task whose lines come from its standard error now; None before the first."""

    def signal(self, number: int) -> None:
        """Send a signal to the process and all that it has started, whether or not it is dead itself."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left; macOS: only the dead are
            os.killpg(self.process.pid, number)


class WorkerPool:
    """Workers of one model."""

    def __init__(
        self,
        command: list[str],
        setup: Mapping[str, str],
        size: int,
        *,
        task_timeout: float | None = None,
        on_log: OnLog | None = None,
        on_died: Callable[[str], None] | None = None,
        env: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare a pool; no process starts before `run`.

        Args:
            command: how to start a worker.
            setup: the first line that it is told; see worker.py.
            size: how many of them at once.
            task_timeout: seconds that a task may take; None: no limit.
            on_log: called with the task's number, or None, and each line that the model prints.
            on_died: called with a sentence when a worker has died, and its task is tried once more.
            env: the workers' environment; None: ours.
            clock: seconds from any start, never going back.
        """
        self._command = command
        self._setup = json.dumps(setup).encode() + b"\n"
        self._size = size
        self._timeout = task_timeout
        self._on_log = on_log or (lambda _task, _line: None)
        self._on_died = on_died or (lambda _text: None)
        self._env = os.environ if env is None else env
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        self._again: deque[_Assigned] = deque()
        self._failed_starts = 0
        self._looked_at = clock()

    def run(
        self, tasks: Iterator[tuple[int, Task]], *, wake_seconds: float = 0.5
    ) -> Generator[TaskResult | None, None, None]:
        """Work through the tasks; yields each as it ends, in whatever order, and None now and then while none does.

        The caller may stop at any of these by closing the generator: then the workers are stopped, and the tasks they
        had are left undone.

        Raises:
            ModelError: the model cannot be loaded.
        """
        coming = (_Assigned(position, task, 1) for position, task in tasks)
        try:
            while True:
                self._hand_out(coming)
                if not any(worker.tasks for worker in self._workers):
                    return
                yield None
                for key, events in self._selector.select(wake_seconds):
                    yield from self._serve(key.data[0], key.data[1], events)
                yield from self._stop_late()
                yield from self._find_dead()
        finally:
            self.close()

    def close(self) -> None:
        """Stop all workers and what they have started: politely, then not. Closing twice is harmless."""
        workers, self._workers = self._workers, []
        for worker in workers:
            with contextlib.suppress(OSError):
                worker.stdin.close()
            worker.signal(signal.SIGTERM)
        until = time.monotonic() + GRACE_SECONDS
        for worker in workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, until - time.monotonic()))
            worker.signal(signal.SIGKILL)  # the worker, or what it leaves behind
            worker.process.wait()
            worker.stdout.close()
            worker.stderr.close()
        self._selector.close()

    # --- handing out -----------------------------------------------------------------------------------------

    def _hand_out(self, coming: Iterator[_Assigned]) -> None:
        # First one task for each, then the second: no worker is to idle while another has two.
        for depth in range(1, AHEAD + 1):
            for worker in list(self._workers):
                if len(worker.tasks) < depth and not self._assign(worker, coming):
                    return
            while depth == 1 and len(self._workers) < self._size:
                task = self._next(coming)
                if task is None:
                    return
                self._again.appendleft(task)
                worker = self._start()
                self._assign(worker, coming)

    def _next(self, coming: Iterator[_Assigned]) -> _Assigned | None:
        return self._again.popleft() if self._again else next(coming, None)

    def _assign(self, worker: _Worker, coming: Iterator[_Assigned]) -> bool:
        assigned = self._next(coming)
        if assigned is None:
            return False
        if not worker.tasks:
            worker.begun = self._clock()
        worker.tasks.append(assigned)
        task = assigned.task
        line = json.dumps({"task": task.number, "params": dict(task.params), "seed": task.seed})
        worker.outgoing += line.encode() + b"\n"
        self._write(worker)
        return True

    def _start(self) -> _Worker:
        try:
            worker = _Worker(self._command, self._setup, self._env)
        except OSError as error:
            raise ModelError(
                f"The model's interpreter {self._command[0]} cannot be started: {error.strerror}.",
                hint="Is --python the path of a Python?",
            ) from None
        self._workers.append(worker)
        self._selector.register(worker.stdout, selectors.EVENT_READ, (worker, "answers"))
        self._selector.register(worker.stderr, selectors.EVENT_READ, (worker, "logs"))
        self._write(worker)
        return worker

    def _write(self, worker: _Worker) -> None:
        """Send what the pipe takes, and ask to be woken for the rest: a blocking write could wait for a busy worker."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):  # a broken pipe is told by the end of its answers
            while worker.outgoing:
                del worker.outgoing[: os.write(worker.stdin.fileno(), worker.outgoing)]
        registered = worker.stdin in self._selector.get_map()
        if worker.outgoing and not registered:
            self._selector.register(worker.stdin, selectors.EVENT_WRITE, (worker, "tasks"))
        elif registered and not worker.outgoing:
            self._selector.unregister(worker.stdin)

    # --- taking ----------------------------------------------------------------------------------------------

    def _serve(self, worker: _Worker, what: str, events: int) -> Iterator[TaskResult]:
        if worker not in self._workers:
            return
        if what == "tasks":
            self._write(worker)
            return
        stream, buffer = (worker.stdout, worker.answers) if what == "answers" else (worker.stderr, worker.logs)
        try:
            data = os.read(stream.fileno(), 2**20)
        except BlockingIOError:
            return
        buffer += data
        if what == "logs":
            self._take_logs(worker, final=not data)
            if not data:
                self._selector.unregister(stream)
            return
        yield from self._take_answers(worker)
        if not data or len(buffer) > MAX_LINE_BYTES:
            yield from self._bury(worker)

    def _take_logs(self, worker: _Worker, *, final: bool) -> None:
        lines = worker.logs.split(b"\n")
        worker.logs[:] = b"" if final else lines.pop()
        for line in lines:
            text, mark, number = line.rpartition(MARK)
            if not (mark and number.isdigit()):
                text, number = line, bytearray()
            if text:
                self._on_log(worker.speaking, text.decode("utf-8", "replace").rstrip("\r")[:MAX_LOG_CHARACTERS])
            if number:
                worker.speaking = int(number)

    def _take_answers(self, worker: _Worker) -> Iterator[TaskResult]:
        lines = worker.answers.split(b"\n")
        worker.answers[:] = lines.pop()
        for line in lines:
            answer = self._read_answer(line)
            if "broken" in answer:
                raise not_loaded(answer["broken"])
            if "ready" in answer:
                worker.is_ready = True
                self._failed_starts = 0
                worker.begun = self._clock()
                continue
            assigned = worker.tasks.popleft()
            worker.begun = self._clock()
            outputs = answer.get("outputs")
            if outputs is not None:
                outputs = {name: _content(content) for name, content in outputs.items()}
            self._read_logs(worker)
            yield TaskResult(assigned.position, assigned.task, outputs, answer.get("error"))

    def _read_answer(self, line: bytearray) -> dict[str, Any]:
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise no_python(self._command[0], line)
        return answer

    def _read_logs(self, worker: _Worker) -> None:
        """Take what a task printed before its answer. It is in the pipe by then, which holds no more than one read."""
        with contextlib.suppress(OSError):  # nothing is there, or never will be
            worker.logs += os.read(worker.stderr.fileno(), 2**20)
            self._take_logs(worker, final=False)

    def _bury(self, worker: _Worker) -> Iterator[TaskResult]:
        """A worker has died: its first task is tried once more, the other was not begun. What it had started ends."""
        for stream in (worker.stdin, worker.stdout, worker.stderr):
            if stream in self._selector.get_map():
                self._selector.unregister(stream)
        self._workers.remove(worker)
        worker.signal(signal.SIGKILL)
        code = worker.process.wait()
        with contextlib.suppress(OSError):
            worker.logs += worker.stderr.read() or b""
        self._take_logs(worker, final=True)
        for stream in (worker.stdin, worker.stdout, worker.stderr):
            with contextlib.suppress(OSError):
                stream.close()
        if not worker.is_ready:
            self._failed_starts += 1
            if self._failed_starts > ATTEMPTS * self._size:
                raise not_ready(code)
        if not worker.tasks:
            return
        first, *rest = worker.tasks
        self._again.extendleft(reversed(rest))
        if first.attempt < ATTEMPTS or not worker.is_ready:
            if worker.is_ready:
                self._on_died(f"a worker died ({ended(code)}); task {first.task.number} is tried once more")
            self._again.appendleft(first._replace(attempt=first.attempt + worker.is_ready))
            return
        error = {"type": "WorkerDied", "message": f"its worker died {first.attempt} times ({ended(code)})"}
        yield TaskResult(first.position, first.task, None, error)

    def _stop_late(self) -> Iterator[TaskResult]:
        if self._timeout is None:
            return
        for worker in list(self._workers):
            if worker.tasks and worker.is_ready and self._clock() - worker.begun > self._timeout:
                late = worker.tasks.popleft()
                self._again.extendleft(reversed(worker.tasks))
                worker.tasks.clear()
                yield from self._bury(worker)
                error = {"type": "Timeout", "message": f"it took longer than {self._timeout:g} s"}
                yield TaskResult(late.position, late.task, None, error)

    def _find_dead(self) -> Iterator[TaskResult]:
        """Bury workers whose answers have no end though they are dead: children of theirs hold the pipes open."""
        if self._clock() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = self._clock()
        for worker in list(self._workers):
            if worker.process.poll() is not None:
                yield from self._serve(worker, "answers", selectors.EVENT_READ)  # what it said before
                if worker in self._workers:
                    yield from self._bury(worker)


def _content(content: str | dict[str, str]) -> bytes:
    if isinstance(content, str):
        return base64.b64decode(content)
    with open(content["file"], "rb") as file:
        value = file.read()
    os.unlink(content["file"])
    return value

"""Run tasks in warm worker processes of this machine; replace those that die, and stop those that take too long.

One thread with one selector does it all. Each worker has the task it runs and a second one, so that it never waits
between two tasks. If a worker dies, the first task was being run, and the second was not begun. See
docs/decisions/0012-worker-processes.md.
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
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

from mopsjobs.engines.model_errors import (
    describe_exit,
    load_error,
    not_python_error,
    not_started_error,
    startup_error,
)
from mopsjobs.ledger.attempt import Outcome, Usage
from mopsjobs.runner.pools.base import (
    ATTEMPTS,
    GRACE_SECONDS,
    OnLog,
    TaskAtWork,
    TaskResult,
    death_of,
    lateness_of,
    outcome_of,
    task_message,
)
from mopsjobs.runner.pools.worker_process import Assignment, WorkerProcess
from mopsjobs.studies.study import Task
from mopsjobs.utils.measurement import OomKills

TASKS_PER_WORKER = 2
"""Tasks that a worker has at once."""

MAX_LINE_BYTES = 256 * 2**20
"""Length of an answer, at most; a longer one ends the worker."""

LIVENESS_SECONDS = 1.0
"""How often dead workers are looked for."""


class WorkerPool:
    """Worker processes of one model on this machine."""

    def __init__(
        self,
        command: list[str],
        setup: Mapping[str, object],
        size: int,
        *,
        task_timeout: float | None = None,
        on_log: OnLog | None = None,
        env: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare a pool; no process starts before `run`.

        Args:
            command: how to start a worker.
            setup: the first line of its input; see engines/worker.py.
            size: how many workers run at once.
            task_timeout: seconds that a task may take; None: no limit.
            on_log: called with the task's number, or None, and each line of the model that is kept; see `LogLines`.
            env: the workers' environment; None: that of this process.
            clock: a monotonic clock in seconds.
        """
        self._command = command
        self._setup = json.dumps(setup).encode() + b"\n"
        self._size = size
        self.workers: int | None = size
        self.is_ready = False
        self._timeout = task_timeout
        self._on_log = on_log or (lambda _task, _line: None)
        self._env = os.environ if env is None else env
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._workers: list[WorkerProcess] = []
        self._requeued: deque[Assignment] = deque()
        self._failed_starts = 0
        self._liveness_checked_at = clock()
        self._oom_kills = OomKills()

    def run(
        self, tasks: Iterator[tuple[int, Task]], *, wake_seconds: float = 0.5
    ) -> Generator[TaskResult | None, None, None]:
        """Run the tasks; see `Pool.run`.

        Raises:
            ModelError: if the model cannot be loaded.
        """
        tasks_ahead = (Assignment(position, task, 1) for position, task in tasks)
        try:
            while True:
                self._hand_out(tasks_ahead)
                if not any(worker.tasks for worker in self._workers):
                    return
                yield None
                for key, events in self._selector.select(wake_seconds):
                    yield from self._handle_event(key.data[0], key.data[1], events)
                yield from self._stop_late_workers()
                yield from self._bury_dead_workers()
        finally:
            self.close()

    def at_work(self) -> Sequence[TaskAtWork]:
        """Return the attempts that run now; see `Pool.at_work`."""
        return [
            TaskAtWork(*worker.tasks[0], worker.task_started_ts, worker.usage.host)
            for worker in self._workers
            if worker.is_ready and worker.tasks
        ]

    def close(self) -> None:
        """Stop all workers and their child processes: by SIGTERM, then by SIGKILL. Closing twice is harmless."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.log_lines.end()
            with contextlib.suppress(OSError):
                worker.stdin.close()
            worker.signal(signal.SIGTERM)
        until = time.monotonic() + GRACE_SECONDS
        for worker in workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, until - time.monotonic()))
            worker.signal(signal.SIGKILL)  # the worker, or processes that it leaves behind
            worker.process.wait()
            worker.stdout.close()
            worker.stderr.close()
        self._selector.close()

    # --- tasks to workers ------------------------------------------------------------------------------------

    def _hand_out(self, tasks_ahead: Iterator[Assignment]) -> None:
        # One task for each worker first, then the second: no worker idles while another has two.
        for depth in range(1, TASKS_PER_WORKER + 1):
            for worker in list(self._workers):
                if len(worker.tasks) < depth and not self._assign(worker, tasks_ahead):
                    return
            while depth == 1 and len(self._workers) < self._size:
                task = self._next(tasks_ahead)
                if task is None:
                    return
                self._requeued.appendleft(task)
                worker = self._start()
                self._assign(worker, tasks_ahead)

    def _next(self, tasks_ahead: Iterator[Assignment]) -> Assignment | None:
        return self._requeued.popleft() if self._requeued else next(tasks_ahead, None)

    def _assign(self, worker: WorkerProcess, tasks_ahead: Iterator[Assignment]) -> bool:
        assignment = self._next(tasks_ahead)
        if assignment is None:
            return False
        if not worker.tasks:
            worker.begin_task(self._clock())
        worker.tasks.append(assignment)
        line = json.dumps(task_message(assignment.task, assignment.attempt))
        worker.outgoing += line.encode() + b"\n"
        self._write(worker)
        return True

    def _start(self) -> WorkerProcess:
        try:
            worker = WorkerProcess(self._command, self._setup, self._env, self._on_log)
        except OSError as error:
            raise not_started_error(self._command[0], error) from None
        self._workers.append(worker)
        self._selector.register(worker.stdout, selectors.EVENT_READ, (worker, "answers"))
        self._selector.register(worker.stderr, selectors.EVENT_READ, (worker, "logs"))
        self._write(worker)
        return worker

    def _write(self, worker: WorkerProcess) -> None:
        """Send what the pipe takes, and ask to be woken for the rest: a blocking write could wait for a busy worker."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):  # after a broken pipe, its answers end too
            while worker.outgoing:
                del worker.outgoing[: os.write(worker.stdin.fileno(), worker.outgoing)]
        if bool(worker.outgoing) == worker.is_blocked:
            return
        worker.is_blocked = not worker.is_blocked
        if worker.is_blocked:
            self._selector.register(worker.stdin, selectors.EVENT_WRITE, (worker, "tasks"))
        else:
            self._selector.unregister(worker.stdin)

    # --- answers from workers --------------------------------------------------------------------------------

    def _handle_event(self, worker: WorkerProcess, what: str, events: int) -> Iterator[TaskResult]:
        if worker not in self._workers:
            return
        if what == "tasks":
            self._write(worker)
            return
        stream = worker.stdout if what == "answers" else worker.stderr
        try:
            data = os.read(stream.fileno(), 2**20)
        except BlockingIOError:
            return
        if what == "logs":
            worker.log_lines.feed(data)
            if not data:
                worker.log_lines.end()
                self._selector.unregister(stream)
            return
        worker.answers += data
        yield from self._handle_answers(worker)
        if not data or len(worker.answers) > MAX_LINE_BYTES:
            yield from self._bury(worker)

    def _handle_answers(self, worker: WorkerProcess) -> Iterator[TaskResult]:
        lines = worker.answers.split(b"\n")
        worker.answers[:] = lines.pop()
        for line in lines:
            answer = self._read_answer(line)
            if "broken" in answer:
                raise load_error(answer["broken"])
            if "ready" in answer:
                worker.note_ready(answer)
                self.is_ready = True
                self._failed_starts = 0
                worker.begin_task(self._clock())
                continue
            assignment = worker.tasks.popleft()
            started_at, usage = worker.usage.note(answer["usage"])
            worker.begin_task(self._clock())
            outputs, error = answer.get("outputs"), answer.get("error")
            if outputs is not None:
                outputs = {name: _content(content) for name, content in outputs.items()}
            self._read_logs(worker, assignment.task)
            yield TaskResult(
                assignment.position,
                assignment.task,
                outputs,
                error,
                outcome=outcome_of(error),
                attempt=assignment.attempt,
                started_at=started_at,
                usage=Usage(*usage),
            )

    def _read_answer(self, line: bytearray) -> dict[str, Any]:
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise not_python_error(self._command[0], line)
        return answer

    def _read_logs(self, worker: WorkerProcess, task: Task) -> None:
        """Read what a task printed before its answer. It is in the pipe by then, which holds no more than one read."""
        with contextlib.suppress(OSError):  # the pipe is empty or closed
            worker.log_lines.feed(os.read(worker.stderr.fileno(), 2**20))
        worker.log_lines.end_task(task.number)

    def _bury(self, worker: WorkerProcess) -> Iterator[TaskResult]:
        """Clean up after a dead worker: kill its processes, requeue its tasks; the first counts as begun."""
        for stream in (worker.stdin, worker.stdout, worker.stderr):
            if stream in self._selector.get_map():
                self._selector.unregister(stream)
        self._workers.remove(worker)
        worker.signal(signal.SIGKILL)
        worker.has_ended(wait=True)
        code = worker.process.returncode
        with contextlib.suppress(OSError):
            worker.log_lines.feed(worker.stderr.read() or b"")
        worker.log_lines.end()
        for stream in (worker.stdin, worker.stdout, worker.stderr):
            with contextlib.suppress(OSError):
                stream.close()
        if not worker.is_ready:
            self._failed_starts += 1
            if self._failed_starts > ATTEMPTS * self._size:
                raise startup_error(code)
        if not worker.tasks:
            return
        first, *rest = worker.tasks
        self._requeued.extendleft(reversed(rest))
        if not worker.is_ready:
            self._requeued.appendleft(first)
            return
        is_final = first.attempt >= ATTEMPTS
        if not is_final:
            self._requeued.appendleft(first._replace(attempt=first.attempt + 1))
        end = death_of(describe_exit(code), is_oom=self._oom_kills.explain(code))
        yield self._result_at_end(worker, first, end, is_final=is_final)

    def _stop_late_workers(self) -> Iterator[TaskResult]:
        if self._timeout is None:
            return
        for worker in list(self._workers):
            if worker.tasks and worker.is_ready and self._clock() - worker.task_started_at > self._timeout:
                late = worker.tasks.popleft()
                self._requeued.extendleft(reversed(worker.tasks))
                worker.tasks.clear()
                peak = worker.peak_now()
                yield from self._bury(worker)
                yield self._result_at_end(worker, late, lateness_of(self._timeout), peak=peak)

    def _result_at_end(
        self,
        worker: WorkerProcess,
        assignment: Assignment,
        end: tuple[Outcome, Mapping[str, str]],
        *,
        peak: int | None = None,
        is_final: bool = True,
    ) -> TaskResult:
        """Return the result of the attempt at which a worker ended. For `peak`, see `ProcessUsage.at_end`."""
        position, task, attempt = assignment
        outcome, error = end
        usage = Usage(*worker.usage.at_end(self._clock() - worker.task_started_at, peak))
        return TaskResult(position, task, None, error, outcome, attempt, worker.task_started_ts, usage, is_final)

    def _bury_dead_workers(self) -> Iterator[TaskResult]:
        """Bury dead workers whose pipes are still open, held by processes that they started."""
        if self._clock() - self._liveness_checked_at < LIVENESS_SECONDS:
            return
        self._liveness_checked_at = self._clock()
        for worker in list(self._workers):
            if worker.has_ended():
                yield from self._handle_event(worker, "answers", selectors.EVENT_READ)  # its last answers
                if worker in self._workers:
                    yield from self._bury(worker)


def _content(content: str | dict[str, str]) -> bytes:
    if isinstance(content, str):
        return base64.b64decode(content)
    with open(content["file"], "rb") as file:
        value = file.read()
    os.unlink(content["file"])
    return value

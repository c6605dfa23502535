"""Run tasks in warm worker processes of this machine; replace those that die, and stop those that take too long.

One thread with one selector does it all. Each worker has the task it runs and a second one, so that it never waits
between two tasks. If a worker dies, the first task was being run, and the second was not begun. See
docs/decisions/0012-worker-processes.md. With a limit of memory, a worker has one task at a time, so that what it has is
that of the task. See docs/decisions/0069-memory-of-a-task.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence

from mopsjobs.engines.model_errors import describe_exit, load_error, not_started_error, startup_error
from mopsjobs.engines.model_process import parse_answer
from mopsjobs.ledger.attempt import Outcome, Usage
from mopsjobs.runner.checkpoints import Checkpoints
from mopsjobs.runner.pools.base import (
    GRACE_SECONDS,
    NO_LIMITS,
    NOTHING_SAVED,
    STARTS,
    Assignment,
    End,
    Feed,
    NextTasks,
    OnLog,
    SeenFiles,
    TaskAtWork,
    TaskLimits,
    TaskQueue,
    TaskResult,
    death_of,
    memory_excess_of,
    most_doublings,
    outcome_of,
    task_message,
)
from mopsjobs.runner.pools.process import MAX_ANSWER_BYTES, MemoryGuard, ModelProcess, Watch, output_content
from mopsjobs.runner.pools.shared_cores import SharedCores, release
from mopsjobs.utils import measurement
from mopsjobs.utils.file_watch import FileWatch


class WorkerProcess(ModelProcess):
    """A worker process of this machine, and its tasks.

    It leads a session of its own, so that the processes which a model starts can be ended with it. So a terminal's
    Ctrl-C does not reach it. If the runner is killed, it ends at once, with them: see engines/worker.py.
    """

    tasks: deque[Assignment]
    core: int | None = None
    """The locked file of the core that it runs on; see `SharedCores`. The process holds the lock while it lives."""
    task_started_at = 0.0
    """When the first of its tasks became the first, by the clock of the pool."""
    task_started_ts = 0.0
    """The same in seconds since the epoch."""
    is_leaving = False
    """Whether it takes no further task: there is none for it, or another job needs its core."""
    _left_at: float | None = None
    """When its input ended, by the monotonic clock."""

    def signal(self, number: int) -> None:
        """Send a signal to the process group, also if the worker itself is dead."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # no process is left; macOS: only zombies
            os.killpg(self.process.pid, number)

    def read_logs(self, number: int) -> None:
        """Read what a task printed before its answer. It is in the pipe by then, which holds no more than one read.

        Args:
            number: that of the task.
        """
        with contextlib.suppress(OSError):  # the pipe is empty or closed
            self.log_lines.feed(os.read(self.stderr.fileno(), 2**20))
        self.log_lines.end_task(number)

    def terminate(self) -> None:
        """Ask the worker to end, with the processes that it started."""
        self.log_lines.end()
        with contextlib.suppress(OSError):
            self.stdin.close()
        self.signal(signal.SIGTERM)

    def end(self, until: float) -> None:
        """Wait for the worker, and kill what remains.

        Args:
            until: by the monotonic clock.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, until - time.monotonic()))
        self.signal(signal.SIGKILL)  # the worker, or processes that it leaves behind
        self.process.wait()
        self._give_back()

    def kill(self) -> int:
        """Kill the worker and the processes that it started, and read its last output. Return its exit code."""
        self.signal(signal.SIGKILL)
        self.has_ended(wait=True)
        with contextlib.suppress(OSError):
            self.log_lines.feed(self.stderr.read() or b"")
        self.log_lines.end()
        self._give_back()
        return int(self.process.returncode)

    def leave(self) -> None:
        """End its input, so that it ends, or kill it if it has not ended since: a thread of the model may go on."""
        if self._left_at is None:
            self.is_leaving, self._left_at = True, time.monotonic()
            self.stdin.close()
        elif time.monotonic() - self._left_at > GRACE_SECONDS:
            self.signal(signal.SIGKILL)

    def _give_back(self) -> None:
        """Close its streams and free its core, once the process has ended."""
        self.close()
        core, self.core = self.core, None  # the pool may have taken it for the next worker
        if core is not None:
            release(core)

    def begin_task(self, now: float) -> None:
        """Note that the first of its tasks begins.

        Args:
            now: by the clock of the pool.
        """
        self.task_started_at, self.task_started_ts = now, time.time()


TASKS_PER_WORKER = 2
"""Tasks that a worker has at once."""

LIVENESS_SECONDS = 1.0
"""How often dead workers are looked for."""

IDLE_SECONDS = 5.0
"""How long workers for which there is no task keep cores of which a job with a core wants more: a client may think."""


@dataclasses.dataclass(eq=False)
class WorkerPool:
    """Worker processes of one model on this machine. No process starts before `run`.

    Args:
        _command: how to start a worker.
        _setup: the first line of its input; see engines/worker.py.
        _size: how many workers run at once, at most.
        limits: limits of each attempt. The memory of a task is doubled up to that of this machine.
        cores: the cores that other jobs need too. Workers then come and go; None: no other job matters.
        on_log: called with the task's number, or None, and each line of the model that is kept; see `LogLines`.
        env: the workers' environment; None: that of this process.
        feed: the outputs for reductions, if the tasks are these.
        files: sees which files of the bundle its processes open. It is closed with the pool.
        checkpoints: those of the tasks; None: they have none.
        waker: a file that can be read when further tasks have come. Workers without a task then stay; None: none come.
        clock: a monotonic clock in seconds.
    """

    _command: list[str]
    _setup: Mapping[str, object]
    _size: int
    limits: TaskLimits = NO_LIMITS
    cores: SharedCores | None = None
    on_log: OnLog = lambda _task, _line: None
    env: Mapping[str, str] = dataclasses.field(default_factory=lambda: os.environ)
    feed: Feed | None = None
    files: SeenFiles | FileWatch = dataclasses.field(default_factory=SeenFiles)
    checkpoints: Checkpoints | None = None
    waker: int | None = None
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.workers: int | None = self._size
        self.is_ready = self.is_waiting = False
        self._guard = MemoryGuard(measurement)
        self._depth = TASKS_PER_WORKER if self.limits.memory is None and self.feed is None else 1
        self._selector = selectors.DefaultSelector()
        self._workers: list[WorkerProcess] = []
        self._queue = self._queue_of(iter(()))
        self._failed_starts = 0
        self._is_ending = False
        self._ending: list[WorkerProcess] = []
        """Workers that were asked to end."""
        self._liveness_checked_at = self._busy_at = self.clock()
        self._oom_kills = measurement.OomKills()

    def run(self, tasks: NextTasks, *, wake_seconds: float = 0.5) -> Generator[TaskResult | None, None, None]:
        """Run the tasks; see `Pool.run`.

        Raises:
            ModelError: if the model cannot be loaded.
        """
        self._queue = self._queue_of(tasks)
        if self.waker is not None:
            self._selector.register(self.waker, selectors.EVENT_READ)
        try:
            while True:
                self._hand_out()
                self.is_waiting = self.cores is not None and self._yield_cores(self.cores)
                is_idle = not self.is_waiting and not self._count_busy()
                if is_idle and (self._is_ending or self._queue.is_over):
                    return
                pause = min(self._queue.seconds_to_next() or wake_seconds, wake_seconds)
                yield None
                for key, _ in self._selector.select(pause):
                    if key.data is None:
                        os.read(key.fd, 2**10)
                        continue
                    worker, handle = key.data
                    if worker in self._workers:  # an event before may have ended it
                        yield from handle(worker)
                yield from self._stop_late_workers()
                yield from self._bury_dead_workers()
        finally:
            self.close()

    def at_work(self) -> Sequence[TaskAtWork]:
        """Return the attempts that run now; see `Pool.at_work`."""
        return [
            TaskAtWork(*worker.tasks[0][:3], worker.task_started_ts, worker.host, worker.tasks[0].resumed)
            for worker in self._workers
            if worker.is_ready and worker.tasks
        ]

    def keep_only(self, tasks: Collection[int] | None = None) -> None:
        """End all attempts but some, and begin no more; see `Pool.keep_only`."""
        self._is_ending = True
        for worker in list(self._workers):
            is_kept = tasks is None or (worker.is_ready and worker.tasks and worker.tasks[0].task.number in tasks)
            if not (worker.tasks and is_kept):
                self._drop(worker)
                worker.terminate()
                self._ending.append(worker)

    def close(self) -> None:
        """Stop all workers and their child processes: by SIGTERM, then by SIGKILL. Closing twice is harmless."""
        workers, self._workers = self._workers, []
        for worker in workers:
            self._end_watch(worker)
            worker.terminate()
        until = time.monotonic() + GRACE_SECONDS
        for worker in (*workers, *self._ending):
            worker.end(until)
        if self.cores is not None:
            self.cores.leave_line()
        self._selector.close()
        self.files.close()

    # --- tasks to workers ------------------------------------------------------------------------------------

    def _queue_of(self, tasks: NextTasks) -> TaskQueue:
        doublings = most_doublings(self.limits.memory, measurement.memory_size())
        return TaskQueue(tasks, self.limits.policy, doublings, self.clock)

    def _yield_cores(self, cores: SharedCores) -> bool:
        """Let workers go for which there is no task, and one of several if another job has no core.

        Workers that stay without a task all go, if another job wants cores.

        Returns:
            Whether this runner waits for a core.
        """
        workers, stay = self._workers, self.waker is not None
        is_idle, now = stay and not self._count_busy(), self.clock()
        self._busy_at = self._busy_at if is_idle else now
        is_long_idle = now - self._busy_at >= IDLE_SECONDS
        if cores.are_wanted(is_idle=is_long_idle) and not any(worker.is_leaving for worker in workers):
            going = sorted(workers, key=lambda worker: len(worker.tasks))
            for worker in going if is_long_idle else going[: is_idle or len(workers) > 1]:
                worker.is_leaving = True
        for worker in workers:
            if worker.is_ready and not worker.tasks and (worker.is_leaving or not stay):
                worker.leave()
        self.workers = len(workers) if stay else self.workers
        return cores.is_waiting

    def _hand_out(self) -> None:
        if self._is_ending:
            return
        # One task for each worker first, then the second: no worker idles while another has two.
        for depth in range(1, self._depth + 1):
            for worker in list(self._workers):
                if len(worker.tasks) < depth and not worker.is_leaving:
                    assignment = self._queue.next_prepared(self._prepare)
                    if assignment is None:
                        return
                    self._assign(worker, assignment)
            core = None
            # A worker that leaves may take its time, and takes no task: without another one, this pool stands in line.
            while depth == 1 and (busy := self._count_busy()) < self._size:
                assignment = self._queue.next_prepared(self._prepare)
                if assignment is None:
                    return
                if self.cores is not None and (core := self.cores.take(is_first=not busy)) is None:
                    self._queue.put_back(assignment)
                    break
                self._assign(self._start(core), assignment)

    def _count_busy(self) -> int:
        return sum(bool(worker.tasks) for worker in self._workers)

    def _prepare(self, assignment: Assignment) -> Assignment | None:
        """Bring the checkpoint of a task into place; None if that takes longer."""
        if self.checkpoints is None:
            return assignment
        may_have = assignment.attempt > 1 or assignment.is_alone
        resumed = self.checkpoints.prepare(assignment.task, may_have=may_have)
        if resumed is None and not may_have:  # as of most models
            return assignment
        return None if resumed is False else assignment._replace(resumed=resumed, is_prepared=True)

    def _assign(self, worker: WorkerProcess, assignment: Assignment) -> None:
        if assignment.is_alone and worker.has_run:
            core, worker.core = worker.core, None  # for the next worker
            self._remove(worker)
            worker = self._start(core)
        if not worker.tasks:
            worker.begin_task(self.clock())
        worker.tasks.append(assignment)
        self._begin_watch(worker)
        worker.outgoing += json.dumps(task_message(assignment.task, assignment.attempt)).encode() + b"\n"
        self._write(worker)

    def _begin_watch(self, worker: WorkerProcess) -> None:
        if self.limits.memory is not None and worker.is_ready and worker.tasks:
            worker.watch = self._guard.begin(worker.process.pid, self.limits.memory << worker.tasks[0].doublings)

    def _end_watch(self, worker: WorkerProcess) -> Watch | None:
        """End the watch over the task at work; return it if the worker had too much memory."""
        watch, worker.watch = worker.watch, None
        if watch is not None:
            self._guard.end(watch)
        return watch if watch is not None and watch.is_over else None

    def _start(self, core: int | None) -> WorkerProcess:
        files = () if core is None else (core,)
        try:
            worker = WorkerProcess(
                self._command, self._setup, self.env, self.on_log, start_new_session=True, pass_fds=files
            )
        except OSError as error:
            raise not_started_error(self._command[0], error) from None
        worker.core, worker.tasks = core, deque()
        self._workers.append(worker)
        self.workers = len(self._workers)
        self._selector.register(worker.stdout, selectors.EVENT_READ, (worker, self._take_answers))
        self._selector.register(worker.stderr, selectors.EVENT_READ, (worker, self._take_logs))
        self._write(worker)
        return worker

    def _write(self, worker: WorkerProcess) -> tuple[()]:
        worker.send(self._selector, (worker, self._write))
        return ()

    # --- answers from workers --------------------------------------------------------------------------------

    def _take_logs(self, worker: WorkerProcess) -> tuple[()]:
        with contextlib.suppress(BlockingIOError):
            data = os.read(worker.stderr.fileno(), 2**20)
            worker.log_lines.feed(data)
            if not data:
                worker.log_lines.end()
                self._selector.unregister(worker.stderr)
        return ()

    def _take_answers(self, worker: WorkerProcess) -> Iterator[TaskResult]:
        try:
            data = os.read(worker.stdout.fileno(), 2**20)
        except BlockingIOError:
            return
        worker.answers += data
        yield from self._handle_answers(worker)
        if worker in self._workers and (not data or len(worker.answers) > MAX_ANSWER_BYTES):
            yield from self._bury(worker)

    def _handle_answers(self, worker: WorkerProcess) -> Iterator[TaskResult]:
        lines = worker.answers.split(b"\n")
        worker.answers[:] = lines.pop()
        for line in lines:
            answer = parse_answer(line, self._command[0])
            if "broken" in answer:
                raise load_error(answer["broken"], "model" if self.feed is None else "reduce function")
            if "ready" in answer:
                worker.note_ready(answer)
                worker.is_ready = self.is_ready = True
                self._failed_starts = 0
                worker.begin_task(self.clock())
                self._begin_watch(worker)
                continue
            if "more" in answer and self.feed is not None:
                self._send_more(worker, self.feed, is_first=answer["more"])
                continue
            assignment, excess = worker.tasks.popleft(), self._end_watch(worker)
            worker.has_run = True
            started_at, usage = worker.note_usage(answer["usage"])
            worker.begin_task(self.clock())
            outputs, error = answer.get("outputs"), answer.get("error")
            if outputs is not None:
                outputs = {name: output_content(content) for name, content in outputs.items()}
            worker.read_logs(assignment.task.number)
            end = (outcome_of(error), error)
            if outputs is None and self.checkpoints is not None:
                self.checkpoints.end(assignment.task, started_at)
                if answer.get("preempted"):
                    may_go_on = self._is_ending or self.checkpoints.has_come_on(assignment.task)
                    end = (Outcome.PREEMPTED, None) if may_go_on else NOTHING_SAVED
            yield self._queue.result(assignment, outputs, end, started_at, Usage(*usage))
            if excess is not None or self._is_ending:  # it was killed when it had answered
                if worker in self._workers:
                    self._remove(worker)
                return
            self._begin_watch(worker)

    def _send_more(self, worker: WorkerProcess, feed: Feed, *, is_first: bool) -> None:
        """Send the next outputs to a worker, if it has a reduction."""
        began_at = self.clock()
        if worker.tasks:
            worker.outgoing += feed(worker.tasks[0].task, is_first=is_first)
        seconds = self.clock() - began_at
        for one in self._workers:  # all of them waited, so it does not count as the time of any task
            one.task_started_at += seconds
        self._write(worker)

    def _remove(self, worker: WorkerProcess) -> int:
        """Kill a worker; see `WorkerProcess.kill`."""
        self._drop(worker)
        return worker.kill()

    def _drop(self, worker: WorkerProcess) -> None:
        """Listen to a worker no more."""
        for stream in (worker.stdin, worker.stdout, worker.stderr):
            if not stream.closed and stream in self._selector.get_map():
                self._selector.unregister(stream)
        self._workers.remove(worker)
        self.workers = max(1, len(self._workers))
        self._end_watch(worker)

    def _bury(self, worker: WorkerProcess) -> Iterator[TaskResult]:
        """Remove a dead worker, and put its tasks back; the first counts as begun."""
        excess = self._end_watch(worker)
        code = self._remove(worker)
        if not worker.is_ready:
            self._failed_starts += 1
            if self._failed_starts > STARTS * self._size:
                raise startup_error(code)
        if not worker.tasks:
            return
        first, *rest = worker.tasks
        self._queue.put_back(*rest)
        if not worker.is_ready:
            self._queue.put_back(first)
        elif excess is None:
            end = death_of(describe_exit(code), is_oom=self._oom_kills.explain(code))
            yield self._result_at_end(worker, first, end)
        elif worker.has_run:  # some of the memory may be what earlier tasks left
            self._queue.put_back(first._replace(is_alone=True, is_prepared=False))
        else:
            yield self._result_at_end(worker, first, memory_excess_of(excess.limit), peak=excess.peak)

    def _stop_late_workers(self) -> Iterator[TaskResult]:
        if self.limits.timeout is None and self.limits.attempt_timeout is None:
            return
        for worker in list(self._workers):
            if not worker.tasks or not worker.is_ready:
                continue
            resumed = worker.tasks[0].resumed
            if self.clock() - worker.task_started_at > self.limits.seconds_of(resumed):
                late = worker.tasks.popleft()
                self._queue.put_back(*worker.tasks)
                worker.tasks.clear()
                peak = measurement.peak_rss(worker.process.pid)
                yield from self._bury(worker)
                yield self._result_at_end(worker, late, self.limits.lateness(resumed), peak=peak)

    def _result_at_end(
        self, worker: WorkerProcess, assignment: Assignment, end: End, *, peak: int | None = None
    ) -> TaskResult:
        """Return the result of the attempt at which a worker ended. For `peak`, see `ModelProcess.usage_at_end`."""
        usage = Usage(*worker.usage_at_end(self.clock() - worker.task_started_at, peak))
        if self.checkpoints is not None:
            self.checkpoints.end(assignment.task, worker.task_started_ts)
        return self._queue.result(assignment, None, end, worker.task_started_ts, usage)

    def _bury_dead_workers(self) -> Iterator[TaskResult]:
        """Bury dead workers whose pipes are still open, held by processes that they started."""
        if self.clock() - self._liveness_checked_at < LIVENESS_SECONDS:
            return
        self._liveness_checked_at = self.clock()
        for worker in list(self._workers):
            if worker.has_ended():
                yield from self._take_answers(worker)  # its last ones
                if worker in self._workers:
                    yield from self._bury(worker)

"""A worker process of this machine, its streams, and what its tasks used."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from mopsjobs.runner.pools.base import GRACE_SECONDS, Feed, OnLog
from mopsjobs.runner.pools.log_lines import LogLines
from mopsjobs.runner.pools.memory_guard import Watch
from mopsjobs.runner.pools.process_usage import ProcessUsage
from mopsjobs.runner.pools.shared_cores import release
from mopsjobs.runner.pools.task_queue import Assignment
from mopsjobs.utils.measurement import peak_rss


class WorkerProcess:
    """One worker process, and its tasks.

    It leads a session of its own, so that the processes which a model starts can be ended with it. So a terminal's
    Ctrl-C does not reach it. If the runner is killed, it ends at once, with them: see engines/worker.py.
    """

    def __init__(
        self, command: list[str], setup: bytes, env: Mapping[str, str], on_log: OnLog, core: int | None = None
    ) -> None:
        """Start the process.

        Args:
            command: how to start it.
            setup: the first line of its input.
            env: its environment.
            on_log: called with its lines; see `LogLines`.
            core: the locked file of the core that it runs on; see `SharedCores`. It holds the lock while it lives.

        Raises:
            OSError: if the system does not start it.
        """
        self.process = subprocess.Popen(  # noqa: S603 - the interpreter is the user's own choice
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(env),
            bufsize=0,
            start_new_session=True,
            pass_fds=() if core is None else (core,),
        )
        self.core = core
        assert self.process.stdin is not None  # noqa: S101 - a pipe, as the other two
        assert self.process.stdout is not None  # noqa: S101
        assert self.process.stderr is not None  # noqa: S101
        self.stdin, self.stdout, self.stderr = self.process.stdin, self.process.stdout, self.process.stderr
        for stream in (self.stdin, self.stdout, self.stderr):
            os.set_blocking(stream.fileno(), False)
        self.outgoing = bytearray(setup)
        self.answers = bytearray()
        self.log_lines = LogLines(on_log)
        self.tasks: deque[Assignment] = deque()
        self.task_started_at = 0.0
        """When the first of its tasks became the first, by the clock of the pool."""
        self.task_started_ts = 0.0
        """The same in seconds since the epoch."""
        self.is_ready = False
        self.has_run = False
        """Whether a task has ended in it."""
        self.watch: Watch | None = None
        """The watch over the memory of the first of its tasks."""
        self.is_leaving = False
        """Whether it takes no further task: there is none for it, or another job needs its core."""
        self._left_at: float | None = None
        """When its input ended, by the monotonic clock."""
        self.is_blocked = False
        """Whether the pipe to it is full, and more is to be written."""
        self.usage = ProcessUsage()

    def signal(self, number: int) -> None:
        """Send a signal to the process group, also if the worker itself is dead."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # no process is left; macOS: only zombies
            os.killpg(self.process.pid, number)

    def send(self) -> None:
        """Send what the pipe takes: a blocking write could wait for a busy worker."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):  # after a broken pipe, its answers end too
            while self.outgoing:
                del self.outgoing[: os.write(self.stdin.fileno(), self.outgoing)]

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
        self.stdout.close()
        self.stderr.close()
        self.give_back_core()

    def kill(self) -> int:
        """Kill the worker and the processes that it started, and read its last output. Return its exit code."""
        self.signal(signal.SIGKILL)
        self.has_ended(wait=True)
        with contextlib.suppress(OSError):
            self.log_lines.feed(self.stderr.read() or b"")
        self.log_lines.end()
        for stream in (self.stdin, self.stdout, self.stderr):
            with contextlib.suppress(OSError):
                stream.close()
        self.give_back_core()
        return int(self.process.returncode)

    def leave(self) -> None:
        """End its input, so that it ends, or kill it if it has not ended since: a thread of the model may go on."""
        if self._left_at is None:
            self.is_leaving, self._left_at = True, time.monotonic()
            self.stdin.close()
        elif time.monotonic() - self._left_at > GRACE_SECONDS:
            self.signal(signal.SIGKILL)

    def give_back_core(self) -> None:
        """Free its core, once the process has ended."""
        if self.core is not None:
            release(self.core)
            self.core = None

    def begin_task(self, now: float) -> None:
        """Note that the first of its tasks begins.

        Args:
            now: by the clock of the pool.
        """
        self.task_started_at, self.task_started_ts = now, time.time()

    def take_more(self, feed: Feed, clock: Callable[[], float], *, is_first: bool) -> float:
        """Add the next outputs to what is sent to it, if it has a task. Return the seconds that reading them took."""
        began_at = clock()
        if self.tasks:
            self.outgoing += feed(self.tasks[0].task, is_first=is_first)
        return clock() - began_at

    def note_ready(self, answer: Mapping[str, Any]) -> None:
        """Take its first answer, after it has loaded the model."""
        self.is_ready = True
        self.usage.note_ready(answer)

    def has_ended(self, *, wait: bool = False) -> bool:
        """Return True if the process has ended; see `ProcessUsage.has_ended`."""
        return self.usage.has_ended(self.process, wait=wait)

    def peak_now(self) -> int | None:
        """Return the peak of memory of the task that it runs, in bytes; None if unknown."""
        return peak_rss(self.process.pid)

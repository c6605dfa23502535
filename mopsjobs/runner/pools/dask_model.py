"""The process of a model on a Dask worker.

Like dask_task.py, which starts it, this module is sent as text. So it imports nothing of mops-jobs.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MAX_LINE_BYTES = 256 * 2**20

POLL_SECONDS = 0.5


class Model:
    """A process of the model."""

    def __init__(self, code: dict[str, Any], root: str, load: Callable[[str], Any]) -> None:
        """Start the process.

        Args:
            code: see `run` of dask_task.py.
            root: the directory of code and spool.
            load: returns a module of `code` by its name.
        """
        python = code["python"] or sys.executable
        self.process = subprocess.Popen(  # noqa: S603 - the interpreter is the user's own choice
            [python, "-u", os.path.join(root, "worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**_thread_limits(), **os.environ, **code["env"]},
            bufsize=0,
        )
        setup = {
            "root": os.path.join(root, "code"),
            "entrypoint": code["entrypoint"],
            "spool": os.path.join(root, "spool"),
            "outputs": code["outputs"],
        }
        self.outgoing = bytearray(json.dumps(setup).encode() + b"\n")
        self.answers = bytearray()
        self.lines: list[str] = []
        self.logs = load("log_lines").LogLines(lambda _task, line: self.lines.append(line))
        self.is_ready = False
        self.has_run = self.has_excess = False
        self.measurement = load("measurement")
        self.guard = load("memory_guard").MemoryGuard(self.measurement)
        self.watch: Any = None
        self.usage = load("process_usage").ProcessUsage()
        self.output_content = load("output_content").output_content
        self.oom_kills = self.measurement.OomKills()
        self.selector = selectors.DefaultSelector()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            os.set_blocking(stream.fileno(), False)  # type: ignore[union-attr]
        self.selector.register(self.process.stdout, selectors.EVENT_READ, self.answers.extend)  # type: ignore[arg-type]
        self.selector.register(self.process.stderr, selectors.EVENT_READ, self.logs.feed)  # type: ignore[arg-type]

    def run_task(
        self, task: dict[str, Any], timeout: float | None, memory: int | None, lines: list[str]
    ) -> dict[str, Any] | None:
        """Return the answer to a task; None if the process has ended instead. After the timeout, end the process."""
        self.lines = lines
        self.outgoing += json.dumps(task).encode() + b"\n"
        self._begin(memory)
        try:
            answer = self._await_answer(timeout, memory)
        finally:
            if self.watch is not None:
                self.guard.end(self.watch)
        self.has_excess = self.watch is not None and self.watch.is_over
        if answer is not None:
            self.has_run = True
            self._read(wait=0.0)  # the lines before the answer: they are in the pipe by then
            self.logs.end()
            if self.has_excess:  # it was killed when it had answered
                self.end()
        return answer

    def _await_answer(self, timeout: float | None, memory: int | None) -> dict[str, Any] | None:
        while True:
            self._write()
            is_over = not self._read()
            while b"\n" in self.answers:
                line, _, rest = bytes(self.answers).partition(b"\n")
                self.answers[:] = rest
                answer: dict[str, Any] = json.loads(line)
                if "broken" in answer:
                    return answer
                if "ready" not in answer:
                    started_at, usage = self.usage.note(answer["usage"])
                    return {**answer, "usage": usage, "started_at": started_at}
                self.usage.note_ready(answer)
                self.is_ready = True
                self._begin(memory)
            if is_over or len(self.answers) > MAX_LINE_BYTES:
                self.end()
                self._read()
                return None
            if timeout is not None and self.is_ready and time.monotonic() - self._began > timeout:
                peak = self.measurement.peak_rss(self.process.pid)
                self.end()
                self._read()
                return {"late": True, **self.at_end(peak)}

    def _begin(self, memory: int | None) -> None:
        self._began, self._started_at = time.monotonic(), time.time()
        self.watch = self.guard.begin(self.process.pid, memory) if memory is not None and self.is_ready else None

    def at_end(self, peak: int | None = None) -> dict[str, Any]:
        """Return start and usage of the task at which the process ended."""
        return {"started_at": self._started_at, "usage": self.usage.at_end(time.monotonic() - self._began, peak)}

    def describe_death(self) -> dict[str, Any]:
        """Return how the process ended while it ran a task."""
        if self.has_excess:
            return {"excessive": True, **self.at_end(self.watch.peak)}
        exit_code = self.process.returncode
        return {"died": True, "exit_code": exit_code, "is_oom": self.oom_kills.explain(exit_code), **self.at_end()}

    def end(self) -> None:
        """Kill the process, and wait for its end."""
        self.process.kill()
        self.usage.has_ended(self.process, wait=True)

    def close(self) -> None:
        """Close the streams."""
        self.selector.close()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]

    def _write(self) -> None:
        stdin = self.process.stdin
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            while self.outgoing:
                del self.outgoing[: os.write(stdin.fileno(), self.outgoing)]  # type: ignore[union-attr]
        registered = stdin in self.selector.get_map()
        if self.outgoing and not registered:
            self.selector.register(stdin, selectors.EVENT_WRITE)  # type: ignore[arg-type]
        elif registered and not self.outgoing:
            self.selector.unregister(stdin)  # type: ignore[arg-type]

    def _read(self, wait: float = POLL_SECONDS) -> bool:
        """Read answers and lines. Return False if the process has ended."""
        is_alive = not self.usage.has_ended(self.process)  # before reading, so that its last output is read too
        for key, _ in self.selector.select(wait if is_alive else 0.0):
            if key.data is None:
                continue
            with contextlib.suppress(BlockingIOError):
                data = os.read(key.fd, 2**20)
                key.data(data)
                if not data:
                    self.selector.unregister(key.fileobj)
        if not is_alive:
            self.logs.end()
        return is_alive


def _thread_limits() -> dict[str, str]:
    """Return variables that limit the threads of a model to its share of this worker's cores."""
    if "OMP_NUM_THREADS" in os.environ:  # a nanny sets it
        return {}
    from dask.system import CPU_COUNT
    from distributed import get_worker

    share = str(max(1, CPU_COUNT // max(1, get_worker().state.nthreads)))
    return {f"{name}_NUM_THREADS": share for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}

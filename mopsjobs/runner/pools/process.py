"""The process of a model, what it prints and uses, and the memory that it may have; and that of a Dask worker.

The text of this module is also sent to Dask workers. So it imports the standard library alone, runs in Python 3.8, and
is given the module `utils.measurement`. See docs/decisions/0069-memory-of-a-task.md.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    UsageTuple = tuple[float, float | None, float | None, int | None, str | None, str | None]

MARK = b"\x1e"
"""On its standard error, a worker writes this before the number of a task that begins."""

MAX_DIGITS = 20
"""Of the number of a task."""

MAX_CHARACTERS = 8000
"""Of a line. Longer ones are cut."""

MAX_LINE_BYTES = 4 * MAX_CHARACTERS

KEPT_LINES = 500
"""How many of the first lines of a task are kept, and how many of the last."""

KEPT_BYTES = 128 * 1024
"""How many bytes of the first lines of a task are kept, and how many of the last."""

LATER = "… the next lines follow when the task ends"


class LogLines:
    """The lines of one worker. Each attempt at a task has limits of its own, and so has the loading of the model.

    A task that prints without end would fill the registry. Its first lines are passed on as they come. The last ones
    are passed on when it ends, since errors stand there.
    """

    def __init__(self, on_line: Callable[[int | None, str], None]) -> None:
        """Prepare to read.

        Args:
            on_line: called with each line that is kept, and the number of its task; None before the first task.
        """
        self._on_line = on_line
        self._partial = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_bytes = self._left_out = 0
        self._begin(None)

    def feed(self, data: bytes) -> None:
        """Take bytes that the worker has written."""
        self._partial += data
        *lines, self._partial = self._partial.split(b"\n")
        if len(self._partial) > 2 * MAX_LINE_BYTES:
            del self._partial[MAX_LINE_BYTES : -2 * MAX_DIGITS]  # a mark at its end stays
        for line in lines:
            self._take(line)

    def end_task(self, task: int) -> None:
        """Pass on the last lines of a task that has ended, unless lines of the next one have come already."""
        if task == self._task:
            self._end_task()

    def _end_task(self) -> None:
        """Pass on how many lines are left out, and the last lines."""
        if self._left_out:
            words = "line is" if self._left_out == 1 else "lines are"
            self._on_line(self._task, f"… {self._left_out:,} {words} left out")
            self._left_out = 0
        while self._tail:
            self._pass_on(self._tail.popleft())
        self._tail_bytes = 0

    def end(self) -> None:
        """Pass on what is left when the worker has ended, also a line without its end."""
        self._take(self._partial)
        self._partial = bytearray()
        self._end_task()

    def _begin(self, task: int | None) -> None:
        self._task = task
        self._is_head = True
        self._head_lines = self._head_bytes = 0

    def _take(self, line: bytearray) -> None:
        text, mark, number = line.rpartition(MARK)
        is_marked = bool(mark) and number.isdigit() and len(number) <= MAX_DIGITS
        if not is_marked:
            text = line
        if text:
            self._add(bytes(text[:MAX_LINE_BYTES]))
        if is_marked:
            self._end_task()
            self._begin(int(number))

    def _add(self, line: bytes) -> None:
        if self._is_head:
            self._head_lines += 1
            self._head_bytes += len(line)
            if self._head_lines <= KEPT_LINES and self._head_bytes <= KEPT_BYTES:
                self._pass_on(line)
                return
            self._is_head = False
            self._on_line(self._task, LATER)
        self._tail.append(line)
        self._tail_bytes += len(line)
        while len(self._tail) > KEPT_LINES or self._tail_bytes > KEPT_BYTES:
            self._tail_bytes -= len(self._tail.popleft())
            self._left_out += 1

    def _pass_on(self, line: bytes) -> None:
        self._on_line(self._task, line.decode("utf-8", "replace").rstrip("\r")[:MAX_CHARACTERS])


RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in the unit of `ru_maxrss`."""


LOOK_SECONDS = 0.05
"""How often the memory of a process is read."""

TREE_SECONDS = 0.2
"""How often that of the processes that it started is read, too."""

COST = 50
"""And not before this many times the processor time of the last look: so all looks take some 4 % of a core at most."""


class Watch:
    """A watch over one attempt at a task."""

    def __init__(self, pid: int, limit: int) -> None:
        """Name a process and the bytes of memory that it may have, with all that it started."""
        self.pid = pid
        self.limit = limit
        self.is_over = False
        """Whether it had more. It has been killed then."""
        self.peak = 0
        """The most that was seen, in bytes."""


class MemoryGuard:
    """Watches processes in a thread of its own, which runs while there is one to watch.

    A runner that waits for its store, or reads a large output, has no time to look.
    """

    def __init__(self, measurement: Any) -> None:
        """Prepare to watch.

        Args:
            measurement: the module `utils.measurement`.
        """
        self._measurement = measurement
        self._lock = threading.Lock()
        self._watches: list[Watch] = []
        self._is_running = False
        self._trees_due = 0.0

    def begin(self, pid: int, limit: int) -> Watch:
        """Begin to watch a process."""
        watch = Watch(pid, limit)
        with self._lock:
            self._watches.append(watch)
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="memory guard", daemon=True).start()
        return watch

    def end(self, watch: Watch) -> None:
        """End a watch: from now on, the process is not killed. Ending twice is harmless."""
        with self._lock, contextlib.suppress(ValueError):
            self._watches.remove(watch)

    def _run(self) -> None:
        while True:
            began = time.thread_time()
            with self._lock:
                if not self._watches:
                    self._is_running = False
                    return
                for watch in list(self._watches):
                    self._look(watch, [watch.pid])
                pause = _pause(LOOK_SECONDS, began)
                if time.monotonic() >= self._trees_due:
                    began = time.thread_time()
                    self._look_at_trees()
                    self._trees_due = time.monotonic() + _pause(TREE_SECONDS, began)
            time.sleep(pause)

    def _look_at_trees(self) -> None:
        parents = self._measurement.read_parents()
        for watch in list(self._watches):
            tree = self._measurement.tree_of(watch.pid, parents)
            if len(tree) > 1:
                self._look(watch, tree)

    def _look(self, watch: Watch, tree: list[int]) -> None:
        memory = self._measurement.tree_memory(tree, watch.limit)
        watch.peak = max(watch.peak, memory)
        if memory <= watch.limit:
            return
        watch.is_over = True
        self._watches.remove(watch)
        if len(tree) == 1:
            tree = self._measurement.tree_of(watch.pid, self._measurement.read_parents())
        for pid in tree:  # the process itself is the first, so that it starts no more
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def _pause(least: float, began: float) -> float:
    """Return the seconds until the next look: the more processor time this one took, the later it is."""
    return max(least, COST * (time.thread_time() - began))


def output_content(content: str | dict[str, str]) -> bytes:
    """Return an output from the answer of engines/worker.py. The file of a large one is removed."""
    if isinstance(content, str):
        return base64.b64decode(content)
    with open(content["file"], "rb") as file:
        value = file.read()
    os.unlink(content["file"])
    return value


MAX_ANSWER_BYTES = 256 * 2**20
"""Length of an answer, at most; a longer one ends the process."""

POLL_SECONDS = 0.5


class ModelProcess:
    """A process of the model that runs engines/worker.py, its streams, and what its tasks used.

    The usage of a task is a tuple with the fields of `ledger.attempt.Usage`. The answers of the process tell it, and of
    the last task its end.
    """

    def __init__(
        self,
        command: list[str],
        setup: Mapping[str, object],
        env: Mapping[str, str],
        on_line: Callable[[int | None, str], None],
        **options: Any,
    ) -> None:
        """Start the process.

        Args:
            command: how to start it.
            setup: the first line of its input.
            env: its environment.
            on_line: called with its lines; see `LogLines`.
            options: further arguments of `subprocess.Popen`.

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
            **options,
        )
        assert self.process.stdin is not None  # noqa: S101 - a pipe, as the other two
        assert self.process.stdout is not None  # noqa: S101
        assert self.process.stderr is not None  # noqa: S101
        self.stdin, self.stdout, self.stderr = self.process.stdin, self.process.stdout, self.process.stderr
        for stream in (self.stdin, self.stdout, self.stderr):
            os.set_blocking(stream.fileno(), False)
        self.outgoing = bytearray(json.dumps(setup).encode() + b"\n")
        self._task_root = str(setup.get("task_root", setup["spool"]))
        self.answers = bytearray()
        self.log_lines = LogLines(on_line)
        self.host: str | None = None
        self.python: str | None = None
        """What its first answer said."""
        self._user_seconds = self._system_seconds = 0.0
        import resource  # here: Windows has none, and no runner

        self._peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT  # it begins with that of its parent
        self._total: Any = None
        self.is_ready = False
        self.has_run = False
        """Whether a task has ended in it."""
        self.watch: Watch | None = None
        """The watch over the memory of the task that it runs."""

    def send(self, selector: selectors.BaseSelector, data: Any = None) -> None:
        """Send what the pipe takes, and ask to be woken for the rest: a blocking write could wait for a busy process.

        Args:
            selector: wakes the caller.
            data: of the key of the pipe there.
        """
        with contextlib.suppress(BlockingIOError, BrokenPipeError):  # after a broken pipe, its answers end too
            while self.outgoing:
                del self.outgoing[: os.write(self.stdin.fileno(), self.outgoing)]
        is_registered = not self.stdin.closed and self.stdin in selector.get_map()
        if self.outgoing and not is_registered:
            selector.register(self.stdin, selectors.EVENT_WRITE, data)
        elif is_registered and not self.outgoing:
            selector.unregister(self.stdin)

    def note_ready(self, answer: Mapping[str, Any]) -> None:
        """Take the first answer of engines/worker.py: what its start has used is not the task's at which it ends."""
        self.host, self.python = answer.get("host"), answer.get("python")
        if "usage" in answer:
            self.note_usage(answer["usage"])

    def note_usage(self, used: list[Any]) -> tuple[float, UsageTuple]:
        """Take the usage in an answer of engines/worker.py, and return the start and the usage of its task."""
        started, taken, user, system, peak = used
        user_seconds, system_seconds = user / 1e6, system / 1e6
        self._user_seconds += user_seconds
        self._system_seconds += system_seconds
        if peak is not None and peak > self._peak:
            self._peak = peak
        return started / 1e6, (taken / 1e6, user_seconds, system_seconds, peak, self.host, self.python)

    def has_ended(self, *, wait: bool = False) -> bool:
        """Return True if the process has ended. Its exit code is then in `process.returncode`.

        Args:
            wait: wait for its end.
        """
        process = self.process
        if process.returncode is None:
            try:
                pid, status, total = os.wait4(process.pid, 0 if wait else os.WNOHANG)
            except ChildProcessError:  # another waiter took it
                process.poll()
            else:
                if pid:
                    self._total = total
                    process.returncode = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return process.returncode is not None

    def usage_at_end(self, seconds: float, peak: int | None = None) -> UsageTuple:
        """Return the usage of the task at which the process ended: all that it used, without that of its answers.

        Args:
            seconds: how long the task took.
            peak: of memory, if it is known. Otherwise it is the peak of the process, if no task before reached it.
        """
        if self._total is None:
            return seconds, None, None, peak, self.host, self.python
        whole = self._total.ru_maxrss * RSS_UNIT
        return (
            seconds,
            max(0.0, self._total.ru_utime - self._user_seconds),
            max(0.0, self._total.ru_stime - self._system_seconds),
            peak if peak is not None else whole if whole > self._peak else None,
            self.host,
            self.python,
        )

    def close(self) -> None:
        """Close the streams, and remove the directories of its tasks. The process has ended."""
        for stream in (self.stdin, self.stdout, self.stderr):
            with contextlib.suppress(OSError):
                stream.close()
        # What a task that was killed left in its directory; see engines/worker.py.
        shutil.rmtree(os.path.join(self._task_root, f"worker-{self.process.pid}"), ignore_errors=True)


class Model(ModelProcess):
    """A process of the model on a Dask worker, which runs one task at a time."""

    def __init__(self, code: dict[str, Any], root: str, measurement: Any) -> None:
        """Start the process.

        Args:
            code: see `run` of dask_task.py.
            root: the directory of code and spool.
            measurement: the module `utils.measurement`.
        """
        setup = {**code["setup"], **{name: os.path.join(root, name) for name in ("spool", "checkpoints")}}
        setup["root"] = os.path.join(root, "code")
        command = [code["python"] or sys.executable, "-u", os.path.join(root, "worker.py")]
        self.lines: list[str] = []
        env = {**_thread_limits(), **os.environ, **code["env"]}
        super().__init__(command, setup, env, lambda _task, line: self.lines.append(line))
        self.has_excess = False
        self.measurement = measurement
        self.guard = MemoryGuard(measurement)
        self.oom_kills = measurement.OomKills()
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.stdout, selectors.EVENT_READ, self.answers.extend)
        self.selector.register(self.stderr, selectors.EVENT_READ, self.log_lines.feed)

    def run_task(
        self,
        task: dict[str, Any],
        timeout: float | None,
        memory: int | None,
        lines: list[str],
        look: Callable[[], float] = lambda: POLL_SECONDS,
    ) -> dict[str, Any] | None:
        """Return the answer to a task; None if the process has ended instead. After the timeout, end the process.

        Args:
            task: the line for engines/worker.py.
            timeout: seconds, or None.
            memory: bytes that the task may have, or None.
            lines: takes those of the model.
            look: called now and then while it runs. Returns the seconds until its next call, at most.
        """
        self.lines = lines
        self._look = look
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
            self.log_lines.end()
            if self.has_excess:  # it was killed when it had answered
                self.end()
        return answer

    def _await_answer(self, timeout: float | None, memory: int | None) -> dict[str, Any] | None:
        while True:
            self.send(self.selector)
            is_over = not self._read(self._look())
            while b"\n" in self.answers:
                line, _, rest = bytes(self.answers).partition(b"\n")
                self.answers[:] = rest
                answer: dict[str, Any] = json.loads(line)
                if "broken" in answer:
                    return answer
                if "ready" not in answer:
                    started_at, usage = self.note_usage(answer["usage"])
                    if "outputs" in answer:
                        answer["outputs"] = {name: output_content(one) for name, one in answer["outputs"].items()}
                    return {**answer, "usage": usage, "started_at": started_at}
                self.note_ready(answer)
                self.is_ready = True
                self._begin(memory)
            if is_over or len(self.answers) > MAX_ANSWER_BYTES:
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
        return {"started_at": self._started_at, "usage": self.usage_at_end(time.monotonic() - self._began, peak)}

    def describe_death(self) -> dict[str, Any]:
        """Return how the process ended while it ran a task."""
        if self.watch is not None and self.has_excess:
            return {"excessive": True, **self.at_end(self.watch.peak)}
        exit_code = self.process.returncode
        return {"died": True, "exit_code": exit_code, "is_oom": self.oom_kills.explain(exit_code), **self.at_end()}

    def end(self) -> None:
        """Kill the process, and wait for its end."""
        self.process.kill()
        self.has_ended(wait=True)

    def close(self) -> None:
        """Close the streams, and what waits for them."""
        self.selector.close()
        super().close()

    def _read(self, wait: float = POLL_SECONDS) -> bool:
        """Read answers and lines. Return False if the process has ended."""
        is_alive = not self.has_ended()  # before reading, so that its last output is read too
        for key, _ in self.selector.select(wait if is_alive else 0.0):
            if key.data is None:
                continue
            with contextlib.suppress(BlockingIOError):
                data = os.read(key.fd, 2**20)
                key.data(data)
                if not data:
                    self.selector.unregister(key.fileobj)
        if not is_alive:
            self.log_lines.end()
        return is_alive


def _thread_limits() -> dict[str, str]:
    """Return variables that limit the threads of a model to its share of this worker's cores."""
    if "OMP_NUM_THREADS" in os.environ:  # a nanny sets it
        return {}
    from dask.system import CPU_COUNT
    from distributed import get_worker

    share = str(max(1, CPU_COUNT // max(1, get_worker().state.nthreads)))
    return {f"{name}_NUM_THREADS": share for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}

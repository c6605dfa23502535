"""Run one task in a thread of a Dask worker, by a process of the model.

This module is sent as text, once per worker, and compiled there. The cluster needs no mops-jobs and may have another
version of Python, so this imports nothing of mops-jobs. The model runs in separate processes, which stay warm
between tasks: engines/worker.py is sent along. So a model that crashes, prints, changes directory or takes too long
does no harm to the Dask worker. The runner may die without a word: processes and code that are unused for a while are
removed.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import selectors
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

IDLE_SECONDS = 60.0
"""How long unused processes and code are kept for another task."""

MAX_LINE_BYTES = 256 * 2**20

POLL_SECONDS = 0.5

MAX_STOPPED = 1000
"""Ids of stopped jobs that are remembered, at most."""

_modules: dict[str, Any] = {}
"""Modules of `_module`, by their text."""

_jobs: dict[str, _Job] = {}

_stopped: dict[str, None] = {}
"""Ids of stopped jobs, oldest first. A task that arrives after its job was stopped must not begin."""

_lock = threading.Lock()


def run(code: dict[str, Any], job_id: str, task: dict[str, Any], memory: int | None) -> dict[str, Any]:
    """Make one attempt at a task of a job.

    Args:
        code: the model and how to run it.
            - `bundle`: a tar.gz
            - `worker`: the text of engines/worker.py
            - `measurement`: the text of utils/measurement.py
            - `process_usage`: the text of process_usage.py
            - `memory_guard`: the text of memory_guard.py
            - `log_lines`: the text of log_lines.py
            - `describe`: the text of engines/interpreter_script.py
            - `env`: variables of the model's process, besides those of this worker
            - `entrypoint`: model and scenario
            - `outputs`: the names that the study gives, or None
            - `python`: the interpreter, None for this worker's own
            - `timeout`: seconds, or None
            - `starts`: how often a process is started that ends before it has loaded the model
        job_id: names this run of the job.
        task: the line for engines/worker.py.
        memory: bytes that the task may have, or None.

    Returns:
        `lines`, those of the model that are kept, and one of:
        - `outputs`: names to bytes
        - `error`: `type`, `message` and `traceback`
        - `broken`: the same of a model that cannot be loaded
        - `unready`: the exit code of a process that ended before it was ready
        - `died`, `late`, `excessive` or `stopped`: true; with `died` also `exit_code` and `is_oom`

        Besides, `started_at` and `usage`.
    """
    with _lock:
        if job_id in _stopped:
            return {"stopped": True, "lines": []}
        job = _jobs.get(job_id)
        if job is None:
            job = _jobs[job_id] = _Job()
            threading.Thread(target=_remove_unused, args=(job_id, job), daemon=True).start()
        job.busy += 1
    lines: list[str] = []
    try:
        answer = _run_attempt(job, code, task, memory, lines)
    finally:
        with _lock:
            job.busy -= 1
            job.used_at = time.monotonic()
    return {**answer, "lines": lines}


def describe(code: dict[str, Any]) -> Any:
    """Return what the model's interpreter says about itself on this worker."""
    command = [code["python"] or sys.executable, "-c", code["describe"]]
    done = subprocess.run(  # noqa: S603 - as in `_Model`
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=IDLE_SECONDS, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def stop(job_id: str) -> None:
    """End the processes of a job, also those that run a task, and begin no other."""
    with _lock:
        _stopped[job_id] = None
        while len(_stopped) > MAX_STOPPED:
            del _stopped[next(iter(_stopped))]
        job = _jobs.get(job_id)
        if job is None:
            return
        job.is_stopped = True
        models = list(job.models)
    for model in models:
        model.process.kill()


class _Job:
    """Code and processes of a job on this Dask worker."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.root: str | None = None
        self.models: set[_Model] = set()
        self.idle: list[_Model] = []
        self.busy = 0
        self.used_at = time.monotonic()
        self.is_stopped = False

    def unpack(self, code: dict[str, Any]) -> str:
        """Return the directory of code and spool; unpack at the first call.

        The runner has unpacked the same bytes by stricter rules than those of tarfile.
        """
        with self.lock:
            if self.root is None:
                from distributed import get_worker

                root = tempfile.mkdtemp(prefix="mops-jobs-", dir=get_worker().local_directory)
                os.mkdir(os.path.join(root, "spool"))
                with open(os.path.join(root, "worker.py"), "w", encoding="utf-8") as file:
                    file.write(code["worker"])
                with tarfile.open(fileobj=io.BytesIO(code["bundle"]), encoding="utf-8") as tar:
                    safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
                    tar.extractall(os.path.join(root, "code"), **safe)  # type: ignore[arg-type] # noqa: S202 - see above
                self.root = root
            return self.root

    def take(self, code: dict[str, Any], *, is_new: bool) -> _Model:
        """Return an idle process, else a new one."""
        root = self.unpack(code)
        with _lock:
            while self.idle and not is_new:
                model = self.idle.pop()
                if model.process.poll() is None:
                    return model
                self.models.discard(model)
                model.close()
        model = _Model(code, root)
        with _lock:
            self.models.add(model)
            if self.is_stopped:  # `stop` has not seen this process
                model.process.kill()
        return model

    def give_back(self, model: _Model) -> None:
        """Keep a process for the next task, or remove it if it has ended."""
        with _lock:
            if model.process.returncode is None and not self.is_stopped:
                self.idle.append(model)
                return
            self.models.discard(model)
        model.end()
        model.close()


class _Model:
    """A process of the model."""

    def __init__(self, code: dict[str, Any], root: str) -> None:
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
        self.logs = _module("log_lines", code["log_lines"]).LogLines(lambda _task, line: self.lines.append(line))
        self.is_ready = False
        self.has_run = self.has_excess = False
        self.measurement = _module("measurement", code["measurement"])
        self.guard = _module("memory_guard", code["memory_guard"]).MemoryGuard(self.measurement)
        self.watch: Any = None
        self.usage = _module("process_usage", code["process_usage"]).ProcessUsage()
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


def _module(name: str, source: str) -> Any:
    """Return a module from its text, compiled once."""
    with _lock:
        if source not in _modules:
            module = types.ModuleType(name)
            exec(compile(source, f"{name}.py", "exec"), module.__dict__)  # noqa: S102 - sent by the runner, as this one
            _modules[source] = module
        return _modules[source]


def _thread_limits() -> dict[str, str]:
    """Return variables that limit the threads of a model to its share of this worker's cores."""
    if "OMP_NUM_THREADS" in os.environ:  # a nanny sets it
        return {}
    from dask.system import CPU_COUNT
    from distributed import get_worker

    share = str(max(1, CPU_COUNT // max(1, get_worker().state.nthreads)))
    return {f"{name}_NUM_THREADS": share for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}


def _run_attempt(
    job: _Job, code: dict[str, Any], task: dict[str, Any], memory: int | None, lines: list[str]
) -> dict[str, Any]:
    failed_starts, is_alone = 0, False
    while not job.is_stopped:
        try:
            model = job.take(code, is_new=is_alone)
        except OSError as error:
            return {"broken": {"type": type(error).__name__, "message": str(error), "traceback": ""}}
        try:
            answer = model.run_task(task, code["timeout"], memory, lines)
            if answer is not None:
                if "outputs" in answer:
                    answer["outputs"] = {name: _content(output) for name, output in answer["outputs"].items()}
                return answer
        finally:
            job.give_back(model)
        if not model.is_ready:
            failed_starts += 1
            if failed_starts == code["starts"]:
                return _unless_stopped(job, {"unready": model.process.returncode})
        elif not (model.has_excess and model.has_run):
            return _unless_stopped(job, model.describe_death())
        else:  # some of the memory may be what earlier tasks left
            is_alone = True
            lines.clear()
    return {"stopped": True}


def _unless_stopped(job: _Job, answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer that tells of a death, unless the job was stopped, which has ended its processes."""
    return {"stopped": True} if job.is_stopped else answer


def _content(content: str | dict[str, str]) -> bytes:
    if isinstance(content, str):
        return base64.b64decode(content)
    with open(content["file"], "rb") as file:
        value = file.read()
    os.unlink(content["file"])
    return value


def _remove_unused(job_id: str, job: _Job) -> None:
    """Wait until a job is stopped or unused for a while, then remove its processes and code."""
    while True:
        time.sleep(POLL_SECONDS)
        with _lock:
            is_over = job.is_stopped or time.monotonic() - job.used_at > IDLE_SECONDS
            if job.busy or not is_over:
                continue
            del _jobs[job_id]
        for model in job.models:
            model.end()
            model.close()
        if job.root is not None:
            shutil.rmtree(job.root, ignore_errors=True)
        return

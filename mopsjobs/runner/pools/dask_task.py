"""What runs in a thread of a Dask worker for one task: hands it to a model's process of its own, and waits.

This module is sent as text, once a worker, and compiled there: mops-jobs need not be installed on the cluster, and the
Python there may be another version than ours. So it imports nothing of ours. The model runs in processes of the
worker's own Python (worker.py, sent along), which stay warm between tasks: one that crashes, prints, changes directory
or takes too long does no harm to the Dask worker. Nobody may be left to say that a job is over, so processes and code
that have not been used for a while go by themselves.
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

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any


IDLE_SECONDS = 60.0
"""How long processes and code are kept for a next task."""


MARK = b"\x1e"
"""As in worker.py: the number of a task follows, whose lines come then."""


MAX_LINE_BYTES = 256 * 2**20


MAX_LOG_LINES = 10_000
"""Lines of one task that are passed on; the rest is counted."""


LOOK_SECONDS = 0.5


MAX_STOPPED = 1000
"""Ids that are remembered of jobs that were stopped."""


_jobs: dict[str, _Job] = {}


_stopped: dict[str, None] = {}
"""Jobs that were stopped. A task of one may still be on its way here, and nobody would end what it begins."""


_lock = threading.Lock()


def run(code: dict[str, Any], job_id: str, task: dict[str, Any]) -> dict[str, Any]:
    """Run one task of a job.

    Args:
        code: `bundle` (a tar.gz), `worker` (the text of worker.py), `entrypoint`, `python` (None: this worker's own),
            `timeout` (seconds or None), `attempts` (how often a task is begun before its process' deaths count).
        job_id: names the run of the job, and no other.
        task: the line for the process.

    Returns:
        `lines`, what the model printed, and one of: `outputs`, names to bytes; `error` (`type`, `message`,
        `traceback`); `broken`, the same of a model that cannot be loaded; `unready`, the exit code of a process that
        ended before it was ready; `died`, that of the last of several that ended at the task; `late`; `stopped`.
    """
    with _lock:
        if job_id in _stopped:
            return {"stopped": True, "lines": []}
        job = _jobs.get(job_id)
        if job is None:
            job = _jobs[job_id] = _Job()
            threading.Thread(target=_tidy, args=(job_id, job), daemon=True).start()
        job.busy += 1
    lines: list[str] = []
    try:
        answer = _attempted(job, code, task, lines)
    finally:
        with _lock:
            job.busy -= 1
            job.used = time.monotonic()
    return {**answer, "lines": lines}


def stop(job_id: str) -> None:
    """End the processes of a job, also those at work, and begin no other; for another thread than theirs to call."""
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
    """What this worker keeps of a job."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.root: str | None = None
        self.models: set[_Model] = set()
        self.idle: list[_Model] = []
        self.busy = 0
        self.used = time.monotonic()
        self.is_stopped = False

    def unpacked(self, code: dict[str, Any]) -> str:
        """Where code and spool are. The runner has unpacked the same bytes by stricter rules than tarfile's."""
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

    def take(self, code: dict[str, Any]) -> _Model:
        """A process that is idle, else a new one."""
        root = self.unpacked(code)
        with _lock:
            while self.idle:
                model = self.idle.pop()
                if model.process.poll() is None:
                    return model
                self.models.discard(model)
                model.close()
        model = _Model(code, root)
        with _lock:
            self.models.add(model)
            if self.is_stopped:  # and whoever stopped it has not seen this one
                model.process.kill()
        return model

    def give_back(self, model: _Model) -> None:
        """A process is idle, or has ended."""
        with _lock:
            if model.process.returncode is None and not self.is_stopped:
                self.idle.append(model)
                return
            self.models.discard(model)
        model.end()
        model.close()


class _Model:
    """One process of the model."""

    def __init__(self, code: dict[str, Any], root: str) -> None:
        python = code["python"] or sys.executable
        self.process = subprocess.Popen(  # noqa: S603 - the interpreter is the user's own choice
            [python, "-u", os.path.join(root, "worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        setup = {
            "root": os.path.join(root, "code"),
            "entrypoint": code["entrypoint"],
            "spool": os.path.join(root, "spool"),
        }
        self.outgoing = bytearray(json.dumps(setup).encode() + b"\n")
        self.answers = bytearray()
        self.logs = bytearray()
        self.is_ready = False
        self.speaking: object = None
        self.selector = selectors.DefaultSelector()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            os.set_blocking(stream.fileno(), False)  # type: ignore[union-attr]
        self.selector.register(self.process.stdout, selectors.EVENT_READ, self.answers)  # type: ignore[arg-type]
        self.selector.register(self.process.stderr, selectors.EVENT_READ, self.logs)  # type: ignore[arg-type]

    def ask(self, task: dict[str, Any], timeout: float | None, lines: list[str]) -> dict[str, Any] | None:
        """The answer to a task; None when the process has ended instead. A task that is late ends it."""
        self.outgoing += json.dumps(task).encode() + b"\n"
        begun = time.monotonic()
        while True:
            self._write()
            is_over = not self._read(lines)
            while b"\n" in self.answers:
                line, _, rest = bytes(self.answers).partition(b"\n")
                self.answers[:] = rest
                answer: dict[str, Any] = json.loads(line)
                if "ready" not in answer:
                    return answer
                self.is_ready = True
                begun = time.monotonic()
            if is_over or len(self.answers) > MAX_LINE_BYTES:
                self.end()
                self._read(lines)
                return None
            if timeout is not None and self.is_ready and time.monotonic() - begun > timeout:
                self.end()
                self._read(lines)
                return {"late": True}

    def finish_logs(self, lines: list[str]) -> None:
        """Take what was written before the answer: it is in the pipe by then, whichever of the two is read first."""
        self._read(lines, wait=0.0)
        self._take_logs(lines, final=True)

    def end(self) -> None:
        """Kill it, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Let go of its streams."""
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

    def _read(self, lines: list[str], wait: float = LOOK_SECONDS) -> bool:
        """Take what there is; False when the process has ended."""
        is_alive = self.process.poll() is None  # before reading: then what it wrote last is read, too
        for key, _ in self.selector.select(wait if is_alive else 0.0):
            if key.data is None:
                continue
            with contextlib.suppress(BlockingIOError):
                data = os.read(key.fd, 2**20)
                key.data.extend(data)
                if not data:
                    self.selector.unregister(key.fileobj)
        self._take_logs(lines, final=not is_alive)
        return is_alive

    def _take_logs(self, lines: list[str], *, final: bool) -> None:
        written = self.logs.split(b"\n")
        self.logs[:] = b"" if final else written.pop()
        for line in written:
            text, mark, number = line.rpartition(MARK)
            if not (mark and number.isdigit()):
                text = line
            if text:
                lines.append(text.decode("utf-8", "replace").rstrip("\r"))
        if len(lines) > MAX_LOG_LINES:
            lines[MAX_LOG_LINES:] = ["… more lines, which are left out"]


def _attempted(job: _Job, code: dict[str, Any], task: dict[str, Any], lines: list[str]) -> dict[str, Any]:
    died = "died"
    exit_code = 0
    for _ in range(code["attempts"]):
        if job.is_stopped:
            return {"stopped": True}
        try:
            model = job.take(code)
        except OSError as error:
            return {"broken": {"type": type(error).__name__, "message": str(error), "traceback": ""}}
        try:
            answer = model.ask(task, code["timeout"], lines)
            if answer is not None:
                model.finish_logs(lines)
                if "outputs" in answer:
                    answer["outputs"] = {name: _content(one) for name, one in answer["outputs"].items()}
                return answer
        finally:
            job.give_back(model)
        died = "died" if model.is_ready else "unready"
        exit_code = model.process.returncode
    return {"stopped": True} if job.is_stopped else {died: exit_code}


def _content(content: str | dict[str, str]) -> bytes:
    if isinstance(content, str):
        return base64.b64decode(content)
    with open(content["file"], "rb") as file:
        value = file.read()
    os.unlink(content["file"])
    return value


def _tidy(job_id: str, job: _Job) -> None:
    """Wait until a job has not been used for a while, or is stopped, and take away what is left of it."""
    while True:
        time.sleep(LOOK_SECONDS)
        with _lock:
            is_over = job.is_stopped or time.monotonic() - job.used > IDLE_SECONDS
            if job.busy or not is_over:
                continue
            del _jobs[job_id]
        for model in job.models:
            model.end()
            model.close()
        if job.root is not None:
            shutil.rmtree(job.root, ignore_errors=True)
        return

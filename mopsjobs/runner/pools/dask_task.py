"""Run one task in a thread of a Dask worker, by a process of the model.

This module is sent as text, once per worker, and compiled there. The cluster needs no mops-jobs and may have another
version of Python, so this imports nothing of mops-jobs. The model runs in separate processes, which stay warm
between tasks: engines/worker.py is sent along. So a model that crashes, prints, changes directory or takes too long
does no harm to the Dask worker. The runner may die without a word: processes and code that are unused for a while are
removed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
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

    from mopsjobs.runner.pools.process import Model
    from mopsjobs.utils.file_watch import FileWatch

IDLE_SECONDS = 60.0
"""How long unused processes and code are kept for another task."""

POLL_SECONDS = 0.5

SAVED_SECONDS = 0.1
"""The same for new checkpoints of a task that saves some: what is not with the runner is lost with this worker."""

ASK_SECONDS = 10.0
"""After that time, an attempt asks again for its checkpoint."""

MAX_STOPPED = 1000
"""Ids of stopped jobs that are remembered, at most."""

_modules: dict[str, Any] = {}
"""Modules of `_module`, by their text."""

_jobs: dict[str, _Job] = {}

_stopped: dict[str, None] = {}
"""Ids of stopped jobs, oldest first. A task that arrives after its job was stopped must not begin."""

_lock = threading.Lock()


def run(
    code: dict[str, Any], job_id: str, task: dict[str, Any], memory: int | None, attempt: dict[str, Any]
) -> dict[str, Any]:
    """Make one attempt at a task of a job.

    Args:
        code: the model and how to run it.
            - `bundle`: a tar.gz
            - `worker`: the text of engines/worker.py
            - `process`: the text of process.py
            - `measurement`: the text of utils/measurement.py
            - `file_watch`: the text of utils/file_watch.py
            - `describe`: the text of engines/interpreter_script.py
            - `env`: variables of the model's process, besides those of this worker
            - `setup`: what each worker is told of the study
            - `python`: the interpreter, None for this worker's own
            - `starts`: how often a process is started that ends before it has loaded the model
        job_id: names this run of the job.
        task: the line for engines/worker.py.
        memory: bytes that the task may have, or None.
        attempt: its `key`, its `timeout` in seconds or None, and `resumes`: whether it goes on from a checkpoint. The
            runner sends that when the attempt asks for it.

    Returns:
        `lines`, those of the model that are kept, and one of:
        - `outputs`: names to bytes
        - `error`: `type`, `message` and `traceback`
        - `broken`: the same of a model that cannot be loaded
        - `unready`: the exit code of a process that ended before it was ready
        - `died`, `late`, `excessive`, `preempted` or `stopped`: true; with `died` also `exit_code` and `is_oom`

        Besides, `started_at`, `usage`, and `saved`, what was told of its last checkpoint.
        And `files`: those of the bundle that were opened on this worker so far, None
        if that is not known, and the one that was written.
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
    key = attempt["key"]
    saves = _Saves(job, job_id, task, key, code)
    try:
        answer = _run_attempt(job, code, task, memory, lines, saves, attempt)
        if "outputs" not in answer:
            saves.end()
    finally:
        with _lock:
            job.attempts.pop(key, None)
            job.busy -= 1
            job.used_at = time.monotonic()
    if "outputs" in answer:
        shutil.rmtree(saves.path, ignore_errors=True)
    return {**answer, "lines": lines, "files": job.files(), "saved": saves.told}


def describe(code: dict[str, Any]) -> Any:
    """Return what the model's interpreter says about itself on this worker."""
    command = [code["python"] or sys.executable, "-c", code["describe"]]
    done = subprocess.run(  # noqa: S603 - as in `Model`
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


def end(job_id: str, keys: list[str]) -> None:
    """End some attempts of a job, also those that have not begun yet."""
    with _lock:
        job = _jobs.get(job_id)
        if job is None:
            return
        job.ended.update(keys)
        models = [job.attempts[key].model for key in keys if key in job.attempts]
    for model in models:
        if model is not None:
            model.process.kill()


def tell(job_id: str, key: str) -> None:
    """Tell an attempt to save and end."""
    attempt = _attempt(job_id, key)
    if attempt is not None and os.path.isdir(attempt.path):
        open(os.path.join(attempt.path, "stop"), "w").close()


def read(job_id: str, key: str, path: str, offset: int, size: int) -> bytes | None:
    """Return bytes of a checkpoint, as a tar, from the path that was told; None if there is a later one."""
    attempt = _attempt(job_id, key)
    if attempt is not None:
        attempt.is_read = path
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)
    except FileNotFoundError:
        return None


def put(job_id: str, key: str, data: bytes, *, is_last: bool) -> None:
    """Take the next bytes of the checkpoint that an attempt waits for, as a tar. Its first ones are an empty text."""
    attempt = _attempt(job_id, key)
    if attempt is None or attempt.has_come.is_set():
        return
    path = attempt.path + ".part"
    with open(path, "ab" if data else "wb") as file:
        file.write(data)
    if is_last:
        with tarfile.open(path, encoding="utf-8") as tar:
            safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            tar.extractall(os.path.join(attempt.path, "last"), **safe)  # type: ignore[arg-type] # noqa: S202 - ours
        os.unlink(path)
        attempt.has_come.set()


def _is_released(key: str) -> bool:
    """Return whether the scheduler has released a task that runs here."""
    from distributed import get_worker

    task = get_worker().state.tasks.get(key)
    return task is not None and task.state == "cancelled"


def _attempt(job_id: str, key: str) -> _Saves | None:
    with _lock:
        return _jobs[job_id].attempts.get(key) if job_id in _jobs else None


class _Saves:
    """The checkpoints of one attempt on this Dask worker. Events tell the runner of them, and it reads them from here.

    The directory has `new` and `last` as on the machine of a runner. In `sent` are the tars of the last two and of the
    one that the runner reads. A fetch may be slower than the model saves.
    """

    def __init__(self, job: _Job, job_id: str, task: dict[str, Any], key: str, code: dict[str, Any]) -> None:
        self.key = key
        self._code = code
        self.model: Model | None = None
        self.path = ""
        """The directory; none before the code is there."""
        self.has_come = threading.Event()
        """Set when the checkpoint is there that it goes on from."""
        self.told: dict[str, Any] | None = None
        """What was last told of a checkpoint."""
        self.is_read = ""
        """The path of the one that the runner reads."""
        self._job_id, self._job, self._task = job_id, job, task
        self._is_known = self._is_described = False

    def begin(self, root: str, *, resumes: bool) -> None:
        """Make the directory ready. Wait for the checkpoint to go on from, until the job is stopped."""
        self.started_at = time.time()
        self.path = os.path.join(root, "checkpoints", f"{self._task['param_id'][:16]}-{self._task['seed']}")
        shutil.rmtree(self.path, ignore_errors=True)
        self.has_come.clear()
        with _lock:
            self._job.attempts[self.key] = self
        if resumes:
            for name in ("last", "new", "sent"):
                os.makedirs(os.path.join(self.path, name), 0o700)
            while not (self._job.is_stopped or self.key in self._job.ended):
                self._tell(want=True)
                if self.has_come.wait(ASK_SECONDS):
                    return

    def _tell(self, **what: Any) -> dict[str, Any]:
        from distributed import get_worker

        worker = get_worker()
        message = {"key": self.key, "worker": worker.address, "started_at": self.started_at, **what}
        worker.log_event("mops-jobs-" + self._job_id, message)
        return message

    def look(self) -> float:
        """Tell of a new checkpoint, if there is one. Return the seconds until the next look.

        If this disk does not take it, the one before stays the last. An attempt ends that nothing waits for any more:
        its runner was lost with its machine, and the next one needs this thread.
        """
        if _is_released(self.key):
            end(self._job_id, [self.key])
        with contextlib.suppress(OSError):
            self._look()
        return SAVED_SECONDS if self._job.saves else POLL_SECONDS

    def end(self) -> None:
        """Tell of what the attempt has left. The runner takes no checkpoint before it knows the interpreter."""
        self.look()
        if self._is_known and not self._is_described:
            self._job.description.wait(IDLE_SECONDS)
            self.look()

    def _look(self) -> None:
        new = os.path.join(self.path, "new")
        if not self.path or not os.path.isdir(new):
            return
        if not self._is_known:
            self._is_known = True
            os.makedirs(os.path.join(self.path, "sent"), 0o700, exist_ok=True)
            self._tell()  # so that the attempt is bound
            self._job.begin_saves(self._code)
        if not self._is_described and self._job.description.is_set():
            self._is_described = True
            self._tell(about=self._job.about)
        names = [name for name in os.listdir(new) if not name.startswith(".")]
        found = sorted((os.stat(os.path.join(new, name)).st_ctime_ns, name) for name in names)
        if not found:
            return
        at = found[-1][1]
        number = 1 if self.told is None else self.told["number"] + 1
        sent = os.path.join(self.path, "sent", f"{number}.tar")
        taken = os.path.join(self.path, "sent", "content")
        os.rename(os.path.join(new, at), taken)
        with tarfile.open(sent, "w", dereference=True, encoding="utf-8") as tar:
            tar.add(taken, at)
        for path in (taken, *(os.path.join(new, name) for _, name in found[:-1])):
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
        for name in os.listdir(os.path.dirname(sent)):
            path = os.path.join(os.path.dirname(sent), name)
            if path != self.is_read and int(name.partition(".")[0]) < number - 1:
                os.unlink(path)
        self.told = self._tell(number=number, at=at, path=sent, size=os.path.getsize(sent))


class _Job:
    """Code and processes of a job on this Dask worker."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.root: str | None = None
        self.watch: FileWatch | None = None
        self.models: set[Model] = set()
        self.idle: list[Model] = []
        self.busy = 0
        self.used_at = time.monotonic()
        self.is_stopped = False
        self.saves = False
        """Whether a task has used checkpoints here."""
        self.about: Any = None
        """What the interpreter says about itself, once `description` is set: checkpoints are bound to it."""
        self.description = threading.Event()
        self.attempts: dict[str, _Saves] = {}
        """Those that run, by their keys."""
        self.ended: set[str] = set()
        """Keys of attempts that are not wanted any more."""

    def unpack(self, code: dict[str, Any]) -> str:
        """Return the directory of code and spool; unpack at the first call.

        The runner has unpacked the same bytes by stricter rules than those of tarfile.
        """
        with self.lock:
            if self.root is None:
                from distributed import get_worker

                root = tempfile.mkdtemp(prefix="mops-jobs-", dir=get_worker().local_directory)
                for name in ("spool", "checkpoints"):
                    os.mkdir(os.path.join(root, name))
                with open(os.path.join(root, "worker.py"), "w", encoding="utf-8") as file:
                    file.write(code["worker"])
                with tarfile.open(fileobj=io.BytesIO(code["bundle"]), encoding="utf-8") as tar:
                    safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
                    tar.extractall(os.path.join(root, "code"), **safe)  # type: ignore[arg-type] # noqa: S202 - see above
                self.watch = _module("file_watch", code["file_watch"]).FileWatch(os.path.join(root, "code"))
                self.root = root
            return self.root

    def begin_saves(self, code: dict[str, Any]) -> None:
        """Note that tasks save, and ask the interpreter once. That takes a while, in which others are told."""
        with self.lock:
            if not self.saves:
                self.saves = True
                threading.Thread(target=self._describe, args=(code,), daemon=True).start()

    def _describe(self, code: dict[str, Any]) -> None:
        with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError, LookupError):
            self.about = describe(code)
        self.description.set()

    def files(self) -> tuple[list[str] | None, str | None]:
        """Return which files of the code were opened so far, None if it is not known, and which one was written."""
        watch = self.watch
        opened = None if watch is None else watch.opened()
        return None if opened is None else sorted(opened), None if watch is None else watch.written()

    def take(self, code: dict[str, Any], *, is_new: bool) -> Model:
        """Return an idle process, else a new one."""
        root = self.unpack(code)
        with _lock:
            while self.idle and not is_new:
                idle = self.idle.pop()
                if idle.process.poll() is None:
                    return idle
                self.models.discard(idle)
                idle.close()
        module = _module("process", code["process"])
        model: Model = module.Model(code, root, _module("measurement", code["measurement"]))
        with _lock:
            self.models.add(model)
            if self.is_stopped:  # `stop` has not seen this process
                model.process.kill()
        return model

    def give_back(self, model: Model) -> None:
        """Keep a process for the next task, or remove it if it has ended."""
        with _lock:
            if model.process.returncode is None and not self.is_stopped:
                self.idle.append(model)
                return
            self.models.discard(model)
        model.end()
        model.close()


def _module(name: str, source: str) -> Any:
    """Return a module from its text, compiled once."""
    with _lock:
        if source not in _modules:
            module = types.ModuleType(name)
            exec(compile(source, f"{name}.py", "exec"), module.__dict__)  # noqa: S102 - sent by the runner, as this one
            _modules[source] = module
        return _modules[source]


def _run_attempt(  # noqa: PLR0917 - as `run`
    job: _Job,
    code: dict[str, Any],
    task: dict[str, Any],
    memory: int | None,
    lines: list[str],
    saves: _Saves,
    attempt: dict[str, Any],
) -> dict[str, Any]:
    failed_starts, is_alone = 0, False
    while not (job.is_stopped or saves.key in job.ended):
        try:
            saves.begin(job.unpack(code), resumes=attempt["resumes"])
            model = saves.model = job.take(code, is_new=is_alone)
        except OSError as error:
            return {"broken": {"type": type(error).__name__, "message": str(error), "traceback": ""}}
        try:
            if saves.key in job.ended:
                return {"stopped": True}
            answer = model.run_task(task, attempt["timeout"], memory, lines, saves.look)
            if answer is not None:
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
        if job.watch is not None:
            job.watch.close()
        if job.root is not None:
            shutil.rmtree(job.root, ignore_errors=True)
        return

"""The local engine: the runner as a process of this machine that outlives the terminal."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from mopsjobs.engines import LOCAL_ENGINES, check_runner, runner_process
from mopsjobs.engines.base import EngineState, EngineTimes, Launch, LaunchResult, runner_flags
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.errors import EngineError, JobBusyError
from mopsjobs.utils import user_dirs
from mopsjobs.utils.files import directory_lock, make_directory, private_opener, replace_file
from mopsjobs.utils.times import from_timestamp, parse_time

MAX_LAST_LINES = 10
MAX_LAST_CHARACTERS = 1500
"""Of the last messages of a runner that go into a record, which should stay small."""

PROBE_SECONDS = 1.0
"""How long a runner tries to get its lock, if a runner seems to have it.

A worker that is just being started holds it for an instant, if its runner is killed meanwhile."""

PROBES = 60
"""How often it tries again, if a process that checks for a runner has it. On a busy machine, that may take a while."""


class LocalEngine:
    """Starts `mops-jobs run` in the background, and finds it again by the files in the job's directory."""

    name = "local"

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env

    def launch(self, launch: Launch) -> LaunchResult:
        """See `Engine.launch`. The runner's own messages go to `runner.log` in the job's directory."""
        check_runner()
        directory = JobDir.for_job(launch.job_id, self._env)
        with disk_errors(directory), contextlib.ExitStack() as stack:
            make_directory(directory.path)
            stack.enter_context(directory_lock(str(directory.path)))  # a second launch then finds this one's runner
            if _is_running(directory):
                problem = f"The runner of job {launch.job_id} is already at work on this machine."
                raise JobBusyError(problem, job_id=launch.job_id)
            replace_file(str(directory.runner), b"{}")  # so a full disk is known before a process runs
            log_begin = directory.log.stat().st_size if directory.log.exists() else 0
            pid = os.getpid() if launch.foreground else self._start(launch, directory)
            runner = {**runner_process.note_of(pid), "log_begin": log_begin, "registry": launch.registry_id}
            replace_file(str(directory.runner), json.dumps(runner).encode())
        return LaunchResult(directory.show_command)

    def _start(self, launch: Launch, directory: JobDir) -> int:
        words = [*command(), *_arguments(launch)]
        with open(directory.log, "ab", opener=private_opener) as log:
            try:
                process = subprocess.Popen(  # noqa: S603 - ourselves
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**self._env, **launch.env},
                    start_new_session=True,
                )
            except OSError as error:
                raise EngineError(f"The runner cannot be started with {words[0]}: {error.strerror}.") from None
        return process.pid

    def state(self, job: Mapping[str, object]) -> EngineState:
        """See `Engine.state`."""
        directory = JobDir.for_job(str(job["job_id"]), self._env)
        if _is_running(directory):
            return EngineState("running")
        if not directory.runner.exists():
            return EngineState("gone", "NotHere", "no runner of this job was started on this machine")
        if runner_process.read_note(directory.runner).get("machine") not in (None, runner_process.machine()):
            return EngineState("unknown", "OtherMachine", "its runner was launched on another machine")
        return EngineState("gone", "RunnerEnded", "its runner on this machine has ended")

    def times(self, job: Mapping[str, object]) -> EngineTimes:
        """See `Engine.times`. A runner ended when it left its last trace in the job's directory."""
        directory = JobDir.for_job(str(job["job_id"]), self._env)
        started: list[datetime] = []
        for path in directory.start_files():
            with contextlib.suppress(OSError, ValueError):
                started.append(parse_time(path.read_text("ascii")))
        paths = (directory.runner, directory.log, *directory.report_files())
        traces = [path.stat().st_mtime for path in paths if path.exists()]
        is_over = traces and not _is_running(directory)
        return EngineTimes(min(started, default=None), from_timestamp(max(traces)) if is_over else None)

    def logs(
        self, job: Mapping[str, object], *, follow: bool = False, tail: int | None = None, since: float | None = None
    ) -> Iterator[str]:
        """See `Engine.logs`. These are the runner's own messages: neither `follow` nor `since` has an effect."""
        path = JobDir.for_job(str(job["job_id"]), self._env).log
        if not path.exists():
            return
        lines = path.read_text("utf-8", "replace").splitlines()
        yield from lines if tail is None else lines[-tail:] if tail else []

    def cancel(self, job: Mapping[str, object]) -> bool:
        """See `Engine.cancel`. The runner keeps the outputs of complete tasks."""
        directory = JobDir.for_job(str(job["job_id"]), self._env)
        if not _is_running(directory):
            return False
        pid = runner_pid(str(job["job_id"]), self._env)
        if pid is None:
            return False  # a runner that was started by hand stops by itself when it sees the record
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        return True


def has_ended_here(job: Mapping[str, object], env: Mapping[str, str]) -> bool:
    """Return True if the runner of a job was launched on this machine and has ended."""
    return job.get("engine") in LOCAL_ENGINES and LocalEngine(env).state(job).reason == "RunnerEnded"


def runner_end(directory: JobDir) -> str | None:
    """Return how the runner that was launched for a job is known to have ended; see `runner_process.end_of`.

    None also if another runner of this machine is at work.
    """
    end = runner_process.end_of(runner_process.read_note(directory.runner))
    return None if end is None or _is_running(directory) else end


def last_words(directory: JobDir) -> str:
    """Return the last messages of the runner that was launched; empty if it left none."""
    begin = runner_process.read_note(directory.runner).get("log_begin")
    with contextlib.suppress(OSError), open(directory.log, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        first = begin if isinstance(begin, int) and 0 <= begin <= size else 0
        file.seek(max(first, size - 4 * MAX_LAST_CHARACTERS))
        lines = [line.rstrip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return "\n".join(lines[-MAX_LAST_LINES:])[-MAX_LAST_CHARACTERS:].strip()
    return ""


def launched_at(job_id: str, env: Mapping[str, str]) -> datetime | None:
    """Return when the runner of a job was last launched from this home directory; None if it was not."""
    with contextlib.suppress(OSError):
        return from_timestamp(JobDir.for_job(job_id, env).runner.stat().st_mtime)
    return None


def registry_of_runner(job_id: str, env: Mapping[str, str]) -> str | None:
    """Return the identity of the registry that a runner on this machine was launched for; None if it is not known."""
    found = runner_process.read_note(JobDir.for_job(job_id, env).runner).get("registry")
    return found if isinstance(found, str) and found else None


def runner_pid(job_id: str, env: Mapping[str, str]) -> int | None:
    """Return the process id of the runner that was launched for a job on this machine; None if it has ended."""
    note = runner_process.read_note(JobDir.for_job(job_id, env).runner)
    pid = note.get("pid")
    return pid if isinstance(pid, int) and runner_process.is_alive(note) else None


def command() -> list[str]:
    """Return the words that start mops-jobs with the interpreter and the code of this process."""
    return [sys.executable, str(Path(__file__).resolve().parents[2] / "mops_jobs.py")]


def _arguments(launch: Launch) -> list[str]:
    arguments = ["run", launch.job_id, "--registry", launch.registry_url]
    if launch.workers is not None:
        arguments += ["--workers", str(launch.workers)]
    arguments += runner_flags(launch)
    for option, value in launch.options.items():  # of an engine that derives from this one
        arguments += [f"--{option}", value]
    return arguments


def cores_directory(env: Mapping[str, str]) -> Path:
    """Return the directory by which the jobs of this user share the cores of this machine; see `SharedCores`.

    Machines may share a home directory, so each has its own.
    """
    machine = re.sub(r"[^A-Za-z0-9.-]+", "-", runner_process.machine()).strip("-")
    return Path(user_dirs.state_directory(env)) / "cores" / machine


@contextlib.contextmanager
def disk_errors(directory: JobDir) -> Iterator[None]:
    """Translate the errors of this machine's disk while the block runs.

    Raises:
        EngineError: if the disk refuses something.
    """
    try:
        yield
    except OSError as error:
        raise EngineError(
            f"This machine cannot keep the job in {directory.path}: {error.strerror or error}.",
            hint="Name another place: XDG_STATE_HOME=/path.",
        ) from None


@contextlib.contextmanager
def shard_lock(directory: JobDir, job_id: str, shard: int) -> Iterator[None]:
    """Lock a shard against other runners of this machine while the block runs. If the process dies, the lock ends.

    Raises:
        JobBusyError: if another runner has the lock.
        OSError: if the lock file cannot be created.
    """
    from filelock import FileLock, Timeout

    path = directory.lock_file(shard)
    lock = FileLock(path, mode=0o600, timeout=PROBE_SECONDS)
    for left in reversed(range(PROBES)):
        try:
            lock.acquire()
            break
        except Timeout:
            if _is_held(path) or not left:
                problem = f"Another runner of job {job_id} is at work on this machine."
                raise JobBusyError(problem, job_id=job_id) from None
    try:
        yield
    finally:
        lock.release()


def _is_held(path: Path) -> bool:
    """Return whether a runner has a lock. Processes that look at once share it, and do not take each other for one."""
    import fcntl  # here: Windows has none, and no runner

    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # the lock is another user's, or was deleted
        pass
    return False


def _is_running(directory: JobDir) -> bool:
    """Return True if a runner is at work here, whether it was launched or started by hand."""
    return runner_process.is_alive(runner_process.read_note(directory.runner)) or any(
        _is_held(path) for path in directory.lock_files()
    )

"""The local engine: the runner as a process of this machine that outlives the terminal."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from mopsjobs.engines.base import EngineState, Launch, Launched, launch_notes
from mopsjobs.engines.trust import remember_launch
from mopsjobs.errors import EngineError, JobBusyError
from mopsjobs.utils import files, user_dirs
from mopsjobs.utils.files import replace_file

HERE = ("local", "dask")
"""Engines whose runner is a process of this machine."""

PROBE_SECONDS = 1.0
"""How long a runner tries to get its lock: whoever asks whether one is at work holds it for an instant, and so does a
worker that is just being started, should its runner be killed meanwhile."""


class LocalEngine:
    """Starts `mops-jobs run` in the background, and finds it again by what it left in the job's directory."""

    name = "local"

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env

    def launch(self, launch: Launch) -> Launched:
        """See `Engine.launch`. The runner's own messages go to `runner.log` in the job's directory."""
        directory = job_directory(launch.job_id, self._env)
        if _is_running(directory):
            told = f"The runner of job {launch.job_id} is already at work on this machine."
            raise JobBusyError(told, job_id=launch.job_id)
        with usable(directory):
            files.make_directory(directory)
            note = str(directory / "runner.json")
            replace_file(note, b"{}")  # a disk that does not take it should be known before a process runs
            pid = os.getpid() if launch.foreground else self._start(launch, directory)
            replace_file(note, json.dumps({"pid": pid, "started": _started(pid)}).encode())
        remember_launch(directory, self.name, {"python": launch.python, **launch.options})
        look = f"tail -f {shlex.quote(str(directory / 'runner.log'))}"
        return Launched(look=look, metadata=launch_notes(launch, self.name))

    def _start(self, launch: Launch, directory: Path) -> int:
        with open(directory / "runner.log", "ab", opener=files.private_opener) as log:
            process = subprocess.Popen(  # noqa: S603 - ourselves
                [*command(), *_arguments(launch)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**self._env, **launch.env},
                start_new_session=True,
            )
        return process.pid

    def state(self, job: Mapping[str, object]) -> EngineState:
        """See `Engine.state`."""
        directory = job_directory(str(job["job_id"]), self._env)
        if _is_running(directory):
            return EngineState("running")
        if not (directory / "runner.json").exists():
            return EngineState("gone", "NotHere", "no runner of this job was started on this machine")
        return EngineState("gone", "RunnerEnded", "its runner on this machine has ended")

    def logs(
        self, job: Mapping[str, object], *, follow: bool = False, tail: int | None = None, since: float | None = None
    ) -> Iterator[str]:
        """See `Engine.logs`. The runner's own messages, so neither `follow` nor `since` has an effect."""
        path = job_directory(str(job["job_id"]), self._env) / "runner.log"
        if not path.exists():
            return
        lines = path.read_text("utf-8", "replace").splitlines()
        yield from lines if tail is None else lines[-tail:] if tail else []

    def cancel(self, job: Mapping[str, object]) -> bool:
        """See `Engine.cancel`. The runner keeps what is done."""
        directory = job_directory(str(job["job_id"]), self._env)
        if not _is_running(directory):
            return False
        if not _is_noted_alive(directory):
            return False  # somebody has started it by hand: it stops by itself when it sees the record
        with contextlib.suppress(ProcessLookupError):
            os.kill(_told(directory)["pid"], signal.SIGTERM)
        return True


def job_directory(job_id: str, env: Mapping[str, str]) -> Path:
    """What this machine keeps of a job that runs here: its code, its runner's messages, outputs not yet delivered."""
    return Path(user_dirs.state_directory(env)) / "jobs" / job_id


def has_ended_here(job: Mapping[str, object], env: Mapping[str, str]) -> bool:
    """Whether the runner of a job was launched on this machine and is there no more. Of an active job: it is dead."""
    return job.get("engine") in HERE and LocalEngine(env).state(job).reason == "RunnerEnded"


def runner_pid(job_id: str, env: Mapping[str, str]) -> int | None:
    """The process of the runner that was launched for a job on this machine, while it lives."""
    directory = job_directory(job_id, env)
    return _told(directory)["pid"] if _is_noted_alive(directory) else None


def command() -> list[str]:
    """How to start mops-jobs once more, just as this one was: the same interpreter and the same code."""
    return [sys.executable, str(Path(__file__).resolve().parents[2] / "mops_jobs.py")]


def _arguments(launch: Launch) -> list[str]:
    arguments = ["run", launch.job_id, "--registry", launch.registry_url]
    if launch.workers is not None:
        arguments += ["--workers", str(launch.workers)]
    if launch.python is not None:
        arguments += ["--python", launch.python]
    if launch.task_timeout is not None:
        arguments += ["--task-timeout", f"{launch.task_timeout:g}s"]
    for option, value in launch.options.items():  # an engine that builds on this one has some
        arguments += [f"--{option}", value]
    return arguments


def _told(directory: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((directory / "runner.json").read_text())
    return found


@contextlib.contextmanager
def usable(directory: Path) -> Iterator[None]:
    """What this machine's disk refuses meanwhile becomes one sentence.

    Raises:
        EngineError: so it is; names the file and the reason.
    """
    try:
        yield
    except OSError as error:
        raise EngineError(
            f"This machine cannot keep the job in {directory}: {error.strerror or error}.",
            hint="Name another place: XDG_STATE_HOME=/path.",
        ) from None


@contextlib.contextmanager
def at_work(directory: Path, job_id: str, shard: int) -> Iterator[None]:
    """Be the one runner of a shard on this machine. Whatever ends the process, the system releases it.

    Raises:
        JobBusyError: another is.
        OSError: the directory does not take the file of the lock.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(directory / f"shard-{shard}.lock", mode=0o600, timeout=PROBE_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise JobBusyError(f"Another runner of job {job_id} is at work on this machine.", job_id=job_id) from None
    try:
        yield
    finally:
        lock.release()


def _is_held(path: Path) -> bool:
    from filelock import FileLock, Timeout

    try:
        with FileLock(path, mode=0o600, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # of another user, or gone by now
        return False


def _is_running(directory: Path) -> bool:
    """Whether a runner is at work here: the one that was launched, or one that somebody has started by hand."""
    return _is_noted_alive(directory) or any(_is_held(path) for path in directory.glob("shard-*.lock"))


def _is_noted_alive(directory: Path) -> bool:
    try:
        told = _told(directory)
        os.kill(told["pid"], 0)
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return False
    return told.get("started") == _started(told["pid"])


def _started(pid: int) -> int | None:
    """When the process began, as its system counts: process ids are used again. None where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The second field is a name in parentheses, which may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else int(fields[19])
    return None

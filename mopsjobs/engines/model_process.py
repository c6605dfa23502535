"""Start the model's interpreter: on the script of a worker, on one that describes it, or to learn whether it loads.

The scripts are read at import: their files lie in a cache directory, which may be cleared while a runner works.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from mopsjobs.engines.model_env import model_environment
from mopsjobs.engines.model_errors import ModelError, load_error, not_python_error, not_started_error, startup_error
from mopsjobs.errors import shorten
from mopsjobs.utils.files import private_opener
from mopsjobs.utils.text import last_line

WORKER = Path(__file__).with_name("worker.py")

WORKER_SOURCE = WORKER.read_bytes()

REDUCE_SOURCE = WORKER.with_name("reduce_script.py").read_bytes()
"""The script that runs a reduce function; see there."""

SAMPLER_SOURCE = WORKER.with_name("sampler_script.py").read_bytes()
"""The script that runs the sampler of a calibration; see there."""


def write_worker(directory: Path) -> Path:
    """Write the script into a directory of its own, and return its path.

    Python puts the directory of a script into `sys.path`, where a model would find the modules of this package.
    """
    return _write_script(directory / WORKER.name, WORKER_SOURCE)


def write_reduce_worker(directory: Path) -> Path:
    """Write the script that runs a reduce function, beside that of a worker, and return its path."""
    return _write_script(write_worker(directory).with_name("reduce_script.py"), REDUCE_SOURCE)


def write_sampler(directory: Path) -> Path:
    """Write the script that runs the sampler of a calibration, beside those on which it builds, and return its path."""
    return _write_script(write_reduce_worker(directory).with_name("sampler_script.py"), SAMPLER_SOURCE)


def _write_script(path: Path, source: bytes) -> Path:
    with open(path, "xb", opener=private_opener) as file:
        file.write(source)
    return path


LOAD_SECONDS = 30.0
"""How long a function may take to load. A slower one is not checked."""

EXIT_SECONDS = 10.0
"""How long a process that has closed its output may take to end. After that, it counts as killed."""

WAKE_SECONDS = 0.5
"""How often a wait looks whether it is over."""

MAX_ANSWER_BYTES = 2**20

MAX_MESSAGE = 500
"""Characters of an error of the model."""


def first_answer(command: list[str], setup: Mapping[str, object], env: Mapping[str, str]) -> dict[str, Any] | None:
    """Start a worker, and return its first answer; None if it takes too long, or is above `MAX_ANSWER_BYTES`.

    Args:
        command: starts the worker.
        setup: the first line of its input; see engines/worker.py.
        env: the environment. The worker gets none of its secrets.

    Raises:
        ModelError: if it cannot be started, or ends without an answer.
    """
    with tempfile.TemporaryFile(dir=str(setup["spool"])) as lines:
        try:
            process = subprocess.Popen(  # noqa: S603 - the interpreter is the user's own choice
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=lines,
                env=model_environment(env),
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            raise not_started_error(command[0], error) from None
        assert process.stdin is not None  # noqa: S101 - a pipe, as the other
        assert process.stdout is not None  # noqa: S101
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(setup).encode() + b"\n")
            line = _read_line(process.stdout)
            if line == b"":
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(EXIT_SECONDS)
        finally:
            code = kill_group(process)
            process.stdin.close()
            process.stdout.close()
        if line is None:
            return None
        if not line:
            raise ended_error(code, lines)
    return parse_answer(line, command[0])


def kill_group(process: subprocess.Popen[bytes]) -> int:
    """Kill a process with what the model has started. Return its exit code."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def ended_error(code: int, lines: IO[bytes]) -> ModelError:
    """Return the error of a process that has ended without an answer. It may have said why in its last line."""
    lines.seek(0)
    return startup_error(code, shorten(last_line(lines.read()[-MAX_ANSWER_BYTES:]), MAX_MESSAGE))


def broken_error(broken: Mapping[str, str], root: Path, what: str) -> ModelError:
    """Return the error of something in the code below a directory that raised this when it was loaded."""
    message = shorten(str(broken["message"]).replace(f"{root}/", ""), MAX_MESSAGE)
    return load_error({**broken, "message": message}, what)


def parse_answer(line: bytes | bytearray, python: str) -> dict[str, Any]:
    """Return an answer of a worker from its line.

    Args:
        line: the line.
        python: the interpreter.

    Raises:
        ModelError: if no worker writes such a line.
    """
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise not_python_error(python, line)
    return answer


def _read_line(stream: IO[bytes]) -> bytes | None:
    """Return the first line of a stream, empty if the stream ends before; None if it is too late or too long."""
    deadline = time.monotonic() + LOAD_SECONDS
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if len(line) > MAX_ANSWER_BYTES or time.monotonic() >= deadline:
                return None
            if not selector.select(WAKE_SECONDS):
                continue
            data = os.read(stream.fileno(), 2**16)
            if not data:
                return b""
            line += data
    return line


SECONDS = 60.0
"""How long it may take. A busy network drive has taken 20 s."""

SOURCE = WORKER.with_name("interpreter_script.py").read_text("utf-8")


def describe_interpreter(python: str, env: Mapping[str, str]) -> object:
    """Return what interpreter_script.py prints; None if the interpreter does not run it.

    Args:
        python: the interpreter.
        env: its environment.
    """
    try:
        done = subprocess.run(  # noqa: S603 - the interpreter is the user's own choice
            [python, "-c", SOURCE],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
            start_new_session=True,
            check=True,
        )
        return json.loads(done.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, RecursionError, subprocess.SubprocessError):
        return None

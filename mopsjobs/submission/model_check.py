"""Check before a launch, in the model's own interpreter, that the model can be loaded and called.

The check starts the script of the workers, without a task, on the packed code. So it finds what a worker would find:
a missing module or function, an error of the import, a function with other arguments. It runs only where the tasks run
on this machine, since nothing here can tell what is installed in an image or on a cluster.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from mopsjobs.bundles.extraction import BundleError, extract
from mopsjobs.engines.base import Launch
from mopsjobs.engines.model_env import model_environment
from mopsjobs.engines.model_errors import ModelError, load_error, not_python_error, not_started_error, startup_error
from mopsjobs.engines.worker import WIRE_GROUP
from mopsjobs.engines.worker_script import write_reduce_worker, write_worker
from mopsjobs.errors import UsageError, shorten
from mopsjobs.studies.study import Study
from mopsjobs.submission.session import Session

CHECK_SECONDS = 30.0
"""How long a model may take to load. A slower one is left to the runner."""

EXIT_SECONDS = 1.0
"""How long a process that has closed its output may take to end."""

MAX_ANSWER_BYTES = 2**20

MAX_MESSAGE = 500
"""Characters of an error of the model."""


def check_model(
    study: Study, launch: Launch, bundle: bytes, session: Session, *, hint_if_not_found: str | None = None
) -> None:
    """Load the functions of a study in its interpreter, and warn if the model takes the parameters for one of them.

    Args:
        study: the study.
        launch: its launch on this machine.
        bundle: the packed code.
        session: the environment, and where warnings go.
        hint_if_not_found: the hint if a module of the model is not found.

    Raises:
        UsageError: if a function cannot be loaded, or cannot be called as a worker calls it.
    """
    python = launch.python or sys.executable
    setup = {"entrypoint": study.entrypoint, "check": True}
    answer = _load(python, write_worker, setup, bundle, session, hint_if_not_found)
    if answer is None:
        return
    if "entry_point" in answer:  # of what is installed: the packed code does not show it
        session.note(f"The tasks run through the entry point {WIRE_GROUP} of {python}: {answer['entry_point']}")
    _check_first_parameter(study, answer.get("takes"), session)
    check_reduce(study, python, bundle, session)


def check_reduce(study: Study, python: str, bundle: bytes, session: Session) -> None:
    """Load the reduce function of a study in an interpreter of this machine, if the study names one.

    Args:
        study: the study.
        python: the interpreter.
        bundle: the packed code.
        session: the environment, and where notes go.

    Raises:
        UsageError: if the function cannot be loaded, or cannot be called as a worker calls it.
    """
    if study.reduce is not None:
        _load(python, write_reduce_worker, {"reduce": study.reduce}, bundle, session, None)


def _load(
    python: str,
    write_script: Callable[[Path], Path],
    setup: Mapping[str, object],
    bundle: bytes,
    session: Session,
    hint_if_not_found: str | None,
) -> dict[str, Any] | None:
    """Start a worker on unpacked code, and return its first answer; None if the check cannot be made here.

    Raises:
        UsageError: if the worker cannot load its function.
    """
    what = "reduce function" if "reduce" in setup else "model"
    with tempfile.TemporaryDirectory(prefix="mops-jobs-", ignore_cleanup_errors=True) as directory:
        root = Path(directory, "code")
        root.mkdir()
        try:
            extract(bundle, str(root), sync=False)
        except BundleError as error:  # such as a full disk; the runner has another one
            session.note(f"The {what} is launched without a check, since its code cannot be unpacked here: {error}")
            return None
        command = [python, "-u", str(write_script(Path(directory)))]
        try:
            answer = _ask_worker(command, {"root": str(root), "spool": directory, **setup}, session.env)
        except ModelError as error:
            raise UsageError(error.message, hint=error.hint) from None
    if answer is None:
        session.note(f"The {what} takes longer than {CHECK_SECONDS:g} s to load: it is launched without a check.")
    elif isinstance(broken := answer.get("broken"), dict):
        message = shorten(str(broken["message"]).replace(f"{root}/", ""), MAX_MESSAGE)
        problem = load_error({**broken, "message": message}, what)
        is_not_found = broken["type"] == "ModuleNotFoundError" and hint_if_not_found is not None
        raise UsageError(problem.message, hint=hint_if_not_found if is_not_found else problem.hint)
    return answer


def _check_first_parameter(study: Study, takes: object, session: Session) -> None:
    """Warn about a function whose first argument has the name of a parameter: it receives all of them there."""
    first = takes[0] if isinstance(takes, list) and takes else None
    if any(first in parameter_set.params for parameter_set in study.parameter_sets):
        session.warn(
            f"The model's first argument {first!r} has the name of a parameter. It receives the dict of all parameters"
            f" of a task, not the value of {first!r}."
        )


def _ask_worker(command: list[str], setup: Mapping[str, object], env: Mapping[str, str]) -> dict[str, Any] | None:
    """Start a worker, and return its first answer; None if it takes too long.

    Raises:
        ModelError: if it cannot be started, or ends without an answer.
    """
    with tempfile.TemporaryFile() as lines:
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
            line = _read_line(process.stdout, CHECK_SECONDS)
            if line == b"":
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(EXIT_SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # with what the model has started
            code = process.wait()
            process.stdin.close()
            process.stdout.close()
        if line is None:
            return None
        if not line:
            lines.seek(0)
            raise _silent_end(code, lines.read()[-MAX_ANSWER_BYTES:])
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise not_python_error(command[0], bytearray(line))
    return answer


def _read_line(stream: IO[bytes], seconds: float) -> bytes | None:
    """Return the first line of a stream, empty if the stream ends before; None after `seconds`."""
    deadline = time.monotonic() + seconds
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if len(line) > MAX_ANSWER_BYTES or not selector.select(max(0.0, deadline - time.monotonic())):
                return None
            data = os.read(stream.fileno(), 2**16)
            if not data:
                return b""
            line += data
    return line


def _silent_end(code: int, printed: bytes) -> ModelError:
    """Return the error of a model that ends its process while it is loaded, with the last line that it printed."""
    words = printed.decode("utf-8", "replace").split("\n")
    last = next((line.strip() for line in reversed(words) if line.strip()), "")
    return startup_error(code, shorten(last, MAX_MESSAGE))

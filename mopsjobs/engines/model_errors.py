"""Errors of a model or of its interpreter."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Mapping

from mopsjobs.errors import MopsJobsError

INTERPRETER_HINT = "Name the interpreter that has the model's packages: --python PATH."

MOPSJOBS_HINT = "Install mops-jobs in the model's Python, or name the file: PYTHONPATH=PATH/mops-jobs.pyz"
"""For a model that imports mopsjobs, where its Python does not have it."""


class ModelError(MopsJobsError):
    """The model cannot be loaded in its interpreter, so no task can run.

    `event_fields` are for the event about it: `error` (`type`, `message`, `traceback`), if the model raised one.
    """

    def __init__(self, message: str, *, hint: str | None = None, error: Mapping[str, str] | None = None) -> None:
        super().__init__(message, hint=hint)
        self.event_fields: dict[str, object] = {} if error is None else {"error": dict(error)}


def load_error(error: Mapping[str, str], what: str = "model") -> ModelError:
    """Return the error of a model, or of something else in its code, that raised this when it was loaded."""
    hint = None
    if error["type"] == "ModuleNotFoundError":
        hint = MOPSJOBS_HINT if "'mopsjobs'" in error["message"] else INTERPRETER_HINT
    elif " no entry point " in error["message"]:  # engines/worker.py names the interpreter that has none
        hint = INTERPRETER_HINT
    elif place := error.get("at"):
        hint = f"See line {place.rpartition(':')[2]} of {place.rpartition(':')[0]} in the packed code."
    return ModelError(f"The {what} cannot be loaded: {error['type']}: {error['message']}", hint=hint, error=error)


def not_python_error(path: str, line: bytes | bytearray) -> ModelError:
    """Return the error of an interpreter that answers with a line which no worker writes."""
    text = line[:60].decode("utf-8", "replace")
    return ModelError(f"{path} is not a Python interpreter; it says: {text!r}", hint=INTERPRETER_HINT)


def not_started_error(path: str, error: OSError) -> ModelError:
    """Return the error of an interpreter that the system does not start."""
    return ModelError(f"The model's interpreter {path} cannot be started: {error.strerror}.", hint=INTERPRETER_HINT)


def startup_error(code: int, last_line: str = "") -> ModelError:
    """Return the error of workers that end with this exit code before they are ready, and what they printed last."""
    ending = f": {last_line}" if last_line else "."
    return ModelError(f"The model's interpreter ends before it is ready ({describe_exit(code)}){ending}")


def describe_exit(code: int) -> str:
    """Return an exit code in words: the name of a signal for a negative one."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"

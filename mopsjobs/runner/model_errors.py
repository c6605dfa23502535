"""What can be wrong with a model or with its interpreter, in the words of one kind of error."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Mapping

from mopsjobs.errors import MopsJobsError


class ModelError(MopsJobsError):
    """The model cannot be loaded in its interpreter: no task can run.

    `told` is for the event that tells of it: `error` (`type`, `message`, `traceback`), where the model raised one.
    """

    def __init__(self, message: str, *, hint: str | None = None, error: Mapping[str, str] | None = None) -> None:
        super().__init__(message, hint=hint)
        self.told: dict[str, object] = {} if error is None else {"error": dict(error)}


def not_loaded(told: Mapping[str, str]) -> ModelError:
    """The error of a model that a worker could not load, for this reason."""
    hint = None
    if told["type"] == "ModuleNotFoundError":
        hint = "Is --python the interpreter that has the model's packages?"
    elif at := told.get("at"):
        hint = f"See line {at.rpartition(':')[2]} of {at.rpartition(':')[0]} in the packed code."
    return ModelError(f"The model cannot be loaded: {told['type']}: {told['message']}", hint=hint, error=told)


def no_python(path: str, line: bytearray) -> ModelError:
    """The error of a program that answers with this line, and no worker of ours does."""
    said = line[:60].decode("utf-8", "replace")
    return ModelError(
        f"The model's interpreter {path} does not answer as a Python does; it says: {said!r}",
        hint="Is --python the path of a Python?",
    )


def not_ready(code: int) -> ModelError:
    """The error of workers that end, with this exit code, before they are ready."""
    return ModelError(f"The model's interpreter ends before it is ready ({ended(code)}).")


def ended(code: int) -> str:
    """How a process has ended, in words."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"

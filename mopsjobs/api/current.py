"""Inside a task: which task it is, and the scalars that it logs.

The script of the worker, engines/worker.py, makes itself known in `sys.modules`, since the model's interpreter runs it
without this package. Scalars that a task logs go with its outputs, as `logged.json`. A process that the task has
started knows no more than the environment.
"""

from __future__ import annotations

import copy
import math
import os
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from mopsjobs.errors import UsageError, shorten
from mopsjobs.utils.json_strict import check_surrogates

WORKER = "mops_jobs_worker"
"""The name in `sys.modules` under which the script of the worker is found."""

MAX_SHOWN = 60
"""Characters of a value in an error."""


class CurrentTask(NamedTuple):
    """The task that this process works on."""

    job_id: str
    task: int
    """The number of the task in the study, from 0."""
    param_id: str
    seed: int
    params: dict[str, Any] | None
    """A copy of the parameters; None in a process that the task has started."""
    attempt: int | None
    """Which attempt at the task it is, from 1; None in a process that the task has started."""
    directory: str
    """An empty directory for this attempt alone, which is removed when it ends."""


def current() -> CurrentTask | None:
    """Return the task that this process works on; None outside of a task."""
    env = os.environ
    if "MOPS_JOBS_TASK" not in env:
        return None
    line = current_line() or {}
    return CurrentTask(
        env.get("MOPS_JOBS_JOB_ID", ""),
        int(env["MOPS_JOBS_TASK"]),
        env.get("MOPS_JOBS_PARAM_ID", ""),
        int(env["MOPS_JOBS_SEED"]),
        copy.deepcopy(line.get("params")),
        line.get("attempt"),
        env.get("MOPS_JOBS_TASK_DIR", ""),
    )


def log(**scalars: object) -> None:
    """Add scalars to the results of the task. A later value replaces an earlier one of the same name.

    Outside of a task, the values are checked and then dropped. So a function can be tried out as it is.

    Args:
        scalars: numbers, texts and truth values, also those of numpy. NaN and infinities are numbers.

    Raises:
        UsageError: if a value is none of these, or not finite in a study with `allow_nan: false`. Also in a process
            that the task has started.
    """
    plain = {name: _plain(name, value) for name, value in scalars.items()}
    line = current_line()
    if line is not None:
        line.setdefault("logged", {}).update(plain)
    elif "MOPS_JOBS_TASK" in os.environ:
        raise UsageError(
            "Scalars cannot be logged in a process that the task has started.",
            hint="Return them to the process of the task, and log them there.",
        )


def current_line() -> dict[str, Any] | None:
    """Return the line by which the worker runs the task; None outside of its process."""
    return _at_work().get("task") if _at_work().get("pid") == os.getpid() else None


def _at_work() -> Mapping[str, Any]:
    return getattr(sys.modules.get(WORKER), "at_work", {})


def _plain(name: str, value: Any) -> object:
    to_list = getattr(value, "tolist", None)  # of numbers of numpy
    plain = value if to_list is None else to_list()
    if isinstance(plain, str):  # one that quotes a path that is not UTF-8 would spoil all scalars of the task
        return check_surrogates(plain, "replace")
    if isinstance(plain, float) and not math.isfinite(plain) and not _at_work().get("allow_nan", True):
        raise UsageError(f"key '{name}' is {plain}, and the study says allow_nan: false.")
    if isinstance(plain, (bool, int, float)):
        return plain
    shown = shorten(repr(value), MAX_SHOWN)
    raise UsageError(f"invalid {name} {shown}: expected a number, a text or a truth value.")

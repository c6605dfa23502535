"""Check before a launch, in the model's own interpreter, that the model can be loaded and called.

The check starts the script of the workers, without a task, on the packed code. So it finds what a worker would find:
a missing module or function, an error of the import, a function with other arguments. It runs only where the tasks run
on this machine, since nothing here can tell what is installed in an image or on a cluster.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mopsjobs.bundles.extraction import BundleError, extract
from mopsjobs.engines import LOCAL_ENGINES, check_runner
from mopsjobs.engines.base import Launch
from mopsjobs.engines.first_answer import LOAD_SECONDS, MAX_MESSAGE, first_answer
from mopsjobs.engines.model_env import python_here
from mopsjobs.engines.model_errors import INTERPRETER_HINT, ModelError, load_error
from mopsjobs.engines.worker import WIRE_GROUP
from mopsjobs.engines.worker_script import write_reduce_worker, write_worker
from mopsjobs.errors import UsageError, shorten
from mopsjobs.studies.study import Study
from mopsjobs.submission.session import Session


def check_functions(
    study: Study,
    engine: str,
    launch: Launch,
    load_archive: Callable[[], bytes],
    session: Session,
    *,
    hint_if_not_found: str | None = None,
) -> None:
    """Load the functions of a study that are to run on this machine: with Dask, the reduce function alone.

    Args:
        study: the study.
        engine: where its tasks run.
        launch: its launch.
        load_archive: returns the packed code.
        session: the environment, and where notes and warnings go.
        hint_if_not_found: the hint if a module of the model is not found.

    Raises:
        EngineError: if this system runs no tasks.
        UsageError: if a function cannot be loaded, or cannot be called as a worker calls it.
    """
    if engine in LOCAL_ENGINES:
        check_runner()
    if engine == "local":
        _check_all(study, launch.python or sys.executable, load_archive(), session, hint_if_not_found)
    elif engine == "dask" and study.reduce is not None:  # it runs beside the runner, which is here
        _check_reduce(study, python_here(launch.python, session.env), load_archive(), session)


def _check_all(study: Study, python: str, bundle: bytes, session: Session, hint_if_not_found: str | None) -> None:
    """Load the functions of a study, and warn if the model takes the parameters for one of them."""
    setup = {"entrypoint": study.entrypoint, "check": True}
    answer = _load(python, write_worker, setup, bundle, session, hint_if_not_found)
    if answer is None:
        return
    if "entry_point" in answer:  # of what is installed: the packed code does not show it
        session.note(f"The tasks run through the entry point {WIRE_GROUP} of {python}: {answer['entry_point']}")
    _check_first_parameter(study, answer.get("takes"), session)
    _check_reduce(study, python, bundle, session)


def _check_reduce(study: Study, python: str, bundle: bytes, session: Session) -> None:
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
            answer = first_answer(command, {"root": str(root), "spool": directory, **setup}, session.env)
        except ModelError as error:
            raise UsageError(error.message, hint=error.hint) from None
    if answer is None:
        problem = f"takes longer than {LOAD_SECONDS:g} s to load, or prints a line above 1 MiB"
        session.note(f"The {what} {problem}: it is launched without a check.")
    elif isinstance(broken := answer.get("broken"), dict):
        message = shorten(str(broken["message"]).replace(f"{root}/", ""), MAX_MESSAGE)
        failure = load_error({**broken, "message": message}, what)
        is_not_found = failure.hint == INTERPRETER_HINT and hint_if_not_found is not None
        raise UsageError(failure.message, hint=hint_if_not_found if is_not_found else failure.hint)
    return answer


def _check_first_parameter(study: Study, takes: object, session: Session) -> None:
    """Warn about a function whose first argument has the name of a parameter: it receives all of them there."""
    first = takes[0] if isinstance(takes, list) and takes else None
    if any(first in parameter_set.params for parameter_set in study.parameter_sets):
        session.warn(
            f"The model's first argument {first!r} has the name of a parameter. It receives the dict of all parameters"
            f" of a task, not the value of {first!r}."
        )

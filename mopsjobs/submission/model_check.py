"""Check before a launch, in the model's own interpreter, that the model can be loaded and called.

The check starts the script of the workers, without a task, on the packed code. So it finds what a worker would find:
a missing module or function, an error of the import, a function with other arguments. It runs only where the tasks run
on this machine, since nothing here can tell what is installed in an image or on a cluster.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mopsjobs.bundles.extraction import BundleError, extract
from mopsjobs.engines import LOCAL_ENGINES, check_runner
from mopsjobs.engines.base import Launch
from mopsjobs.engines.model_env import active_python, model_environment, python_here
from mopsjobs.engines.model_errors import INTERPRETER_HINT, ModelError
from mopsjobs.engines.model_process import LOAD_SECONDS, broken_error, first_answer, write_reduce_worker, write_worker
from mopsjobs.engines.worker import WIRE_GROUP
from mopsjobs.errors import OptionError, UsageError
from mopsjobs.studies.study import Study
from mopsjobs.submission.session import Session
from mopsjobs.utils.scratch import scratch_directory

PYTHON_CHECK_SECONDS = 20
"""How long an interpreter may take to run one line. A slower one is left to the runner."""

PYTHON_HINT = "Name the one that has the model's packages: --python PATH."


def find_python(engine: str, named: str | None, env: Mapping[str, str], recorded: str | None) -> str | None:
    """Return the interpreter of the model: the named one, else the recorded one, else that of the active environment.

    On Dask and in pods, the active environment is not used. Only on this machine is the interpreter run once, to check
    it. The record keeps the path, so that a resume from another terminal uses the same interpreter.

    Raises:
        UsageError: if the interpreter does not exist or does not run Python.
    """
    if engine == "slurm":  # nodes share the files of this machine, but perhaps not what the setup brings
        return (os.path.abspath(named) if named and "/" in named else named) or recorded or active_python(env)
    if engine != "local":
        return named or recorded
    if named is not None:
        return find_interpreter(named, env)
    path = recorded or active_python(env)
    if path is not None:
        found = shutil.which(path, path=env.get("PATH"))
        if found is None or not _runs_python(found, env):
            problem = "does not run Python" if os.path.exists(path) else "does not exist"
            whose = "an earlier launch" if recorded else "the active environment"
            raise UsageError(f"The interpreter of {whose}, {path}, {problem}.", hint=PYTHON_HINT)
    return path


def project_python(directories: Iterable[Path], env: Mapping[str, str]) -> str | None:
    """Return the interpreter of the first `.venv` in these directories; None without one, or in an active environment.

    uv and others make it there, and do not activate it for a tool that is installed beside them.
    """
    if active_python(env) is not None:
        return None
    paths = (directory.absolute() / ".venv" / "bin" / "python" for directory in directories)
    return next((str(path) for path in paths if path.exists()), None)


def find_interpreter(name: str | None, env: Mapping[str, str]) -> str | None:
    """Return the absolute path of an interpreter: the runner may be in another directory.

    A name without a slash is looked up on the PATH. Links are not followed: the link of a virtual environment leads to
    an interpreter without its packages.

    Raises:
        OptionError: if the program does not exist, or if it does not run Python.
    """
    if name is None:
        return None
    found = shutil.which(name, path=env.get("PATH"))
    if found is None:
        expected = "the path of a program" if "/" in name else "a program on the PATH"
        raise OptionError(f"invalid python '{name}': expected {expected}.", "python")
    path = os.path.abspath(found)
    if not _runs_python(path, env):
        raise OptionError(f"invalid python '{path}': expected a program that runs Python.", "python")
    return path


def _runs_python(path: str, env: Mapping[str, str]) -> bool:
    """Return True if a program runs a line of Python, or is too slow to tell."""
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile() as output:
        script = os.path.join(directory, "script.py")  # started as a worker is: a wrapper may know no other way
        Path(script).write_text("print(42)\n")
        try:
            # Output goes into a file: a wrapper may leave a process behind that would hold a pipe open.
            subprocess.run(  # noqa: S603 - the user's own choice
                [path, "-u", script],
                env=model_environment(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=PYTHON_CHECK_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return True
        except OSError:
            return False
        output.seek(0)
        return b"42" in output.read(1000).split()


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
    """Load the functions of a study."""
    setup = {"entrypoint": study.entrypoint, "check": True}
    answer = _load(python, write_worker, setup, bundle, session, hint_if_not_found)
    if answer is None:
        return
    if "entry_point" in answer:  # of what is installed: the packed code does not show it
        session.note(f"The tasks run through the entry point {WIRE_GROUP} of {python}: {answer['entry_point']}")
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
    with scratch_directory() as directory:
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
        failure = broken_error(broken, root, what)
        is_not_found = failure.hint == INTERPRETER_HINT and hint_if_not_found is not None
        raise UsageError(failure.message, hint=hint_if_not_found if is_not_found else failure.hint)
    return answer

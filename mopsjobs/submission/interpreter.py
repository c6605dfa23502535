"""Find the interpreter of a model for a launch, and check that it runs Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from mopsjobs.engines.model_env import active_python, model_environment
from mopsjobs.errors import OptionError, UsageError

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
    return find_interpreter(named, env) or _recorded_interpreter(recorded, env) or _active_interpreter(env)


def project_python(directories: Iterable[Path], env: Mapping[str, str]) -> str | None:
    """Return the interpreter of the first `.venv` in these directories; None without one, or in an active environment.

    uv and others make it there, and do not activate it for a tool that is installed beside them.
    """
    if active_python(env) is not None:
        return None
    paths = (directory.absolute() / ".venv" / "bin" / "python" for directory in directories)
    return next((str(path) for path in paths if path.exists()), None)


def _recorded_interpreter(path: str | None, env: Mapping[str, str]) -> str | None:
    if path is not None:
        found = shutil.which(path, path=env.get("PATH"))
        if found is None or not _runs_python(found, env):
            problem = "is not on this machine" if found is None else "does not run Python any more"
            raise UsageError(f"The job ran with the interpreter {path}, which {problem}.", hint=PYTHON_HINT)
    return path


def _active_interpreter(env: Mapping[str, str]) -> str | None:
    path = active_python(env)
    if path is not None and not _runs_python(path, env):
        problem = "does not run Python" if os.path.exists(path) else "does not exist"
        raise UsageError(f"The interpreter of the active environment, {path}, {problem}.", hint=PYTHON_HINT)
    return path


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

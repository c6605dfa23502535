"""The environment of a model: its interpreter, and its variables without the secrets of the registry.

A model needs no secrets, since the runner delivers its outputs. But models print their environment, and the lines of a
model become events, which every reader of the registry sees. This does not hold off a hostile model, which runs as the
same user: see SECURITY.md.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from mopsjobs.engines import NOTIFY_PREFIX

SECRET_VARIABLES = frozenset(
    {
        "AZURE_STORAGE_CONNECTION_STRING",
        "AZURE_STORAGE_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_CLIENT_SECRET",
        "AZURE_CLIENT_CERTIFICATE_PASSWORD",
        "AZURE_PASSWORD",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
    }
)
"""Variables that hold a secret of a registry."""

PASSED_VARIABLE = "MOPS_JOBS_MODEL_ENV"
"""Names, separated by commas, the secret variables that a model gets all the same, to read its data with them."""

JOB_VARIABLES = ("MOPS_JOBS_JOB_ID", "MOPS_JOBS_SHARD")
"""Variables that tell a model its job and its shard. engines/worker.py sets those of the task."""


def model_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a model: all but the secret variables, except those that `PASSED_VARIABLE` names."""
    passed = {name.strip() for name in env.get(PASSED_VARIABLE, "").split(",")}
    return {name: value for name, value in env.items() if not is_secret(name) or name in passed}


def without_secrets(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the secret variables, for a process that runs code from elsewhere."""
    return {name: value for name, value in env.items() if not is_secret(name)}


def is_secret(name: str) -> bool:
    """Return whether a variable holds a secret of a registry or of a notification."""
    return name in SECRET_VARIABLES or name.startswith(NOTIFY_PREFIX)


def active_python(env: Mapping[str, str]) -> str | None:
    """Return the interpreter of the active environment, which has the model's packages; None if none is active.

    The interpreter of a virtual environment may be missing: another one would not have the model's packages. A conda
    environment may be made without Python.
    """
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if prefix := env.get(variable):
            path = Path(prefix) / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
            if variable == "VIRTUAL_ENV" or os.path.lexists(path):
                return str(path)
    return None


def python_here(named: str | None, env: Mapping[str, str]) -> str:
    """Return the interpreter of a model on this machine: the named one, if it is here, else that of the environment.

    Without an active environment, it is the one that runs mops-jobs.
    """
    found = None if named is None else shutil.which(named, path=env.get("PATH"))
    return found or active_python(env) or sys.executable

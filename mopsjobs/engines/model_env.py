"""What of the runner's environment a model sees: not what opens the registry.

A model has no use for it, since its outputs are delivered by the runner. But models print their environment, and
error reports hold it; what they print becomes events, which everybody may read who may read the registry. This is no
wall against a hostile model, which runs as the same user: SECURITY.md says what is one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

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
"""Variables that hold a secret by which a registry may be opened."""


PASSED_VARIABLE = "MOPS_JOBS_MODEL_ENV"
"""Names some of them, with commas between, for a model that reads its data with them."""


def model_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The environment of a model: all but `SECRETS`, and of those the ones that `PASSED` names."""
    passed = {name.strip() for name in env.get(PASSED_VARIABLE, "").split(",")}
    return {name: value for name, value in env.items() if name not in SECRET_VARIABLES or name in passed}


def without_secrets(env: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that runs what others send: all but `SECRETS`, whatever `PASSED` names."""
    return {name: value for name, value in env.items() if name not in SECRET_VARIABLES}


def active_python(env: Mapping[str, str]) -> str | None:
    """Return the interpreter of the active environment, which has the model's packages; None if none is active."""
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if prefix := env.get(variable):
            path = Path(prefix) / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
            if path.exists():
                return str(path)
    return None

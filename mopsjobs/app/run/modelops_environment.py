"""Use the storage of an environment of ModelOps, from the file that `mops infra up` leaves in the home directory.

The file holds a connection string, so only one that belongs to this user is read. The string replaces the environment
variables about Azure.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from mopsjobs.app.run.project_file import why_foreign
from mopsjobs.errors import ConfigError, RecordError
from mopsjobs.utils.text import invalid_choice
from mopsjobs.utils.user_dirs import home

MAX_FILE_BYTES = 2**16

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_VARIABLE = "AZURE_STORAGE_CONNECTION_STRING"

_HINT = f"Without --env, the account is that of {_VARIABLE} or AZURE_STORAGE_ACCOUNT."


def with_environment(name: str, env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables with the storage of an environment of ModelOps in place of their own.

    Raises:
        ConfigError: if the environment does not exist, or its file cannot be used.
    """
    directory = os.path.join(home(env) or "/", ".modelops", "bundle-env")
    path = os.path.join(directory, f"{name}.yaml")
    if not _NAME.fullmatch(name) or not os.path.isfile(path):
        known = _names(directory)
        if known:
            raise ConfigError(invalid_choice("environment", name, known), hint=_HINT)
        raise ConfigError(f"invalid environment '{name[:100]}': {directory} has none.", hint=_HINT)
    if (reason := why_foreign(path)) is not None:
        raise ConfigError(f"The file {path} of the environment is not used: {reason}.", hint=_HINT)
    others = {key: value for key, value in env.items() if not key.startswith("AZURE_STORAGE_")}
    return {**others, _VARIABLE: _connection_string(path)}


def _names(directory: str) -> list[str]:
    try:
        return sorted(name.removesuffix(".yaml") for name in os.listdir(directory) if name.endswith(".yaml"))
    except OSError:
        return []


def _connection_string(path: str) -> str:
    from mopsjobs.utils.yaml_strict import read_yaml

    try:
        with open(path, "rb") as file:
            document = read_yaml(file.read(MAX_FILE_BYTES))
    except OSError as error:
        raise ConfigError(f"Cannot read the file {path} of the environment: {error.strerror}.", hint=_HINT) from None
    except RecordError:  # its reason could quote the secret
        raise ConfigError(f"The file {path} of the environment is not valid YAML.", hint=_HINT) from None
    storage = document.get("storage") if isinstance(document, dict) else None
    value = storage.get("connection_string") if isinstance(storage, dict) else None
    if not isinstance(value, str) or not value:
        raise ConfigError(f"The file {path} of the environment has no storage.connection_string.", hint=_HINT)
    return value

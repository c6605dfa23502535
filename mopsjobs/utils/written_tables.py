"""The tables of results that mops-jobs has written on this machine, so that `submit --auto` takes none for code.

`written_tables.json` in the state directory of the user has the path of each, its size and the time of its last change.
A file that was changed since then is the user's own.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping

from mopsjobs.errors import CacheError, RecordError
from mopsjobs.utils.files import atomic_file, make_directory
from mopsjobs.utils.json_strict import read_json
from mopsjobs.utils.user_dirs import state_directory

MAX_TABLES = 1_000
"""Tables that are known. The oldest ones are forgotten."""

Written = Mapping[str, tuple[int, int]]
"""Size and time in nanoseconds of files, by their real paths."""


def note_table(path: str, env: Mapping[str, str]) -> None:
    """Note that mops-jobs has just written a table. What the disk does not take is not noted."""
    with contextlib.suppress(OSError, CacheError):
        tables = dict(written_tables(env))
        real, status = os.path.realpath(path), os.stat(path)
        tables.pop(real, None)
        kept = [*tables.items(), (real, (status.st_size, status.st_mtime_ns))][-MAX_TABLES:]
        make_directory(state_directory(env))
        with atomic_file(_file(env), 0o600, is_durable=False) as part:
            with open(part, "w", encoding="ascii") as file:
                json.dump(dict(kept), file)
            os.replace(part, _file(env))


def written_tables(env: Mapping[str, str]) -> Written:
    """Return the tables that were noted; none if the note cannot be read."""
    try:
        with open(_file(env), "rb") as file:
            found = read_json(file.read())
        return {path: (size, time) for path, (size, time) in found.items()}  # type: ignore[attr-defined]
    except (OSError, CacheError, RecordError, AttributeError, TypeError, ValueError):
        return {}


def _file(env: Mapping[str, str]) -> str:
    return os.path.join(state_directory(env), "written_tables.json")

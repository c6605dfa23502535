"""Which rules of notifications `submit --notify` named for a job: a file in its directory on this machine.

The record does not have them: it must not choose what another machine runs, or where that sends something. See
docs/decisions/0073-notifications.md.
"""

from __future__ import annotations

import contextlib
import json
import os

from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.local import disk_errors
from mopsjobs.utils.files import make_directory, replace_file
from mopsjobs.utils.user_dirs import trusted_owners

MAX_BYTES = 8192


def remember_names(directory: JobDir, names: tuple[str, ...] | None) -> None:
    """Note the rules of a job that is about to be launched, in place of earlier ones. None leaves these.

    Raises:
        EngineError: if this machine's disk cannot be written.
    """
    if names or (names is not None and directory.notify_names.exists()):
        with disk_errors(directory):
            make_directory(directory.path)
            replace_file(str(directory.notify_names), json.dumps(names).encode())


def remembered_names(directory: JobDir) -> tuple[str, ...]:
    """Return the rules that this user has named for a job on this machine; none if there are none."""
    with contextlib.suppress(OSError, ValueError, RecursionError), open(directory.notify_names, "rb") as file:
        if os.fstat(file.fileno()).st_uid in trusted_owners():  # as root with the home of a user
            names = json.loads(file.read(MAX_BYTES))
            return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else ()
    return ()

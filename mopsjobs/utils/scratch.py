"""Directories for a while in the one for temporary files. A killed process leaves its own to the next one of its user.

The directory is locked while it is used, so that a later process can tell that it is a leftover.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator

from mopsjobs.utils.files import directory_lock

PREFIX = "mops-jobs-scratch-"


@contextlib.contextmanager
def scratch_directory(place: str | None = None) -> Iterator[str]:
    """Make a directory for the time of the block, and remove leftovers beside it.

    Args:
        place: where to make it; None: where temporary files are.

    Raises:
        OSError: if it cannot be made.
    """
    place = tempfile.gettempdir() if place is None else place
    _remove_leftovers(place)
    path = ""
    with contextlib.ExitStack() as locks:
        while not os.path.isdir(path):  # before it is locked, another process may take it for a leftover
            path = tempfile.mkdtemp(prefix=PREFIX, dir=place)
            with contextlib.suppress(OSError):  # NFS locks no directory: there, leftovers stay
                locks.enter_context(directory_lock(path))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def _remove_leftovers(place: str) -> None:
    user = getattr(os, "getuid", lambda: 0)()
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            if not entry.name.startswith(PREFIX):
                continue
            with contextlib.suppress(OSError):
                is_own = entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == user
                if is_own:
                    with directory_lock(entry.path, wait=False):
                        shutil.rmtree(entry.path, ignore_errors=True)

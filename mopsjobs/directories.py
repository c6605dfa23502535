"""Where files of ours can be made."""

from __future__ import annotations

import contextlib
import os
import stat

from mopsjobs.errors import CacheError


def can_be_made(directory: str) -> bool:
    """Whether a directory is there and can be written, or can be made."""
    while not os.path.exists(directory) and directory != os.path.dirname(directory):
        directory = os.path.dirname(directory)
    return os.path.isdir(directory) and os.access(directory, os.W_OK | os.X_OK)


def private_directory() -> str:
    """A directory of ours below the temporary one, which everybody may write: so it must be ours, and nobody else's.

    Raises:
        CacheError: there is something else by its name.
    """
    import tempfile

    path = os.path.join(tempfile.gettempdir(), f"mops-jobs-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise CacheError(f"{path} is not ours alone.", hint="Name another place: --cache PATH.")
    return path

"""Directories and files that are their owner's alone, whatever the umask: what we keep tells of jobs, or is run."""

from __future__ import annotations

import errno
import os


def make_directory(path: str | os.PathLike[str]) -> None:
    """Make a directory, and those above it that are missing, each for its owner alone, and on disk by then.

    What is there stays as it is.

    `os.makedirs` gives its mode to the last one only, and the umask decides about those above: where that is 000,
    anybody might rename what lies in them.

    Raises:
        OSError: it cannot be made, or something else has its name.
    """
    missing = []
    directory = os.path.abspath(path)
    while not os.path.isdir(directory) and directory != os.path.dirname(directory):
        missing.append(directory)
        directory = os.path.dirname(directory)
    for one in reversed(missing):
        try:
            os.mkdir(one, 0o700)
        except FileExistsError:
            if not os.path.isdir(one):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), one) from None
        sync_directory(one)


def opener(path: str, flags: int) -> int:
    """For `open`: a file that it makes is its owner's alone."""
    return os.open(path, flags, 0o600)


def sync_directory(path: str) -> None:
    """Bring to disk that a file is where it is, or is no more."""
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)

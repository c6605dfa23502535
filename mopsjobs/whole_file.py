"""Files that come whole or not at all: whoever is killed half-way, and whenever the power fails.

What is to be in a file is written beside it, under one name that never changes, and put in place when it is on disk.
So a writer that was killed leaves one file there at most, however often that happens; the next one takes it over.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from mopsjobs.private import sync_directory

SUFFIX = ".part"
"""What a file is called behind its name before it is whole."""


@contextlib.contextmanager
def draft(path: str, mode: int) -> Iterator[str]:
    """An empty file beside `path`, which is nobody else's for the time of the block. It is gone after that.

    Unless it was renamed into place: then it stays, and is on disk by that name when the block has ended.

    Args:
        path: where it is to go.
        mode: its permissions, less those that the umask takes away.

    Raises:
        OSError: the disk, or the directory, does not take it.
    """
    beside = path + SUFFIX
    file = _taken(beside, mode)
    try:
        yield beside
    finally:
        if _is(file, beside):
            os.unlink(beside)
        _release(file)
    sync_directory(path)


def replace(path: str, content: bytes, *, mode: int = 0o600) -> None:
    """Make `content` what is in the file, which may be there or not.

    Raises:
        OSError: it could not be done. What was there before is there still.
    """
    with draft(path, mode) as beside:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)


@contextlib.contextmanager
def locked(directory: str) -> Iterator[None]:
    """Be the only one in the block, of all that lock this directory. Whatever ends the process, the system releases it.

    Raises:
        OSError: there is no such directory.
    """
    file = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        _release(file)


def _taken(beside: str, mode: int) -> int:
    """The file, empty and locked. Whoever had it before has put it in place by then: then another is made."""
    while True:
        file = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is(file, beside):
                os.ftruncate(file, 0)
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _release(file: int) -> None:
    # Closing alone would leave the lock to a child that this process has forked meanwhile, for as long as that lives.
    fcntl.flock(file, fcntl.LOCK_UN)
    os.close(file)


def _is(file: int, path: str) -> bool:
    """Whether this is still the file of that name."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False

"""Files and directories: private to their owner, written whole or not at all, durable after a power cut."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator


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


def private_opener(path: str, flags: int) -> int:
    """For `open`: a file that it makes is its owner's alone."""
    return os.open(path, flags, 0o600)


def sync_directory(path: str) -> None:
    """Bring to disk that a file is where it is, or is no more."""
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


SUFFIX = ".part"
"""What a file is called behind its name before it is whole."""


WAIT_SECONDS = 30.0
"""How long to wait for somebody else, who takes milliseconds, unless that is stopped, or its disk hangs."""


POLL_SECONDS = 0.02
"""Between two looks whether that is done: a file cannot be waited for with an end to it."""


@contextlib.contextmanager
def atomic_file(path: str, mode: int, patience: float = WAIT_SECONDS, *, is_durable: bool = True) -> Iterator[str]:
    """An empty file beside `path`, which is nobody else's for the time of the block. It is gone after that.

    Unless it was renamed into place: then it stays, and is on disk by that name when the block has ended.

    Args:
        path: where it is to go.
        mode: its permissions, less those that the umask takes away.
        patience: seconds to wait for somebody else who writes it.
        is_durable: wait until the directory is on disk, which takes milliseconds.

    Raises:
        TimeoutError: somebody else took longer.
        OSError: the disk, or the directory, does not take it.
    """
    beside = path + SUFFIX
    file, pid = _taken(beside, mode, patience), os.getpid()
    with _released(file):
        try:
            yield beside
        finally:
            if pid == os.getpid() and _is(file, beside):  # a forked child leaves it to its parent
                os.unlink(beside)
    if is_durable:
        sync_directory(path)


def replace_file(path: str, content: bytes, *, mode: int = 0o600) -> None:
    """Make `content` what is in the file, which may be there or not.

    Raises:
        OSError: it could not be done. What was there before is there still.
    """
    with atomic_file(path, mode) as beside:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)


@contextlib.contextmanager
def directory_lock(directory: str) -> Iterator[None]:
    """Be the only one in the block, of all that lock this directory.

    Whatever ends the process, the system releases it; if that has forked in the block, when the child has ended too.

    Raises:
        OSError: there is no such directory.
    """
    file = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    with _released(file):
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _taken(beside: str, mode: int, patience: float) -> int:
    """The file, empty and locked. Whoever had it before has put it in place by then: then another is made."""
    deadline = time.monotonic() + patience
    while True:
        file = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        try:
            _lock(file, deadline)
            if _is(file, beside):
                os.ftruncate(file, 0)
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _lock(file: int, deadline: float) -> None:
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TimeoutError(errno.ETIMEDOUT, "somebody else is making it, and does not come to an end") from None
            time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def _released(file: int) -> Iterator[None]:
    """Give up the lock on the file, and close it, when the block has ended."""
    pid = os.getpid()
    try:
        yield
    finally:
        if pid == os.getpid():
            # Closing alone would leave it to a child that was forked meanwhile, for as long as that lives. Such a
            # child, should it leave the block too, must not take it from its parent.
            fcntl.flock(file, fcntl.LOCK_UN)
        os.close(file)


def _is(file: int, path: str) -> bool:
    """Whether this is still the file of that name."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False

"""Files and directories: private to their owner, written whole or not at all, durable after a power cut.

Windows has no `fcntl`, renames no file that is open, and opens no directory. There, locks are those of `filelock`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator

from mopsjobs.errors import MopsJobsError

try:
    import fcntl
except ModuleNotFoundError:  # on Windows
    HAS_FLOCK = False
else:
    HAS_FLOCK = True

FILE_FLAGS = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_BINARY"))
"""For `os.open`: no child inherits the file, no link leads elsewhere, and the bytes stay as they are."""

NO_WAIT = getattr(os, "O_NONBLOCK", 0)
"""For `os.open`: do not wait for the other end of a pipe."""

SUFFIX = ".part"
"""Added to the name of a file until it is whole."""

WAIT_SECONDS = 30.0
"""How long to wait for another writer of a file. It takes milliseconds, unless it is stopped or its disk hangs."""

POLL_SECONDS = 0.02
"""Between two attempts at a lock: `flock` has no timeout of its own."""


# --- private ---------------------------------------------------------------------------------------------------------


def make_directory(path: str | os.PathLike[str]) -> None:
    """Make a directory and its missing parents, each for its owner alone, and wait until they are on disk.

    Directories that exist stay as they are. `os.makedirs` gives its mode to the last directory only. With a umask of
    000, other users could then rename what lies in its parents.

    Raises:
        OSError: if the directory cannot be made, or something else has its name.
    """
    missing = []
    directory = os.path.abspath(path)
    while not os.path.isdir(directory) and directory != os.path.dirname(directory):
        missing.append(directory)
        directory = os.path.dirname(directory)
    for name in reversed(missing):
        try:
            os.mkdir(name, 0o700)
        except FileExistsError:
            if not os.path.isdir(name):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name) from None
        sync_directory(name)


def private_opener(path: str, flags: int) -> int:
    """Open a file for its owner alone. An opener for `open`."""
    return os.open(path, flags, 0o600)


# --- whole -----------------------------------------------------------------------------------------------------------


def replace_file(path: str, content: bytes, *, mode: int = 0o600) -> None:
    """Write `content` to a file, which may exist.

    Raises:
        OSError: if the file cannot be written. Its previous content is unchanged.
    """
    with atomic_file(path, mode) as part:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)


@contextlib.contextmanager
def translate_write_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise a `MopsJobsError` if the block cannot write a file."""
    try:
        yield
    except OSError as error:
        raise MopsJobsError(f"Cannot write {path}: {error.strerror}.") from None


@contextlib.contextmanager
def atomic_file(path: str, mode: int, timeout: float = WAIT_SECONDS, *, is_durable: bool = True) -> Iterator[str]:
    """Yield the name of an empty file beside `path`, which this block alone writes.

    The block may rename it into place. Then it is on disk by that name when the block has ended; else it is removed. A
    killed process leaves at most one such file, and the next writer reuses it.

    Args:
        path: where the file is to go.
        mode: its permissions, less those that the umask takes away.
        timeout: seconds to wait for another writer of the file.
        is_durable: whether to wait until the directory is on disk, which takes milliseconds.

    Raises:
        TimeoutError: if another writer took longer.
        OSError: if the file cannot be made there.
    """
    part = path + SUFFIX
    if not HAS_FLOCK:
        with _file_lock(path + ".lock", timeout):
            open(part, "wb").close()
            try:
                yield part
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(part)
        return
    file = _open_locked(part, mode, timeout)
    with _release_after(file):
        try:
            yield part
        finally:
            if _is_named(file, part):
                os.unlink(part)
    if is_durable:
        sync_directory(path)


def sync_directory(path: str) -> None:
    """Wait until the entry of a file in its directory, or its removal, is on disk. Windows has nothing to wait for."""
    if not HAS_FLOCK:
        return
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


# --- locks -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def directory_lock(directory: str, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a directory during the block.

    The system releases it when the process ends, however it ends. If the process has forked in the block, the lock
    lasts until the child has ended, too.

    Args:
        directory: its path.
        wait: whether to wait while another process holds the lock.

    Raises:
        BlockingIOError: if another process holds the lock, and this one is not to wait.
        OSError: if the directory does not exist.
    """
    if not HAS_FLOCK:
        try:
            with _file_lock(os.path.join(directory, ".lock"), -1 if wait else 0):
                yield
        except TimeoutError:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), directory) from None
        return
    file = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    with _release_after(file):
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _file_lock(path: str, timeout: float) -> contextlib.AbstractContextManager[object]:
    from filelock import FileLock

    return FileLock(path, mode=0o600, timeout=timeout)


def _open_locked(path: str, mode: int, timeout: float) -> int:
    """Open a file, lock it, and empty it. If its last writer has renamed it into place, make another one."""
    deadline = time.monotonic() + timeout
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | FILE_FLAGS, mode)
        try:
            _lock(file, deadline)
            if _is_named(file, path):
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
                raise TimeoutError(errno.ETIMEDOUT, "another process is making it, and does not finish") from None
            time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def _release_after(file: int) -> Iterator[None]:
    """Give up the lock on a file, and close it, when the block has ended."""
    try:
        yield
    finally:
        # To close the file is not enough: a child that was forked in the block would hold the lock as long as it lives.
        fcntl.flock(file, fcntl.LOCK_UN)
        os.close(file)


def _is_named(file: int, path: str) -> bool:
    """Return whether a file that is open still has this name."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False

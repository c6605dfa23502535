"""The lock of syncs: one sync per cache. The next one can say who holds the lock, and since when.

The lock is flock on a file beside the cache. The file names the process that holds it and the time; its time of change
is that of the holder's last progress. Both are only for messages: the system alone decides whether the lock is held.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import NamedTuple

from mopsjobs.cache.database import cannot_write
from mopsjobs.engines.runner_process import has_process
from mopsjobs.utils.files import FILE_FLAGS, HAS_FLOCK, NO_WAIT, make_directory
from mopsjobs.utils.times import from_timestamp, human_duration, json_time, parse_time, utc_now

STALLED_SECONDS = 600.0
"""A sync without progress for this long is stalled. A batch of 500 records takes minutes on a bad line."""

MAX_NOTE_BYTES = 200
"""Of the note about the holder in the file of the lock."""

Clock = Callable[[], datetime]


class Holder(NamedTuple):
    """The sync that holds the lock, as far as known."""

    pid: int | None
    since: datetime | None
    progress_at: datetime | None

    def is_stalled(self, now: datetime) -> bool:
        """Return True if the sync has made no progress for long, like a stopped process."""
        return self.progress_at is not None and (now - self.progress_at).total_seconds() >= STALLED_SECONDS

    def describe(self, now: datetime) -> str:
        """Return what is known about the sync, to follow `a sync is running`."""
        if self.since is None or self.progress_at is None:
            return ""
        stall = (
            f", without progress for {human_duration((now - self.progress_at).total_seconds())}"
            if self.is_stalled(now)
            else ""
        )
        return f" for {human_duration((now - self.since).total_seconds())} (process {self.pid}){stall}"

    def describe_as_other(self, now: datetime) -> str:
        """Return what a second sync says of this one, without a full stop."""
        return f"Another sync is running{self.describe(now)}"

    def fix(self) -> str:
        """Return how to end a stalled sync."""
        return f"continue it (kill -CONT {self.pid}), or end it (kill -KILL {self.pid})"


@contextlib.contextmanager
def sync_lock(path: str, wait: float, now: Clock = utc_now) -> Iterator[Callable[[], None] | None]:
    """Hold the lock of the cache at `path`.

    Args:
        path: the cache.
        wait: how many seconds to wait for another sync.
        now: the time, in UTC.

    Yields:
        A function to call after each progress; None if another sync held the lock for longer than `wait`.

    Raises:
        CacheError: if the file of the lock cannot be created.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path + ".lock", mode=0o600, timeout=wait)
    try:
        make_directory(os.path.dirname(path))
        lock.acquire()
    except Timeout:
        if not os.path.exists(path + ".lock"):
            raise cannot_write(path, "no file can be created in its directory") from None
        yield None
        return
    except OSError as error:
        raise cannot_write(path, error.strerror) from None
    try:
        note = {"pid": os.getpid(), "since": json_time(now())}
        _write_note(path, json.dumps(note).encode())
        _touch(path, now)
        yield lambda: _touch(path, now)
    finally:
        _write_note(path, b"")  # before the release, so that it cannot replace the note of the next holder
        lock.release()


def find_holder(path: str) -> Holder | None:
    """Return the holder of the lock of the cache at `path`; None if none does, or the system does not tell."""
    if not HAS_FLOCK:
        return None
    import fcntl

    try:
        file = os.open(path + ".lock", os.O_RDONLY | FILE_FLAGS | NO_WAIT)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _parse_note(os.read(file, MAX_NOTE_BYTES), os.fstat(file).st_mtime)
    except OSError:  # a file system without locks
        return None
    finally:
        os.close(file)
    return None


def _parse_note(text: bytes, changed: float) -> Holder:
    try:
        note = json.loads(text)
        pid, since = int(note["pid"]), parse_time(str(note["since"]))
    except (ValueError, TypeError, KeyError, OverflowError):
        return Holder(None, None, None)
    # The note of a killed process stays until the next holder writes one.
    return Holder(pid, since, from_timestamp(changed)) if pid > 0 and has_process(pid) else Holder(None, None, None)


def _write_note(path: str, note: bytes) -> None:
    """Replace the note. A full disk does not stop a sync."""
    with contextlib.suppress(OSError):
        file = os.open(path + ".lock", os.O_WRONLY | FILE_FLAGS | os.O_TRUNC)
        with contextlib.closing(os.fdopen(file, "wb", buffering=0)) as lock:
            lock.write(note)


def _touch(path: str, now: Clock) -> None:
    with contextlib.suppress(OSError):
        os.utime(path + ".lock", (now().timestamp(),) * 2, follow_symlinks=os.utime not in os.supports_follow_symlinks)

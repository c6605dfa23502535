"""The lock of syncs, and who holds it: one sync a cache, and the next one can say since when that runs.

The lock is flock on a file beside the cache. In it stands which process holds it and since when; the file's time of
change is that of the holder's last progress. Both are for messages: the system alone says whether the lock is held.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import NamedTuple

from mopsjobs.cache.database import cannot_write
from mopsjobs.utils.files import make_directory
from mopsjobs.utils.times import from_timestamp, human_duration, json_time, parse_time, utc_now

STALLED_SECONDS = 600.0
"""From this time without progress on, a sync counts as stalled. A batch of 500 records takes minutes on a bad line."""


MAX_NOTE_BYTES = 200


Clock = Callable[[], datetime]


class Holder(NamedTuple):
    """The sync that holds the lock, as far as is known."""

    pid: int | None
    since: datetime | None
    progress_at: datetime | None

    def is_stalled(self, now: datetime) -> bool:
        """Return whether it has made no progress for long, as a process that is stopped."""
        return self.progress_at is not None and (now - self.progress_at).total_seconds() >= STALLED_SECONDS

    def described(self, now: datetime) -> str:
        """Return what is known of it, behind `Another sync is running`."""
        if self.since is None or self.progress_at is None:
            return ""
        silent = f", without progress for {_between(self.progress_at, now)}" if self.is_stalled(now) else ""
        return f" for {_between(self.since, now)} (process {self.pid}){silent}"

    def fix(self) -> str:
        """Return what to do about it where it is stalled."""
        return f"continue it (kill -CONT {self.pid}), or end it (kill -KILL {self.pid})"


@contextlib.contextmanager
def sync_lock(path: str, wait: float, now: Clock = utc_now) -> Iterator[Callable[[], None] | None]:
    """Be the one sync of the cache at `path`.

    Args:
        path: the cache.
        wait: how many seconds to wait for another one.
        now: the time, in UTC.

    Yields:
        What the sync calls whenever it has made progress; None if another one held the lock for longer than `wait`.

    Raises:
        CacheError: if the file of the lock cannot be made.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path + ".lock", mode=0o600, timeout=wait)
    try:
        make_directory(os.path.dirname(path))
        lock.acquire()
    except Timeout:
        if not os.path.exists(path + ".lock"):
            raise cannot_write(path, "its directory takes no files") from None
        yield None
        return
    except OSError as error:
        raise cannot_write(path, error.strerror) from None
    try:
        note = {"pid": os.getpid(), "since": json_time(now())}
        _write(path, json.dumps(note).encode())
        _touch(path, now)
        yield lambda: _touch(path, now)
    finally:
        _write(path, b"")  # first: the next holder's note must not be missed for this one
        lock.release()


def find_holder(path: str) -> Holder | None:
    """Return who holds the lock of the cache at `path`; None if no process does."""
    try:
        file = os.open(path + ".lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(os.read(file, MAX_NOTE_BYTES), os.fstat(file).st_mtime)
    except OSError:  # a file system without locks
        return None
    finally:
        os.close(file)
    return None


def _holder(text: bytes, changed: float) -> Holder:
    try:
        note = json.loads(text)
        pid, since = int(note["pid"]), parse_time(str(note["since"]))
    except (ValueError, TypeError, KeyError, OverflowError):
        return Holder(None, None, None)
    # A killed process leaves its note until its successor has written one.
    return Holder(pid, since, from_timestamp(changed)) if pid > 0 and _is_alive(pid) else Holder(None, None, None)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:  # of another user
        return True
    except (OSError, OverflowError):
        return False
    return True


def _write(path: str, note: bytes) -> None:
    """Replace the note. A disk that is full does not stop a sync."""
    with contextlib.suppress(OSError):
        file = os.open(path + ".lock", os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_TRUNC)
        with contextlib.closing(os.fdopen(file, "wb", buffering=0)) as lock:
            lock.write(note)


def _touch(path: str, now: Clock) -> None:
    with contextlib.suppress(OSError):
        os.utime(path + ".lock", (now().timestamp(),) * 2, follow_symlinks=False)


def _between(then: datetime, now: datetime) -> str:
    return human_duration((now - then).total_seconds())

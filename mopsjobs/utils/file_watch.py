"""Note which files of a directory any process opens, and what is written there: by inotify, so on Linux alone.

Audit hooks of Python would miss the files that libraries in C open, as Arrow does, and those of programs that a model
starts. The kernel sees them all, and a process pays nothing for it. It does not see that a
process asks whether a file exists. See docs/decisions/0111-files-that-tasks-read.md.

The text of this module is also sent to Dask workers. So it imports the standard library alone, and runs in Python 3.8.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

MAX_FILES = 10_000
"""Files and directories that are watched. Of a directory with more, nothing is known."""

IN_MODIFY, IN_OPEN, IN_MOVED_TO, IN_CREATE = 0x2, 0x20, 0x80, 0x100
IN_OVERFLOW, IN_DONT_FOLLOW, IN_ONESHOT = 0x4000, 0x2000000, 0x80000000

_EVENT = struct.Struct("iIII")
"""Watch, kind, a number that is not used, and the length of the name that follows."""

CACHE = "__pycache__"
CACHE_ELSEWHERE = "PYTHONPYCACHEPREFIX"


class FileWatch:
    """Watches a directory from its start to `close`. Thread-safe.

    A file tells once that it was opened, however often it is. `opened` is None if something is not known: elsewhere
    than on Linux, or if the system watches no more files.
    """

    def __init__(self, root: str) -> None:
        """Begin to watch the files that the directory has now. Links are not followed."""
        self._lock = threading.Lock()
        self._opened: set[str] | None = set()
        self._written: str | None = None
        self._names: dict[int, str] = {}
        """The file of each watch, relative to the root."""
        self._directories: dict[int, str] = {}
        """The directory of each watch, with a slash at its end; the root is empty."""
        self._file = -1
        try:
            import ctypes  # here: a Python may lack it

            if os.environ.get(CACHE_ELSEWHERE):
                raise OSError("modules may be read from caches that no watch sees")
            self._libc: Any = ctypes.CDLL(None)
            self._file = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
            self._add_all(root)
        except (AttributeError, ImportError, OSError, TypeError):  # not Linux, or no more watches
            self._give_up()

    def opened(self) -> frozenset[str] | None:
        """Return the files that were opened so far, relative to the root; None if that is not known."""
        with self._lock:
            self._read()
            return None if self._opened is None else frozenset(self._opened)

    def written(self) -> str | None:
        """Return the first file or directory that was written; None if none was. Python's own caches do not count."""
        with self._lock:
            self._read()
            return self._written

    def close(self) -> None:
        """End the watch, and keep what it has seen. Closing twice is harmless."""
        with self._lock:
            self._read()
            self._close()

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _give_up(self) -> None:
        self._opened = None
        self._close()

    def _add_all(self, root: str) -> None:
        for top, _, names in os.walk(root):
            inside = os.path.relpath(top, root).replace(os.sep, "/") + "/"
            inside = "" if inside == "./" else inside
            is_cache = os.path.basename(top) == CACHE
            if not is_cache:
                self._directories[self._add(top, IN_CREATE | IN_MODIFY | IN_MOVED_TO)] = inside
            for name in names:
                path = os.path.join(top, name)
                if os.path.islink(path):  # the event is that of its target
                    continue
                # A module that was compiled before is read in place of its source.
                source = inside[: -len(CACHE) - 1] + name.partition(".")[0] + ".py" if is_cache else inside + name
                self._names[self._add(path, IN_OPEN | IN_ONESHOT)] = source

    def _add(self, path: str, kinds: int) -> int:
        """Add a watch, and return its number.

        Raises:
            OSError: if the system refuses it.
        """
        if len(self._names) + len(self._directories) >= MAX_FILES:
            raise OSError("too many files")
        # The number of kinds has 32 bits, as a C integer with a sign.
        kinds = (kinds | IN_DONT_FOLLOW) - (2**32 if kinds & IN_ONESHOT else 0)
        watch: int = self._libc.inotify_add_watch(self._file, os.fsencode(path), kinds)
        if watch < 0:
            raise OSError(f"no watch of {path}")
        return watch

    def _read(self) -> None:
        """Take the events that have come."""
        with contextlib.suppress(BlockingIOError):
            while self._file >= 0:
                data, place = os.read(self._file, 2**16), 0
                while place < len(data):
                    watch, kind, _, length = _EVENT.unpack_from(data, place)
                    name = data[place + _EVENT.size : place + _EVENT.size + length].rstrip(b"\0")
                    place += _EVENT.size + length
                    self._take(watch, kind, os.fsdecode(name))

    def _take(self, watch: int, kind: int, name: str) -> None:
        if kind & IN_OVERFLOW:
            self._give_up()
        elif kind & IN_OPEN and self._opened is not None:
            self._opened.add(self._names[watch])
        elif kind & (IN_CREATE | IN_MODIFY | IN_MOVED_TO) and name != CACHE and self._written is None:
            self._written = self._directories[watch] + name
            for directory in self._directories:  # one is enough
                self._libc.inotify_rm_watch(self._file, directory)

"""Watch the memory of processes that run tasks, and kill the one that has more than its task may have.

The text of this module is also sent to Dask workers: it imports the standard library alone, and runs in Python 3.8.
See docs/decisions/0069-memory-of-a-task.md.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

LOOK_SECONDS = 0.05
"""How often the memory of a process is read."""

TREE_SECONDS = 0.2
"""How often that of the processes that it started is read, too."""

COST = 50
"""And not before this many times the processor time of the last look: so all looks take some 4 % of a core at most."""


class Watch:
    """A watch over one attempt at a task."""

    def __init__(self, pid: int, limit: int) -> None:
        """Name a process and the bytes of memory that it may have, with all that it started."""
        self.pid = pid
        self.limit = limit
        self.is_over = False
        """Whether it had more. It has been killed then."""
        self.peak = 0
        """The most that was seen, in bytes."""


class MemoryGuard:
    """Watches processes in a thread of its own, which runs while there is one to watch.

    A runner that waits for its store, or reads a large output, has no time to look.
    """

    def __init__(self, measurement: Any) -> None:
        """Prepare to watch.

        Args:
            measurement: the module `utils.measurement`, which a Dask worker has from its text.
        """
        self._measurement = measurement
        self._lock = threading.Lock()
        self._watches: list[Watch] = []
        self._is_running = False
        self._trees_due = 0.0

    def begin(self, pid: int, limit: int) -> Watch:
        """Begin to watch a process."""
        watch = Watch(pid, limit)
        with self._lock:
            self._watches.append(watch)
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="memory guard", daemon=True).start()
        return watch

    def end(self, watch: Watch) -> None:
        """End a watch: from now on, the process is not killed. Ending twice is harmless."""
        with self._lock, contextlib.suppress(ValueError):
            self._watches.remove(watch)

    def _run(self) -> None:
        while True:
            began = time.thread_time()
            with self._lock:
                if not self._watches:
                    self._is_running = False
                    return
                for watch in list(self._watches):
                    self._look(watch, [watch.pid])
                pause = _pause(LOOK_SECONDS, began)
                if time.monotonic() >= self._trees_due:
                    began = time.thread_time()
                    self._look_at_trees()
                    self._trees_due = time.monotonic() + _pause(TREE_SECONDS, began)
            time.sleep(pause)

    def _look_at_trees(self) -> None:
        parents = self._measurement.read_parents()
        for watch in list(self._watches):
            tree = self._measurement.tree_of(watch.pid, parents)
            if len(tree) > 1:
                self._look(watch, tree)

    def _look(self, watch: Watch, tree: list[int]) -> None:
        memory = self._measurement.tree_memory(tree, watch.limit)
        watch.peak = max(watch.peak, memory)
        if memory <= watch.limit:
            return
        watch.is_over = True
        self._watches.remove(watch)
        if len(tree) == 1:
            tree = self._measurement.tree_of(watch.pid, self._measurement.read_parents())
        for pid in tree:  # the process itself is the first, so that it starts no more
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def _pause(least: float, began: float) -> float:
    """Return the seconds until the next look: the more processor time this one took, the later it is."""
    return max(least, COST * (time.thread_time() - began))

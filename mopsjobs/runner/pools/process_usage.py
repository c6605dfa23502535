"""Measurements of the tasks of a worker process, by its answers and by its end.

The text of this module is also sent to Dask workers: it imports the standard library alone, and runs in Python 3.8.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping
    from typing import Any

    UsageTuple = tuple[float, float | None, float | None, int | None, str | None, str | None]

RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in the unit of `ru_maxrss`."""


class ProcessUsage:
    """Measurements of the tasks of a worker process: by its answers, and of the last task by its end.

    A usage is a tuple with the fields of `ledger.attempt.Usage`.
    """

    def __init__(self) -> None:
        """Expect a new process."""
        self.host: str | None = None
        self.python: str | None = None
        """What its first answer said."""
        self._user_seconds = self._system_seconds = 0.0
        import resource  # here: Windows has none, and no runner

        self._peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT  # it begins with that of its parent
        self._total: Any = None

    def note_ready(self, answer: Mapping[str, Any]) -> None:
        """Take the first answer of engines/worker.py: what its start has used is not the task's at which it ends."""
        self.host, self.python = answer.get("host"), answer.get("python")
        if "usage" in answer:
            self.note(answer["usage"])

    def note(self, used: list[Any]) -> tuple[float, UsageTuple]:
        """Take the usage in an answer of engines/worker.py, and return the start and the usage of its task."""
        started, taken, user, system, peak = used
        user_seconds, system_seconds = user / 1e6, system / 1e6
        self._user_seconds += user_seconds
        self._system_seconds += system_seconds
        if peak is not None and peak > self._peak:
            self._peak = peak
        return started / 1e6, (taken / 1e6, user_seconds, system_seconds, peak, self.host, self.python)

    def has_ended(self, process: subprocess.Popen[bytes], *, wait: bool = False) -> bool:
        """Return True if the process has ended. Its exit code is then in `process.returncode`.

        Args:
            process: the process.
            wait: wait for its end.
        """
        if process.returncode is None:
            try:
                pid, status, total = os.wait4(process.pid, 0 if wait else os.WNOHANG)
            except ChildProcessError:  # another waiter took it
                process.poll()
            else:
                if pid:
                    self._total = total
                    process.returncode = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return process.returncode is not None

    def at_end(self, seconds: float, peak: int | None = None) -> UsageTuple:
        """Return the usage of the task at which the process ended: all that it used, without that of its answers.

        Args:
            seconds: how long the task took.
            peak: of memory, if it is known. Otherwise it is the peak of the process, if no task before reached it.
        """
        if self._total is None:
            return seconds, None, None, peak, self.host, self.python
        whole = self._total.ru_maxrss * RSS_UNIT
        return (
            seconds,
            max(0.0, self._total.ru_utime - self._user_seconds),
            max(0.0, self._total.ru_stime - self._system_seconds),
            peak if peak is not None else whole if whole > self._peak else None,
            self.host,
            self.python,
        )

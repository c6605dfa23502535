"""Measure child processes, and read the limits of this one.

Linux tells about processes in `/proc`, and about control groups in `/sys/fs/cgroup`. Other systems tell less. The text
of this module is also sent to Dask workers: it imports the standard library alone, and runs in Python 3.8.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping
    from typing import Any

    UsageTuple = tuple[float, float | None, float | None, int | None, str | None, str | None]

PROC = "/proc"
GROUPS = "/sys/fs/cgroup"

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


class OomKills:
    """Tells by the count of the kernel whether a worker was killed for its memory."""

    def __init__(self) -> None:
        """Count the processes that were killed before."""
        self._known = count_oom_kills()

    def explain(self, exit_code: int) -> bool:
        """Return True if a process ended by SIGKILL, and the kernel has killed one that explains no other end."""
        if exit_code != -signal.SIGKILL or count_oom_kills() <= self._known:
            return False
        self._known += 1
        return True


def peak_rss(pid: int) -> int | None:
    """Return the peak of a living process's resident memory in bytes, since its last reset; None if unknown."""
    for line in _read(f"{PROC}/{pid}/status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def count_oom_kills() -> int:
    """Count the processes of this control group that the kernel has killed for their memory; 0 if unknown."""
    for directory in _group_directories("memory"):
        for name in ("memory.events", "memory.oom_control"):  # of version 2 and version 1
            for line in _read(os.path.join(directory, name)).splitlines():
                word, _, count = line.partition(" ")
                if word == "oom_kill" and count.isdigit():
                    return int(count)
    return 0


def cpu_quota() -> float | None:
    """Return the cores that this control group and those around it may use at once; None without a limit."""
    quotas = [quota for quota in map(_quota_of, _group_directories("cpu")) if quota is not None]
    return min(quotas, default=None)


def _quota_of(directory: str) -> float | None:
    quota, _, period = _read(os.path.join(directory, "cpu.max")).strip().partition(" ")
    if not quota:  # version 1
        quota = _read(os.path.join(directory, "cpu.cfs_quota_us")).strip()
        period = _read(os.path.join(directory, "cpu.cfs_period_us")).strip()
    if not (quota.isdigit() and period.isdigit() and int(quota) and int(period)):
        return None
    return int(quota) / int(period)


def _group_directories(controller: str) -> Iterator[str]:
    """Yield the directory of this process's control group, and those of the groups around it.

    In a container, the path may be that of the host. The last directory is then the container's own.
    """
    for line in _read(f"{PROC}/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        root = os.path.join(GROUPS, controller) if names else GROUPS
        parts = [part for part in path.split("/") if part]
        for count in range(len(parts), -1, -1):
            yield os.path.join(root, *parts[:count])


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""

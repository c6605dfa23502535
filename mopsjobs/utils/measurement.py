"""Read what the system tells about processes, and the limits of this one.

Linux tells about processes in `/proc`, and about control groups in `/sys/fs/cgroup`. Other systems tell less. The text
of this module is also sent to Dask workers: it imports the standard library alone, and runs in Python 3.8.
"""

from __future__ import annotations

import mmap
import os
import signal
from collections.abc import Iterator, Mapping, Sequence

PROC = "/proc"
GROUPS = "/sys/fs/cgroup"
PAGE = mmap.PAGESIZE


class OomKills:
    """Tells by the count of the kernel whether a worker was killed for its memory.

    Some containers cannot read it. If the runner is the first process there, only the kernel kills one of the others.
    """

    def __init__(self) -> None:
        """Count the processes that were killed before."""
        self._known = count_oom_kills()

    def explain(self, exit_code: int) -> bool:
        """Return True if a process ended by SIGKILL, and the kernel has killed one that explains no other end."""
        if exit_code != -signal.SIGKILL:
            return False
        count = count_oom_kills()
        if count is None or self._known is None:
            return os.getpid() == 1
        is_counted = count > self._known
        self._known += is_counted
        return is_counted


def peak_rss(pid: int) -> int | None:
    """Return the peak of a living process's resident memory in bytes, since its last reset; None if unknown."""
    return _size_in(f"{PROC}/{pid}/status", "VmHWM:")


def own_memory(pid: int) -> int:
    """Return the resident memory of a process in bytes; 0 if it has ended or is unknown."""
    fields = _read(f"{PROC}/{pid}/statm").split()
    return int(fields[1]) * PAGE if len(fields) > 1 else 0


def read_parents() -> dict[int, tuple[int, int]]:
    """Return the parent and the session of each process that lives."""
    found = {}
    for name in os.listdir(PROC) if os.path.isdir(PROC) else ():
        if name.isdigit():
            # The second field is a name in parentheses, which may hold anything.
            fields = _read(f"{PROC}/{name}/stat").rpartition(")")[2].split()
            if len(fields) > 3 and fields[0] != "Z":
                found[int(name)] = (int(fields[1]), int(fields[3]))
    return found


def tree_of(pid: int, parents: Mapping[int, tuple[int, int]]) -> list[int]:
    """Return a process, and those that it started: its descendants, and what is left in a session that it leads.

    Args:
        pid: the process.
        parents: the result of `read_parents`.
    """
    children: dict[int, list[int]] = {}
    for one, (parent, session) in parents.items():
        if one != pid:
            children.setdefault(parent, []).append(one)
            if session == pid != parent:
                children.setdefault(pid, []).append(one)
    found = [pid]
    for one in found:  # it grows meanwhile
        found += [child for child in children.get(one, ()) if child not in found]
    return found


def tree_memory(tree: Sequence[int], limit: int) -> int:
    """Return the resident memory of processes in bytes.

    Forked processes share pages with each other. If the sum is above the limit, shared pages are counted once, as far
    as the system tells; that takes longer.
    """
    total = sum(map(own_memory, tree))
    if len(tree) == 1 or total <= limit:
        return total
    return sum(map(_share, tree))


def _share(pid: int) -> int:
    """Return the proportional set size of a process in bytes."""
    share = _size_in(f"{PROC}/{pid}/smaps_rollup", "Pss:")
    return own_memory(pid) if share is None else share


def memory_size() -> int | None:
    """Return the bytes of memory that this process may have: of the machine and its control groups; None if unknown."""
    total = _size_in(f"{PROC}/meminfo", "MemTotal:")
    sizes = [] if total is None else [total]
    for directory in _group_directories("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):  # of version 2 and version 1
            text = _read(os.path.join(directory, name)).strip()
            if text.isdigit():
                sizes.append(int(text))
    return min(sizes) if sizes else None


def count_oom_kills() -> int | None:
    """Count the processes of this control group that the kernel has killed for their memory; None if unknown.

    The count of the whole machine is not used, because it has the kills of other containers.
    """
    for directory in _group_directories("memory"):
        for name in ("memory.events", "memory.oom_control"):  # of version 2 and version 1
            for line in _read(os.path.join(directory, name)).splitlines():
                word, _, count = line.partition(" ")
                if word == "oom_kill" and count.isdigit():
                    return int(count)
    return None


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


def _size_in(path: str, name: str) -> int | None:
    """Return a size in a file of the system, in bytes; None if it is not there. The file has it in kB."""
    lines = [line for line in _read(path).splitlines() if line.startswith(name)]
    return int(lines[0].split()[1]) * 1024 if lines else None


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""

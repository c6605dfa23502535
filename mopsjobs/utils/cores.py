"""Count the cores that this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

from mopsjobs.utils.measurement import cpu_quota

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""Variables by which libraries of numerics choose their number of threads."""


def usable_cores() -> int:
    """Return how many cores this process may use: by its affinity, and by the quota of its control group, rounded up.

    A machine of 64 cores may grant a container two. `os.cpu_count` would tell 64.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def thread_limits(env: Mapping[str, str], threads: int) -> dict[str, str]:
    """Return `THREAD_VARIABLES` for a process that may run this many threads, without those that are set.

    If `OMP_NUM_THREADS` is set, the result is empty: the other libraries follow it.
    """
    if "OMP_NUM_THREADS" in env:
        return {}
    return {name: str(max(1, threads)) for name in THREAD_VARIABLES if name not in env}

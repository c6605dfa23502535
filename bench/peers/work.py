"""The tasks of the comparison, as each peer and mops-jobs call them, and what a peer tells of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Any

WORKERS = 2


def nothing(params: Any, seed: int = 0) -> int:
    """Return at once."""
    return seed


def sleep(params: Any, seed: int = 0) -> int:
    """Wait for 50 ms: a task that leaves the processor to the peer."""
    time.sleep(0.05)
    return seed


def program(params: Any, seed: int = 0) -> int:
    """Run `true`."""
    return subprocess.run(["true"], check=True).returncode


def asked() -> tuple[str, int]:
    """Return the function and the number of tasks that the command line names."""
    return sys.argv[1], int(sys.argv[2])


def report(results: Iterable[Any]) -> None:
    """Print the number of results, and the seconds from the start of this process to the first one."""
    results = iter(results)
    next(results)
    first = time.perf_counter() - float(os.environ["BENCH_STARTED"])
    print(json.dumps({"tasks_total": 1 + sum(1 for _ in results), "first_seconds": first}))

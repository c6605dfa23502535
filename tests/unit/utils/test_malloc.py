"""A process that runs for days does not keep what its threads have freed."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import ctypes, sys, threading
if sys.argv[1] == "few":
    from mopsjobs.utils.malloc import limit_malloc_arenas
    limit_malloc_arenas()
barrier = threading.Barrier(8)
def work():
    barrier.wait()
    kept = [bytearray(1000) for _ in range(100)]
    barrier.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
ctypes.CDLL(None).malloc_stats()
"""


def _arenas(how: str) -> int:
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, how],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    return sum(line.startswith("Arena ") for line in ran.stderr.splitlines())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="Other allocators have no such arenas.")
def test_eight_threads_share_two_arenas() -> None:
    """Otherwise each has one of its own, in which what it frees stays."""
    assert _arenas("few") == 2
    assert _arenas("many") > 2

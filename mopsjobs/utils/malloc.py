"""Keep the memory of a process from growing that runs for days."""

from __future__ import annotations

import contextlib

_M_ARENA_MAX = -8

_ARENAS = 2


def limit_malloc_arenas() -> None:
    """Make glibc allocate from two arenas, for any number of threads. Call it before there are threads.

    Without glibc it does nothing. By default glibc makes up to eight arenas per core, and memory that is freed in one
    serves no other. A sync starts dozens of threads, and pages of a listing are megabytes. After a day of syncs, a
    process held 65 MB of free memory, and more with each hour (docs/reliability.md).
    """
    with contextlib.suppress(ImportError, OSError, TypeError, AttributeError):  # no glibc, or no ctypes
        import ctypes

        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)

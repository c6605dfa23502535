"""What a process that runs for days does so that its memory does not grow."""

from __future__ import annotations

import contextlib

_M_ARENA_MAX = -8


_ARENAS = 2


def limit_malloc_arenas() -> None:
    """Have glibc allocate from two arenas, whatever the number of threads; elsewhere do nothing.

    It makes up to eight for each core, each thread that is new takes one, and what is freed in one serves no other. A
    sync has dozens of new threads, and pages of a listing are megabytes: after a day of syncs 65 MB of a process were
    free and still its own, and more with each hour (docs/reliability.md). To be called before there are threads.
    """
    with contextlib.suppress(ImportError, OSError, TypeError, AttributeError):  # no glibc, or no ctypes
        import ctypes

        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)

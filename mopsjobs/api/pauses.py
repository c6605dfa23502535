"""Sleeps that another thread can end: those of a wait that runs in a thread for a coroutine."""

from __future__ import annotations

import contextvars
import threading
import time

stop_requested: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("stop_requested", default=None)
"""Set to end the next sleep of the calls in this context. None outside of such a thread."""


class StoppedError(BaseException):
    """Ends a call whose caller no longer waits for it. No handler of errors takes it for one of the registry."""


def sleep(seconds: float) -> None:
    """Sleep.

    Raises:
        StoppedError: if a stop is requested, at once.
    """
    stop = stop_requested.get()
    if stop is None:
        time.sleep(seconds)
    elif stop.wait(seconds):
        raise StoppedError

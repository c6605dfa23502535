"""Call blocking functions from coroutines, each in a thread of its own.

The threads of asyncio are few: as many waits of hours would hold up every other call.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import Callable
from concurrent import futures
from typing import ParamSpec, TypeVar

from mopsjobs.api.pauses import StoppedError, stop_requested
from mopsjobs.errors import UsageError

P = ParamSpec("P")
T = TypeVar("T")


class CallsInThreads:
    """The calls of one registry that are under way."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._stops: set[threading.Event] = set()
        """One for each wait, which ends its next sleep."""

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the function returns in a thread. If the awaiting task is cancelled, the function goes on.

        Raises:
            BaseException: the error of the function.
        """
        return await self._start(functools.partial(function, *args, **kwargs), None)

    async def wait(self, function: Callable[[], T]) -> T:
        """Return what the function returns in a thread. If the awaiting task is cancelled, its next sleep ends it.

        Raises:
            UsageError: if the registry is closed meanwhile.
            BaseException: the error of the function.
        """
        stop = threading.Event()
        self._stops.add(stop)
        try:
            return await self._start(function, stop)
        except StoppedError:
            raise UsageError("The registry was closed during the call.") from None
        finally:
            stop.set()
            self._stops.discard(stop)

    def _start(self, work: Callable[[], T], stop: threading.Event | None) -> asyncio.Future[T]:
        future: futures.Future[T] = futures.Future()
        future.set_running_or_notify_cancel()  # here: a cancellation before the thread runs would drop the work
        context = contextvars.copy_context()
        context.run(stop_requested.set, stop)
        # A daemon: a loop that was left in the middle of a wait does not keep the program.
        thread = threading.Thread(target=context.run, args=(_run, future, work), daemon=True)
        self._threads = [one for one in self._threads if one.is_alive()]
        thread.start()
        self._threads.append(thread)
        return asyncio.wrap_future(future)

    async def end(self) -> None:
        """End the waits, and wait for the other calls."""
        for stop in self._stops:
            stop.set()

        def join() -> None:
            for thread in self._threads:
                thread.join()

        await asyncio.to_thread(join)


def _run(future: futures.Future[T], work: Callable[[], T]) -> None:
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - raised where the call is awaited
        future.set_exception(error)
    else:
        future.set_result(result)

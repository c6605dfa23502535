"""Write in the background: the one loop for what a runner sends beside its tasks.

What its owner gives is written once, in order. A write that fails is repeated after growing pauses with jitter, until
it succeeds or the time of `close` is over. An outage is told once, when it begins.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from mopsjobs.utils.backoff import HALF_JITTER, LOOK_SECONDS, Backoff, sleep_unless

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_PAUSE = 30.0

LAST_PAUSE = 1.0
"""The same after `close`, when there is little time."""


class BackgroundWriter(Generic[T]):
    """Writes the items of its owner by threads of its own. The lock of `changed` guards them."""

    def __init__(  # noqa: PLR0913 - all but four by name
        self,
        name: str,
        take: Callable[[], tuple[T | None, float | None]],
        write: Callable[[T], object],
        consequence: str,
        *,
        first_pause: float,
        max_pause: float = MAX_PAUSE,
        keep: Callable[[T], object] | None = None,
        threads: int = 1,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Condition, float | None], object] = threading.Condition.wait,
    ) -> None:
        """Prepare the threads.

        Args:
            name: the name of the threads.
            take: called with the lock. Returns the next item. Or None, and the seconds until it is to be asked again;
                None for these: when `changed` is notified. While the writer closes, nothing waits for more.
            write: writes an item. After an error, it is called again with the same item.
            consequence: a sentence for the log about what an outage means.
            first_pause: seconds after the first failure, at most. Each further pause is twice as long.
            max_pause: seconds between two attempts, at most.
            keep: takes the items of an outage, which then do not wait for its end. It raises nothing.
            threads: how many items are written at once; their order is kept with one.
            clock: a monotonic clock in seconds.
            wait: waits for a notification, for some seconds at most; it may return at any time.
        """
        self.changed = threading.Condition()
        self.is_closing = False
        self.failure: Exception | None = None
        """The error of the last attempt; None if it succeeded."""
        self.current: T | None = None
        """The item that one thread was given last, until it is written."""
        self._take = take
        self._write = write
        self._consequence = consequence
        self._keep = keep
        self._clock = clock
        self._wait = wait
        self._backoff = Backoff(first_pause, max_pause, jitter=HALF_JITTER)
        self._away_until = -math.inf
        self._give_up_at = math.inf
        self._has_given_up = False
        self._threads = [threading.Thread(target=self._run, name=name, daemon=True) for _ in range(threads)]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def attempt(self, item: T) -> bool:
        """Write an item, or have it kept. Return False if it is given up, since the time of `close` is over."""
        while True:
            if self._keep is None or self._clock() >= self._away_until:
                try:
                    self._write(item)
                except Exception as error:  # noqa: BLE001 - no error of a write may end the thread, or stop the job
                    self.note_failure(error)
                else:
                    if self.failure is not None:
                        with self.changed:
                            self.failure = None
                            self._backoff.reset()
                    return True
            if self._keep is not None:
                self._keep(item)
                return True
            if not self._pause():
                return False

    def note_failure(self, error: Exception) -> None:
        """Note that a write failed, and tell of it if the one before did not."""
        with self.changed:
            if self.failure is None:
                log.info("%s %s", error, self._consequence)
            self.failure = error
            self._away_until = self._clock() + self._backoff.next_delay()

    def close(
        self, seconds: float, longest: float | None = None, is_stopping: Callable[[], bool] = lambda: False
    ) -> bool:
        """Write what waits. Return True if all is written. Closing twice is harmless.

        Args:
            seconds: how long to write, at most, if a write fails, or from when on `is_stopping()`.
            longest: the same while all writes succeed; None: `seconds`, too.
            is_stopping: whether there is little time, by a flag that a signal may set meanwhile.
        """
        with self.changed:
            self.is_closing = True
            self._give_up_at = min(self._give_up_at, self._clock() + seconds)
            self.changed.notify_all()
        if longest is not None:
            sleep_unless(lambda: is_stopping() or not self._is_alive, longest - seconds, self.join, LOOK_SECONDS)
        return self.join(max(0.0, seconds)) and not self._has_given_up

    @property
    def _is_alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def join(self, seconds: float | None = None) -> bool:
        """Wait for the end of the threads, for some seconds at most. Return whether they have ended."""
        for thread in self._threads:
            thread.join(seconds)
        return not self._is_alive

    def _run(self) -> None:
        while (item := self._next()) is not None:
            if not self.attempt(item):
                self._has_given_up = True
                return
            self.current = None

    def _next(self) -> T | None:
        with self.changed:
            while True:
                self.current, seconds = self._take()
                if self.current is not None or self.is_closing:
                    return self.current
                self._wait(self.changed, seconds)

    def _pause(self) -> bool:
        """Wait for the next attempt. A call of `close` ends the pause. Return False if there is no time for another."""
        with self.changed:
            until, was_closing = self._away_until, self.is_closing
            if was_closing:
                until = min(until, self._clock() + LAST_PAUSE, self._give_up_at)
            while self.is_closing == was_closing and (rest := until - self._clock()) > 0:
                self._wait(self.changed, rest)
            return self._clock() < self._give_up_at

"""Delays between attempts: growing, capped, and with jitter, so that many clients do not come back all at once."""

from __future__ import annotations

import random as _random
import time
from collections.abc import Callable

FULL_JITTER = 1.0
"""Draw the whole delay. It spreads clients that compete for one key better than a delay with a lower bound.

See "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

HALF_JITTER = 0.5
"""Draw the upper half of the delay. The lower half gives a server that is out of reach its rest."""

NO_JITTER = 0.0

_MAX_EXPONENT = 60  # keeps the power a float


class Backoff:
    """The delays of one loop of attempts, counted from its last success."""

    __slots__ = ("_base", "_cap", "_factor", "_jitter", "_random", "_sleep", "failures")

    def __init__(
        self,
        base: float,
        cap: float,
        *,
        factor: float = 2.0,
        jitter: float = FULL_JITTER,
        random: Callable[[], float] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Start with no failures.

        Args:
            base: longest delay after the first failure, in seconds.
            cap: longest delay of all.
            factor: how much longer each delay is than the one before.
            jitter: the share of each delay that is drawn at random, from 0 to 1.
            random: returns a number from 0 to 1 (default: `random.random`).
            sleep: waits for a number of seconds.
        """
        self._base = base
        self._cap = cap
        self._factor = factor
        self._jitter = jitter
        self._random = random or _random.random
        self._sleep = sleep
        self.failures = 0

    def delay(self, failures: int) -> float:
        """Return the seconds to wait after the given number of failures in a row, at least 1."""
        longest = min(self._cap, self._base * self._factor ** min(failures - 1, _MAX_EXPONENT))
        return longest * (1 - self._jitter * (1 - self._random())) if self._jitter else longest

    def next_delay(self) -> float:
        """Count a failure, and return the seconds to wait after it."""
        self.failures += 1
        return self.delay(self.failures)

    def wait(self) -> None:
        """Count a failure, and sleep after it."""
        self._sleep(self.next_delay())

    def reset(self) -> None:
        """Start again with the first delay, after a success."""
        self.failures = 0


LOOK_SECONDS = 0.1
"""How soon a wait ends after a request to stop, which comes from the handler of a signal."""


def sleep_unless(is_over: Callable[[], bool], seconds: float, sleep: Callable[[float], object], step: float) -> None:
    """Sleep for `seconds`, in steps, but no longer than until `is_over()`.

    `is_over` reads a flag. The handler of a signal may set a flag, but must not take a lock, as `Event.set` does.
    """
    while seconds > 0 and not is_over():
        sleep(min(step, seconds))
        seconds -= step

"""Retry calls while the registry does not answer: with growing pauses, up to a limit, until a request to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from mopsjobs.errors import StoreUnavailableError, TooManyRetriesError
from mopsjobs.utils.backoff import NO_JITTER, Backoff, sleep_unless

T = TypeVar("T")

TRANSIENT_ERRORS = (StoreUnavailableError, TooManyRetriesError)
"""Errors that may pass with time: an outage, and a race that was lost too often."""

FIRST_PAUSE = 1.0
"""Seconds before the second attempt; each pause is twice the one before."""

MAX_PAUSE = 30.0
"""Seconds between two attempts, at most."""

SLICE_SECONDS = 0.1
"""How soon a pause ends after a request to stop. A pause polls for it: the request comes from a signal handler, which
may take no lock (`Event.set` would)."""

LAST_SECONDS = 10.0
"""How long work that does not wait may go on after a request to stop. Kubernetes grants 30 s in all
(`terminationGracePeriodSeconds`); the workers may take 5 of them, and one call to a store that is silent another 5."""


class OutageRetry:
    """Retries the calls of one run, and remembers a request to stop it."""

    def __init__(
        self, seconds: float, sleep: Callable[[float], None], on_outage: Callable[[], None] = lambda: None
    ) -> None:
        """Set the limits.

        Args:
            seconds: how long each `call` may wait in all.
            sleep: waits that many seconds.
            on_outage: called once, when the first wait for an outage begins.
        """
        self._seconds = seconds
        self._sleep = sleep
        self._on_outage = on_outage
        self._stopped_at: float | None = None
        self.signal: int | None = None
        """The signal that requested the stop, if one did."""

    @property
    def is_stopping(self) -> bool:
        """Return True if a stop was requested."""
        return self._stopped_at is not None

    @property
    def is_over(self) -> bool:
        """Return True if the stop was requested so long ago that nothing more may be begun."""
        return self._stopped_at is not None and time.monotonic() - self._stopped_at > LAST_SECONDS

    def stop(self, number: int | None = None) -> None:
        """End all waiting, now and later. The handler of the signal `number` may call this, also twice."""
        if self._stopped_at is None:
            self._stopped_at = time.monotonic()
            self.signal = number

    def call(self, action: Callable[[], T], transient: tuple[type[Exception], ...] = TRANSIENT_ERRORS) -> T:
        """Return what `action` returns; call it again while it raises one of the `transient` errors.

        Raises:
            StoreUnavailableError, TooManyRetriesError, or another of `transient`: if it lasts longer than the limit, or
                a stop was requested.
        """
        backoff, waited = Backoff(FIRST_PAUSE, MAX_PAUSE, jitter=NO_JITTER), 0.0
        while True:
            try:
                return action()
            except transient as error:
                pause = backoff.next_delay()
                if self.is_stopping or waited + pause > self._seconds:
                    raise
                if isinstance(error, StoreUnavailableError):
                    self._announce_outage()
            self.pause(pause)
            waited += pause

    def pause(self, seconds: float, is_over: Callable[[], bool] = lambda: False) -> None:
        """Wait, but no longer than until a request to stop, or until `is_over()`."""
        sleep_unless(lambda: self.is_stopping or is_over(), seconds, self._sleep, SLICE_SECONDS)

    def _announce_outage(self) -> None:
        announce, self._on_outage = self._on_outage, lambda: None
        announce()

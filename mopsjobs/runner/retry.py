"""Waiting for a registry that does not answer: with growing pauses, up to a limit, and never past a request to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from mopsjobs.errors import StoreUnavailableError, TooManyRetriesError
from mopsjobs.utils.backoff import NO_JITTER, Backoff, sleep_unless

T = TypeVar("T")


TRANSIENT_ERRORS = (StoreUnavailableError, TooManyRetriesError)
"""What time may heal: an outage, and a race that was lost too often. Waiting for anything else would be in vain."""


FIRST_PAUSE = 1.0


MAX_PAUSE = 30.0
"""Seconds between two attempts; each pause is twice the one before."""


SLICE_SECONDS = 0.1
"""How soon a pause ends after a request to stop. The request is a flag that is looked at: it comes from a signal
handler, which may take no lock (`Event.set` would)."""


LAST_SECONDS = 10.0
"""After a request to stop: how long what does not wait may go on. Kubernetes grants 30 s in all (its
`terminationGracePeriodSeconds`); the workers may take 5 of them, and one call to a store that is silent as many."""


class OutageRetry:
    """How long one run waits, and whether it has been asked to stop."""

    def __init__(
        self, seconds: float, sleep: Callable[[float], None], on_outage: Callable[[], None] = lambda: None
    ) -> None:
        """Wait for up to so many seconds in each `attempt`, by `sleep`; `on_outage` is called when it first does."""
        self._seconds = seconds
        self._sleep = sleep
        self._on_outage = on_outage
        self._stopped_at: float | None = None
        self.signal: int | None = None
        """Which signal asked it to stop, if one did."""

    @property
    def is_stopping(self) -> bool:
        """Whether the work is to be left as it is, now."""
        return self._stopped_at is not None

    @property
    def is_over(self) -> bool:
        """Whether it has been stopping for so long that nothing more is to be begun."""
        return self._stopped_at is not None and time.monotonic() - self._stopped_at > LAST_SECONDS

    def stop(self, number: int | None = None) -> None:
        """End all waiting, now and later. May be called by the handler of the signal `number`, and again."""
        if self._stopped_at is None:
            self._stopped_at = time.monotonic()
            self.signal = number

    def call(self, act: Callable[[], T], passing: tuple[type[Exception], ...] = TRANSIENT_ERRORS) -> T:
        """What `act` returns, called again and again while what it raises is one of `passing`.

        Raises:
            StoreUnavailableError, TooManyRetriesError, or what else is in `passing`: it did not pass in time, or there
                is to be no more waiting.
        """
        backoff, waited = Backoff(FIRST_PAUSE, MAX_PAUSE, jitter=NO_JITTER), 0.0
        while True:
            try:
                return act()
            except passing as error:
                pause = backoff.next_delay()
                if self.is_stopping or waited + pause > self._seconds:
                    raise
                if isinstance(error, StoreUnavailableError):
                    self._tell()
            sleep_unless(lambda: self.is_stopping, pause, self._sleep, SLICE_SECONDS)
            waited += pause

    def _tell(self) -> None:
        tell, self._on_outage = self._on_outage, lambda: None
        tell()

"""Retry calls while the registry does not answer: with growing pauses, up to a limit, until a request to stop."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from mopsjobs.errors import NoManifestError, StoreUnavailableError, TooManyRetriesError, command_line
from mopsjobs.store.base import ReadableStore
from mopsjobs.studies.manifest import Manifest, load_manifest
from mopsjobs.utils.backoff import LOOK_SECONDS, NO_JITTER, Backoff, sleep_unless

T = TypeVar("T")

TRANSIENT_ERRORS = (StoreUnavailableError, TooManyRetriesError)
"""Errors that may pass with time: an outage, and a race that was lost too often."""

FIRST_PAUSE = 1.0
"""Seconds before the second attempt; each pause is twice the one before."""

MAX_PAUSE = 30.0
"""Seconds between two attempts, at most."""

LAST_SECONDS = 10.0
"""How long work that does not wait may go on after a request to stop. Kubernetes grants 30 s in all
(`terminationGracePeriodSeconds`); the workers may take 5 of them, and one call to a store that is silent another 5."""


@dataclasses.dataclass
class OutageRetry:
    """Retries the calls of one run, and remembers a request to stop it.

    Args:
        _seconds: how long each `call` may wait in all.
        _sleep: waits that many seconds.
        _on_outage: called once, when the first wait for an outage begins.
    """

    _seconds: float
    _sleep: Callable[[float], None]
    _on_outage: Callable[[], None] = lambda: None
    signal: int | None = None
    """The signal that requested the stop, if one did."""
    stopped_ts: float = math.inf
    """When a stop was requested, in seconds since the epoch."""
    _stopped_at: float | None = None

    @property
    def signal_name(self) -> str:
        """Return the name of the signal; empty if none requested a stop."""
        return "" if self.signal is None else signal.Signals(self.signal).name

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
            self._stopped_at, self.stopped_ts = time.monotonic(), time.time()
            self.signal = number

    def left_of(self, grace: float) -> float:
        """Return the seconds that are left of a grace period: `LAST_SECONDS` of it at least, and all before a stop."""
        return min(grace, max(LAST_SECONDS, grace - (time.time() - self.stopped_ts)))

    def begin_end(self) -> None:
        """Begin what is to be done after the last tasks have saved: the time for it is counted from now."""
        self._stopped_at = time.monotonic()

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
                    announce, self._on_outage = self._on_outage, lambda: None
                    announce()
            self.pause(pause)
            waited += pause

    def pause(self, seconds: float, is_over: Callable[[], bool] = lambda: False) -> None:
        """Wait, but no longer than until a request to stop, or until `is_over()`."""
        sleep_unless(lambda: self.is_stopping or is_over(), seconds, self._sleep, LOOK_SECONDS)


@contextlib.contextmanager
def stop_on_signals(retry: OutageRetry, on_log: Callable[[str], None]) -> Iterator[None]:
    """Take SIGTERM and SIGINT as requests to stop a run, while the block runs. Only the main thread can.

    Args:
        retry: remembers the request.
        on_log: called with one line.
    """

    def stop(number: int, _frame: object) -> None:
        retry.stop(number)
        with contextlib.suppress(RuntimeError):  # the signal interrupted a print on the same stream
            on_log(f"Stopping ({signal.Signals(number).name}); finished tasks are kept.")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def wait_for_manifest(
    job_id: str, store: ReadableStore, retry: OutageRetry, on_log: Callable[[str], None], *, wait: bool
) -> Manifest:
    """Return the manifest of a job.

    Args:
        job_id: the job.
        store: where the manifest is.
        retry: how long to wait.
        on_log: called with one line when the wait begins.
        wait: whether to wait for a missing manifest. A job that was submitted during an outage leaves it on the
            submitting machine, from where `resume` delivers it.

    Raises:
        NoManifestError: if there is none.
        RecordError: if it is invalid, or that of another job.
        StoreUnavailableError: if the store did not answer in time.
    """
    is_announced = False

    def load() -> Manifest:
        nonlocal is_announced
        try:
            return load_manifest(store, job_id)
        except NoManifestError:
            if wait and not is_announced:
                hint = command_line("resume", job_id)
                on_log(f"Waiting for the manifest of job {job_id}. Where it was submitted: {hint}")
                is_announced = True
            raise

    return retry.call(load, (*TRANSIENT_ERRORS, NoManifestError) if wait else TRANSIENT_ERRORS)

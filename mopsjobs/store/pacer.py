"""Pace the reads of one store: how often each is tried, how many run at once, and when the store counts as away.

A user waits for a single read, so it ends within the budget of `network.py`. A sync makes thousands. Within
`ReadPacer.bulk`, no time counts but that without any answer, and the number of concurrent reads follows the server:

- A read is tried up to `MAX_TRIES` times, after pauses of its own, or those that the server asks for.
- The store is away if it has answered no read for `SILENT_SECONDS`, or for the budget if it never answered or refuses
  connections.
- `window` is the number of small reads at once. It grows while replies come quickly, and is halved if most of them are
  refusals or timeouts. If replies queue, it shrinks. So a server that takes one request at a time lets none wait long.

See docs/decisions/0043-a-sync-counts-silence.md.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from mopsjobs.errors import MopsJobsError, StoreUnavailableError
from mopsjobs.store.base import USUAL_WINDOW
from mopsjobs.utils.backoff import HALF_JITTER, Backoff, sleep_unless

PAUSES = (0.1, 0.4)
"""Seconds before the second and the third attempt at a single read."""

LEAST_SECONDS = 1.5
"""With less time left, another attempt is not worth while."""

MAX_TRIES = 12
"""Tries of one read in bulk. With two fifths of all requests refused, one of 60,000 fails."""

SILENT_TRIES = 4
"""A try without a reply counts for as many, since it takes as long as many others."""

FIRST_PAUSE = 0.05

MAX_PAUSE = 1.5
"""Seconds between two tries, unless the server asks for more."""

SILENT_SECONDS = 30.0
"""How long a store that has answered may be silent, or refuse all requests."""

REPLY_SECONDS = 30.0
"""Timeout of a read in bulk: a third to connect, the rest until the next piece of the reply."""

FIRST_WINDOW = 16

MAX_WINDOW = 64

MAX_THREADS = 128
"""Threads that read, or pause before another try."""

LONG_SECONDS = 0.02
"""Time of the quickest reply from which `MAX_WINDOW` reads help: then the distance takes it, not the work.

At 30 ms per reply of Azure's API, 32 reads at once gave 430 per second on a busy machine. 64 gave 550 to 830.
"""

LEAST_REPLIES = 20
"""Replies after which the window may change. In fewer, most may be refusals by chance."""

QUEUE_SECONDS = 1.0
"""Mean time of replies above which they queue, unless even the quickest one takes a quarter of it."""

RATE_SECONDS = 1.0
"""The rate of replies is that of at least this time."""

_STEP_SECONDS = 0.1

T = TypeVar("T")


class ReadPacer:
    """The pace of the reads of one store. All its threads share it."""

    def __init__(
        self,
        *,
        sleep: Callable[[float], None],
        clock: Callable[[], float],
        retry_after: Callable[[Exception], float] = lambda error: 0.0,
    ) -> None:
        """Begin with no reads.

        Args:
            sleep: waits for a number of seconds.
            clock: returns the seconds from any start, and never goes back.
            retry_after: returns the seconds for which the reply behind an error asks clients to wait.
        """
        self._sleep = sleep
        self._clock = clock
        self._retry_after = retry_after
        self._changed = threading.Condition()
        self._bulks = 0
        self._is_stopped = False
        self._answered_at: float | None = None
        """When the store last answered in bulk; None if never, or if that was long before this bulk."""
        self._begun_at = 0.0
        self._rated_at, self._rated_answers, self._rate = 0.0, 0, 0.0
        self._running = 0
        self._paused = 0
        self.window = FIRST_WINDOW
        self.answers = 0
        self.retries = 0
        self.waits_for: str | None = None
        """The reason of the last failure; None after an answer."""
        self.on_retry: Callable[[str, float], None] = lambda reason, pause: None
        """Called with the reason and the pause before another try."""
        self._is_growing_fast = True
        self._quickest = math.inf
        self._replies, self._refusals, self._seconds = 0, 0, 0.0
        """Since the last decision about the window: replies, refusals among them, and the time of the others."""

    @contextlib.contextmanager
    def bulk(self) -> Iterator[None]:
        """Have all reads in the block paced together."""
        with self._changed:
            if not self._bulks:
                self._begun_at, self._is_stopped = self._clock(), False
                if self._answered_at is not None and self._begun_at - self._answered_at > SILENT_SECONDS:
                    self._answered_at = None
                self._rated_at, self._rated_answers, self._rate = self._begun_at, self.answers, 0.0
            self._bulks += 1
        try:
            yield
        finally:
            with self._changed:
                self._bulks -= 1

    @property
    def is_bulk(self) -> bool:
        """Return True if a sync is at work."""
        return self._bulks > 0

    @property
    def useful_threads(self) -> int:
        """Return how many threads can read at once, with those that pause before another try."""
        return min(self.window + self._paused, MAX_THREADS)

    @property
    def has_answered(self) -> bool:
        """Return True if the store has answered in this bulk, or shortly before it."""
        return self._answered_at is not None

    def describe(self) -> str:
        """Return the rate of the last seconds, the retries, and what the store is waited for, in a few words."""
        with self._changed:
            seconds = self._clock() - self._rated_at
            if seconds >= RATE_SECONDS:
                self._rate = (self.answers - self._rated_answers) / seconds
                self._rated_at, self._rated_answers = self._rated_at + seconds, self.answers
        rate = f"{self._rate:.0f} replies/s"
        retries = f", {self.retries} retries" if self.retries else ""
        return f"{rate}{retries}{f', waiting: {self.waits_for}' if self.waits_for else ''}"

    def stop(self) -> None:
        """Have the reads that wait fail at once: their results are not needed."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def read(
        self,
        attempt: Callable[[float], T],
        explain: Callable[[Exception], MopsJobsError],
        *,
        budget: float,
        is_small: bool = True,
    ) -> T:
        """Call `attempt` with the seconds that it may take, until it succeeds.

        Args:
            attempt: sends one request that only reads.
            explain: turns its error into one of this project. Not kept: as a method of the store, it would keep the
                store's connections until a garbage collection.
            budget: seconds for all attempts while the store does not answer.
            is_small: whether the window counts it. The pages of a listing come one after the other anyway.

        Raises:
            MopsJobsError: if no attempt succeeds: the error that `explain` returns.
        """
        if self.is_bulk:
            return self._read_in_bulk(attempt, explain, budget, is_small=is_small)
        end, pauses = self._clock() + budget, iter(PAUSES)
        while True:
            try:
                return attempt(end - self._clock())
            except Exception as error:  # noqa: BLE001 - no error of an SDK, of whatever kind, leaves the store
                failure = explain(error)
                pause = max(next(pauses, math.inf), self._retry_after(error))
            if not isinstance(failure, StoreUnavailableError) or self._clock() + pause + LEAST_SECONDS > end:
                raise failure from None
            self._sleep(pause)

    def _read_in_bulk(
        self,
        attempt: Callable[[float], T],
        explain: Callable[[Exception], MopsJobsError],
        budget: float,
        *,
        is_small: bool,
    ) -> T:
        backoff = Backoff(FIRST_PAUSE, MAX_PAUSE, jitter=HALF_JITTER)
        tries = 0
        answers = self.answers
        while True:
            if is_small:
                self._enter()
            begun = self._clock()
            failure: MopsJobsError | None = None
            try:
                if self._is_stopped:
                    raise StoreUnavailableError("The sync was interrupted.")
                return attempt(REPLY_SECONDS if self.has_answered else budget)
            except Exception as error:  # noqa: BLE001 - no error of an SDK, of whatever kind, leaves the store
                failure = explain(error)
                pause = max(backoff.next_delay(), self._retry_after(error))
            finally:
                self._note(failure, self._clock() - begun, is_small=is_small)
            # A server that refuses every request for a while has nothing against this key.
            if self.answers > answers or not getattr(failure, "throttled", False):
                tries += SILENT_TRIES if getattr(failure, "silent", False) else 1
            answers = self.answers
            is_there = self.has_answered or getattr(failure, "sent", True)
            most = MAX_TRIES if is_there else 1 + len(PAUSES)
            if self._is_final(failure, pause, budget) or tries >= most:
                raise failure from None
            self._pause(failure.message, pause)

    def _is_final(self, failure: MopsJobsError, pause: float, budget: float) -> bool:
        """Return True if another try is of no use: the failure was an answer, or the store is away."""
        if not isinstance(failure, StoreUnavailableError) or self._is_stopped:
            return True
        idle = self._clock() + pause - (self._begun_at if self._answered_at is None else self._answered_at)
        if self.has_answered and failure.sent and not (failure.silent or failure.throttled):
            return False  # the connection broke: perhaps in a long reply, which was the only one meanwhile
        if failure.throttled or (self.has_answered and failure.sent):
            return idle > SILENT_SECONDS
        return idle + LEAST_SECONDS > budget

    def _pause(self, reason: str, pause: float) -> None:
        with self._changed:
            self.retries += 1
            self._paused += 1
        self.on_retry(reason, pause)
        try:
            sleep_unless(lambda: self._is_stopped, pause, self._sleep, max(_STEP_SECONDS, pause / 50))
        finally:
            with self._changed:
                self._paused -= 1

    def _enter(self) -> None:
        """Wait until fewer small reads run than the window allows."""
        with self._changed:
            while self._running >= self.window and not self._is_stopped:
                self._changed.wait()
            self._running += 1

    def _note(self, failure: MopsJobsError | None, seconds: float, *, is_small: bool) -> None:
        """Take note of the end of a request."""
        is_answer = not isinstance(failure, StoreUnavailableError)
        with self._changed:
            if is_answer:
                self._answered_at = self._clock()
                self.answers += 1
                self.waits_for = None
            elif failure is not None:
                # The end of the message is the cause. Before it stands the address, which is long.
                self.waits_for = failure.message.rstrip(".").rpartition(": ")[2]
            if not is_small:
                return
            self._running -= 1
            self._replies += 1
            if is_answer:
                self._quickest = min(self._quickest, seconds)
                self._seconds += seconds
            else:
                self._refusals += 1
            if self._replies >= max(self.window, LEAST_REPLIES):
                self._adapt()
            self._changed.notify(max(1, self.window - self._running))

    def _adapt(self) -> None:
        """Set the window after a round of replies."""
        queues = max(QUEUE_SECONDS, 4 * self._quickest)
        mean = self._seconds / max(1, self._replies - self._refusals)
        if self._refusals * 2 > self._replies:
            self.window, self._is_growing_fast = max(1, self.window // 2), False
        elif mean > queues:
            self.window, self._is_growing_fast = max(1, self.window * 3 // 4), False
        elif mean < queues / 2:
            limit = MAX_WINDOW if self._quickest >= LONG_SECONDS else USUAL_WINDOW
            grown = self.window * 2 if self._is_growing_fast else self.window + 1
            self.window = max(self.window, min(grown, limit))
        self._replies, self._refusals, self._seconds = 0, 0, 0.0

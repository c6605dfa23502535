"""Retention: remove old events and announcements from a store, and nothing else. For `prune --store`.

Announcements (registry/announcements.py) have no use after an hour or two, and go after a day. The user chooses the age
of chunks of events. A chunk goes if it was written before the limit and its job ended before the limit. So the chunks
of an active job stay, however old. A chunk that an outbox delivered late outlives the others by that delay. A job ended
when its record was last written. Its ledger and its checkpoints go with its events, just before them. Claims of
notifications (docs/decisions/0073-notifications.md) go when their job ended before the limit. Records, manifests,
outputs and bundles are never touched. See docs/decisions/0010-retention.md.

Announcements and events lie in the order of time. Only old keys are listed, and the oldest go first. An interrupted
run leaves the younger batches; the next one, or a concurrent one, continues there. `plan` and `remove` cost a listing
of the old keys each, one read and one listing per job, and `remove` one request per removed key. Reads, listings of
ledgers and removals run concurrently; memory follows the number of jobs, not of keys.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import chain, islice, repeat
from typing import NamedTuple, TypeVar

from mopsjobs.errors import (
    RecordError,
    StoreAccessError,
    StoreError,
    StoreUnavailableError,
    UsageError,
    ValueTooLargeError,
)
from mopsjobs.events import format as event_format
from mopsjobs.registry import announcements
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.keys import CHECKPOINT, CLAIM, LEDGER, OFFERS
from mopsjobs.registry.transitions import end_of
from mopsjobs.utils.backoff import HALF_JITTER, Backoff, sleep_unless
from mopsjobs.utils.times import parse_duration, parse_time

MIN_AGE = timedelta(hours=1)
"""Of events. A follower reads once a minute or more often. A sync lists from 15 minutes before the last one."""

_OF_SWEEP = re.compile(r"notified/sweep-[0-9a-f]{32}/[a-z]+-(\d{4}-\d\d-\d\d)-")
"""A claim about the first failure of a day in a sweep, which has no record."""

BATCH = 256

REQUESTS = 16
"""Concurrent requests, few enough not to slow down writers and readers."""

ATTEMPTS = 4
"""At the removal of one key. Unlike other writes, a removal may be repeated."""

FIRST_PAUSE = 0.2

MAX_PAUSE = 3.0
"""Seconds between two attempts. Each pause is five times the one before."""

STEP_SECONDS = 0.1
"""Steps of a pause: after each one, the run checks whether it is over."""

T = TypeVar("T")


class ExpiredKey(NamedTuple):
    """A key that may be removed."""

    key: str
    kind: str
    """`chunks` of events, `ledger_chunks`, `checkpoints`, `offers`, `claims` or `announcements`."""
    job_id: str | None
    """The job, except of an announcement."""


def events_limit(now: datetime, age: timedelta) -> datetime:
    """Return the time before which a job must have ended for its events to go: an hour begins there."""
    return (now - age).replace(minute=0, second=0, microsecond=0)


class KeyCounts(Counter[str]):
    """The numbers of keys to remove, or removed, by their kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.job_ids: set[str] = set()
        """The jobs of all but claims."""

    def add(self, expired: ExpiredKey) -> None:
        """Count a key."""
        self[expired.kind] += 1
        if expired.job_id is not None and expired.kind != "claims":
            self.job_ids.add(expired.job_id)


def parse_age(text: str) -> timedelta:
    """Return how long ago a job must have ended whose events are removed.

    Raises:
        UsageError: if it is not a duration, or less than an hour.
    """
    age = timedelta(seconds=parse_duration(text))
    if age < MIN_AGE:
        expected = "expected an hour or more, as followers may not have read younger events yet"
        raise UsageError(f"invalid duration '{text}': {expected}.")
    return age


class Retention:
    """One run: `plan` counts what would be removed, `remove` removes it."""

    def __init__(
        self,
        registry: JobRegistry,
        events_age: timedelta,
        *,
        now: datetime,
        claims: bool = False,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Set the limit. No request is made.

        Args:
            registry: its records say which jobs have ended, and its store has the keys.
            events_age: how long ago a job must have ended; see `parse_age`.
            now: the time, in UTC.
            claims: whether the claims of notifications go too.
            sleep: waits for a number of seconds.
        """
        self._registry = registry
        self._store = registry.store
        self._now = now
        self._claims = claims
        self._sleep = sleep
        self.events_before = events_limit(now, events_age)
        """The limit: only chunks written before it, of jobs that ended before it, are removed."""
        self.removed = KeyCounts()
        """What `remove` has removed so far, also if it failed or was interrupted."""
        self.refusals: list[str] = []
        """The keys that the store has refused to remove, each with the reason."""
        self.unknown = KeyCounts()
        """Old chunks of jobs without a record here, as counted by the last `plan` or `remove`. They stay."""
        self._lock = threading.Lock()
        """Held by a thread that counts."""
        self._is_over = threading.Event()

    def plan(self) -> KeyCounts:
        """Count what `remove` would remove now.

        Raises:
            StoreError: if the store cannot be listed, or a record cannot be read.
        """
        counts = KeyCounts()
        with ThreadPoolExecutor(REQUESTS) as threads:
            for expired in self._expired_keys(threads):
                counts.add(expired)
        return counts

    def remove(self, on_progress: Callable[[int], None] | None = None) -> None:
        """Remove the expired keys, the oldest first. Keys that another process removed meanwhile are not counted.

        An interruption ends it after the requests under way; queued ones are not sent. A key that the store refuses to
        remove for a reason of its own (a legal hold, for example) stays, and is noted.

        Args:
            on_progress: called with the number of keys processed.

        Raises:
            StoreAccessError: if removing is not permitted.
            StoreUnavailableError: if the store does not answer. Removed keys stay removed; the next run continues
                there.
            StoreError: if the store cannot be listed, or a record cannot be read.
        """
        processed = 0
        with ThreadPoolExecutor(REQUESTS) as threads:
            expired = self._expired_keys(threads)
            try:
                # The first batch is one key: if removing is not permitted, one request finds out.
                for size in chain((1,), repeat(BATCH)):
                    if not (batch := list(islice(expired, size))):
                        return
                    processed += sum(1 for _ in threads.map(self._remove, batch))
                    if on_progress is not None:
                        on_progress(processed)
            except BaseException:
                self._is_over.set()
                threads.shutdown(cancel_futures=True)
                raise

    def _expired_keys(self, threads: ThreadPoolExecutor) -> Iterator[ExpiredKey]:
        """Yield the keys that may go: announcements, chunks (a ledger before its events), and claims."""
        self.unknown = KeyCounts()
        for key, _ in announcements.expired_announcements(self._store, self._now):
            yield ExpiredKey(key, "announcements", None)
        ended: dict[str, bool] = {}
        for batch in _batches(self._old_chunks()):
            new = self._find_ended(batch, ended, threads)
            ledgers = dict(zip(new, threads.map(self._ledger_keys, new), strict=True))
            for expired in batch:
                job_id = str(expired.job_id)
                if ended.get(job_id):
                    yield from ledgers.pop(job_id, ())
                    yield expired
                elif job_id not in ended:
                    self.unknown.add(expired)
        if self._claims:  # also of jobs whose events went earlier
            listed = ((key, CLAIM.parse(key)) for key in self._store.list_keys(CLAIM.prefix))
            claims = (ExpiredKey(key, "claims", parts["job"]) for key, parts in listed if parts is not None)
            limit = f"{self.events_before:%Y-%m-%d}"
            for batch in _batches(claims):
                self._find_ended(batch, ended, threads)
                of_sweep = [claim for claim in batch if (found := _OF_SWEEP.match(claim.key)) and found[1] < limit]
                yield from (*of_sweep, *(claim for claim in batch if ended.get(str(claim.job_id))))

    def _ledger_keys(self, job_id: str) -> list[ExpiredKey]:
        return [
            ExpiredKey(key, kind, job_id)
            for form, kind in ((CHECKPOINT, "checkpoints"), (OFFERS, "offers"), (LEDGER, "ledger_chunks"))
            for key in self._store.list_keys(form.prefix_of(job_id))
        ]

    def _old_chunks(self) -> Iterator[ExpiredKey]:
        limit = f"{event_format.PREFIX}{event_format.bucket_of(self.events_before)}/"
        for key in self._store.list_keys(event_format.PREFIX):
            if key >= limit:
                return
            if (name := event_format.parse_chunk_key(key)) is not None:
                yield ExpiredKey(key, "chunks", name.job_id)

    def _find_ended(
        self, batch: Iterable[ExpiredKey], ended: dict[str, bool], threads: ThreadPoolExecutor
    ) -> Sequence[str]:
        """Note for each job of a batch whether it ended before the limit. Return those that were not noted as ended.

        An end is final, so an answer stays true; a job that ends meanwhile stays until the next run. A missing record
        is not noted: it may exist when the next chunk is processed.
        """
        unknown = [job_id for job_id in dict.fromkeys(str(expired.job_id) for expired in batch) if job_id not in ended]
        answers = zip(unknown, threads.map(self._has_ended, unknown), strict=True)
        ended.update((job_id, answer) for job_id, answer in answers if answer is not None)
        return [job_id for job_id in unknown if ended.get(job_id)]

    def _has_ended(self, job_id: str) -> bool | None:
        """Return True if the job ended before the limit, False if not or if its record is unreadable.

        Return None without a record: it may lie under the prefix of another registry in this store, or be written
        later.
        """
        try:
            state = self._registry.get_job(job_id)
        except (RecordError, ValueTooLargeError):
            return False
        return None if state is None else state.is_terminal and parse_time(end_of(state)) < self.events_before

    def _remove(self, expired: ExpiredKey) -> None:
        """Remove a key and count it at once: an interruption leaves results uncollected, but not uncounted."""
        backoff = Backoff(FIRST_PAUSE, MAX_PAUSE, factor=5.0, jitter=HALF_JITTER)
        while not self._is_over.is_set():  # another removal failed, or the run was interrupted
            try:
                is_removed = self._store.delete(expired.key)
            except StoreUnavailableError as error:
                # A server that answered before is busy; one that never answered is away.
                pause = backoff.next_delay()
                if backoff.failures == ATTEMPTS or (error.silent and not self.removed):
                    raise
                sleep_unless(self._is_over.is_set, pause, self._sleep, STEP_SECONDS)
            except StoreAccessError:
                raise
            except StoreError as error:
                with self._lock:
                    self.refusals.append(f"{expired.key}: {error}")
                return
            else:
                with self._lock:
                    if is_removed:
                        self.removed.add(expired)
                return


def _batches(items: Iterator[T]) -> Iterator[list[T]]:
    return iter(lambda: list(islice(items, BATCH)), [])

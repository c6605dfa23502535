"""Retention: removing from a store what nobody needs any more, and nothing else.

Two things pile up beside the records. Announcements (changes.py) are of no use after an hour or two, and go when they
are a day old. Chunks of events (chunks.py) are what a job's tasks have said; how long that is wanted is for people to
say. A chunk goes when it was written before the time that was asked for and its job ended before then. So those of a
job that has not ended stay, however old, and a log goes at once, but for a tail that was delivered late (by an outbox):
that outlives the rest by as much as it was late. When a job ended is when its record says that it was last written; a
foreign writer that ends one and leaves that time alone has ended it then. Records, manifests, outputs and bundles are
not looked at.

Both lie in the order of time, so that only what is old is listed, and the oldest goes first, a batch of keys at a time.
Whatever ends this half way leaves the younger batches; whoever runs it again, or beside it, finds what is left.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from typing import NamedTuple

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
from mopsjobs.store.base import VersionedStore
from mopsjobs.utils.times import parse_time

MIN_AGE = timedelta(hours=1)
"""Of events. A follower looks each minute at most, and a sync back to a quarter of an hour before the last one."""


BATCH = 256
"""Keys taken from a listing, and removed, together."""


THREADS = 8
"""Records read, or keys removed, at a time: writers and readers at work shall not notice."""


MAX_JOBS = 100_000
"""Jobs that are remembered, some 10 MB: whether they have ended is asked once for each, up to so many."""


PAUSES = (0.2, 1.0, 3.0)
"""Seconds before a removal is tried again that the store did not take. Unlike other writes, it may be repeated."""


STEP_SECONDS = 0.1
"""Of a pause, after each of which it is seen whether all is over."""


SHOWN_REFUSALS = 10


MAX_STRANGE = 100
"""Keys that are none of ours, before it is given up to look for the first that is."""


OnProgress = Callable[[int], None]


class Old(NamedTuple):
    """A key that may go. `when` is the slot or the hour it lies in; `job_id` is that of a chunk's job."""

    key: str
    when: str
    job_id: str | None


def oldest(store: VersionedStore) -> tuple[datetime | None, datetime | None]:
    """When the oldest announcement and the oldest chunk of events were written; None where there is none.

    Raises:
        StoreError: the store cannot be listed.
    """
    slots = (key.split("/")[1] for key in store.list_keys(announcements.PREFIX))
    hours = (key.split("/")[1] for key in store.list_keys(event_format.PREFIX))
    return _first_time(slots, announcements.SLOT_FORMAT), _first_time(hours, event_format.BUCKET_FORMAT)


def _first_time(times: Iterable[str], form: str) -> datetime | None:
    """The first of these that is one. A few that are none may stand before it."""
    for text in islice(times, MAX_STRANGE):
        with contextlib.suppress(ValueError):
            return datetime.strptime(text, form).replace(tzinfo=UTC)
    return None


class Span:
    """How many keys of one kind, and the first and the last time they lie at, as in their keys; empty if none."""

    def __init__(self) -> None:
        self.count = 0
        self.first = ""
        self.last = ""

    def add(self, when: str) -> None:
        """Count one that lies at that time."""
        self.count += 1
        self.first = min(self.first or when, when)
        self.last = max(self.last, when)


class Counts:
    """What would be removed, or has been."""

    def __init__(self) -> None:
        self.announcements = Span()
        self.chunks = Span()
        self._jobs: set[str] = set()
        self._more = False

    @property
    def keys(self) -> int:
        """All of it."""
        return self.announcements.count + self.chunks.count

    @property
    def jobs(self) -> int:
        """Whose chunks these are; see `is_exact`."""
        return len(self._jobs)

    @property
    def is_exact(self) -> bool:
        """Whether there are no more jobs than were counted."""
        return not self._more

    def add(self, old: Old) -> None:
        """Count a key."""
        if old.job_id is None:
            self.announcements.add(old.when)
            return
        self.chunks.add(old.when)
        if len(self._jobs) < MAX_JOBS:
            self._jobs.add(old.job_id)
        else:
            self._more = self._more or old.job_id not in self._jobs


class Retention:
    """One round of it: `plan` says what would go, `remove` lets it go."""

    def __init__(
        self,
        registry: JobRegistry,
        events_age: timedelta,
        *,
        now: datetime,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Look at nothing yet.

        Args:
            registry: whose records tell which jobs have ended, and in whose store all of it lies.
            events_age: how long ago a job must have ended.
            now: the time, in UTC.
            sleep: waits that many seconds.

        Raises:
            UsageError: that is less than an hour, in which somebody may be about to read them.
        """
        if events_age < MIN_AGE:
            raise UsageError(
                "Events of the last hour stay: those who follow them may not have seen them yet.",
                hint="Use --older-than 1h or more.",
            )
        self._registry = registry
        self._store = registry.store
        self._now = now
        self._sleep = sleep
        self.events_before = (now - events_age).replace(minute=0, second=0, microsecond=0)
        """Only chunks written before then, of jobs that ended before then."""
        self.removed = Counts()
        """What `remove` has removed so far; when it fails or is interrupted, too."""
        self.refused = 0
        """How many keys the store refused to remove, each for a reason of its own."""
        self.refusals: list[str] = []
        """The first of these, with the reason."""
        self.unknown = Counts()
        """What stays, as found by the last of `plan` and `remove`: old chunks of jobs that have no record here."""
        self._ended: dict[str, bool] = {}
        self._lock = threading.Lock()
        """Held by whoever of the threads counts."""
        self._is_over = threading.Event()

    def plan(self) -> Counts:
        """What `remove` would remove now.

        Raises:
            StoreError: the store cannot be listed, or a record not be read.
        """
        counts, self.unknown = Counts(), Counts()
        with ThreadPoolExecutor(THREADS) as threads:
            for old in self._old(threads):
                counts.add(old)
        return counts

    def remove(self, on_progress: OnProgress | None = None) -> None:
        """Remove it, the oldest first. What somebody else has removed meanwhile is not counted.

        Interrupted in whatever way, it ends with the requests that are under way; what is queued stays.

        A key that the store does not let go for a reason of its own (one that is held, say) stays, and is noted.

        Args:
            on_progress: called with how many keys were looked at.

        Raises:
            StoreAccessError: this is not permitted.
            StoreUnavailableError: the store does not answer; what went is gone, and trying again goes on from there.
            StoreError: the store cannot be listed, or a record not be read.
        """
        self.unknown = Counts()
        with ThreadPoolExecutor(THREADS) as threads:
            try:
                self._remove_all(threads, on_progress)
            except BaseException:
                self._is_over.set()
                threads.shutdown(cancel_futures=True)
                raise

    def _remove_all(self, threads: ThreadPoolExecutor, on_progress: OnProgress | None) -> None:
        seen = 0
        found = self._old(threads)
        # The first by itself: where nothing may be removed, one request finds out.
        for size in chain((1,), iter(lambda: BATCH, 0)):
            batch = list(islice(found, size))
            if not batch:
                return
            self._remove_batch(batch, threads)
            seen += len(batch)
            if on_progress is not None:
                on_progress(seen)

    def _old(self, threads: ThreadPoolExecutor) -> Iterator[Old]:
        """What nobody needs: announcements, then chunks."""
        for key, slot in announcements.expired_announcements(self._store, self._now):
            yield Old(key, slot, None)
        found = self._old_chunks()
        while batch := list(islice(found, BATCH)):
            ended = self._which_ended({str(old.job_id) for old in batch}, threads)
            for old in batch:
                has_ended = ended[str(old.job_id)]
                if has_ended:
                    yield old
                elif has_ended is None:
                    self.unknown.add(old)

    def _old_chunks(self) -> Iterator[Old]:
        limit = f"{event_format.PREFIX}{event_format.bucket_of(self.events_before)}/"
        for key in self._store.list_keys(event_format.PREFIX):
            if key >= limit:
                return
            if (name := event_format.chunk_name(key)) is not None:
                yield Old(key, name.bucket, name.job_id)

    def _which_ended(self, job_ids: Iterable[str], threads: ThreadPoolExecutor) -> dict[str, bool | None]:
        """Whether each of the jobs ended long enough ago, by its record and not by a mirror of it; None without one.

        An end is for good, so an answer is as true later; one that ends meanwhile stays until the next time. A record
        that is missing is no answer: it may be there when the next chunk is looked at.
        """
        wanted = set(job_ids)
        if len(self._ended) > MAX_JOBS:
            self._ended.clear()
        asked = sorted(wanted - self._ended.keys())
        answers = dict(zip(asked, threads.map(self._has_ended, asked), strict=True))
        self._ended.update((job_id, answer) for job_id, answer in answers.items() if answer is not None)
        return {job_id: self._ended.get(job_id) for job_id in wanted}

    def _has_ended(self, job_id: str) -> bool | None:
        """Whether the job ended before the limit. One whose record cannot be read may not have.

        None for one without a record here: its record may lie under the prefix of another registry in this store, or
        be written yet.
        """
        try:
            state = self._registry.get_job(job_id)
        except (RecordError, ValueTooLargeError):
            return False
        # The end is the last write to a record, if its writer keeps the time of it.
        return None if state is None else state.is_terminal and parse_time(state.updated_at) < self.events_before

    def _remove_batch(self, batch: list[Old], threads: ThreadPoolExecutor) -> None:
        failure: StoreError | None = None
        for tried in [threads.submit(self._remove, old) for old in batch]:
            try:
                tried.result()
            except StoreError as error:  # only when all have ended is what was removed known
                failure = failure or error
        if failure is not None:
            raise failure

    def _remove(self, old: Old) -> None:
        for pause in (*PAUSES, None):
            if self._is_over.is_set():  # another one of the batch has failed, and this would too; or it is interrupted
                return
            try:
                self._delete(old)
            except StoreUnavailableError as error:
                # A server that was there a moment ago is busy. One that is silent from the beginning is not there.
                if pause is None or (error.silent and not self.removed.keys):
                    self._is_over.set()
                    raise
            except StoreAccessError:
                self._is_over.set()
                raise
            except StoreError as error:
                self._note_refusal(old.key, error)
                return
            else:
                return
            self._pause(pause * (0.5 + random.random() / 2))  # noqa: S311 - jitter

    def _delete(self, old: Old) -> None:
        """Counted where it happens, so that what an interruption leaves uncollected is counted too."""
        if self._store.delete(old.key):
            with self._lock:
                self.removed.add(old)

    def _pause(self, seconds: float) -> None:
        """Wait, but not for what is over."""
        while seconds > 0 and not self._is_over.is_set():
            self._sleep(min(seconds, STEP_SECONDS))
            seconds -= STEP_SECONDS

    def _note_refusal(self, key: str, error: StoreError) -> None:
        with self._lock:
            self.refused += 1
            if len(self.refusals) < SHOWN_REFUSALS:
                self.refusals.append(f"{key}: {error}")

"""Read and follow events, for `events` and `logs`.

Events are read from the cache, which is synced first. Their numbers in the cache never change. So a cursor is made of
such a number, and a reader that was cut off goes on where it stopped.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime

from mopsjobs.app.following.wait import OutageWarnings
from mopsjobs.app.jobs.find_job import find_by_name, find_cached, find_state
from mopsjobs.app.jobs.job_card import label_change_text
from mopsjobs.app.jobs.lost_runners import end_lost_runner_if_possible
from mopsjobs.app.jobs.reconcile import EngineWatch
from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import FreshnessPolicy
from mopsjobs.cache.pruning import is_pruned
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.queries.events import (
    StoredEvent,
    cache_id,
    foreign_cursor_error,
    has_events,
    has_later_states,
    parse_cursor,
    read_events,
)
from mopsjobs.cache.sync.events import SYNCED_AT
from mopsjobs.console.printer import status_style
from mopsjobs.errors import CacheError, JobNotFoundError, OptionError, StoreUnavailableError, UsageError, command_line
from mopsjobs.events.format import (
    DROPPED,
    KINDS,
    LABELS,
    LOG,
    NOTE,
    NOTIFIED,
    RUNNER,
    STATE,
    STRAGGLER,
    TASK_FAILED,
    is_kind,
)
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.status import TERMINAL
from mopsjobs.utils.backoff import Backoff
from mopsjobs.utils.text import did_you_mean, error_line, invalid_choice
from mopsjobs.utils.times import parse_time

POLL_SECONDS = 2.0

CHEAP_LISTING = 5000
"""Keys. One page of Azure's listing, the least that a poll costs: below it, longer pauses save nothing."""

MAX_POLL_SECONDS = 60.0
"""The longest pause between two polls, however many keys a poll lists."""

MAX_OUTAGE_DELAY = 60.0
"""Seconds. The longest pause between two attempts while the registry does not answer."""

ENDING_SECONDS = 6.0
"""How long after a job's end its writers may still send events; as long as `EventLog.close` waits."""

SETTLED_SECONDS = 60.0
"""A job whose record says that it ended longer ago sends no more events."""

_COMMON_FIELDS = ("at", "job_id", "kind", "source", "seq")

OnEvents = Callable[[Sequence[StoredEvent]], None]


class EventFeed:
    """The events of all jobs, or of one."""

    def __init__(
        self, app: App, name: str | None, *, offline: bool, follow: bool, kinds: frozenset[str] | None = None
    ) -> None:
        """Find the job.

        Args:
            app: the run.
            name: a job, as `find_job` takes it; None for all jobs.
            offline: use no network.
            follow: whether the caller will follow the events, which needs the network.
            kinds: the kinds of the events; None for all.

        Raises:
            OptionError: if both `offline` and `follow` are set.
            JobNotFoundError: if the job does not exist.
            StoreUnavailableError: if the registry does not answer, and the cache does not know the job.
        """
        if offline and follow:
            raise OptionError("follow and offline contradict each other.", "follow", "offline")
        self._app = app
        self._follow = follow
        self._kinds = kinds
        self._offline = offline and not app.settings.is_local
        self._since: datetime | None = None
        self._cache_id: str | None = None
        self._listed = 0
        self._engines = EngineWatch(app, app.out)
        self.job_id: str | None = None
        self.job: Mapping[str, object] | None = None
        """Its record, as JSON types, when it was found; None if there is none."""
        self.outage: StoreUnavailableError | None = None
        """Why only the cache was read; None if the registry answered, or was not asked."""
        if name is not None:
            self.job_id, self._since = find_by_name(name, self._find, app, offline=self._offline)

    def start(self, since: str | None) -> int:
        """Return the number of the last event before a cursor; 0 without a cursor.

        Raises:
            UsageError: if the cursor is not from this cache.
        """
        if since is None:
            return 0
        seq = self._app.cache.read_cached(lambda cache: parse_cursor(cache, since))
        if seq is None:
            raise foreign_cursor_error(since)
        return seq

    def sync(self) -> None:
        """Mirror new events from the registry into the cache.

        Raises:
            StoreError: if the registry cannot be read.
        """
        if self._offline:
            return
        started = self._app.now()
        self._listed = self._app.cache.sync_events(job_id=self.job_id, since=self._since).listed
        self._since = started if self.job_id is not None else None

    def sync_if_possible(self) -> None:
        """Sync; if the registry does not answer or the disk is full, warn and go on with what the cache has.

        Raises:
            StoreUnavailableError, CacheError: if the cache has nothing either, and no `follow` will try again.
        """
        try:
            self.sync()
            self._sync_jobs()
        except (StoreUnavailableError, CacheError) as error:
            if not self._follow:
                self._check_filled(error)
            self.outage = error if isinstance(error, StoreUnavailableError) else None
            self._app.out.warn(f"{error} Showing what the cache has.")
        if self._offline:
            hint = f"Run: {command_line('sync')}"
            self._check_filled(StoreUnavailableError("No events have been synced to this machine.", hint=hint))

    def _sync_jobs(self) -> None:
        """Sync the jobs too if events show later states of any. The record of a single job was read already."""
        cache = self._app.cache
        is_needed = self.job_id is None and not (self._offline or self._app.settings.is_local)
        if is_needed and cache.read_cached(has_later_states):
            cache.sync(wait=0)

    def pages(self, after: int, more: Collection[str] = ()) -> Iterator[list[StoredEvent]]:
        """Return the events in the cache after the number `after`, page by page; also those of `more` kinds.

        Raises:
            CacheError: if the cache was rebuilt since the first page, so that its events have other numbers.
        """
        kinds = None if self._kinds is None else self._kinds.union(more)

        def view(cache: sqlite3.Connection) -> tuple[str, list[StoredEvent]]:
            return cache_id(cache), read_events(cache, after, job_id=self.job_id, kinds=kinds)

        while (seen := self._app.cache.read_cached(view)) is not None:
            identity, page = seen
            self._cache_id = self._cache_id or identity
            if identity != self._cache_id:
                raise CacheError(
                    "The cache was rebuilt meanwhile; its events have other numbers now.", hint="Start again."
                )
            if not page:
                return
            yield page
            after = page[-1].seq

    def follow(self, after: int, show: OnEvents, *, on_outage: Callable[[], None] = lambda: None) -> JobState | None:
        """Show events as they come, beginning after the number `after`.

        The events of one job end when it has ended and all were shown; those of all jobs never end. While the registry
        does not answer, the pauses between two attempts become longer.

        Args:
            after: the number of the last event seen.
            show: called with events, in their order.
            on_outage: called when the registry stops answering.

        Returns:
            The record of the job that has ended.

        Raises:
            JobNotFoundError: if the job's record is gone.
        """
        end_detector = _EndDetector(self._app)
        # Full jitter, so that the followers of a whole team do not come back all at once.
        backoff, warnings = Backoff(2 * POLL_SECONDS, MAX_OUTAGE_DELAY), OutageWarnings(self._app, self._app.out)
        while True:
            state, outage = None, None
            try:
                # The record first: events that were written before the end are there once the record has ended.
                state = self._state()
                self.sync()
            except StoreUnavailableError as error:
                outage = error
            is_quiet = True
            for page in self.pages(after, {STATE}):  # states tell the end
                show([one for one in page if self._kinds is None or one.event["kind"] in self._kinds])
                end_detector.look_for_end(page)
                after, is_quiet = page[-1].seq, False
            if outage is None:
                if state is not None and end_detector.is_complete(state, is_quiet=is_quiet):
                    self.job = state.to_dict()
                    return state
                backoff.reset()
                # The cost per second stays equal, however many keys a poll lists.
                self._app.sleep(min(MAX_POLL_SECONDS, POLL_SECONDS * max(1.0, self._listed / CHEAP_LISTING)))
                continue
            delay = backoff.next_delay()
            warnings.tell(outage, backoff.failures)
            if backoff.failures == 1:
                on_outage()
            self._app.sleep(delay)

    def _state(self) -> JobState | None:
        if self.job_id is None:
            return None
        state = self._engines.look_and_tell(self._app.registry.require_job(self.job_id))
        self._engines.warn_if_missing(state)
        return state

    def _find(self, job_id: str) -> tuple[str, datetime | None]:
        """Find the job. Return its id and when it was created; no time if only its events are left."""
        try:
            job = self._find_record(job_id)
        except JobNotFoundError as error:
            if not self._has_events(error.job_id):
                raise
            return error.job_id, None
        self.job = job
        return str(job["job_id"]), parse_time(str(job["created_at"]))

    def _find_record(self, job_id: str) -> Mapping[str, object]:
        """Return the record of the job: from the registry, and if that does not answer, from the cache."""
        outage = None
        if not self._offline:
            try:
                state = find_state(job_id, self._app)
            except StoreUnavailableError as error:
                outage = error
            else:
                return (end_lost_runner_if_possible(state.fields(), self._app) or state).to_dict()
        try:
            return find_cached(job_id, self._app, FreshnessPolicy(offline=True))
        except (JobNotFoundError, StoreUnavailableError):
            if outage is None or self._has_events(job_id):
                raise
            raise outage from None

    def _has_events(self, job_id: str) -> bool:
        """Return whether the cache has events of a job, whose record may be gone."""
        return bool(self._app.cache.read_cached(lambda cache: has_events(cache, job_id)))

    def is_pruned(self) -> bool:
        """Return whether the job was pruned from the cache, which takes no events of it."""
        job_id = self.job_id
        return job_id is not None and bool(self._app.cache.read_cached(lambda cache: is_pruned(cache, job_id)))

    def _check_filled(self, otherwise: StoreUnavailableError | CacheError) -> None:
        """Raise `otherwise` if the cache has no events to show instead."""
        meta = self._app.cache.read_cached(job_queries.all_meta) or {}
        if SYNCED_AT not in meta and (self.job_id is None or not self._has_events(self.job_id)):
            raise otherwise


def parse_kinds(text: str) -> frozenset[str]:
    """Read kinds of events, separated by commas. Kinds that only other writers know are accepted.

    Raises:
        UsageError: if a word cannot be a kind, or seems to be a known one with a typing error.
    """
    kinds = [word.strip() for word in text.split(",")]
    for kind in kinds:
        if kind not in KINDS and (not is_kind(kind) or did_you_mean(kind, KINDS)):
            raise UsageError(invalid_choice("kind", kind, KINDS))
    return frozenset(kinds)


def event_text(event: Mapping[str, object]) -> list[str]:
    """Return the text of an event by its kind; of an unknown kind, its fields."""
    kind = str(event["kind"])
    if kind == STATE and "status" in event:
        total, done, failed = (event.get(f"tasks_{name}") for name in ("total", "completed", "failed"))
        counts = f" {done}/{total} tasks" if total else f" {done} tasks" if done else ""
        return [status_style(event["status"]), counts + (f", {failed} failed" if failed else "")]
    if kind in (LOG, RUNNER, STRAGGLER) and "text" in event:
        return [_task(event), str(event["text"])]
    labels = event.get("labels")
    if (kind in (NOTE, NOTIFIED) and "text" in event) or (kind == LABELS and isinstance(labels, dict)):
        text = label_change_text(labels) if isinstance(labels, dict) and kind == LABELS else str(event["text"])
        who = event.get("recipient" if kind == NOTIFIED else "by")
        return ["" if who is None else f"{who}: ", text]
    if kind == DROPPED and "count" in event:
        return [f"{event['count']} events are missing here"]
    error = event.get("error")
    if kind == TASK_FAILED and isinstance(error, dict):
        return [_task(event), str(error_line(error.get("type"), error.get("message")))]
    return [" ".join(f"{name}={value}" for name, value in event.items() if name not in _COMMON_FIELDS)]


def _task(event: Mapping[str, object]) -> str:
    return "" if event.get("task") is None else f"task {event['task']}: "


class _EndDetector:
    """Decides when all events of a job that has ended were shown."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._first_seen: float | None = None
        self._has_end_event = False

    def look_for_end(self, events: Sequence[StoredEvent]) -> None:
        """Look for the event of the job's end."""
        self._has_end_event = self._has_end_event or any(
            stored.event["kind"] == STATE and str(stored.event.get("status")) in TERMINAL for stored in events
        )

    def is_complete(self, state: JobState, *, is_quiet: bool) -> bool:
        """Return whether all was shown: the event of the end and no later one; or the end was long ago."""
        if not state.is_terminal:
            return False
        now = self._app.monotonic()
        if self._first_seen is None:
            self._first_seen = now
        if (self._app.now() - parse_time(state.updated_at)).total_seconds() > SETTLED_SECONDS:
            return True
        return is_quiet and (self._has_end_event or now - self._first_seen >= ENDING_SECONDS)

"""The size of the registry's store, as far as the cache and the first keys of a listing tell it."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from mopsjobs.cache import pruning
from mopsjobs.cache.queries import statistics
from mopsjobs.errors import command_line
from mopsjobs.events.retention import events_limit
from mopsjobs.utils.text import pluralize

if TYPE_CHECKING:
    from mopsjobs.app.run.app import App
    from mopsjobs.events.retention import OldestKeys

EVENTS_AGE = timedelta(days=30)
"""How long ago jobs must have ended whose events `doctor` and the page suggest to remove."""

PRUNE_COMMAND = "prune --store --older-than 30d"
"""The command that removes them. Its `--dry-run` counts them."""


class StoreSize(NamedTuple):
    """The size of a store, and the number of jobs whose events may go."""

    counts: statistics.StoreCounts
    sizes: statistics.MirroredSizes
    ended_before: datetime
    oldest_announcement: datetime | None
    oldest_event: datetime | None
    has_old_events: bool
    """Whether the oldest events are of jobs that ended before the limit. Those of active jobs, and of jobs without a
    record, stay."""

    def describe(self) -> str:
        """Return the size in words, with the command that removes events while there are old ones."""
        facts = f"{pluralize(self.counts.jobs, 'job')}, {self.sizes.record_bytes / 1e6:.1f} MB of records"
        chunks = ((self.sizes.event_chunks, "events"), (self.sizes.ledger_chunks, "ledgers"))
        synced = " and ".join(f"{pluralize(count, 'chunk')} of {what}" for count, what in chunks if count)
        if synced:
            facts += f", {synced} synced"
        if self.counts.jobs_pruned:
            facts += f", and {pluralize(self.counts.jobs_pruned, 'job')} pruned from the cache"
        if not self.counts.jobs_ended:
            return facts
        facts += f"; {self.counts.jobs_ended:,} ended more than {EVENTS_AGE.days} days ago"
        return f"{facts}, so their events can go: {command_line(PRUNE_COMMAND)}" if self.has_old_events else facts


def count_jobs_of_store(cache: sqlite3.Connection, now: datetime) -> statistics.StoreCounts:
    """Count the jobs of the registry by the cache, and those that ended before the limit of `PRUNE_COMMAND`."""
    return statistics.store_counts(cache, events_limit(now, EVENTS_AGE).timestamp())


def find_store_size(app: App, oldest: OldestKeys) -> StoreSize | None:
    """Return the size of the store; None if there is no cache.

    Args:
        app: the run.
        oldest: the oldest announcement and chunks of events.

    Raises:
        CacheError: if the cache cannot be read.
    """
    now = app.now()

    def read(cache: sqlite3.Connection) -> StoreSize:
        counts, sizes = count_jobs_of_store(cache, now), statistics.mirrored_sizes(cache)
        limit = events_limit(now, EVENTS_AGE)
        has_old_events = pruning.has_ended(cache, oldest.jobs, limit.timestamp())
        return StoreSize(counts, sizes, limit, oldest.announcement, oldest.event, has_old_events)

    return app.cache.read_cached(read)

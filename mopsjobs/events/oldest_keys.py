"""The oldest announcements and chunks of events of a store, for `doctor`: is it time to remove some?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from typing import NamedTuple

from mopsjobs.events import format as event_format
from mopsjobs.registry import announcements
from mopsjobs.store.base import VersionedStore

MAX_OLDEST_CHUNKS = 1000
"""Chunks of events that tell of which jobs the oldest are: a page of a listing."""

MAX_FOREIGN_KEYS = 100
"""Foreign keys that are skipped in the search for the first time."""


class OldestKeys(NamedTuple):
    """The oldest keys of a store that age makes removable."""

    announcement: datetime | None
    """When the oldest announcement was written; None if there is none."""
    event: datetime | None
    """The same of the oldest chunk of events."""
    jobs: set[str]
    """The jobs of the oldest chunks, as far as these were written before a limit."""


def oldest_keys(store: VersionedStore, events_before: datetime) -> OldestKeys:
    """Find the oldest keys by the beginnings of two listings.

    Args:
        store: the store.
        events_before: the limit of `OldestKeys.jobs`.

    Raises:
        StoreError: if the store cannot be listed.
    """
    slots = (key.split("/")[1] for key in store.list_keys(announcements.PREFIX))
    chunks = list(islice(store.list_keys(event_format.PREFIX), MAX_OLDEST_CHUNKS))
    names = (name for key in chunks if (name := event_format.parse_chunk_key(key)) is not None)
    limit = event_format.bucket_of(events_before)
    return OldestKeys(
        _first_time(slots, announcements.SLOT_FORMAT),
        _first_time((key.split("/")[1] for key in chunks), event_format.BUCKET_FORMAT),
        {name.job_id for name in names if name.bucket < limit},
    )


def _first_time(texts: Iterable[str], time_format: str) -> datetime | None:
    """Return the first of the texts that is a time. A few foreign keys may stand before it."""
    for text in islice(texts, MAX_FOREIGN_KEYS):
        with contextlib.suppress(ValueError):
            return datetime.strptime(text, time_format).replace(tzinfo=UTC)
    return None

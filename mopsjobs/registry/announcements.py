"""Announcements: a writer announces a job before it changes the record, and a sync reads only announced jobs.

An announcement is a key alone: `changes/<slot>/<job id>`. A slot is ten minutes of the writer's clock. The key says
that the writer may change the record during that slot. It comes before the write, so a writer that dies in between has
announced too much, never too little. A second announcement changes nothing, so no state outlives a process.

A delta sync needs only the announcements since the last complete sync, and after an hour a sync is full again. So no
reader needs an announcement of a day ago, and events/retention.py removes it. See docs/decisions/0004-announcements.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

from mopsjobs.errors import StoreError
from mopsjobs.registry.job_id import is_job_id
from mopsjobs.registry.keys import ANNOUNCEMENT
from mopsjobs.store.base import VersionedStore

log = logging.getLogger(__name__)

PREFIX = ANNOUNCEMENT.prefix

SLOT_MINUTES = 10
"""Length of a slot. A writer pays one more request per job in this time."""

MAX_CLOCK_SKEW = timedelta(minutes=10)
"""How far the clocks of a writer and a reader may differ, so that a sync still sees every change."""

MAX_WRITE_DELAY = timedelta(minutes=5)
"""How long after its announcement a write may land. The stores abandon a request after seconds."""

RETENTION = timedelta(days=1)
"""Least age at which an announcement is removed, by the clock of the remover. A clock that takes local time for UTC is
wrong by half a day at most. A reader needs the last hour and 25 minutes (see `max_sync_age`)."""

MAX_NAMES = 100_000
"""Announced jobs that a reader accepts at most: about 10 MB of names."""

_VALUE = b"-"  # not empty: in Azure, a page of a listing with an empty blob takes two requests

_LISTERS = 8


class Announcer:
    """Announces jobs, each once per slot. Several threads may use it at once."""

    def __init__(self, store: VersionedStore, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now
        self._announced: set[str] = set()

    def announce(self, job_id: str) -> None:
        """Announce that the record may change from now on. Send nothing if it is announced in this slot already.

        Raises:
            StoreError: if the announcement failed, or its reply was lost. Then the record must not be written.
        """
        slot = slot_of(self._now())
        key = f"{slot}{job_id}"
        if key in self._announced:
            return
        self._store.create_if_absent(key, _VALUE)
        self._announced = {name for name in self._announced if name.startswith(slot)} | {key}

    def confirm(self, job_id: str) -> None:
        """Announce the job again after a write, if another slot has begun: the laptop may have slept in between.

        An error does not make the write fail: the next full sync sees the change.
        """
        try:
            self.announce(job_id)
        except StoreError as error:
            log.warning("The late write to job %s could not be announced: %s", job_id, error)


def corrected(moment: datetime, store: VersionedStore) -> datetime:
    """Return a time of this machine's clock, or that of the store's last reply if the clock is behind it.

    Otherwise a runner with a late clock would look silent. A clock that differs by more than `MAX_CLOCK_SKEW` is not
    corrected; `doctor` warns of it. See docs/decisions/0098-late-clocks.md.
    """
    replied_at: datetime | None = getattr(store, "server_time", None)
    is_behind = replied_at is not None and timedelta(0) < replied_at - moment <= MAX_CLOCK_SKEW
    return replied_at if replied_at is not None and is_behind else moment


def slot_of(moment: datetime) -> str:
    """Return the prefix of all announcements that are made at that time, in UTC."""
    return f"{PREFIX}{moment:%Y%m%dT%H}{moment.minute // SLOT_MINUTES * SLOT_MINUTES:02}/"


def slots_between(since: datetime, until: datetime) -> list[str]:
    """Return the slots with the announcements of all changes between two times of a reader's clock, in UTC."""
    moment, last = since - MAX_CLOCK_SKEW - MAX_WRITE_DELAY, slot_of(until + MAX_CLOCK_SKEW)
    found = [slot_of(moment)]
    while found[-1] < last:
        moment += timedelta(minutes=SLOT_MINUTES)
        found.append(slot_of(moment))
    return found


def announced_jobs(store: VersionedStore, since: datetime, until: datetime, most: int | None = None) -> set[str] | None:
    """Return the jobs that may have changed between two times of this reader's clock, in UTC.

    Names that are not ids of jobs are ignored. The listing ends early if there are too many.

    Args:
        store: the store of the registry.
        since: the earlier time.
        until: the later time.
        most: how many names to accept; None, or more than `MAX_NAMES`, for `MAX_NAMES`.

    Returns:
        Their ids; None if there are more names.

    Raises:
        StoreError: if the announcements cannot be listed.
    """
    found: set[str] = set()
    limit = MAX_NAMES if most is None else min(most, MAX_NAMES)

    def collect(slot: str) -> None:
        for key in store.list_keys(slot):
            found.add(key.removeprefix(slot))
            if len(found) > limit:  # in all slots together, so that a flood of names is not held once per slot
                return

    with ThreadPoolExecutor(_LISTERS) as listers:
        for _ in listers.map(collect, slots_between(since, until)):
            pass  # an error of a listing is raised here
    return None if len(found) > limit else {name for name in found if is_job_id(name)}


def max_sync_age() -> timedelta:
    """Return how old the last complete sync may be before a delta sync. Older announcements may be removed.

    It is a day, less the difference of the clocks of reader and remover, and less the time by which announcements
    precede writes.
    """
    return RETENTION - 2 * MAX_CLOCK_SKEW - MAX_WRITE_DELAY


def expired_announcements(store: VersionedStore, now: datetime) -> Iterator[tuple[str, str]]:
    """Yield the announcements that no reader needs, the oldest first: key and slot of each.

    The listing ends with the first younger one, and may fetch two pages ahead of it. Other keys are skipped.

    Args:
        store: the store of the registry.
        now: the time, in UTC.

    Raises:
        StoreError: if the announcements cannot be listed.
    """
    limit = slot_of(now - RETENTION)
    for key in store.list_keys(PREFIX):
        if key >= limit:
            return
        if (parts := ANNOUNCEMENT.parse(key)) is not None:
            yield key, parts["slot"]

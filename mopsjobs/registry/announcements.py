"""Announcements: before a writer of ours changes a job's record, it says so, and a mirror asks only about these jobs.

An announcement is a key alone: `changes/<slot>/<job id>`, the slot being ten minutes of the writer's clock. It says
that somebody may write the job during that slot, and says it before the write: a writer that dies in between has
announced too much, never too little. Announcing twice is harmless, so nobody has to remember anything for longer than
a process lives.

A reader looks back no further than its last complete sync, and that at most an hour: it then lists everything. So an
announcement of a day ago is nobody's any more, and retention.py removes it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

from mopsjobs.errors import StoreError, UsageError
from mopsjobs.registry.job_state import check_job_id
from mopsjobs.store.base import VersionedStore

log = logging.getLogger(__name__)


PREFIX = "changes/"


SLOT_MINUTES = 10
"""Length of a slot. A process that writes a job every second pays one more request in that time."""


SLOT_FORMAT = "%Y%m%dT%H%M"


MAX_CLOCK_SKEW = timedelta(minutes=10)
"""How far the clocks of a writer and a reader may differ without a change being overlooked."""


MAX_WRITE_DELAY = timedelta(minutes=5)
"""How long after its announcement a write may land. The stores give up on a request within seconds."""


RETENTION = timedelta(days=1)
"""How old an announcement is at least, by the clock of whoever removes it. Half a day more than a clock is wrong that
takes the local time for UTC; a reader needs the last hour and 25 minutes (see `reach`)."""


MAX_NAMES = 100_000
"""Jobs that a reader takes in from announcements: some 10 MB. With more, listing everything is cheaper."""


_KEY = re.compile(r"changes/(?P<slot>\d{8}T\d{4})/(?P<job>[^/]+)", re.ASCII)


_VALUE = b"-"  # not empty: Azure has to be asked twice about a listing with empty blobs in it


_LISTERS = 8


class Announcer:
    """Announces jobs, each once a slot. May be used from several threads at once."""

    def __init__(self, store: VersionedStore, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now
        self._announced: set[str] = set()

    def announce(self, job_id: str) -> None:
        """Say that the job may be written from now on. Nothing is sent if this slot has it from here already.

        Raises:
            StoreError: the store did not take it, or its reply was lost; then the job must not be written.
        """
        slot = slot_of(self._now())
        key = f"{slot}{job_id}"
        if key in self._announced:
            return
        self._store.create_if_absent(key, _VALUE)
        self._announced = {one for one in self._announced if one.startswith(slot)} | {key}

    def confirm(self, job_id: str) -> None:
        """Say it once more after a write that landed, if another slot has begun since: a laptop may have slept between.

        Failing is no failure of the write: then a full scan finds it.
        """
        try:
            self.announce(job_id)
        except StoreError as error:
            log.warning("The late write to job %s could not be announced: %s", job_id, error)


def slot_of(moment: datetime) -> str:
    """The beginning of the keys of all announcements made at that time, in UTC."""
    return f"{PREFIX}{moment:%Y%m%dT%H}{moment.minute // SLOT_MINUTES * SLOT_MINUTES:02}/"


def slots_between(since: datetime, until: datetime) -> list[str]:
    """Where every change is announced that landed between two times of a reader's clock, in UTC."""
    moment, last = since - MAX_CLOCK_SKEW - MAX_WRITE_DELAY, slot_of(until + MAX_CLOCK_SKEW)
    found = [slot_of(moment)]
    while found[-1] < last:
        moment += timedelta(minutes=SLOT_MINUTES)
        found.append(slot_of(moment))
    return found


def announced_jobs(store: VersionedStore, since: datetime, until: datetime) -> set[str] | None:
    """The jobs that writers of ours may have changed between two times of this reader's clock, in UTC.

    Names that cannot be those of jobs are ignored. None if there are too many names to take in.

    Raises:
        StoreError: the announcements cannot be listed.
    """
    found: set[str] = set()

    def take(slot: str) -> None:
        for key in store.list_keys(slot):
            found.add(key.removeprefix(slot))
            if len(found) > MAX_NAMES:  # all slots together: a flood of names is not held once for each
                return

    with ThreadPoolExecutor(_LISTERS) as listers:
        for _ in listers.map(take, slots_between(since, until)):
            pass  # it raises what a listing has raised
    return None if len(found) > MAX_NAMES else {name for name in found if _is_job_id(name)}


def max_sync_age() -> timedelta:
    """How long ago a reader's last sync may be when it has listed the announcements since: what is older may be gone.

    A day, less how far the clock of whoever removes them may be ahead, and how far before that sync they begin.
    """
    return RETENTION - 2 * MAX_CLOCK_SKEW - MAX_WRITE_DELAY


def expired_announcements(store: VersionedStore, now: datetime) -> Iterator[tuple[str, str]]:
    """The announcements that no reader needs any more: key and slot of each, the oldest first.

    Only these are listed, and what a store has fetched ahead by then: up to two pages. What lies
    there and is no announcement is left alone.

    Args:
        store: where they are.
        now: the time, in UTC.

    Raises:
        StoreError: the announcements cannot be listed.
    """
    limit = slot_of(now - RETENTION)
    for key in store.list_keys(PREFIX):
        if key >= limit:
            return
        match = _KEY.fullmatch(key)
        if match is not None and _is_job_id(match["job"]):
            yield key, match["slot"]


def _is_job_id(name: str) -> bool:
    try:
        check_job_id(name)
    except UsageError:
        return False
    return True

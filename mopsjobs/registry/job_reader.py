"""Read the records of a registry straight from its store."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime, timedelta

from mopsjobs.errors import JobNotFoundError, RecordError, UsageError
from mopsjobs.registry.job_id import check_job_id
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.keys import RECORD
from mopsjobs.registry.status import JobStatus
from mopsjobs.store.base import Entry, Versioned, VersionedStore, WantsValues, always
from mopsjobs.utils.times import parse_time

log = logging.getLogger(__name__)

TakeRecord = Callable[[Versioned], None]
"""Called with a record as it is in the store, and its version."""

Observe = Callable[[str], TakeRecord]
"""Called with a key before its record is read or written. Returns the function that takes the record afterwards."""


def _ignore(_key: str) -> TakeRecord:
    return lambda _record: None


class JobReader:
    """The reading half of `JobRegistry`."""

    state_type = JobState
    """The class of the states that this registry returns."""

    def __init__(
        self, store: VersionedStore, prefix: str, *, now: Callable[[], datetime], observe: Observe | None = None
    ) -> None:
        """Read the records under `prefix` of `store`. `now` gives the time, in UTC. See `Observe`."""
        self.store = store
        self.prefix = prefix
        self._form = RECORD.below(prefix)
        self._now = now
        self._observe = observe or _ignore
        self.ids_with_prefix: Callable[[str], tuple[str, ...]] = lambda _prefix: ()
        """Returns known ids that begin with a text, for the error about a job that does not exist."""

    def key_of(self, job_id: str) -> str:
        """Return the key of a job's record."""
        return self._form.key(job=check_job_id(job_id))

    def job_id_of(self, key: str) -> str | None:
        """Return the job whose record has this key; None if the key is not that of a record."""
        parts = self._form.parse(key)
        return None if parts is None else parts["job"]

    def get_job(self, job_id: str) -> JobState | None:
        """Return the job with this id, or None if there is none.

        Raises:
            RecordError: if its record is unreadable.
        """
        found = self.get_record(job_id)
        return None if found is None else self._read(self.key_of(job_id), found.value)

    def require_job(self, job_id: str) -> JobState:
        """Return the job with this id.

        Raises:
            JobNotFoundError: if there is none.
            RecordError: if its record is unreadable.
        """
        state = self.get_job(job_id)
        if state is None:
            raise self.not_found(job_id)
        return state

    def not_found(self, job_id: str) -> JobNotFoundError:
        """Return the error for an id that no job has."""
        return JobNotFoundError(job_id, candidates=self.ids_with_prefix(job_id))

    def get_record(self, job_id: str) -> Versioned | None:
        """Return the bytes of a job's record and their version, or None."""
        key = self.key_of(job_id)
        take = self._observe(key)
        found = self.store.get(key)
        if found is not None:
            take(found)
        return found

    def scan(self, wants_values: WantsValues = always, after: str = "") -> Iterator[Entry]:
        """Yield all entries under the prefix, in the order of the keys: records, manifests, and other keys.

        Args:
            wants_values: see `VersionedStore.scan`.
            after: the keys up to this one are left out.
        """
        return self.store.scan(self.prefix + "/", wants_values, after)

    def list_jobs(
        self,
        limit: int | None = None,
        status_filter: Collection[str] | None = None,
        since: datetime | None = None,
    ) -> list[JobState]:
        """List jobs from the store, newest first. Costs one listing, and a read per record that the listing lacks.

        For frequent listings, use the cache. An unreadable record is logged and left out.

        Args:
            limit: largest number of jobs; None for all.
            status_filter: only jobs with one of these statuses; None or empty for any.
            since: only jobs created or changed since then, in UTC if it has no zone.

        Raises:
            UsageError: if the limit is negative.
        """
        if limit is not None and limit < 0:
            raise UsageError(f"invalid limit {limit}: expected 0 or more, or None for all.")
        if since is not None and since.tzinfo is None:
            since = since.replace(tzinfo=UTC)
        jobs = []
        for entry in self.scan():
            if self.job_id_of(entry.key) is None:
                continue
            found = entry if entry.value is not None else self.store.get(entry.key)
            if found is None or found.value is None:
                continue
            try:
                job = self._read(entry.key, found.value)
            except RecordError as error:
                log.warning("%s", error)
                continue
            if status_filter and job.status not in status_filter:
                continue
            if since is None or max(parse_time(job.created_at), parse_time(job.updated_at)) >= since:
                jobs.append(job)
        jobs.sort(key=lambda job: parse_time(job.created_at), reverse=True)
        return jobs[:limit]

    def get_active_jobs(self) -> list[JobState]:
        """Return all jobs that have not ended. A status unknown to this version counts as active."""
        return [job for job in self.list_jobs() if not job.is_terminal]

    def get_recent_jobs(self, hours: float = 24) -> list[JobState]:
        """Return the jobs created or changed in the last `hours` hours."""
        return self.list_jobs(since=self._now() - timedelta(hours=hours))

    def count_jobs_by_status(self) -> dict[str, int]:
        """Return the number of jobs per status, also of statuses without jobs."""
        return dict.fromkeys(JobStatus, 0) | Counter(job.status for job in self.list_jobs())

    def _read(self, key: str, value: bytes) -> JobState:
        state = self.state_type.from_json(value, key=key)
        if state.job_id != self.job_id_of(key):
            raise RecordError(f"the record is that of job {state.job_id[:80]!r}", key=key)
        return state

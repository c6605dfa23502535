"""The registry: the rules by which job records change, and the only writer of records.

Everything goes through `cas`: read the record, apply a pure function, put it back if nobody was faster. Each write
gets an id of its own, kept in `write_id` and in each transition it made, so that a writer whose reply was lost finds
its own hand in the record instead of an illegal transition.
"""

from __future__ import annotations

import copy
import functools
import logging
import random as _random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

from mopsjobs import rules
from mopsjobs.changes import Announcer
from mopsjobs.errors import JobExistsError, JobNotFoundError, KeyNotFoundError, RecordError, UsageError
from mopsjobs.job import JobState, check_field, check_job_id
from mopsjobs.status import TERMINAL, JobStatus, parse_status
from mopsjobs.store import cas
from mopsjobs.store.base import Entry, Versioned, VersionedStore, VersionToken
from mopsjobs.times import parse_time, record_time, utc_now

log = logging.getLogger(__name__)

RECORD_NAME = "state.json"

OnWrite = Callable[[str, bytes, VersionToken], None]
_Change = Callable[[JobState, rules.Write], "JobState | None"]


class JobRegistry:
    """All records of a store, and the rules by which they may change.

    Every method that changes a record may raise, besides what it names, `StoreUnavailableError` and
    `StoreAccessError`, `TooManyRetriesError` when the race for the record was lost too often, and `RecordError` when
    what lies under the key is no record; in each of these cases nothing was written, or the error says that it may
    have been.
    """

    def __init__(
        self,
        store: VersionedStore,
        prefix: str = "jobs",
        *,
        now: Callable[[], datetime] = utc_now,
        new_id: Callable[[], str] = lambda: secrets.token_hex(8),
        sleep: Callable[[float], None] = time.sleep,
        random: Callable[[], float] = _random.random,
        on_write: OnWrite | None = None,
    ) -> None:
        """Open the registry under `prefix` of `store`.

        Args:
            store: where the records live.
            prefix: the first part of every key.
            now: the time, in UTC.
            new_id: a text that nobody has drawn before.
            sleep: waits that many seconds between two attempts at a contested record.
            random: a number from 0 to 1, for the jitter of those waits.
            on_write: called with key, bytes and version after each write that landed; how a mirror hears of it at once.
        """
        self.store = store
        self.prefix = prefix
        self._now = now
        self._new_id = new_id
        self._create = functools.partial(cas.create, store, sleep=sleep, random=random)
        self._update = functools.partial(cas.update, store, sleep=sleep, random=random)
        self._announcer = Announcer(store, now)
        self._on_write = on_write
        self._as_of: datetime | None = None
        self.conflicts: Counter[str] = Counter()
        """How many races for a record were lost here, by what was to be written."""

    def telling(self, on_write: OnWrite) -> JobRegistry:
        """The same registry, whose writes are told to `on_write` instead."""
        other = copy.copy(self)
        other._on_write = on_write  # noqa: SLF001
        return other

    def as_of(self, moment: datetime) -> JobRegistry:
        """The same registry, whose steps are those of an earlier moment: what could not be told when it was so."""
        other = copy.copy(self)
        other._as_of = moment  # noqa: SLF001
        return other

    # --- reading ---------------------------------------------------------------------------------------------

    def key_of(self, job_id: str) -> str:
        """The key of a job's record."""
        return f"{self.prefix}/{check_job_id(job_id)}/{RECORD_NAME}"

    def job_id_of(self, key: str) -> str | None:
        """The job whose record lies under `key`; None when the key is that of something else."""
        head, _, tail = key.removeprefix(self.prefix + "/").partition("/")
        if tail != RECORD_NAME or not key.startswith(self.prefix + "/"):
            return None
        try:
            return check_job_id(head)
        except UsageError:  # another program's doing; no store of ours would take this key
            return None

    def get_job(self, job_id: str) -> JobState | None:
        """The job, or None when there is none of that id.

        Raises:
            RecordError: what lies under the key is no record.
        """
        found = self.get_record(job_id)
        return None if found is None else self._read(self.key_of(job_id), found.value)

    def get_record(self, job_id: str) -> Versioned | None:
        """The bytes of a job's record and their version, or None."""
        return self.store.get(self.key_of(job_id))

    def scan(self) -> Iterator[Entry]:
        """Everything under the prefix, in the order of the keys: records, and what lies beside them."""
        return self.store.scan(self.prefix + "/")

    def list_jobs(
        self,
        limit: int | None = None,
        status_filter: list[JobStatus] | None = None,
        since: datetime | None = None,
    ) -> list[JobState]:
        """Jobs straight from the store, newest first: one listing, and a read for each record the listing lacks.

        For looking often, a mirror is the better place. A record that cannot be read is logged and left out.

        Args:
            limit: at most so many; None for all.
            status_filter: only jobs with one of these statuses; None or nothing in it for any.
            since: only jobs created or changed since then, in UTC if it has no zone.

        Raises:
            UsageError: the limit is negative.
        """
        if limit is not None and limit < 0:
            raise UsageError(f"A limit of {limit} jobs makes no sense: use None for all.")
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
        """Every job that has not ended, however many there are. A status unknown to this version counts as active."""
        return [job for job in self.list_jobs() if not job.is_terminal]

    def get_recent_jobs(self, hours: float = 24) -> list[JobState]:
        """The jobs created or changed in the last `hours` hours."""
        return self.list_jobs(since=self._now() - timedelta(hours=hours))

    def count_jobs_by_status(self) -> dict[str, int]:
        """How many jobs have each status, the ones that nobody has included."""
        return dict.fromkeys(JobStatus, 0) | Counter(job.status for job in self.list_jobs())

    # --- writing ---------------------------------------------------------------------------------------------

    def register_job(
        self,
        job_id: str,
        k8s_name: str | None = None,
        namespace: str | None = None,
        metadata: Mapping[str, object] | None = None,
        **fields: object,
    ) -> JobState:
        """Register a new job as `pending`.

        Args:
            job_id: its id: letters, digits and `._+=-`.
            k8s_name: name of its Kubernetes Job, where it has one.
            namespace: namespace of that.
            metadata: anything of the caller's, as JSON types.
            fields: other fields of the record: `owner`, `labels`, `tasks_total`, `engine`, …

        Raises:
            JobExistsError: the id is taken.
            UsageError: the id cannot be one, or a field is unknown or of the wrong type.
        """
        named = {"k8s_name": k8s_name, "k8s_namespace": namespace, "metadata": metadata}
        fields |= {name: value for name, value in named.items() if value is not None}
        write_id, now = self._new_id(), self._now()
        state = rules.new(job_id, fields, now if self._as_of is None else min(now, self._as_of), now, write_id)
        key = self.key_of(job_id)
        outcome = self._create(
            key,
            rules.readable(state),
            landed=lambda value: rules.has_write(value, write_id),
            before=lambda: self._announcer.announce(job_id),
        )
        if outcome is None:
            raise JobExistsError(f"Job {job_id} is already registered.", job_id=job_id)
        return self._written(job_id, key, outcome)

    def update_status(self, job_id: str, new_status: str, **fields: object) -> JobState:
        """Move a job to `new_status`, through the steps in between if some were missed, and set fields, in one write.

        Setting the status that the job has sets the fields alone; for a job that has ended, and nothing new in the
        fields, that is a no-op. `metadata` and `labels` are merged into what is there; other fields are replaced.

        Raises:
            JobNotFoundError: there is no such job.
            InvalidTransitionError: no way leads from the job's status to the new one.
            TerminalStateError: the job has ended.
            UsageError: the status or a field is unknown, or a field has the wrong type.
        """
        target = parse_status(new_status)
        values = rules.checked(fields)

        def change(state: JobState, write: rules.Write) -> JobState | None:
            changed = rules.merge(state, values)
            if state.status == target:
                return rules.unless_ended(state, changed)
            return rules.walk(state, changed, target, write)

        return self._change(job_id, change, "status")

    def update_fields(self, job_id: str, **fields: object) -> JobState:
        """Set fields of a job and leave its status. Merges and raises as `update_status` does."""
        values = rules.checked(fields)
        change: _Change = lambda state, _write: rules.unless_ended(state, rules.merge(state, values))  # noqa: E731
        return self._change(job_id, change, "fields")

    def update_progress(
        self,
        job_id: str,
        tasks_completed: int | None = None,
        tasks_total: int | None = None,
        *,
        tasks_failed: int | None = None,
        start: bool = False,
        on_before: Callable[[JobState], None] | None = None,
    ) -> JobState:
        """Tell how far a job is. Counts may go down, as those of a pod that was begun anew.

        Args:
            job_id: a job that has not ended.
            tasks_completed: tasks done so far; None leaves it, as for the other two.
            tasks_total: tasks in all.
            tasks_failed: tasks that ended in an error.
            start: whether progress proves that the job runs, so that one not yet running is moved there in this write.
            on_before: called with the record as it was, before each attempt to write.

        Raises:
            JobNotFoundError: there is no such job.
            TerminalStateError: the job has ended. Late progress is refused, not written over the end.
            UsageError: a count is negative, or more tasks are done than there are.
        """
        counts = {"tasks_completed": tasks_completed, "tasks_total": tasks_total, "tasks_failed": tasks_failed}
        values = {name: check_field(name, count) for name, count in counts.items() if count is not None}

        def change(state: JobState, write: rules.Write) -> JobState | None:
            if on_before is not None:
                on_before(state)
            changed = state.evolve(**values)
            if start and state.status in rules.BEFORE_RUNNING:
                return rules.walk(state, changed, JobStatus.RUNNING, write)
            return rules.unless_ended(state, changed)

        return self._change(job_id, change, "progress")

    def report_shard(self, job_id: str, shard: int, shards: int, report: rules.ShardReport) -> JobState:
        """Tell how far one shard of a job is; a sign of life as well. The job's counts become the sums over its shards.

        A job that is not running yet is moved there in the same write.

        Args:
            job_id: a job that has not ended.
            shard: which shard, from 0.
            shards: of how many.
            report: its counts.

        Raises:
            JobNotFoundError, TerminalStateError: there is no such job, or it has ended.
        """
        if not 0 <= shard < shards:
            raise UsageError(f"There is no shard {shard} of {shards}.")

        def change(state: JobState, write: rules.Write) -> JobState | None:
            changed = rules.with_shard(state, shard, shards, report, write.at)
            if state.status in rules.BEFORE_RUNNING:
                return rules.walk(state, changed, JobStatus.RUNNING, write)
            return rules.unless_ended(state, changed)

        return self._change(job_id, change, "shard")

    def finalize_job(
        self,
        job_id: str,
        final_status: str,
        results_path: str | None = None,
        error_info: Mapping[str, str] | None = None,
    ) -> JobState:
        """End a job: its terminal status and what it leaves, in one write.

        Args:
            job_id: the job.
            final_status: a terminal status.
            results_path: where its results are.
            error_info: `message` and `code` of its error.

        Raises:
            UsageError: the status is not terminal (a ValueError in ModelOps).
            JobNotFoundError, InvalidTransitionError, TerminalStateError: as `update_status`.
        """
        if parse_status(final_status) not in TERMINAL:
            raise UsageError(f"{final_status} does not end a job: use {', '.join(sorted(TERMINAL))}.")
        fields: dict[str, object] = {}
        if results_path is not None:
            fields["results_path"] = results_path
        if error_info:
            fields |= {"error_message": error_info.get("message"), "error_code": error_info.get("code")}
        return self.update_status(job_id, final_status, **fields)

    def cancel_job(self, job_id: str, reason: str | None = None) -> JobState:
        """Mark a job as cancelled. Cancelling a cancelled job is a no-op, whatever the reason.

        Raises:
            JobNotFoundError: there is no such job.
            InvalidTransitionError: it cannot be cancelled where it stands.
            TerminalStateError: it has ended otherwise.
        """
        values = {} if reason is None else {"error_message": check_field("error_message", f"Cancelled: {reason}")}

        def change(state: JobState, write: rules.Write) -> JobState | None:
            if state.status == JobStatus.CANCELLED:
                return None
            return rules.walk(state, state.evolve(**values), JobStatus.CANCELLED, write)

        return self._change(job_id, change, "cancel")

    def _change(self, job_id: str, change: _Change, operation: str) -> JobState:
        """Apply `change(state, write)` to a record by compare-and-swap; None from it leaves the record alone."""
        key = self.key_of(job_id)
        write_id, moment = self._new_id(), self._now()

        def apply(value: bytes) -> bytes | None:
            state = self._read(key, value)
            # Clocks of writers differ. A record's own time never runs backwards, so its history stays in order.
            at = record_time(max(moment, parse_time(state.updated_at)))
            changed = change(state, rules.Write(write_id, at, rules.stepped_at(state, self._as_of, at)))
            if changed is None:
                return None
            if rules.counts(changed) != rules.counts(state):
                rules.check_counts(changed)  # what another program has counted is no reason to refuse anything else
            return rules.readable(changed.evolve(updated_at=at, write_id=write_id, revision=state.revision + 1))

        try:
            outcome = self._update(
                key,
                apply,
                landed=lambda value: rules.has_write(value, write_id),
                lasts=lambda value: rules.has_step(value, write_id),
                before=lambda: self._announcer.announce(job_id),
                on_conflict=lambda: self.conflicts.update((operation,)),
            )
        except KeyNotFoundError:
            raise JobNotFoundError(
                f"There is no job {job_id}.", job_id=job_id, hint="It takes the whole id: `mops-jobs list` shows them."
            ) from None
        return self._written(job_id, key, outcome)

    def _read(self, key: str, value: bytes) -> JobState:
        state = JobState.from_json(value, key=key)
        if state.job_id != self.job_id_of(key):
            raise RecordError(f"the record is that of job {state.job_id[:80]!r}", key=key)
        return state

    def _written(self, job_id: str, key: str, outcome: cas.Outcome) -> JobState:
        if outcome.written:
            self._announcer.confirm(job_id)
        if outcome.written and self._on_write is not None:
            try:
                self._on_write(key, outcome.value, outcome.version)
            except Exception:  # the write has landed; whoever wanted to hear of it must not turn that into a failure
                log.exception("Telling of the write to %s failed.", key)
        return self._read(key, outcome.value)

"""The registry: the only writer of records.

Every change is a compare-and-swap: read the record, apply a pure function, and write it back if the version is still
the same. Each write has a random id, which stands in `write_id` and in each entry of a history that the write made. So
a writer recognises its own write after a lost reply.
"""

from __future__ import annotations

import copy
import functools
import logging
import random as _random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from mopsjobs.errors import JobExistsError, JobNotFoundError, KeyNotFoundError, RecordError, UsageError
from mopsjobs.registry import transitions
from mopsjobs.registry.announcements import Announcer, corrected
from mopsjobs.registry.job_id import MAX_FOREIGN_ID_BYTES, check_job_id
from mopsjobs.registry.job_state import JobState, check_field
from mopsjobs.registry.keys import RECORD, RECORDS
from mopsjobs.registry.notes import ATTEMPTS, NOTE, Author, attempts_noted, check_note, with_history
from mopsjobs.registry.status import BEFORE_RUNNING, TERMINAL, JobStatus, parse_status
from mopsjobs.registry.usage import ShardUsage, usage_at_least
from mopsjobs.store import cas
from mopsjobs.store.base import Entry, Versioned, VersionedStore, VersionToken, WantsValues, always, check_key
from mopsjobs.utils.times import parse_time, record_time, utc_now

log = logging.getLogger(__name__)

TakeRecord = Callable[[Versioned], None]
"""Called with a record as it is in the store, and its version."""

Observe = Callable[[str], TakeRecord]
"""Called with a key before its record is read or written. Returns the function that takes the record afterwards."""

OnWrite = Callable[[str, bytes, VersionToken], None]
Change = Callable[[JobState, transitions.Write], "JobState | None"]


class _RecordWrite:
    """One write of a record, recognised by its id: the `cas.Update` of the registry."""

    def __init__(self, write_id: str, announce: Callable[[], None]) -> None:
        self._id = write_id
        self.before_write = announce
        self.last_read: Versioned | None = None
        """The record as it was last read; None if only a write followed."""

    def on_read(self, current: Versioned) -> None:
        self.last_read = current

    def already_applied(self, value: bytes) -> bool:
        return transitions.has_write(value, self._id)

    def leaves_permanent_trace(self, value: bytes) -> bool:
        return transitions.has_entry(value, self._id)


class JobRegistry:
    """All records of a store, and the rules by which they may change.

    Every method that changes a record may also raise `StoreUnavailableError` and `StoreAccessError`. It raises
    `TooManyRetriesError` if it lost the race for the record too often, and `RecordError` if the record is unreadable.
    Then nothing was written, or the error says that the write may have landed.
    """

    state_type = JobState
    """The class of the states that this registry returns."""

    def __init__(
        self,
        store: VersionedStore,
        prefix: str = RECORDS,
        *,
        now: Callable[[], datetime] = utc_now,
        new_id: Callable[[], str] = lambda: secrets.token_hex(8),
        sleep: Callable[[float], None] = time.sleep,
        random: Callable[[], float] = _random.random,
        on_write: OnWrite | None = None,
        observe: Observe | None = None,
    ) -> None:
        """Open the registry under `prefix` of `store`.

        Args:
            store: where the records live.
            prefix: the first part of every key.
            now: returns the time, in UTC.
            new_id: returns a random text, different on each call.
            sleep: waits for a number of seconds between two attempts at a contested record.
            random: returns a number from 0 to 1, for the jitter of these waits.
            on_write: called with key, bytes and version after each write that landed.
            observe: takes each record that a method for one job reads or writes, to update a mirror.

        Raises:
            StoreError: if a record below the prefix could have a key that no store takes.
        """
        self.store = store
        self.prefix = prefix
        self._form = RECORD.below(prefix)
        check_key(self._form.key(job="x" * MAX_FOREIGN_ID_BYTES))
        self._now = now
        self._observe = observe or (lambda _key: lambda _record: None)
        self.ids_with_prefix: Callable[[str], tuple[str, ...]] = lambda _prefix: ()
        """Returns known ids that begin with a text, for the error about a job that does not exist."""
        self._new_id = new_id
        self._create = functools.partial(cas.create, store, sleep=sleep, random=random)
        self._update = functools.partial(cas.update, store, sleep=sleep, random=random)
        self._announcer = Announcer(store, now)
        self._on_write = on_write
        self._backdated_to: datetime | None = None
        self._user: str | None = None

    def with_on_write(self, on_write: OnWrite) -> JobRegistry:
        """Return the same registry with another `on_write`."""
        return self._copy(_on_write=on_write)

    def with_user(self, user: str | None) -> JobRegistry:
        """Return the same registry for a user, whom the history of notes and labels names."""
        return self._copy(_user=None if user is None else user.encode(errors="replace").decode())

    def backdated_to(self, moment: datetime | None) -> JobRegistry:
        """Return the same registry with steps of an earlier time, for reports that could not be sent then.

        With None, steps have the time at which they are written. With a time, `update_status` also adds the step of a
        status that another program has set before.
        """
        return self._copy(_backdated_to=moment)

    def _copy(self, **changes: object) -> JobRegistry:
        other = copy.copy(self)
        vars(other).update(changes)
        return other

    # --- reading ------------------------------------------------------------------------------------------------------

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

    # --- writing ------------------------------------------------------------------------------------------------------

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
            namespace: namespace of that Job.
            metadata: any JSON types of the caller.
            fields: other fields of the record: `owner`, `labels`, `tasks_total`, `engine`, …

        Raises:
            JobExistsError: if there is a job with this id.
            UsageError: if the id is invalid, or a field is unknown or of the wrong type.
        """
        named = {"k8s_name": k8s_name, "k8s_namespace": namespace, "metadata": metadata}
        fields |= {name: value for name, value in named.items() if value is not None}
        write_id, now = self._new_id(), self._now()
        state = transitions.new_job(
            job_id, fields, now if self._backdated_to is None else min(now, self._backdated_to), now, write_id
        )
        unnoted = state.evolve(metadata={})  # its first labels need no entry: they are those of the registration
        state = with_history(unnoted, state, Author(self._user, state.created_at, write_id))
        key = self.key_of(job_id)
        take = self._observe(key)
        outcome = self._create(
            key,
            transitions.encode_record(state),
            _RecordWrite(write_id, lambda: self._announcer.announce(job_id)),
        )
        if outcome is None:
            raise JobExistsError(job_id)
        take(Versioned(outcome.value, outcome.version))
        return self._finish_write(job_id, key, outcome)

    def update_status(self, job_id: str, new_status: str, **fields: object) -> JobState:
        """Move a job to `new_status` and set fields, in one write. Skipped steps are filled in.

        If the job has this status already, only the fields are set. If these are equal as well, nothing is written,
        also for a job that has ended. Members of `metadata` and `labels` are added; other fields are replaced.

        Raises:
            JobNotFoundError: if the job does not exist.
            InvalidTransitionError: if no transitions lead from the job's status to the new one.
            TerminalStateError: if the job has ended.
            UsageError: if the status or a field is unknown, or a field has the wrong type.
        """
        target = parse_status(new_status)
        values = transitions.validate_fields(fields)

        def change(state: JobState, write: transitions.Write) -> JobState | None:
            changed = transitions.merge_fields(state, values)
            if state.status == target:
                if self._backdated_to is not None:
                    changed = transitions.with_current_step(state, changed, write)
                return transitions.guard_terminal(state, changed)
            return transitions.advance(state, changed, target, write)

        return self._change(job_id, change)

    def update_fields(self, job_id: str, **fields: object) -> JobState:
        """Set fields of a job, and keep its status. See `update_status` for merging and errors."""
        values = transitions.validate_fields(fields)
        return self._change(
            job_id, lambda state, _: transitions.guard_terminal(state, transitions.merge_fields(state, values))
        )

    def add_note(self, job_id: str, text: str) -> JobState:
        """Note something about a job, also after its end. Earlier notes stay in its history.

        Raises:
            JobNotFoundError: if the job does not exist.
            UsageError: if the text is empty or too long.
        """
        return self.update_fields(job_id, metadata={NOTE: check_note(text)})

    def change_labels(
        self, job_id: str, labels: Mapping[str, str] | None = None, *, remove: Collection[str] = ()
    ) -> JobState:
        """Set and remove labels of a job, also after its end, in one write. Earlier ones stay in its history.

        Args:
            job_id: the job.
            labels: labels to set, with their values.
            remove: keys of labels to remove. Those that the job does not have are ignored.

        Raises:
            JobNotFoundError: if the job does not exist.
            UsageError: if a label has the wrong type.
        """
        added = transitions.validate_fields({"labels": labels or {}}).get("labels", {})

        def change(state: JobState, _: transitions.Write) -> JobState | None:
            merged = {**state.labels, **added}  # type: ignore[dict-item]
            new_labels = {label: value for label, value in merged.items() if label not in remove}
            return transitions.guard_terminal(state, state.evolve(labels=new_labels))

        return self._change(job_id, change)

    def update_progress(
        self,
        job_id: str,
        tasks_completed: int | None = None,
        tasks_total: int | None = None,
        *,
        tasks_failed: int | None = None,
        start: bool = False,
    ) -> JobState:
        """Report the progress of a job. Counts may decrease, as after the restart of a pod.

        Args:
            job_id: a job that has not ended.
            tasks_completed: completed tasks; None for no change, as for the other counts.
            tasks_total: tasks of the job.
            tasks_failed: failed tasks.
            start: whether to move a job that is not yet running to `running`, in the same write.

        Raises:
            JobNotFoundError: if the job does not exist.
            TerminalStateError: if the job has ended. Late progress never changes the record.
            UsageError: if a count is negative, or the counts exceed the total.
        """
        counts = {"tasks_completed": tasks_completed, "tasks_total": tasks_total, "tasks_failed": tasks_failed}
        values = {name: check_field(name, count) for name, count in counts.items() if count is not None}

        def change(state: JobState, write: transitions.Write) -> JobState | None:
            changed = state.evolve(**values)
            if start and state.status in BEFORE_RUNNING:
                return transitions.advance(state, changed, JobStatus.RUNNING, write)
            return transitions.guard_terminal(state, changed)

        return self._change(job_id, change)

    def report_shard(self, job_id: str, shard: int, shards: int, report: transitions.ShardReport) -> JobState:
        """Report the progress of one shard, and give a sign of life. The job's counts become the sums over its shards.

        A job that is not yet running moves to `running` in the same write.

        Args:
            job_id: a job that has not ended.
            shard: number of the shard, from 0.
            shards: number of shards.
            report: the progress of the shard.

        Raises:
            JobNotFoundError: if the job does not exist.
            TerminalStateError: if the job has ended.
            UsageError: if the job has no such shard.
        """
        if not 0 <= shard < shards:
            raise UsageError(f"invalid shard {shard}: expected 0 to {shards - 1}.")

        def change(state: JobState, write: transitions.Write) -> JobState | None:
            changed = transitions.with_shard(state, shard, shards, report, write.at)
            if state.status in BEFORE_RUNNING:
                return transitions.advance(state, changed, JobStatus.RUNNING, write)
            return transitions.guard_terminal(state, changed)

        return self._change(job_id, change)

    def finalize_job(
        self,
        job_id: str,
        final_status: str,
        results_path: str | None = None,
        error_info: Mapping[str, str] | None = None,
    ) -> JobState:
        """End a job: set its terminal status, the path of its results, and its error, in one write.

        Args:
            job_id: the job.
            final_status: a terminal status.
            results_path: where its results are.
            error_info: `message` and `code` of its error.

        Raises:
            UsageError: if the status is not terminal (a ValueError in ModelOps).
            JobNotFoundError, InvalidTransitionError, TerminalStateError: as `update_status`.
        """
        if parse_status(final_status) not in TERMINAL:
            raise UsageError(
                f"invalid final status '{final_status}': it is not a terminal status, "
                f"expected one of {', '.join(sorted(TERMINAL))}."
            )
        fields: dict[str, object] = {}
        if results_path is not None:
            fields["results_path"] = results_path
        if error_info:
            fields |= {"error_message": error_info.get("message"), "error_code": error_info.get("code")}
        return self.update_status(job_id, final_status, **fields)

    def infer_end(
        self,
        judged: JobState,
        final_status: str,
        used: Mapping[int, ShardUsage] | None = None,
        attempts: int = 0,
        **fields: object,
    ) -> JobState:
        """End a job as inferred from the record `judged`, or correct such an end; see `transitions.end_inferred`.

        Args:
            judged: the record.
            final_status: the end.
            used: what the tasks of each shard used at least, by its number.
            attempts: how many attempts are in the ledger.
            fields: other fields to change.
        """
        target, values = parse_status(final_status), transitions.validate_fields(fields)

        def change(state: JobState, write: transitions.Write) -> JobState | None:
            known = state.evolve(usage=MappingProxyType(usage_at_least(state.usage, used or {})))
            if attempts > attempts_noted(state.metadata):  # a ledger may have been pruned since
                known = known.evolve(metadata=MappingProxyType({**state.metadata, ATTEMPTS: attempts}))
            changed = transitions.merge_fields(known, values)
            return transitions.end_inferred(state, changed, target, write, judged=judged, known=known)

        return self._change(judged.job_id, change)

    def cancel_job(self, job_id: str, reason: str | None = None) -> JobState:
        """Mark a job as cancelled. For a cancelled job, this changes nothing, with any reason.

        Raises:
            JobNotFoundError: if the job does not exist.
            InvalidTransitionError: if the job cannot be cancelled in its status.
            TerminalStateError: if the job has ended with another status.
        """
        values = {} if reason is None else {"error_message": check_field("error_message", f"Cancelled: {reason}")}

        def change(state: JobState, write: transitions.Write) -> JobState | None:
            if state.status == JobStatus.CANCELLED:
                return None
            return transitions.advance(state, state.evolve(**values), JobStatus.CANCELLED, write)

        return self._change(job_id, change)

    def _change(self, job_id: str, change: Change) -> JobState:
        """Apply `change(state, write)` to a record by compare-and-swap. If it returns None, nothing is written."""
        key = self.key_of(job_id)
        take = self._observe(key)
        write_id, moment = self._new_id(), self._now()

        def apply(value: bytes) -> bytes | None:
            state = self._read(key, value)
            # The clocks of writers differ. The time of a record never decreases, so its history stays in order.
            at = record_time(max(corrected(moment, self.store), parse_time(state.updated_at)))
            changed = change(
                state, transitions.Write(write_id, at, transitions.transition_at(state, self._backdated_to, at))
            )
            if changed is None:
                return None
            changed = with_history(state, changed, Author(self._user, at, write_id))
            if transitions.task_counts(changed) != transitions.task_counts(state):
                transitions.check_counts(changed)  # counts of another program never block other changes
            return transitions.encode_record(
                changed.evolve(updated_at=at, write_id=write_id, revision=state.revision + 1)
            )

        write = _RecordWrite(write_id, lambda: self._announcer.announce(job_id))
        try:
            outcome = self._update(key, apply, write)
            write.last_read = Versioned(outcome.value, outcome.version)
        except KeyNotFoundError:
            raise self.not_found(job_id) from None
        finally:
            # Also after a refusal: its message shows the status of the record.
            if write.last_read is not None:
                take(write.last_read)
        return self._finish_write(job_id, key, outcome)

    def _finish_write(self, job_id: str, key: str, outcome: cas.CasResult) -> JobState:
        if outcome.written:
            self._announcer.confirm(job_id)
        if outcome.written and self._on_write is not None:
            try:
                self._on_write(key, outcome.value, outcome.version)
            except Exception:  # the write has landed: an error of `on_write` must not hide that
                log.exception("on_write failed for %s.", key)
        return self._read(key, outcome.value)

"""End a job whose runner has not reported its end. Whatever infers an end calls `infer_end`: the outputs decide.

See docs/decisions/0103-inferred-ends.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from mopsjobs.engines.base import EngineTimes, ShardEnd
from mopsjobs.errors import InvalidTransitionError, NoManifestError, RecordError, command_line
from mopsjobs.events.format import RUNNER
from mopsjobs.events.writer import record_event
from mopsjobs.ledger.attempt import FAILED_OUTCOMES, Attempt, Outcome, attempt_error
from mopsjobs.ledger.format import ChunkKey, FilesOpened, list_chunks, parse_chunk, parse_files_opened
from mopsjobs.registry.cpu_budget import spent_budget
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.notes import GROWS
from mopsjobs.registry.status import JobStatus
from mopsjobs.registry.usage import NO_SHARD_USAGE, ShardUsage, add_usage
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.bulk import bulk_reads
from mopsjobs.studies.manifest import Manifest, load_manifest
from mopsjobs.studies.outputs import Sizes, SizesOf
from mopsjobs.studies.rounds import END, round_key
from mopsjobs.studies.validation import BUDGET, EarlyEnd, Validation, end_by_outputs
from mopsjobs.submission.session import Session
from mopsjobs.submission.shard_drop import first_error
from mopsjobs.utils.times import from_timestamp, parse_time

THREADS = 8
"""Chunks of a ledger that are read at once."""


class LedgerSummary(NamedTuple):
    """The parts of the ledger of a job that tell of its end."""

    failed: dict[int, bool]
    """The tasks with an attempt that did not succeed, though another may have: whether one was not lost."""
    used: dict[int, ShardUsage]
    """What each shard used."""
    attempts: int
    """How many attempts it has."""
    sizes: dict[int, set[int | None]]
    """The bytes of the outputs of each task, by its successful attempts."""
    files: dict[int, FilesOpened]
    """The files that the successful attempts at each task may have opened."""
    last_at: float | None
    """When the last attempt ended, or began if its end is not known, in seconds since 1970."""

    def sizes_of(self, manifests: Sequence[Manifest]) -> Sizes:
        """Return the sizes that outputs are to have, for `find_complete_tasks`. Several sizes of a task tell nothing.

        A store may keep a part of a value whose sender was killed.
        """
        known = {number: size for number, (size, *others) in self.sizes.items() if size is not None and not others}
        return {
            manifest.job_id: {
                (task.param_id, str(task.seed)): known[task.number]
                for _, task in manifest.tasks()
                if task.number in known
            }
            for manifest in manifests
        }


def summarise_ledger(store: VersionedStore, job_id: str) -> LedgerSummary:
    """Read the ledger of a job. A chunk that cannot be understood is left out."""
    failed: dict[int, bool] = {}
    used: dict[int, ShardUsage] = {}
    sizes: dict[int, set[int | None]] = {}
    files: dict[int, FilesOpened] = {}
    last_at: float | None = None
    attempts = 0
    for attempts, (shard, attempt, opened) in enumerate(_read_attempts(store, job_id), start=1):  # noqa: B007
        if attempt.outcome in FAILED_OUTCOMES:
            failed[attempt.task] = failed.get(attempt.task, False) or attempt.outcome is not Outcome.LOST
        elif attempt.outcome == Outcome.SUCCEEDED:
            sizes.setdefault(attempt.task, set()).add(attempt.output_bytes)
            before = files.get(attempt.task, opened)
            both = None if before is None or opened is None else before | opened
            files[attempt.task] = opened if both == opened else both  # a set for all tasks of a chunk
        cpu = [value for value in (attempt.user_seconds, attempt.system_seconds) if value is not None]
        own = ShardUsage(sum(cpu) if cpu else None, attempt.seconds, None, attempt.max_rss_bytes)
        used[shard] = add_usage([used.get(shard, NO_SHARD_USAGE), own])
        if attempt.started_at is not None:
            last_at = max(last_at or 0.0, attempt.started_at + (attempt.seconds or 0.0))
    return LedgerSummary(failed, used, attempts, sizes, files, last_at)


def _read_attempts(store: VersionedStore, job_id: str) -> Iterator[tuple[int, Attempt, FilesOpened]]:
    """Yield the attempts in the ledger, each with its shard and the files of its chunk."""
    for chunk, value in _read_chunks(store, job_id):
        with contextlib.suppress(RecordError):
            attempts, files = parse_chunk(value, chunk)
            yield from ((chunk.shard, attempt, files) for attempt in attempts)


def read_files_opened(store: VersionedStore, job_id: str) -> FilesOpened:
    """Return the files of its bundle that the tasks of a job may have opened; None if that is not known of all.

    Raises:
        StoreError: if the ledger cannot be read.
        RecordError: if a chunk is not valid.
    """
    opened = [parse_files_opened(value) for _, value in _read_chunks(store, job_id)]
    known = [files for files in opened if files is not None]
    return frozenset[str]().union(*known) if opened and len(known) == len(opened) else None


def _read_chunks(store: VersionedStore, job_id: str) -> Iterator[tuple[ChunkKey, bytes]]:
    """Yield keys and bytes of the attempts in the ledger."""
    chunks = list(list_chunks(store, job_id))
    with bulk_reads(store), ThreadPoolExecutor(THREADS) as threads:
        for chunk, found in zip(chunks, threads.map(lambda chunk: store.get(chunk.key), chunks), strict=True):
            if found is not None:
                yield chunk, found.value


def ended_with(attempt: Attempt, end: ShardEnd) -> Attempt:
    """Return an attempt with the end of its shard, if that had it in hand."""
    if attempt.outcome is not Outcome.LOST:
        return attempt
    outcome = Outcome.OOM if end.is_out_of_memory else Outcome.LOST
    error = attempt_error(end.reason, None, f"its runner ended: {end.describe()}")
    return attempt._replace(outcome=outcome, error=error)


class RunnerEnd(NamedTuple):
    """The end of the runners of a job, as far as it is known."""

    code: str | None = None
    """The code of the error, if outputs are missing; None: all tasks may have been tried."""
    reason: str | None = None
    """A sentence for the error."""
    times: EngineTimes = EngineTimes()
    is_stated: bool = False
    """Whether the engine states the end. Then it also ends a job without a manifest, of which no outputs are known."""


def end_growth(judged: JobState, session: Session) -> None:
    """Let a growing job without a runner get no further sets, once it had none for its idle time.

    Any other job is left alone.

    Raises:
        InvalidTransitionError: if a client may go on with it.
    """
    if judged.metadata.get(GROWS) is None or judged.is_terminal:
        return
    manifest = load_manifest(session.store, judged.job_id)
    if not manifest.may_grow:
        return
    last = max(parse_time(at) for at in (judged.heartbeat_at, judged.created_at) if at is not None)
    if (session.now() - last).total_seconds() >= (manifest.grows or 0.0):
        session.store.create_if_absent(round_key(judged.job_id, manifest.rounds + 1), END)
        if not load_manifest(session.store, judged.job_id).may_grow:
            return  # else its client has asked for more meanwhile
    raise InvalidTransitionError(
        f"Job {judged.job_id} is a growing job, which has no runner now; its client may go on.",
        job_id=judged.job_id,
        from_status=str(judged.status),
        to_status=str(JobStatus.PARTIAL),
        hint=f"Start a runner: {command_line('resume', judged.job_id)}. Or end it:"
        f" {command_line('cancel', judged.job_id)}",
    )


def infer_end(judged: JobState, end: RunnerEnd, session: Session, sizes_of: SizesOf | None = None) -> Validation:
    """End a job as its outputs decide, or correct an end that was inferred before.

    Args:
        judged: the record from which it follows that no runner is at work. If a runner has reported since, the job
            does not end.
        end: what is known of its runners.
        session: the registry, the environment and the messages.
        sizes_of: tells the sizes that outputs are to have; None: those in the job's own ledger.

    Raises:
        NoManifestError: if the job has no manifest, and no engine states the end.
        InvalidTransitionError: if a runner has reported meanwhile, or the job cannot end in its present status.
        TerminalStateError: if the job has no manifest, and another program has ended it.
        StoreError: if the comparison failed, or the record cannot be written.
    """
    registry, store, times = session.registry, session.store, end.times
    end_growth(judged, session)
    if times.started_at is not None and not judged.is_terminal and judged.status != JobStatus.VALIDATING:
        # In a write of its own, which makes the start a reported step. It changes nothing if the record has the step.
        judged = registry.backdated_to(times.started_at).update_status(judged.job_id, JobStatus.RUNNING)
    ledger = summarise_ledger(store, judged.job_id)
    ended_at = times.ended_at
    if ended_at is not None and ledger.last_at is not None:
        ended_at = max(ended_at, from_timestamp(ledger.last_at))  # the last trace of a runner may be an attempt
    at_end = registry.backdated_to(ended_at)
    is_early = end.code is not None
    early = EarlyEnd(str(end.code), str(end.reason).rstrip(".")) if is_early else None
    error = first_error(judged, session) or (None if is_early else end.reason)
    if not is_early and (reason := spent_budget(judged)) is not None:
        early = EarlyEnd(BUDGET, reason)
    try:
        validation = end_by_outputs(
            store,
            at_end,
            judged,
            first_error=error,
            early=early,
            failed=ledger.failed,
            used=ledger.used,
            attempts=ledger.attempts,
            sizes_of=sizes_of or ledger.sizes_of,
        )
    except NoManifestError:
        if not end.is_stated:
            raise
        status = JobStatus.FAILED if is_early else JobStatus.SUCCEEDED
        fields = {"error_code": end.code, "error_message": end.reason} if is_early else {}
        return Validation(at_end.infer_end(judged, status, ledger.used, ledger.attempts, **fields), 0, 0)
    if judged.is_terminal and validation.state.status != judged.status:
        text = (
            f"corrected from {judged.status} ({judged.error_code}) to {validation.state.status}:"
            f" {validation.tasks_verified} of {validation.tasks_total} tasks have left complete outputs"
        )
        record_event(store, judged.job_id, RUNNER, now=session.now, text=text)
        session.note(f"{judged.job_id}: {text}")
    return validation

"""End a job whose runner has not reported its end. Whatever infers an end calls `infer_end`: the outputs decide.

See docs/decisions/0103-inferred-ends.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from mopsjobs.engines.base import EngineTimes, ShardEnd, engine_of, last_launch
from mopsjobs.errors import InvalidTransitionError, NoManifestError, RecordError, StoreError, command_line
from mopsjobs.events.format import RUNNER
from mopsjobs.events.writer import record_event
from mopsjobs.ledger.attempt import FAILED_OUTCOMES, Attempt, Outcome, attempt_error
from mopsjobs.ledger.format import (
    ChunkKey,
    FilesOpened,
    chunk_key,
    encode_attempts,
    ledger_prefix,
    parse_chunk,
    parse_chunk_key,
    parse_files_opened,
)
from mopsjobs.registry.cpu_budget import spent_budget
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.notes import GROWS
from mopsjobs.registry.status import JobStatus
from mopsjobs.registry.usage import NO_SHARD_USAGE, ShardUsage, add_usage
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.bulk import bulk_reads
from mopsjobs.studies.manifest import Manifest, load_manifest
from mopsjobs.studies.outputs import Sizes, SizesOf, find_complete_tasks
from mopsjobs.studies.rounds import END, round_key
from mopsjobs.studies.validation import BUDGET, EarlyEnd, Validation, end_by_outputs
from mopsjobs.submission.session import Session
from mopsjobs.submission.shard_drop import first_error
from mopsjobs.utils.text import parse_whole_number
from mopsjobs.utils.times import from_timestamp, parse_time

THREADS = 8
"""Chunks of a ledger that are read at once."""

MAX_SHARDS = 100
"""Lost shards whose tasks are written. Each takes a few requests."""

MAX_NUMBER = 10**6
"""Shards of a job, at most."""

MAX_WORKERS = 1000
"""Workers of a shard, at most. A record may hold any number."""


def record_lost(store: VersionedStore, state: JobState, lost: Sequence[ShardEnd]) -> None:
    """Write an attempt at each task that lost shards had in hand. What the store does not take is left out.

    The runner of a lost shard had no time to do so, and its disk is gone. A runner takes its tasks in their order. So
    those that its workers had in hand are the first without outputs and without an attempt. The chunk has a key that
    follows from the launch: several readers write it once.

    Shards on Slurm have noted themselves which tasks had begun; `deliver_shards` delivers that.

    Args:
        store: where manifest, outputs and ledger are.
        state: a job that has a manifest, and whose runners have ended.
        lost: the shards that ended before their tasks.
    """
    lost = lost[:MAX_SHARDS]
    if not lost or engine_of(state.to_dict()) == "slurm":
        return
    with contextlib.suppress(StoreError):
        manifest = load_manifest(store, state.job_id)
        launched = state.k8s_uid or last_launch(state.to_dict()).get("job_id")  # the Kubernetes Job, or Slurm's array
        run = hashlib.blake2b(f"{state.job_id} {launched}".encode(), digest_size=8).hexdigest()
        for end, tasks in _tasks_in_hand(store, state, manifest, lost):
            attempts = [ended_with(Attempt(task, 1, Outcome.LOST, *[None] * 9), end) for task in tasks]
            if attempts:
                key = chunk_key(state.job_id, end.shard, run, 0)
                store.create_if_absent(key, encode_attempts(state.job_id, end.shard, attempts))


def _tasks_in_hand(
    store: VersionedStore, state: JobState, manifest: Manifest, lost: Sequence[ShardEnd]
) -> list[tuple[ShardEnd, list[int]]]:
    """Return the numbers of the tasks that the workers of each lost shard had in hand."""
    launch = last_launch(state.to_dict())
    shards = parse_whole_number(launch.get("shards", ""), 1, MAX_NUMBER) or 1
    workers = _workers(launch)
    tried = {attempt.task for _, attempt, _ in _read_attempts(store, state.job_id, {end.shard for end in lost})}
    missing = find_complete_tasks(store, manifest).missing()
    duplicates, shard_of = manifest.duplicate_tasks(), manifest.shard_of(shards)
    open_tasks: dict[int, list[int]] = {end.shard: [] for end in lost}
    for position, task in manifest.tasks():
        found = open_tasks.get(shard_of(position))
        if found is None or len(found) >= workers or not missing[position] or position in duplicates:
            continue
        if task.number not in tried:
            found.append(task.number)
    return [(end, open_tasks[end.shard]) for end in lost]


def _workers(launch: Mapping[str, str]) -> int:
    """Return the workers of a shard, by the options of its launch: as named, else one per core."""
    with contextlib.suppress(ValueError):
        cores = math.floor(float(launch.get("cpu", "1").removesuffix("m")))
        cores = cores // 1000 if launch.get("cpu", "").endswith("m") else cores
        return parse_whole_number(launch.get("workers", ""), 1, MAX_WORKERS) or min(max(1, cores), MAX_WORKERS)
    return 1


class LedgerSummary(NamedTuple):
    """The parts of the ledger of a job that tell of its end."""

    failed: dict[int, bool]
    """The tasks with an attempt that did not succeed, though another may have: whether one was not lost."""
    used: dict[int, ShardUsage]
    """What each shard used."""
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
    for shard, attempt, opened in _read_attempts(store, job_id):
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
    return LedgerSummary(failed, used, sizes, files, last_at)


def _read_attempts(
    store: VersionedStore, job_id: str, shards: Collection[int] | None = None
) -> Iterator[tuple[int, Attempt, FilesOpened]]:
    """Yield the attempts in the ledger, each with its shard and the files of its chunk: of these shards, or of all."""
    for chunk, value in _read_chunks(store, job_id, shards):
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


def _read_chunks(
    store: VersionedStore, job_id: str, shards: Collection[int] | None = None
) -> Iterator[tuple[ChunkKey, bytes]]:
    """Yield keys and bytes of the attempts in the ledger: of these shards, or of all."""
    listed = map(parse_chunk_key, store.list_keys(ledger_prefix(job_id)))
    chunks = [one for one in listed if one and one.kind == "attempts" and (shards is None or one.shard in shards)]
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
    lost: tuple[ShardEnd, ...] = ()
    """The shards that ended before their tasks."""
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
    record_lost(store, judged, end.lost)
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
            sizes_of=sizes_of or ledger.sizes_of,
        )
    except NoManifestError:
        if not end.is_stated:
            raise
        status = JobStatus.FAILED if is_early else JobStatus.SUCCEEDED
        fields = {"error_code": end.code, "error_message": end.reason} if is_early else {}
        return Validation(at_end.infer_end(judged, status, ledger.used, **fields), 0, 0)
    if judged.is_terminal and validation.state.status != judged.status:
        text = (
            f"corrected from {judged.status} ({judged.error_code}) to {validation.state.status}:"
            f" {validation.tasks_verified} of {validation.tasks_total} tasks have left complete outputs"
        )
        record_event(store, judged.job_id, RUNNER, now=session.now, text=text)
        session.note(f"{judged.job_id}: {text}")
    return validation

"""Keep on this machine what cannot reach the registry, and deliver it when the registry answers.

`engines/job_dir.py` names the files. A submission leaves bundle, manifest and the fields of its launch. A runner of
this machine reads and delivers them. Pods cannot see them: for pods, `resume` delivers.

A runner leaves outputs in its outbox if the registry did not answer at its end, and its journal if it was killed.
Shards on Slurm have such files in directories of their own, or report by files at any time; see `shard_drop`. The next
launch of the job would read all that, but a child job has other directories. So `resume`, `cancel`, `validate`,
`reconcile` and the commands that follow a job deliver it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from mopsjobs.engines import LOCAL_ENGINES, open_engine
from mopsjobs.engines.base import EngineState, ShardEnd, engine_of
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.local import runner_end
from mopsjobs.errors import (
    InvalidTransitionError,
    JobExistsError,
    NoManifestError,
    StoreError,
    TooManyRetriesError,
    command_line,
)
from mopsjobs.ledger.writer import Ledger
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.keys import SHARD
from mopsjobs.registry.status import LAUNCH_FAILED, JobStatus
from mopsjobs.registry.transitions import is_correctable
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.studies.manifest import Manifest, load_manifest, manifest_key
from mopsjobs.studies.outputs import find_complete_tasks
from mopsjobs.studies.pack_log import find_pack_log
from mopsjobs.submission.infer_end import RunnerEnd, ended_with, infer_end
from mopsjobs.submission.relay import OnRefused, deliver
from mopsjobs.submission.session import Session
from mopsjobs.submission.shard_drop import deliver_drop, find_drop
from mopsjobs.utils.files import directory_lock, replace_file
from mopsjobs.utils.json_strict import read_json
from mopsjobs.utils.times import json_time, parse_time


@contextlib.contextmanager
def open_outbox(directory: JobDir) -> Iterator[SQLiteVersionedStore | None]:
    """Open the outbox of a job, if there is one: opening would create it."""
    if not directory.outbox.exists():
        yield None
        return
    with contextlib.closing(SQLiteVersionedStore(directory.outbox)) as outbox:
        yield outbox


def remove_times(directory: JobDir) -> None:
    """Remove the times of an earlier job that had the same id."""
    for path in (directory.submission_time, *directory.start_files()):
        path.unlink(missing_ok=True)


def save_submission_time(directory: JobDir, moment: datetime) -> None:
    """Save when a job was submitted without the registry."""
    replace_file(str(directory.submission_time), json_time(moment).encode())


def _backdated_registry(registry: JobRegistry, directory: JobDir) -> JobRegistry:
    """Return a registry that writes as of the time of submission; as of now, if that time is not saved or not valid."""
    with contextlib.suppress(OSError, ValueError):
        return registry.backdated_to(parse_time(directory.submission_time.read_text("ascii")))
    return registry


def shard_started_at(directory: JobDir, shard: int, now: datetime | None) -> datetime | None:
    """Return when the first task of a shard began on this machine, in this run or an earlier one.

    Args:
        directory: the job's.
        shard: its number.
        now: saved as the start if no earlier run has saved one; None: this run has no task.
    """
    path = directory.start_file(shard)
    with contextlib.suppress(OSError, ValueError):
        return parse_time(path.read_text("ascii"))
    if now is not None:
        with contextlib.suppress(OSError):  # a lost start does not fail the job
            replace_file(str(path), json_time(now).encode())
    return now


def save_launch(directory: JobDir, fields: Mapping[str, object]) -> None:
    """Save what the record of a job is to say of its launch."""
    replace_file(str(directory.launch_fields), json.dumps(fields).encode())


def save_failed_launch(directory: JobDir, fields: Mapping[str, object], message: str) -> None:
    """Save the options and the error of a launch that failed without the registry. A full disk loses them."""
    with contextlib.suppress(OSError):
        save_launch(directory, {**fields, "error_code": LAUNCH_FAILED, "error_message": message})


def register_offline(directory: JobDir, manifest: Manifest, registry: JobRegistry) -> None:
    """Register a job that was submitted without the registry, with the fields of its launch.

    Raises:
        StoreError, TooManyRetriesError: if the record could not be written.
    """
    registry = _backdated_registry(registry, directory)
    with contextlib.suppress(JobExistsError):
        registry.register_job(manifest.job_id, **manifest.record_fields())
    _deliver_launch(directory, manifest.job_id, registry)


def record_launch(registry: JobRegistry, job_id: str, fields: Mapping[str, object]) -> bool:
    """Move a record to `scheduled`. Return False if the runner was faster and has moved it further, or if it has ended.

    Raises:
        StoreError, TooManyRetriesError: if the record could not be written.
    """
    try:
        registry.update_status(job_id, JobStatus.SCHEDULED, **fields)
    except InvalidTransitionError:
        if fields:
            with contextlib.suppress(InvalidTransitionError):
                registry.update_fields(job_id, **fields)
        return False
    return True


def try_record_launch(registry: JobRegistry, job_id: str, fields: Mapping[str, object]) -> tuple[str, ...]:
    """Record a launch as `record_launch` does. Return a warning if the record could not be written, or has ended."""
    try:
        ended = None if record_launch(registry, job_id, fields) else registry.get_job(job_id)
    except (StoreError, TooManyRetriesError) as error:
        return (f"{error} The job is launched; its record follows.",)
    if ended is None or not (ended.is_terminal and ended.error_code == LAUNCH_FAILED):
        return ()
    # The launch took so long that another process has given it up. Its runner stops at the first report.
    why = f"The job was given up before it was launched: {str(ended.error_message).rstrip('.')}."
    return (f"{why} To run it: {command_line('resume', job_id)}",)


def _deliver_launch(directory: JobDir, job_id: str, registry: JobRegistry) -> None:
    if directory.launch_fields.exists():
        fields: Any = read_json(directory.launch_fields.read_bytes())
        if fields.get("error_code") == LAUNCH_FAILED:
            # It is not launched, and not over: a resume does that with these options.
            options = {name: value for name, value in fields.items() if not name.startswith("error_")}
            with contextlib.suppress(InvalidTransitionError):
                registry.update_fields(job_id, **options)
        else:
            record_launch(registry, job_id, fields)
        directory.launch_fields.unlink(missing_ok=True)


def deliver_offline(directory: JobDir, job_id: str, session: Session) -> bool:
    """Move what this machine keeps of a job into the store, and register the job.

    A delivery that was interrupted goes on at the next call. A warning names each value that can never be stored.

    Returns:
        False if this machine keeps nothing of the job.

    Raises:
        JobExistsError: if the id belongs to another job by now. Everything stays on this machine.
        RecordError: if the manifest on this machine is not valid.
        StoreError: if the store does not answer or refuses; see `deliver`.
    """
    if not has_undelivered(directory):
        return False
    store = session.store
    registry = _backdated_registry(session.registry, directory)
    with open_outbox(directory) as outbox:
        if outbox is not None:
            # The record comes first: pods begin as soon as they see the manifest, and then write into the record.
            _register(outbox, job_id, store, registry)
            deliver(outbox, store, job_id, _warner(session, REMOVED), log=find_pack_log(store, job_id, 0))
    _deliver_launch(directory, job_id, registry)
    return True


def has_undelivered(directory: JobDir) -> bool:
    """Return True if this machine keeps something of a job that the registry does not have yet.

    Raises:
        StoreError: if the outbox cannot be read.
    """
    with open_outbox(directory) as outbox:
        return directory.launch_fields.exists() or _has_values(outbox)


def keeps_of_runner(directory: JobDir) -> bool:
    """Return whether a runner of this machine left there what `deliver_kept` moves into the store.

    Raises:
        StoreError: if the outbox cannot be read.
    """
    return has_undelivered(directory) or any(_has_journal(directory, number) for number in directory.ledger_numbers())


def _has_values(outbox: VersionedStore | None) -> bool:
    return outbox is not None and next(iter(outbox.list_keys()), None) is not None


def _register(outbox: VersionedStore, job_id: str, store: VersionedStore, registry: JobRegistry) -> None:
    """Register the job of a manifest in the outbox, unless that happened before the outage.

    Raises:
        JobExistsError: if the id belongs to another job.
    """
    key = manifest_key(job_id)
    found = outbox.get(key)
    if found is None:
        return
    manifest = Manifest.from_json(found.value, key=key)
    stored = store.get(key)
    state = registry.get_job(job_id)
    if stored is None:
        is_same_job = state is None or state.metadata.get("bundle") == manifest.bundle
    else:
        is_same_job = stored.value == found.value
    if is_same_job and state is None:
        registry.register_job(job_id, **manifest.record_fields())
    if not is_same_job:
        raise JobExistsError(
            job_id, f"In the registry, {job_id} is another job: what this machine keeps of it was not delivered."
        )


REMOVED = "cannot be delivered, and is removed"

LEDGER_SECONDS = 30.0
"""How long the journal of a shard may take. What the store does not take by then goes into the outbox."""


def deliver_shards(state: JobState, session: Session, engine: EngineState | None = None) -> JobState:
    """Move what the shards of a job on Slurm left into the store.

    What they report by files is delivered at any time. What they kept while the registry did not answer waits until
    the job array has ended, and is known to have.

    Args:
        state: the record of the job.
        session: the registry, the environment and the messages.
        engine: what Slurm says about the job; None: Slurm is asked, if shards may have left something.

    Returns:
        The record after that.

    Raises:
        EngineError: if Slurm does not answer, or if the files are not here; see `find_drop`.
        StoreError: if the store does not answer or refuses; see `deliver`.
    """
    if engine_of(state.fields()) != "slurm":
        return state
    drop = find_drop(state, session)
    unsent = [
        (number, directory)
        for number, directory in JobDir.for_job(state.job_id, session.env).shard_directories()
        if directory.outbox.exists() or _has_journal(directory, number)
    ]
    if drop is None and not unsent:
        return state
    engine = engine or open_engine("slurm", session.env).state(state.fields())
    has_stopped = not engine.may_be_at_work
    removes = _warner(session, REMOVED)
    if drop is not None:
        is_over = has_stopped and state.is_terminal
        warn = removes if is_over else _warner(session, "cannot be delivered")
        state = deliver_drop(state, session, warn, is_over=is_over)
    if not has_stopped:  # SQLite cannot share a file among nodes: not even a look at the outbox of one at work is safe
        return state
    deliveries = [_deliver_outbox(directory, number, state.job_id, session, removes) for number, directory in unsent]
    ends = {end.shard: end for end in engine.lost}
    deliveries += [
        _deliver_journal(directory, number, state.job_id, session, ends.get(number)) for number, directory in unsent
    ]
    if any(deliveries):
        session.note(f"{state.job_id}: delivered what its shards kept")
    state = session.registry.get_job(state.job_id) or state
    return infer_end(state, RunnerEnd(), session).state if state.status == JobStatus.CANCELLED else state


def deliver_kept(job_id: str, directory: JobDir, session: Session) -> None:
    """Move what a runner of this machine left there into the store. It has ended.

    Raises:
        StoreError: if the store does not answer or refuses; see `deliver_offline`.
    """
    is_delivered = deliver_offline(directory, job_id, session)
    for number in directory.ledger_numbers():
        is_delivered |= _deliver_journal(directory, number, job_id, session)
    if is_delivered:
        session.note(f"{job_id}: delivered what its runner kept on this machine")


def complete_end(state: JobState, session: Session, *, is_delivered: bool = False) -> JobState:
    """Deliver and count what a runner that has ended kept on this machine of a job whose end no runner stated.

    Args:
        state: the record of the job.
        session: the registry, the environment and the messages.
        is_delivered: whether some of it was delivered just now.

    Returns:
        The record after that. As it is if the job goes on, if its runner may be at work, or if nothing was kept.

    Raises:
        StoreError: if the store does not answer or refuses; see `deliver_offline`.
    """
    directory = JobDir.for_job(state.job_id, session.env)
    may_change = state.status == JobStatus.CANCELLED or is_correctable(state)
    if not may_change or state.engine not in LOCAL_ENGINES or runner_end(directory) is None:
        return state
    with contextlib.suppress(BlockingIOError), directory_lock(str(directory.path), wait=False):
        if keeps_of_runner(directory):
            deliver_kept(state.job_id, directory, session)
        elif not is_delivered:
            return state
        with contextlib.suppress(InvalidTransitionError, NoManifestError):
            return infer_end(state, RunnerEnd(), session).state
    return state


def _warner(session: Session, what: str) -> OnRefused:
    return lambda key, reason: session.warn(f"{key} {what}: {reason}")


def _has_journal(directory: JobDir, shard: int) -> bool:
    return next(directory.ledger(shard).glob("*.jsonl"), None) is not None


def _deliver_outbox(directory: JobDir, shard: int, job_id: str, session: Session, on_refused: OnRefused) -> bool:
    """Move the outbox of a shard into the store. Return False if there is none, or if it is empty."""
    with open_outbox(directory) as outbox:
        if outbox is None or not _has_values(outbox):
            return False
        log = find_pack_log(session.store, job_id, shard)
        return deliver(outbox, session.store, job_id, on_refused, relay=SHARD, log=log)


def _deliver_journal(directory: JobDir, shard: int, job_id: str, session: Session, end: ShardEnd | None = None) -> bool:
    """Send the attempts that killed runs of a shard left, as its next run would. Return False if there are none.

    Those that it had in hand have the end of the shard as their error, if the engine knows it.
    """
    if not _has_journal(directory, shard):
        return False
    manifest = load_manifest(session.store, job_id)
    complete = find_complete_tasks(session.store, manifest).complete
    with contextlib.closing(SQLiteVersionedStore(directory.outbox)) as outbox:
        ledger = Ledger(session.store, outbox, job_id, shard, directory.ledger(shard))
        ledger.send_left(
            lambda task: any(complete[place] for place in manifest.positions([task])),
            lambda attempt: attempt if end is None else ended_with(attempt, end),
        )
        ledger.close(LEDGER_SECONDS)
    return True

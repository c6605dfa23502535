"""The drop of a job: files by which shards report if their nodes do not reach the registry.

It lies in the directory of the job, which the nodes share with the machine that has submitted it:

    drop/job/    manifest and bundle of the job, from that machine
    drop/N/      the record of shard N, its outputs, events and attempts, from its runner

Each directory is a store with one writer, of files that appear whole (store/directory.py). `deliver_drop` moves what
the shards leave. It may stop anywhere, run at any time, and run twice: all but the counts is written by
`create_if_absent`. Readers know chunks of events by their names, whatever hour these lie in. Outputs stay until the job
has ended, so that a shard that is started again knows its complete tasks. See docs/decisions/0088-a-drop-of-files.md.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import os
from collections.abc import Collection, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from mopsjobs.bundles.bundle import bundle_key
from mopsjobs.engines import has_drop
from mopsjobs.engines.base import last_launch
from mopsjobs.engines.job_dir import MAX_SHARD, JobDir
from mopsjobs.errors import (
    VALUE_ERRORS,
    EngineError,
    JobExistsError,
    StoreError,
    TerminalStateError,
    UsageError,
    command_line,
    shorten,
)
from mopsjobs.events import format as event_format
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.keys import ANNOUNCEMENT, EVENTS, OUTPUT, RECORD, SHARD, belongs_to
from mopsjobs.registry.status import JobStatus
from mopsjobs.registry.transitions import ShardReport, all_shards_done, shard_precision
from mopsjobs.registry.usage import shard_usage
from mopsjobs.store.base import Entry, ReadableStore, Versioned, VersionedStore, WantsValues, always
from mopsjobs.store.directory import DirectoryVersionedStore
from mopsjobs.studies.manifest import Manifest, load_manifest, manifest_key
from mopsjobs.studies.outputs import find_complete_tasks, results_prefix, scan_outputs
from mopsjobs.studies.pack_log import find_pack_log
from mopsjobs.submission.relay import OnRefused, deliver
from mopsjobs.submission.session import Session
from mopsjobs.utils.file_systems import network_file_system
from mopsjobs.utils.text import join_first, parse_whole_number, pluralize
from mopsjobs.utils.times import parse_time

JOB = "job"
"""The directory with manifest and bundle."""

NAME_SECONDS = 90.0
"""How long a machine may not see a name that another one has made on a network file system. NFS has 60 by default."""

NOT_DELIVERED = (RECORD, ANNOUNCEMENT)
"""A shard's own record, whose counts are reported, and its announcements."""


class ShardDrop(DirectoryVersionedStore):
    """The directory of one shard, which its runner uses in place of the registry. Manifest and bundle are there too."""

    def __init__(self, drop: Path, shard: int) -> None:
        """Name the directories. The first write makes that of the shard."""
        super().__init__(drop / str(shard))
        self._job = DirectoryVersionedStore(drop / JOB)

    def get(self, key: str) -> Versioned | None:
        """Return a value of the shard, else one of the job."""
        return super().get(key) or self._job.get(key)

    def scan(self, prefix: str = "", wants_values: WantsValues = always, after: str = "") -> Iterator[Entry]:
        """List the values of the shard, and outputs of other jobs that `fill_drop` put there."""
        own = super().scan(prefix, wants_values, after)
        if not prefix.startswith(OUTPUT.prefix):
            return own
        return heapq.merge(own, self._job.scan(prefix, wants_values, after), key=lambda entry: entry.key)


class _DropDirectory(DirectoryVersionedStore):
    """A directory of the drop where it is delivered. Its errors concern one job: they are not those of the registry."""

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Turn the errors of the system into those of the engine."""
        try:
            with super().translate_errors():
                yield
        except VALUE_ERRORS:
            raise
        except StoreError as error:
            raise EngineError(error.message) from error


def fill_drop(directory: JobDir, manifest: Manifest, store: ReadableStore) -> None:
    """Put manifest and bundle of a job where its shards find them, and the outputs of tasks that it reuses.

    Only an adaptive study reuses tasks here: its decisions need the values of these.

    Args:
        directory: the directory of the job.
        manifest: the manifest of the job.
        store: the store with manifest and bundle.

    Raises:
        EngineError: if another job of the id has left a drop there, or if one of the two stores cannot be used.
    """
    job_id, key = manifest.job_id, manifest_key(manifest.job_id)
    foreign = EngineError(
        f"{directory.drop} belongs to another job of the id {job_id}.",
        hint=f"Use another id, or first deliver that job, with its registry: {command_line('validate', job_id)}",
    )
    drop = DirectoryVersionedStore(directory.drop / JOB)
    try:
        if drop.get(key) is None and any(_shards_of(directory.drop, job_id)):
            raise foreign  # a runner would take these outputs for its own
        for needed in (bundle_key(manifest.bundle), key):
            if drop.get(needed) is None:
                value = store.get(needed)
                if value is None:
                    raise EngineError(f"The shards cannot get their code: {needed} is not in the store.")
                drop.create_if_absent(needed, value.value)
        in_drop = drop.get(key)
        _copy_reused(manifest, store, drop)
    except StoreError as error:
        raise EngineError(f"The shards cannot get their code: {error}") from None
    if in_drop is None or in_drop.value != manifest.to_json():
        raise foreign


def _copy_reused(manifest: Manifest, store: ReadableStore, drop: VersionedStore) -> None:
    for reuse in manifest.reused:
        wanted = {(task.param_id, str(task.seed)) for _, task in manifest.tasks() if reuse.has(task.number)}
        for (param_id, seed, _), entry in scan_outputs(store, reuse.job_id):
            if (param_id, seed) in wanted:
                value = entry.value
                if value is None and (found := store.get(entry.key)) is not None:
                    value = found.value
                if value is not None:
                    drop.create_if_absent(entry.key, value)


def find_drop(state: JobState, session: Session) -> Path | None:
    """Return the drop of a job; None if it has none yet, or none any more.

    Raises:
        EngineError: if the job has not ended, and its drop is not here, or its record does not tell whether it has one.
    """
    directory = JobDir.for_job(state.job_id, session.env)
    if not has_drop(state.fields()):
        return None
    if os.path.isdir(directory.drop):
        return directory.drop
    if state.is_terminal or state.status in (JobStatus.PENDING, JobStatus.SUBMITTING):
        return None
    if last_launch(state.fields()).get("file_drop") != "yes":
        raise EngineError(f"invalid slurm_file_drop in the record of {state.job_id}: expected yes or no.")
    raise EngineError(
        f"The shards of {state.job_id} report by files, and {directory.path} has none: its files are in another state"
        " directory (XDG_STATE_HOME) or of another user."
    )


def deliver_drop(state: JobState, session: Session, on_refused: OnRefused, *, is_over: bool) -> JobState:
    """Move what the shards of a job left so far into the store, and report their counts.

    Args:
        state: the record of the job.
        session: the registry and the environment.
        on_refused: called with key and reason for each value that can never be stored.
        is_over: whether the job has ended, and no shard is at work. Then nothing stays in the drop.

    Returns:
        The record after that. It is `validating` if each shard has tried all its tasks.

    Raises:
        EngineError: if the directory does not answer or refuses; see also `find_drop`.
        JobExistsError: if the drop belongs to another job of the id. Nothing was delivered.
        RecordError: if the record of a shard is invalid.
        StoreError: if the store does not answer or refuses.
        TooManyRetriesError: if the record could not be written.
    """
    job_id, store, registry = state.job_id, session.store, session.registry
    drop = find_drop(state, session)
    if drop is None:
        return state
    _check_owner(drop, job_id, store)
    results, shards = results_prefix(job_id), _count_shards(state)
    delivered, refused = set(store.list_keys(results)), list[str]()
    log = find_pack_log(store, job_id, 0)
    for shard in _shards_of(drop, job_id):
        # Before its outputs: the counts never say more than what is delivered.
        report = shard.report()
        deliver(
            shard.store,
            store,
            job_id,
            on_refused,
            relay=SHARD,
            skips=functools.partial(shard.skips, delivered),
            stays=lambda key: not is_over and key.startswith(results),  # a runner may read it again
            key_of=lambda key: _delivery_key(key, session.now()),
            on_foreign=refused.append,
            log=log and log.of_shard(shard.number),
            is_known_absent=True,
        )
        refused += shard.store.left_out
        # A shard that the job no longer has leaves outputs. Others report its tasks now.
        if report is not None and shard.number < shards and not state.is_terminal:
            state = _take_report(state, shard.number, report, registry)
    if refused:
        session.warn(_refusal(job_id, refused, drop))
    if is_over:
        _remove(drop, job_id, delivered)
    elif state.status == JobStatus.RUNNING and all_shards_done(state, shards):
        with contextlib.suppress(TerminalStateError):  # another process has just ended it
            state = registry.update_status(job_id, JobStatus.VALIDATING)
    return state


def first_error(state: JobState, session: Session) -> str | None:
    """Return the error of the first shard that reports one in the drop of a job; None without any.

    Raises:
        EngineError: if the drop is not here; see `find_drop`.
    """
    drop = find_drop(state, session)
    if drop is None:
        return None
    reports = (shard.report() for shard in _shards_of(drop, state.job_id))
    return next((one.error_message for one in reports if one is not None and one.error_message), None)


def may_lack_files(state: JobState, session: Session, ended_at: datetime | None) -> bool:
    """Return whether files of shards that have ended may still be unseen here, and outputs are missing.

    Args:
        state: the record of the job.
        session: the registry, the environment and the clock.
        ended_at: when the last shard ended; None if Slurm has forgotten it. Then the last change of the record counts.

    Raises:
        EngineError: if the drop is not here; see `find_drop`.
    """
    drop = find_drop(state, session)
    if drop is None or network_file_system(str(drop)) is None:
        return False
    if (session.now() - (ended_at or parse_time(state.updated_at))).total_seconds() > NAME_SECONDS:
        return False
    manifest = load_manifest(session.store, state.job_id)
    found = find_complete_tasks(session.store, manifest)
    return found.count < found.expected


class _Shard(NamedTuple):
    """The directory of one shard."""

    number: int
    store: DirectoryVersionedStore
    job_id: str

    def skips(self, delivered: Collection[str], key: str) -> bool:
        """Return whether a key was delivered before, or is one of `NOT_DELIVERED`."""
        return key in delivered or belongs_to(key, self.job_id, NOT_DELIVERED)

    def report(self) -> JobState | None:
        """Return the record of the shard; None before its first report."""
        record = JobRegistry(self.store).get_job(self.job_id)
        return record if record is not None and str(self.number) in record.shards else None


def _shards_of(drop: Path, job_id: str) -> Iterator[_Shard]:
    """Yield the shards that have written something, in their order."""
    names: list[str] = []
    with _DropDirectory(drop).translate_errors(), contextlib.suppress(FileNotFoundError), os.scandir(drop) as entries:
        names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    numbers = (parse_whole_number(name, 0, MAX_SHARD) for name in names)
    for number in sorted(number for number in numbers if number is not None):
        yield _Shard(number, _DropDirectory(drop / str(number)), job_id)


def _check_owner(drop: Path, job_id: str, store: VersionedStore) -> None:
    """Refuse the drop of a job of the same id, from another registry."""
    key = manifest_key(job_id)
    in_drop, in_store = _DropDirectory(drop / JOB).get(key), store.get(key)
    if in_drop is not None and in_store is not None and in_store.value != in_drop.value:
        raise JobExistsError(job_id, f"{drop} belongs to another job of the id {job_id}: it was not delivered.")


def _refusal(job_id: str, refused: list[str], drop: Path) -> str:
    """Return the warning about files that no shard of a job writes."""
    named = join_first([shorten(name, 200).encode("utf-8", "backslashreplace").decode() for name in refused])
    return (
        f"{job_id}: {pluralize(len(refused), 'file')} of {drop} that no shard writes stay there, undelivered: {named}"
    )


def _delivery_key(key: str, now: datetime) -> str:
    """Return the key under which a value is delivered: events under the hour of the delivery, where readers look."""
    parts = EVENTS.parse(key)
    return key if parts is None else EVENTS.key(**parts | {"hour": event_format.bucket_of(now)})


def _take_report(state: JobState, shard: int, record: JobState, registry: JobRegistry) -> JobState:
    """Bring the counts of a shard into the record of the job, unless they are there, or contradict the others."""
    name = str(shard)
    if record.shards[name] == state.shards.get(name) and record.usage.get(name) == state.usage.get(name):
        return state
    counts: Any = record.shards[name]
    usage = shard_usage(record, shard) if name in record.usage else None
    precision = shard_precision(record, shard)
    report = ShardReport(counts[0], counts[1], bool(counts[2]), usage=usage, precision=precision, is_relayed=True)
    began = next((str(step["at"]) for step in record.transitions if step["status"] == JobStatus.RUNNING), None)
    registry = registry.backdated_to(None if began is None else parse_time(began))
    try:
        return registry.report_shard(state.job_id, shard, _count_shards(state), report)
    except UsageError:  # a report from before a launch with other shards, until that of this launch
        return state
    except TerminalStateError:  # another process has just ended it
        return registry.get_job(state.job_id) or state


def _count_shards(state: JobState) -> int:
    return parse_whole_number(last_launch(state.fields()).get("shards", ""), 1, MAX_SHARD) or 1


def _remove(drop: Path, job_id: str, delivered: Collection[str]) -> None:
    """Remove the drop of a job that is over. A file that was not seen at the delivery stays for the next one.

    The manifest then stays too, since it tells whose file that is. Only an empty directory can be removed, also if this
    machine does not see what is in it.
    """
    for shard in _shards_of(drop, job_id):
        for key in shard.store.list_keys():
            if shard.skips(delivered, key):
                shard.store.delete(key)
        shard.store.remove_parts()
        _remove_directories(shard.store.path)
    if any(_shards_of(drop, job_id)):
        return
    job = _DropDirectory(drop / JOB)
    for key in job.list_keys():
        job.delete(key)
    job.remove_parts()
    _remove_directories(drop)


def _remove_directories(top: str | Path) -> None:
    """Remove a directory and those in it, as far as they are empty."""
    for directory, _, _ in os.walk(top, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(directory)

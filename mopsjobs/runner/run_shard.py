"""Work through one shard of a job, from its manifest to its end."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator

from mopsjobs.bundles.extraction import BundleError
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.model_errors import ModelError
from mopsjobs.errors import (
    EngineError,
    EngineUnavailableError,
    JobNotFoundError,
    MopsJobsError,
    NoManifestError,
    StoreError,
    StoreUnavailableError,
)
from mopsjobs.events.format import LOG, RUNNER, STATE
from mopsjobs.events.writer import EventLog, state_fields
from mopsjobs.ledger.environment import EnvironmentNotes
from mopsjobs.ledger.writer import Ledger
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.usage import time_limit_text
from mopsjobs.runner.fail_early import FailEarly
from mopsjobs.runner.output_sender import OutputSender, StoreWithOutbox
from mopsjobs.runner.pools.base import Feed, Pool
from mopsjobs.runner.pools.open_pool import open_pool
from mopsjobs.runner.reducer import ReduceEnd, Reducer
from mopsjobs.runner.reporter import CORES_TEXT, Counts, Reporter
from mopsjobs.runner.result_handler import ResultHandler
from mopsjobs.runner.retry import TRANSIENT_ERRORS, OutageRetry, stop_on_signals, wait_for_manifest
from mopsjobs.runner.shard import Shard, ShardResult, TaskProgress
from mopsjobs.runner.shard_end import ShardEnd, shard_end_class
from mopsjobs.runner.task_meter import TaskMeter
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.outputs import find_complete_tasks
from mopsjobs.studies.study import Task
from mopsjobs.submission.offline import register_offline, shard_started_at
from mopsjobs.utils.files import private_opener
from mopsjobs.utils.times import human_duration, utc_now


def run_shard(
    shard: Shard,
    store: VersionedStore,
    registry: JobRegistry,
    directory: JobDir,
    *,
    on_log: Callable[[str], None],
    on_progress: Callable[[TaskProgress], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> ShardResult:
    """Run the tasks of a shard that are not complete yet.

    SIGTERM and SIGINT end the run in order: what is done is kept, and the rest is left to a restart.

    Args:
        shard: the shard, and how to run its tasks.
        store: where manifest, bundle and outputs are.
        registry: where the record is.
        directory: the job's own on this machine, for its code and for outputs that the store does not take now.
        on_log: called with each message.
        on_progress: called at least every half second while tasks run.
        sleep: waits that many seconds.

    Raises:
        NoManifestError: if there is no manifest, also after waiting for it.
        ModelError: if the model cannot be loaded. The record then says `failed`, and why.
        StoreError: if manifest or bundle cannot be read, or the store takes no outputs. The record then says `failed`,
            and why, if it can be written. Outputs are kept in the directory.
    """
    retry = OutageRetry(
        shard.outage_seconds,
        sleep,
        lambda: on_log(
            f"The registry does not answer; waiting up to {human_duration(shard.outage_seconds)}."
            " Ctrl-C keeps what is done here."
        ),
    )
    outbox = SQLiteVersionedStore(directory.outbox)
    with contextlib.closing(outbox), stop_on_signals(retry, on_log):
        try:
            manifest = wait_for_manifest(
                shard.job_id, StoreWithOutbox(store, outbox), retry, on_log, wait=shard.wait_for_manifest
            )
        except (*TRANSIENT_ERRORS, NoManifestError):
            if retry.is_stopping:
                return ShardResult(None, 0, 0, is_done=False, signal=retry.signal)
            raise
        run = _Run(shard, manifest, store, outbox, registry, directory, on_log, retry)
        return run.run(on_progress or (lambda _progress: None))._replace(signal=retry.signal)


@dataclasses.dataclass
class _Run:
    """One run over a shard."""

    _shard: Shard
    _manifest: Manifest
    _store: VersionedStore
    _outbox: SQLiteVersionedStore
    _registry: JobRegistry
    _directory: JobDir
    _on_log: Callable[[str], None]
    _retry: OutageRetry

    def __post_init__(self) -> None:
        self._store_with_outbox = StoreWithOutbox(self._store, self._outbox)
        self._duplicates = self._manifest.duplicate_tasks()
        self._counts = Counts()
        self._todo = 0
        """Tasks that this run has to run."""

    def run(self, on_progress: Callable[[TaskProgress], None]) -> ShardResult:
        """Run tasks until the shard is done, the job has ended, or a signal stops the run."""
        shard = self._shard
        with contextlib.closing(self._open_events()) as events:
            reporter = Reporter(
                self._registry,
                shard.job_id,
                shard.number,
                shard.shards,
                self._counts,
                register=self._register,
                pause=shard.report_seconds,
            )
            reporter.note = self._note_report
            sender = OutputSender(self._store, self._outbox)
            ledger = Ledger(self._store, self._outbox, shard.job_id, shard.number, self._directory.ledger(shard.number))
            notes = EnvironmentNotes(shard.job_id, self._store, self._outbox)
            handler = ResultHandler(self._manifest, self._counts, sender, ledger, events, self._on_log)
            end = self._open_end()
            try:
                early = FailEarly(shard, self._manifest.tasks_total, self._counts, reporter, self._retry)
                with contextlib.closing(ledger):
                    try:
                        with contextlib.closing(notes):
                            is_done = self._run_tasks(
                                handler, ledger, reporter, events, notes, on_progress, early=early
                            )
                    finally:
                        sender.finish()  # also after an error: what was done is kept
                    self._send_left_late(ledger)
                if early.end is not None and not reporter.ended.is_set():
                    self._on_log(f"{early.end.reason}.")
                    events.emit(RUNNER, text=early.end.reason)
                reduce = functools.partial(self._reduce, reporter, events)
                reduce_if_any = None if self._manifest.study.reduce is None else reduce
                return end.finish(reporter, sender, handler, early.end, reduce_if_any, is_done=is_done)
            except TRANSIENT_ERRORS:
                if self._retry.is_stopping:
                    return ShardResult(None, *self._counts.snapshot(), is_done=False)
                raise
            except (ModelError, BundleError, StoreError) as error:
                self._fail(error, events, reporter, end)
                raise
            except OSError as error:
                problem = EngineError(f"This machine cannot run the job in {self._directory.path}: {error}.")
                self._fail(problem, events, reporter, end)
                raise problem from None
            finally:
                reporter.stop()

    def _open_end(self) -> ShardEnd:
        open_end = shard_end_class(self._shard)
        return open_end(self._shard, self._store, self._registry, self._retry, self._counts, self._on_log)

    def _note_report(self, sent_at: str, reported_at: str | None) -> None:
        """Note a report on this machine. A cluster tells by itself whether a runner of its shards has ended."""
        if not self._shard.wait_for_manifest:
            path = str(self._directory.report_file(self._shard.number))
            with contextlib.suppress(OSError), open(path, "w", encoding="ascii", opener=private_opener) as file:
                file.write(f"{sent_at} {reported_at}")

    def _open_events(self) -> EventLog:
        """Return the log of events. Each write to the record leaves one, unless the record is that of a drop."""
        shard, source = self._shard, f"runner-{self._shard.number}"
        events = EventLog(self._store, shard.job_id, source=source, flush_seconds=shard.report_seconds)
        if shard.drop is None:
            self._registry = self._registry.with_on_write(
                lambda _key, value, _version: events.emit(STATE, **state_fields(JobState.from_json(value)))
            )
        return events

    def _fail(self, error: MopsJobsError, events: EventLog, reporter: Reporter, end: ShardEnd) -> None:
        """End the job with an error, if the registry can be reached."""
        reporter.stop()
        events.emit(RUNNER, text=str(error), **(error.event_fields if isinstance(error, ModelError) else {}))
        if isinstance(error, StoreError):
            self._on_log(end.kept_text)

        def finalize() -> None:
            if self._counts.started_at is not None:
                reporter.finish(is_done=False)  # the record gets the time at which it ran
            end.fail(error, self._manifest)

        def register_and_finalize() -> None:
            try:
                finalize()
            except JobNotFoundError:
                self._register()
                finalize()

        with contextlib.suppress(MopsJobsError):
            self._retry.call(register_and_finalize)

    def _tasks_to_run(self, ledger: Ledger) -> Iterator[tuple[int, Task]]:
        """Count the tasks of the shard that are complete, and return the others.

        A duplicate is the same simulation as an earlier task, and belongs to the shard and the counts of that.
        """
        number, shards = self._shard.number, self._shard.shards
        complete = self._find_complete()
        if not self._counts.is_lower_bound:
            self._send_left(ledger, complete)
        self._counts.add(completed=self._count_tasks(complete))
        mine = complete[number::shards]
        repeated = sum(not complete[position] for position in self._duplicates if position % shards == number)
        self._todo = len(mine) - sum(mine) - repeated
        return (
            (position, task)
            for position, task in self._manifest.tasks()
            if position % shards == number and not complete[position] and position not in self._duplicates
        )

    def _send_left(self, ledger: Ledger, complete: bytearray) -> None:
        ledger.send_left(lambda task: any(complete[place] for place in self._manifest.positions([task])))

    def _send_left_late(self, ledger: Ledger) -> None:
        """Send what earlier runs left of the ledger, if the store did not answer at the start.

        It cannot be told whose outputs are in the store: those of an earlier run, most likely. So they count as that.
        If the store is still away, the next run does it.
        """
        if self._counts.is_lower_bound and not self._retry.is_stopping:
            with contextlib.suppress(StoreError):
                self._send_left(ledger, find_complete_tasks(self._store_with_outbox, self._manifest).complete)

    def _count_tasks(self, complete: bytes | bytearray | None = None) -> int:
        """Return how many tasks of the shard are complete; without `complete`, how many it has."""
        number, shards = self._shard.number, self._shard.shards
        counted = bytes([1]) * self._manifest.study.tasks_total if complete is None else complete
        moved = (
            counted[duplicate] * ((first % shards == number) - (duplicate % shards == number))
            for duplicate, first in self._duplicates.items()
        )
        return sum(counted[number::shards]) + sum(moved)

    def _find_complete(self) -> bytearray:
        try:
            complete = find_complete_tasks(self._store_with_outbox, self._manifest).complete
        except StoreUnavailableError:
            # The store may hold more. Those tasks run again; `create_if_absent` then leaves their outputs as they are.
            return find_complete_tasks(self._outbox, self._manifest).complete
        self._counts.is_lower_bound = False
        return complete

    def _run_tasks(
        self,
        handler: ResultHandler,
        ledger: Ledger,
        reporter: Reporter,
        events: EventLog,
        notes: EnvironmentNotes,
        on_progress: Callable[[TaskProgress], None],
        *,
        early: FailEarly,
    ) -> bool:
        """Run tasks until none is left, a stop is requested or the job ends. Return whether none is left."""
        tasks = self._tasks_to_run(ledger)
        first = next(tasks, None)
        if first is not None and (reporter.has_ended() or not early.wait(self._on_log)):
            return False  # before the model is loaded: a pod that is tried again may find the job ended
        pool = None if first is None else self._open_pool(events, notes)
        begun = None if first is None or self._shard.cores is not None else utc_now()  # it may wait for a core first
        self._counts.started_at = shard_started_at(self._directory, self._shard.number, begun)
        if first is None or pool is None:
            return True
        total = self._count_tasks()
        meter = TaskMeter(pool, self._todo, events, stops_at=self._shard.stops_at, on_late=self._tell_late)
        reporter.measured = meter.measured

        def show_progress() -> None:
            meter.update()
            self._note_wait(pool, reporter, events)
            done = sum(self._counts.snapshot())
            on_progress(TaskProgress(done, total, pool.is_ready, pool.is_waiting, meter.left))

        try:
            admitted = early.admit(itertools.chain([first], tasks), self._todo, pool)
            with contextlib.closing(pool.run(admitted)) as results:
                for result in results:
                    if result is not None and not early.is_over:
                        meter.add(result)
                        early.note(result, has_failed=handler.take(result))
                    if early.is_over:
                        handler.note_begun(pool, is_last=True)
                        return False
                    if result is None:
                        handler.note_begun(pool)
                        show_progress()
            show_progress()
        except EngineUnavailableError as error:
            # An outage of the cluster ends this run, not the job: a restart runs the other tasks.
            self._on_log(str(error))
            events.emit(RUNNER, text=str(error))
            return False
        return True

    def _tell_late(self, seconds: float) -> str:
        """Return, and write into the log, that the shard will not finish before its time limit."""
        text = f"This shard {time_limit_text(self._shard.job_id, seconds)}"
        self._on_log(text)
        return text

    def _note_wait(self, pool: Pool, reporter: Reporter, events: EventLog) -> None:
        _report_wait(pool, reporter, events)
        if self._counts.started_at is None and not pool.is_waiting:
            self._counts.started_at = shard_started_at(self._directory, self._shard.number, utc_now())

    def _open_pool(self, events: EventLog, notes: EnvironmentNotes, feed: Feed | None = None) -> Pool:
        shard = self._shard

        def on_log(task: int | None, line: str) -> None:
            task = task if feed is None else None  # a reduction has no number
            events.emit(LOG, task=task, text=line)
            if shard.echo:
                self._on_log(line if task is None else f"[{task}] {line}")

        return open_pool(
            shard,
            self._manifest,
            self._store_with_outbox,
            self._directory,
            self._retry,
            on_log,
            notes=notes,
            feed=feed,
        )

    def _reduce(self, reporter: Reporter, events: EventLog) -> ReduceEnd:
        """Run the reduce function of the study."""
        pools: list[Pool] = []

        def open_reduce_pool(feed: Feed) -> Pool:
            pools.append(self._open_pool(events, notes, feed))
            return pools[0]

        def is_over() -> bool:
            _report_wait(pools[0], reporter, events)
            return self._retry.is_stopping or reporter.ended.is_set()

        with contextlib.closing(EnvironmentNotes(self._shard.job_id, self._store, self._outbox)) as notes:
            reducer = Reducer(self._manifest, self._store, self._retry, events, self._on_log, open_reduce_pool)
            try:
                return reducer.run(is_over)
            finally:
                reporter.waits_for = None

    def _register(self) -> None:
        """Register the job, if the registry did not answer when the job was submitted."""
        register_offline(self._directory, self._manifest, self._registry)


def _report_wait(pool: Pool, reporter: Reporter, events: EventLog) -> None:
    if pool.is_waiting and reporter.waits_for is None:
        events.emit(RUNNER, text=f"The job waits for {CORES_TEXT}.")
    reporter.waits_for = CORES_TEXT if pool.is_waiting else None

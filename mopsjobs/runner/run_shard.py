"""One shard of one job, from its manifest to its end."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from mopsjobs.bundles.extraction import BundleError
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.errors import (
    EngineError,
    EngineUnavailableError,
    JobNotFoundError,
    MopsJobsError,
    NoManifestError,
    StoreError,
    StoreUnavailableError,
)
from mopsjobs.events.writer import EventLog, state_fields
from mopsjobs.registry import transitions
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.status import JobStatus
from mopsjobs.runner.manifest import find_manifest
from mopsjobs.runner.model_errors import ModelError
from mopsjobs.runner.output_sender import OutputSender, StoreWithOutbox
from mopsjobs.runner.pools import PoolOptions, open_pool
from mopsjobs.runner.pools.local import Pool, TaskResult
from mopsjobs.runner.reporter import Counts, Reporter
from mopsjobs.runner.retry import TRANSIENT_ERRORS, OutageRetry
from mopsjobs.runner.shard import Shard, ShardResult
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.studies.manifest import NAMES_NAME, Manifest
from mopsjobs.studies.outputs import find_complete_tasks, output_key
from mopsjobs.studies.study import Task, is_output_name
from mopsjobs.studies.validation import validate
from mopsjobs.submission.offline import register_offline, shard_started_at
from mopsjobs.utils.times import human_duration, utc_now

KEPT = "outputs are kept here. Running the job again delivers them."


def run_shard(
    shard: Shard,
    store: VersionedStore,
    registry: JobRegistry,
    directory: JobDir,
    *,
    on_log: Callable[[str], None],
    on_progress: Callable[[int], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> ShardResult:
    """Work through a shard's tasks that are not complete yet.

    SIGTERM and SIGINT end it in order, whatever it is at: what is done is kept, the rest is left to a restart.

    Args:
        shard: what to do.
        store: where manifest, bundle and results are.
        registry: where the record is.
        directory: the job's own on this machine: its code, and outputs that the store does not take now.
        on_log: called with each line worth a person's attention.
        on_progress: called with the number of tasks that have come to an end.
        sleep: waits that many seconds.

    Raises:
        NoManifestError: there is none, nor has it come while it was waited for.
        ModelError: the model cannot be loaded. The record then says `failed`, and why.
        StoreError: manifest or bundle cannot be read, or the store takes no outputs. The record then says `failed`,
            and why, if it can be written; outputs are kept in the directory.
    """
    patience = OutageRetry(
        shard.patience,
        sleep,
        lambda: on_log(
            f"The registry does not answer; waiting up to {human_duration(shard.patience)}."
            " Ctrl-C keeps what is done here."
        ),
    )
    kept = SQLiteVersionedStore(directory.outbox)
    with contextlib.closing(kept), _signals(patience, on_log):
        try:
            manifest = find_manifest(shard.job_id, StoreWithOutbox(store, kept), patience, on_log, waits=shard.waits)
        except (*TRANSIENT_ERRORS, NoManifestError):
            if patience.is_stopping:
                return ShardResult(None, 0, 0, is_done=False, signal=patience.signal)
            raise
        run = _Run(shard, manifest, store, kept, registry, directory=directory, on_log=on_log, patience=patience)
        return run.run(on_progress or (lambda _count: None))._replace(signal=patience.signal)


@contextlib.contextmanager
def _signals(patience: OutageRetry, on_log: Callable[[str], None]) -> Iterator[None]:
    def stop(number: int, _frame: object) -> None:
        patience.stop(number)
        with contextlib.suppress(RuntimeError):  # it has come in the midst of a line on the same stream: then unsaid
            on_log(f"Stopping ({signal.Signals(number).name}); what is done is kept.")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Run:
    """The state of one run."""

    def __init__(
        self,
        shard: Shard,
        manifest: Manifest,
        store: VersionedStore,
        kept: SQLiteVersionedStore,
        registry: JobRegistry,
        *,
        directory: JobDir,
        on_log: Callable[[str], None],
        patience: OutageRetry,
    ) -> None:
        self._shard = shard
        self._manifest = manifest
        self._store = store
        self._kept = kept
        self._seen = StoreWithOutbox(store, kept)
        self._registry = registry
        self._directory = directory
        self._on_log = on_log
        self._patience = patience
        self._duplicates = manifest.duplicate_tasks()
        self._twins_of = Counter(self._duplicates.values())
        self._counts = Counts()
        self.first_error: str | None = None

    def run(self, on_progress: Callable[[int], None]) -> ShardResult:
        """Work until the shard is done, the job has ended, or a signal says to stop."""
        shard = self._shard
        with contextlib.closing(EventLog(self._store, shard.job_id, source=f"runner-{shard.number}")) as events:
            self._registry = self._registry.with_on_write(
                lambda _key, value, _version: events.emit("state", **state_fields(JobState.from_json(value)))
            )
            reporter = Reporter(
                self._registry, shard.job_id, shard.number, shard.of, self._counts, register=self._register
            )
            outbox = OutputSender(self._store, self._kept)
            try:
                try:
                    is_done = self._work(outbox, reporter, events, on_progress)
                finally:
                    outbox.finish()  # however the work has ended, what was done is kept
                return self._end(reporter, outbox, events, is_done=is_done)
            except TRANSIENT_ERRORS:
                if self._patience.is_stopping:
                    return ShardResult(None, *self._counts.both(), is_done=False)
                raise
            except (ModelError, BundleError, StoreError) as error:
                reporter.stop()
                self._fail(error, events, reporter)
                raise
            except OSError as error:
                reporter.stop()
                problem = EngineError(f"This machine cannot run the job in {self._directory.path}: {error}.")
                self._fail(problem, events, reporter)
                raise problem from None
            finally:
                reporter.stop()

    def _fail(self, error: MopsJobsError, events: EventLog, reporter: Reporter) -> None:
        """Say in the record what this run ends with, if it can be said at all.

        `failed`; but outputs that an earlier run has left are worth as much as before, so where tasks are complete the
        job ends by its outputs, as any other.
        """
        events.emit("runner", text=str(error), **(error.told if isinstance(error, ModelError) else {}))
        if isinstance(error, StoreError):
            self._on_log(KEPT.capitalize())
        code = "STORE" if isinstance(error, StoreError) else "ENGINE" if isinstance(error, EngineError) else "MODEL"
        info = {"code": code, "message": str(error)}

        def finalize() -> None:
            if self._counts.began_at is not None:
                reporter.finish(is_done=False)  # it has run, for a while
            if not isinstance(error, StoreError) and find_complete_tasks(self._store, self._manifest).count:
                validate(self._store, self._registry, self._shard.job_id, first_error=str(error))
            else:
                self._registry.finalize_job(self._shard.job_id, JobStatus.FAILED, error_info=info)

        def tell() -> None:
            try:
                finalize()
            except JobNotFoundError:
                self._register()
                finalize()

        with contextlib.suppress(MopsJobsError):
            self._patience.call(tell)

    def _todo(self) -> Iterator[tuple[int, Task]]:
        """The shard's tasks that are not complete yet; counts those that are.

        A task that is the same simulation as an earlier one goes with it, into its shard and its counts.
        """
        number, of = self._shard.number, self._shard.of
        complete = self._complete()
        completed = sum(complete[number::of])
        for twin, first in self._duplicates.items():
            completed += complete[twin] * ((first % of == number) - (twin % of == number))
        self._counts.add(completed=completed)
        return (
            (position, task)
            for position, task in self._manifest.tasks()
            if position % of == number and not complete[position] and position not in self._duplicates
        )

    def _complete(self) -> bytearray:
        try:
            complete = find_complete_tasks(self._seen, self._manifest).complete
        except StoreUnavailableError:
            # Nothing can be known of the store, so everything is to be done; what it has already, it will not take
            # twice.
            return find_complete_tasks(self._kept, self._manifest).complete
        self._counts.is_least = False
        return complete

    def _work(
        self, outbox: OutputSender, reporter: Reporter, events: EventLog, on_progress: Callable[[int], None]
    ) -> bool:
        """Run tasks until there are none, or no more are wanted. Tells whether all were worked on."""
        todo = self._todo()
        first = next(todo, None)
        pool = None if first is None else self._pool(events)
        self._counts.began_at = shard_started_at(
            self._directory, self._shard.number, None if first is None else utc_now()
        )
        if first is None or pool is None:
            return True
        try:
            with contextlib.closing(pool.run(itertools.chain([first], todo))) as finished:
                for one in finished:
                    if self._patience.is_stopping or reporter.ended.is_set():
                        return False
                    if one is not None:
                        self._take(one, outbox, events)
                    on_progress(sum(self._counts.both()))
        except EngineUnavailableError as error:
            # Running the job again does the rest: what an outage of the cluster ends is this run, not the job.
            self._on_log(str(error))
            events.emit("runner", text=str(error))
            return False
        return True

    def _pool(self, events: EventLog) -> Pool:
        shard = self._shard

        def on_log(task: int | None, line: str) -> None:
            events.emit("log", task=task, text=line)
            if shard.echo:
                self._on_log(line if task is None else f"[{task}] {line}")

        wanted = PoolOptions(
            workers=shard.workers,
            python=shard.python,
            task_timeout=shard.task_timeout,
            scheduler=shard.scheduler,
            spool=self._directory.spool(shard.number),
        )
        return open_pool(
            wanted,
            self._manifest,
            self._seen,
            self._directory.code,
            self._patience,
            on_log,
            on_died=lambda text: events.emit("runner", text=text),
        )

    def _take(self, one: TaskResult, outbox: OutputSender, events: EventLog) -> None:
        tasks = 1 + self._twins_of[one.position]
        error = one.error
        if one.outputs is not None:
            bad = [name for name in one.outputs if not is_output_name(name)]
            lacking = set(self._manifest.study.outputs or ()) - one.outputs.keys()
            if bad:
                error = {"type": "BadOutput", "message": f"{bad[0]!r} cannot be the name of an output"}
            elif lacking:
                error = {"type": "MissingOutput", "message": f"it left no output {', '.join(sorted(lacking))}"}
        if error is not None:
            self._counts.add(failed=tasks)
            self._tell_failed(f"task {one.task.number}", error, events, task=one.task.number, seed=one.task.seed)
            return
        assert one.outputs is not None  # noqa: S101 - a task has outputs or an error
        outputs = sorted(one.outputs.items())
        if self._manifest.study.outputs is not None:
            outputs = [(name, value) for name, value in outputs if name in self._manifest.study.outputs]
        elif len(outputs) != 1:
            # First the names, then what they name: a task that is cut short in between does not look complete.
            outputs.insert(0, (NAMES_NAME, json.dumps([name for name, _ in outputs]).encode()))
        keyed = [(output_key(self._shard.job_id, one.task, name), value) for name, value in outputs]

        def refused(reason: StoreError) -> None:
            self._counts.add(failed=tasks)
            self._tell_failed(
                f"task {one.task.number}", _refused(reason), events, task=one.task.number, seed=one.task.seed
            )

        outbox.put(keyed, lambda: self._counts.add(completed=tasks), refused)

    def _tell_failed(self, who: str, error: Mapping[str, str], events: EventLog, **which: int) -> None:
        told = f"{who}: {error['type']}: {error['message']}"
        if self.first_error is None:
            self.first_error = told
            self._on_log(told)
        events.emit("task_failed", **which, error=dict(error))

    def _end(self, reporter: Reporter, outbox: OutputSender, events: EventLog, *, is_done: bool) -> ShardResult:
        """Deliver what is kept, report, and let the last shard compare everything with the manifest."""
        shard = self._shard
        if not is_done:
            self._patience.stop()  # the job has ended, or this run has been told to: one attempt at each, no more
        state = None
        try:
            is_done = self._deliver(outbox, events) and is_done
        except TRANSIENT_ERRORS:
            is_done = False
            self._on_log(f"The registry does not answer; {KEPT}")
        else:
            try:
                state = self._patience.call(functools.partial(reporter.finish, is_done=is_done))
            except TRANSIENT_ERRORS:
                if self._patience.is_stopping:
                    raise
        if is_done and state is not None and not state.is_terminal and transitions.all_shards_done(state, shard.of):
            end = functools.partial(validate, self._store, self._registry, shard.job_id, first_error=self.first_error)
            state = self._patience.call(end).state
        completed, failed = self._counts.both()
        return ShardResult(None if state is None else state.status, completed, failed, is_done)

    def _deliver(self, outbox: OutputSender, events: EventLog) -> bool:
        """Move kept outputs into the store; tells whether nothing is left."""
        given_up: set[str] = set()

        def refused(key: str, reason: StoreError) -> None:
            # Its task counts as completed, for it was safe here; once, however many of its outputs are refused.
            task = key.rpartition("/")[0]
            if task not in given_up:
                given_up.add(task)
                self._counts.add(completed=-1, failed=1)
                self._tell_failed(task, _refused(reason), events)

        return self._patience.call(lambda: outbox.deliver(refused, lambda: self._patience.is_over))

    def _register(self) -> None:
        """Register the job, of which the registry has not heard: it was gone when the job was submitted."""
        register_offline(self._directory, self._manifest, self._registry)


def _refused(reason: StoreError) -> dict[str, str]:
    return {"type": type(reason).__name__, "message": str(reason)}

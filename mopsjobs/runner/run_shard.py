"""Work through one shard of a job, from its manifest to its end.

At the end, the shard delivers and reports. The last shard reduces, and decides by the outputs how the job ends. The
record of a drop never ends: the command that delivers the drop ends the job.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

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
from mopsjobs.ledger.attempt import Outcome
from mopsjobs.ledger.environment import EnvironmentNotes
from mopsjobs.ledger.writer import Ledger
from mopsjobs.registry import transitions
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.keys import OUTPUT, belongs_to
from mopsjobs.registry.notes import CLIENT_TEXT, MAX_NOTE, OWN_WRITE, lost_shards, own_write_text
from mopsjobs.registry.status import JobStatus
from mopsjobs.registry.usage import time_limit_text
from mopsjobs.runner.adaptive import AdaptiveFeed
from mopsjobs.runner.checkpoints import Checkpoints, origin_of
from mopsjobs.runner.fail_early import FailEarly
from mopsjobs.runner.growing import GrowingFeed, shards_left_to
from mopsjobs.runner.pools.base import Feed, NextTasks, Pool, TaskResult
from mopsjobs.runner.pools.open_pool import open_pool
from mopsjobs.runner.reducer import ReduceEnd, Reducer
from mopsjobs.runner.reporter import CORES_TEXT, Counts, Reporter
from mopsjobs.runner.results import OutputSender, ResultHandler, StoreWithOutbox, error_fields
from mopsjobs.runner.retry import TRANSIENT_ERRORS, OutageRetry, T, stop_on_signals, wait_for_manifest
from mopsjobs.runner.shard import Shard, ShardResult, TaskProgress
from mopsjobs.runner.sharing import SharedFeed
from mopsjobs.runner.task_meter import TaskMeter
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.studies.lineage import ancestry
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.outputs import Completeness, find_complete_tasks, results_prefix
from mopsjobs.studies.pack_log import pack_log
from mopsjobs.studies.study import Task
from mopsjobs.studies.validation import validate
from mopsjobs.submission.channel import Channel
from mopsjobs.submission.infer_end import RunnerEnd, infer_end
from mopsjobs.submission.offline import register_offline, shard_started_at
from mopsjobs.submission.relay import deliver
from mopsjobs.submission.session import Session
from mopsjobs.utils.cores import usable_cores
from mopsjobs.utils.files import private_opener
from mopsjobs.utils.text import cut_to_length, pluralize, strip_control_characters
from mopsjobs.utils.times import human_duration, utc_now

DELIVERY_SECONDS = 2.0
"""How long after a delivery of what an outage has left the next one begins, at least."""

WAIT_SECONDS = 0.2
"""Between two looks whether other shards give tasks, or have ended some."""

SOON_SECONDS = 1.0
"""How long an attempt at a task of a growing job waits for others in its chunk: its client may wait for it."""

LAST_CHECKPOINTS_SECONDS = 600.0
"""How long those of tasks that have failed may take into a store that takes them slowly. Their next try needs them."""

LAST_EVENTS_SECONDS = 60.0
"""How long the last events may take into a store that takes them slowly."""


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
        run = _Run(shard, manifest, store, outbox, registry, directory, on_log, on_progress, retry)
        return run.run()._replace(signal=retry.signal, saved=run.saved)


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
    _on_progress: Callable[[TaskProgress], None] | None
    _retry: OutageRetry

    def __post_init__(self) -> None:
        shard, store, outbox, pause = self._shard, self._store, self._outbox, self._shard.report_seconds
        self._store_with_outbox = StoreWithOutbox(store, outbox)
        self._counts = Counts()
        self._checkpoints: Checkpoints | None = None
        self._has_told_help = False
        self.saved = 0
        """How many tasks have saved after a request to stop."""
        self._saves_until: float | None = None
        """When tasks that save after a request to stop are ended, by the monotonic clock; None before the request."""
        self._own_write: str | None = None
        """A file that the model wrote into its own directory."""
        self._has_packed = False
        self._todo = self._total = 0
        """Tasks that this run has to run, and those of the shard."""
        self._feed: AdaptiveFeed | None = None
        """The tasks of an adaptive study; None for others."""
        self._sharing: SharedFeed | None = None
        """Those that it shares with other shards."""
        self._growing: GrowingFeed | None = None
        """Those of a growing job."""
        self._channel: Channel | None = None
        """Tells its clients on this machine which tasks have ended."""
        self._deliver_at = 0.0
        self._events = EventLog(store, shard.job_id, source=f"runner-{shard.number}", flush_seconds=pause)
        if shard.drop is None:  # each write to the record leaves an event
            self._registry = self._registry.with_on_write(
                lambda _key, value, _version: self._events.emit(STATE, **state_fields(JobState.from_json(value)))
            )
        self._reporter = Reporter(self._registry, shard, self._counts, self._register, self._note_report)
        self._ledger = Ledger(store, outbox, shard.job_id, shard.number, self._directory.ledger(shard.number))
        self._notes = EnvironmentNotes(shard.job_id, store, outbox, self._directory.packages)
        self._delivering = threading.Lock()
        """Held while what is in the outbox is delivered: by this thread, or by the sender's."""
        self._log = pack_log(store, self._manifest, shard.number)
        self._sender = OutputSender(store, outbox, None if self._log is None else self._pack)
        self._ledger.on_cut = self._sender.pack_soon
        self._handler = ResultHandler(
            self._manifest, self._counts, self._sender, self._ledger, self._events, self._on_log
        )

    def run(self) -> ShardResult:
        """Run tasks until the shard is done, the job has ended, or a signal stops the run."""
        try:
            return self._run()
        except TRANSIENT_ERRORS:
            if self._retry.is_stopping:
                return ShardResult(None, *self._counts.snapshot(), is_done=False)
            raise
        except (ModelError, BundleError, StoreError) as error:
            self._fail(error)
            raise
        except OSError as error:
            problem = EngineError(f"This machine cannot run the job in {self._directory.path}: {error}.")
            self._fail(problem)
            raise problem from None
        finally:
            self._reporter.stop()
            self._events.close(None, LAST_EVENTS_SECONDS, self._is_stopping)

    def _run(self) -> ShardResult:
        self._early = FailEarly(self._shard, self._manifest.tasks_total, self._counts, self._reporter, self._retry)
        with contextlib.closing(self._ledger):
            try:
                with self._closing_notes():
                    is_done = self._run_tasks()
            finally:
                if self._growing is not None:
                    self._growing.rounds.close()
                    self._manifest = dataclasses.replace(self._manifest, study=self._growing.tasks.study)
                if self._saves_until is not None:
                    self._retry.begin_end()
                with contextlib.ExitStack() as after:
                    if self._sharing is not None:
                        after.callback(self._count_shared, recalls=True)  # what others have told until then
                        after.callback(self._sharing.close)
                    self._sender.finish()  # also after an error: what was done is kept
                    if self._channel is not None:
                        self._channel.close()
                    if self._checkpoints is not None:  # before tasks are given back: their owners go on from these
                        left = self._retry.left_of(self._grace)
                        self._checkpoints.close(left, LAST_CHECKPOINTS_SECONDS, self._is_stopping)
            if self._counts.is_lower_bound and not self._retry.is_stopping:
                # The store did not answer at the start. It cannot be told whose outputs are there now: those of an
                # earlier run, most likely. So they count as that. If the store is still away, the next run does it.
                with contextlib.suppress(StoreError):
                    self._send_left(find_complete_tasks(self._store_with_outbox, self._manifest).complete)
        if self._early.end is not None and not self._reporter.ended.is_set():
            self._on_log(f"{self._early.end.reason}.")
            self._events.emit(RUNNER, text=self._early.end.reason)
        return self._finish(is_done=is_done)

    @contextlib.contextmanager
    def _closing_notes(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._notes.close(self._is_stopping)

    def _note_report(self, sent_at: str, reported_at: str | None) -> None:
        """Note a report on this machine, and a signal that stops the run.

        A cluster tells by itself whether a runner of its shards has ended.
        """
        if not self._shard.wait_for_manifest:
            path = str(self._directory.report_file(self._shard.number))
            with contextlib.suppress(OSError), open(path, "w", encoding="ascii", opener=private_opener) as file:
                file.write(f"{sent_at} {reported_at} {self._retry.signal_name}")

    def _is_stopping(self) -> bool:
        """Return whether a stop was requested, also after the run has begun to close."""
        return self._retry.is_stopping

    def _register(self) -> None:
        """Register the job, if the registry did not answer when the job was submitted."""
        register_offline(self._directory, self._manifest, self._registry)

    # --- the tasks -------------------------------------------------------------------------------------------

    def _tasks_to_run(self) -> NextTasks:
        """Count the tasks of the shard that are complete, and return the others.

        A duplicate is the same simulation as an earlier task, and belongs to the shard and the counts of that.
        """
        number, shards = self._shard.number, self._shard.shards
        found = self._find_complete()
        complete = found.complete
        if not self._counts.is_lower_bound:
            self._send_left(complete)
        if self._manifest.study.precision is not None:
            self._feed = AdaptiveFeed(self._manifest, number, shards, found, self._counts)
            self._handler.count_of, self._reporter.precision = self._feed.count_of, self._feed.precision
            self._early.lacks = self._feed.lacks
            self._total = self._feed.needed
            self._todo = self._total - sum(self._counts.snapshot())
            return self._feed if shards == 1 or self._shard.drop is not None else self._share(self._feed)
        if self._manifest.grows is not None:
            return self._grow(found)
        first_of, every = self._manifest.duplicate_tasks(), range(len(complete))
        mine = bytearray(first_of.get(place, place) % shards == number for place in every)
        left = bytearray(mine[place] and not complete[place] and place not in first_of for place in every)
        self._counts.add(completed=sum(map(int.__and__, mine, complete)))
        self._todo, self._total = sum(left), sum(mine)
        return ((position, task) for position, task in self._manifest.tasks() if left[position])

    def _share(self, feed: AdaptiveFeed) -> SharedFeed:
        """Return the tasks of an adaptive study that the shard shares with others."""

        def is_stored(key: str) -> bool:
            return next(iter(self._outbox.list_keys(key)), None) is None

        def has_stored_own() -> bool:
            return not any(map(sharing.owns, list(self._handler.sending))) and is_stored(below)

        below = results_prefix(self._shard.job_id)
        self._sender.has_kept = not is_stored(below)  # by an earlier run
        self._sharing = sharing = SharedFeed(
            feed,
            self._manifest,
            self._shard.number,
            self._shard.shards,
            self._store,
            self._reporter,
            self._ledger.run_id,
            is_stored,
        )

        def note_failed(number: int, _outputs: object, error: Mapping[str, str] | None) -> None:
            if error is not None:
                sharing.note_failed(number, f"{error['type']}: {error['message']}")

        self._handler.count_of, self._handler.on_ended = sharing.count_of, note_failed
        self._handler.on_stored, sharing.pack_soon = sharing.note_stored, self._sender.pack_soon
        sharing.has_stored_own = has_stored_own
        self._reporter.precision, self._reporter.standing = sharing.precision, sharing.standing
        sharing.workers = self._shard.workers or usable_cores()
        sharing.may_offer = lambda: self._early.have_first_passed and not self._early.is_over
        sharing.start()
        return sharing

    def _grow(self, found: Completeness) -> GrowingFeed:
        """Return the tasks of a growing job, and have their counts reported."""
        reporter, shards = self._reporter, self._shard.shards

        def have_others_ended(total: int) -> bool:
            state = reporter.state
            return shards == 1 or (state is not None and state.tasks_completed + state.tasks_failed >= total)

        self._growing = feed = GrowingFeed(
            self._manifest,
            self._shard.number,
            shards,
            found,
            self._counts,
            self._store,
            have_others_ended,
            patience=self._shard.outage_seconds,
        )
        self._handler.count_of, self._handler.varying = feed.count_of, feed.varying
        reporter.growth = lambda: feed.growth
        if shards == 1:
            with contextlib.suppress(OSError):  # clients then poll the store
                self._channel = Channel(self._directory.channel, feed.rounds.poke)
                self._handler.on_ended = self._channel.tell
        self._total = feed.total
        self._todo = self._total - sum(self._counts.snapshot())
        return feed

    def _send_left(self, complete: bytearray) -> None:
        """Send what earlier runs left of the ledger."""
        self._ledger.send_left(lambda task: any(complete[place] for place in self._manifest.positions([task])))

    def _find_complete(self) -> Completeness:
        try:
            found = find_complete_tasks(self._store_with_outbox, self._manifest)
        except StoreUnavailableError:
            # The store may hold more. Those tasks run again; `create_if_absent` then leaves their outputs as they are.
            return find_complete_tasks(self._outbox, self._manifest)
        self._counts.is_lower_bound = False
        return found

    def _run_tasks(self) -> bool:
        """Run tasks until none is left, a stop is requested or the job ends. Return whether none is left to run.

        If the budget of the job is used, none is.
        """
        reporter, early, handler = self._reporter, self._early, self._handler
        tasks = self._tasks_to_run()
        try:
            first = self._first_task(tasks)
        except StopIteration:
            self._counts.started_at = shard_started_at(self._directory, self._shard.number, None)
            return True
        if reporter.has_ended() or not early.wait(self._on_log):
            return self._has_done_own  # before the model is loaded: a pod that is tried again may find the job ended
        if early.withholds():
            return True
        pool = self._open_pool(checkpoints=self._find_checkpoints())
        # It may wait for a core first, or for its client.
        begun = None if first is None or self._shard.cores is not None else utc_now()
        self._counts.started_at = shard_started_at(self._directory, self._shard.number, begun)
        if self._sharing is not None:
            self._sharing.workers, self._sharing.is_ready = pool.workers or 1, lambda: pool.is_ready
        meter = TaskMeter(pool, self._todo, self._events, stops_at=self._shard.stops_at, on_late=self._tell_late)
        done_before = sum(self._counts.snapshot())
        reporter.measured = meter.measured
        self._ledger.files_opened = pool.files.opened

        def show_progress() -> None:
            self._count_todo(meter, done_before)
            meter.update()
            self._warn_of_own_write(pool.files.written())
            self._note_wait(pool)
            if self._counts.started_at is None and reporter.waits_for is None:
                self._counts.started_at = shard_started_at(self._directory, self._shard.number, utc_now())
            if self._reporter.grace is not None:
                self._retry.stop()
            if self._checkpoints is not None:
                self._checkpoints.look((one.task, one.started_at) for one in pool.at_work())
            if self._on_progress is not None:
                done = sum(self._counts.snapshot())
                self._on_progress(TaskProgress(done, self._total, pool.is_ready, pool.is_waiting, meter.left))

        try:
            admitted = early.admit(itertools.chain([first], tasks), self._todo, pool)
            with contextlib.closing(pool.run(admitted)) as results:
                for result in results:
                    if result is not None and not early.is_decided:
                        meter.add(result)
                        self._take(result)
                    if self._is_over(pool):
                        handler.note_begun(pool, self._retry.stopped_ts)
                        return self._has_done_own
                    if result is None:
                        handler.note_begun(pool)
                        self._take_shared()
                        show_progress()
            self._await_shared()
            show_progress()
        except EngineUnavailableError as error:
            # An outage of the cluster ends this run, not the job: a restart runs the other tasks.
            self._tell(str(error))
            return False
        return self._saves_until is None or self._has_done_own

    def _first_task(self, tasks: NextTasks) -> tuple[int, Task] | None:
        """Return the first task for the pool. A shard without tasks of its own opens none until others give one.

        Raises:
            StopIteration: if there is none.
        """
        while (first := next(tasks)) is None and self._sharing is not None and not self._early.is_over:
            self._deliver_kept()
            self._retry.pause(WAIT_SECONDS)
        return first

    @property
    def _has_done_own(self) -> bool:
        """Return whether the tasks of the shard have ended, and it runs those of others."""
        return self._sharing is not None and self._sharing.is_done

    def _take_shared(self, *, recalls: bool = False) -> None:
        """Take the ends of tasks that other shards have run, and tell of sharing."""
        sharing = self._sharing
        if sharing is None:
            return
        self._count_shared(recalls=recalls)
        if sharing.free_elsewhere and not sharing.is_done:
            self._early.keep_one_each(sharing.workers)
        if sharing.has_helped and not self._has_told_help:
            self._has_told_help = True
            self._tell(f"Shard {self._shard.number} runs tasks of other shards, since its own have ended.")
        if sharing.is_done:
            self._deliver_kept()

    def _count_shared(self, *, recalls: bool) -> None:
        """Count and judge the tasks that other shards have ended."""
        sharing, feed = self._sharing, self._feed
        if sharing is None or feed is None:
            return
        for task, end in sharing.take_ended(recalls=recalls):
            has_failed, count = isinstance(end, str), feed.count_of(task.number)
            self._counts.add(**{"failed" if has_failed else "completed": count})
            if has_failed:
                self._handler.note_error(task, str(end))
                feed.end(task.number, None)
            else:
                feed.end(task.number, feed.named(end))
            self._early.note_elsewhere(has_failed=has_failed)

    def _await_shared(self) -> None:
        """Wait for the tasks that other shards have, if the budget is used: they end, and count."""
        while self._sharing is not None and self._sharing.away and not self._early.is_over:
            self._take_shared(recalls=True)
            self._retry.pause(WAIT_SECONDS)

    def _count_todo(self, meter: TaskMeter, done_before: int) -> None:
        """Count the tasks that the shard has, and those of this run, as far as is known."""
        if self._growing is not None:
            self._take_over(self._growing)
            self._early.tasks_total = len(self._growing.tasks.tasks)
            self._total, self._todo = self._growing.total, self._growing.total - done_before
            meter.has_end = self._growing.is_over
            # Clients that poll the store learn by the ledger which tasks have ended.
            self._growing.is_poked = self._channel is not None and self._channel.has_clients
            self._ledger.most_seconds = math.inf if self._growing.is_poked else SOON_SECONDS
            if self._growing.idle_seconds >= SOON_SECONDS:
                self._ledger.send_soon()
            self._deliver_kept()
        if self._feed is not None:
            elsewhere = 0 if self._sharing is None else self._sharing.helped + self._sharing.away
            self._total, self._todo = self._feed.needed, self._feed.needed - done_before - elsewhere
            most = self._early.affordable(self._feed.at_most - done_before - elsewhere)
            meter.more = most - self._early.affordable(self._todo)
        meter.todo = self._early.affordable(self._todo)

    def _take_over(self, feed: GrowingFeed) -> None:
        """Take the tasks of shards that have ended by the word of their engine, if they are left to this shard."""
        reporter, shard = self._reporter, self._shard
        lost = {} if reporter.state is None else lost_shards(reporter.state.metadata)
        new = shards_left_to(shard.number, shard.shards, lost) - reporter.taken_over
        if not new or feed.is_over:
            return
        with contextlib.suppress(StoreUnavailableError):  # a later call tries again
            manifest = dataclasses.replace(self._manifest, study=feed.tasks.study)
            if self._checkpoints is not None:
                self._checkpoints.find_stored()
            feed.take_over(new, find_complete_tasks(self._store_with_outbox, manifest))
            reporter.taken_over |= new
            ends = "; ".join(lost[number] for number in sorted(new))
            self._tell(f"shard {shard.number} runs the tasks of others: {ends}")

    def _take(self, result: TaskResult) -> None:
        """Take the result of an attempt."""
        self.saved += self._retry.is_stopping and result.outcome is Outcome.PREEMPTED
        has_failed = self._handler.take(result)
        self._early.note(result, has_failed=has_failed)
        if self._sharing is not None:
            self._sharing.note(result, has_failed=has_failed)
        elif self._feed is not None:
            self._feed.note(result, has_failed=has_failed)
        if self._growing is not None:
            self._growing.note(result, has_failed=has_failed)
            if self._growing.is_idle and not self._growing.is_poked:
                self._ledger.send_soon()

    def _is_over(self, pool: Pool) -> bool:
        """Return whether the tasks have to end. After a request to stop, those with checkpoints may save before."""
        if not self._early.is_over:
            self._early.drain(pool)
            return False
        if self._checkpoints is None or self._early.is_decided:
            return True
        if self._saves_until is None:
            self._saves_until = time.monotonic() + self._grace
            told = self._checkpoints.tell_to_stop(one.task for one in pool.at_work())
            if not told:
                self._saves_until = 0.0
                return True
            self._handler.note_begun(pool, self._retry.stopped_ts)
            pool.keep_only({task.number for task in told})
            self._on_log(f"{pluralize(len(told), 'task')} may save, up to {human_duration(self._grace)}.")
        if time.monotonic() < self._saves_until:
            return False
        if left := len(pool.at_work()):
            self._tell(
                f"{pluralize(left, 'task')} did not save within {human_duration(self._grace)}; {self.saved} did."
            )
        return True

    @property
    def _grace(self) -> float:
        """Return the seconds that tasks may take to save, and their checkpoints to be sent."""
        return self._shard.grace_seconds if self._reporter.grace is None else self._reporter.grace

    def _warn_of_own_write(self, name: str | None) -> None:
        """Say once per job that the model writes into its own directory: tasks overwrite each other's files there."""
        if name is None or self._own_write is not None:
            return
        self._own_write = name = cut_to_length(strip_control_characters(name), MAX_NOTE)
        state = self._reporter.state
        if state is None or OWN_WRITE not in state.metadata:
            text = own_write_text(name)
            self._on_log(f"{text[0].upper()}{text[1:]}.")
            self._events.emit(RUNNER, text=text)
            with contextlib.suppress(MopsJobsError):  # of an outage, or a job that has ended
                self._registry.update_fields(self._shard.job_id, metadata={OWN_WRITE: name})

    def _tell(self, text: str) -> None:
        """Write a text into the log, and into an event."""
        self._on_log(text)
        self._events.emit(RUNNER, text=text)

    def _tell_late(self, seconds: float) -> str:
        """Return, and write into the log, that the shard will not finish before its time limit."""
        text = f"This shard {time_limit_text(self._shard.job_id, seconds)}"
        self._on_log(text)
        return text

    def _note_wait(self, pool: Pool) -> None:
        if pool.is_waiting and self._reporter.waits_for != CORES_TEXT:
            self._events.emit(RUNNER, text=f"The job waits for {CORES_TEXT}.")
        is_idle = self._growing is not None and self._growing.is_idle
        self._reporter.waits_for = CORES_TEXT if pool.is_waiting else CLIENT_TEXT if is_idle else None

    def _find_checkpoints(self) -> Checkpoints:
        """Find those of earlier runs, also of the jobs that this one continues."""

        def patiently(find: Callable[[], T]) -> T:
            # Tasks of a job that was submitted in an outage do not wait for its end.
            return find() if self._counts.is_lower_bound else self._retry.call(find)

        family = [self._manifest]
        try:
            family = patiently(lambda: list(ancestry(self._store_with_outbox, self._manifest)))
        except MopsJobsError as error:
            self._tell(f"Checkpoints of earlier jobs are not used: {error}")
        origins = [origin_of(family[0].job_id, family[0].bundle, self._directory)]
        ancestors = [(member.job_id, member.bundle) for member in family[1:]]
        if (unread := family[-1].parent_job_id) is not None:  # a drop has the manifest of its own job alone
            ancestors.append((unread, ""))
        origins += [
            origin_of(job_id, bundle, directory)
            for job_id, bundle in ancestors
            for directory in self._directory.of_other(job_id)
        ]
        is_here = getattr(self._store, "is_local", False) or self._shard.drop is not None
        self._checkpoints = self._handler.checkpoints = Checkpoints(
            origins,
            None if is_here else self._store,
            self._notes.packages,
            self._tell,
            bool(self._shard.allow_old_checkpoints),
            patiently=patiently,
        )
        if self._sharing is not None:
            self._sharing.on_moved = functools.partial(self._checkpoints.find_stored, is_used=True)
        return self._checkpoints

    def _open_pool(self, feed: Feed | None = None, checkpoints: Checkpoints | None = None) -> Pool:
        def on_log(task: int | None, line: str) -> None:
            task = task if feed is None else None  # a reduction has no number
            self._events.emit(LOG, task=task, text=line)
            if self._shard.echo:
                self._on_log(line if task is None else f"[{task}] {line}")

        return open_pool(
            self._shard,
            self._manifest,
            self._store_with_outbox,
            self._directory,
            self._retry,
            on_log,
            notes=self._notes,
            feed=feed,
            checkpoints=checkpoints,
            waker=None if feed is not None else self._waker,
        )

    @property
    def _waker(self) -> int | None:
        if self._growing is not None:
            return self._growing.rounds.waker.fileno()
        return None if self._sharing is None else self._sharing.waker.fileno()

    # --- the end ---------------------------------------------------------------------------------------------

    def _finish(self, *, is_done: bool) -> ShardResult:
        """Deliver the outbox and report. The last shard, or one that ends early, compares outputs and manifest.

        Args:
            is_done: whether each task of the shard was run.
        """
        early = self._early.end
        cut = None if self._shard.drop is not None else self._early.cut
        stays = self._sharing is not None and self._sharing.stays
        if (not is_done or (stays and self._early.is_over)) and early is None:
            self._retry.stop()  # the job has ended, or a stop was requested: one attempt at each call, no more
        state = None
        reduced: ReduceEnd | None = ReduceEnd(True)
        try:
            is_delivered = self._retry.call(self._deliver_outbox)
            is_done = is_delivered and is_done
        except TRANSIENT_ERRORS:
            is_done = False
            self._on_log(f"The registry does not answer. {self._kept_text}")
        else:
            if stays:
                reduced = None  # another shard was the last one
            elif is_done and early is None and self._manifest.study.reduce is not None:
                reduced = self._reduce_as_last()
                is_done = reduced is None or reduced.is_done
            try:
                if cut is not None and self._shard.shards > 1:
                    self._retry.call(functools.partial(self._reporter.tell_end, cut))
                is_over = is_done or (cut is not None and is_delivered)
                state = self._retry.call(functools.partial(self._reporter.finish, is_done=is_over))
                if is_delivered and not is_over and self._shard.drop is None and self._early.cut is not None:
                    cut = self._early.cut  # which this report has told
                    state = self._retry.call(functools.partial(self._reporter.finish, is_done=True))
            except TRANSIENT_ERRORS:
                if self._retry.is_stopping:
                    raise
        if state is not None and state.status == JobStatus.CANCELLED:
            session = Session(registry_url="", open_registry=lambda: self._registry, env=os.environ)
            with contextlib.suppress(MopsJobsError):  # `validate` does it too
                state = infer_end(state, RunnerEnd(), session).state
        if state is not None and not state.is_terminal:
            is_last = self._is_last(state) and (cut is not None or (is_done and reduced is not None))
            state = self._retry.call(functools.partial(self._end_job, state, reduced, is_last=is_last))
        counts = self._counts.snapshot()
        return ShardResult(None if state is None else state.status, *counts, is_done, is_cut=cut is not None)

    @property
    def _kept_text(self) -> str:
        deliver_it = "To deliver them, run it again."
        if self._shard.drop is not None:
            deliver_it = "Commands on the login node deliver them."
        return f"Outputs are kept in the directory of the job. {deliver_it}"

    def _end_job(self, state: JobState, reduced: ReduceEnd | None, *, is_last: bool) -> JobState:
        """End the job by its outputs, if it is to be cut or no other shard has work left. Return the record."""
        error, early = self._handler.first_error, self._early.end
        if self._shard.drop is not None:
            text = error if early is None else f"{early.reason}; {error}"
            return state if error is None else self._registry.update_fields(state.job_id, error_message=text)
        if not is_last:
            return state
        reduce_error = reduced and reduced.error
        ended = validate(self._store, self._registry, state, first_error=error, early=early, reduce_error=reduce_error)
        return ended.state

    def _is_last(self, state: JobState | None) -> bool:
        if state is None:
            return False
        # Where the job ends early, shards that have not begun have nothing to do.
        shards = self._shard.shards if self._early.end is None else len(state.shards)
        return transitions.all_shards_done(state, shards)

    def _pack(self) -> None:
        """Move the outputs in the outbox into packs.

        After an earlier run, or a failure, the store may have some. So may another shard with which this one shares.
        """
        is_sure = self._has_packed and (self._sharing is None or not self._sharing.has_shared)
        self._has_packed = False
        below = results_prefix(self._shard.job_id)
        self._has_packed = self._deliver_outbox(
            below=below, is_known_absent=is_sure, is_over=lambda: self._retry.is_over
        )

    def _deliver_outbox(self, **options: Any) -> bool:
        """Move what is in the outbox into the store. Return whether the store has all of it.

        Args:
            options: see `deliver`; none: at the end of the run.
        """
        given_up: set[str] = set()

        def on_refused(key: str, reason: StoreError) -> None:
            if not belongs_to(key, self._shard.job_id, [OUTPUT]):
                self._on_log(f"{key} cannot be delivered, and is removed: {reason}")
                return
            # Its task was counted as completed when the outbox took the outputs. Correct that once per task.
            task = key.rpartition("/")[0]
            if task not in given_up:
                given_up.add(task)
                if self._sharing is None or self._sharing.owns_output(key):
                    self._counts.add(completed=-1, failed=1)
                else:
                    self._sharing.refuse(key, f"{type(reason).__name__}: {reason}")
                self._handler.report_failure(task, error_fields(reason))

        options = options or {"is_over": lambda: self._retry.is_over, "may_stay": True}
        with self._delivering:
            return deliver(self._outbox, self._store, self._shard.job_id, on_refused, log=self._log, **options)

    def _deliver_kept(self) -> None:
        """Deliver what an outage has left in the outbox: the clients of a growing job wait for it."""
        if self._sender.has_kept and time.monotonic() >= self._deliver_at:
            self._sender.has_kept = False
            try:
                below = results_prefix(self._shard.job_id)
                self._sender.has_kept = not self._deliver_outbox(below=below, is_over=lambda: self._retry.is_stopping)
            except TRANSIENT_ERRORS:
                self._sender.has_kept = True
            self._deliver_at = time.monotonic() + DELIVERY_SECONDS

    def _reduce_as_last(self) -> ReduceEnd | None:
        """Run the reduce function if this shard is the last one. None: it is not, so another one does it."""
        try:
            state = self._retry.call(self._reporter.report_done)
            if state is None or state.is_terminal or not self._is_last(state):
                return None
            return self._reduce()
        except TRANSIENT_ERRORS:
            if self._retry.is_stopping:
                raise
            self._on_log("The registry does not answer. To run the rest of the reduce function, run the job again.")
            self._retry.stop()  # it was waited for long enough
            return ReduceEnd(False)

    def _reduce(self) -> ReduceEnd:
        """Run the reduce function of the study."""
        pools: list[Pool] = []

        def open_reduce_pool(feed: Feed) -> Pool:
            pools.append(self._open_pool(feed))
            return pools[0]

        def is_over() -> bool:
            self._note_wait(pools[0])
            return self._retry.is_stopping or self._reporter.ended.is_set()

        reducer = Reducer(self._manifest, self._store, self._retry, self._events, self._on_log, open_reduce_pool)
        try:
            with self._closing_notes():
                return reducer.run(is_over)
        finally:
            self._reporter.waits_for = None

    def _fail(self, error: MopsJobsError) -> None:
        """End the job with an error, if the registry can be reached."""
        self._reporter.stop()
        self._events.emit(RUNNER, text=str(error), **(error.event_fields if isinstance(error, ModelError) else {}))
        if isinstance(error, StoreError):
            self._on_log(self._kept_text)

        def finalize() -> None:
            if self._counts.started_at is not None:
                self._reporter.finish(is_done=False)  # the record gets the time at which it ran
            self._end_failed(error)

        def register_and_finalize() -> None:
            try:
                finalize()
            except JobNotFoundError:
                self._register()
                finalize()

        with contextlib.suppress(MopsJobsError):
            self._retry.call(register_and_finalize)

    def _end_failed(self, error: MopsJobsError) -> None:
        """End the job as `failed`. But if an earlier run has completed tasks, the outputs decide, as for any other."""
        job_id, text = self._shard.job_id, str(error)
        if self._shard.drop is not None:
            self._registry.update_fields(job_id, error_message=text)
        elif not isinstance(error, StoreError) and find_complete_tasks(self._store, self._manifest).count:
            validate(self._store, self._registry, self._registry.require_job(job_id), first_error=text)
        else:
            code = "STORE" if isinstance(error, StoreError) else "ENGINE" if isinstance(error, EngineError) else "MODEL"
            self._registry.finalize_job(job_id, JobStatus.FAILED, error_info={"code": code, "message": text})

"""Report the progress of a shard to the registry, from a thread of its own: tasks never wait for it.

A report is written at most once per second, and at least every 30 s as a heartbeat. `Reporter.report` writes one at
once, for a failure that may end the job: then the tasks wait. Each shard writes its own counts
into the record, and the record's totals are their sums, so shards never overwrite each other. Each write returns the
record, by which the runner learns that its job was cancelled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
import time
from collections.abc import Callable
from datetime import datetime

from mopsjobs.errors import JobNotFoundError, MopsJobsError, TerminalStateError
from mopsjobs.registry.announcements import corrected
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.notes import CLIENT_TEXT, STOP_BY, WAITS_FOR
from mopsjobs.registry.transitions import Growth, ShardPrecision, ShardReport, all_shards_done
from mopsjobs.registry.usage import NO_SHARD_USAGE, ShardForecast, ShardUsage, add_usage, shard_usage, total_usage
from mopsjobs.runner.shard import Shard
from mopsjobs.studies.validation import EarlyEnd, decided_end
from mopsjobs.utils.background import BackgroundWriter
from mopsjobs.utils.times import parse_time, record_time, utc_now

PROGRESS_SECONDS = 1.0
HEARTBEAT_SECONDS = 30.0
READ_SECONDS = 3.0
"""How often the record is read while there is nothing to write, so that a cancelled job stops within seconds."""

MAX_PAUSE = 30.0
"""Seconds between two attempts while the registry does not answer, at most."""


CORES_TEXT = "a core: other jobs use all that jobs may use on this machine"


class Counts:
    """Counts of the tasks of a shard. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.completed = self.failed = 0
        self.started_at: datetime | None = None
        """When the first task was begun; None before."""
        self.is_lower_bound = True
        """Whether tasks that earlier runs completed may be missing in the counts."""

    def add(self, completed: int = 0, failed: int = 0) -> None:
        """Add to the counts."""
        with self._lock:
            self.completed += completed
            self.failed += failed

    def snapshot(self) -> tuple[int, int]:
        """Return completed and failed, both of the same moment."""
        with self._lock:
            return self.completed, self.failed


@dataclasses.dataclass
class Reporter:
    """Reports one shard of one job.

    Args:
        _registry: where to report.
        _shard: the shard, and how often it reports.
        _counts: read for each report.
        _register: registers the job, if the registry does not know it because it was submitted offline.
        _note: called before and after each report, with its time and with the last sign of life that this runner has
            written. By that, it is known later whether another runner has reported.
    """

    _registry: JobRegistry
    _shard: Shard
    _counts: Counts
    _register: Callable[[], object]
    _note: Callable[[str, str | None], None] = lambda _sent_at, _reported_at: None
    measured: Callable[[], tuple[ShardUsage, ShardForecast | None]] | None = None
    """Set when tasks run: returns what the tasks of this run have used, and when the shard will end, if known."""
    precision: Callable[[], ShardPrecision] | None = None
    """Set for an adaptive study: returns the part of the shard in the precision of the job."""
    growth: Callable[[], Growth] | None = None
    """Set for a growing job: returns its counts."""
    taken_over: frozenset[int] = frozenset()
    """The shards that have ended, whose tasks are among those of this one."""
    standing: Callable[[], object] = lambda: None
    """Returns what else is worth a report when it changes."""
    waits_for: str | None = None
    """What tasks or reductions wait for. Meanwhile the record gets that, and the job does not become `running`;
    unless it waits for its client."""
    state: JobState | None = None
    """The record, as last read or written."""

    def __post_init__(self) -> None:
        self._reported_at: str | None = None
        self._lock = threading.Lock()
        """Held for each request: else older counts or an older record might replace newer ones."""
        self._written: object = None
        """The counts of the last report, what the tasks waited for, and its standing."""
        self._used_before: ShardUsage | None = None
        """What earlier runs of the shard used; None until the record was read."""
        self._is_done = False
        self.was_last: bool | None = None
        """Whether all other shards were done when the record first said that this one is; None before."""
        self.ended = threading.Event()
        """Set when the record has ended, by `cancel` for example: the runner then stops."""
        self.grace: float | None = None
        """Seconds that tasks may take to save, if the record says that the job is to stop; None: it does not."""
        self._pause = self._shard.report_seconds or PROGRESS_SECONDS
        self._written_at = self._read_at = time.monotonic() - HEARTBEAT_SECONDS
        self._next_at = time.monotonic() + self._pause
        self._writer = BackgroundWriter(
            f"reports of {self._shard.job_id}",
            self._take_report,
            lambda report: report(),
            "The job goes on; the report is tried again later.",
            first_pause=2 * PROGRESS_SECONDS,
            max_pause=MAX_PAUSE,
        )
        self._writer.start()

    def stop(self) -> None:
        """Stop the thread. Stopping twice is harmless."""
        self._writer.close(0.0)
        self._writer.join()

    def has_ended(self) -> bool:
        """Return whether the record has ended. It is read if it was not before; an outage does not end it."""
        if self.state is None:
            with contextlib.suppress(MopsJobsError):
                self._read()
        return self.ended.is_set()

    def report(self) -> None:
        """Write the counts now, and read those of the other shards. Does nothing while the registry is away."""
        if self._writer.failure is None and not self._writer.is_closing:
            try:
                self._write(is_done=self._is_done)
            except MopsJobsError as error:
                self._writer.note_failure(error)

    def cpu_seconds(self) -> tuple[float, float]:
        """Return the processor time of the job's tasks, and the part of it that the record does not have yet.

        That of this shard is exact, in all its runs. That of the others is as the record was last read.
        """
        runs = [self._used_before, None if self.measured is None else self.measured()[0]]
        own = sum(run.cpu_seconds or 0.0 for run in runs if run is not None)
        if self.state is None:
            return own, own
        recorded = shard_usage(self.state, self._shard.number).cpu_seconds or 0.0
        return (total_usage(self.state).cpu_seconds or 0.0) - recorded + own, own - recorded

    def tell_end(self, end: EarlyEnd) -> None:
        """Write into the record why the job is to be ended, unless it says so: the other shards read it, and stop.

        Raises:
            MopsJobsError: if the write failed. Another call tries again.
        """
        if decided_end(self.state) is None and not self.ended.is_set():
            fields = {"error_code": end.code, "error_message": end.reason}
            with self._lock, contextlib.suppress(TerminalStateError):
                self._set_state(self._registry.update_fields(self._shard.job_id, **fields))

    def note_done(self) -> None:
        """Have the next report say that all tasks of the shard were run, and write it at once."""
        self._is_done = True
        with self._writer.changed:
            self._next_at = time.monotonic()
            self._writer.changed.notify()

    def report_done(self) -> JobState | None:
        """Write that all tasks of the shard were run, and return the record. The thread goes on to send heartbeats.

        Raises:
            MopsJobsError: if the write failed. Another call tries again.
        """
        self._is_done = True
        return self.state if self.ended.is_set() else self._write(is_done=True)

    def finish(self, *, is_done: bool) -> JobState | None:
        """Stop the thread and write the last counts.

        Args:
            is_done: whether all tasks of the shard were run.

        Returns:
            The record after the write.

        Raises:
            MopsJobsError: if the write failed. Another call tries again.
        """
        self.stop()
        if self._used_before is None and self.measured is not None:
            self._read()
        return self.state if self.ended.is_set() else self._write(is_done=is_done)

    def _take_report(self) -> tuple[Callable[[], object] | None, float | None]:
        """Return what is due, a report or a look at the record; see `BackgroundWriter`."""
        now = time.monotonic()
        if self._writer.is_closing or self.ended.is_set():
            return None, None
        if now < self._next_at:
            return None, self._next_at - now
        self._next_at = now + self._pause
        if (self._news(), self.standing()) != self._written or now - self._written_at >= HEARTBEAT_SECONDS:
            self._written_at = self._read_at = now
            return lambda: self._write(is_done=self._is_done), None
        if now - self._read_at >= READ_SECONDS:
            self._read_at = now
            return self._read, None
        return None, self._pause

    def _news(self) -> tuple[tuple[int, int], str | None, Growth | None, frozenset[int]]:
        """Return what is worth a report."""
        growth = None if self.growth is None else self.growth()
        return self._counts.snapshot(), self.waits_for, growth, self.taken_over

    def _read(self) -> None:
        with self._lock:
            self._set_state(self._registry.get_job(self._shard.job_id))

    def _write(self, *, is_done: bool) -> JobState | None:
        with self._lock:
            written, standing, sent_at = self._news(), self.standing(), record_time(utc_now())
            self._note(sent_at, self._reported_at)
            state = self._send(*written, is_done=is_done)
            if state is not None and not state.is_terminal:
                self._reported_at = state.heartbeat_at
                self._note(sent_at, self._reported_at)
            self._written = written, standing
            if is_done and self.was_last is None and state is not None:
                self.was_last = all_shards_done(state, self._shard.shards)
            return state

    def _send(
        self,
        counted: tuple[int, int],
        waits_for: str | None,
        growth: Growth | None,
        taken_over: frozenset[int],
        *,
        is_done: bool,
    ) -> JobState | None:
        shard, is_least = self._shard, self._counts.is_lower_bound and not is_done
        precision = None if self.precision is None else self.precision()
        client = waits_for if waits_for == CLIENT_TEXT and not (is_done or self._writer.is_closing) else None
        report = ShardReport(*counted, is_done, is_least, *self._measure(), precision, growth, taken_over, client)
        started_at = self._counts.started_at
        # After an outage, the record still gets the time at which the job began to run.
        registry = self._registry if started_at is None else self._registry.backdated_to(started_at)
        send = functools.partial(registry.report_shard, shard.job_id, shard.number, shard.shards, report)
        is_waiting = waits_for not in (None, CLIENT_TEXT) and (self._is_done or not is_done)  # reductions may wait too
        if is_waiting:
            send = functools.partial(self._report_wait, None if self._writer.is_closing else waits_for)
        try:
            state = send()
        except JobNotFoundError:
            self._register()
            state = send()
        except TerminalStateError:
            self._set_state(self._registry.get_job(self._shard.job_id))
            return self.state
        self._set_state(state)
        return state

    def _report_wait(self, waits_for: str | None) -> JobState:
        """Write what the job waits for, as a sign of life; None if its runner stops."""
        at = record_time(corrected(utc_now(), self._registry.store))
        return self._registry.update_fields(self._shard.job_id, heartbeat_at=at, metadata={WAITS_FOR: waits_for})

    def _measure(self) -> tuple[ShardUsage | None, ShardForecast | None]:
        """Return usage and forecast for a report. The first one has no usage, as it reads that of earlier runs."""
        if self.measured is None:
            return None, None
        used, forecast = self.measured()
        before = self._used_before
        return None if before is None else add_usage((before, used)), None if self._writer.is_closing else forecast

    def _set_state(self, state: JobState | None) -> None:
        self.state = state
        if self._used_before is None:
            self._used_before = NO_SHARD_USAGE if state is None else shard_usage(state, self._shard.number)
        if state is not None and state.is_terminal:
            self.ended.set()
        if self.grace is None and state is not None and (stop_by := state.metadata.get(STOP_BY)):
            with contextlib.suppress(ValueError):
                seconds = (parse_time(str(stop_by)) - utc_now()).total_seconds()
                self.grace = seconds if seconds > 0 else None

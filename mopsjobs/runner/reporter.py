"""Telling the registry how a shard gets on, from a thread of its own: the work never waits for it.

Written at most once a second, and at least every 30 s as a sign of life. Each shard writes its own counts into the
record, and the record's totals are their sums, so several shards never overwrite each other. What comes back is the
record: that is how a runner learns that its job was cancelled.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime

from mopsjobs.errors import JobNotFoundError, MopsJobsError, TerminalStateError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.transitions import ShardReport
from mopsjobs.utils.backoff import HALF_JITTER, Backoff

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 1.0
HEARTBEAT_SECONDS = 30.0
LOOK_SECONDS = 3.0
"""How often the record is read while there is nothing to write: a cancelled job stops within seconds."""

MAX_PAUSE = 30.0
"""Seconds. The longest pause between two attempts at a registry that does not answer."""


class Counts:
    """What a shard has done so far. Shared between threads; the lock is held for a few instructions."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.completed = 0
        self.failed = 0
        self.began_at: datetime | None = None
        """When the first task was begun; None before."""
        self.is_least = True
        """Whether tasks that earlier runs have completed may be missing in here."""

    def add(self, completed: int = 0, failed: int = 0) -> None:
        """Count more tasks."""
        with self._lock:
            self.completed += completed
            self.failed += failed

    def both(self) -> tuple[int, int]:
        """Completed and failed, of the same moment."""
        with self._lock:
            return self.completed, self.failed


class Reporter:
    """Reports one shard of one job."""

    def __init__(
        self,
        registry: JobRegistry,
        job_id: str,
        shard: int,
        shards: int,
        counts: Counts,
        *,
        register: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start to report.

        Args:
            registry: where to.
            job_id: the job.
            shard: which shard of it, from 0.
            shards: of how many.
            counts: read whenever something is written.
            register: registers the job, for when the registry has never heard of it (it was gone at the submission).
            clock: seconds from any start, never going back.
        """
        self._registry = registry
        self._job_id = job_id
        self._shard = shard
        self._shards = shards
        self._counts = counts
        self._register = register
        self._clock = clock
        self._stop = threading.Event()
        self.ended = threading.Event()
        """Set when the record has ended, by somebody else's doing: there is nothing more to work for."""
        self.state: JobState | None = None
        """The record, as last seen."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread. Stopping twice is harmless."""
        self._stop.set()
        self._thread.join()

    def finish(self, *, is_done: bool) -> JobState | None:
        """Stop the thread and write the last counts.

        Args:
            is_done: whether the shard has worked through all its tasks.

        Returns:
            The record after that.

        Raises:
            MopsJobsError: the registry could not be told. Calling again tries again.
        """
        self.stop()
        return self.state if self.ended.is_set() else self._write(is_done=is_done)

    def _run(self) -> None:
        written: tuple[int, int] | None = None
        written_at = looked_at = self._clock() - HEARTBEAT_SECONDS
        pause = PROGRESS_SECONDS
        backoff = Backoff(2 * PROGRESS_SECONDS, MAX_PAUSE, jitter=HALF_JITTER)
        while not self._stop.wait(pause) and not self.ended.is_set():
            now = self._clock()
            pause = PROGRESS_SECONDS
            try:
                if self._counts.both() != written or now - written_at >= HEARTBEAT_SECONDS:
                    counted = self._counts.both()
                    self._write(is_done=False)
                    written, written_at = counted, now
                elif now - looked_at >= LOOK_SECONDS:
                    self._see(self._registry.get_job(self._job_id))
                else:
                    continue
                looked_at = now
            except MopsJobsError as error:
                log.info("%s The job goes on; this is told again later.", error)
                pause = backoff.next_delay()
            else:
                backoff.reset()

    def _write(self, *, is_done: bool) -> JobState | None:
        told = ShardReport(*self._counts.both(), is_done, self._counts.is_least and not is_done)
        began_at = self._counts.began_at
        # The job runs since then, however late that can be told.
        registry = self._registry if began_at is None else self._registry.backdated_to(began_at)
        report = functools.partial(registry.report_shard, self._job_id, self._shard, self._shards, told)
        try:
            state = report()
        except JobNotFoundError:
            self._register()
            state = report()
        except TerminalStateError:
            self._see(self._registry.get_job(self._job_id))
            return self.state
        self._see(state)
        return state

    def _see(self, state: JobState | None) -> None:
        self.state = state
        if state is not None and state.is_terminal:
            self.ended.set()

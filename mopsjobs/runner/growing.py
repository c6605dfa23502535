"""The tasks of a shard of a growing job, each when its client has asked for it.

A thread looks for the next round, first quickly, then about once per second. So neither an outage nor a slow store
keeps the results of tasks waiting. When a round has come, it wakes the pool.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection

from mopsjobs.errors import MopsJobsError, RecordError
from mopsjobs.registry.transitions import Growth
from mopsjobs.runner.pools.base import NextTasks, TaskResult
from mopsjobs.runner.reporter import Counts
from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.outputs import Completeness
from mopsjobs.studies.rounds import END, GrowingTasks, Rounds, read_round, round_key
from mopsjobs.studies.study import Task, Varying, find_varying
from mopsjobs.utils.backoff import NO_JITTER, Backoff
from mopsjobs.utils.waker import Waker

FIRST_PAUSE = 0.005
"""Seconds between two looks for the next round, after a round or the end of a task."""

MAX_PAUSE = 1.0

PAUSE_FACTOR = 1.2


class RoundReader:
    """A thread that reads the rounds of a job as they come, and the ends of its idle time.

    Args:
        store: where the rounds are.
        manifest: the manifest, with the rounds that are known.
        idle_since: returns since when there has been nothing to do, by the clock; None while there is.
        clock: a monotonic clock in seconds.
        patience: how long the store may be away, in seconds.
    """

    def __init__(
        self,
        store: VersionedStore,
        manifest: Manifest,
        idle_since: Callable[[], float | None],
        clock: Callable[[], float],
        patience: float,
    ) -> None:
        self._patience, self._away_since = patience, math.inf
        self._store, self._job_id, self._idle_since, self._clock = store, manifest.job_id, idle_since, clock
        self._idle, self._number = manifest.grows or 0.0, manifest.rounds
        self._found: deque[Rounds] = deque()
        self._active_at = clock()
        """When a round was found, or the store did not answer: its client may wait with a further one."""
        self._poked, self._is_closing = threading.Event(), False
        self.failure: MopsJobsError | None = None
        """Why no further round can be read."""
        self.waker = Waker()
        """A file that can be read when there are rounds to take."""
        self._thread = threading.Thread(target=self._run, name="rounds", daemon=True)
        self._pauses = Backoff(FIRST_PAUSE, MAX_PAUSE, factor=PAUSE_FACTOR, jitter=NO_JITTER)
        if not manifest.has_ended:
            self._thread.start()

    def take(self) -> Rounds | None:
        """Return the next round that was found; None if there is none.

        Raises:
            RecordError: if it is invalid.
            StoreUnavailableError: if the store was away for too long.
        """
        if self._found:
            return self._found.popleft()
        if self.failure is not None:
            raise self.failure
        return None

    def poke(self) -> None:
        """Look for the next round at once."""
        self._pauses.reset()
        self._poked.set()

    def close(self) -> None:
        """End the thread. Closing twice is harmless."""
        if not self._is_closing:
            self._is_closing = True
            self._poked.set()
            if self._thread.is_alive():
                self._thread.join()
            self.waker.close()

    def _run(self) -> None:
        while not self._is_closing:
            found = None
            try:
                found = read_round(self._store, self._job_id, self._number + 1)
                self._away_since = math.inf
                if found is None and self._is_idle():
                    self._store.create_if_absent(round_key(self._job_id, self._number + 1), END)
                    continue  # read what is there: it may be a round
            except RecordError as error:
                self.failure = error
            except MopsJobsError as error:  # the reporter tells of it
                self._active_at = self._clock()
                self._away_since = min(self._away_since, self._active_at)
                if self._active_at - self._away_since >= self._patience:
                    self.failure = error
            if found is not None:
                self._number += 1
                self._active_at = self._clock()
                self._found.append(found)
                self._pauses.reset()
            if found is not None or self.failure is not None:
                self.waker.wake()
            if self.failure is not None or (found is not None and found.has_ended):
                return
            if found is None:
                self._poked.wait(self._pauses.next_delay())
                self._poked.clear()

    def _is_idle(self) -> bool:
        since = self._idle_since()
        return since is not None and self._clock() - max(since, self._active_at) >= self._idle


def shards_left_to(shard: int, shards: int, lost: Collection[int]) -> frozenset[int]:
    """Return the shards that have ended whose tasks a shard runs: those right before it, in a circle.

    So a further end moves the tasks of no shard but those that the ended one had.
    """
    found: set[int] = set()
    while shard not in lost and len(found) < shards - 1 and (before := (shard - len(found) - 1) % shards) in lost:
        found.add(before)
    return frozenset(found)


class GrowingFeed:
    """The tasks of a shard for its pool: an iterator that yields None while no further round is there.

    A task that repeats an earlier one is not run: it ends with the earlier one.

    Args:
        manifest: the manifest of the job, with its rounds so far.
        shard: the number of the shard.
        shards: how many shards the job has.
        found: the outputs that are there.
        counts: those of the shard.
        store: where the rounds are.
        have_others_ended: returns whether all of this many tasks of the job have ended, also those of other shards.
        clock: a monotonic clock in seconds.
        patience: how long the store may be away, in seconds. The run then ends, and a restart goes on.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what a shard has
        self,
        manifest: Manifest,
        shard: int,
        shards: int,
        found: Completeness,
        counts: Counts,
        store: VersionedStore,
        have_others_ended: Callable[[int], bool],
        clock: Callable[[], float] = time.monotonic,
        patience: float = math.inf,
    ) -> None:
        self._mine, self._shards, self._counts, self._clock = frozenset([shard]), shards, counts, clock
        self._have_others_ended = have_others_ended
        self.tasks = GrowingTasks(manifest.study)
        self.total = 0
        """How many tasks the shard has."""
        self._open: dict[int, int] = {}
        """How many tasks end with each that the pool has or gets."""
        self._due: deque[int] = deque()
        self._has_failed: dict[int, bool] = {}
        """For each task of the shard that has ended, whether it has failed."""
        self._is_over = manifest.has_ended
        self._varying: tuple[int, Varying] | None = None
        self._active_at = clock()
        for number, is_complete in enumerate(found.complete):
            if is_complete and self.tasks.first_of[number] == number:
                self._has_failed[number] = False
        self._take(range(len(self.tasks.tasks)))
        self.rounds = RoundReader(store, manifest, self._idle_since, clock, patience)
        self.is_poked = False
        """Whether a client tells when it has stored a round."""

    @property
    def is_over(self) -> bool:
        """Return whether no further round comes."""
        return self._is_over

    @property
    def growth(self) -> Growth:
        """Return the counts of the job that have grown, for its record."""
        tasks, study = self.tasks, self.tasks.study
        return Growth(len(tasks.tasks), len(study.parameter_sets), study.different_sets, tasks.duplicates)

    def varying(self) -> Varying:
        """Return what differs between the tasks. It is looked for again when there are twice as many sets."""
        sets = len(self.tasks.study.parameter_sets)
        if self._varying is None or sets >= 2 * self._varying[0]:
            self._varying = sets, find_varying(self.tasks.study)
        return self._varying[1]

    @property
    def is_idle(self) -> bool:
        """Return whether all tasks have ended, and the client may ask for more."""
        return not self._open and not self._is_over

    @property
    def idle_seconds(self) -> float:
        """Return for how long the shard has had no task; 0 while it has some."""
        return self._clock() - self._active_at if self.is_idle else 0.0

    def count_of(self, number: int) -> int:
        """Return how many tasks end with a task that the pool has."""
        return self._open[number]

    def __iter__(self) -> NextTasks:
        """Return the iterator itself."""
        return self

    def __next__(self) -> tuple[int, Task] | None:
        """Return the next task; None if none was asked for so far.

        Raises:
            RecordError: if a round is invalid.
        """
        while (found := self.rounds.take()) is not None:
            self._is_over |= found.has_ended
            for sets in found.sets:
                self._take(self.tasks.grow(sets))
            self._active_at = self._clock()
        if self._due:
            number = self._due.popleft()
            return number, self.tasks.tasks[number]
        if self._is_over:
            raise StopIteration
        return None

    def take_over(self, shards: frozenset[int], found: Completeness) -> None:
        """Take the tasks of shards that have ended, as a new run of them would.

        Args:
            shards: other shards than before.
            found: the outputs of the tasks so far.
        """
        for number, is_complete in enumerate(found.complete):
            if is_complete and self.tasks.first_of[number] == number and number % self._shards in shards:
                self._has_failed[number] = False
        before, self._mine = self._mine, shards
        self._take(range(len(self.tasks.tasks)))
        self._mine |= before

    def note(self, result: TaskResult, *, has_failed: bool) -> None:
        """Take the result of an attempt. The client may soon ask for more.

        Args:
            result: the result.
            has_failed: whether the attempt failed, also by what it left.
        """
        if result.is_final:
            self._has_failed[result.position] = has_failed
            del self._open[result.position]
            self._active_at = self._clock()
            if not self._due and not self.is_poked:
                self.rounds.poke()

    def _take(self, numbers: range) -> None:
        for number in numbers:
            first = self.tasks.first_of[number]
            if first % self._shards not in self._mine:
                continue
            self.total += 1
            if first in self._has_failed:
                self._counts.add(**{"failed" if self._has_failed[first] else "completed": 1})
            elif first in self._open:
                self._open[first] += 1
            else:
                self._open[first] = 1
                self._due.append(first)

    def _idle_since(self) -> float | None:
        if self._open or not self._have_others_ended(len(self.tasks.tasks)):
            self._active_at = self._clock()
            return None
        return self._active_at

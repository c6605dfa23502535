"""The tasks of a shard of an adaptive study that has several shards: first its own, and then those of others.

The record tells which shards may yet give tasks, and which have free workers. So without a free worker, sharing costs
two requests: for offers of an earlier run, and to report that the own tasks have ended. A thread reads and writes the
offers, see `offers.py`. While tasks are away, it looks every 0.4 to 10 s, a tenth of the time of a task. So does a
helper without a task. It ends when no other shard may give tasks. It also ends when it has got none for as long as its
longest attempt took, at least a minute.

The owner counts what helpers have run, and decides by their values. A helper tells of a task when its outputs are in
the store.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from mopsjobs.errors import MopsJobsError
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.keys import OFFERS, OUTPUT
from mopsjobs.registry.transitions import ShardPrecision, all_shards_done, sharing_of_others
from mopsjobs.runner.adaptive import AdaptiveFeed
from mopsjobs.runner.offers import LATENCY_SECONDS, Document, End, HelperSide, OwnerSide, count_to_offer, parse
from mopsjobs.runner.pools.base import NextTasks, TaskResult
from mopsjobs.runner.reporter import Reporter
from mopsjobs.store.base import Versioned, VersionedStore, VersionToken
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.outputs import output_key
from mopsjobs.studies.precision import finite_number
from mopsjobs.studies.study import Task
from mopsjobs.utils.backoff import HALF_JITTER, Backoff
from mopsjobs.utils.waker import Waker

LEAST_PAUSE = 0.4
"""Seconds between two looks at offers, at least: what happens meanwhile shares a request."""

SHORT_PAUSE, LONG_PAUSE = 1.0, 10.0
"""Seconds between two looks, at most: a tenth of the time of a task, but between these."""

PAUSE_FACTOR = 1.3

START_SECONDS = 10.0
"""How long a shard without a task waits for those that have not begun: shards of a job begin at about the same time."""

IDLE_SECONDS = 60.0
"""How long a helper waits for a task, at least."""

LAST_TURNS = 3
"""How often a helper that ends tries to give its tasks back, if others write meanwhile."""

LAST_SECONDS = 10.0
"""How long that may take, while the store does not answer."""

OFFER_SECONDS = 0.1
"""Between two looks at what may be offered: trivial tasks do not pay for them."""

PACK_PAUSE = 0.5
"""Seconds between two packs that a helper asks for: its outputs have to be in the store."""


class Away(NamedTuple):
    """A task that helpers have ended."""

    task: Task
    end: End


class SharedFeed:
    """The tasks of a shard for its pool: an iterator that yields None while others may follow.

    Args:
        feed: its own tasks.
        manifest: the manifest of the job.
        shard: the number of the shard.
        shards: how many shards the job has.
        store: where the offers are.
        reporter: reports the shard, and has the record.
        run: the run of the shard, which no other one has.
        is_stored: returns whether no output below a key waits for the store.
        stops_at: when the cluster stops the shard, in seconds since the epoch; None: at no time that is known.
        clock: a monotonic clock in seconds.
    """

    def __init__(  # noqa: PLR0913, PLR0915, PLR0917 - what a shard has
        self,
        feed: AdaptiveFeed,
        manifest: Manifest,
        shard: int,
        shards: int,
        store: VersionedStore,
        reporter: Reporter,
        run: str,
        is_stored: Callable[[str], bool],
        stops_at: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._feed, self._manifest, self._shard, self._shards = feed, manifest, shard, shards
        self._store, self._reporter, self._run, self._clock = store, reporter, run, clock
        self._is_stored, self._shard_of, self._stops_at = is_stored, manifest.shard_of(shards), stops_at
        self.workers = 1
        """Those of the shard."""
        self.may_offer: Callable[[], bool] = lambda: True
        """Returns whether tasks may go to others: the first ones of a job may not."""
        self.pack_soon: Callable[[], object] = lambda: None
        """Has the outputs packed that wait for others."""
        self.has_stored_own: Callable[[], bool] = lambda: True
        """Returns whether the store has the outputs of its own tasks that have ended. Before, the record does not say
        that the shard is done: another one would end the job without them."""
        self.on_moved: Callable[[], object] = lambda: None
        """Called before tasks begin here that another shard may have begun. If it fails, they come later."""
        self._lock = threading.Lock()
        """Held for what the thread changes, never for a request."""
        self._owner = OwnerSide(run)
        self._helps: dict[int, HelperSide] = {}
        """The tasks of other shards, by these."""
        self._given: dict[int, Task] = {}
        """Its own tasks that are away."""
        self._ended: list[Away] = []
        """Those that helpers have ended, and that were not taken by `take_ended`."""
        self._back: deque[tuple[int, Task]] = deque()
        """Tasks for the pool: those of its own that came back, later those of others."""
        self.helped = 0
        """How many of its own tasks helpers have ended."""
        self.has_helped = self.has_shared = False
        """Whether it has got a task of another shard; whether it has got or given one, which packs of both may have."""
        self.stays = False
        """Whether its own tasks have ended while those of others have not: another shard ends the job."""
        self.is_done = self._is_told = False
        """Whether its own tasks have ended, and whether the record is told so."""
        self._at_work: set[int] = set()
        self._halves: dict[int, End | None] = {}
        """Of tasks of others whose outputs are on their way: what came first, their values, or that they were sent."""
        self._seconds, self._n, self._longest, self._pace = 0.0, 0, 0.0, 0.0
        """How long its attempts took in all, how many ended, the longest, and how long a task takes where it looks."""
        self._last_at = clock()
        """When a task ended last, or began while none was at work."""
        self._active_at = self._packed_at = self._offers_at = clock()
        self._record: JobState | None = None
        self._of_others: dict[str, dict[int, int]] = {}
        """What the other shards tell of sharing in the record that was seen last."""
        self._has_document = True  # an earlier run may have left one
        self._is_over = self._is_closing = False
        self._failure: Exception | None = None
        self._poked, self._ends = threading.Event(), threading.Event()
        self._pauses = Backoff(LEAST_PAUSE, LONG_PAUSE, factor=PAUSE_FACTOR, jitter=HALF_JITTER)
        self.waker = Waker()
        """A file that can be read when there are tasks to take."""
        self._thread = threading.Thread(target=self._loop, name="offers", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    # --- for the pool, in the thread of the runner ----------------------------------------------------------------

    def __iter__(self) -> NextTasks:
        """Return the iterator itself."""
        return self

    def __next__(self) -> tuple[int, Task] | None:
        """Return the next task; None if others may follow.

        Raises:
            Exception: if the thread failed otherwise than by the store: tasks that are away would never come back.
        """
        if self._failure is not None:
            raise self._failure
        with self._lock:
            following = self._next_back()
        if following is None and not self.is_done:
            try:
                following = next(self._feed)
            except StopIteration:
                self._end_own()
        if following is not None:
            if not self._at_work:
                self._last_at = self._clock()
            self._at_work.add(following[1].number)
        elif self.is_done and not self._may_follow():
            self._is_over = True
            raise StopIteration
        return following

    def _next_back(self) -> tuple[int, Task] | None:
        while self._back:
            following = self._back.popleft()
            if self.owns(following[0]) or any(following[0] in side.hand for side in self._helps.values()):
                return following
        return None

    def note(self, result: TaskResult, *, has_failed: bool) -> None:
        """Take the result of an attempt.

        Args:
            result: the result.
            has_failed: whether the attempt failed, also by what it left.
        """
        number, seconds = result.task.number, result.usage.seconds or 0.0
        self._longest = max(self._longest, seconds)
        if not result.is_final:
            return
        self._at_work.discard(number)
        self._last_at = self._clock()
        self._seconds, self._n = self._seconds + seconds, self._n + 1
        self._active_at = self._clock()
        if self.owns(number):
            self._feed.note(result, has_failed=has_failed)
        elif not has_failed:
            scalars, precision = self._feed.scalars_of(result), self._manifest.study.precision
            targets = () if precision is None else precision.until
            values = [finite_number(scalars, target.scalar) for target in targets]
            self._settle(number, values)

    def note_stored(self, task: Task) -> None:
        """Note that the store was tried for the outputs of a task. A thread that sends them calls this."""
        if not self.owns(task.number):
            self._settle(task.number, None)

    def note_failed(self, number: int, text: str) -> None:
        """Note that a task has failed. A thread that sends outputs may call this."""
        if not self.owns(number):
            self._settle(number, text)

    def refuse(self, key: str, text: str) -> None:
        """Note that an output of a task of another shard can never be stored, after the store was tried."""
        with self._lock:
            for side in self._helps.values():
                refused = [number for number in side.hand if key.startswith(self._prefix_of(number))]
                side.ends.update((number, text) for number in refused)

    def _settle(self, number: int, end: End | None) -> None:
        """Note the values of a task of another shard, that its outputs were sent (None), or its error.

        The first two come in any order, and so does an error of the store in place of the second.
        """
        with self._lock:
            sides = [side for side in self._helps.values() if number in side.hand and number not in side.ends]
            is_first = number not in self._halves
            other = self._halves.pop(number, None)
            if sides and is_first and not isinstance(end, str):
                self._halves[number] = end
                return
            for side in sides:
                side.ends[number] = end or other or ""
        if sides:
            self._pauses.reset()
            self._poked.set()

    def owns(self, number: int) -> bool:
        """Return whether the shard owns a task."""
        return self._shard_of(number) == self._shard

    def owns_output(self, key: str) -> bool:
        """Return whether the shard owns the task of an output."""
        parts = OUTPUT.parse(key)
        return parts is None or self._feed.has_set(parts["param"])

    def count_of(self, number: int) -> int:
        """Return how many tasks of the shard end with a task that the pool has: none with one of another shard."""
        return self._feed.count_of(number) if self.owns(number) else 0

    @property
    def away(self) -> int:
        """Count its own tasks that are away."""
        return len(self._given)

    @property
    def at_helpers(self) -> int:
        """Count those of them that helpers have."""
        return self._owner.taken

    @property
    def free_elsewhere(self) -> int:
        """Count the workers of helpers, as the record was last read."""
        return sum(self._told("free").values())

    def _told(self, name: str) -> dict[int, int]:
        """Return what the other shards tell of sharing, as the record was last read; see `sharing_of_others`."""
        state = self._reporter.state
        if state is None:
            return {}
        if state is not self._record:  # there may be a thousand shards
            self._of_others = {one: sharing_of_others(state, self._shard, one) for one in ("gives", "free")}
            self._record = state
        return self._of_others[name]

    def take_ended(self, *, recalls: bool = False) -> list[Away]:
        """Offer tasks or have them back, and return those that helpers have ended. Call it at least twice a second.

        Args:
            recalls: whether all are to come back that no helper has.
        """
        if recalls:
            with self._lock:
                self._owner.wanted = len(self._given)
        elif not self.is_done and self._clock() >= self._offers_at:
            self._offers_at = self._clock() + OFFER_SECONDS
            self._offer()
        elif (self._halves or self.is_done > self._is_told) and self._clock() - self._packed_at >= PACK_PAUSE:
            self._packed_at = self._clock()
            self.pack_soon()
        with self._lock:
            ended, self._ended = self._ended, []
        self.helped += len(ended)
        return ended

    def _offer(self) -> None:
        seconds = self._task_seconds()
        free = self.free_elsewhere if self.may_offer() and self._feed.has_all_targets else 0
        idle = self.workers - len(self._at_work)
        waiting = self._feed.waiting if free or self._given else 0
        owner = self._owner
        with self._lock:
            owner.seconds = self._pace = seconds
            owner.wanted = max(0, idle) if not waiting and not self._back and self._given else 0
            n_new = count_to_offer(waiting, len(self._given) - owner.taken, owner.taken, free, self.workers, seconds)
        tasks = []
        for _ in range(0 if owner.wanted or not free else n_new):
            if (following := next(self._feed, None)) is None:
                break
            tasks.append(following[1])
        with self._lock:
            self._given.update((task.number, task) for task in tasks)
            self.has_shared |= bool(tasks)
            owner.away.update(task.number for task in tasks)
        if tasks or (owner.wanted and owner.offered):
            self._poked.set()

    def _task_seconds(self) -> float:
        """Return how long a task takes, about. Those at work take at least as long as the last end is past."""
        mean = self._seconds / self._n if self._n else 0.0
        return max(mean, self._clock() - self._last_at) if self._at_work else mean

    def _end_own(self) -> None:
        self.is_done = True
        self._active_at = self._clock()
        self._poked.set()

    def _may_follow(self) -> bool:
        """Return whether a task of another shard may follow, once its own have ended."""
        state = self._reporter.state
        if self._reporter.ended.is_set() or self._is_closing:
            return False
        has_waited = self._clock() - self._active_at >= max(IDLE_SECONDS, self._longest)
        if not self._is_told and self.has_stored_own():
            self._is_told = True
            self._reporter.note_done()
        if self._reporter.was_last is None:  # the record does not say so far that this one is done
            return not has_waited
        if self._reporter.was_last or state is None:
            return False
        self.stays = True
        if all_shards_done(state, self._shards):
            return False
        if len(state.shards) < self._shards and self._clock() - self._active_at < START_SECONDS:
            return True
        with self._lock:
            has_some = any(side.hand for side in self._helps.values())
        return has_some or (bool(self._told("gives")) and not has_waited)

    def precision(self) -> ShardPrecision:
        """Return the part of the shard in the precision of the job, with what it may give or run, for its record."""
        own = self._feed.precision()
        if self._is_told:
            return own if self._is_over else own._replace(sharing={"free": self.workers})
        left = self._feed.at_most - self._feed.ended - self.workers
        is_worth = not self._n or left * self._task_seconds() / self.workers > LATENCY_SECONDS
        return own._replace(sharing={"gives": left}) if left > 0 and is_worth else own

    def standing(self) -> object:
        """Return what is worth a report at once."""
        return self._is_told, self._is_over

    # --- the thread -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the thread, and give the tasks of others back. Closing twice is harmless."""
        if not self._is_closing:
            self._is_closing = True
            self._ends.set()
            self._poked.set()
            if self._thread.is_alive():
                self._thread.join(LAST_SECONDS)
            if not self._thread.is_alive():
                self.waker.close()

    def _loop(self) -> None:
        while not self._is_closing:
            is_idle = True
            self._poked.clear()
            try:
                is_idle = not self.look()
            except MopsJobsError:  # the reporter tells of an outage
                with self._lock:
                    self._owner.forgive()
            except Exception as error:  # noqa: BLE001 - a thread that ends would leave the runner waiting for ever
                self._failure, is_idle = error, False
            if not is_idle:
                self._pauses.reset()
                self.waker.wake()
            if self._failure is not None:
                return
            needs_none = not self.is_done and not self._given and not self._has_document
            self._ends.wait(LEAST_PAUSE)
            longest = min(LONG_PAUSE, max(SHORT_PAUSE, self._pace / 10))
            self._poked.wait(None if needs_none else min(longest, self._pauses.next_delay()) - LEAST_PAUSE)
        with contextlib.suppress(MopsJobsError):  # in an outage, the owner misses this shard later
            for _ in range(LAST_TURNS):
                if self._look_last():
                    break

    def look(self) -> bool:
        """Look at the offers of the shard, or at those of others. Return whether something has happened."""
        if not self.is_done:
            return bool(self._given or self._has_document) and self._look_at_own()
        gives = {} if self._is_over else self._told("gives")
        with self._lock:
            shards = sorted(gives.keys() | {shard for shard, side in self._helps.items() if side.hand})
        first = (self._shard + 1) % self._shards  # helpers begin with different shards
        shards.sort(key=lambda shard: (shard - first) % self._shards)
        return sum(self._look_at_other(shard) for shard in shards) > 0

    def _look_last(self) -> bool:
        """Give back the tasks of others, and take back its own, with ends that are told. Return whether it is done."""
        if self._has_document:
            self._look_at_own(leaves=True)
        with self._lock:
            shards = [shard for shard, side in self._helps.items() if side.hand]
        for shard in shards:
            self._look_at_other(shard, leaves=True)
        with self._lock:
            return not (self._has_document or any(side.hand for side in self._helps.values()))

    def _look_at_own(self, *, leaves: bool = False) -> bool:
        key = self._key_of(self._shard)
        found = self._store.get(key)
        with self._lock:
            turn = self._owner.turn(_document_of(found), self._clock(), leaves=leaves)
            for number, end in turn.ended.items():
                if (task := self._given.pop(number, None)) is not None:
                    self._ended.append(Away(task, end))
        is_written = turn.document is None or self._write(key, turn.document, found) is not None
        if is_written:
            if turn.returned and not leaves:
                self.on_moved()
            with self._lock:
                self._owner.confirm(turn)
                back = [self._given.pop(number) for number in turn.returned if number in self._given]
                self._back.extend((task.number, task) for task in back)
                self._has_document = bool(self._given)
        return bool(turn.ended or turn.returned or not is_written)

    def _look_at_other(self, shard: int, *, leaves: bool = False) -> bool:
        key = self._key_of(shard)
        found = self._store.get(key)
        document = _document_of(found)
        self._pace = self._pace if document is None else document.seconds
        with self._lock:
            side = self._helps.get(shard)
            if side is None:
                name = f"{self._shard}.{self._run}"
                side = self._helps[shard] = HelperSide(name, lambda number: self._is_task_of(number, shard))
            in_hand = sum(one.n_open for one in self._helps.values())
            is_late = self._stops_at is not None and time.time() + self._pace >= self._stops_at
            workers = 0 if leaves or self._is_over or is_late else self.workers
        ready = {number for number in side.ends if self._may_tell(side.ends[number], number)}
        with self._lock:
            given_back = side.hand - ready if leaves else None
            turn = side.turn(document, self._clock(), workers, in_hand, lambda number: number in ready, given_back)
        if turn.document is not None and self._write(key, turn.document, found) is None:
            return True
        if turn.taken:
            self.on_moved()
        with self._lock:
            side.confirm(turn, self._clock())
            self._back.extend((number, self._feed.task(number)) for number in turn.taken)
        if turn.taken:
            self.has_helped = self.has_shared = True
            self._active_at = self._clock()
        return bool(turn.taken or turn.told)

    def _write(self, key: str, document: Document, found: Versioned | None) -> VersionToken | None:
        value = document.encode()
        return self._store.create_if_absent(key, value) if found is None else self._store.put(key, value, found.version)

    def _may_tell(self, end: End, number: int) -> bool:
        if isinstance(end, str):
            return True
        return self._is_stored(self._prefix_of(number))

    def _prefix_of(self, number: int) -> str:
        return output_key(self._manifest.job_id, self._feed.task(number), "")

    def _is_task_of(self, number: int, shard: int) -> bool:
        return number < self._manifest.tasks_total and self._shard_of(number) == shard

    def _key_of(self, shard: int) -> str:
        return OFFERS.key(job=self._manifest.job_id, shard=shard)


def _document_of(found: Versioned | None) -> Document | None:
    return None if found is None else parse(found.value)

"""The tasks of a shard of an adaptive study that has several shards: first its own, and then those of others.

The record tells which shards may yet give tasks, and which have free workers. So without a free worker, sharing costs
two requests: for offers of an earlier run, and to report that the own tasks have ended. A thread reads and writes the
offers. While workers are free, it looks every 0.4 to 10 s, a tenth of the time of a task. So does a helper without a
task. It ends when no other shard may give tasks. It also ends when it has got none for longer than a task takes, at
least a minute. An owner writes how long its tasks take.

The owner of a set counts what helpers have run, and decides by their values. A helper tells of a task when its outputs
are in the store.

**The offers** of an owner are one document in the store, which both sides change by compare-and-swap. It offers tasks
that it has not begun. A helper takes what it can run at once, and tells how they ended.

    {"version": 1, "run": "9f…", "write": "c0…", "seconds": 31.5, "offered": [412, 413],
     "taken": {"2.77…": [4, [408, 409]]}, "ended": {"407": [0.31], "406": "ValueError: as asked"}}

`run` is that of the owner. Helpers do nothing more for an earlier run. A helper is named by shard and run. Its first
number grows at least every `BEAT_SECONDS` while it has tasks. Without that, it counts as lost, and the owner runs its
tasks. The owner writes as often while workers are free: `seconds` grows with the tasks that are at work. A helper that
is told to stop gives its tasks back, and so does a later run of one that was killed. A duplicate is harmless: it leaves
the same outputs. A task that has succeeded has the values of the targets, in their order. `write` is drawn for each
write, so no two documents are equal.

Each side does what is left to do, by the document that it reads. So a lost reply needs no care.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mopsjobs.errors import MopsJobsError, RecordError
from mopsjobs.registry.keys import OFFERS, OUTPUT
from mopsjobs.registry.transitions import ShardPrecision, all_shards_done, sharing_of_others
from mopsjobs.runner.adaptive import AdaptiveFeed
from mopsjobs.runner.pools.base import NextTasks, TaskResult
from mopsjobs.runner.reporter import Reporter
from mopsjobs.store.base import Versioned, VersionedStore, VersionToken
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.outputs import output_key
from mopsjobs.studies.study import Task
from mopsjobs.utils.backoff import HALF_JITTER, Backoff
from mopsjobs.utils.json_strict import is_count, is_number, read_json
from mopsjobs.utils.waker import Waker

VERSION = 1

MAX_OFFERED = 512

LATENCY_SECONDS = 2.0
"""How long it takes about until a task that was offered begins elsewhere. The owner keeps what it begins before."""

BEAT_SECONDS = 15.0

LOST_SECONDS = 50.0
"""After which a helper counts as lost that has not written, as the owner has seen by its own clock. It is less than the
time for which other helpers wait."""

MAX_TEXT = 1000
"""Characters of an error."""

End = list[Any] | str
"""How a task has ended: the values of the targets, or the error."""


class Taken(NamedTuple):
    """The tasks of a helper."""

    beat: int
    tasks: tuple[int, ...]


class Document(NamedTuple):
    """The offers of one run of a shard."""

    run: str
    seconds: float = 0.0
    """How long a task takes, about."""
    offered: tuple[int, ...] = ()
    taken: Mapping[str, Taken] = {}
    ended: Mapping[int, End] = {}

    def encode(self) -> bytes:
        """Return the document as it is stored."""
        fields = {"version": VERSION, "write": secrets.token_hex(8), **self._asdict()}
        return json.dumps(fields, separators=(",", ":")).encode()


def parse(value: bytes) -> Document | None:
    """Return a stored document; None if it is not one, so that its owner writes it anew."""
    try:
        fields: Any = read_json(value)
        if fields["version"] != VERSION:
            return None
        members = fields["taken"].items()
        taken = {str(name): Taken(_numbers([beat])[0], _numbers(tasks)) for name, (beat, tasks) in members}
        ended = {int(number): _end(end) for number, end in fields["ended"].items()}
        seconds = fields["seconds"] if is_number(fields["seconds"]) else 0.0
        return Document(str(fields["run"]), float(seconds), _numbers(fields["offered"]), taken, ended)
    except (RecordError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _numbers(values: Sequence[object]) -> tuple[int, ...]:
    if not all(map(is_count, values)):
        raise ValueError("invalid numbers")
    return tuple(values)  # type: ignore[arg-type]


def _end(value: object) -> End:
    if isinstance(value, str):
        return value[:MAX_TEXT]
    if not isinstance(value, list) or not all(one is None or is_number(one) for one in value):
        raise TypeError("invalid end")
    return value


def count_to_offer(waiting: int, offered: int, taken: int, free: int, workers: int, seconds: float) -> int:
    """Return how many more tasks a shard offers.

    It keeps those that it begins before a helper could, offers as many as helpers have idle workers, and shares the
    rest by workers.

    Args:
        waiting: its tasks that may begin.
        offered: those that it offers, and that no helper has.
        taken: those that helpers have.
        free: the workers of helpers.
        workers: its own.
        seconds: how long a task takes, about.
    """
    left = waiting + offered
    kept = round(min(left, LATENCY_SECONDS * workers / seconds)) if seconds > 0 else left
    spare, idle = left - kept, max(0, free - taken)
    shared = min(spare, idle + max(0, spare - idle) * free // max(1, free + workers))
    return max(0, min(shared, MAX_OFFERED) - offered)


def count_to_take(in_hand: int, workers: int, seconds: float) -> int:
    """Return how many more tasks a helper takes: those that it runs until it can take others.

    Args:
        in_hand: tasks of others that it has, and that have not ended.
        workers: its workers.
        seconds: how long a task takes, about.
    """
    meanwhile = int(min(MAX_OFFERED, workers * LATENCY_SECONDS / seconds)) if seconds > 0 else 0
    return max(0, min(MAX_OFFERED, workers + meanwhile) - in_hand)


class OwnerTurn(NamedTuple):
    """The answer of an owner to the document that it has read."""

    document: Document | None
    """The next one; None if nothing has to change."""
    ended: dict[int, End]
    """The tasks that helpers have ended, which the owner has not seen before."""
    returned: list[int]
    """Those that the owner runs itself, once the document is written."""


@dataclasses.dataclass
class OwnerSide:
    """The tasks that a shard has given away.

    Args:
        run: the run of the shard.
    """

    run: str

    def __post_init__(self) -> None:
        self.away: set[int] = set()
        """Those that have neither ended nor come back."""
        self.wanted = 0
        """How many of those that no helper has are to come back."""
        self.seconds = 0.0
        self.has_helpers = False
        """Whether workers of others are free: they wait for tasks as long as the document changes."""
        self._written_at = -math.inf
        self.offered = self.taken = 0
        """Of those that are away: how many are only offered, and how many helpers have, by the last document."""
        self._beats: dict[str, tuple[Taken, float]] = {}
        """What helpers have written last, and since when."""

    def forgive(self) -> None:
        """Let helpers begin anew to count as lost: the store was away, also for them."""
        self._beats = {}

    def turn(self, found: Document | None, now: float) -> OwnerTurn:
        """Return what to write, and what has ended. Tasks that have ended are away no more.

        Args:
            found: the document, as it was read; None if there is none.
            now: by a monotonic clock, in seconds.
        """
        is_own = found is not None and found.run == self.run
        before = found if found is not None and is_own else Document(self.run)
        ended = {number: end for number, end in before.ended.items() if number in self.away}
        self.away -= ended.keys()
        taken: dict[str, Taken] = {}
        for helper, theirs in before.taken.items():
            tasks = tuple(number for number in theirs.tasks if number in self.away)
            if self._beats.get(helper, (None, 0.0))[0] != theirs:
                self._beats[helper] = theirs, now
            if tasks and now - self._beats[helper][1] < LOST_SECONDS:
                taken[helper] = theirs._replace(tasks=tasks)
        at_helpers = {number for theirs in taken.values() for number in theirs.tasks}
        lost = {number for theirs in before.taken.values() for number in theirs.tasks} & self.away - at_helpers
        offered = [number for number in before.offered if number in self.away and number not in at_helpers | lost]
        offered += sorted(self.away - at_helpers - lost - set(offered))
        kept = max(0, len(offered) - self.wanted)
        returned = [*sorted(lost), *offered[kept:]]
        after = Document(self.run, self.seconds, tuple(offered[:kept]), taken)
        self.offered, self.taken = kept, len(at_helpers)
        is_same = after._replace(seconds=before.seconds) == before
        needs_write = not is_same if is_own else found is not None or bool(self.away)
        needs_write |= self.has_helpers and now - self._written_at >= BEAT_SECONDS
        return OwnerTurn(after if needs_write else None, ended, returned)

    def confirm(self, turn: OwnerTurn, now: float) -> None:
        """Note what was written, if anything was: the owner has the tasks that have come back."""
        if turn.document is not None:
            self._written_at = now
        self.away -= set(turn.returned)
        self.wanted = 0


class HelperTurn(NamedTuple):
    """The answer of a helper to a document that it has read."""

    document: Document | None
    """The next one; None if nothing has to change."""
    taken: list[int]
    """The tasks that it has once the document is written."""
    told: list[int]
    """Those that it has no more then: their ends are told, or they are offered again."""


@dataclasses.dataclass
class HelperSide:
    """The tasks that a shard has of one other shard.

    Args:
        name: the name of the helper.
        may_run: returns whether a number is that of a task which the other shard may offer.
    """

    name: str
    may_run: Callable[[int], bool]

    def __post_init__(self) -> None:
        self.run = ""
        """The run of the other shard."""
        self.hand: set[int] = set()
        self.ends: dict[int, End] = {}
        """How those ended that have."""
        self.seconds = 0.0
        """How long a task takes, about, or has been at work."""
        self._written_at = -math.inf

    @property
    def open(self) -> set[int]:
        """Return the tasks that have not ended."""
        return self.hand - self.ends.keys()

    def turn(
        self,
        found: Document | None,
        now: float,
        workers: int,
        in_hand: int,
        may_tell: Callable[[int], bool],
        *,
        leaves: bool = False,
    ) -> HelperTurn:
        """Return what to write. Tasks that the owner has taken back are forgotten.

        Args:
            found: the document, as it was read; None if there is none.
            now: by a monotonic clock, in seconds.
            workers: those of the helper; 0: it takes no more.
            in_hand: its tasks that have not ended, also of other shards.
            may_tell: returns whether the outputs of a task are in the store.
            leaves: whether the tasks that it has not ended go back, since it stops.
        """
        if found is None or found.run != self.run:
            self._forget(self.hand.copy())
            self.run = "" if found is None else found.run
        if found is None:
            return HelperTurn(None, [], [])
        self.seconds = found.seconds
        shard = self.name.partition(".")[0]
        earlier = {name for name in found.taken if name != self.name and name.partition(".")[0] == shard}
        left = [number for name in earlier for number in found.taken[name].tasks]
        beat, mine = found.taken.get(self.name, Taken(0, ()))
        self._forget(self.hand - set(mine))
        told = [number for number in mine if number in self.ends and may_tell(number)]
        rest = [number for number in mine if number not in told]
        back, rest = (rest, []) if leaves else ([], rest)
        most = count_to_take(in_hand, workers, found.seconds) if workers else 0
        fresh = [number for number in found.offered if self.may_run(number) and number not in mine][:most]
        offered = [*left, *back, *(number for number in found.offered if number not in fresh)]
        is_same = not (told or fresh or earlier or back)
        if is_same and (not rest or now - self._written_at < BEAT_SECONDS):
            return HelperTurn(None, self._unknown(rest), [])
        taken = {name: theirs for name, theirs in found.taken.items() if name not in earlier and name != self.name}
        if rest or fresh:
            taken[self.name] = Taken(beat + 1, (*rest, *fresh))
        ended = {**found.ended, **{number: self.ends[number] for number in told}}
        after = found._replace(offered=tuple(offered), taken=taken, ended=ended)
        return HelperTurn(after, self._unknown([*rest, *fresh]), [*told, *back])

    def confirm(self, turn: HelperTurn, now: float) -> None:
        """Note what was written, if anything was."""
        if turn.document is not None:
            self._written_at = now
        self._forget(set(turn.told))
        self.hand |= set(turn.taken)

    def _unknown(self, numbers: Sequence[int]) -> list[int]:
        """Return those that are not in hand; of a write whose reply was lost, too."""
        return [number for number in numbers if number not in self.hand and self.may_run(number)]

    def _forget(self, numbers: set[int]) -> None:
        self.hand -= numbers
        for number in numbers:
            self.ends.pop(number, None)


LEAST_PAUSE = 0.4
"""Seconds between two looks at offers, at least: what happens meanwhile shares a request."""

SHORT_PAUSE, LONG_PAUSE = 1.0, 10.0
"""Seconds between two looks, at most: a tenth of the time of a task, but between these."""

PAUSE_FACTOR = 1.3

START_SECONDS = 10.0
"""How long a shard waits for those that have not begun, when its tasks have ended."""

IDLE_SECONDS = 60.0
"""How long a helper waits for a task, at least; one without tasks of its own also for shards that have not begun."""

LAST_TURNS = 3
"""How often a helper that stops tries to give its tasks back, if others write meanwhile."""

LAST_SECONDS = 10.0
"""How long the last look of a thread may take, while the store does not answer."""

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
        clock: a monotonic clock in seconds.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what a shard has
        self,
        feed: AdaptiveFeed,
        manifest: Manifest,
        shard: int,
        shards: int,
        store: VersionedStore,
        reporter: Reporter,
        run: str,
        is_stored: Callable[[str], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._feed, self._manifest, self._shard, self._shards = feed, manifest, shard, shards
        self._store, self._reporter, self._run, self._clock = store, reporter, run, clock
        self._is_stored, self._shard_of = is_stored, manifest.shard_of(shards)
        self.workers = 1
        """Those of the shard."""
        self.may_offer: Callable[[], bool] = lambda: True
        """Returns whether tasks may go to others: the first ones of a job may not."""
        self.is_ready: Callable[[], bool] = lambda: True
        """Returns whether a worker has loaded the model. Before, no task is at work."""
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
        self._sent: set[int] = set()
        """Those of others that have succeeded here. Their outputs may be on their way."""
        self._seconds, self._n = 0.0, 0
        """How long its attempts took in all, and how many ended."""
        self._last_at = clock()
        """When one of its tasks ended last, here or elsewhere, or began while none was at work."""
        self._active_at = self._packed_at = self._offers_at = clock()
        self._is_looking = True  # an earlier run may have left a document
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
            if not (self._at_work or self._given):
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
        if not result.is_final:
            return
        self._at_work.discard(number)
        self._last_at = self._clock()
        self._seconds, self._n = self._seconds + seconds, self._n + 1
        self._active_at = self._clock()
        if self.owns(number):
            self._feed.note(result, has_failed=has_failed)
        elif not has_failed:
            with self._lock:
                self._sent.add(number)
            self._pauses.reset()
            self._poked.set()  # a worker is free

    def note_stored(self, task: Task, outputs: Mapping[str, bytes]) -> None:
        """Note that the store was tried for the outputs of a task. A thread that sends them calls this."""
        if not self.owns(task.number):
            self._settle(task.number, self._feed.target_values(outputs))

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

    def _settle(self, number: int, end: End) -> None:
        """Note how a task of another shard has ended: its values, or its error."""
        with self._lock:
            sides = [side for side in self._helps.values() if number in side.hand and number not in side.ends]
            for side in sides:
                side.ends[number] = end
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
    def free_elsewhere(self) -> int:
        """Count the workers of helpers, as the record was last read."""
        return sum(self._told("free").values())

    def _told(self, name: str) -> dict[int, int]:
        """Return what the other shards tell of sharing, as the record was last read; see `sharing_of_others`."""
        state = self._reporter.state
        return {} if state is None else sharing_of_others(state, self._shard, name)

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
        elif self._clock() - self._packed_at >= PACK_PAUSE and (self.is_done > self._is_told or self._is_sending()):
            self._packed_at = self._clock()
            self.pack_soon()
        with self._lock:
            ended, self._ended = self._ended, []
        self.helped += len(ended)
        self._last_at = self._clock() if ended else self._last_at
        return ended

    def _is_sending(self) -> bool:
        with self._lock:
            return any(not self._sent.isdisjoint(side.open) for side in self._helps.values())

    def _offer(self) -> None:
        if not self.is_ready():
            self._last_at = self._clock()
        seconds, has_helpers = self._task_seconds(), self.free_elsewhere > 0
        free = self.free_elsewhere if self.may_offer() else 0
        idle = self.workers - len(self._at_work)
        waiting = self._feed.waiting if free or self._given else 0
        owner = self._owner
        with self._lock:
            owner.seconds, owner.has_helpers = seconds, has_helpers
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
        if tasks or (owner.wanted and owner.offered) or has_helpers > self._is_looking:
            self._is_looking = True
            self._poked.set()

    def _task_seconds(self) -> float:
        """Return how long a task takes, about. Those at work take at least as long as the last end is past."""
        mean = self._seconds / self._n if self._n else 0.0
        return max(mean, self._clock() - self._last_at) if self._at_work or self._given else mean

    @property
    def _pace(self) -> float:
        """Return how long a task takes where it looks, about."""
        with self._lock:
            return max((side.seconds for side in self._helps.values()), default=self._owner.seconds)

    def _end_own(self) -> None:
        self.is_done = True
        self._active_at = self._clock()
        self._poked.set()

    def _may_follow(self) -> bool:
        """Return whether a task of another shard may follow, once its own have ended."""
        state = self._reporter.state
        if self._reporter.ended.is_set() or self._is_closing:
            return False
        has_waited = self._clock() - self._active_at >= max(IDLE_SECONDS, self._pace + LOST_SECONDS)
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
        start = START_SECONDS if self._feed.needed else IDLE_SECONDS  # those of one set depend on its shard alone
        if len(state.shards) < self._shards and self._clock() - self._active_at < start:
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
            needs_none = not self.is_done and not self._is_looking
            longest = min(LONG_PAUSE, max(SHORT_PAUSE, self._pace / 10))
            if not self._ends.wait(LEAST_PAUSE):  # `close` may have come before `clear`
                self._poked.wait(None if needs_none else min(longest, self._pauses.next_delay()) - LEAST_PAUSE)
        with contextlib.suppress(MopsJobsError):  # in an outage, the owner misses this shard later
            self._give_back()

    def _give_back(self) -> None:
        """Give the tasks of other shards back, so that their owners do not wait until this one counts as lost."""
        for _ in range(LAST_TURNS):
            with self._lock:
                shards = [shard for shard, side in self._helps.items() if side.hand]
            for shard in shards:
                self._look_at_other(shard, leaves=True)

    def look(self) -> bool:
        """Look at the offers of the shard, or at those of others. Return whether something has happened."""
        if not self.is_done:
            return self._is_looking and self._look_at_own()
        gives = {} if self._is_over else self._told("gives")
        with self._lock:
            shards = sorted(gives.keys() | {shard for shard, side in self._helps.items() if side.hand})
        first = (self._shard + 1) % self._shards  # helpers begin with different shards
        shards.sort(key=lambda shard: (shard - first) % self._shards)
        return sum(self._look_at_other(shard) for shard in shards) > 0

    def _look_at_own(self) -> bool:
        key = self._key_of(self._shard)
        found = self._store.get(key)
        with self._lock:
            turn = self._owner.turn(_document_of(found), self._clock())
            for number, end in turn.ended.items():
                if (task := self._given.pop(number, None)) is not None:
                    self._ended.append(Away(task, end))
        is_written = turn.document is None or self._write(key, turn.document, found) is not None
        if is_written:
            if turn.returned:
                self.on_moved()
            with self._lock:
                self._owner.confirm(turn, self._clock())
                back = [self._given.pop(number) for number in turn.returned if number in self._given]
                self._back.extend((task.number, task) for task in back)
                self._is_looking = bool(self._given) or self._owner.has_helpers
        return bool(turn.ended or turn.returned or not is_written)

    def _look_at_other(self, shard: int, *, leaves: bool = False) -> bool:
        key = self._key_of(shard)
        found = self._store.get(key)
        document = _document_of(found)
        with self._lock:
            side = self._helps.get(shard)
            if side is None:
                name = f"{self._shard}.{self._run}"
                side = self._helps[shard] = HelperSide(name, lambda number: self._is_task_of(number, shard))
            in_hand = sum(len(one.open - self._sent) for one in self._helps.values())
            workers = 0 if leaves or self._is_over else self.workers
            ends = list(side.ends.items())  # threads that send outputs add to them
        ready = {number for number, end in ends if self._may_tell(end, number)}
        with self._lock:
            turn = side.turn(document, self._clock(), workers, in_hand, ready.__contains__, leaves=leaves)
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

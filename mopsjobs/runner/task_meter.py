"""Measure the tasks of a shard: what they used, when the last one will end, and which ones are stragglers.

The thread that runs the tasks feeds it. The thread of the reporter only reads the last usage and forecast.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mopsjobs.events.format import RUNNER, STRAGGLER
from mopsjobs.events.writer import EventLog
from mopsjobs.ledger.attempt import Outcome
from mopsjobs.registry.usage import ShardForecast, ShardUsage, Stragglers, add_usage, straggler_text
from mopsjobs.runner.pools.base import Pool, TaskAtWork, TaskResult
from mopsjobs.runner.pools.local import TASKS_PER_WORKER
from mopsjobs.utils.forecast import USUAL_SHARE, Forecast, Forecaster

FORECAST_SECONDS = 1.0
"""A forecast is made at most this often."""

FORECAST_COST = 50
"""And the next one not before this many times as long as it took: so all of them take at most 2 % of the time."""

MAX_ARRIVALS = 1024
"""Last results that tell how many tasks run at once, on a cluster that does not."""

MAX_STRAGGLERS = 1000
"""Stragglers of one run that are told of. Each is an event."""


class _AtWork(NamedTuple):
    """The tasks at work: how many, for how long each, in seconds, and how many more could run at once."""

    elapsed: list[float]
    workers: int
    known: list[tuple[TaskAtWork, float]]
    """Those of which the pool knows when they began."""


@dataclasses.dataclass(eq=False)
class TaskMeter:
    """Measures one run over a shard.

    Args:
        _pool: runs the tasks, and has not begun.
        todo: how many tasks it will run, as far as is known.
        _events: gets an event for each straggler.
        stops_at: when the cluster stops the shard, in seconds since the epoch; None: at no time that is known.
        on_late: called once, with the seconds until then, if the shard will not finish before. Returns the text of an
            event.
        more: how many further tasks may follow.
        has_end: whether the tasks have an end that is known. A client may ask a growing job for more.
        clock: a monotonic clock in seconds.
        wall_clock: seconds since the epoch.
    """

    _pool: Pool
    todo: int
    _events: EventLog
    stops_at: float | None = None
    on_late: Callable[[float], str] | None = None
    more: int = 0
    has_end: bool = True
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self._forecaster = Forecaster(ahead=0 if self._pool.workers is None else TASKS_PER_WORKER - 1)
        self._ended = 0
        self._used = ShardUsage(None, None, 0.0, None)
        self._began_at = self._held_at = self._left_at = self.clock()
        self._due_at = 0.0
        self._workers = self._pool.workers or 0
        self._arrivals: deque[tuple[float, float]] = deque(maxlen=MAX_ARRIVALS)
        """When the last results came, and how long their tasks took."""
        self._straggler_tasks: set[int] = set()
        """Stragglers that an event has named."""
        self._going_on: dict[int, float] = {}
        """How long tasks at work had worked before their checkpoints, by their positions."""
        self._asked: set[int] = set()
        """The positions of tasks whose last attempt asked to be started again: nothing was to be lost."""
        self._left: Forecast | None = None
        self._forecast: ShardForecast | None = None

    def measured(self) -> tuple[ShardUsage, ShardForecast | None]:
        """Return what the attempts that have ended used and how long workers were held, and the last forecast.

        What checkpoints saved counts from the begin of an attempt, unless the task had asked to be started again.
        """
        saved = sum(list(self._going_on.values())) or None
        return add_usage((self._used, ShardUsage(None, None, None, None, saved))), self._forecast

    @property
    def left(self) -> Forecast | None:
        """Return the range of the time left; None while it is too early to say."""
        if self._left is None:
            return None
        passed = self.clock() - self._left_at
        return Forecast(max(0.0, self._left.earliest - passed), self._left.latest - passed)

    def add(self, result: TaskResult) -> None:
        """Take an attempt that has ended."""
        used = result.usage
        self._going_on.pop(result.position, None)
        saved = None if result.resumed is None or result.position in self._asked else result.resumed.seconds
        self._asked.discard(result.position)
        if result.outcome == Outcome.PREEMPTED and not result.is_final:
            self._asked.add(result.position)
        measured = ShardUsage(used.cpu_seconds, used.seconds, None, used.max_rss_bytes, saved)
        self._used = add_usage((self._used, measured))
        if result.is_final:
            self._ended += 1
            if used.seconds is not None:
                self._forecaster.add(used.seconds)
                self._arrivals.append((self.clock(), used.seconds))

    def update(self) -> None:
        """Note the time that has passed; and make a forecast, if one is due. Call it at least every half second."""
        now = self.clock()
        workers = self._workers if self._pool.workers is None else self._pool.workers
        held = 0.0 if self._pool.is_waiting else (now - self._held_at) * workers
        self._used = add_usage((self._used, ShardUsage(None, None, held, None)))
        self._held_at = now
        if now >= self._due_at and self._pool.is_ready:
            self._make_forecast(now)
            self._due_at = now + max(FORECAST_SECONDS, FORECAST_COST * (self.clock() - now))

    def _make_forecast(self, now: float) -> None:
        wall = self.wall_clock()
        tasks = self._pool.at_work()
        self._going_on = {
            one.position: one.resumed.seconds
            for one in tasks
            if one.resumed is not None and one.position not in self._asked
        }
        at_work = self._at_work(tasks, now, wall)
        self._workers = at_work.workers
        waiting = max(0, self.todo - self._ended - len(at_work.elapsed))
        stragglers = self._stragglers(at_work.known)
        # Nothing tells when a task ends that hangs.
        has_end = self.has_end and (stragglers is None or not stragglers.hang(wall))
        expected = (now, at_work.elapsed, waiting, at_work.workers, self.more)
        self._left = self._forecaster.estimate(*expected) if has_end else None
        self._left_at = now
        is_late = self._bound_left(wall)
        earliest, latest = (None, None) if self._left is None else (wall + end for end in self._left)
        time_limit = self.stops_at if is_late else None
        self._forecast = ShardForecast(earliest, latest, len(at_work.elapsed), stragglers, time_limit)

    def _bound_left(self, wall: float) -> bool:
        """Keep the forecast within the time limit of the shard. Return whether it ends later, and tell so once."""
        if self._left is None or self.stops_at is None or self.stops_at <= wall:
            return False
        limit = self.stops_at - wall
        if self._left.earliest < limit:
            self._left = Forecast(self._left.earliest, min(self._left.latest, limit))
            return False
        self._left = None
        if self.on_late is not None:
            self._events.emit(RUNNER, text=self.on_late(limit))
            self.on_late = None
        return True

    def _at_work(self, tasks: Sequence[TaskAtWork], now: float, wall: float) -> _AtWork:
        known = [(one, max(0.0, wall - one.started_at)) for one in tasks if one.started_at is not None]
        if self._pool.workers is not None or known:
            return _AtWork([taken for _, taken in known], self._pool.workers or len(known), known)
        # A cluster has more tasks than it runs, and does not tell which. Each task began when another one had ended.
        workers = self._workers_by_throughput()
        began = [at for at, _ in self._arrivals][-workers:] if workers else []
        began += [self._began_at] * (workers - len(began))
        return _AtWork([now - at for at in began[: len(tasks)]], workers, [])

    def _workers_by_throughput(self) -> int:
        """Return how many tasks ran at once: those that ended per second, times how long they took (Little's law)."""
        recent = list(self._arrivals)[len(self._arrivals) // 2 :]
        span = recent[-1][0] - recent[0][0] if recent else 0.0
        if span <= 0:
            return 0
        return max(1, round(sum(seconds for _, seconds in recent[1:]) / span))

    def _stragglers(self, elapsed: Sequence[tuple[TaskAtWork, float]]) -> Stragglers | None:
        limit = self._forecaster.straggler_seconds()
        late = [] if limit is None else [(one, taken) for one, taken in elapsed if taken > limit]
        if not late:
            return None
        usual = self._forecaster.quantile(USUAL_SHARE)
        for one, taken in late:
            if one.task.number not in self._straggler_tasks and len(self._straggler_tasks) < MAX_STRAGGLERS:
                self._straggler_tasks.add(one.task.number)
                text = straggler_text(taken, usual)
                self._events.emit(STRAGGLER, task=one.task.number, seed=one.task.seed, text=text)
        oldest, taken = max(late, key=lambda pair: pair[1])
        return Stragglers(len(late), oldest.task.number, oldest.started_at or 0.0, usual)

"""Forecast the end of a run of tasks: a range of times, from the durations of the tasks that have finished.

The range should hold the true end with a probability of 80 %. It follows from simulations of the rest of the run. Each
draws the durations of the tasks that are left, and hands them to the workers. A task at work counts as one that takes
longer than it has so far (the estimator of Kaplan and Meier). So long tasks are not forgotten because short ones finish
first. See docs/decisions/0046-forecasts.md.
"""

from __future__ import annotations

import bisect
import heapq
import math
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

BIN_WIDTH = 0.02
"""Durations that differ by less than this share are counted together."""

LEAST_SECONDS, MOST_SECONDS = 1e-4, 1e9
"""Shorter and longer durations count as these. So there are at most 1,500 bins."""

LEAST_FINISHED = 4
"""Fewer finished tasks say nothing about the others, unless they are half of all tasks."""

SIMULATIONS = 100
"""Simulated ends, of which the range is taken. Runs with many workers differ less, and need fewer."""

LEAST_SIMULATIONS = 25

SIMULATED_TASKS = 20_000
"""Tasks in all simulations together, as long as there are `LEAST_SIMULATIONS`."""

ROUNDS = 2
"""The last tasks, this many per worker, are simulated one by one. Those before them only add to the work."""

QUANTILES = (0.04, 0.94)
"""The ends of the range among the simulated ends. It is wider than 80 %, since no run is like its model."""

DRIFT = 0.03
"""How far the mean duration of the tasks ahead may be from that of the finished ones, though no sample shows it."""

LEAST_SPREAD, MOST_SPREAD = 0.01, 0.7
"""Limits of the mean of the logarithm by which a task exceeds the longest one that has finished."""

FEW = 0.3
"""The same for one finished task; for N of them, an N-th of it. Few that are alike do not show that all are."""

MAX_CHANGES = 64
"""Changes of the number of workers that are remembered."""

STRAGGLER_FINISHED = 20
"""With fewer finished tasks, none at work is called a straggler."""

STRAGGLER_SECONDS = 10.0
"""Nor is one that has taken less than this."""

STRAGGLER_SPREADS = 3.0
"""A straggler is this many interquartile ranges above the third quartile, both of the logarithm."""

STRAGGLER_FACTOR = 2.0
"""And it has taken this many times as long as the 99th percentile."""

USUAL_SHARE = 0.95
"""The part of the finished tasks that took the usual time at most."""

HANG_FINISHED = 8
"""With fewer finished tasks, none at work is said to hang."""

HANG_SECONDS = 60.0
"""Nor is one that has taken less than this."""

HANG_FACTOR = 10.0
"""A task hangs if it has taken this many times as long as usual."""


def hang_seconds(usual: float) -> float:
    """Return after how long a task hangs, by the time that was usual for the finished ones."""
    return max(HANG_SECONDS, HANG_FACTOR * usual)


class Forecast(NamedTuple):
    """The range of an end, in seconds from now."""

    earliest: float
    latest: float


class Forecaster:
    """Learns from the tasks of a run. Its memory does not grow with their number."""

    def __init__(self, *, ahead: int = 0) -> None:
        """Begin without any task.

        Args:
            ahead: tasks that each worker has been given besides the one at work: 0 or 1.
        """
        self._ahead = ahead
        self.finished = 0
        self._bins: dict[int, list[float]] = {}
        """By the logarithm of the duration: the weight of the tasks, weight times seconds, and their number."""
        self._weight = self._weight_squares = 0.0
        self._seconds = 0.0
        self._crew = _Crew()

    def add(self, seconds: float, count: int = 1) -> None:
        """Note that tasks have finished, each of which took that long on its worker.

        Later tasks weigh more. The first task of each worker weighs next to nothing, since it may have loaded data.
        """
        seconds = min(max(seconds, LEAST_SECONDS), MOST_SECONDS)
        self.finished += count
        weight = count * max(0.5, self.finished - (count - 1) / 2 - self._crew.size)
        entry = self._bins.setdefault(math.floor(math.log(seconds) / BIN_WIDTH), [0.0, 0.0, 0.0])
        entry[0] += weight
        entry[1] += weight * seconds
        entry[2] += count
        self._weight += weight
        self._weight_squares += weight * weight
        self._seconds += count * seconds

    def estimate(
        self, now: float, at_work: Sequence[float], waiting: int, workers: int, more: int = 0
    ) -> Forecast | None:
        """Return the range of the end; None while too few tasks have finished, and if none is left.

        Args:
            now: seconds of a monotonic clock.
            at_work: how long each task at work has taken so far, in seconds.
            waiting: how many tasks are not begun.
            workers: how many tasks may run at once now; 0 if only `at_work` tells.
            more: how many further tasks may follow. The range begins where none does, and ends where all do.
        """
        lanes = _lanes(at_work, waiting, workers)
        self._crew.note(now, lanes, self._seconds + sum(at_work), has_work=waiting > 0)
        left = waiting + len(at_work)
        enough = min(max(LEAST_FINISHED, math.ceil(1.25 * lanes)), math.ceil((left + self.finished) / 2))
        if not left or self.finished < max(1, enough):
            return None
        from random import Random  # here, since its import takes longer than a listing may

        bins = [(weighted / weight, weight) for _, (weight, weighted, _) in sorted(self._bins.items())]
        effective = self._weight * self._weight / self._weight_squares
        durations = _Durations(bins, sorted(at_work), effective)
        chance = Random(self.finished)  # noqa: S311 - equal runs give equal ranges

        def simulate(waiting: int) -> list[float]:
            lanes = _lanes(at_work, waiting, workers)
            run = _Rest(durations, self._crew, at_work, waiting, lanes, self._ahead, self._crew.gap(self.finished))
            count = max(LEAST_SIMULATIONS, min(SIMULATIONS, SIMULATED_TASKS // ((1 + ROUNDS) * lanes)))
            return sorted(run.simulate(chance) for _ in range(count))

        first = simulate(waiting)
        last = simulate(waiting + more) if more else first
        return Forecast(
            *(ends[round(share * (len(ends) - 1))] for ends, share in zip((first, last), QUANTILES, strict=True))
        )

    def straggler_seconds(self) -> float | None:
        """Return how long a task takes at most to be explained by the finished ones; None if too few have finished."""
        if self.finished < HANG_FINISHED:
            return None
        hang = hang_seconds(self.quantile(USUAL_SHARE))
        if self.finished < STRAGGLER_FINISHED:
            return hang
        first, third, most = (self.quantile(share) for share in (0.25, 0.75, 0.99))
        spread = math.exp(STRAGGLER_SPREADS * math.log(third / first))
        return min(hang, max(STRAGGLER_SECONDS, third * spread, STRAGGLER_FACTOR * most))

    def quantile(self, share: float) -> float:
        """Return the duration that this share of the finished tasks did not exceed, to within 2 %."""
        need, seconds = share * self.finished, 0.0
        for _, (weight, weighted, count) in sorted(self._bins.items()):
            seconds = weighted / weight
            need -= count
            if need <= 0:
                break
        return seconds


def _lanes(at_work: Sequence[float], waiting: int, workers: int) -> int:
    """Return how many tasks run at once."""
    return max(len(at_work), min(workers, len(at_work) + waiting), 1 if waiting else 0)


class _Crew:
    """The workers of a run: their number, how it changed, and how long they were without a task."""

    def __init__(self) -> None:
        self.size = 0
        self._sizes: list[int] = []
        self._began_at = self._noted_at = 0.0
        self._held = self._busy = self._busy_before = 0.0

    def note(self, now: float, size: int, busy: float, *, has_work: bool) -> None:
        """Note how many workers there are, and for how many seconds together tasks have kept them busy."""
        if not self._sizes:
            self._began_at, self._busy, self._busy_before = now, busy, busy
        elif has_work:
            self._held += (now - self._noted_at) * self.size
            self._busy = busy
        self._noted_at = now
        if not self._sizes or (has_work and size != self.size):
            self.size = size
            self._sizes.append(size)
            del self._sizes[:-MAX_CHANGES]

    def gap(self, finished: int) -> float:
        """Return how many seconds a worker waits between two tasks."""
        return max(0.0, self._held - (self._busy - self._busy_before)) / finished

    def ahead(self, chance: random.Random, seconds: float) -> float:
        """Return how many workers there may be on average in the seconds ahead, if their number changes as it did."""
        changes = len(self._sizes) - 1
        if changes < 1:
            return self.size
        elapsed = max(self._noted_at - self._began_at, 1e-9)
        path = [float(self.size)]
        for _ in range(int(changes * min(2.0, seconds / elapsed) + chance.random())):
            change = chance.randrange(changes)
            ratio = self._sizes[change + 1] / self._sizes[change]
            size = path[-1] * (ratio if chance.random() < 0.5 else 1 / ratio)
            path.append(min(max(1.0, size), 2.0 * max(self._sizes)))
        return sum(path) / len(path)


class _Durations:
    """The distribution of the durations, of which the finished tasks and those at work are a sample."""

    def __init__(self, bins: list[tuple[float, float]], at_work: list[float], effective: float) -> None:
        """Estimate it.

        Args:
            bins: the finished tasks: seconds and weight, the shortest first.
            at_work: how long each task at work has taken so far, the shortest first.
            effective: how many tasks of equal weight say as much as the finished ones.
        """
        weight = sum(weight for _, weight in bins)
        masses, beyond = _kaplan_meier(bins, at_work, weight / effective)
        self._values = [seconds for seconds, _ in bins]
        self._longest = self._values[-1]
        self._spread = _spread(bins, weight, effective)
        # The next task exceeds all others with this chance, at least.
        body = 1 - 1 / (effective + 2)
        self._sums = list(accumulate(mass * body for mass in masses))
        moments = list(zip(self._values, masses, strict=True))
        moments.append((max([self._longest, *at_work[-1:]]) * (1 + self._spread), beyond))
        self.mean = sum(mass * seconds for seconds, mass in moments)
        self.deviation = math.sqrt(sum(mass * (seconds - self.mean) ** 2 for seconds, mass in moments))
        self.uncertainty = math.hypot(self.deviation / self.mean / math.sqrt(effective), DRIFT, FEW / effective)
        """The standard deviation of the mean, as a share of it."""

    def draw(self, chance: random.Random) -> float:
        """Draw the duration of a task."""
        return self._at(chance.random(), chance)

    def draw_rest(self, chance: random.Random, elapsed: float) -> float:
        """Draw how much longer a task takes that has taken `elapsed` so far."""
        if elapsed >= self._longest:
            overrun = math.log(max(elapsed, LEAST_SECONDS) / self._longest)
            return elapsed * math.expm1(min(MOST_SPREAD, self._spread + overrun) * chance.expovariate(1))
        position = bisect.bisect_right(self._values, elapsed)
        below = self._sums[position - 1] if position else 0.0
        return max(0.0, self._at(below + (1 - below) * chance.random(), chance) - elapsed)

    def _at(self, share: float, chance: random.Random) -> float:
        position = bisect.bisect_right(self._sums, share)
        if position < len(self._values):
            return self._values[position]
        return self._longest * math.exp(self._spread * chance.expovariate(1))


def _kaplan_meier(bins: list[tuple[float, float]], at_work: list[float], unit: float) -> tuple[list[float], float]:
    """Return the probability of each bin, and that of more than the last one. A task at work has the weight `unit`."""
    masses, alive, position = [], 1.0, 0
    at_risk = sum(weight for _, weight in bins) + unit * len(at_work)
    for seconds, weight in bins:
        while position < len(at_work) and at_work[position] < seconds:
            at_risk -= unit
            position += 1
        masses.append(alive * min(1.0, weight / at_risk))
        alive -= masses[-1]
        at_risk -= weight
    return masses, max(0.0, alive) if position < len(at_work) else 0.0


def _spread(bins: list[tuple[float, float]], weight: float, effective: float) -> float:
    """Return by how much the longest durations differ: the mean logarithm by which they exceed the least of them."""
    need = weight * min(0.5, max(0.1, 4 / effective))
    logarithms, taken = 0.0, 0.0
    for seconds, share in reversed(bins):
        part = min(share, need - taken)
        taken += part
        logarithms += part * math.log(seconds)
        if taken >= need:
            break
    excess = logarithms / taken - math.log(seconds)
    return min(max(excess, LEAST_SPREAD, FEW / effective), MOST_SPREAD)


class _Rest(NamedTuple):
    """The rest of a run."""

    durations: _Durations
    crew: _Crew
    at_work: Sequence[float]
    waiting: int
    lanes: int
    ahead: int
    gap: float

    def simulate(self, chance: random.Random) -> float:
        """Return one possible end, in seconds from now.

        Whole rounds before the last ones only shift the end, by their work per worker.
        """
        durations, lanes, gap = self.durations, self.lanes, self.gap
        scale = math.exp(chance.gauss(0, durations.uncertainty))
        ends = [durations.draw_rest(chance, elapsed) for elapsed in self.at_work]
        ends += [0.0] * (lanes - len(ends))
        shift = 0.0
        early = max(0, self.waiting // lanes - ROUNDS) * lanes
        if early:
            work = chance.gauss(early * (scale * durations.mean + gap), scale * durations.deviation * math.sqrt(early))
            shift = max(0.0, work) / self.crew.ahead(chance, work / lanes)
        late = self.waiting - early
        ahead = min(lanes, late) if self.ahead else 0
        heapq.heapify(ends)
        for _ in range(late - ahead):
            heapq.heapreplace(ends, ends[0] + gap + scale * durations.draw(chance))
        # Each worker runs the task that it was given before, though another worker may be free.
        for lane in range(ahead):
            ends[lane] += gap + scale * durations.draw(chance)
        return shift + max(ends)

"""Forecasts of runs whose end is known: how often the range holds the end, and how wide it is.

All runs are on a virtual clock. At 50 moments of each, a forecaster that knows only what has happened so far gives a
range. 80 % of the ranges should hold the true end, and at least 75 % have to.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

from mopsjobs.utils.forecast import Forecast, Forecaster
from reliability.trial import Figure, Trial, hold

KINDS = ("constant", "log-normal", "bimodal", "warming up", "tail", "changing workers")

SIZES = (5, 20, 50, 200, 1000)
"""Tasks of a run."""

WORKERS = (1, 2, 4, 8, 16)


class Run(NamedTuple):
    """A run whose end is known."""

    spans: list[tuple[float, float]]
    """When each task begins and ends, in seconds."""
    workers: list[tuple[float, int]]
    """How many tasks run at once, from when on."""
    ahead: int
    """Tasks that a worker holds besides the one at work."""

    @property
    def end(self) -> float:
        """Return when the last task ends."""
        return max(end for _, end in self.spans)

    def workers_at(self, now: float) -> int:
        """Return how many tasks run at once."""
        return [count for at, count in self.workers if at <= now][-1]


def make_run(kind: str, seed: int) -> Run:
    """Return the run of a seed."""
    chance = random.Random(f"{kind} {seed}")
    size, workers = chance.choice(SIZES), chance.choice(WORKERS)
    seconds = _durations(kind, size, workers, chance)
    if kind == "changing workers":
        changes = _changes(chance.choice(("more", "fewer", "both")), max(2, workers), sum(seconds), chance)
        return Run(_schedule(seconds, changes, 0), changes, 0)
    ahead = chance.choice((0, 1))
    changes = [(0.0, workers)]
    return Run(_schedule(seconds, changes, ahead), changes, ahead)


def _durations(kind: str, size: int, workers: int, chance: random.Random) -> list[float]:
    """Return how long each task takes, in the order in which they begin."""
    usual = math.exp(chance.uniform(math.log(0.5), math.log(300)))
    sigma = {"constant": 0.01, "bimodal": 0.1, "warming up": 0.2, "tail": 0.3}.get(kind) or chance.choice((0.3, 0.6, 1))
    seconds = [usual * math.exp(chance.gauss(0, sigma)) for _ in range(size)]
    share, factor = 0.0, 1.0
    if kind == "bimodal":
        share, factor = chance.choice((0.05, 0.2, 0.5)), chance.choice((5, 10, 30))
    elif kind == "tail":
        share, factor = 0.03, chance.uniform(5, 15)
    elif kind == "warming up":
        factor = chance.choice((2, 5))
        return [one * factor if position < workers else one for position, one in enumerate(seconds)]
    return [one * factor if chance.random() < share else one for one in seconds]


def _changes(kind: str, workers: int, work: float, chance: random.Random) -> list[tuple[float, int]]:
    """Return numbers of workers: they come one by one, half of them go, or some come and go all the time."""
    end = work / workers
    if kind == "more":
        times = sorted(chance.uniform(0, 0.3) * end for _ in range(workers - 1))
        return [(0.0, 1), *((at, count) for count, at in enumerate(times, 2))]
    if kind == "fewer":
        return [(0.0, workers), (chance.uniform(0.2, 0.8) * end, workers - workers // 2)]
    changes, at = [(0.0, workers)], 0.0
    while (at := at + chance.expovariate(6 / end)) < 3 * end:
        step = chance.choice((-1, 1)) * max(1, workers // 4)
        changes.append((at, max(1, min(2 * workers, changes[-1][1] + step))))
    return changes


def _schedule(seconds: list[float], changes: list[tuple[float, int]], ahead: int) -> list[tuple[float, float]]:
    """Return when each task begins and ends. A worker that is taken away finishes its task."""
    spans: list[tuple[float, float]] = []
    if ahead:
        return _schedule_ahead(seconds, changes[0][1])
    ends: list[float] = []
    later = iter([*changes[1:], (math.inf, 0)])
    at, (following, size) = 0.0, next(later)
    workers = changes[0][1]
    while ends or len(spans) < len(seconds):
        while len(ends) < workers and len(spans) < len(seconds):
            spans.append((at, at + seconds[len(spans)]))
            heapq.heappush(ends, spans[-1][1])
        if following <= ends[0]:
            at, workers = following, size
            following, size = next(later)
        else:
            at = heapq.heappop(ends)
    return spans


def _schedule_ahead(seconds: list[float], workers: int) -> list[tuple[float, float]]:
    """Return the same if each worker holds one more task: it gets the next one when it begins that."""
    queue = iter(seconds)
    held = [[one] for one in (next(queue, None) for _ in range(workers)) if one is not None]
    for tasks in held:
        tasks.extend(one for one in (next(queue, None),) if one is not None)
    free = [(0.0, worker) for worker in range(len(held))]
    spans = []
    while free:
        at, worker = heapq.heappop(free)
        if not held[worker]:
            continue
        end = at + held[worker].pop(0)
        spans.append((at, end))
        if at > 0 and (one := next(queue, None)) is not None:
            held[worker].append(one)
        heapq.heappush(free, (end, worker))
    return spans


RUNS = 1_000
"""Of the whole trial, for each kind."""

MOMENTS = 50
"""At which each run is looked at."""

LEAST_COVERAGE = 0.75

SOON = 10.0
"""A range that ends before that many seconds..."""

MINUTES = 60.0
"""...is wrong if more than this is left; and it may not say so for as long as this."""


class Judged(NamedTuple):
    """One moment of a run."""

    at: float
    forecast: Forecast | None
    left: float
    """Seconds until the true end."""

    @property
    def is_covered(self) -> bool:
        """Return whether the range holds the end."""
        return self.forecast is not None and self.forecast.earliest <= self.left <= self.forecast.latest

    @property
    def is_too_soon(self) -> bool:
        """Return whether the range says seconds, and minutes are left."""
        return self.forecast is not None and self.forecast.latest < SOON and self.left > MINUTES


def run(trial: Trial) -> Iterator[Figure]:
    """Yield what the forecasts of each kind are worth."""
    together: list[Judged] = []
    for kind in KINDS:
        judged: list[Judged] = []
        longest = 0.0
        for number in range(trial.times(RUNS)):
            moments = judge(make_run(kind, trial.seed * 1_000_000 + number))
            judged += moments
            longest = max(longest, too_soon_seconds(moments))
        together += judged
        spoken = [one for one in judged if one.forecast is not None]
        widths = [(one.forecast.latest - one.forecast.earliest) / one.left for one in spoken if one.forecast]
        yield Figure(
            f"{kind}: ranges that hold the end",
            f"{coverage(judged):.1%} of {len(spoken):,}; width {median(widths):.0%} of the rest (median);"
            f" silent at {1 - len(spoken) / len(judged):.0%} of the moments",
        )
        hold(longest < MINUTES, f"{kind}: the range said less than {SOON:g} s for {longest:.0f} s")
    yield Figure("all ranges that hold the end", f"{coverage(together):.1%}")
    hold(coverage(together) >= LEAST_COVERAGE, f"{coverage(together):.1%} of the ranges hold the end")


def judge(run: Run) -> list[Judged]:
    """Return what a forecaster says at moments of a run."""
    forecaster = Forecaster(ahead=run.ahead)
    ends = iter(sorted((end, end - begin) for begin, end in run.spans))
    following = next(ends, None)
    judged = []
    for moment in range(1, MOMENTS):
        now = run.end * moment / MOMENTS
        while following is not None and following[0] <= now:
            forecaster.add(following[1])
            following = next(ends, None)
        at_work = [now - begin for begin, end in run.spans if begin <= now < end]
        waiting = len(run.spans) - forecaster.finished - len(at_work)
        forecast = forecaster.estimate(now, at_work, waiting, run.workers_at(now))
        judged.append(Judged(now, forecast, run.end - now))
    return judged


def coverage(judged: list[Judged]) -> float:
    """Return the share of the ranges that hold the end."""
    spoken = [one for one in judged if one.forecast is not None]
    return sum(one.is_covered for one in spoken) / len(spoken)


def too_soon_seconds(judged: list[Judged]) -> float:
    """Return for how long at most a run was said to end within seconds, while minutes were left."""
    longest, since = 0.0, None
    for one in judged:
        since = (since if since is not None else one.at) if one.is_too_soon else None
        longest = max(longest, 0.0 if since is None else one.at - since)
    return longest

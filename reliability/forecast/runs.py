"""Runs of tasks on a virtual clock: when each task begins and ends, and how many workers there are."""

from __future__ import annotations

import heapq
import math
import random
from typing import NamedTuple

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

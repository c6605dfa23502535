"""The range of what tasks will cost together, from what other tasks of the model have cost. Pure.

A parameter set that was measured costs what its tasks did on average. Another one costs the mean of the measured sets,
or of the `NEAREST` of them if those predict each measured set better from the others. The range is an interval of
Student's t around the logarithm of the sum. It takes in how tasks of one set differ, how sets differ, how few were
measured, and that runs differ. See docs/decisions/0121-plans.md.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard, TypeVar

from mopsjobs.utils.intervals import student_t

T = TypeVar("T")

NEAREST = 3
"""Measured sets whose mean stands for a set that is not measured."""

MAX_SETS = 200
"""Sets that are compared with one another, at equal distances in their study."""

SPREAD = 0.3
"""The standard deviation of the tasks, as a share of their mean, that is expected before any is measured."""

SPREAD_WEIGHT = 2
"""As many measured tasks weigh as much as that expectation: few tasks that are alike do not show that all are."""

RUN_SPREAD = 0.1
"""The same from one run to another: machines differ, and other work slows a core down."""


class Range(NamedTuple):
    """The least and the most that is expected."""

    low: float
    high: float

    def times(self, factor: float) -> Range:
        """Return the range of a multiple."""
        return Range(self.low * factor, self.high * factor)

    def describe(self) -> str:
        """Return the range for people, with two digits."""
        return " to ".join(dict.fromkeys(f"{end:,.0f}" if end >= 100 else f"{end:.2g}" for end in self))

    def to_json(self) -> dict[str, float]:
        """Return the range as scripts get it, with four digits."""
        return {"low": float(f"{self.low:.4g}"), "high": float(f"{self.high:.4g}")}


class MeasuredSet(NamedTuple):
    """The measured costs of tasks of a parameter set."""

    param_id: str
    params: Mapping[str, Any]
    tasks: int
    mean: float
    squares: float
    """The sum of the squares by which they differ from their mean."""


class PlannedSet(NamedTuple):
    """A parameter set that has tasks to run."""

    param_id: str
    params: Mapping[str, Any]
    tasks: int
    """Those to run."""
    done: int = 0
    """Others of the set, which will not run again."""


def estimate_total(
    measured: Sequence[MeasuredSet],
    planned: Sequence[PlannedSet],
    *,
    run_spread: float = RUN_SPREAD,
    resolution: float = 0.0,
) -> Range | None:
    """Return the range of what all tasks to run cost together; None if nothing was measured.

    Args:
        measured: the measured sets, each once.
        planned: the sets to run.
        run_spread: the relative standard deviation from one run to another; 0 for a size.
        resolution: the unit in which the costs of each task were rounded.
    """
    known = {one.param_id: one for one in measured}
    if not known:
        return None
    within = _shared_spread(
        sum(one.squares for one in measured),
        sum((one.tasks - 1) * one.mean**2 for one in measured),
        sum(one.tasks - 1 for one in measured),
    )
    total = variance = 0.0
    freedom = SPREAD_WEIGHT + sum(one.tasks - 1 for one in measured)
    others = []
    for one in planned:
        if (own := known.get(one.param_id)) is None:
            others.append(one)
            continue
        # Tasks that were measured themselves cost the same again.
        new = one.tasks - min(one.tasks, max(0, own.tasks - one.done))
        total += one.tasks * own.mean
        variance += own.mean**2 * within * new * (1 + new / own.tasks)
    if others:
        predicted, between = _predict(spaced(measured, MAX_SETS), others)
        rest = sum(predicted)
        total += rest
        variance += between * (sum(cost**2 for cost in predicted) + rest**2 / len(measured))
        variance += within * sum(cost**2 / one.tasks for cost, one in zip(predicted, others, strict=True))
        freedom = SPREAD_WEIGHT + len(measured) - 1
    rounded = resolution / 2 * sum(one.tasks for one in planned)
    if not total:
        return Range(0.0, rounded)
    # The sum counts as log-normal. Its logarithm then has this standard deviation.
    margin = student_t(freedom) * math.sqrt(math.log1p(variance / total**2 + run_spread**2))
    return Range(max(0.0, total * math.exp(-margin) - rounded), total * math.exp(margin) + rounded)


def beyond(measured: Sequence[MeasuredSet], planned: Sequence[PlannedSet]) -> list[str]:
    """Return the parameters that have a value in a set to run which is below or above all measured ones."""
    bounds = _bounds([one.params for one in measured])
    outside = {
        name
        for one in planned
        for name, (low, high) in bounds.items()
        if _is_number(value := one.params.get(name)) and not low <= value <= high
    }
    return sorted(outside)


def spaced(items: Sequence[T], most: int) -> Sequence[T]:
    """Return at most this many items, at equal distances, the first one included."""
    count = min(len(items), most)
    return [items[place * len(items) // count] for place in range(count)]


def _shared_spread(squares: float, scale: float, freedom: int) -> float:
    """Return a relative variance: the measured one, joined with the one that is expected."""
    seen = squares / scale if scale else 0.0
    return (SPREAD_WEIGHT * SPREAD**2 + freedom * seen) / (SPREAD_WEIGHT + freedom)


def _predict(measured: Sequence[MeasuredSet], planned: Sequence[PlannedSet]) -> tuple[list[float], float]:
    """Return what the tasks of each set cost that is not measured, and the relative variance of sets around that."""
    count, means = len(measured), [one.mean for one in measured]
    total, some = math.fsum(means), spaced(planned, MAX_SETS)
    costs, guesses = [total / count], [(total - mean) / max(1, count - 1) for mean in means]
    miss = _miss(means, guesses)
    if count > NEAREST:
        places = _places([*(one.params for one in measured), *(one.params for one in some)])
        near = [_nearest(places[number], places[:count], means, without=number) for number in range(count)]
        if (near_miss := _miss(means, near)) < miss:
            guesses, miss = near, near_miss
            costs = [_nearest(place, places[:count], means) for place in places[count:]]
    between = _shared_spread(miss, sum(guess**2 for guess in guesses), count - 1)
    if len(costs) != len(planned):
        costs = [math.fsum(costs) / len(costs)] * len(planned)
    return [one.tasks * cost for one, cost in zip(planned, costs, strict=True)], between


def _miss(means: Sequence[float], guesses: Sequence[float]) -> float:
    return sum((mean - guess) ** 2 for mean, guess in zip(means, guesses, strict=True))


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _bounds(sets: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Return the least and the highest value of each parameter that is a number in all sets."""
    names = {name: [params[name] for params in sets] for name in sets[0] if all(name in params for params in sets)}
    return {name: (min(some), max(some)) for name, some in names.items() if all(map(_is_number, some))}


_Place = tuple[list[float], list[str]]
"""Numbers, each from 0 to 1 over all sets, and the other parameters as texts."""


def _places(sets: Sequence[Mapping[str, Any]]) -> list[_Place]:
    bounds = {name: (low, (high - low) or 1) for name, (low, high) in _bounds(sets).items()}
    names = sorted({name for params in sets for name in params if name not in bounds})
    return [
        (
            [(params[name] - low) / width for name, (low, width) in bounds.items()],
            [repr(params.get(name)) for name in names],
        )
        for params in sets
    ]


def _nearest(place: _Place, places: Sequence[_Place], means: Sequence[float], without: int | None = None) -> float:
    """Return the mean cost of the sets nearest to a place: the sum of the differences of their parameters decides."""
    numbers, texts = place
    distances = (
        (sum(abs(a - b) for a, b in zip(numbers, own, strict=True)) + sum(map(str.__ne__, texts, words)), number)
        for number, (own, words) in enumerate(places)
        if number != without
    )
    return math.fsum(means[number] for _, number in heapq.nsmallest(NEAREST, distances)) / NEAREST

"""Synthetic studies that stop by `studies.precision`: how often the interval holds the truth, and at what cost.

The cost is counted in replicates of an oracle that knows the distribution. It takes the least fixed number whose
interval, of the true width, is as narrow as the study asks. See docs/decisions/0119-precision-instead-of-a-count.md.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mopsjobs.studies.precision import MAX, MORE, Precision, Target, judge
from mopsjobs.utils.intervals import normal_quantile
from reliability.trial import Figure, Trial, hold

STUDIES = 10_000
"""Of the whole trial, for each outcome and goal."""

QUANTILE_STUDIES = 2_000
"""The same of quantiles."""

CONFIDENCE = 0.95

LEAST_COVERED = CONFIDENCE - 0.01

MOST_COST = 1.3
"""In replicates of the oracle."""

MIN_REPLICATES = 10

MAX_FACTOR = 4
"""The most replicates that a study allows, in those of the oracle."""

MOST_OF_QUANTILE = 2_000
"""The same of quantiles, in number."""

NORMAL_90 = normal_quantile(0.8)
"""The quantile 0.9 of the normal distribution."""

DEVIATIONS = 3
"""By which a figure of fewer studies than the whole trial may miss its bound, in standard errors."""


class Outcome(NamedTuple):
    """The distribution of a result."""

    name: str
    draw: Callable[[random.Random], float]
    mean: float
    sd: float


def _normal() -> Outcome:
    return Outcome("normal, sd 30 % of the mean", lambda chance: chance.gauss(10, 3), 10, 3)


def _log_normal(sigma: float) -> Outcome:
    mean = math.exp(sigma**2 / 2)
    sd = mean * math.sqrt(math.expm1(sigma**2))
    return Outcome(f"log-normal, sigma {sigma:g}", lambda chance: chance.lognormvariate(0, sigma), mean, sd)


def _rare(share: float) -> Outcome:
    sd = math.sqrt(share * (1 - share))
    return Outcome(f"rare event, {100 * share:g} %", lambda chance: chance.random() < share, share, sd)


HELD = (
    (_normal(), "relative", (0.1, 0.05)),
    (_normal(), "absolute", (0.1, 0.05)),
    (_log_normal(0.5), "relative", (0.1, 0.05)),
    (_log_normal(0.5), "absolute", (0.1, 0.05)),
    (_log_normal(1), "relative", (0.15, 0.1)),
    (_log_normal(1), "absolute", (0.1,)),
    (_rare(0.05), "relative", (0.5, 0.2)),
    (_rare(0.02), "relative", (0.5,)),
    (_rare(0.02), "absolute", (0.5,)),
)
"""Outcomes, kinds of goals, and goals as parts of the true mean, of which coverage and cost are promised."""

SHOWN = (
    (_log_normal(0.5), "relative", (0.2,)),
    (_log_normal(1), "relative", (0.25,)),
    (_log_normal(1), "absolute", (0.25, 0.15)),
)
"""The same, of which they are only reported: few replicates of a skewed outcome lack its extremes."""


DISCRETE = Outcome("binomial, 10 of 30 %", lambda chance: sum(chance.random() < 0.3 for _ in range(10)), 3, 1.449)
HARD = Outcome("0 or 1, 50.5 %", lambda chance: chance.random() < 0.505, 0.505, 0.5)
"""Its median is 1, and a sample says 0 almost as often."""

QUANTILES = (
    (_normal(), 0.5, 10, (0.2, 0.05)),
    (_normal(), 0.9, 10 + 3 * NORMAL_90, (0.2, 0.05)),
    (_log_normal(0.5), 0.5, 1, (0.1,)),
    (_log_normal(0.5), 0.9, math.exp(0.5 * NORMAL_90), (0.1,)),
    (_log_normal(1), 0.5, 1, (0.2,)),
    (_log_normal(1), 0.9, math.exp(NORMAL_90), (0.2,)),
    (DISCRETE, 0.5, 3, (0.2, 0.1)),
    (DISCRETE, 0.9, 5, (0.2, 0.1)),
    (HARD, 0.5, 1, (0.2,)),
)
"""Outcomes, quantiles of them and the true values, and relative goals, of which coverage is promised."""


def run(trial: Trial) -> Iterator[Figure]:
    """Yield coverage and cost of each outcome and goal."""
    studies = trial.times(STUDIES)
    for is_held, rows in ((True, HELD), (False, SHOWN)):
        for outcome, kind, goals in rows:
            for goal in goals:
                yield _figure(outcome, kind, goal, studies, trial.seed, is_held=is_held)
    yield from quantiles(trial)


def quantiles(trial: Trial) -> Iterator[Figure]:
    """Yield coverage and replicates of each quantile and goal."""
    for outcome, share, truth, goals in QUANTILES:
        for goal in goals:
            yield _quantile_figure(outcome, share, truth, goal, trial.times(QUANTILE_STUDIES), trial.seed)


def _figure(outcome: Outcome, kind: str, goal: float, studies: int, seed: int, *, is_held: bool) -> Figure:
    width = goal * outcome.mean
    oracle = math.ceil((normal_quantile(CONFIDENCE) * outcome.sd / width) ** 2)
    target = Target("x", CONFIDENCE, goal, None) if kind == "relative" else Target("x", CONFIDENCE, None, width)
    precision = Precision(MIN_REPLICATES, MAX_FACTOR * oracle, (target,))
    name = f"{outcome.name}: {kind} {100 * goal:g} %"
    covered, rounds, at_max, counts = _simulate(
        precision, outcome, outcome.mean, studies, f"{seed} {outcome.name} {kind} {goal}"
    )
    share, cost = covered / studies, sum(counts) / studies / oracle
    text = f"{100 * share:.1f} % covered, {cost:.2f} x {oracle:,} replicates, {rounds / studies:.1f} rounds"
    if is_held:
        slack = DEVIATIONS / math.sqrt(studies) if studies < STUDIES else 0.0
        spread = math.sqrt(sum((one / oracle - cost) ** 2 for one in counts) / studies)
        lowest = LEAST_COVERED - slack * math.sqrt(LEAST_COVERED * (1 - LEAST_COVERED))
        hold(share >= lowest and cost <= MOST_COST + slack * spread, f"{name}: {text}")
    return Figure(name, text + (f", {at_max} at max" if at_max else ""))


def _quantile_figure(outcome: Outcome, share: float, truth: float, goal: float, studies: int, seed: int) -> Figure:
    name = f"{outcome.name}: quantile {share:g}, relative {100 * goal:g} %"
    precision = Precision(MIN_REPLICATES, MOST_OF_QUANTILE, (Target("x", CONFIDENCE, goal, quantile=share),))
    covered, rounds, at_max, counts = _simulate(precision, outcome, truth, studies, f"{seed} {name}")
    text = f"{100 * covered / studies:.1f} % covered, {sum(counts) / studies:,.0f} replicates"
    slack = DEVIATIONS * math.sqrt(LEAST_COVERED * (1 - LEAST_COVERED) / studies) if studies < QUANTILE_STUDIES else 0.0
    hold(covered / studies >= LEAST_COVERED - slack, f"{name}: {text}")
    return Figure(name, f"{text}, {rounds / studies:.1f} rounds" + (f", {at_max} at max" if at_max else ""))


def _simulate(
    precision: Precision, outcome: Outcome, truth: float, studies: int, seed: str
) -> tuple[int, int, int, list[int]]:
    """Return how many intervals hold the truth, the rounds, the studies that end at `max`, and their replicates."""
    chance, covered, rounds, at_max, counts = random.Random(seed), 0, 0, 0, []
    for _ in range(studies):
        values: list[dict[str, object]] = []
        while (found := judge(precision, values)).verdict == MORE:
            values += [{"x": outcome.draw(chance)} for _ in range(found.needed - len(values))]
            rounds += 1
        interval = found.intervals["x"]
        covered += interval is not None and interval.low <= truth <= interval.high
        at_max += found.verdict == MAX
        counts.append(found.n)
    return covered, rounds, at_max, counts

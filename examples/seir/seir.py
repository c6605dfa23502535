"""A stochastic SEIR epidemic, in pure Python: day by day, each move between compartments is a draw.

susceptible -> exposed -> infectious -> removed
"""

from __future__ import annotations

import math
import random

DAYS = 120


def simulate(params: dict[str, float], seed: int) -> dict[str, object]:
    """One epidemic.

    Args:
        params: `population`; `initial` infectious; `r0`; mean days `incubating` and `infectious`; `beds`, if they
            are limited.
        seed: of the random numbers. The same one gives the same epidemic.

    Returns:
        The number of infectious people a day, and what came of it.

    Raises:
        OverflowError: if more people are infectious than there are beds. The model does not know what happens then.
    """
    draw = random.Random(seed)
    population = int(params["population"])
    infectious = int(params["initial"])
    susceptible, exposed, removed = population - infectious, 0, 0
    beta = params["r0"] / params["infectious"]
    daily = []
    for day in range(DAYS):
        infected = _binomial(draw, susceptible, 1 - math.exp(-beta * infectious / population))
        fallen_ill = _binomial(draw, exposed, 1 - math.exp(-1 / params["incubating"]))
        recovered = _binomial(draw, infectious, 1 - math.exp(-1 / params["infectious"]))
        susceptible -= infected
        exposed += infected - fallen_ill
        infectious += fallen_ill - recovered
        removed += recovered
        daily.append(infectious)
        if infectious > params.get("beds", population):
            raise OverflowError(f"day {day}: {infectious} patients, but {params['beds']} beds")
    peak = max(range(DAYS), key=daily.__getitem__)
    return {"infectious": daily, "peak_day": peak, "peak": daily[peak], "attack_rate": 1 - susceptible / population}


def _binomial(draw: random.Random, trials: int, chance: float) -> int:
    """Successes in so many trials: one by one while they are few, by the normal curve when they are many."""
    if trials <= 0 or chance <= 0:
        return 0
    mean, spread = trials * chance, math.sqrt(trials * chance * (1 - chance))
    if mean < 30 or trials - mean < 30:
        return sum(draw.random() < chance for _ in range(trials)) if trials < 2000 else _poisson(draw, mean, trials)
    return min(trials, max(0, round(draw.gauss(mean, spread))))


def _poisson(draw: random.Random, mean: float, most: int) -> int:
    count, left = 0, mean
    while (left := left - draw.expovariate(1.0)) > 0 and count < most:
        count += 1
    return count

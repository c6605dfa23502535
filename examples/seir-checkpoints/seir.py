"""A stochastic SEIR epidemic in steps of a day, which goes on from its last checkpoint when it is killed.

susceptible -> exposed -> infectious -> removed
"""

from __future__ import annotations

import math
import random
from typing import Any

import mopsjobs as mj


def simulate(params: dict[str, float], seed: int) -> dict[str, object]:
    """One epidemic, of which each person draws each day.

    Args:
        params: `population`; `initial` infectious; `r0`; mean days `incubating` and `infectious`; `days`.
        seed: of the random numbers. The same one gives the same epidemic, also if it was interrupted.

    Returns:
        The number of infectious people per day, and the share of those who were infected.
    """
    ck = mj.checkpoint()
    draw = random.Random(seed)
    population, initial = int(params["population"]), int(params["initial"])
    state: dict[str, Any] = {"counts": (population - initial, 0, initial), "daily": [], "day": 0}
    if (saved := ck.load()) is not None:
        state = saved["state"]
        draw.setstate(saved["draw"])  # without it, the days after a checkpoint would be others
    beta = params["r0"] / params["infectious"]
    for day in range(state["day"], int(params["days"])):
        susceptible, exposed, infectious = state["counts"]
        infected = _draws(draw, susceptible, 1 - math.exp(-beta * infectious / population))
        fallen_ill = _draws(draw, exposed, 1 - math.exp(-1 / params["incubating"]))
        recovered = _draws(draw, infectious, 1 - math.exp(-1 / params["infectious"]))
        state["counts"] = (susceptible - infected, exposed + infected - fallen_ill, infectious + fallen_ill - recovered)
        state["daily"].append(state["counts"][2])
        state["day"] = day + 1
        if ck.due():
            ck.save({"state": state, "draw": draw.getstate()}, at=day + 1)
    return {"infectious": state["daily"], "attack_rate": 1 - state["counts"][0] / population}


def _draws(draw: random.Random, people: int, chance: float) -> int:
    return sum(draw.random() < chance for _ in range(people))

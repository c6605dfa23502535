"""An outbreak with a constant growth rate, whose first days depend on chance."""

import random


def simulate(params, seed):
    """Return the number of cases after some days."""
    draw = random.Random(seed)
    cases = params["initial"]
    for _ in range(params["days"]):
        cases = sum(1 + (draw.random() < params["growth"]) for _ in range(cases))
    return {"cases": cases}

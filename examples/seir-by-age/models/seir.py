"""A stochastic SEIR epidemic in several age groups, by numpy: all groups of a day are drawn at once.

susceptible -> exposed -> infectious -> removed
"""

from __future__ import annotations

import numpy as np
import pandas as pd

AGES = ("0-19", "20-64", "65+")
SHARES = np.array([0.22, 0.58, 0.20])
"""Of the population, by age."""

CONTACTS = np.array([[7.0, 5.0, 0.6], [1.9, 8.0, 1.2], [0.7, 3.5, 2.0]])
"""Contacts a day, of one in the row's group with those in the column's. Only proportions matter: r0 sets the scale."""

SCENARIOS = {"baseline": 1.0, "distancing": 0.6}
"""What is left of the contacts from day 30 on."""


def simulate(scenario: str, params: dict[str, float], seed: int) -> pd.DataFrame:
    """One epidemic, as new infections and infectious people by day and age.

    Args:
        scenario: one of `SCENARIOS`.
        params: `population`; `initial` infectious; `r0`; mean days `incubating` and `infectious`; `days`.
        seed: of the random numbers. The same one gives the same epidemic.
    """
    draw = np.random.default_rng(seed)
    size = np.floor(params["population"] * SHARES).astype(int)
    infectious = np.floor(params["initial"] * SHARES).astype(int) + 1
    susceptible, exposed = size - infectious, np.zeros_like(size)
    per_contact = params["r0"] / (params["infectious"] * np.abs(np.linalg.eigvals(CONTACTS)).max())
    days = int(params["days"])
    infected_on, infectious_on = np.zeros((days, len(AGES)), int), np.zeros((days, len(AGES)), int)
    for day in range(days):
        left = SCENARIOS[scenario] if day >= 30 else 1.0
        force = left * per_contact * CONTACTS @ (infectious / size)
        infected = draw.binomial(susceptible, 1 - np.exp(-force))
        fallen_ill = draw.binomial(exposed, 1 - np.exp(-1 / params["incubating"]))
        recovered = draw.binomial(infectious, 1 - np.exp(-1 / params["infectious"]))
        susceptible = susceptible - infected
        exposed = exposed + infected - fallen_ill
        infectious = infectious + fallen_ill - recovered
        infected_on[day], infectious_on[day] = infected, infectious
    index = pd.MultiIndex.from_product([range(days), AGES], names=["day", "age"])
    return pd.DataFrame({"infected": infected_on.ravel(), "infectious": infectious_on.ravel()}, index=index)

"""Compare the scalars of jobs: statistics of each, and the difference over shared parameter sets. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mopsjobs.app.tasks.replicates import mean, quantile
from mopsjobs.web.drawings.plots import QUANTILES
from mopsjobs.web.site.job_results import Results

MAX_SCALARS = 30
"""Scalars that are compared, the first ones of the first job and then those of the others."""


class ScalarStatistics(NamedTuple):
    """A scalar over the tasks of a job that have it."""

    tasks: int
    mean: float
    low: float
    high: float
    """With `low`, the quantiles of `QUANTILES`."""
    means: Mapping[str, float]
    """The mean over the replicates of each parameter set, by the id of that."""


class ScalarDifference(NamedTuple):
    """The difference of a scalar between two jobs over the parameter sets that both have."""

    sets: int
    mean: float
    """The mean of the differences of the sets."""
    error: float | None
    """The standard error of that mean over the sets; None for a single set."""


def scalar_names(results: Sequence[Results | None]) -> list[str]:
    """Return the names of the scalars of all jobs, each once."""
    return list(dict.fromkeys(name for one in results if one is not None for name in one.scalars))


def summarize_scalars(results: Results, names: Sequence[str]) -> dict[str, ScalarStatistics]:
    """Return the statistics of these scalars, without those that no task has."""
    found = {}
    for name in names:
        values = results.scalars.get(name, ())
        points = [(place, value) for place, value in zip(results.set_of, values, strict=False) if not math.isnan(value)]
        if points:
            found[name] = _summarize(points, results.set_ids)
    return found


def _summarize(points: Sequence[tuple[int, float]], set_ids: Sequence[str]) -> ScalarStatistics:
    by_set: dict[int, list[float]] = {}
    for place, value in points:
        by_set.setdefault(place, []).append(value)
    ordered = sorted(value for _, value in points)
    low, high = (quantile(ordered, share) for share in QUANTILES)
    means = {set_ids[place]: mean(values) for place, values in by_set.items()}
    return ScalarStatistics(len(ordered), mean(ordered), low, high, means)


def compare_scalar(first: ScalarStatistics, second: ScalarStatistics) -> ScalarDifference | None:
    """Return by how much a scalar of the second job is larger; None without shared parameter sets."""
    differences = [value - first.means[name] for name, value in second.means.items() if name in first.means]
    if not differences or not all(map(math.isfinite, differences)):  # that of two huge numbers is beyond every float
        return None
    middle, count = mean(differences), len(differences)
    if count == 1:
        return ScalarDifference(1, middle, None)
    largest = max(abs(one - middle) for one in differences) or 1.0
    variance = math.fsum(((one - middle) / largest) ** 2 for one in differences) / (count - 1)
    return ScalarDifference(count, middle, largest * math.sqrt(variance / count))

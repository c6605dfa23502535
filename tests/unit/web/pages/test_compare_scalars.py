"""Scalars are compared over the parameter sets that two jobs share."""

from __future__ import annotations

import math
from array import array

from mopsjobs.web.pages.compare_scalars import ScalarStatistics, compare_scalar, scalar_names, summarize_scalars
from mopsjobs.web.site.job_results import Results, TableRows


def _results(set_of: list[int], **scalars: list[float]) -> Results:
    ids = [f"set{place}" for place in range(max(set_of) + 1)]
    values = {name: array("d", some) for name, some in scalars.items()}
    return Results(0.0, (), [], TableRows(), [{} for _ in ids], ids, array("L", set_of), values, 0, [])


def _statistics(**means: float) -> ScalarStatistics:
    return ScalarStatistics(len(means), 0.0, 0.0, 0.0, means)


def test_statistics_are_those_of_the_tasks_that_have_the_scalar() -> None:
    """Replicates of a set have one mean; a scalar that no task has is left out."""
    found = summarize_scalars(_results([0, 0, 1, 1], x=[1.0, 3.0, 7.0, math.nan], y=[math.nan] * 4), ["x", "y", "z"])
    assert list(found) == ["x"]
    one = found["x"]
    assert (one.tasks, round(one.mean, 6), one.means) == (3, 3.666667, {"set0": 2.0, "set1": 7.0})
    assert (one.low, one.high) == (1.4, 6.2)


def test_a_difference_is_the_mean_over_shared_sets() -> None:
    """Sets of one job only do not count. The standard error needs two."""
    found = compare_scalar(_statistics(a=1.0, b=2.0, c=100.0), _statistics(a=2.0, b=5.0, d=-100.0))
    assert found == (2, 2.0, 1.0)
    assert compare_scalar(_statistics(a=1.0), _statistics(a=2.0)) == (1, 1.0, None)
    assert compare_scalar(_statistics(a=1.0), _statistics(b=2.0)) is None


def test_differences_of_huge_numbers_are_finite_or_none() -> None:
    found = compare_scalar(_statistics(a=1e300, b=1e300), _statistics(a=-1e300, b=2e300))
    assert found is not None
    assert math.isfinite(found.mean)
    assert found.error is not None
    assert math.isfinite(found.error)
    assert compare_scalar(_statistics(a=1.7e308), _statistics(a=-1.7e308)) is None


def test_names_are_those_of_the_first_job_and_then_of_the_others() -> None:
    assert scalar_names([_results([0], b=[1.0]), None, _results([0], a=[1.0], b=[1.0])]) == ["b", "a"]

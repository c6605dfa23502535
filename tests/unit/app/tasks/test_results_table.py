"""Means and quantiles over replicates."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopsjobs.app.tasks.results_table import quantile
from mopsjobs.utils.intervals import mean

NUMBERS = st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=30)


@given(NUMBERS)
def test_quantiles_are_interpolated_as_usual(values: list[float]) -> None:
    """As by numpy and pandas, and by the inclusive method of the standard library."""
    expected = statistics.quantiles(values, n=10, method="inclusive")
    found = [quantile(sorted(values), place / 10) for place in range(1, 10)]
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-3)
    assert (quantile(sorted(values), 0), quantile(sorted(values), 1)) == (min(values), max(values))


def test_numbers_near_the_largest_float_have_a_mean_and_quantiles() -> None:
    values = [-1.7e308, 1.7e308, 1.7e308]
    assert quantile(values, 0.25) == 0.0
    assert mean([1.7e308] * 3) == pytest.approx(1.7e308)
    assert quantile([3.0], 0.9) == mean([3.0]) == 3.0

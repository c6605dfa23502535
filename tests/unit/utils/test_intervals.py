"""Means, spreads and intervals of samples."""

from __future__ import annotations

import math
import statistics

import pytest
from scipy import stats

from mopsjobs.utils.intervals import careful_interval, student_t, summarize


def test_quantiles_of_student_are_those_of_scipy() -> None:
    """To five digits, from one degree of freedom to a million."""
    for confidence in (0.5, 0.9, 0.95, 0.999, 0.9999):
        for freedom in (*range(1, 200), 1_000, 10**6):
            expected = stats.t.ppf((1 + confidence) / 2, freedom)
            assert student_t(freedom, confidence) == pytest.approx(expected, rel=5e-6)


def test_zeros_and_ones_have_the_interval_of_a_proportion() -> None:
    """Also if all of them are zeros, of which the interval of a mean would have no width."""
    for successes in (0, 9, 20, 40):
        found = careful_interval([1] * successes + [0.0] * (40 - successes), 0.9)
        assert found is not None
        assert found.mean == successes / 40
        low, high = stats.binomtest(successes, 40).proportion_ci(0.9, "wilson")
        wide = math.sqrt(1 + 1 / (1 + min(successes, 40 - successes)))
        middle, half = (low + high) / 2, (high - low) / 2 * wide
        assert (found.low, found.high) == pytest.approx((max(0, middle - half), min(1, middle + half)))


def test_a_careful_interval_is_wider_than_that_of_student() -> None:
    """By one more value that is as far away as the farthest. It reaches further to the side of the long tail."""
    even, skewed = [-3.0, -1.0, 0.0, 1.0, 3.0], [0.0, 0.1, 0.2, 0.4, 5.0]
    found = careful_interval(even, 0.95)
    assert found is not None
    plain = summarize(even)
    assert plain.sd is not None
    assert plain.half_width is not None
    assert found.half_width == pytest.approx(plain.half_width * math.sqrt(1 + (3 / plain.sd) ** 2 / 5))
    assert found.low == pytest.approx(-found.high)
    found, mirrored = careful_interval(skewed, 0.95), careful_interval([-one for one in skewed], 0.95)
    assert found is not None
    assert mirrored is not None
    assert found.high - found.mean > 1.5 * (found.mean - found.low)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))


def test_values_without_a_spread_have_an_interval_without_a_width() -> None:
    assert careful_interval([7.5] * 5, 0.95) == (7.5, 7.5, 7.5)
    assert careful_interval([7.5], 0.95) is None
    assert careful_interval([1.7e308, -1.7e308], 0.95) is None


def test_a_sample_has_mean_spread_and_interval() -> None:
    values = [1.5, 2.0, 4.25, 8.0]
    found = summarize(values)
    assert found.mean == statistics.fmean(values)
    assert found.sd == pytest.approx(statistics.stdev(values), rel=1e-15)
    low, high = stats.t.interval(0.95, 3, loc=found.mean, scale=stats.sem(values))
    assert found.half_width == pytest.approx((high - low) / 2, rel=1e-6)


def test_numbers_that_are_not_finite_are_counted_and_left_out() -> None:
    assert summarize([1.0, math.nan, 3.0, math.inf, -math.inf])[:3] == (2, 3, 2.0)
    assert summarize([math.nan]) == (0, 1, None, None, None)


def test_one_number_has_no_interval() -> None:
    assert summarize([2.5]) == (1, 0, 2.5, None, None)
    assert summarize([]) == (0, 0, None, None, None)


def test_a_small_spread_around_a_large_mean_is_exact() -> None:
    """As a difference of sums of squares is not."""
    assert summarize([1e9 + one for one in (4.0, 7.0, 13.0, 16.0)]).sd == pytest.approx(math.sqrt(30), rel=1e-15)


def test_huge_numbers_have_a_spread_as_long_as_it_is_a_number() -> None:
    assert summarize([1e200, 3e200]).sd == pytest.approx(math.sqrt(2) * 1e200)
    assert summarize([1.7e308, -1.7e308]) == (2, 0, 0.0, None, None)
    assert summarize([1.5e308, 1.7e308]).mean == pytest.approx(1.6e308)

"""Means, spreads and intervals of samples."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest

from mopsjobs.utils.intervals import (
    careful_interval,
    difference_of,
    least_sample,
    mean_difference,
    mean_text,
    quantile_interval,
    student_t,
    summarize,
)


@pytest.fixture(scope="module")
def stats() -> Any:
    """Return scipy's statistics. Their import takes a second, which other processes of the tests spare."""
    from scipy import stats

    return stats


def test_quantiles_of_student_are_those_of_scipy(stats: Any) -> None:
    """To five digits, from one degree of freedom to a million."""
    for confidence in (0.5, 0.9, 0.95, 0.999, 0.9999):
        for freedom in (*range(1, 200), 1_000, 10**6):
            expected = stats.t.ppf((1 + confidence) / 2, freedom)
            assert student_t(freedom, confidence) == pytest.approx(expected, rel=5e-6)


def test_zeros_and_ones_have_the_interval_of_a_proportion(stats: Any) -> None:
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


def test_a_sample_has_mean_spread_and_interval(stats: Any) -> None:
    values = [1.5, 2.0, 4.25, 8.0]
    found = summarize(values)
    assert found.mean == statistics.fmean(values)
    assert found.sd == pytest.approx(statistics.stdev(values), rel=1e-15)
    low, high = stats.t.interval(0.95, 3, loc=found.mean, scale=stats.sem(values))
    assert found.half_width == pytest.approx((high - low) / 2, rel=1e-6)


def test_the_ends_of_the_interval_of_a_quantile_are_values() -> None:
    """Two ranks beyond those of tables of the binomial distribution. A sample that is too small has no interval."""
    values = [float(number) for number in range(100, 0, -1)]
    assert quantile_interval(values, 0.5, 0.95) == (50, 40 - 2, 61 + 2)
    assert quantile_interval(values, 0.9, 0.95) == (90, 84 - 2, 96 + 2)
    assert quantile_interval(values, 0.1, 0.95) == (10, 5 - 2, 17 + 2)
    assert quantile_interval(values[:50], 0.9, 0.95) is None
    assert quantile_interval([3.0] * 20, 0.5, 0.95) == (3, 3, 3)
    assert quantile_interval([3.0] * 10, 0.5, 0.95) is None


@pytest.mark.parametrize("share", [0.5, 0.1, 0.9, 0.999])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_the_least_sample_is_the_first_with_an_interval(share: float, confidence: float) -> None:
    least = least_sample(share, confidence)
    assert quantile_interval(range(least), share, confidence) is not None
    assert quantile_interval(range(least - 1), share, confidence) is None


def test_a_quantile_beyond_all_samples_has_no_interval_in_reach() -> None:
    assert least_sample(1e-20, 0.95) == 2**30


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


FIRST = [27.5, 21.0, 19.0, 23.6, 17.0, 17.9, 16.9, 20.1, 21.9, 22.6, 23.1, 19.6, 19.0, 21.7, 21.4]
SECOND = [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0, 24.8, 20.2, 21.9, 22.1, 22.9, 20.5, 24.4]


def test_independent_means_differ_as_welch_says(stats: Any) -> None:
    """The degrees of freedom are those of scipy, rounded down for the interval."""
    found = difference_of(FIRST, SECOND, is_paired=False)
    expected = stats.ttest_ind(SECOND, FIRST, equal_var=False)
    assert found.difference is not None
    assert found.error is not None
    assert (found.difference / found.error, found.freedom) == pytest.approx((expected.statistic, expected.df))
    assert (found.n_first, found.n_second, found.variance_ratio) == (15, 15, 1)
    assert found.half_width == pytest.approx(student_t(int(expected.df)) * found.error)


def test_pairs_are_told_apart_by_their_differences() -> None:
    """The ratio is that of the variances; values that differ by a constant have no error, and no bound of the ratio."""
    found = difference_of(FIRST, SECOND, is_paired=True)
    differences = [b - a for a, b in zip(FIRST, SECOND, strict=True)]
    of_pairs = summarize(differences)
    assert (found.difference, found.half_width) == pytest.approx((of_pairs.mean, of_pairs.half_width))
    alone = statistics.variance(FIRST) + statistics.variance(SECOND)
    assert found.variance_ratio == pytest.approx(alone / statistics.variance(differences))
    shifted = difference_of([0.1, 0.7, 1e9], [0.4, 1.0, 1e9 + 0.3], is_paired=True)
    assert (shifted.half_width, shifted.variance_ratio) == (0, None)
    assert difference_of([1.0], [2.0], is_paired=True)[4:7] == (1, None, None)
    assert difference_of([], [2.0], is_paired=False)[:7] == (0, 1, None, 2, None, None, None)


def test_seeds_that_are_common_to_sets_are_the_units_of_their_mean() -> None:
    """The errors of the sets are not independent: twice the same noise is no more certain than once."""
    values = {seed: (a, b) for seed, (a, b) in enumerate(zip(FIRST, SECOND, strict=True))}
    one = difference_of(FIRST, SECOND, is_paired=True)
    twice, basis = mean_difference([one, one], [values, values])
    assert basis == "seeds"
    assert (twice.difference, twice.half_width) == pytest.approx((one.difference, one.half_width))
    assert twice.variance_ratio == pytest.approx(one.variance_ratio)
    apart, basis = mean_difference([one, one], [values, {seed + 100: pair for seed, pair in values.items()}])
    assert basis == "replicates"
    assert apart.error == pytest.approx((one.error or 0) / math.sqrt(2))
    assert (apart.freedom, apart.variance_ratio) == pytest.approx((28, one.variance_ratio))
    single = [difference_of([0.0], [value], is_paired=False) for value in (1.0, 2.0, 4.0)]
    over_sets, basis = mean_difference(single, None)
    assert basis == "sets"
    assert over_sets.half_width == pytest.approx(summarize([1.0, 2.0, 4.0]).half_width)


@pytest.mark.parametrize(
    ("mean", "half_width", "text"),
    [(12.345, 0.42, "12.35 ± 0.42"), (12.345, None, "12.35"), (2.093e-07, 0.0, "2.093e-07 ± 0"), (None, 1.0, "-")],
)
def test_the_half_width_decides_the_places_of_a_mean(mean: object, half_width: object, text: str) -> None:
    """If all numbers are the same, it says nothing about the places."""
    assert mean_text(mean, half_width) == text

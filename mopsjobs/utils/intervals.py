"""Means of samples, with their spread and how sure they are."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

CONFIDENCE = 0.95

MAX_PLACES = 6
"""Digits before and after the point of a mean in a text. Others are written with an exponent."""

FEW_DEGREES = 30
"""Degrees of freedom for which the quantiles of Student's t are found by bisection."""

BISECTIONS = 60

ROUNDING = 2.0**-49
"""Of numbers that are subtracted: some units in the last place."""

LEAST_BEND = 1e-6
"""Below it, a mean counts as not skewed."""

FURTHER = 2
"""Ranks by which each end of an interval of a quantile is further out, since it is looked at repeatedly."""


class Summary(NamedTuple):
    """Statistics of some numbers. Those that are not finite are only counted."""

    n: int
    n_nan: int
    """The others: not a number, or infinite."""
    mean: float | None
    sd: float | None
    """The standard deviation of the sample; None for fewer than two numbers."""
    half_width: float | None
    """Half of the 95 % confidence interval of the mean, by Student's t; None for fewer than two numbers."""


def summarize(values: Sequence[float]) -> Summary:
    """Summarize some numbers."""
    finite = [value for value in values if math.isfinite(value)]
    n, n_nan = len(finite), len(values) - len(finite)
    if n < 2:
        return Summary(n, n_nan, finite[0] if finite else None, None, None)
    center = mean(finite)
    sd = math.hypot(*(value - center for value in finite)) / math.sqrt(n - 1)  # two passes, and no square overflows
    if not math.isfinite(sd):
        return Summary(n, n_nan, center, None, None)
    return Summary(n, n_nan, center, sd, student_t(n - 1) * sd / math.sqrt(n))


class Difference(NamedTuple):
    """The difference of two means: the second minus the first."""

    n_first: int
    """Values of the first mean. With pairs, both counts are that of the pairs."""
    n_second: int
    first: float | None
    second: float | None
    difference: float | None
    half_width: float | None
    """Half of the 95 % confidence interval of the difference, by Student's t; None if it cannot be told."""
    variance_ratio: float | None
    """How many times the variance would be as large without pairs: those of both sides, divided by that of the
    differences. 1 without pairs, None if it cannot be told or has no bound."""
    error: float | None
    freedom: float


def difference_of(first: Sequence[float], second: Sequence[float], *, is_paired: bool) -> Difference:
    """Return the difference of the means of finite numbers.

    Args:
        first: numbers.
        second: others; with pairs, in the same order.
        is_paired: whether they are pairs. Else they are independent, by Welch (1947) with the degrees of freedom of
            Satterthwaite (1946).
    """
    one, other = summarize(first), summarize(second)
    if one.mean is None or other.mean is None:
        return Difference(one.n, other.n, one.mean, other.mean, None, None, None, None, 0)
    errors = [None if side.sd is None else side.sd / math.sqrt(side.n) for side in (one, other)]
    alone = None if None in errors else math.hypot(*(error for error in errors if error is not None))
    if is_paired:
        paired = summarize([b - a for a, b in zip(first, second, strict=True)])
        error = None if paired.sd is None else _beyond_rounding(paired.sd / math.sqrt(paired.n), *first, *second)
        return _difference(one, other, paired.mean, error, alone, paired.n - 1)
    shares = [(error or 0) ** 2 / alone**2 if alone else 0.5 for error in errors]
    freedom = 1 / sum(share**2 / max(1, side.n - 1) for share, side in zip(shares, (one, other), strict=True))
    return _difference(one, other, other.mean - one.mean, alone, alone, freedom)


def _beyond_rounding(error: float, *values: float) -> float:
    """Return an error; 0 for one that rounding alone leaves in differences of such values."""
    return error if error > ROUNDING * max(map(abs, values)) else 0.0


def _difference(
    first: Summary, second: Summary, difference: float | None, error: float | None, alone: float | None, freedom: float
) -> Difference:
    ratio = (alone / error) ** 2 if error and alone is not None else None
    half = None if error is None else student_t(max(1, int(freedom))) * error
    return Difference(first.n, second.n, first.mean, second.mean, difference, half, ratio, error, freedom)


def mean_difference(
    differences: Sequence[Difference], by_seed: Sequence[Mapping[int, tuple[float, float]]] | None
) -> tuple[Difference, str]:
    """Return the mean of differences of several pairs of sets, each of which counts alike.

    Args:
        differences: those of each pair of sets, with a difference each.
        by_seed: for each of these, its pairs of values by seed; None if not all have pairs.

    Returns:
        The mean, and what its error is of. `seeds` are common to the sets, whose errors then are not independent: they
        are summed over each seed, as for clusters (Liang and Zeger 1986). Without such, it is of `replicates`, or of
        `sets` if replicates are too few to tell.
    """
    if len(differences) == 1:
        return differences[0], "replicates" if by_seed is None else "seeds"
    columns = list(zip(*((one.first, one.second, one.difference) for one in differences), strict=True))
    first, second, center = (mean([value for value in column if value is not None]) for column in columns)
    sizes = (sum(one.n_first for one in differences), sum(one.n_second for one in differences))
    count, basis, freedom = len(differences), "replicates", 0.0
    error, alone = None, None
    seeds = set[int]().union(*by_seed or ())
    if by_seed is not None and 1 < len(seeds) < sizes[0]:
        basis, freedom = "seeds", len(seeds) - 1
        sums: dict[int, list[float]] = {seed: [0.0, 0.0, 0.0] for seed in seeds}
        for one, values in zip(differences, by_seed, strict=True):
            for seed, (a, b) in values.items():
                of_set = (a - (one.first or 0), b - (one.second or 0), b - a - (one.difference or 0))
                for place, deviation in enumerate(of_set):
                    sums[seed][place] += deviation / (len(values) * count)
        scale = math.sqrt(len(seeds) / freedom)
        of_first, of_second, error = (
            scale * math.hypot(*(found[place] for found in sums.values())) for place in range(3)
        )
        alone = math.hypot(of_first, of_second)
        error = _beyond_rounding(error, *(value for of_set in by_seed for pair in of_set.values() for value in pair))
    elif all(one.error is not None for one in differences):
        errors = [one.error or 0.0 for one in differences]
        error = math.hypot(*errors) / count
        ratios = [one.variance_ratio for one in differences]
        alone = math.hypot(*(e * math.sqrt(r or 1) for e, r in zip(errors, ratios, strict=True))) / count
        shares = [(one / (error * count)) ** 2 if error else 1 / count for one in errors]
        freedom = 1 / sum(share**2 / one.freedom for share, one in zip(shares, differences, strict=True))
        alone = None if None in ratios else alone
    else:
        over_sets = summarize([one.difference or 0.0 for one in differences])
        basis, freedom = "sets", over_sets.n - 1
        error = None if over_sets.sd is None else over_sets.sd / math.sqrt(over_sets.n)
    ratio = (alone / error) ** 2 if error and alone is not None else None
    half = None if error is None else student_t(max(1, int(freedom))) * error
    return Difference(*sizes, first, second, center, half, ratio, error, freedom), basis


class Interval(NamedTuple):
    """A mean, a share or a quantile, with its confidence interval."""

    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Return half of its length. The mean need not be in its middle."""
        return (self.high - self.low) / 2


def careful_interval(values: Sequence[float], confidence: float) -> Interval | None:
    """Return an interval of the mean that may be looked at repeatedly; None if the values are too few, or too large.

    Who stops when an interval is narrow stops too often at a sample that lacks its extremes. So the variance counts one
    more value, as far from the mean as the farthest. Student's t is corrected for skewness (Willink 2005, after
    Hall 1992). If all values are 0 or 1, the interval is that of a proportion.
    """
    if values and set(values) <= {0, 1}:
        return _proportion(sum(values), len(values), confidence)
    n, _, center, sd, _ = summarize(values)
    if center is None or sd is None:
        return None
    if sd == 0:
        return Interval(center, center, center)
    away = [(value - center) / sd for value in values]
    farthest = max(map(abs, away))
    error = sd * math.sqrt((1 + farthest**2 / n) / n)
    skewness = n * math.fsum(one**3 for one in away) / ((n - 1) * (n - 2)) if n > 2 else 0.0
    bend, quantile = skewness / (6 * math.sqrt(n)), student_t(n - 1, confidence)
    return Interval(center, center - error * _bent(quantile, bend), center - error * _bent(-quantile, bend))


def _bent(quantile: float, bend: float) -> float:
    """Return the quantile of a mean whose distribution is skewed."""
    if abs(bend) < LEAST_BEND:
        return quantile
    return (math.cbrt(1 + 6 * bend * (quantile - bend)) - 1) / (2 * bend)


def _proportion(successes: float, n: int, confidence: float) -> Interval:
    """Return the interval of a proportion by Wilson's score (1927), widened by one more case of the rarer outcome."""
    z, share = normal_quantile(confidence), successes / n
    scale = 1 + z**2 / n
    middle = (share + z**2 / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    half *= math.sqrt(1 + 1 / (1 + min(successes, n - successes)))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def quantile_interval(values: Sequence[float], share: float, confidence: float) -> Interval | None:
    """Return an interval of a quantile of any distribution, which may be looked at repeatedly; None if it has no ends.

    Its ends are values of the sample, by the binomial distribution of how many are below the quantile (Thompson 1936).
    """
    n, tail = len(values), (1 - confidence) / 2
    low, high = (_rank(n, one, tail) - FURTHER for one in (share, 1 - share))  # from below, and from above
    if min(low, high) < 1:
        return None
    ordered = sorted(values)
    return Interval(ordered[math.ceil(share * n) - 1], ordered[low - 1], ordered[n - high])


def least_sample(share: float, confidence: float) -> int:
    """Return the fewest values that have an interval of this quantile, at most 2^30; see `quantile_interval`."""
    share, tail = min(share, 1 - share), (1 - confidence) / 2  # the rarer side has the lower rank
    high = 1
    while high < 2**30 and _rank(high, share, tail) <= FURTHER:
        high *= 2
    return bisect_left(range(high), FURTHER + 1, key=lambda n: _rank(n, share, tail))


@lru_cache(maxsize=1_000)
def _rank(n: int, share: float, tail: float) -> int:
    """Return the highest rank whose value is above a quantile with at most this probability; 0 if none is."""
    total, constant = 0.0, math.lgamma(n + 1)
    for below in range(n):
        ways = constant - math.lgamma(below + 1) - math.lgamma(n - below + 1)
        total += math.exp(ways + below * math.log(share) + (n - below) * math.log1p(-share))
        if total > tail:
            return below
    return n


def mean(values: Sequence[float]) -> float:
    """Return the mean of some numbers."""
    try:
        return math.fsum(values) / len(values)
    except OverflowError:  # the sum is beyond every float, the mean is not
        return math.fsum(value / len(values) for value in values)


def mean_text(mean: object, half_width: object) -> str:
    """Return a mean with the half-width of its interval: `0.125 ± 0.02`."""
    if not isinstance(mean, (int, float)):
        return "-"
    if not isinstance(half_width, (int, float)):
        return f"{mean:.4g}"
    if half_width == 0:  # replicates that are all the same say nothing about the places
        return f"{mean:.4g} ± 0"
    places = max(0, 1 - math.floor(math.log10(half_width)))
    if places > MAX_PLACES or abs(mean) + half_width >= 10**MAX_PLACES:
        return f"{mean:.4g} ± {half_width:.2g}"
    return f"{mean:.{places}f} ± {half_width:.{places}f}"


@lru_cache(maxsize=1_000)
def student_t(freedom: int, confidence: float = CONFIDENCE) -> float:
    """Return the quantile of Student's t for a two-sided interval, to five digits.

    By the series for whole degrees of freedom if they are few, else by an expansion: Abramowitz and Stegun, 26.7.3,
    26.7.4 and 26.7.5.
    """
    v = freedom
    if v <= FEW_DEGREES:
        low, high = 0.0, math.pi / 2
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (low, middle) if _student_share(middle, v) > confidence else (middle, high)
        return math.sqrt(v) * math.tan(low)
    z = normal_quantile(confidence)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )


def _student_share(angle: float, freedom: int) -> float:
    """Return the share of Student's t within plus and minus `sqrt(freedom) * tan(angle)`."""
    first = freedom % 2
    term = total = math.cos(angle) if first else 1.0
    for place in range(2 + first, freedom - 1, 2):
        term *= (place - 1) / place * math.cos(angle) ** 2
        total += term
    if not first:
        return total * math.sin(angle)
    return 2 / math.pi * (angle + (total * math.sin(angle) if freedom > 1 else 0.0))


@lru_cache(maxsize=100)
def normal_quantile(confidence: float) -> float:
    """Return the quantile of the normal distribution for a two-sided interval."""
    from statistics import NormalDist  # here, since its import takes 10 ms

    return NormalDist().inv_cdf((1 + confidence) / 2)

"""Means of samples, with their spread and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

CONFIDENCE = 0.95
"""Of the intervals of means."""

_NORMAL = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""

MAX_PLACES = 6
"""Digits before and after the point of a mean in a text. Others are written with an exponent."""

_FIRST = (12.7062047, 4.3026527, 3.1824463, 2.7764451, 2.5705818, 2.4469119, 2.3646243, 2.3060041, 2.2621572)
"""The 97.5 % quantiles of Student's t for 1 to 9 degrees of freedom: Abramowitz and Stegun, table 26.10."""


class Summary(NamedTuple):
    """Statistics of some numbers. Those that are not finite are only counted."""

    n: int
    """The finite numbers."""
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
    places = max(0, 1 - math.floor(math.log10(half_width))) if half_width else 3
    if places > MAX_PLACES or abs(mean) + half_width >= 10**MAX_PLACES:
        return f"{mean:.4g} ± {half_width:.2g}"
    return f"{mean:.{places}f} ± {half_width:.{places}f}"


@lru_cache(maxsize=1_000)
def student_t(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t, to five digits: Abramowitz and Stegun, table 26.10 and 26.7.5."""
    if freedom <= len(_FIRST):
        return _FIRST[freedom - 1]
    z, v = _NORMAL, freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )

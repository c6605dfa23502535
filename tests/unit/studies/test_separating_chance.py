"""How likely chance explains what failed parameter sets have in common."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest

from mopsjobs.studies.separating import Chance, LogFactorials


def chance(total: int, failed: int) -> Chance:
    return Chance(LogFactorials(total), total, failed)


@pytest.mark.parametrize(("total", "failed", "size", "hits"), [(20, 5, 5, 5), (20, 5, 8, 4), (30, 12, 9, 7)])
def test_the_tail_is_that_of_fishers_test(total: int, failed: int, size: int, hits: int) -> None:
    """The tail is the sum of the exact probabilities."""
    ways = sum(
        math.comb(size, count) * math.comb(total - size, failed - count) for count in range(hits, min(size, failed) + 1)
    )
    assert math.exp(chance(total, failed).log_tail(size, hits)) == pytest.approx(ways / math.comb(total, failed))


def test_a_tail_of_what_is_no_more_than_average_is_one() -> None:
    """A condition that holds for as many failed sets as chance gives is never remarkable."""
    assert chance(20, 10).log_point(4, 2) == 0.0
    assert chance(20, 10).log_tail(4, 2) == 0.0


def test_only_conditions_that_may_be_findings_are_counted() -> None:
    """With 3 of 100 sets failed, a cut that leaves 50 sets on each side is never a finding at 1 %."""
    assert chance(100, 3).testable(Counter({3: 2, 50: 90}), 0.01) == 2


def test_all_conditions_count_if_each_may_be_a_finding() -> None:
    """With many sets, the correction is that of Bonferroni."""
    assert chance(1000, 100).testable(Counter({100: 10, 90: 10, 110: 10}), 0.01) == 30


def test_conditions_beyond_the_counted_never_reach_the_level() -> None:
    """Whatever the sizes: the best result of a condition that is not counted is above the level of the test."""
    for total, failed in itertools.product((12, 40), (3, 5, 6)):
        one = chance(total, failed)
        sizes = Counter(dict.fromkeys(range(1, total), 3))
        counted = one.testable(sizes, 0.01)
        bests = sorted(one.log_point(size, min(size, failed)) for size in sizes.elements())
        assert all(best > math.log(0.01 / counted) for best in bests[counted:])

"""How likely chance alone explains what failed parameter sets have in common. No input or output.

A condition holds for `size` of `total` parameter sets, of which `failed` have failed. If failing does not depend on the
parameters, the number of failed ones among these is hypergeometric. Its upper tail is Fisher's exact test, one-sided:
R. A. Fisher, "Statistical Methods for Research Workers", 1934, section 21.02.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

NEGLIGIBLE = 1e-12
"""A term of a sum that is smaller than this part of it ends the sum."""


class LogFactorials:
    """The logarithms of the factorials from 0 to a largest number, computed once."""

    def __init__(self, largest: int) -> None:
        self._logs = [0.0, *accumulate(map(math.log, range(1, largest + 1)))]

    def log_choose(self, count: int, chosen: int) -> float:
        """Return the logarithm of the number of ways to choose `chosen` of `count`."""
        return self._logs[count] - self._logs[chosen] - self._logs[count - chosen]


class Chance:
    """The hypergeometric distribution of failed sets among those for which a condition holds."""

    def __init__(self, logs: LogFactorials, total: int, failed: int) -> None:
        """Take the number of parameter sets, and of failed ones among them.

        Args:
            logs: of factorials up to `total` at least.
            total: the parameter sets.
            failed: those of them that have failed.
        """
        self.total = total
        self.failed = failed
        self._logs = logs
        self._labelings = logs.log_choose(total, failed)

    def log_point(self, size: int, hits: int) -> float:
        """Return the log-probability that exactly `hits` of the `size` sets are failed ones.

        It is 0 if that is not more than chance gives on average. So the least value marks the best condition.
        """
        if hits * self.total <= size * self.failed:
            return 0.0
        choose = self._logs.log_choose
        return choose(size, hits) + choose(self.total - size, self.failed - hits) - self._labelings

    def log_tail(self, size: int, hits: int) -> float:
        """Return the log-probability that at least `hits` of the `size` sets are failed ones."""
        most = min(size, self.failed)
        first = self.log_point(size, hits)
        if first == 0.0:
            return 0.0
        term = total = 1.0
        for count in range(hits, most):
            others = self.total - size - self.failed + count + 1
            term *= (size - count) * (self.failed - count) / ((count + 1) * others)
            total += term
            if term < NEGLIGIBLE * total:
                break
        return min(first + math.log(total), 0.0)

    def testable(self, sizes: Mapping[int, int], rate: float) -> int:
        """Return the number of conditions to correct for, by R. E. Tarone, Biometrics 46 (1990), 515-522.

        A condition of a size at which even the best result is likely by chance can never be a finding. So it need not
        be counted. The counted ones are m, and no other can reach `rate / m`. Then tests at that level find something
        by chance in at most `rate` of all cases.

        Args:
            sizes: how many of the conditions hold for how many sets.
            rate: how often chance may give a finding at all, over all conditions.
        """
        ordered = sorted(sizes)
        middle = bisect_right(ordered, self.failed)
        # The best results are likelier the further a size is from the number of failed sets, on both sides.
        sides = (reversed(ordered[:middle]), ordered[middle:])
        counted = 0
        for best, size in heapq.merge(*(self._best_tails(side) for side in sides)):
            if counted and best > math.log(rate / counted):
                break
            counted += sizes[size]
        return max(counted, 1)

    def _best_tails(self, sizes: Iterable[int]) -> Iterator[tuple[float, int]]:
        for size in sizes:
            yield self.log_point(size, min(size, self.failed)), size

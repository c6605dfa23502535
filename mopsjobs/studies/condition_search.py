"""Search for the condition on parameters that separates failed sets from others. `separating.py` has the method."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from operator import and_

from mopsjobs.studies.chance import Chance, LogFactorials
from mopsjobs.studies.columns import Column, Tested
from mopsjobs.studies.conditions import Comparison, Condition

MIN_ODDS_RATIO = 2.0
"""How much higher the odds of failing have to be under a condition. With many sets, chance does not explain less."""

MAX_PARTNERS = 12
"""Single conditions to which a second one is searched, each for every parameter."""

MAX_TURNS = 4
"""How often the halves of a pair are improved in turn."""


class ConditionSearch:
    """The search for one condition among some of the sets."""

    def __init__(
        self, columns: Sequence[Column], logs: LogFactorials, inside: bytearray, failed: bytearray, rate: float
    ) -> None:
        """Take the sets.

        Args:
            columns: the parameters.
            logs: of factorials up to the number of sets at least.
            inside: 1 for the sets that are compared, 0 for the others.
            failed: 1 for the failed ones of these.
            rate: how often chance may give a condition.
        """
        self._columns = columns
        self._by_name = {column.name: column for column in columns}
        self._logs = logs
        self._inside = inside
        self._failed = failed
        self._rate = rate / 2
        """For single conditions; the same for pairs."""
        self._chance = Chance(logs, sum(inside), sum(failed))

    def best(self) -> Condition | None:
        """Return the best condition; None if chance explains it, or if it hardly matters."""
        singles = self._tests(self._inside, self._failed)
        if not singles:
            return None
        best = singles[0] if self._is_unlikely(singles[0], self._chance, self._inside) else None
        if not self._is_perfect(singles[0]):
            pair = self._best_pair(singles[:MAX_PARTNERS])
            if pair is not None and pair.log_point < singles[0].log_point and self._is_unlikely_pair(pair):
                best = pair
        return None if best is None or self._odds_ratio(best) < MIN_ODDS_RATIO else Condition(self._ordered(best.parts))

    def _tests(self, inside: bytearray, failed: bytearray) -> list[Tested]:
        """Return the conditions on one parameter, the best first."""
        tests = [tested for column in self._columns for tested in column.tests(inside, failed, self._chance)]
        return sorted(tests, key=_log_point)

    def _best_pair(self, partners: Sequence[Tested]) -> Tested | None:
        """Return the best pair of one of these conditions and another, each half improved in turn."""
        pairs = (pair for partner in partners if (pair := self._best_with(partner.parts[0])) is not None)
        best = min(pairs, key=_log_point, default=None)
        turned = best
        for _ in range(MAX_TURNS):
            turned = turned and self._best_with(turned.parts[-1])
            # An equal one is taken too: its cut lies between sets for which the other half holds.
            if turned is None or best is None or turned.log_point > best.log_point:
                break
            best = turned
        return best

    def _best_with(self, part: Comparison) -> Tested | None:
        """Return the best pair of a condition and another."""
        tests = self._tests(*self._under(part))
        return tests[0]._replace(parts=(part, *tests[0].parts)) if tests else None

    def _under(self, part: Comparison) -> tuple[bytearray, bytearray]:
        """Return the sets for which a condition holds, and the failed ones of these."""
        mask = self._by_name[part.parameter].mask(part)
        return bytearray(map(and_, self._inside, mask)), bytearray(map(and_, self._failed, mask))

    def _is_unlikely(self, tested: Tested, chance: Chance, inside: bytearray) -> bool:
        """Return whether chance gives so good a single condition at most as often as it may, over all there are."""
        sizes = Counter(size for column in self._columns for size in column.sizes(inside))
        most = self._rate / chance.testable(sizes, self._rate)
        return chance.log_tail(tested.size, tested.hits) <= math.log(most)

    def _is_unlikely_pair(self, pair: Tested) -> bool:
        """Return whether chance explains neither a pair, nor what each half adds to the other."""
        conditions = sum(len(column.sizes(self._inside)) for column in self._columns)
        most = self._rate / max(math.comb(conditions, 2), 1)
        if self._chance.log_tail(pair.size, pair.hits) > math.log(most):
            return False
        for part in pair.parts:
            inside, failed = self._under(part)
            if not self._is_unlikely(pair, Chance(self._logs, sum(inside), sum(failed)), inside):
                return False
        return True

    def _is_perfect(self, tested: Tested) -> bool:
        return tested.size == tested.hits == self._chance.failed

    def _odds_ratio(self, tested: Tested) -> float:
        """Return how many times higher the odds of failing are under a condition than without it."""
        passed = tested.size - tested.hits
        missed = self._chance.failed - tested.hits
        passed_without = self._chance.total - tested.size - missed
        return tested.hits * passed_without / (passed * missed) if passed * missed else math.inf

    def _ordered(self, parts: Sequence[Comparison]) -> tuple[Comparison, ...]:
        """Return comparisons in the order of their parameters, of one the lower bound first."""
        places = {name: place for place, name in enumerate(self._by_name)}
        return tuple(sorted(parts, key=lambda part: (places[part.parameter], part.operator != ">")))


def _log_point(tested: Tested) -> float:
    return tested.log_point

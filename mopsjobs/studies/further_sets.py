"""Find a condition that too few failed parameter sets cannot prove, and the further sets that would settle it.

**The suspected condition** is the one that `separating` would name at `SUSPECTED_RATE` in place of its own rate.

**Further sets** lie inside the condition and beside it, by turns. Beside it, all of its comparisons hold but one, and
a number lies near the cut. Each is a drawn set of the study, with the condition's parameters of another drawn one. So
all values are those of the study, and the search has no more conditions to correct for. If no such set is new, as in a
full grid, numbers are drawn between those of two sets, whole ones from whole ones.

**How many** is `MARGIN` times the least even number with which the test of `separating` names a condition. Further sets
are taken to fail at the rates seen so far, inside and outside of the suspected condition. One that is fitted to few
sets looks better than it is, so the least number proves only two of three. Nothing is suspected if `MAX_FURTHER` are
too few.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from mopsjobs.studies.conditions import Comparison, Condition, is_number
from mopsjobs.studies.separating import RATE, SetOutcomes, best_condition, compare_sets
from mopsjobs.studies.study import param_id

SUSPECTED_RATE = 1.0
"""How often chance may give a suspected condition. The test is careful: it gives one in 6 to 15 %."""

MARGIN = 2
"""How many times the least number of further sets there are."""

MAX_FURTHER = 40

MAX_SUSPECTED_SETS = 2_000
"""Sets of a job up to which a condition is suspected: more of them need no further ones."""

MAX_DRAWS = 50
"""How often a set is drawn until it is a new one, first of values of the study, then between them."""

SIGNIFICANT_DIGITS = 4
"""Of a number that is drawn between two others."""

_FAILED = "failed"

Params = Mapping[str, Any]


class Suspicion(NamedTuple):
    """A condition that is suspected."""

    condition: Condition
    failed: int
    """Parameter sets that failed, of those that are compared."""
    further: list[dict[str, Any]]
    """The parameters of the further sets."""


def find_suspicion(sets: Sequence[SetOutcomes], key: str) -> Suspicion | None:
    """Return what is suspected of an error for which no condition was found; None if that is nothing."""
    if len(sets) > MAX_SUSPECTED_SETS:
        return None
    inside, failed = compare_sets(sets, key)
    compared = [
        SetOutcomes(one.params, [_FAILED if failed[place] else None]) for place, one in enumerate(sets) if inside[place]
    ]
    condition = best_condition(compared, _FAILED, SUSPECTED_RATE)
    if condition is None:
        return None
    draw = _Draw([one.params for one in sets], condition)
    further = _with_outcomes(compared, condition, list(islice(draw.sets(), MAX_FURTHER)))
    least = _least_number(compared, further)
    if least is None:
        return None
    return Suspicion(condition, sum(failed), [dict(one.params) for one in further[: MARGIN * least]])


def _with_outcomes(
    compared: Sequence[SetOutcomes], condition: Condition, further: Sequence[Params]
) -> list[SetOutcomes]:
    """Return further sets that fail at the rates of those that are known, inside a condition and outside of it."""
    holds = [condition.holds(one.params) for one in compared]
    rates = {}
    for side in (True, False):
        ends = [one.outcomes[0] for one, is_inside in zip(compared, holds, strict=True) if is_inside is side]
        rates[side] = ends.count(_FAILED) / len(ends)
    expected = {True: 0.0, False: 0.0}
    outcomes = []
    for params in further:
        side = condition.holds(params)
        before, expected[side] = expected[side], expected[side] + rates[side]
        # As many fail as are expected, rounded down.
        fails = int(expected[side] + 1e-9) > int(before + 1e-9)
        outcomes.append(SetOutcomes(params, [_FAILED if fails else None]))
    return outcomes


def _least_number(compared: Sequence[SetOutcomes], further: Sequence[SetOutcomes]) -> int | None:
    """Return the least even number of further sets with which a condition is found; None if all of them do not do."""

    def is_enough(pairs: int) -> bool:
        return best_condition([*compared, *further[: 2 * pairs]], _FAILED, RATE) is not None

    low, high = 0, len(further) // 2
    if not is_enough(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return 2 * high


class _Draw:
    """Further sets, drawn from those of a study."""

    def __init__(self, sets: Sequence[Params], condition: Condition) -> None:
        self._sets = sets
        self._condition = condition
        self._names = {part.parameter for part in condition.parts}
        self._inside = [params for params in sets if condition.holds(params)]
        self._beside = [near for part in condition.parts if (near := self._beside_part(part))]
        self._random = random.Random(0)  # noqa: S311 - the same sets each time
        self._seen = {param_id(params) for params in sets}

    def sets(self) -> Iterator[dict[str, Any]]:
        """Yield new parameter sets, inside the condition and beside it by turns, until no new one is found."""
        while True:
            for is_inside in (True, False):
                params = self._new(is_inside=is_inside)
                if params is None:
                    return
                yield params

    def _beside_part(self, part: Comparison) -> list[Params]:
        """Return the sets for which all comparisons hold but one: if that is a cut, those nearest to it."""
        others = [one for one in self._condition.parts if one is not part]
        beside = [one for one in self._sets if not part.holds(one) and all(other.holds(one) for other in others)]
        if part.operator in (">", "<="):
            beside = [one for one in beside if is_number(one.get(part.parameter))]
            beside.sort(key=lambda one: abs(one[part.parameter] - part.value))
            return beside[: max(len(self._inside), 2)]
        return beside

    def _new(self, *, is_inside: bool) -> dict[str, Any] | None:
        for number in range(MAX_DRAWS):
            side = self._inside if is_inside else self._random.choice(self._beside or [self._sets])
            base, other = self._random.choice(self._sets), self._random.choice(side)
            if number >= MAX_DRAWS // 2:
                base = self._between(base, self._random.choice(self._sets))
                other = self._between(other, self._random.choice(side))
            params = {
                name: (other if name in self._names else base)[name]
                for name in dict.fromkeys((*base, *other))
                if name in (other if name in self._names else base)
            }
            if self._condition.holds(params) is is_inside and (name := param_id(params)) not in self._seen:
                self._seen.add(name)
                return params
        return None

    def _between(self, one: Params, other: Params) -> dict[str, Any]:
        """Return a set with numbers between those of two sets, and the other values of the first."""
        return {name: self._value_between(value, other.get(name)) for name, value in one.items()}

    def _value_between(self, one: Any, other: Any) -> Any:
        if not (is_number(one) and is_number(other)) or one == other:
            return one
        if isinstance(one, int) and isinstance(other, int):
            return self._random.randint(min(one, other), max(one, other))
        return float(f"{self._random.uniform(one, other):.{SIGNIFICANT_DIGITS}g}")

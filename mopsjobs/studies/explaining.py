"""Find which parameters go with the lowest or the highest values of a scalar, by the test of `separating`.

The unit is a parameter set again. All sets count with the mean of the same number of values, their first m: a mean of
fewer would be likelier to be extreme. In an adaptive study, all values of a set count: it has as many as make means
about as precise. The extreme sets take the place of those that failed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mopsjobs.studies.conditions import is_number
from mopsjobs.studies.separating import Finding, Separation, SetOutcomes, exposure

EXTREME_SHARE = 0.05
"""The part of the sets that is explained."""

MIN_EXTREME = 10
"""Sets that are explained at least, or a quarter of all: chance explains what fewer have in common."""

ENOUGH_SETS = 4 * MIN_EXTREME
"""Sets of which a condition can be told from chance, however many parameters there are."""

_EXTREME = "extreme"


class SetValues(NamedTuple):
    """The values of a scalar in one parameter set. No two have the same parameters."""

    params: Mapping[str, Any]
    values: list[float]
    """Finite, in the order of the tasks."""


class Explanation(NamedTuple):
    """The extreme sets, and what separates them from the others. The findings count sets, not tasks."""

    sets: int
    """Sets that were compared."""
    values: int
    """Values of each of them; in an adaptive study, the least number."""
    extreme: int
    """The lowest or highest of them, with all that have the same mean as the last of these."""
    bound: float | None
    """The mean of the last of these; None without sets."""
    too_few: int
    """Sets that have values, and fewer than the others."""
    findings: list[Finding]
    """Empty if chance explains the extreme sets as well."""
    left_out: int
    """Parameters that were not compared, since there are too many."""
    most: int = 0
    """Values of the set that has the most of those that count."""
    beyond: int = 0
    """Values that do not count, since other sets have fewer."""
    could_tell: bool = True
    """Whether a number that separates this count of sets from all others could be told from chance."""


def explain_extremes(sets: Sequence[SetValues], *, highest: bool, is_adaptive: bool = False) -> Explanation:
    """Return what separates the sets with the lowest means from the others, or those with the highest."""
    values = exposure([len(one.values) for one in sets])
    compared = [one for one in sets if 0 < values <= len(one.values)]
    too_few = sum(0 < len(one.values) < values for one in sets)
    if not compared:
        return Explanation(0, values, 0, None, too_few, [], 0)
    counted = [one.values if is_adaptive else one.values[:values] for one in compared]
    means = [math.fsum(value / len(found) for value in found) for found in counted]
    ordered = sorted(means, reverse=highest)
    least = min(MIN_EXTREME, len(means) // 4)
    bound = ordered[max(math.ceil(EXTREME_SHARE * len(means)), least) - 1]
    is_extreme = [mean >= bound if highest else mean <= bound for mean in means]
    params, extreme = [one.params for one in compared], sum(is_extreme)
    separation = _separation(params, is_extreme)
    findings = separation.findings(_EXTREME)
    most = max(map(len, counted))
    beyond = sum(len(one.values) for one in compared) - sum(map(len, counted))
    could_tell = bool(findings) or len(means) >= ENOUGH_SETS or _could_tell(params, extreme)
    return Explanation(
        len(means), values, extreme, bound, too_few, findings, separation.left_out, most, beyond, could_tell
    )


def _separation(params: Sequence[Mapping[str, Any]], is_extreme: Sequence[bool]) -> Separation:
    pairs = zip(params, is_extreme, strict=True)
    return Separation([SetOutcomes(one, [_EXTREME if flag else None]) for one, flag in pairs], [_EXTREME])


def _could_tell(params: Sequence[Mapping[str, Any]], extreme: int) -> bool:
    """Return whether a condition would be found if the sets with the lowest values of a parameter were the extreme.

    True if no number varies.
    """
    are_numbers = False
    for name in dict.fromkeys(name for one in params for name in one):
        values = [one.get(name) for one in params]
        if all(map(is_number, values)) and len(set(values)) > 1:
            are_numbers = True
            bound = sorted(values)[extreme - 1]  # type: ignore[type-var]
            if _separation(params, [value <= bound for value in values]).findings(_EXTREME):  # type: ignore[operator]
                return True
    return not are_numbers

"""Find what separates failed tasks from those that succeeded: a condition on parameters, like `beta > 0.9`.

**The unit is a parameter set.** Its replicates are not independent: they share what is asked about. Only tasks that
failed with the error in question, or succeeded, are compared. A set counts as failed if one of its first m such tasks
failed. All sets count with the same m: the greatest number that nine of ten sets have. Sets with fewer are left out.
So more tasks, or fewer other errors, do not make a set likelier to count as failed.

**The conditions** are all comparisons with one parameter. Numbers have `x > v` and `x <= v` between each two
neighbouring values. Other values, and numbers with few values, have `x == v` and `x != v`. A parameter may be set or
not. Pairs follow: each of the `MAX_PARTNERS` best is held fixed, and the best second one is searched. Then the halves
of the best pair are improved in turn. Of conditions with the same result, that of the earlier parameter wins.

**Chance.** Fisher's exact test tells how likely a condition is without any relation (`chance.py`). Half of `RATE` is
for single conditions, corrected by Bonferroni for all of them that could be findings at all (Tarone). The other half
is for pairs, corrected for all possible pairs, since the search for partners looks at the result. So failing that has
nothing to do with the parameters gives a finding in at most `RATE` of all cases. A pair is preferred to a single
condition only if each half separates where the other one holds, by the same test.

What failed outside of the first finding is searched again, up to `MAX_FINDINGS` times. See
docs/decisions/0045-what-separates-failed-tasks.md.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mopsjobs.studies.chance import LogFactorials
from mopsjobs.studies.columns import Column, make_columns
from mopsjobs.studies.condition_search import ConditionSearch
from mopsjobs.studies.conditions import Condition

RATE = 0.01
"""How often chance may give any finding for one error of a job."""

MIN_FAILED = 3
"""Failed parameter sets below which nothing is searched."""

MAX_FINDINGS = 3

MAX_SETS = 10_000
"""Parameter sets that are searched. Of more, some are drawn; what is found in them is then fitted to all."""

EXPOSED = 0.9
"""The part of the sets that has to have a number of tasks for it to be m."""


class SetOutcomes(NamedTuple):
    """The ended tasks of one parameter set. No two have the same parameters."""

    params: Mapping[str, Any]
    outcomes: Sequence[str | None]
    """Of each ended task, in the order of their numbers: the key of its error, or None if it succeeded."""


class Finding(NamedTuple):
    """A condition that separates failed tasks from those that succeeded. It counts tasks, of all parameter sets."""

    condition: Condition
    failed: int
    """Tasks with the error for which it holds."""
    passed: int
    """Tasks that succeeded for which it holds."""
    others: int
    """Tasks with other errors for which it holds."""
    support: float
    """The part of the tasks with the error for which it holds."""
    lift: float
    """How many times likelier the error is under it than over all: the ratio of both shares of ended tasks."""


class Separation:
    """The parameter sets of a job, ready to be searched for several errors."""

    def __init__(self, sets: Sequence[SetOutcomes], keys: Iterable[str]) -> None:
        """Take the parameter sets, and the keys of the errors that will be asked for."""
        self._all = sets
        self._sets = _drawn(sets, set(keys))
        made = make_columns([one.params for one in self._sets])
        self._columns = made.columns
        self.left_out = made.left_out
        """Parameters that may vary and are not compared, since there are too many."""
        self._logs = LogFactorials(len(self._sets))

    def findings(self, key: str) -> list[Finding]:
        """Return what separates the tasks with this error, the best first; nothing if chance explains all."""
        found: list[Condition] = []
        while len(found) < MAX_FINDINGS:
            condition = _search(self._sets, self._columns, self._logs, key, found)
            if condition is None:
                break
            if len(self._sets) < len(self._all) and not self._is_exact(condition, key, found):
                condition = self._fitted(condition, key, found)
            found.append(condition)
        return [self._counted(condition, key) for condition in found]

    def _is_exact(self, condition: Condition, key: str, without: Sequence[Condition]) -> bool:
        """Return whether a condition holds for all sets with the error, and for no other in which a task succeeded."""
        return all(
            condition.holds(one.params) is (key in one.outcomes)
            for one in self._all
            if (key in one.outcomes or None in one.outcomes)
            and not any(earlier.holds(one.params) for earlier in without)
        )

    def _fitted(self, condition: Condition, key: str, without: Sequence[Condition]) -> Condition:
        """Return the best condition on the parameters of this one, by all sets instead of those that were drawn."""
        names = {part.parameter for part in condition.parts}
        params = [{name: value for name, value in one.params.items() if name in names} for one in self._all]
        columns = make_columns(params, max_cells=len(params) * len(names)).columns
        return _search(self._all, columns, LogFactorials(len(self._all)), key, without) or condition

    def _counted(self, condition: Condition, key: str) -> Finding:
        """Count the tasks of all sets for which a condition holds."""
        failed = passed = ended = all_failed = all_ended = 0
        for one in self._all:
            hits = one.outcomes.count(key)
            all_failed += hits
            all_ended += len(one.outcomes)
            if condition.holds(one.params):
                failed += hits
                passed += one.outcomes.count(None)
                ended += len(one.outcomes)
        lift = (failed / ended) / (all_failed / all_ended) if failed else 0.0
        return Finding(condition, failed, passed, ended - failed - passed, failed / max(all_failed, 1), lift)


def _search(
    sets: Sequence[SetOutcomes],
    columns: Sequence[Column],
    logs: LogFactorials,
    key: str,
    without: Sequence[Condition],
) -> Condition | None:
    """Return the best condition for an error, among the sets for which no earlier one holds."""
    compared = [[one for one in each.outcomes if one is None or one == key] for each in sets]
    exposure = _exposure([len(outcomes) for outcomes in compared])
    inside = bytearray(0 < exposure <= len(outcomes) for outcomes in compared)
    for condition in without:
        for place, one in enumerate(sets):
            if inside[place] and condition.holds(one.params):
                inside[place] = 0
    failed = bytearray(
        is_inside and key in outcomes[:exposure] for is_inside, outcomes in zip(inside, compared, strict=True)
    )
    if sum(failed) < MIN_FAILED:
        return None
    return ConditionSearch(columns, logs, inside, failed, RATE).best()


def _exposure(lengths: list[int]) -> int:
    """Return the number of tasks with which all sets are compared; 0 if no set has one."""
    lengths = sorted(filter(None, lengths))
    return lengths[int(len(lengths) * (1 - EXPOSED))] if lengths else 0


def _drawn(sets: Sequence[SetOutcomes], keys: set[str]) -> Sequence[SetOutcomes]:
    """Return at most `MAX_SETS` of the sets, in their order: as many of each error as there is room for, and others.

    The choice looks at outcomes and never at parameters, so chance explains no more among the chosen.
    """
    if len(sets) <= MAX_SETS:
        return sets
    by_error: dict[str | None, list[int]] = {}
    for place, one in enumerate(sets):
        errors = keys.intersection(filter(None, one.outcomes))
        by_error.setdefault(min(errors, default=None), []).append(place)
    others = by_error.pop(None, [])
    draw = random.Random(0)  # noqa: S311 - the same sample each time
    room = MAX_SETS // 2 // max(len(by_error), 1)
    chosen = [place for places in by_error.values() for place in draw.sample(places, min(len(places), room))]
    chosen += draw.sample(others, min(len(others), MAX_SETS - len(chosen)))
    return [sets[place] for place in sorted(chosen)]

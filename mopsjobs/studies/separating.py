"""Find what separates failed tasks from those that succeeded: a condition on parameters, like `beta > 0.9`.

**The unit is a parameter set.** Its replicates are not independent: they share what is asked about. Only tasks that
failed with the error in question, or succeeded, are compared. A set counts as failed if one of its first m such tasks
failed. All sets count with the same m: the greatest number that nine of ten sets have. Sets with fewer are left out.
So more tasks, or fewer other errors, do not make a set likelier to count as failed.

**The conditions** are all comparisons with one parameter. Numbers have `x > v` and `x <= v` between each two
neighbouring values. Other values, and numbers with few values, have `x == v` and `x != v`. A parameter may be set or
not. Pairs follow: each of the `MAX_PARTNERS` best is held fixed, and the best second one is searched. Then the halves
of the best pair are improved in turn. Of conditions with the same result, that of the earlier parameter wins.

**Chance.** Fisher's exact test tells how likely a condition is without any relation (`Chance`). Half of `RATE` is
for single conditions, corrected by Bonferroni for all of them that could be findings at all (Tarone). The other half
is for pairs, corrected for all possible pairs, since the search for partners looks at the result. So failing that has
nothing to do with the parameters gives a finding in at most `RATE` of all cases. A pair is preferred to a single
condition only if each half separates where the other one holds, by the same test.

What failed outside of the first finding is searched again, up to `MAX_FINDINGS` times. See
docs/decisions/0045-what-separates-failed-tasks.md.

If too few sets failed to prove a condition, `find_suspicion` finds further ones that would settle it.

**The suspected condition** is the one that would be named at `SUSPECTED_RATE` in place of `RATE`.

**Further sets** lie inside the condition and beside it, by turns. Beside it, all of its comparisons hold but one, and
a number lies near the cut. Each is a drawn set of the study, with the condition's parameters of another drawn one. So
all values are those of the study, and the search has no more conditions to correct for. If no such set is new, as in a
full grid, numbers are drawn between those of two sets, whole ones from whole ones.

**How many** is `MARGIN` times the least even number with which the test names a condition. Further sets are taken to
fail at the rates seen so far, inside and outside of the suspected condition. One that is fitted to few sets looks
better than it is, so the least number proves only two of three. Nothing is suspected if `MAX_FURTHER` are too few.
"""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, compress, islice, pairwise
from operator import and_
from typing import Any, NamedTuple

from mopsjobs.studies.conditions import Comparison, Condition, category, cut_between, is_number
from mopsjobs.studies.study import param_id

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


MAX_CELLS = 1_000_000
"""Values that are compared. Of more, the parameters that come last are left out."""

MAX_PARAMETERS = 500

MAX_EQUAL_NUMBERS = 50
"""Distinct numbers of a parameter up to which single ones are conditions too, as values of other types are."""

MAX_CUTS = 400
"""Cuts of a parameter that are tried at once. Of more, those beside the best one follow."""

_NOT_SET = object()


class Tested(NamedTuple):
    """A condition on some sets."""

    log_point: float
    """How likely it is by chance (`Chance.log_point`). The least is the best."""
    parts: tuple[Comparison, ...]
    size: int
    """The sets for which it holds."""
    hits: int
    """The failed ones of these."""


class Columns(NamedTuple):
    """The parameters that vary."""

    columns: list[Column]
    left_out: int
    """Parameters that vary, or may vary, and are not among the columns, since there are too many."""


def make_columns(sets: Sequence[Mapping[str, Any]]) -> Columns:
    """Return a column for each parameter that has two values at least, or is not set everywhere."""
    names = Counter(name for params in sets for name in params)
    most = min(MAX_PARAMETERS, MAX_CELLS // max(len(sets), 1))
    columns: list[Column] = []
    left = len(names)
    for name in names:
        if len(columns) == most:
            break
        left -= 1
        values = [params.get(name, _NOT_SET) for params in sets]
        if len(set(map(_key, values))) > 1:
            columns.append(Column(name, values))
    return Columns(columns, left)


def _key(value: object) -> Hashable:
    return None if value is _NOT_SET else category(value)


class Column:
    """The values of one parameter, one per set."""

    def __init__(self, name: str, values: Sequence[Any]) -> None:
        self.name = name
        self._is_set = bytearray(value is not _NOT_SET for value in values)
        self._numbers = [value if is_number(value) else float("nan") for value in values]
        self._order = sorted((place for place, value in enumerate(values) if is_number(value)), key=values.__getitem__)
        self._sorted = [values[place] for place in self._order]
        has_few_numbers = sum(low != high for low, high in pairwise(self._sorted)) < MAX_EQUAL_NUMBERS
        self._keys = [
            None if value is _NOT_SET or (is_number(value) and not has_few_numbers) else category(value)
            for value in values
        ]
        self._values = {key: value for key, value in zip(self._keys, values, strict=True) if key is not None}
        self._is_set_everywhere = all(self._is_set)

    def mask(self, part: Comparison) -> bytearray:
        """Return 1 for each set for which a comparison with this parameter holds, and 0 for the others."""
        if part.operator in (">", "<="):
            if part.operator == ">":
                return bytearray([value > part.value for value in self._numbers])
            return bytearray([value <= part.value for value in self._numbers])
        if part.operator in ("==", "!="):
            key, wanted = category(part.value), part.operator == "=="
            return bytearray(
                [is_set and (one == key) is wanted for is_set, one in zip(self._is_set, self._keys, strict=True)]
            )
        return bytearray(is_set == (part.operator == "is set") for is_set in self._is_set)

    def sizes(self, inside: bytearray) -> list[int]:
        """Return for each condition on this parameter for how many of the sets inside it holds."""
        numbers = list(compress(self._sorted, map(inside.__getitem__, self._order)))
        cuts = [place for place in range(1, len(numbers)) if numbers[place] != numbers[place - 1]]
        sizes = cuts + [len(numbers) - cut for cut in cuts]
        counts, have, total = self._counts(inside)
        if have < total:
            sizes += (have, total - have)
        if len(counts) > 1:
            sizes += counts.values()
        if len(counts) > 2:
            sizes += [have - count for count in counts.values()]
        return sizes

    def tests(self, inside: bytearray, failed: bytearray, chance: Chance) -> Iterator[Tested]:
        """Yield the best cuts of numbers, and the other conditions, that hold for more failed sets than by chance.

        Args:
            inside: 1 for the sets that count, 0 for others.
            failed: 1 for the failed ones of these.
            chance: ranks conditions. It may know of more sets than are inside.
        """
        yield from self._tests_of_numbers(inside, failed, chance)
        counts, have, total = self._counts(inside)
        hits, failed_have, failures = self._counts(failed)
        found = [("is set", None, have, failed_have), ("is not set", None, total - have, failures - failed_have)]
        if len(counts) > 1:
            found += [("==", self._values[key], counts[key], hits[key]) for key in hits]
        if len(counts) > 2:
            found += [("!=", self._values[key], have - counts[key], failed_have - hits[key]) for key in counts]
        for operator, value, size, hit in found:
            if 0 < size < total and (point := chance.log_point(size, hit)) < 0.0:
                yield Tested(point, (Comparison(self.name, operator, value),), size, hit)

    def _counts(self, inside: bytearray) -> tuple[Counter[Hashable], int, int]:
        """Count the sets inside by value, those that have the parameter, and all."""
        counts = Counter(compress(self._keys, inside) if self._values else ())
        counts.pop(None, None)
        total = sum(inside)
        return counts, total if self._is_set_everywhere else sum(compress(self._is_set, inside)), total

    def _tests_of_numbers(self, inside: bytearray, failed: bytearray, chance: Chance) -> Iterator[Tested]:
        """Yield the best cut of the numbers in each direction. It lies beside a failed set."""
        is_inside = bytes(map(inside.__getitem__, self._order))
        numbers = list(compress(self._sorted, is_inside))
        flags = compress(map(failed.__getitem__, self._order), is_inside)
        places = list(compress(range(len(numbers)), flags))
        count, failures = len(numbers), len(places)

        def above(cut: int) -> Tested:
            size, hits = count - cut, failures - bisect_left(places, cut)
            return Tested(chance.log_point(size, hits), (), size, hits)

        def up_to(cut: int) -> Tested:
            size, hits = cut, bisect_left(places, cut)
            return Tested(chance.log_point(size, hits), (), size, hits)

        values = [numbers[place] for place in places]
        below = [cut for cut in dict.fromkeys(bisect_left(numbers, value) for value in values) if cut > 0]
        behind = [cut for cut in dict.fromkeys(bisect_right(numbers, value) for value in values) if cut < count]
        for operator, test, cuts in ((">", above, below), ("<=", up_to, behind)):
            if not cuts:
                continue
            step = len(cuts) // MAX_CUTS + 1
            best = min(range(0, len(cuts), step), key=lambda place: test(cuts[place]).log_point)
            near = range(max(best - step + 1, 0), min(best + step, len(cuts)))
            cut = cuts[min(near, key=lambda place: test(cuts[place]).log_point)]
            tested = test(cut)
            if tested.log_point < 0.0:
                value = cut_between(numbers[cut - 1], numbers[cut])
                yield tested._replace(parts=(Comparison(self.name, operator, value),))


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
    """The hypergeometric distribution of failed sets among those for which a condition holds.

    A condition holds for `size` of `total` parameter sets, of which `failed` have failed. If failing does not depend on
    the parameters, the number of failed ones among these is hypergeometric. Its upper tail is Fisher's exact test,
    one-sided: R. A. Fisher, "Statistical Methods for Research Workers", 1934, section 21.02.
    """

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


RATE = 0.01
"""How often chance may give any finding for one error of a job."""

MIN_FAILED = 3
"""Failed parameter sets below which nothing is searched."""

MAX_FINDINGS = 3

MAX_SETS = 10_000
"""Parameter sets that are searched. Of more, some are drawn; what is found in them is then counted in all."""

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
            found.append(condition)
        return [self._counted(condition, key) for condition in found]

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
    rate: float = RATE,
) -> Condition | None:
    """Return the best condition for an error, among the sets for which no earlier one holds."""
    inside, failed = compare_sets(sets, key)
    for condition in without:
        for place, one in enumerate(sets):
            if inside[place] and condition.holds(one.params):
                inside[place] = failed[place] = 0
    if sum(failed) < MIN_FAILED:
        return None
    return ConditionSearch(columns, logs, inside, failed, rate).best()


def best_condition(sets: Sequence[SetOutcomes], key: str, rate: float) -> Condition | None:
    """Return the best condition for an error; None if chance gives one as good in more than `rate` of all cases."""
    columns = make_columns([one.params for one in sets]).columns
    return _search(sets, columns, LogFactorials(len(sets)), key, (), rate)


def compare_sets(sets: Sequence[SetOutcomes], key: str) -> tuple[bytearray, bytearray]:
    """Return 1 for each set that is compared, and 1 for each of these that failed with an error."""
    compared = [[one for one in each.outcomes if one is None or one == key] for each in sets]
    tasks = exposure([len(outcomes) for outcomes in compared])
    inside = bytearray(0 < tasks <= len(outcomes) for outcomes in compared)
    failed = bytearray(
        is_inside and key in outcomes[:tasks] for is_inside, outcomes in zip(inside, compared, strict=True)
    )
    return inside, failed


def exposure(lengths: list[int]) -> int:
    """Return m of these numbers of tasks: with how many all sets are compared; 0 if no set has one."""
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

"""Parameters of many sets by columns, and the best conditions on each. No input or output."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import compress, pairwise
from typing import Any, NamedTuple

from mopsjobs.studies.chance import Chance
from mopsjobs.studies.conditions import Comparison, category, cut_between, is_number

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


def make_columns(sets: Sequence[Mapping[str, Any]], *, max_cells: int = MAX_CELLS) -> Columns:
    """Return a column for each parameter that has two values at least, or is not set everywhere.

    Args:
        sets: the parameters of each set.
        max_cells: how many values are compared at most.
    """
    names = Counter(name for params in sets for name in params)
    most = min(MAX_PARAMETERS, max_cells // max(len(sets), 1))
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

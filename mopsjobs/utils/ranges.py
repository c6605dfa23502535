"""Ascending numbers as ranges: of each the first number, and the one after the last."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

Range = tuple[int, int]


def number_ranges(numbers: Iterable[int]) -> Iterator[Range]:
    """Yield ascending numbers as ranges."""
    for _, pairs in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in pairs]
        yield run[0], run[-1] + 1


def is_in_ranges(number: int, ranges: Sequence[Range]) -> bool:
    """Return whether a number is in one of some ascending ranges."""
    place = bisect_right(ranges, number, key=lambda one: one[0])
    return place > 0 and number < ranges[place - 1][1]

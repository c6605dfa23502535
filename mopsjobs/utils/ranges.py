"""Ascending numbers as ranges: of each the first number, and the one after the last."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

Range = tuple[int, int]


def number_ranges(numbers: Iterable[int]) -> Iterator[Range]:
    """Yield ascending numbers as ranges."""
    first = end = None
    for number in numbers:
        if number != end:
            if first is not None and end is not None:
                yield first, end
            first = number
        end = number + 1
    if first is not None and end is not None:
        yield first, end


def is_in_ranges(number: int, ranges: Sequence[Range]) -> bool:
    """Return whether a number is in one of some ascending ranges."""
    place = bisect_right(ranges, number, key=lambda one: one[0])
    return place > 0 and number < ranges[place - 1][1]

"""Which task has which seed, for as many replicates as a study may have, in 8 bytes each."""

from __future__ import annotations

import heapq
import itertools
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator

_CHUNK = 500_000
"""Tasks that are sorted at once: sorting takes five times as much memory as what is sorted."""


_BITS = 32
"""Of a seed that was drawn, and of the number of a task: together they are one number, and sort by the seed."""


class SeedIndex:
    """The tasks of one parameter id by their seeds.

    A dict would take 200 bytes a task, and a manifest of a hundred bytes may name ten million.
    """

    def __init__(self, drawn: Iterable[tuple[int, int]], named: Iterable[tuple[int, int]]) -> None:
        """Take in the tasks.

        Args:
            drawn: seed and number of each task whose seed was drawn: both below 2^32.
            named: the same of those whose seed was asked for, which may be any.
        """
        self._named = dict(named)
        self._drawn: list[array[int]] = []
        packed = (seed << _BITS | number for seed, number in drawn)
        while chunk := sorted(itertools.islice(packed, _CHUNK)):
            self._drawn.append(array("Q", chunk))

    def numbers(self, seed: int) -> list[int]:
        """The numbers of the tasks with that seed, ascending."""
        found = [self._named[seed]] if seed in self._named else []
        lowest = seed << _BITS
        for chunk in self._drawn if seed >> _BITS == 0 else ():
            at = bisect_left(chunk, lowest)
            while at < len(chunk) and chunk[at] >> _BITS == seed:
                found.append(chunk[at] & (1 << _BITS) - 1)
                at += 1
        return sorted(found)

    def numbers_of_text(self, seed: str) -> list[int]:
        """The same for a seed as it stands in a key; none for what is no seed in its one form."""
        is_seed = seed.isascii() and seed.isdigit() and len(seed) <= 20 and (seed == "0" or seed[0] != "0")
        return self.numbers(int(seed)) if is_seed else []

    def duplicate_groups(self) -> Iterator[list[int]]:
        """The numbers of tasks that have one seed together, ascending, for each seed of more than one task."""
        told = set()
        last = -1
        for packed in heapq.merge(*self._drawn):
            seed = packed >> _BITS
            if seed == last and seed not in told:
                told.add(seed)
                yield self.numbers(seed)
            last = seed
        for seed in self._named:
            if seed not in told and len(numbers := self.numbers(seed)) > 1:
                yield numbers

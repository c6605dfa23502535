"""Draw seeds, and find the tasks of a seed, for as many replicates as a study may have, in 8 bytes per task."""

from __future__ import annotations

import hashlib
import heapq
import itertools
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator

_CHUNK = 500_000
"""Tasks that are sorted at once. Sorting takes five times the memory of what is sorted."""

_BITS = 32
"""Of a drawn seed, and of the number of a task: packed into one integer they sort by seed."""


def drawn_seed(param_id: str, replicate: int) -> int:
    """Return the seed that is drawn for a replicate: BLAKE2b-64 of `<param_id>:<replicate>`, modulo 2^32."""
    digest = hashlib.blake2b(f"{param_id}:{replicate}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 2**32


class SeedIndex:
    """The tasks of one parameter id by their seeds.

    A dict would take 200 bytes per task, and a manifest of a hundred bytes may name ten million tasks.
    """

    def __init__(self, drawn: Iterable[tuple[int, int]], named: Iterable[tuple[int, int]]) -> None:
        """Build the index.

        Args:
            drawn: seed and number of each task with a drawn seed: both below 2^32.
            named: seed and number of each task with a seed that the study names: any seed.
        """
        self._named: dict[int, list[int]] = {}
        for seed, number in named:
            self._named.setdefault(seed, []).append(number)
        self._drawn: list[array[int]] = []
        packed = (seed << _BITS | number for seed, number in drawn)
        while chunk := sorted(itertools.islice(packed, _CHUNK)):
            self._drawn.append(array("Q", chunk))

    def numbers(self, seed: int) -> list[int]:
        """Return the numbers of the tasks with a seed, ascending."""
        numbers = list(self._named.get(seed, ()))
        lowest = seed << _BITS
        for chunk in self._drawn if seed >> _BITS == 0 else ():
            place = bisect_left(chunk, lowest)
            while place < len(chunk) and chunk[place] >> _BITS == seed:
                numbers.append(chunk[place] & (1 << _BITS) - 1)
                place += 1
        return sorted(numbers)

    def numbers_of_text(self, seed: str) -> list[int]:
        """Return the numbers of the tasks with a seed as it stands in a key; none if the text is not a seed."""
        is_seed = seed.isascii() and seed.isdigit() and len(seed) <= 20 and (seed == "0" or seed[0] != "0")
        return self.numbers(int(seed)) if is_seed else []

    def duplicate_groups(self) -> Iterator[list[int]]:
        """Yield for each seed of more than one task the numbers of its tasks, ascending."""
        yielded = set()
        last = -1
        for packed in heapq.merge(*self._drawn):
            seed = packed >> _BITS
            if seed == last and seed not in yielded:
                yielded.add(seed)
                yield self.numbers(seed)
            last = seed
        for seed in self._named:
            if seed not in yielded and len(numbers := self.numbers(seed)) > 1:
                yield numbers

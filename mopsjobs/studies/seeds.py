"""The seeds of a study's tasks: the rules that a study may name, and an index of tasks by their seeds.

ModelOps computes the seeds of a study as `mops-jobs` does (modelops-contracts: `SimulationStudy._generate_seed`). But
its runner groups the tasks by parameter id, and counts up from the first seed of each group (`ReplicateSet.tasks`).
See docs/decisions/0117-rules-of-seeds.md.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mopsjobs.utils.text import pluralize

MOPS_JOBS = "mops-jobs"
"""Each replicate of each parameter set has a seed of its own."""

MODELOPS = "modelops"
"""As ModelOps runs them: the tasks of a parameter id, also those of several sets, count up from the first seed."""

COMMON = "common"
"""Common random numbers: replicates with the same number have the same seed in all sets."""

SeedRule = str | tuple[int, ...] | Mapping[str, int]
"""One of these texts, the seed of each replicate, or `{"base": N}`: replicate k has seed N + k. A list and a base are
common to all sets."""

MAX_SEED = 2**64 - 1

_CHUNK = 500_000
"""Tasks that are sorted at once. Sorting takes five times the memory of what is sorted."""

_BITS = 32
"""Of a drawn seed, and of the number of a task: packed into one integer they sort by seed."""


def drawn_seed(rule: SeedRule, param_id: str, replicate: int) -> int:
    """Return the seed of a replicate whose set has no first seed; see `drawn_seeds`."""
    return next(drawn_seeds(rule, param_id, range(replicate, replicate + 1)))


def drawn_seeds(rule: SeedRule, param_id: str, replicates: range) -> Iterator[int]:
    """Yield the seeds of replicates whose set has no first seed: BLAKE2b-64 of `<param_id>:<replicate>`, modulo 2^32.

    With `common`, this word is in place of the parameter id. A list has the seeds.
    """
    if isinstance(rule, tuple):
        yield from rule[replicates.start : replicates.stop]
        return
    begun = hashlib.blake2b(f"{COMMON if rule == COMMON else param_id}:".encode(), digest_size=8)
    for replicate in replicates:
        drawn = begun.copy()  # half the time of one from the beginning
        drawn.update(b"%d" % replicate)
        yield int.from_bytes(drawn.digest(), "big") % (1 << _BITS)


def describe_seeds(rule: SeedRule) -> str:
    """Return a rule as a record and a view name it."""
    if isinstance(rule, tuple):
        return f"{COMMON}, {pluralize(len(rule), 'seed')} listed"
    return rule if isinstance(rule, str) else f"{COMMON}, from {rule['base']}"


def comes_from_modelops(document: Mapping[str, Any]) -> bool:
    """Return whether a study has what only ModelOps writes: `kind`, ids of parameters, or Calabaria's `model_class`."""
    metadata, sets = document.get("metadata"), document.get("parameter_sets")
    if document.get("kind") is not None or (isinstance(metadata, Mapping) and "model_class" in metadata):
        return True
    with_params = (one for one in (sets if isinstance(sets, list) else ()) if isinstance(one, Mapping))
    return any("param_id" in one and isinstance(one.get("params"), Mapping) for one in with_params)


class SeedIndex:
    """The tasks of one parameter id by their seeds.

    A dict would take 200 bytes per task, and a manifest of a hundred bytes may name ten million tasks.
    """

    def __init__(self, tasks: Iterable[tuple[int, int]] = ()) -> None:
        """Build the index of seed and number of each task; the numbers are below 2^32."""
        self._large: dict[int, list[int]] = {}
        self._packed: list[array[int]] = []
        packed = self._pack(tasks)
        while chunk := sorted(itertools.islice(packed, _CHUNK)):
            self._packed.append(array("Q", chunk))

    def _pack(self, tasks: Iterable[tuple[int, int]]) -> Iterator[int]:
        for seed, number in tasks:
            if seed >> _BITS:
                self._large.setdefault(seed, []).append(number)
            else:
                yield seed << _BITS | number

    def numbers(self, seed: int) -> list[int]:
        """Return the numbers of the tasks with a seed, ascending."""
        if seed >> _BITS:
            return sorted(self._large.get(seed, ()))
        numbers = []
        lowest = seed << _BITS
        for chunk in self._packed:
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
        last = yielded = -1
        for packed in heapq.merge(*self._packed):
            seed = packed >> _BITS
            if seed == last != yielded:
                yielded = seed
                yield self.numbers(seed)
            last = seed
        for numbers in self._large.values():
            if len(numbers) > 1:
                yield sorted(numbers)

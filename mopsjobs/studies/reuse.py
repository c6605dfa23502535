"""Reused tasks: tasks of a job whose outputs an earlier job has. The manifest names them, and where their outputs are.

A reused task is complete while the outputs of its source are. Without them, it is a missing task like others: the
runner runs it, or `resume` does. See docs/decisions/0071-reused-tasks.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from mopsjobs.registry.job_id import check_job_id
from mopsjobs.utils.ranges import Range, is_in_ranges, number_ranges

MAX_SOURCES = 100
"""Jobs whose tasks a job reuses, at most: each costs a listing wherever the outputs of the job are looked at."""

MAX_REUSED = 10**6
"""Reused tasks of a job, at most. Each is a row in the caches of readers of the job: some 90 bytes and 8 µs."""

REUSED_FIELD = "n_reused_tasks"
"""The entry of a record's metadata that counts the reused tasks; absent if there are none."""

SOURCES_FIELD = "reused_from"
"""The entry of a record's metadata that lists the ids of the jobs that have the outputs of the reused tasks."""


class Reuse(NamedTuple):
    """Tasks of a job that another job has done."""

    job_id: str
    """The job that has their outputs."""
    bundle: str
    """Its code. It may have another study in it; see `submission.reuse`."""
    ranges: tuple[Range, ...]
    """Their numbers in the study of the job that reuses them."""

    @classmethod
    def of(cls, job_id: str, bundle: str, numbers: Iterable[int]) -> Reuse:
        """Return a reuse of tasks, whose numbers ascend."""
        return cls(job_id, bundle, tuple(number_ranges(numbers)))

    @property
    def task_count(self) -> int:
        """Count the tasks."""
        return sum(end - first for first, end in self.ranges)

    def has(self, number: int) -> bool:
        """Return whether a task is one of these."""
        return is_in_ranges(number, self.ranges)

    def numbers(self) -> Iterator[int]:
        """Yield the numbers of the tasks, ascending."""
        return itertools.chain.from_iterable(itertools.starmap(range, self.ranges))

    def to_json(self) -> dict[str, object]:
        """Return the reuse as a manifest has it."""
        return {"job_id": self.job_id, "bundle": self.bundle, "tasks": [list(one) for one in self.ranges]}

    @classmethod
    def from_json(cls, value: object, total: int) -> Reuse:
        """Decode a reuse of a manifest.

        Args:
            value: the JSON.
            total: how many tasks the study has.

        Raises:
            TypeError, ValueError, KeyError: if it is not one.
            UsageError: if the id is not valid.
        """
        if not isinstance(value, Mapping):
            raise TypeError("expected an object for each source of reused tasks")
        ranges = tuple((first, end) for first, end in value["tasks"])
        flat = [-1, *itertools.chain.from_iterable(ranges), total + 1]
        if not all(type(number) is int for number in flat):
            raise TypeError("expected whole numbers as ranges of reused tasks")
        if any(earlier >= later for earlier, later in itertools.pairwise(flat)):
            raise ValueError("expected ascending ranges of reused tasks")
        if not isinstance(value["bundle"], str):
            raise TypeError("expected a text as the bundle of reused tasks")
        return cls(check_job_id(value["job_id"]), value["bundle"], ranges)

"""The tasks of a shard of an adaptive study, each when decisions have made it needed.

A set whose replicates up to its look have ended is judged at once, by these alone. So nothing depends on the order in
which tasks end, or on the number of workers. Sets with the earliest look go first. While some set has replicates left
up to its look, no worker idles.
"""

from __future__ import annotations

import dataclasses
import heapq
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from mopsjobs.ledger.scalars import Scalars, extract_scalars
from mopsjobs.registry.transitions import ShardPrecision
from mopsjobs.runner.pools.base import NextTasks, TaskResult
from mopsjobs.runner.reporter import Counts
from mopsjobs.studies.adaptive import (
    AdaptiveSet,
    Values,
    adaptive_sets,
    find_widest,
    judge_set,
    named_tasks,
    searched_output,
    values_of,
)
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.outputs import Completeness
from mopsjobs.studies.precision import FAILED, MORE, Judgement, finite_number, tally
from mopsjobs.studies.study import Task, find_varying
from mopsjobs.utils.text import join_first

ENOUGH_SETS = 3
"""Sets that have to fail, since no task has left a result, so that a study ends early. One set may never leave it."""


@dataclasses.dataclass(eq=False)
class _Deciding:
    """A set of the shard."""

    place: int
    one: AdaptiveSet
    judgement: Judgement
    begun: int = 0
    """Its replicates up to the look for which it waits."""
    next: int = 0
    """The next one of them for the pool."""
    waits: int = 0
    """Its replicates up to the look that have not ended."""


class AdaptiveFeed:
    """The tasks of a shard for its pool: an iterator that yields None while decisions wait for tasks at work.

    A task that repeats an earlier one is not run: it ends with the earlier one, which it alone may need.
    """

    def __init__(self, manifest: Manifest, shard: int, shards: int, found: Completeness, counts: Counts) -> None:
        """Decide what the outputs decide already, and count the complete tasks that are needed.

        Args:
            manifest: the manifest of a job whose study is adaptive, with all its tasks.
            shard: the number of the shard.
            shards: how many shards the job has.
            found: the outputs that are there.
            counts: those of the shard.
        """
        study, is_mine = manifest.study, manifest.shard_of(shards)
        assert study.precision is not None  # noqa: S101 - it is adaptive
        self._study, self._precision, self._counts = study, study.precision, counts
        self._varying = find_varying(study)
        self._firsts = [0, *accumulate(map(study.replicates, study.parameter_sets))]
        self._first_of = study.duplicate_tasks()
        self._ended: dict[int, Values | None] = dict(found.values)
        """The values of the tasks that have ended, by their numbers; None for those that failed."""
        self._left: set[str] = set()
        """The results that tasks have left, until they have left all targets."""
        self._wanted = {target.scalar for target in self._precision.until}
        """The targets that no task has left so far."""
        self._had(*found.values.values())
        self._lacking: defaultdict[str, set[int]] = defaultdict(set)
        """The sets that have failed for want of a target, by its name."""
        self._at_work: dict[int, list[tuple[_Deciding | None, int]]] = {}
        """For each task that the pool has, by its number: the tasks that end with it, and their sets."""
        self._due: list[tuple[int, int, _Deciding]] = []
        """The sets with replicates for the pool: a heap, by their looks."""
        named = [number for number, _ in named_tasks(study) if is_mine(number) == shard]
        self._named = iter(named)
        self._n_named = len(named)
        counts.add(completed=sum(number in self._ended for number in named))
        self._own = {
            one.param_id
            for first, one in zip(self._firsts, study.parameter_sets, strict=False)
            if is_mine(first) == shard
        }
        mine = (one for one in adaptive_sets(study) if is_mine(one.firsts[0]) == shard)
        self._sets = [_Deciding(place, one, self._judge({}, one)) for place, one in enumerate(mine)]
        self._first, self._first_here = manifest.first_counts(), self._count()
        for deciding in self._sets:
            self._go_on(deciding)

    @property
    def needed(self) -> int:
        """Return how many tasks of the shard are needed as far as is known."""
        return self._n_named + sum(one.begun * len(one.one.firsts) for one in self._sets)

    @property
    def at_most(self) -> int:
        """Return how many tasks of the shard may be needed."""
        return self._n_named + self._count()["at_most"]

    @property
    def ended(self) -> int:
        """Return how many needed tasks have ended."""
        return sum(self._counts.snapshot())

    def has_set(self, param_id: str) -> bool:
        """Return whether the shard has the sets with this id."""
        return param_id in self._own

    @property
    def waiting(self) -> int:
        """Return about how many tasks wait for the pool."""
        return sum(one.begun - one.next for _, _, one in self._due)

    def precision(self) -> ShardPrecision:
        """Return the part of the shard in the precision of the job, for its record."""
        added = {name: count - self._first_here[name] for name, count in self._count().items()}
        widest = find_widest(self._precision, self._varying, ((one.one, one.judgement) for one in self._sets))
        return ShardPrecision(self._first, added, widest)

    def lacks(self) -> str | None:
        """Return in words which result no task has left, once enough sets have failed for that, and others are open."""
        for name in sorted(self._wanted):
            is_enough = len(self._lacking[name]) >= ENOUGH_SETS
            if is_enough and any(one.judgement.verdict == MORE for one in self._sets):
                left = f"they left {join_first(sorted(self._left))}" if self._left else "they left no results"
                return f"Ended early: {ENOUGH_SETS} sets failed, since no task has left {name}; {left}"
        return None

    def count_of(self, number: int) -> int:
        """Return how many needed tasks end with a task that the pool has."""
        return sum(1 if deciding is None else len(deciding.one.firsts) for deciding, _ in self._at_work[number])

    def __iter__(self) -> NextTasks:
        """Return the iterator itself."""
        return self

    def __next__(self) -> tuple[int, Task] | None:
        """Return the next task; None if decisions about further ones wait for those at work."""
        for deciding, number in self._following():
            first = self._first_of.get(number, number)
            if number in self._ended:
                continue
            if first in self._ended:
                self._counts.add(**self._counted(deciding, self._ended[first]))
                self._end(deciding, number, self._ended[first])
            else:
                waiting = self._at_work.setdefault(first, [])
                waiting.append((deciding, number))
                if len(waiting) == 1:
                    return first, self.task(first)
        if self._at_work:
            return None
        raise StopIteration

    def note(self, result: TaskResult, *, has_failed: bool) -> None:
        """Take the result of an attempt. The sets that waited for it alone are judged.

        Args:
            result: the result.
            has_failed: whether the attempt failed, also by what it left.
        """
        if not result.is_final:
            return
        scalars = {} if has_failed else self._scalars_of(result.outputs or {})
        if self._wanted:
            self._left.update(scalars)
        self.end(result.task.number, None if has_failed else values_of(self._precision, scalars))

    def _scalars_of(self, outputs: Mapping[str, bytes]) -> Scalars:
        return extract_scalars({name: value for name, value in outputs.items() if searched_output(self._study, name)})

    def target_values(self, outputs: Mapping[str, bytes]) -> list[float | None]:
        """Return the values of the targets in the outputs of a task, in the order of the targets; see `named`."""
        scalars = self._scalars_of(outputs)
        return [finite_number(scalars, target.scalar) for target in self._precision.until]

    def named(self, values: Sequence[object]) -> Values:
        """Return values of the targets, in the order of these, by their names."""
        return dict(zip((target.scalar for target in self._precision.until), values, strict=False))

    def end(self, number: int, values: Values | None) -> None:
        """Take the end of a task that was handed out. The sets that waited for it alone are judged.

        Args:
            number: that of the task.
            values: those of the targets; None if it has failed.
        """
        self._had(values)
        self._ended[number] = values
        for deciding, waiting in self._at_work.pop(number):
            self._end(deciding, waiting, values)

    def _had(self, *tasks: Values | None) -> None:
        for values in tasks:
            self._wanted.difference_update(name for name, value in (values or {}).items() if value is not None)

    def _following(self) -> Iterator[tuple[_Deciding | None, int]]:
        """Yield the needed tasks that were not yielded before, each with its set; None for one that names its seed."""
        yield from ((None, number) for number in self._named)
        while self._due:
            look, _, deciding = self._due[0]
            if look != deciding.judgement.needed or deciding.next == look:  # the rest of its tasks was complete
                heapq.heappop(self._due)
                continue
            number = deciding.one.firsts[0] + deciding.next
            deciding.next += 1
            yield deciding, number

    def _end(self, deciding: _Deciding | None, number: int, values: Values | None) -> None:
        self._ended[number] = values
        if deciding is None:
            return
        deciding.waits -= 1
        if values is None:
            deciding.judgement = deciding.judgement._replace(verdict=FAILED)
        if not deciding.waits:
            self._go_on(deciding)

    def _go_on(self, deciding: _Deciding) -> None:
        """Judge a set whose replicates up to its look have ended, and make those up to the next look due."""
        deciding.judgement = self._judge(self._ended, deciding.one)
        if deciding.judgement.lacks is not None:
            self._lacking[deciding.judgement.lacks].add(deciding.place)
        begun, needed = deciding.begun, max(deciding.begun, deciding.judgement.needed)
        deciding.judgement = deciding.judgement._replace(needed=needed)  # less only if outputs are not the same again
        deciding.begun = deciding.next = needed
        for number in range(deciding.one.firsts[0] + begun, deciding.one.firsts[0] + needed):
            if number in self._ended:
                self._counts.add(**self._counted(deciding, self._ended[number]))
            else:
                deciding.waits += 1
        if deciding.waits:
            deciding.next = begun
            heapq.heappush(self._due, (needed, deciding.place, deciding))
        elif needed > begun:
            self._go_on(deciding)

    def _judge(self, values: dict[int, Values | None], one: AdaptiveSet) -> Judgement:
        return judge_set(self._precision, one.firsts[0], values)

    def _counted(self, deciding: _Deciding | None, values: Values | None) -> dict[str, int]:
        return {"failed" if values is None else "completed": 1 if deciding is None else len(deciding.one.firsts)}

    def _count(self) -> dict[str, int]:
        """Count the sets of the shard, without tasks that name their seeds: no decision changes these."""
        return tally(self._precision, [(one.judgement, len(one.one.firsts)) for one in self._sets])

    def task(self, number: int) -> Task:
        """Return a task of the job, by its number."""
        place = bisect_right(self._firsts, number) - 1
        one = self._study.parameter_sets[place]
        return Task(number, one.param_id, self._study.seed_of(one, number - self._firsts[place]), one.params)

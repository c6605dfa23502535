"""Adaptive studies: which of their tasks are needed, as the outputs tell.

A study whose precision decides the number of replicates has its tasks numbered as if each set had as many as it may
have. A task is needed if the decisions so far ask for its replicate. They are made of the outputs alone, and the store
has none of them: so runners, restarts, validation and views come to the same ones.
See docs/decisions/0119-precision-instead-of-a-count.md.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from mopsjobs.ledger.scalars import Scalars, may_have_scalars
from mopsjobs.registry.precision_counts import WIDEST
from mopsjobs.studies.precision import FAILED, MAX, MORE, Judgement, Precision, judge, lacks_text, tally
from mopsjobs.studies.study import ParameterSet, Study, Varying, find_varying, set_name
from mopsjobs.utils.scalar_keys import scalar_called

MOST_RATIO = 1e6
"""JSON has no infinity."""

Values = Mapping[str, object]
"""The values of a task by the names of the targets; None for one that it lacks."""


class AdaptiveSet(NamedTuple):
    """The parameter sets of one id without seeds. They have the same tasks, so they are decided together."""

    param_id: str
    params: Mapping[str, object]
    firsts: tuple[int, ...]
    """The number of the first task of each."""


def adaptive_sets(study: Study) -> Iterator[AdaptiveSet]:
    """Yield the sets whose replicates are decided, in the order of the study."""
    for param_id, sets in study.sets_by_id().items():
        if firsts := tuple(first for first, one in sets if one.seed is None):
            yield AdaptiveSet(param_id, sets[0][1].params, firsts)


def named_tasks(study: Study) -> Iterator[tuple[int, ParameterSet]]:
    """Yield the tasks whose sets name a seed, by their numbers. They are always needed."""
    for sets in study.sets_by_id().values():
        yield from ((first, one) for first, one in sets if one.seed is not None)


def searched_output(study: Study, name: str) -> bool:
    """Return whether values of targets may be in an output of this name."""
    return may_have_scalars(name) and study.keeps_output(name)


def values_of(precision: Precision | None, scalars: Scalars) -> Values:
    """Return the values of the targets of a study among the scalars of a task."""
    names = () if precision is None else [target.scalar for target in precision.until]
    return {name: scalar_called(scalars, name) for name in names}


def judge_set(precision: Precision, first: int, values: Mapping[int, Values | None]) -> Judgement:
    """Judge a set by the values of its tasks, up to the first that has none.

    A runner that was killed may have left outputs of a later look, and not all of an earlier one. They tell that it had
    decided to go on, so all up to the later look are needed.

    Args:
        precision: that of the study.
        first: the number of its first task.
        values: by the numbers of tasks; None for one that failed.
    """
    ended = [replicate for replicate in range(precision.max) if first + replicate in values] if values else []
    prefix = [values[first + replicate] for place, replicate in enumerate(ended) if replicate == place]
    judgement = judge(precision, prefix)
    if judgement.verdict == MORE and ended:
        needed = max(judgement.needed, precision.next_look(ended[-1]))
        has_failed = any(values[first + replicate] is None for replicate in ended)
        judgement = judgement._replace(verdict=FAILED if has_failed else MORE, needed=needed)
    return judgement


def judge_sets(study: Study, values: Mapping[int, Values | None]) -> dict[str, Judgement]:
    """Judge the sets of an adaptive study, by their ids; see `judge_set`."""
    precision = study.precision
    assert precision is not None  # noqa: S101 - it is adaptive
    return {one.param_id: judge_set(precision, one.firsts[0], values) for one in adaptive_sets(study)}


def needed_tasks(study: Study, judgements: Mapping[str, Judgement], *, or_open: bool = False) -> bytearray:
    """Return which tasks of an adaptive study are needed, one byte per task.

    Args:
        study: the study.
        judgements: of its sets, by their ids.
        or_open: whether all tasks of a set that is not decided count.
    """
    needed = bytearray(study.tasks_total)
    for one in adaptive_sets(study):
        judgement = judgements[one.param_id]
        count = study.max_replicates if or_open and judgement.verdict == MORE else judgement.needed
        for first in one.firsts:
            needed[first : first + count] = b"\1" * count
    for number, _ in named_tasks(study):
        needed[number] = 1
    return needed


def reusable_tasks(study: Study, values: Mapping[int, Values | None]) -> bytearray:
    """Return the tasks of an adaptive study that are worth reusing, one byte per task.

    Those of a set that is not decided may all be needed yet.

    Args:
        study: the study.
        values: of the tasks that others have done, by their numbers.
    """
    return needed_tasks(study, judge_sets(study, values), or_open=True)


def find_widest(
    precision: Precision, varying: Varying, judged: Iterable[tuple[AdaptiveSet, Judgement]]
) -> tuple[float, str] | None:
    """Return how many times too wide the widest interval of sets is that are not precise, and its set in words.

    None if there is none. For example `(1.6, "r0=2.1 (peak ± 8.1 %, goal 5 %)")`.

    Args:
        precision: that of the study.
        varying: the differences between its sets.
        judged: its sets.
    """
    wide = [(judgement, one) for one, judgement in judged if judgement.verdict in (MORE, MAX) and judgement.n]
    if not wide:
        return None
    judgement, one = max(wide, key=lambda pair: pair[0].ratio)
    target = max(precision.until, key=lambda target: target.ratio(judgement.intervals[target.scalar]))
    name = set_name(one.params, varying)
    return min(judgement.ratio, MOST_RATIO), f"{name} ({target.text(judgement.intervals[target.scalar])})"


def count_sets(study: Study, judgements: Mapping[str, Judgement], failed: Collection[int] = ()) -> dict[str, int]:
    """Return what a record says of the precision of a job; see `precision.tally`.

    Args:
        study: an adaptive study.
        judgements: of its sets.
        failed: numbers of tasks without outputs that were tried. Their sets have failed.
    """
    precision = study.precision
    assert precision is not None  # noqa: S101 - it is adaptive
    counts = tally(precision, ((judgement, len(one.firsts)) for one, judgement in _ended(study, judgements, failed)))
    named = sum(1 for _ in named_tasks(study))
    return counts | {name: counts[name] + named for name in ("needed", "at_most")}


def _ended(
    study: Study, judgements: Mapping[str, Judgement], failed: Collection[int]
) -> Iterator[tuple[AdaptiveSet, Judgement]]:
    """Yield the sets with their verdicts. Takes arguments as `count_sets` does."""
    ascending = sorted(failed)
    for one in adaptive_sets(study):
        first, judgement = one.firsts[0], judgements[one.param_id]
        end = first + judgement.needed
        if judgement.verdict == MORE and bisect_left(ascending, first) < bisect_left(ascending, end):
            judgement = judgement._replace(verdict=FAILED)
        yield one, judgement


def precision_record(
    study: Study, judgements: Mapping[str, Judgement], failed: Collection[int] = ()
) -> dict[str, object]:
    """Return what the record of a job that has ended says of its precision. Takes arguments as `count_sets` does."""
    counts, ended = count_sets(study, judgements, failed), list(_ended(study, judgements, failed))
    assert study.precision is not None  # noqa: S101 - it is adaptive
    varying = find_varying(study)
    widest = find_widest(study.precision, varying, ended)
    text = widest and widest[1]
    if counts["precise"] + counts["failed"] == counts["sets"]:
        lacking = (
            f"{set_name(one.params, varying)} ({lacks_text(judgement.lacks)})"
            for one, judgement in ended
            if judgement.lacks is not None
        )
        text = next(lacking, None)
    return {**counts, WIDEST: text}

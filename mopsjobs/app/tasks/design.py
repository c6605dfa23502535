"""Design the next tasks of a study, ready for `submit --extend`: further parameter sets, or more replicates.

**Further sets** settle the regions that `failures` suspects: see `studies.further_sets`.

**Replicates** make intervals of means as narrow as asked. It takes the least n with `t * sd / sqrt(n) <= width`. There,
`sd` is the spread of a set so far, and t is Student's for n - 1 degrees of freedom. The study asks for the precision
itself, so that the runner decides set by set. Its `min` is the present number of replicates. Its `max` is `MARGIN`
times the largest n, since spreads of few replicates are uncertain, and looking often costs some more.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import FreshnessPolicy
from mopsjobs.app.tasks.failures import Failures, further_sets
from mopsjobs.app.tasks.result_sets import ResultSets, read_result_sets
from mopsjobs.app.tasks.results_table import find_results
from mopsjobs.errors import UsageError
from mopsjobs.studies.manifest import load_manifest
from mopsjobs.studies.precision import Precision, Target
from mopsjobs.studies.study import ParameterSet, param_id
from mopsjobs.utils.intervals import student_t
from mopsjobs.utils.text import join_first, pluralize

MARGIN = 2
"""How many times what would do, if what is seen so far were sure."""

MAX_REPLICATES = 10_000
"""That a study asks for at most."""

_WIDTH = re.compile(r"(\d{1,15}(?:\.\d{1,15})?(?:e-?\d{1,2})?)(%?)", re.ASCII)


class Design(NamedTuple):
    """A study with the next tasks."""

    job_id: str
    """The job that it extends."""
    document: dict[str, Any]
    """The study, as its file has it."""
    notes: list[str]
    """The rule and what it comes to, as sentences."""


def parse_target(text: str) -> Target:
    """Return the target that a text stands for: `peak=5%` of the mean, or `peak=0.3` in its unit.

    Raises:
        UsageError: if it is neither.
    """
    name, _, width = text.rpartition("=")
    match = _WIDTH.fullmatch(width)
    value = 0.0 if match is None else float(match[1])
    if not name or match is None or not value:
        raise UsageError(f"invalid --within '{text}': expected SCALAR=WIDTH or SCALAR=P%, like peak=0.3 or peak=5%.")
    return Target(name, relative=value / 100) if match[2] else Target(name, absolute=value)


def design_regions(failures: Failures, app: App) -> Design:
    """Return the study of a job with the further sets that would settle what is suspected of its failed tasks.

    A further set has as many tasks as the first set of the study, with the same seeds if the study names them.

    Raises:
        UsageError: if nothing is suspected.
        StoreError: if the study cannot be read.
    """
    [job_id] = failures.by_job
    further = further_sets(failures, job_id)
    if not further:
        raise UsageError(f"No design: no condition is suspected of the failed tasks of {job_id}.")
    study = load_manifest(app.store, job_id).study
    first = study.parameter_sets[0].param_id
    seeds = [one.seed for one in study.parameter_sets if one.param_id == first]
    sets = [ParameterSet(param_id(params), params, seed) for params in further for seed in seeds]
    designed = dataclasses.replace(study, parameter_sets=(*study.parameter_sets, *sets))
    count = pluralize(designed.tasks_total - study.tasks_total, "task")
    near = join_first(list(dict.fromkeys(one["condition"] for group in failures.groups for one in group.suspected)))
    rule = f"{MARGIN} times the least number that would prove it at the rates seen so far"
    note = f"{pluralize(len(further), 'further parameter set')} ({count}), inside and beside {near}: {rule}."
    return Design(job_id, designed.to_dict(), [note])


def design_replicates(name: str, targets: Sequence[Target], app: App, policy: FreshnessPolicy) -> Design:
    """Return the study of a job, with as many replicates per set as intervals of the asked width take.

    Args:
        name: the job, as `find_job` takes it.
        targets: the scalars, and the half-widths of the 95 % intervals of their means.
        app: the run.
        policy: how fresh the results have to be.

    Raises:
        UsageError: if the study names its seeds, or a scalar has another name.
        JobNotFoundError: if the job does not exist.
        StoreError: if the study or results cannot be read.
    """
    families = find_results([name], app, policy)
    study = load_manifest(app.store, families[0][0].job_id).study
    if any(one.seed is not None for one in study.parameter_sets):
        raise UsageError("No design: the study names its seeds, so a parameter set has no further replicates.")
    needed, done = read_result_sets(
        families, app, lambda sets: (_count_needed(sets, targets), sets.totals().done), policy
    )
    least = study.n_replicates.min if isinstance(study.n_replicates, Precision) else max(2, study.n_replicates)
    most = max([least, *(MARGIN * count for count in needed if count is not None)])
    most = min(_round_up(most), max(MAX_REPLICATES, least))
    designed = dataclasses.replace(study, n_replicates=Precision(least, most, tuple(targets)))
    tasks = sum(least if count is None else min(max(least, count), most) for count in needed)
    open_sets = sum(count is not None and count > least for count in needed)
    job_id = families[0][0].job_id
    sets = f"{open_sets:,} of {pluralize(len(needed), 'set')} need more than {pluralize(least, 'replicate')}"
    notes = [
        f"{sets}, by their spread so far: n = (t sd / width)^2. The study has at most {most:,}.",
        f"About {tasks:,} tasks in all, of which {done:,} are done.",
    ]
    if unknown := sum(count is None for count in needed):
        notes.append(f"{pluralize(unknown, 'set')} of these have no spread so far, or no mean to be relative to.")
    return Design(job_id, designed.to_dict(), notes)


def replicates_for(mean: float, sd: float, target: Target) -> int | None:
    """Return the least number of replicates whose interval is as narrow as a target asks.

    None if no number is, since the width is relative to a mean of 0. `MAX_REPLICATES` if it takes more.
    """
    width = target.absolute if target.absolute is not None else (target.relative or 0.0) * abs(mean)
    if not sd:
        return 2
    if not width:
        return None
    low, high = 1, MAX_REPLICATES
    while high - low > 1:
        middle = (low + high) // 2
        is_enough = student_t(middle - 1) * sd / math.sqrt(middle) <= width
        low, high = (low, middle) if is_enough else (middle, high)
    return high


def _count_needed(sets: ResultSets, targets: Sequence[Target]) -> list[int | None]:
    """Return the replicates that each set needs for all targets; None if that is not known."""
    names = [column.name for column in sets.columns]
    scalars = [sets.find_scalar(target.scalar).name for target in targets]
    places = [[names.index(sets.column_of(scalar, what)) for what in ("mean", "sd")] for scalar in scalars]
    needed: list[int | None] = []
    for row in sets.rows():
        counts = []
        for target, (mean, sd) in zip(targets, places, strict=True):
            known = isinstance(row[mean], float | int) and isinstance(row[sd], float | int)
            counts.append(replicates_for(row[mean], row[sd], target) if known else None)  # type: ignore[arg-type]
        needed.append(None if None in counts else max(count for count in counts if count is not None))
    return needed


def _round_up(count: int) -> int:
    """Return a number of at most two significant digits that is not smaller."""
    unit = int("1" + "0" * max(0, len(str(count)) - 2))
    return -(-count // unit) * unit

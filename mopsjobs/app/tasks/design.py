"""Design the next tasks of a study, ready for `submit --extend`: further parameter sets, or more replicates.

**Further sets** settle the regions that `failures` suspects: see `studies.separating`.

**Replicates** make intervals of means as narrow as asked. It takes the least n with `t * sd / sqrt(n) <= width`. There,
`sd` is the spread of a set so far, and t is Student's for n - 1 degrees of freedom. The study asks for the precision
itself, so that the runner decides set by set. Its `min` is the present number of replicates, and its `max` is `MOST`
times the largest n. For the true spread may be three times that of four values, and n grows with its square.
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
from mopsjobs.studies.separating import MARGIN as FURTHER_MARGIN
from mopsjobs.studies.study import ParameterSet, param_id
from mopsjobs.utils.intervals import student_t
from mopsjobs.utils.text import join_first, pluralize

MOST = 10

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
    if not name or match is None or not value or (match[2] and value >= 100):
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
        problem = f"No design: no condition is suspected of the failed tasks of {job_id}."
        raise UsageError(problem, hint="Name a width for more replicates: --within SCALAR=P%")
    study = load_manifest(app.store, job_id).study
    first = study.parameter_sets[0].param_id
    seeds = [one.seed for one in study.parameter_sets if one.param_id == first]
    sets = [ParameterSet(param_id(params), params, seed) for params in further for seed in seeds]
    designed = dataclasses.replace(study, parameter_sets=(*study.parameter_sets, *sets))
    count = pluralize(designed.tasks_total - study.tasks_total, "task")
    near = join_first(list(dict.fromkeys(one["condition"] for group in failures.groups for one in group.suspected)))
    rule = f"{FURTHER_MARGIN} times the least number that would prove it at the rates seen so far"
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
        UsageError: if the study names its seeds, or lists too few, or a scalar has another name.
        JobNotFoundError: if the job does not exist.
        StoreError: if the study or results cannot be read.
    """
    families = find_results([name], app, policy)
    study = load_manifest(app.store, families[0][0].job_id).study
    if any(one.seed is not None for one in study.parameter_sets):
        raise UsageError("No design: the study names its seeds, so a parameter set has no further replicates.")
    sets = read_result_sets(families, app, lambda sets: _count_needed(sets, targets), policy)
    least = study.n_replicates.min if isinstance(study.n_replicates, Precision) else max(2, study.n_replicates)
    known = [need for need, _ in sets if need is not None]
    if not known:
        raise UsageError("No design: no parameter set has two values, so their spread is not known.")
    most = max(min(MOST * max(known), MAX_REPLICATES), study.max_replicates, least)
    if isinstance(study.seeds, tuple) and len(study.seeds) < most:
        problem = f"No design: up to {most:,} replicates need a seed each, and the study lists {len(study.seeds):,}."
        raise UsageError(problem, hint="Add seeds at the end of its list: tasks with the first ones can be reused.")
    designed = dataclasses.replace(study, n_replicates=Precision(least, most, tuple(targets)))
    tasks, done = sum(max(least, ended, need or 0) for need, ended in sets), sum(ended for _, ended in sets)
    open_sets = sum(need > least for need in known)
    job_id = families[0][0].job_id
    more = f"{open_sets:,} of {pluralize(len(sets), 'set')} need more than {pluralize(least, 'replicate')}"
    notes = [
        f"{more}, by their spread so far: n = (t sd / width)^2. The study has at most {most:,}.",
        f"About {tasks:,} tasks in all, of which {done:,} are done.",
    ]
    if len(known) < len(sets):
        unknown = pluralize(len(sets) - len(known), "set")
        notes.append(f"{unknown}: no spread is known so far, or the mean is 0 and the width relative to it.")
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


def _count_needed(sets: ResultSets, targets: Sequence[Target]) -> list[tuple[int | None, int]]:
    """Return the replicates that each set needs for all targets by their spreads so far, and how many are done.

    The first is None if it is not known.
    """
    names = [column.name for column in sets.columns]
    scalars = [sets.find_scalar(target.scalar).name for target in targets]
    places = [[names.index(sets.column_of(scalar, what)) for what in ("mean", "sd")] for scalar in scalars]
    needed: list[tuple[int | None, int]] = []
    for row in sets.rows():
        values: list[list[Any]] = [[row[place] for place in columns] for columns in places]
        counts = [
            None if sd is None else replicates_for(mean, sd, target)
            for target, (mean, sd) in zip(targets, values, strict=True)
        ]
        known = [count for count in counts if count is not None]
        done = int(str(row[names.index("done")]))
        needed.append((max(known) if len(known) == len(counts) else None, done))
    return needed

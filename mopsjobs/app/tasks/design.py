"""Design the next tasks of a study, ready for `submit --extend`: further parameter sets, or more replicates.

**Further sets** settle the regions that `failures` suspects: see `studies.further_sets`.

**Replicates** make intervals of means as narrow as asked. It takes the least n with `t * sd / sqrt(n) <= width`. There,
`sd` is the spread of a set so far, and t is Student's for n - 1 degrees of freedom. The study asks for the precision
itself, so that the runner decides set by set. Its `min` is the present number of replicates. Its `max` is `MARGIN`
times the largest n, with the upper 95 % limit of the spread of its set.
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
from mopsjobs.utils.intervals import normal_quantile, student_t
from mopsjobs.utils.text import join_first, pluralize

MARGIN = 2
"""How many times the least number. A condition looks better than it is, and looking often takes more replicates."""

LIMIT = 0.9
"""Of the two-sided interval of a spread, whose upper end it exceeds in 5 % of cases."""

LIMIT_OF_TWO = 15.95
"""How many times as large as that of two values their spread may be: the limit of `spread_limit`, exactly."""

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
        UsageError: if the study names its seeds, or lists too few, or a scalar has another name.
        JobNotFoundError: if the job does not exist.
        StoreError: if the study or results cannot be read.
    """
    families = find_results([name], app, policy)
    study = load_manifest(app.store, families[0][0].job_id).study
    if any(one.seed is not None for one in study.parameter_sets):
        raise UsageError("No design: the study names its seeds, so a parameter set has no further replicates.")
    needed, done = read_result_sets(
        families, app, lambda sets: (_count_needed(sets, targets), _count_done(sets)), policy
    )
    least = study.n_replicates.min if isinstance(study.n_replicates, Precision) else max(2, study.n_replicates)
    known = [need for need in needed if need is not None]
    if not known:
        raise UsageError("No design: no parameter set has two values, so their spread is not known.")
    most = min(_round_up(MARGIN * max(need.at_most for need in known)), MAX_REPLICATES)
    most = max(most, study.max_replicates, least)
    if isinstance(study.seeds, tuple) and len(study.seeds) < most:
        problem = f"No design: up to {most:,} replicates need a seed each, and the study lists {len(study.seeds):,}."
        raise UsageError(problem, hint="Add seeds at the end of its list: tasks with the first ones can be reused.")
    designed = dataclasses.replace(study, n_replicates=Precision(least, most, tuple(targets)))
    tasks = sum(
        max(least, ended, 0 if need is None else need.expected) for need, ended in zip(needed, done, strict=True)
    )
    open_sets = sum(need.expected > least for need in known)
    job_id = families[0][0].job_id
    sets = f"{open_sets:,} of {pluralize(len(needed), 'set')} need more than {pluralize(least, 'replicate')}"
    notes = [
        f"{sets}, by their spread so far: n = (t sd / width)^2. The study has at most {most:,}.",
        f"About {tasks:,} tasks in all, of which {sum(done):,} are done.",
    ]
    if len(known) < len(needed):
        unknown = pluralize(len(needed) - len(known), "set")
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


class _Need(NamedTuple):
    """The replicates that a set needs."""

    expected: int
    """By its spread so far."""
    at_most: int
    """By the upper limit of that."""


def _count_needed(sets: ResultSets, targets: Sequence[Target]) -> list[_Need | None]:
    """Return the replicates that each set needs for all targets; None if that is not known."""
    names = [column.name for column in sets.columns]
    scalars = [sets.find_scalar(target.scalar).name for target in targets]
    places = [[names.index(sets.column_of(scalar, what)) for what in ("n", "mean", "sd")] for scalar in scalars]
    needed: list[_Need | None] = []
    for row in sets.rows():
        values: list[list[Any]] = [[row[place] for place in columns] for columns in places]
        pairs = [
            [None if sd is None else replicates_for(mean, factor * sd, target) for factor in (1.0, spread_limit(n))]
            for target, (n, mean, sd) in zip(targets, values, strict=True)
        ]
        counts = [[count for count in column if count is not None] for column in zip(*pairs, strict=True)]
        is_known = all(len(column) == len(targets) for column in counts)
        needed.append(_Need(*map(max, counts)) if is_known else None)
    return needed


def _count_done(sets: ResultSets) -> list[int]:
    """Return how many tasks of each set are done."""
    place = [column.name for column in sets.columns].index("done")
    return [int(str(row[place])) for row in sets.rows()]


def spread_limit(n: int) -> float:
    """Return how many times as large as that of a sample the spread may be: the upper 95 % limit, for a normal sample.

    By the expansion of the quantiles of chi-squared by Wilson and Hilferty (PNAS 17, 1931). That fails for two values.
    """
    if n <= 2:
        return LIMIT_OF_TWO
    part = 2 / (9 * (n - 1))
    return math.pow(1 - part - normal_quantile(LIMIT) * math.sqrt(part), -1.5)


def _round_up(count: int) -> int:
    """Return a number of at most two significant digits that is not smaller."""
    unit = int("1" + "0" * max(0, len(str(count)) - 2))
    return -(-count // unit) * unit

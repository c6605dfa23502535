"""Which parameters go with the lowest or the highest values of a scalar, by the test of `studies.separating`.

The unit is a parameter set again. All sets count with the mean of the same number of values, their first m: a mean of
fewer would be likelier to be extreme. In an adaptive study, all values of a set count: it has as many as make means
about as precise. The extreme sets take the place of those that failed.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mopsjobs.app.run.app import App
from mopsjobs.app.tasks.result_sets import ResultSets
from mopsjobs.app.tasks.results_table import SUCCEEDED
from mopsjobs.cache.queries.task_filters import WAITING
from mopsjobs.ledger.attempt import FAILED_OUTCOMES
from mopsjobs.studies.conditions import is_number
from mopsjobs.studies.separating import Finding, Separation, SetOutcomes, exposure
from mopsjobs.utils.text import pluralize

SCHEMA_VERSION = 1


class Explained(NamedTuple):
    """The lowest or the highest parameter sets of some jobs by a scalar, and what separates them from the others."""

    jobs: list[str]
    """The newest job of each family."""
    scalar: str
    """The name of its column."""
    highest: bool
    found: Explanation
    left_out: dict[str, int]
    """Tasks that count for no set: `failed`, `missing`, `waiting`, and `not_finite`, which have no such number."""
    age: str
    is_complete: bool
    """Whether no values of tasks that succeeded are lacking."""

    def to_json(self, app: App) -> dict[str, Any]:
        """Return the document of `results --explain --json`."""
        return {
            **app.document_head(SCHEMA_VERSION, {"data": self.age}),
            "jobs": self.jobs,
            "complete": self.is_complete,
            "scalar": self.scalar,
            "end": self.end,
            "sets": self.found.sets,
            "replicates": self.found.values,
            "extreme": self.found.extreme,
            "bound": self.found.bound,
            "left_out": {**self.left_out, "sets_with_too_few": self.found.too_few, "parameters": self.found.left_out},
            "could_tell": self.found.could_tell,
            "separates": [_to_json(one) for one in self.found.findings],
        }

    @property
    def end(self) -> str:
        """Return which values are explained: `lowest` or `highest`."""
        return "highest" if self.highest else "lowest"

    def lines(self) -> list[str]:
        """Return it as sentences: what is compared, and the conditions; or that no parameter explains it."""
        found = self.found
        if found.bound is None:
            return [f"No task has a number as {self.scalar}."]
        if found.extreme == found.sets:
            return [f"{_sets(found.sets)}, and no two differ in {self.scalar}: {found.bound:.6g}."]
        which = f"the {self.end} {found.extreme:,} of {_sets(found.sets)}"
        replicates = f"{found.values:,}" + (f" to {found.most:,}" if found.most > found.values else "")
        mean = f" as the mean of {replicates} replicates" if found.most > 1 else ""
        bound = f"{self.scalar} {'>=' if self.highest else '<='} {found.bound:.6g}{mean}"
        if not found.could_tell:
            few = f"{_sets(found.sets)} {'is' if found.sets == 1 else 'are'} too few to explain"
            return [f"{few} the {self.end} {found.extreme:,} ({bound}): chance would do as well."]
        if not found.findings:
            return [f"No parameter explains {which} ({bound}): chance is not ruled out."]
        return [
            f"{which[:1].upper()}{which[1:]} have {bound}.",
            *(f"  {describe_finding(_to_json(one))}" for one in found.findings),
        ]

    def notes(self) -> list[str]:
        """Return what is left out, as a sentence; nothing if that is nothing."""
        parts = [
            pluralize(count, f"{how} task") for how in ("failed", "missing", "waiting") if (count := self.left_out[how])
        ]
        if count := self.left_out["not_finite"]:
            parts.append(f"{pluralize(count, 'task')} without a finite {self.scalar}")
        if self.found.too_few:
            lacks = "without a value" if self.found.values <= 1 else f"with fewer than {self.found.values:,} values"
            parts.append(f"{_sets(self.found.too_few)} {lacks}")
        if self.found.beyond:
            parts.append(f"{pluralize(self.found.beyond, 'value')} beyond the first {self.found.values:,} of a set")
        if self.found.left_out:
            parts.append(f"{pluralize(self.found.left_out, 'parameter')}, since there are too many")
        return [f"Left out: {', '.join(parts)}."] if parts else []


def describe_finding(one: Mapping[str, Any]) -> str:
    """Return a condition as a sentence: `all 40 have beta > 0.9; no other set has`."""
    extreme = round(one["sets"] / one["support"])
    held = f"all {extreme:,}" if one["sets"] == extreme else f"{one['sets']:,} of them"
    others = f"{pluralize(one['others'], 'other set')} too" if one["others"] else "no other set has"
    return f"{held} have {one['condition']}; {others}"


def explain_scalar(table: ResultSets, name: str) -> Explained:
    """Return what separates the parameter sets with the lowest values of a scalar from the others.

    Each simulation counts once. Jobs of several families are compared as one: sets of the same parameters are one set.

    Args:
        table: the parameter sets and their tasks.
        name: the scalar, with `-` in front for the highest values.

    Raises:
        UsageError: if no number has this name.
    """
    scalar = table.find_scalar(name.removeprefix("-"))
    parameters = [parameter for parameter, _ in table.parameters]
    sets: dict[str, SetValues] = {}
    left_out = Counter(failed=0, missing=0, waiting=0, not_finite=0)
    for param_id, params, status, value in table.values_of(scalar):
        if status != SUCCEEDED:
            left_out["failed" if status in FAILED_OUTCOMES else WAITING if status == WAITING else "missing"] += 1
        elif not isinstance(value, (int, float)) or not math.isfinite(value):
            left_out["not_finite"] += 1
        else:
            if (known := sets.get(param_id)) is None:
                found = zip(parameters, json.loads(params), strict=True)
                known = sets[param_id] = SetValues({key: one for key, one in found if one is not None}, [])
            known.values.append(float(value))
    is_adaptive = table.targets is not None
    explanation = explain_extremes(list(sets.values()), highest=name.startswith("-"), is_adaptive=is_adaptive)
    return Explained(
        table.job_ids, scalar.name, name.startswith("-"), explanation, dict(left_out), table.age, not table.is_partial
    )


def _sets(count: int) -> str:
    return pluralize(count, "parameter set")


def _to_json(finding: Finding) -> dict[str, Any]:
    return {
        "condition": str(finding.condition),
        "sets": finding.failed,
        "others": finding.passed,
        "support": round(finding.support, 9),
        "lift": round(finding.lift, 4),
    }


EXTREME_SHARE = 0.05
"""The part of the sets that is explained."""

MIN_EXTREME = 10
"""Sets that are explained at least, or a quarter of all: chance explains what fewer have in common."""

ENOUGH_SETS = 4 * MIN_EXTREME
"""Sets of which a condition can be told from chance, however many parameters there are."""

_EXTREME = "extreme"


class SetValues(NamedTuple):
    """The values of a scalar in one parameter set. No two have the same parameters."""

    params: Mapping[str, Any]
    values: list[float]
    """Finite, in the order of the tasks."""


class Explanation(NamedTuple):
    """The extreme sets, and what separates them from the others. The findings count sets, not tasks."""

    sets: int
    """Sets that were compared."""
    values: int
    """Values of each of them; in an adaptive study, the least number."""
    extreme: int
    """The lowest or highest of them, with all that have the same mean as the last of these."""
    bound: float | None
    """The mean of the last of these; None without sets."""
    too_few: int
    """Sets that have values, and fewer than the others."""
    findings: list[Finding]
    """Empty if chance explains the extreme sets as well."""
    left_out: int
    """Parameters that were not compared, since there are too many."""
    most: int = 0
    """Values of the set that has the most of those that count."""
    beyond: int = 0
    """Values that do not count, since other sets have fewer."""
    could_tell: bool = True
    """Whether a number that separates this count of sets from all others could be told from chance."""


def explain_extremes(sets: Sequence[SetValues], *, highest: bool, is_adaptive: bool = False) -> Explanation:
    """Return what separates the sets with the lowest means from the others, or those with the highest."""
    values = exposure([len(one.values) for one in sets])
    compared = [one for one in sets if 0 < values <= len(one.values)]
    too_few = sum(0 < len(one.values) < values for one in sets)
    if not compared:
        return Explanation(0, values, 0, None, too_few, [], 0)
    counted = [one.values if is_adaptive else one.values[:values] for one in compared]
    means = [math.fsum(value / len(found) for value in found) for found in counted]
    ordered = sorted(means, reverse=highest)
    least = min(MIN_EXTREME, len(means) // 4)
    bound = ordered[max(math.ceil(EXTREME_SHARE * len(means)), least) - 1]
    is_extreme = [mean >= bound if highest else mean <= bound for mean in means]
    params, extreme = [one.params for one in compared], sum(is_extreme)
    separation = _separation(params, is_extreme)
    findings = separation.findings(_EXTREME)
    most = max(map(len, counted))
    beyond = sum(len(one.values) for one in compared) - sum(map(len, counted))
    could_tell = bool(findings) or len(means) >= ENOUGH_SETS or _could_tell(params, extreme)
    return Explanation(
        len(means), values, extreme, bound, too_few, findings, separation.left_out, most, beyond, could_tell
    )


def _separation(params: Sequence[Mapping[str, Any]], is_extreme: Sequence[bool]) -> Separation:
    pairs = zip(params, is_extreme, strict=True)
    return Separation([SetOutcomes(one, [_EXTREME if flag else None]) for one, flag in pairs], [_EXTREME])


def _could_tell(params: Sequence[Mapping[str, Any]], extreme: int) -> bool:
    """Return whether a condition would be found if the sets with the lowest values of a parameter were the extreme.

    True if no number varies.
    """
    are_numbers = False
    for name in dict.fromkeys(name for one in params for name in one):
        values = [one.get(name) for one in params]
        if all(map(is_number, values)) and len(set(values)) > 1:
            are_numbers = True
            bound = sorted(values)[extreme - 1]  # type: ignore[type-var]
            if _separation(params, [value <= bound for value in values]).findings(_EXTREME):  # type: ignore[operator]
                return True
    return not are_numbers

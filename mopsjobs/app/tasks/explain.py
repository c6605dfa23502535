"""Which parameters go with the lowest or the highest values of a scalar: read the tasks of jobs, and describe it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from mopsjobs.app.run.app import App
from mopsjobs.app.tasks.result_sets import ResultSets
from mopsjobs.app.tasks.results_table import SUCCEEDED
from mopsjobs.cache.queries.task_filters import WAITING
from mopsjobs.ledger.attempt import FAILED_OUTCOMES
from mopsjobs.studies.explaining import Explanation, SetValues, explain_extremes
from mopsjobs.studies.separating import Finding
from mopsjobs.utils.text import pluralize
from mopsjobs.utils.times import json_time

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
            "schema_version": SCHEMA_VERSION,
            "generated_at": json_time(app.now()),
            "data": self.age,
            "registry": app.settings.registry_id,
            "registry_from": app.settings.registry.origin,
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

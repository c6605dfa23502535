"""Contrasts: by how much results differ between two values of a parameter, or between two jobs.

Parameter sets are paired by all other parameters, and their replicates by seed where both sides have the same seeds.
See `studies.seeds` for studies whose seeds are common.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from mopsjobs.app.jobs.job_tasks import JobTasks
from mopsjobs.app.run.app import App
from mopsjobs.app.tasks.result_sets import ResultSets
from mopsjobs.app.tasks.results_table import SUCCEEDED
from mopsjobs.cache.queries.task_filters import WAITING
from mopsjobs.errors import UsageError
from mopsjobs.ledger.attempt import FAILED_OUTCOMES
from mopsjobs.registry.notes import metadata_of
from mopsjobs.utils.intervals import Difference, difference_of, mean_difference, mean_text
from mopsjobs.utils.table_files import Column, free_name
from mopsjobs.utils.text import cut_to_length, did_you_mean, join_first, pluralize

K = TypeVar("K", bound=Hashable)

CONTRASTS_VERSION = 1
"""The `schema_version` of `results --contrast --json`."""

OF_JOBS = "job"
"""The name of a contrast between two jobs."""

OF_STUDIES = "scenario"
"""The name of a contrast between jobs whose studies have these scenarios."""

STATISTICS = (
    ("n_first", "integer"), ("n_second", "integer"), ("first", "number"), ("second", "number"),
    ("difference", "number"), ("half_width", "number"), ("variance_ratio", "number"),
)  # fmt: skip
"""Columns of each scalar, after its name and a dot: fields of `Difference`."""

MAX_VALUE = 40
"""Characters of a parameter in a table for people."""

SEEDS, NOTHING = "seeds", "none"
"""What the replicates of a pair of sets are paired by."""

Replicates = Mapping[int, Sequence[float | None] | str]
"""The tasks of a parameter set by seed: their scalars, or how they ended."""


class ContrastChoice(NamedTuple):
    """A contrast: the second value of a parameter or label, or job, minus the first."""

    name: str
    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.name}={self.second} minus {self.name}={self.first}"


def parse_contrast(text: str) -> ContrastChoice:
    """Read `NAME=FIRST,SECOND`.

    Raises:
        UsageError: if it is malformed.
    """
    name, _, values = text.partition("=")
    first, comma, second = values.partition(",")
    if not (name and first and comma and second) or "," in second or first == second:
        raise UsageError(f"invalid contrast '{text}': expected NAME=FIRST,SECOND, like scenario=base,vaccine.")
    return ContrastChoice(name, first, second)


class SetPair(NamedTuple):
    """Two parameter sets that are compared."""

    is_paired: bool
    """Whether their replicates are paired by seed."""
    differences: list[Difference]
    """Of each scalar."""
    by_seed: list[dict[int, tuple[float, float]]]
    """For each scalar, the values of both by seed; empty without pairs."""


class Overall(NamedTuple):
    """The difference of a scalar over all pairs of sets."""

    sets: int
    """Pairs of sets with a difference."""
    basis: str
    """See `mean_difference`."""
    difference: Difference


class Compared(NamedTuple):
    """Pairs of parameter sets, by the keys of their sets."""

    pairs: dict[Any, SetPair]
    overall: list[Overall | None]
    """Of each scalar; None if no pair has it on both sides."""
    left_out: dict[str, int]
    """Parameter sets without a partner on each side, replicates without one, tasks by their ends, and values that are
    not finite."""

    def notes(self, scalars: Sequence[str]) -> list[str]:
        """Return what the differences leave out, and whether replicates are pairs, as sentences."""
        left = self.left_out
        sets = [f"{left[side]:,} of the {side[5:]}" for side in ("sets_first", "sets_second") if left[side]]
        ends = [f"{left[end]:,} {end}" for end in ("failed", "missing", WAITING) if left[end]]
        parts = [f"parameter sets without a partner ({', '.join(sets)})"] if sets else []
        parts += [f"{', '.join(ends)} tasks"] if ends else []
        others = (("replicates", "replicate", "whose seed the other side lacks"), ("not_finite", "value", "not finite"))
        parts += [f"{pluralize(left[name], noun)} {what}" for name, noun, what in others if left[name]]
        if empty := sum(all(one.difference is None for one in pair.differences) for pair in self.pairs.values()):
            parts.append(f"{pluralize(empty, 'pair')} of sets without a difference")
        notes = [f"Left out: {'; '.join(parts)}."] if parts else []
        if alone := sum(not pair.is_paired for pair in self.pairs.values()):
            which = "The sides" if alone == len(self.pairs) else f"The sides of {pluralize(alone, 'pair')} of sets"
            notes.append(f"{which} have other seeds, so their replicates are independent, and no pairs.")
        if over_sets := [name for name, one in zip(scalars, self.overall, strict=True) if one and one.basis == "sets"]:
            notes.append(f"Too few replicates: the interval over all sets is that of sets ({join_first(over_sets)}).")
        return notes


def compare_sets(first: Mapping[K, Replicates], second: Mapping[K, Replicates], scalars: int) -> Compared:
    """Compare parameter sets of two sides with the same keys.

    Args:
        first: the sets of a side.
        second: those of the other.
        scalars: how many values each task has. NaN is a value, and None is none.
    """
    both = [key for key in first if key in second]
    left_out = Counter(sets_first=len(first) - len(both), sets_second=len(second) - len(both))
    left_out.update(dict.fromkeys(("replicates", "failed", "missing", WAITING, "not_finite"), 0))
    pairs = {key: _pair(first[key], second[key], scalars, left_out) for key in both}
    return Compared(pairs, [_overall(list(pairs.values()), place) for place in range(scalars)], dict(left_out))


def _pair(first: Replicates, second: Replicates, scalars: int, left_out: Counter[str]) -> SetPair:
    # Two drawn seeds of many may be equal by chance.
    is_paired = 2 * len(first.keys() & second.keys()) >= min(len(first), len(second)) > 0
    done: list[dict[int, Sequence[float | None]]] = []
    for side, other in ((first, second), (second, first)):
        done.append({})
        for seed, found in side.items():
            if isinstance(found, str):
                if is_paired and seed not in other and found not in FAILED_OUTCOMES:
                    continue  # an adaptive study needs more replicates of one side: no pair is lacking
                left_out["failed" if found in FAILED_OUTCOMES else WAITING if found == WAITING else "missing"] += 1
            else:
                done[-1][seed] = found
    if is_paired:
        common = [seed for seed in done[0] if seed in done[1]]
        left_out["replicates"] += len(done[0]) + len(done[1]) - 2 * len(common)
        done = [{seed: side[seed] for seed in common} for side in done]
    differences, by_seed = [], []
    for place in range(scalars):
        columns = [{seed: values[place] for seed, values in side.items()} for side in done]
        known = [{seed: value for seed, value in column.items() if value is not None} for column in columns]
        finite = [{seed: value for seed, value in column.items() if math.isfinite(value)} for column in known]
        left_out["not_finite"] += sum(map(len, known)) - sum(map(len, finite))
        if is_paired:
            finite = [{seed: column[seed] for seed in finite[0] if seed in finite[1]} for column in finite]
        differences.append(difference_of(*(list(column.values()) for column in finite), is_paired=is_paired))
        by_seed.append({seed: (value, finite[1][seed]) for seed, value in finite[0].items()} if is_paired else {})
    return SetPair(is_paired, differences, by_seed)


def _overall(pairs: Sequence[SetPair], place: int) -> Overall | None:
    known = [pair for pair in pairs if pair.differences[place].difference is not None]
    if not known:
        return None
    by_seed = [pair.by_seed[place] for pair in known] if all(pair.is_paired for pair in known) else None
    difference, basis = mean_difference([pair.differences[place] for pair in known], by_seed)
    return Overall(len(known), basis, difference)


class Contrast(NamedTuple):
    """A contrast of the results of some jobs."""

    choice: ContrastChoice
    sets: ResultSets
    """The table that it is made of."""
    columns: list[Column]
    """Of `rows`: the other parameters, what pairs the replicates, and `STATISTICS` of each scalar."""
    parameters: list[str]
    """The columns of the other parameters."""
    varying: list[int]
    """The places of those that do not have the same value in all pairs."""
    scalars: list[str]
    compared: Compared

    def rows(self) -> Iterator[list[object]]:
        """Yield a row of `columns` for each pair of sets."""
        for params, pair in self.compared.pairs.items():
            values = [getattr(one, name) for one in pair.differences for name, _ in STATISTICS]
            yield [*json.loads(params), _basis(pair), *values]

    def table(self, scalars: Sequence[str], limit: int = 0) -> tuple[list[str], list[list[str]]]:
        """Return the heads and rows of a table for people: all pairs together, and each, with what pairing has bought.

        Args:
            scalars: those that it has.
            limit: how many pairs; 0 for all.
        """
        places = [self.scalars.index(name) for name in scalars]
        overall = [self.compared.overall[place] for place in places]
        cells = []
        if (known := max((one.sets for one in overall if one is not None), default=0)) > 1:
            kinds = ", ".join(dict.fromkeys(_basis(pair) for pair in self.compared.pairs.values()))
            found = (None if one is None else one.difference for one in overall)
            cells.append([f"all {known:,}", *([""] * len(self.varying)), kinds, *_difference_cells(found)])
        pairs = itertools.islice(self.compared.pairs.items(), limit or None)
        for number, (params, pair) in enumerate(pairs, 1):
            values = [cut_to_length(value_text(json.loads(params)[place]), MAX_VALUE) for place in self.varying]
            found = (pair.differences[place] for place in places)
            cells.append([f"{number:,}", *values, _basis(pair), *_difference_cells(found)])
        varying = [self.parameters[place] for place in self.varying]
        return ["PAIR", *varying, "PAIRED BY", *(text for name in scalars for text in (name, "RATIO"))], cells

    def notes(self) -> list[str]:
        """Return what the differences are, and what they leave out, as sentences."""
        notes = [f"Differences are {self.choice}.", *self.compared.notes(self.scalars)]
        if count := self.sets.left_out_scalars:
            notes.append(f"{pluralize(count, 'more result')}: the table of parameter sets has too many.")
        return notes

    def to_json(self, app: App, limit: int = 0) -> dict[str, Any]:
        """Return the document of `results --contrast --json`."""
        names = [column.name for column in self.columns]
        rows = [dict(zip(names, row, strict=True)) for row in self.rows()]
        shown = rows[: limit or None]
        return {
            **self.sets.document_head(CONTRASTS_VERSION, app),
            "contrast": self.choice._asdict(),
            "complete": not self.sets.is_partial,
            "parameters": self.parameters,
            "results": self.scalars,
            "overall": [
                None
                if one is None
                else {"result": name, "sets": one.sets, "basis": one.basis}
                | {field: getattr(one.difference, field) for field, _ in STATISTICS}
                for name, one in zip(self.scalars, self.compared.overall, strict=True)
            ],
            "left_out": self.compared.left_out,
            "notes": self.notes(),
            "total": len(rows),
            "returned": len(shown),
            "columns": names,
            "pairs": shown,
        }


def _basis(pair: SetPair) -> str:
    return SEEDS if pair.is_paired else NOTHING


def _difference_cells(found: Iterable[Difference | None]) -> Iterator[str]:
    """Yield for each difference its text with interval and count, and the variance ratio."""
    for one in found:
        if one is None:
            yield from "--"
            continue
        counts = f"{one.n_first}" if one.n_first == one.n_second else f"{one.n_first}, {one.n_second}"
        yield from (f"{mean_text(one.difference, one.half_width)} (n={counts})", mean_text(one.variance_ratio, None))


def value_text(value: object) -> str:
    """Return the value of a parameter in a table for people."""
    return value if isinstance(value, str) else json.dumps(value)


def find_contrast(sets: ResultSets, families: Sequence[Sequence[JobTasks]], choice: ContrastChoice) -> Contrast:
    """Compare the results of some jobs.

    Args:
        sets: their parameter sets and tasks.
        families: the jobs, by family.
        choice: what to compare.

    Raises:
        UsageError: if no parameter and no job has what it names, or if no two sets differ in this alone.
    """
    names = [name for name, _ in sets.parameters]
    place = names.index(choice.name) if choice.name in names else None
    facts = {family[0].job_id: _facts(family) for family in families}
    values: dict[str, None] = {}
    sides: tuple[dict[str, dict[int, Any]], dict[str, dict[int, Any]]] = ({}, {})
    origins: dict[tuple[int, str], tuple[str, str]] = {}
    for job_id, set_id, text, seed, status, *found in sets.simulations():
        params = json.loads(text)
        told = [json.dumps(params[place])] if place is not None else facts[job_id].get(choice.name, [])
        values.update(dict.fromkeys(told))
        side = next((n for n, value in enumerate(choice[1:]) if any(_is_called(one, value) for one in told)), None)
        if side is None:
            continue
        if place is not None:
            del params[place]
        key = json.dumps(params)
        if origins.setdefault((side, key), (job_id, set_id)) != (job_id, set_id):
            several = f"several parameter sets with {choice.name}={choice[1 + side]} differ in nothing else"
            raise UsageError(f"invalid contrast: {several}. Name one job for each side.")
        sides[side].setdefault(key, {})[int(seed)] = _values(found) if status == SUCCEEDED else status
    _check(choice, values, sides, names, facts)
    own = [] if place is not None else _own_parameters(*sides)
    if own:  # of two jobs: they are what is compared
        sides = (_without(own, sides[0]), _without(own, sides[1]))
    scalars = [one.name for one in sets.numbers]
    compared = compare_sets(*sides, len(scalars))
    if not compared.pairs:
        raise UsageError(f"invalid contrast: no parameter set differs in {choice.name} alone.")
    parameters = [column for number, (_, column) in enumerate(sets.parameters) if number not in (place, *own)]
    taken = {column.name for column in parameters}
    columns = [*parameters, Column(free_name("paired_by", "contrast", taken), frozenset({"text"}))]
    for name in scalars:
        columns += [Column(free_name(f"{name}.{of}", "result", taken), frozenset({kind})) for of, kind in STATISTICS]
    different = zip(*map(json.loads, compared.pairs), strict=True)
    varying = [number for number, column in enumerate(different) if len(set(map(json.dumps, column))) > 1]
    return Contrast(choice, sets, columns, [column.name for column in parameters], varying, scalars, compared)


def _own_parameters(*sides: Mapping[str, object]) -> list[int]:
    """Return the places of the parameters that have one value in each of two jobs, and not the same one."""
    first, second = (
        [{*map(json.dumps, column)} for column in zip(*map(json.loads, side), strict=True)] for side in sides
    )
    pairs = enumerate(zip(first, second, strict=True))
    return [number for number, (ours, theirs) in pairs if len(ours) == len(theirs) == 1 and ours != theirs]


def _without(places: Sequence[int], side: Mapping[str, Any]) -> dict[str, Any]:
    return {
        json.dumps([value for number, value in enumerate(json.loads(key)) if number not in places]): replicates
        for key, replicates in side.items()
    }


def _facts(family: Sequence[JobTasks]) -> dict[str, list[str]]:
    """Return what a contrast of jobs may name: their ids, and labels and scenario of the newest."""
    newest: Any = family[0].job
    scenario = metadata_of(newest).get(OF_STUDIES)
    named = {OF_STUDIES: scenario, **newest["labels"]} if isinstance(scenario, str) else newest["labels"]
    return {name: [value] for name, value in named.items()} | {OF_JOBS: [job.job_id for job in family]}


def _values(found: Sequence[object]) -> list[float | None]:
    return [None if value is None else float(value) for value in found]  # type: ignore[arg-type]


def _is_called(value: str, text: str) -> bool:
    """Return whether a value, as JSON or as a text, is what a user has typed."""
    if value == text:
        return True
    try:
        known, typed = json.loads(value), json.loads(text)
    except ValueError:
        return value == json.dumps(text)
    return known == text or (bool(known == typed) and isinstance(known, bool) == isinstance(typed, bool))


def _check(
    choice: ContrastChoice,
    values: Mapping[str, None],
    sides: Sequence[Mapping[str, object]],
    parameters: Sequence[str],
    facts: Mapping[str, Mapping[str, object]],
) -> None:
    """Refuse a name or a value that nothing has, and two jobs of one family.

    Raises:
        UsageError: if there is one.
    """
    if not values:
        known = list(dict.fromkeys([*parameters, *(name for of_job in facts.values() for name in of_job)]))
        expected = f"expected {OF_JOBS}, a parameter, a label or {OF_STUDIES}: {join_first(known)}"
        raise UsageError(f"invalid contrast of '{choice.name}': {expected}.{did_you_mean(choice.name, known)}")
    for value, side in zip(choice[1:], sides, strict=True):
        if not side and any(_is_called(one, value) for one in values):
            first, second = choice[1:]
            raise UsageError(f"invalid contrast: {first} and {second} are of one family, whose tasks count once.")
        if not side:
            known = [str(json.loads(one)) if one.startswith('"') else one for one in values]
            expected = f"expected one of {join_first(known)}"
            raise UsageError(f"invalid value '{value}' of {choice.name}: {expected}.{did_you_mean(value, known)}")

"""A study: what a scientist asks for, and the tasks that follow from it.

The file is ModelOps' `SimulationStudy`, a contract with programs outside this project. Parameter ids are computed as in
ModelOps (modelops-contracts: `make_param_id`), and seeds by the rule that the study names; see `studies.seeds`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from mopsjobs.registry.keys import LOGGED_NAME
from mopsjobs.studies.field_values import (
    MISSING,
    is_output_name,
    parse_function,
    parse_object,
    parse_output_names,
    parse_replicates,
    parse_seeds,
    parse_switch,
    parse_text,
    parse_texts,
)
from mopsjobs.studies.precision import Precision
from mopsjobs.studies.seeds import (
    COMMON,
    MODELOPS,
    MOPS_JOBS,
    SeedIndex,
    SeedRule,
    comes_from_modelops,
    drawn_seed,
    drawn_seeds,
)
from mopsjobs.utils.text import cut_to_length, short_number, strip_control_characters

MAX_COMPARED = 100_000
"""Seeds that are compared as a set: faster than an index, but each takes 100 bytes."""


class Task(NamedTuple):
    """One simulation: one parameter set with one seed. `number` counts the tasks of the study from 0."""

    number: int
    param_id: str
    seed: int
    params: Mapping[str, Any]


class ParameterSet(NamedTuple):
    """Parameters of a model, their id, and their seed if the study names one."""

    param_id: str
    params: Mapping[str, Any]
    seed: int | None
    modelops_seed: int | None = None
    """The seed of its first task in ModelOps, from which the others count up. `Study` computes it if it is needed."""


class StudyField(NamedTuple):
    """The use of a field of a study: parser, JSON, comparisons, provenance, reuse and workers follow from it."""

    title: str | None
    """Its title on a page; None for one that a page shows in parts, and for those that only a calibration has."""
    parse: Callable[[object, str, list[str]], Any]
    """See `studies.field_values`."""
    default: Any = dataclasses.MISSING
    is_own: bool = False
    """Whether ModelOps lacks it. Its default is not written, so the digests of studies without it never change."""
    is_told: bool = False
    """Whether each worker is told of it; see engines/worker.py."""
    bars_reuse: Callable[[Any, Any], bool] | None = None
    """Whether no task of an earlier study is reused in a new one, by both values; None: the field does not matter."""


def field(*use: Any, **more: Any) -> Any:
    """Return the field of a dataclass with this use; see `StudyField`."""
    used = StudyField(*use, **more)
    return dataclasses.field(default=used.default, metadata={"use": used})


def object_field() -> Any:
    """Return the field of a dataclass that is an object of JSON, which a page shows in parts."""
    return dataclasses.field(default_factory=dict, metadata={"use": StudyField(None, parse_object, {})})


def parse_fields(fields: Mapping[str, StudyField], document: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """Return the values of the fields that a document has, and of those that it must have."""
    return {
        name: field.parse(document.get(name, MISSING), name, problems)
        for name, field in fields.items()
        if name in document or field.default is dataclasses.MISSING
    }


def _has_other_names(earlier: tuple[str, ...] | None, new: tuple[str, ...] | None) -> bool:
    return (earlier and set(earlier)) != (new and set(new))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A study, as its file has it."""

    model: str = field("Model", parse_text)
    scenario: str = field("Scenario", parse_text, "baseline")
    parameter_sets: tuple[ParameterSet, ...]
    sampling_method: str = field("Sampling", parse_text, "manual")
    n_replicates: int | Precision = field("Replicates", parse_replicates, 1)  # noqa: RUF009 - it is immutable
    """The tasks of a parameter set without a seed; or the precision up to which it gets further ones. Tasks are
    numbered as if each set had as many as it may have: numbers and seeds depend on no decision."""
    outputs: tuple[str, ...] | None = field(
        "Outputs", parse_output_names, None, is_told=True, bars_reuse=_has_other_names
    )
    """The outputs that each task must leave; None if the study names none."""
    targets: tuple[str, ...] | None = field("Targets", parse_texts, None)
    reduce: str | None = field("Reduce function", parse_function, None, is_own=True)
    """The reduce function, as `module:function`; None if the study names none. See `studies.reductions`."""
    scratch: bool = field("Scratch directory", parse_switch, False, is_own=True, is_told=True, bars_reuse=operator.ne)
    """Whether the working directory of each task is one of its own, which is removed after it."""
    allow_nan: bool = field("NaN allowed", parse_switch, True, is_own=True, is_told=True, bars_reuse=operator.gt)
    """Whether a task may leave NaN and infinities. If not, they are its error."""
    seeds: SeedRule = field("Seeds", parse_seeds, MOPS_JOBS, is_own=True)  # noqa: RUF009 - a text, which cannot change
    """The rule of the seeds."""
    packs: bool = field("Packs", parse_switch, True, is_own=True)
    """Whether small outputs may share an object of the store; see `studies.packs`."""
    metadata: Mapping[str, Any] = object_field()
    _duplicates: Mapping[int, int] | None = dataclasses.field(default=None, init=False, repr=False, compare=False)
    """The result of `duplicate_tasks`: seconds of work for a million tasks."""

    def __post_init__(self) -> None:
        if self.seeds == MODELOPS:
            following: dict[str, int] = {}
            decided: dict[str, int] = {}
            sets = []
            for one in self.parameter_sets:
                drawn = drawn_seed(MODELOPS, one.param_id, 0) if one.seed is None else one.seed
                first = following.get(one.param_id, drawn)
                if self.precision is not None and one.seed is None:  # such sets of one id have the same tasks
                    first = decided.setdefault(one.param_id, first)
                following[one.param_id] = max(first + self.replicates(one), following.get(one.param_id, 0))
                sets.append(one._replace(modelops_seed=first))
            object.__setattr__(self, "parameter_sets", tuple(sets))

    @property
    def entrypoint(self) -> str:
        """Return the name by which a wire function finds the model and the scenario."""
        return f"{self.model}/{self.scenario}"

    @property
    def setup(self) -> dict[str, Any]:
        """Return what each worker is told of the study."""
        told = {name: getattr(self, name) for name, field in FIELDS.items() if field.is_told}
        return {"entrypoint": self.entrypoint, **told}

    @property
    def precision(self) -> Precision | None:
        """Return the precision that decides how many replicates a set gets; None if the study names their number."""
        return self.n_replicates if isinstance(self.n_replicates, Precision) else None

    @property
    def max_replicates(self) -> int:
        """Return the replicates that a set without a seed has at most."""
        return self.n_replicates.max if isinstance(self.n_replicates, Precision) else self.n_replicates

    @property
    def tasks_total(self) -> int:
        """Count the simulations of the study: those that it may need, if its precision decides."""
        return sum(self.replicates(parameter_set) for parameter_set in self.parameter_sets)

    @property
    def parameters(self) -> list[str]:
        """Return the names of the parameters of all sets, each once, in the order in which the study has them."""
        return list(dict.fromkeys(name for parameter_set in self.parameter_sets for name in parameter_set.params))

    def keeps_output(self, name: str) -> bool:
        """Return whether an output of this name is kept: one that the study names, or any if it names none."""
        return is_output_name(name) if self.outputs is None else name in self.outputs or name == LOGGED_NAME

    def replicates(self, parameter_set: ParameterSet) -> int:
        """Count the tasks of a parameter set: one if it names a seed, else one per replicate."""
        return self.max_replicates if parameter_set.seed is None else 1

    def first_seed(self, parameter_set: ParameterSet) -> int | None:
        """Return the seed from which those of a set count up, task by task; None if they are drawn or listed."""
        if self.seeds == MODELOPS:
            return parameter_set.modelops_seed
        if parameter_set.seed is None and isinstance(self.seeds, Mapping):
            return self.seeds["base"]
        return parameter_set.seed

    def seeds_of(self, parameter_set: ParameterSet) -> Iterable[int]:
        """Return the seeds of the tasks of a set, in their order."""
        first, count = self.first_seed(parameter_set), self.replicates(parameter_set)
        if first is not None:
            return range(first, first + count)
        return drawn_seeds(self.seeds, parameter_set.param_id, range(count))

    def seed_of(self, parameter_set: ParameterSet, replicate: int) -> int:
        """Return the seed of a replicate of a set."""
        first = self.first_seed(parameter_set)
        return drawn_seed(self.seeds, parameter_set.param_id, replicate) if first is None else first + replicate

    def tasks(self) -> Iterator[Task]:
        """Yield the tasks in their order. A study of millions of tasks needs no list of them."""
        number = 0
        for parameter_set in self.parameter_sets:
            for seed in self.seeds_of(parameter_set):
                yield Task(number, parameter_set.param_id, seed, parameter_set.params)
                number += 1

    def some_tasks(self, numbers: Iterable[int]) -> Iterator[Task]:
        """Yield the tasks with these numbers, which ascend. The seeds of no others are drawn."""
        following, end = iter(numbers), 0
        number = next(following, None)
        for one in self.parameter_sets:
            first, end = end, end + self.replicates(one)
            while number is not None and number < end:
                yield Task(number, one.param_id, self.seed_of(one, number - first), one.params)
                number = next(following, None)

    def sets_by_id(self) -> dict[str, list[tuple[int, ParameterSet]]]:
        """Group the parameter sets by id, each with the number of its first task.

        Sets of one id differ only in their seeds.
        """
        sets: dict[str, list[tuple[int, ParameterSet]]] = {}
        number = 0
        for parameter_set in self.parameter_sets:
            sets.setdefault(parameter_set.param_id, []).append((number, parameter_set))
            number += self.replicates(parameter_set)
        return sets

    @property
    def different_sets(self) -> int:
        """Count the parameter sets with different parameters. Others have those of an earlier one."""
        return len({parameter_set.param_id for parameter_set in self.parameter_sets})

    def duplicate_tasks(self) -> Mapping[int, int]:
        """Map each task that repeats an earlier one, by parameters and seed, to the number of the earlier one.

        A study may name a parameter set twice, as Sobol samples do. And a drawn seed has 32 bits: two of 100,000
        replicates are likely to share one, and a drawn seed may equal a named one. Such a simulation runs once, and
        all its tasks are complete with it.
        """
        if self._duplicates is not None:
            return self._duplicates
        duplicates: dict[int, int] = {}
        if self.seeds == MODELOPS and self.precision is None:
            return duplicates  # it never repeats a seed
        if self.max_replicates == 1 and self.different_sets == len(self.parameter_sets):
            return duplicates
        for sets in self.sets_by_id().values():
            if len(sets) == 1 and (self.replicates(sets[0][1]) == 1 or self.seeds not in (MOPS_JOBS, COMMON)):
                continue  # neither listed seeds nor those that count up repeat one
            count = sum(self.replicates(one) for _, one in sets)
            if count <= MAX_COMPARED and len({seed for _, one in sets for seed in self.seeds_of(one)}) == count:
                continue
            for first, *others in self.seed_index(sets).duplicate_groups():
                duplicates.update(dict.fromkeys(others, first))
        object.__setattr__(self, "_duplicates", duplicates)
        return duplicates

    def seed_index(self, sets: Iterable[tuple[int, ParameterSet]]) -> SeedIndex:
        """Index the tasks of parameter sets of one id, as in `sets_by_id`, by their seeds."""
        return SeedIndex((seed, number) for first, one in sets for number, seed in enumerate(self.seeds_of(one), first))

    def to_dict(self) -> dict[str, Any]:
        """Return the study as its file would have it."""
        sets = [
            {"params": dict(parameter_set.params)}
            | ({} if parameter_set.seed is None else {"seed": parameter_set.seed})
            for parameter_set in self.parameter_sets
        ]
        values = {
            name: json_of(value)
            for name, field in FIELDS.items()
            if (value := getattr(self, name)) != field.default or not field.is_own
        }
        document = {"model": self.model, "scenario": self.scenario, "parameter_sets": sets} | values
        if comes_from_modelops({"metadata": self.metadata}):
            document.setdefault("seeds", MOPS_JOBS)  # else its file would have those of ModelOps
        return document


FIELDS: Mapping[str, StudyField] = {
    field.name: field.metadata["use"] for field in dataclasses.fields(Study) if field.metadata
}
"""The fields of a study, without its parameter sets."""


def json_of(value: Any) -> Any:
    """Return the value of a field as JSON has it."""
    if isinstance(value, Precision):
        return value.to_json()
    return list(value) if isinstance(value, tuple) else value


def param_id(params: Mapping[str, Any]) -> str:
    """Compute the id of a parameter set as ModelOps does: BLAKE2b-256 over its canonical JSON, in hex."""
    canonical = json.dumps(params, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.blake2b(f"contracts:param:v1|{canonical}".encode(), digest_size=32).hexdigest()


MAX_PARAMETERS = 3

MAX_VALUE_CHARACTERS = 20


class Varying(NamedTuple):
    """Differences between the tasks of a study."""

    parameters: tuple[str, ...]
    """Names of the parameters that differ between parameter sets, in the order of the study."""
    has_replicates: bool
    """Whether several tasks share their parameters."""


def find_varying(study: Study) -> Varying:
    """Return what differs between the tasks of a study. It looks at each parameter set."""
    constant = dict(study.parameter_sets[0].params) if study.parameter_sets else {}
    param_ids = set()
    for parameter_set in study.parameter_sets:
        param_ids.add(parameter_set.param_id)
        params = parameter_set.params
        for name in [name for name, value in constant.items() if name not in params or params[name] != value]:
            del constant[name]
    parameters = tuple(name for name in study.parameters if name not in constant)
    return Varying(parameters, len(param_ids) < study.tasks_total)


def task_name(task: Task, varying: Varying) -> str:
    """Return the name of a task: its number, up to three of the parameters that vary, its seed if tasks share those."""
    parts = _shown_parameters(task.params, varying)
    if varying.has_replicates:
        parts.append(f"seed {task.seed}")
    return f"task {task.number} ({', '.join(parts)})" if parts else f"task {task.number}"


def set_name(params: Mapping[str, Any] | None, varying: Varying) -> str:
    """Return the name of a parameter set: up to three of its parameters that vary. None stands for the whole job."""
    if params is None:
        return "the whole job"
    return ", ".join(_shown_parameters(params, varying)) or "the parameter set"


def _shown_parameters(params: Mapping[str, Any], varying: Varying) -> list[str]:
    shown = [name for name in varying.parameters if name in params][:MAX_PARAMETERS]
    return [f"{_shorten(name)}={_shorten(params[name])}" for name in shown]


def _shorten(value: object) -> str:
    return cut_to_length(strip_control_characters(str(short_number(value))), MAX_VALUE_CHARACTERS)

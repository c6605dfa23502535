"""A calibration: a model, bounds of its parameters, an objective, a sampler and a budget, as its file has them.

The other fields are those of a study, without its parameter sets: a sampler asks for these, round by round. A
CalibrationSpec of ModelOps becomes the same document.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from mopsjobs.errors import command_line
from mopsjobs.studies.field_values import (
    check_json,
    describe,
    describe_actual,
    parse_function,
    parse_text,
    whole_number,
)
from mopsjobs.studies.seeds import MODELOPS, MOPS_JOBS
from mopsjobs.studies.study import FIELDS, Study, StudyField, field, object_field, parse_fields
from mopsjobs.studies.study_parser import StudyError, is_calibration, nearest, parse_study, read_document, read_file
from mopsjobs.utils.json_strict import is_number

MAX_ROUNDS = 1_000_000

MAX_SETS = 10_000
"""Of a round."""

BOX = ("random", "latin-hypercube", "sobol", "optuna")
"""Samplers with a name of their own; see engines/sampler_script.py. The last one hands over to that library."""

KINDS = ("uniform", "log", "integer", "choice")

SYNCHRONOUS, ASYNCHRONOUS = "synchronous", "asynchronous"


class SpecError(StudyError):
    """An invalid calibration. `problems` lists everything that is wrong with it, each by its field."""

    what = "calibration"
    expected = "model, parameters, objective and rounds"


class Parameter(NamedTuple):
    """A parameter that is searched, and where."""

    kind: str
    """One of `KINDS`. `log` is searched by its logarithm; the bounds of `integer` belong to it."""
    bounds: tuple[Any, ...]
    """The lowest and the highest value; all values of a choice."""

    def has(self, value: object) -> bool:
        """Return whether a value lies where it is searched."""
        if self.kind == "choice":
            return any(value == one and type(value) is type(one) for one in self.bounds)
        kinds = int if self.kind == "integer" else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and self.bounds[0] <= value <= self.bounds[1]

    def to_json(self) -> dict[str, list[Any]]:
        """Return the parameter as a file has it."""
        return {self.kind: list(self.bounds)}


class Observed(NamedTuple):
    """The observed value of a scalar, and the distance that counts as one."""

    observed: float
    sd: float


class Objective(NamedTuple):
    """The values that are to be small. Exactly one of the fields is set."""

    scalars: tuple[str, ...] = ()
    """The means of scalars over the replicates of a set."""
    observed: Mapping[str, Observed] | None = None
    """The sum of the squared distances of such means from what was observed."""
    function: str | None = None
    """A function of the model's code, `module:function`, of parameters and replicates."""
    target: str | None = None
    """A target of ModelOps' calabaria, `module:function`, which returns an object with `evaluate(replicates)`."""

    def to_json(self) -> object:
        """Return the objective as a file has it."""
        if self.observed is not None:
            return {name: one._asdict() for name, one in self.observed.items()}
        if self.target is not None:
            return {"target": self.target}
        return self.function or (self.scalars[0] if len(self.scalars) == 1 else list(self.scalars))


def _parse_parameters(value: object, where: str, problems: list[str]) -> Mapping[str, Parameter]:
    if not isinstance(value, dict) or not value:
        problems.append(f"{where}: expected an object of at least one parameter, {describe_actual(value)}")
        return {}
    check_json(value, where, problems)
    return {name: _parse_parameter(one, f"{where}.{name}", problems) for name, one in value.items()}


def _parse_parameter(value: object, where: str, problems: list[str]) -> Parameter:
    kind, bounds = next(iter(value.items())) if isinstance(value, dict) and len(value) == 1 else (None, None)
    if kind not in KINDS or not isinstance(bounds, list):
        problems.append(f'{where}: expected {{"uniform": [LOW, HIGH]}}, or log, integer or choice in its place')
        return Parameter(KINDS[0], (0, 1))
    if kind == "choice":
        if len(bounds) < 2 or any(isinstance(one, (dict, list)) for one in bounds):
            problems.append(f"{where}.choice: expected a list of at least two values")
        return Parameter(kind, tuple(bounds))
    types = int if kind == "integer" else (int, float)
    are_numbers = len(bounds) == 2 and all(isinstance(one, types) and is_number(one) for one in bounds)
    if not are_numbers or bounds[0] >= bounds[1] or (kind == "log" and bounds[0] <= 0):
        numbers = "whole numbers" if kind == "integer" else "numbers above 0" if kind == "log" else "numbers"
        problems.append(f"{where}.{kind}: expected two {numbers}, the lower first")
    return Parameter(str(kind), tuple(bounds))


def _parse_objective(value: object, where: str, problems: list[str]) -> Objective:
    before = len(problems)
    if isinstance(value, dict) and list(value) == ["target"] and isinstance(value["target"], str):
        return Objective(target=parse_function(value["target"], f"{where}.target", problems))
    if isinstance(value, dict) and value:
        pairs = {name: _parse_observed(one, f"{where}.{name}", problems) for name, one in value.items()}
        return Objective(observed=pairs)
    names: list[Any] = value if isinstance(value, list) else [value]
    if names and all(isinstance(one, str) and one and one.isprintable() for one in names):
        if isinstance(value, str) and ":" in value:
            return Objective(function=parse_function(value, where, problems))
        return Objective(tuple(names))
    if len(problems) == before:
        forms = 'a scalar, several as a list, module:function, or {"SCALAR": {"observed": X, "sd": Y}}'
        problems.append(f"{where}: expected {forms}, {describe_actual(value)}")
    return Objective(("",))


def _parse_observed(value: object, where: str, problems: list[str]) -> Observed:
    fields = value if isinstance(value, dict) and set(value) == {"observed", "sd"} else {}
    if not fields or not all(map(is_number, fields.values())) or fields["sd"] <= 0:
        problems.append(f'{where}: expected {{"observed": NUMBER, "sd": NUMBER above 0}}')
        return Observed(0, 1)
    return Observed(fields["observed"], fields["sd"])


def _parse_sampler(value: object, where: str, problems: list[str]) -> str:
    text = parse_text(value, where, problems)
    if text and text not in BOX and parse_function(text, where, []) is None:
        problems.append(f"{where}: expected {', '.join(BOX)} or package.module:factory, not {describe(value)}")
    return text


def _parse_mode(value: object, where: str, problems: list[str]) -> str:
    if value in (SYNCHRONOUS, ASYNCHRONOUS):
        return str(value)
    problems.append(f"{where}: expected {SYNCHRONOUS} or {ASYNCHRONOUS}, {describe_actual(value)}")
    return SYNCHRONOUS


def _parse_number(value: object, where: str, problems: list[str]) -> float | None:
    if value is not None and not is_number(value):
        problems.append(f"{where}: expected a number, {describe_actual(value)}")
        return None
    return value  # type: ignore[return-value]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """A calibration, as its file has it."""

    study: Study
    """The model, its replicates and outputs, without parameter sets."""
    parameters: Mapping[str, Parameter] = field(None, _parse_parameters)
    fixed: Mapping[str, Any] = object_field()
    """Parameters of the model that are the same in each set."""
    objective: Objective = field(None, _parse_objective)  # noqa: RUF009 - it is a field
    rounds: int = field(None, whole_number(1, MAX_ROUNDS))
    """The rounds, at most: a sampler may finish earlier."""
    sets_per_round: int = field(None, whole_number(1, MAX_SETS), 8)
    """The sets that a sampler is asked for at once. A sampler with generations may return another number."""
    sampler: str = field(None, _parse_sampler, "latin-hypercube")
    """One of `BOX`, or `module:factory` of the model's code."""
    options: Mapping[str, Any] = object_field()
    """Further arguments of the factory."""
    seed: int = field(None, whole_number(0, 2**32 - 1), 1)
    """Of the sampler. The seeds of replicates follow from their parameters."""
    stop_below: float | None = field(None, _parse_number, None)
    """The search ends after a round with a smaller value."""
    mode: str = field(None, _parse_mode, SYNCHRONOUS)
    """Whether all sets of a round are told together, or each as soon as it has ended, so that no worker waits. Then
    what the sampler is told depends on the order of ends."""

    @property
    def is_asynchronous(self) -> bool:
        """Return whether each set is a round of its own, which is told as soon as it has ended."""
        return self.mode == ASYNCHRONOUS

    @property
    def most_rounds(self) -> int:
        """Return how many rounds the budget has, each of a single set if the mode is asynchronous."""
        return self.rounds * (self.sets_per_round if self.is_asynchronous else 1)

    @property
    def first_study(self) -> Study:
        """Return the study whose tasks each set has at first. If a precision decides, the client asks for more."""
        precision = self.study.precision
        return self.study if precision is None else dataclasses.replace(self.study, n_replicates=precision.min)

    def to_dict(self) -> dict[str, Any]:
        """Return the calibration as its file would have it."""
        study = {name: value for name, value in self.study.to_dict().items() if name != "parameter_sets"}
        own = {name: getattr(self, name) for name in SPEC_FIELDS}
        own["parameters"] = {name: one.to_json() for name, one in self.parameters.items()}
        own["objective"] = self.objective.to_json()
        return study | {name: value for name, value in own.items() if value != SPEC_FIELDS[name].default}

    def params_of(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters of the model for a set that the sampler asked for."""
        return {**self.fixed, **asked}

    def asked_of(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the searched parameters among those of the model."""
        return {name: params[name] for name in self.parameters}

    def searches_as(self, other: Calibration) -> bool:
        """Return whether its sampler would ask for the same sets as another one, if it is told the same values."""
        names = ("parameters", "objective", "sets_per_round", "sampler", "options", "seed", "mode")
        return all(getattr(self, name) == getattr(other, name) for name in names)


SPEC_FIELDS: Mapping[str, StudyField] = {
    field.name: field.metadata["use"] for field in dataclasses.fields(Calibration) if field.metadata
}

KIND = "CalibrationSpec"


def read_calibration(path: str) -> Calibration:
    """Read the file of a calibration: YAML if its name ends in .yaml or .yml, else JSON.

    Raises:
        UsageError: if the file cannot be read.
        SpecError: if it is invalid. The message names every wrong field and what is expected there.
    """
    return parse_calibration(read_document(read_file(path, "calibration"), path, SpecError), path)


def parse_calibration(document: object, source: str = "") -> Calibration:
    """Make a calibration of a JSON document.

    Raises:
        SpecError: if it is invalid.
    """
    problems: list[str] = []
    if isinstance(document, dict) and is_calibration(document):
        document = from_modelops(document, problems)
    if not isinstance(document, dict):
        raise SpecError(source, problems or [f"expected an object, not {describe(document)}"])
    if "parameter_sets" in document and not document.keys() & {"objective", "parameters"}:
        run = f"Run it with {command_line('submit', source or 'STUDY', '--auto')}."
        raise SpecError(source, ["it is a study, which has its parameter sets; expected a calibration"], hint=run)
    names = (*FIELDS, *SPEC_FIELDS)
    if "parameter_sets" in document:
        problems.append("parameter_sets: a calibration has parameters in their place, with bounds")
        document = {name: value for name, value in document.items() if name != "parameter_sets"}
    problems += [f"{name}: unknown field{nearest(name, names, problems)}" for name in document if name not in names]
    for name in ("reduce", "targets"):
        if document.get(name) is not None:
            problems.append(f"{name}: a calibration has an objective in its place")
    values = parse_fields(SPEC_FIELDS, document, problems)
    study = None
    try:
        own = {name: value for name, value in document.items() if name in FIELDS}
        study = parse_study({**own, "sampling_method": "calibration", "parameter_sets": [{}]})
    except StudyError as error:
        problems += error.problems
    has_precision = study is not None and study.precision is not None
    if study is not None and has_precision and (study.seeds == MODELOPS or isinstance(study.seeds, tuple)):
        problems.append(f'seeds: expected a rule that a precision can go on with, for example "{MOPS_JOBS}"')
    both = set(values["parameters"]) & set(values.get("fixed", ()))
    problems += [f"fixed.{name}: it is in parameters too" for name in sorted(both)]
    if values.get("stop_below") is not None and len(values["objective"].scalars) > 1:
        problems.append("stop_below: expected one objective, not several")
    if problems or study is None:
        raise SpecError(source, problems)
    return Calibration(study=dataclasses.replace(study, parameter_sets=()), **values)


# --- ModelOps' CalibrationSpec -------------------------------------------------------------------------------------

_ALGORITHM_FIELDS = (
    "base_seed",
    "max_trials",
    "batch_size",
    "n_replicates",
    "parameter_specs",
    "sampler",
    "simulation_entrypoint",
)

_SAMPLERS = {"tpe": "TPESampler", "random": "RandomSampler"}
"""Samplers of Optuna, by the names that a CalibrationSpec has for them."""


def from_modelops(document: Mapping[str, Any], problems: list[str]) -> dict[str, Any] | None:
    """Return a CalibrationSpec of ModelOps as a calibration; None if a problem was found.

    Its seeds are those of mops-jobs: ModelOps' own follow from `hash()`, and differ from run to run.
    """
    if document.get("algorithm") != "optuna":
        problems.append(f"algorithm: expected optuna, not {describe(document.get('algorithm'))}")
        return None
    config, data = document.get("algorithm_config") or {}, document.get("target_data") or {}
    targets = data.get("target_entrypoints") if isinstance(data, dict) else None
    if not isinstance(targets, list) or len(targets) != 1:
        problems.append("target_data.target_entrypoints: expected a list of one target: ModelOps evaluates the first")
        return None
    criteria = document.get("convergence_criteria") or {}
    sampler = dict(config.get("sampler") or {})
    kind = sampler.pop("type", "tpe")
    unknown = [f"algorithm_config.{name}" for name in config if name not in _ALGORITHM_FIELDS]
    unknown += [f"convergence_criteria.{name}" for name in criteria if name != "max_loss"]
    problems += [f"{name}: unknown field" for name in unknown]
    if kind not in _SAMPLERS:
        problems.append(f"algorithm_config.sampler.type: expected {' or '.join(_SAMPLERS)}, not {describe(kind)}")
    specs = config.get("parameter_specs")
    specs = specs if isinstance(specs, dict) else {}
    if not specs or not all(isinstance(one, dict) and {*one} >= {"lower", "upper"} for one in specs.values()):
        problems.append('algorithm_config.parameter_specs: expected {"NAME": {"lower": LOW, "upper": HIGH}}')
    if problems:
        return None
    batch, trials = config.get("batch_size", 16), config.get("max_trials", 100)
    if not all(type(one) is int and one > 0 for one in (batch, trials, document.get("max_iterations", 1))):
        problems.append("max_iterations, max_trials, batch_size: expected whole numbers above 0")
        return None
    return {
        **{name: document[name] for name in ("model", "scenario", "outputs", "metadata") if name in document},
        "n_replicates": config.get("n_replicates", 1),
        "parameters": {name: {"uniform": [one["lower"], one["upper"]]} for name, one in specs.items()},
        "objective": {"target": targets[0]},
        "rounds": min(document.get("max_iterations", trials), -(-trials // batch)),
        "sets_per_round": batch,
        "sampler": "optuna",
        "options": {"sampler": _SAMPLERS[kind], **(sampler if kind == "tpe" else {})},
        **({"stop_below": criteria["max_loss"]} if "max_loss" in criteria else {}),
    }

"""The specification of a calibration: what a file says, what is refused, and ModelOps' own document."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mopsjobs.studies.calibration import Observed, SpecError, parse_calibration
from mopsjobs.studies.study_parser import StudyError, parse_study

SPEC: dict[str, Any] = {
    "model": "seir:simulate",
    "n_replicates": 4,
    "outputs": ["result.json"],
    "parameters": {
        "r0": {"uniform": [1.2, 3]},
        "rate": {"log": [0.01, 1]},
        "days": {"integer": [1, 8]},
        "rule": {"choice": ["a", "b"]},
    },
    "fixed": {"population": 1000},
    "objective": {"peak": {"observed": 100, "sd": 5}},
    "rounds": 10,
}

UNTIL: dict[str, Any] = {"n_replicates": {"min": 2, "max": 9, "until": {"peak": {"relative": 0.1}}}}


def test_a_calibration_reads_back_what_it_writes() -> None:
    """Fields of a study keep their meaning, defaults are left out, and the written document gives the same one."""
    calibration = parse_calibration(SPEC)
    assert (calibration.study.model, calibration.study.n_replicates, calibration.sets_per_round) == (
        "seir:simulate", 4, 8,
    )  # fmt: skip
    assert calibration.objective.observed == {"peak": Observed(100, 5)}
    document = json.loads(json.dumps(calibration.to_dict()))
    assert parse_calibration(document) == calibration
    assert not {"options", "seed", "sets_per_round", "parameter_sets"} & document.keys()


@pytest.mark.parametrize(
    ("parameter", "inside", "outside"),
    [
        ({"uniform": [1, 2]}, [1, 2, 1.5], [0.9, 2.1, "1", True]),
        ({"log": [0.1, 1]}, [0.1, 1], [0, None]),
        ({"integer": [1, 3]}, [1, 3], [1.5, 2.0, 4]),
        ({"choice": ["a", 1, None]}, ["a", 1, None], ["b", 1.0, True]),
    ],
)
def test_a_parameter_knows_its_values(parameter: dict[str, Any], inside: list[object], outside: list[object]) -> None:
    """Bounds belong to a parameter, and only values of its type do."""
    found = parse_calibration({**SPEC, "parameters": {"x": parameter}}).parameters["x"]
    assert all(found.has(value) for value in inside)
    assert not any(found.has(value) for value in outside)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"parameters": {}}, "parameters: expected an object of at least one parameter"),
        ({"parameters": {"x": [1, 2]}}, 'parameters.x: expected {"uniform": [LOW, HIGH]}'),
        ({"parameters": {"x": {"log": [0, 1]}}}, "parameters.x.log: expected two numbers above 0, the lower first"),
        ({"parameters": {"x": {"integer": [1, 2.5]}}}, "parameters.x.integer: expected two whole numbers"),
        ({"parameters": {"x": {"choice": ["a"]}}}, "parameters.x.choice: expected a list of at least two values"),
        ({"fixed": {"r0": 1}}, "fixed.r0: it is in parameters too"),
        ({"objective": 3}, "objective: expected a scalar, several as a list, module:function"),
        ({"objective": {"peak": 3}}, "objective.peak: expected"),
        ({"objective": ["a", "b"], "stop_below": 1}, "stop_below: expected one objective, not several"),
        ({"rounds": 0}, "rounds: expected a whole number from 1"),
        ({"sampler": "tpe"}, "sampler: expected random, latin-hypercube, sobol, optuna or package.module:factory"),
        ({**UNTIL, "seeds": "modelops"}, "seeds: expected a rule that a precision can go on"),
        ({"n_replicates": {"min": 1, "max": 9, "until": {"peak": {"relative": 0.1}}}}, "n_replicates.min: expected a"),
        ({"mode": "async"}, 'mode: expected synchronous or asynchronous, not "async"'),
        ({"reduce": "a:b"}, "reduce: a calibration has an objective in its place"),
        ({"parameter_sets": [{"x": 1}]}, "parameter_sets: a calibration has parameters in their place, with bounds"),
        ({"samplr": "sobol"}, "samplr: unknown field, did you mean sampler?"),
    ],
)
def test_each_wrong_field_is_named(change: dict[str, Any], problem: str) -> None:
    """An invalid calibration says which field is wrong, and what is expected there."""
    with pytest.raises(SpecError, match="invalid calibration") as refused:
        parse_calibration({**SPEC, **change})
    assert any(problem in one for one in refused.value.problems), refused.value.problems


MODELOPS: dict[str, Any] = {
    "model": "models.sir",
    "scenario": "baseline",
    "algorithm": "optuna",
    "target_data": {"observed_file": "data/observed.csv", "target_entrypoints": ["targets.incidence:signal"]},
    "max_iterations": 1_000_000,
    "convergence_criteria": {"max_loss": 0.5},
    "algorithm_config": {
        "max_trials": 100,
        "batch_size": 8,
        "n_replicates": 3,
        "parameter_specs": {"beta": {"lower": 0.01, "upper": 0.2}, "dur_inf": {"lower": 3.0, "upper": 10.0}},
        "sampler": {"type": "tpe", "n_startup_trials": 10},
        "simulation_entrypoint": "models.sir:StarsimSIR",
    },
    "outputs": None,
    "metadata": {"model_class": "models.sir:StarsimSIR"},
}
"""A document with the fields that `cb calibration optuna` writes."""


def test_a_calibration_spec_of_modelops_is_taken_as_it_is() -> None:
    """Its bounds, its target, its trials and its batches become parameters, objective and rounds."""
    document = parse_calibration(MODELOPS).to_dict()
    assert document["parameters"] == {"beta": {"uniform": [0.01, 0.2]}, "dur_inf": {"uniform": [3.0, 10.0]}}
    assert (document["objective"], document["n_replicates"]) == ({"target": "targets.incidence:signal"}, 3)
    assert (document["rounds"], parse_calibration(MODELOPS).sets_per_round) == (13, 8)
    assert document["sampler"] == "optuna"
    assert document["options"] == {"sampler": "TPESampler", "n_startup_trials": 10}
    assert document["stop_below"] == 0.5


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"algorithm": "abc-smc"}, 'algorithm: expected optuna, not "abc-smc"'),
        ({"target_data": {"target_entrypoints": ["a:b", "c:d"]}}, "a list of one target: ModelOps evaluates the first"),
        ({"algorithm_config": {"particles": 9}}, "algorithm_config.particles: unknown field"),
        ({"convergence_criteria": {"patience": 3}}, "convergence_criteria.patience: unknown field"),
    ],
)
def test_what_a_calibration_spec_cannot_mean_here_is_said(change: dict[str, Any], problem: str) -> None:
    """Other algorithms, several targets and unknown settings are refused, each in one sentence."""
    with pytest.raises(SpecError) as refused:
        parse_calibration({**MODELOPS, **change})
    assert any(problem in one for one in refused.value.problems), refused.value.problems


@pytest.mark.parametrize("document", [SPEC, MODELOPS])
def test_a_calibration_is_no_study(document: dict[str, Any]) -> None:
    """`submit` names the command that runs it."""
    with pytest.raises(StudyError, match="whose sampler chooses the parameters") as refused:
        parse_study(document, "spec.json")
    assert refused.value.hint == "Run it with mops-jobs calibrate spec.json --auto."
    with pytest.raises(StudyError, match="it is a study, which has its parameter sets") as refused:
        parse_calibration({"model": "seir:simulate", "parameter_sets": [{"r0": 2}]}, "study.json")
    assert refused.value.hint == "Run it with mops-jobs submit study.json --auto."

"""The table of a study's fields: each field, also one that comes later, is on every surface that follows from it."""

from __future__ import annotations

import inspect
import itertools
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.api.study import Study as ApiStudy
from mopsjobs.app.origins.compare_jobs import compare_studies
from mopsjobs.app.origins.provenance import study_json
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.precision import Precision, Target
from mopsjobs.studies.study import FIELDS, Study
from mopsjobs.studies.study_parser import StudyError, parse_study
from mopsjobs.submission.reuse import study_difference

DOCS = Path(__file__).parents[3] / "docs"

GOOD: dict[str, Any] = {"model": "m:f", "parameter_sets": [{"x": 1}]}

VALUES: tuple[Any, ...] = (True, False, 2, 3, "m:f", "m:g", "modelops", "common", ["a"], ["b"], [1, 2], {"a": 1})
"""Some of these are valid values of any field."""

IN_PYTHON = {"n_replicates": "replicates"}
"""Arguments that have another name than their field."""

each_field = pytest.mark.parametrize("name", FIELDS)


def _studies(name: str) -> list[Study]:
    """Return studies that differ in one field, the first with its default if it has one."""
    made = [parse_study(GOOD)]
    for value in VALUES:
        try:
            made.append(parse_study(GOOD | {name: value}))
        except StudyError:
            continue
    different = [one for place, one in enumerate(made) if one not in made[:place]]
    assert len(different) > 1, f"add a valid value of {name} to VALUES"
    return different


@each_field
def test_a_field_is_read_and_written(name: str) -> None:
    """Also in a manifest. A field that only mops-jobs has is not written if it has its default."""
    for study in _studies(name):
        assert parse_study(study.to_dict()) == study
        manifest = Manifest(job_id="job", study=study, bundle="sha256:0")
        assert Manifest.from_json(manifest.to_json()) == manifest
    assert (name in parse_study(GOOD).to_dict()) is not FIELDS[name].is_own


@each_field
def test_a_field_is_compared(name: str) -> None:
    first, second, *_ = _studies(name)
    assert list(compare_studies(first, second).fields) == [name]


@each_field
def test_a_field_of_mops_jobs_is_in_the_provenance_and_its_reference(name: str) -> None:
    if FIELDS[name].is_own:
        first, second = (study_json(Manifest(job_id="job", study=one, bundle="")) for one in _studies(name)[:2])
        assert first[name] != second[name]
        [row] = [line for line in (DOCS / "reference/json.md").read_text().splitlines() if "its canonical JSON" in line]
        assert f"`{name}`" in row


@each_field
def test_a_worker_is_told_what_it_needs(name: str) -> None:
    """That is what each pool, and the process on a worker of Dask, passes on."""
    assert (name in parse_study(GOOD).setup) is FIELDS[name].is_told


@each_field
def test_a_field_that_bars_reuse_is_named(name: str) -> None:
    """Model and scenario are named together."""
    pairs = list(itertools.permutations(_studies(name), 2))
    reasons = {study_difference(*pair) for pair in pairs} - {None}
    if FIELDS[name].bars_reuse is not None:
        assert reasons == {f"`{name}` of its study differs"}
    elif name not in ("model", "scenario"):
        assert not reasons


@each_field
def test_a_field_is_an_argument_in_python_and_in_the_reference(name: str) -> None:
    """Its default there is that of the file."""
    argument = inspect.signature(ApiStudy).parameters[IN_PYTHON.get(name, name)]
    if argument.default is not inspect.Parameter.empty:
        assert (argument.default or None) == (FIELDS[name].default or None)
    assert f"\n    {argument.name}: " in str(inspect.getdoc(ApiStudy.__init__))
    assert f"\n| `{name}` |" in (DOCS / "reference/studies.md").read_text()


PRECISION = {"min": 3, "max": 9, "until": {"peak": {"relative": 0.05}}}


def test_a_precision_is_read_and_written() -> None:
    study = parse_study({"model": "m:f", "parameter_sets": [{"a": 1}], "n_replicates": PRECISION})
    assert study.precision == Precision(3, 9, (Target("peak", relative=0.05),))
    assert (study.tasks_total, study.max_replicates) == (9, 9)
    assert parse_study(study.to_dict()) == study
    until = {"peak": {"quantile": 0.9, "confidence": 0.9, "absolute": 2.0}}
    study = parse_study({"model": "m:f", "parameter_sets": [{"a": 1}], "n_replicates": {**PRECISION, "until": until}})
    assert study.precision.until == (Target("peak", 0.9, None, 2.0, 0.9),)
    assert study.to_dict()["n_replicates"]["until"] == until

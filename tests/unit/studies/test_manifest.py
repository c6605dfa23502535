"""The manifest of a job, and what its record gets of the study."""

from __future__ import annotations

import dataclasses
import json

import pytest

from mopsjobs.bundles.git_state import GitState
from mopsjobs.engines.base import recorded_launch
from mopsjobs.errors import RecordError
from mopsjobs.studies.manifest import MAX_REUSED, Manifest, Origin, Reuse
from mopsjobs.studies.study_parser import parse_study

OWN = {
    "model": "model:run", "scenario": "base", "bundle": "sha256:00", "sampling_method": "manual",
    "n_parameter_sets": 1, "n_replicates": 1,
}  # fmt: skip


def record_metadata(**metadata: object) -> dict[str, object]:
    """Return the metadata of the record of a job whose study has these."""
    study = {"model": "model:run", "scenario": "base", "parameter_sets": [{"x": 1}], "metadata": metadata}
    found = Manifest(job_id="a", study=parse_study(study, "here"), bundle="sha256:00").record_fields()["metadata"]
    assert isinstance(found, dict)
    return found


def test_metadata_of_a_study_are_in_the_record() -> None:
    """Beside those of mops-jobs."""
    assert record_metadata(author="ada", run=7) == {**OWN, "author": "ada", "run": 7}


@pytest.mark.parametrize("name", [*OWN, "suspect", "local_python", "k8s_context", "k8s_image", "dask_scheduler"])
def test_metadata_of_a_study_replace_none_of_ours(name: str) -> None:
    """mops-jobs acts on these: a study would choose an interpreter, or mark its job as suspect."""
    found = record_metadata(**{name: {"reason": "mine"}}, author="ada")
    assert found == {**OWN, "author": "ada", "study_metadata": {name: {"reason": "mine"}}}


def test_the_place_of_such_metadata_is_not_replaced_either() -> None:
    """A study may have an entry of that name too."""
    assert record_metadata(study_metadata=1, local_=2)["study_metadata"] == {"study_metadata": 1, "local_": 2}


def test_no_metadata_of_a_study_are_options_of_a_launch() -> None:
    """A later launch repeats the options that the record has."""
    for engine in ("local", "kubernetes", "dask"):
        names = [f"{prefix}{name}" for prefix in ("local_", "k8s_", "dask_") for name in ("python", "image", "workers")]
        assert recorded_launch(record_metadata(**dict.fromkeys(names, "x")), engine) == {}


ORIGIN = Origin("0.2.0", GitState("ab" * 20, is_dirty=True))


@pytest.mark.parametrize("origin", [None, ORIGIN, Origin("0.2.0", None), Origin(None, GitState("c" * 64, None))])
def test_the_origin_of_a_job_is_in_its_manifest(origin: Origin | None) -> None:
    """An earlier version reads such a manifest too, since it ignores the field."""
    study = parse_study({"model": "model:run", "scenario": "base", "parameter_sets": [{"x": 1}]}, "here")
    manifest = Manifest(job_id="a", study=study, bundle="sha256:00", origin=origin)
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("text", None),
        ([], None),
        ({}, Origin(None, None)),
        ({"mops_jobs": 1, "git_commit": "; rm", "git_dirty": "no"}, Origin(None, None)),
        ({"git_commit": "ab" * 20, "git_dirty": 1}, Origin(None, GitState("ab" * 20, None))),
        ({"mops_jobs": "9" * 1000, "later": {}}, Origin("9" * 100, None)),
    ],
)
def test_an_invalid_origin_makes_no_manifest_unreadable(value: object, read: Origin | None) -> None:
    assert Origin.from_json(value) == read


def test_tasks_that_are_left_to_a_later_resume_are_in_the_manifest() -> None:
    """Only if there are any: an earlier version ignores the field."""
    study = parse_study({"model": "model:run", "parameter_sets": [{"x": x} for x in range(9)]}, "here")
    manifest = Manifest(job_id="a", study=study, bundle="sha256:00", only=(3, 5), deferred=(2, 7))
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert b"deferred" not in dataclasses.replace(manifest, deferred=()).to_json()
    with pytest.raises(RecordError, match="not a manifest of a job"):
        Manifest.from_json(manifest.to_json().replace(b'"deferred":[2,7]', b'"deferred":[7,2]'))


def test_a_manifest_of_a_few_bytes_reuses_no_millions_of_tasks() -> None:
    """Each reused task is a row in the caches of readers of the job, so their number is limited."""
    study = parse_study({"model": "model:run", "parameter_sets": [{"x": 1}], "n_replicates": 2 * MAX_REUSED}, "here")
    most = Manifest(job_id="a", study=study, bundle="b", reused=(Reuse("c", "b", ((0, MAX_REUSED),)),))
    assert Manifest.from_json(most.to_json()).reused == most.reused
    more = dataclasses.replace(most, reused=(*most.reused, Reuse("d", "b", ((MAX_REUSED, MAX_REUSED + 1),))))
    with pytest.raises(RecordError, match="expected at most 1,000,000 reused tasks"):
        Manifest.from_json(more.to_json())


def test_a_reduce_function_is_beside_the_study() -> None:
    """Version 0.1.0 refuses a study with a field that it does not know, and ignores one of the manifest."""
    study = parse_study({"model": "model:run", "parameter_sets": [{"x": 1}], "reduce": "model:summarise"}, "here")
    manifest = Manifest(job_id="a", study=study, bundle="sha256:00")
    stored = json.loads(manifest.to_json())
    assert stored["reduce"] == "model:summarise"
    assert "reduce" not in stored["study"]
    assert Manifest.from_json(manifest.to_json()) == manifest
    with pytest.raises(RecordError, match=r"reduce: expected package\.module:function, not 3"):
        Manifest.from_json(json.dumps(stored | {"reduce": 3}).encode())

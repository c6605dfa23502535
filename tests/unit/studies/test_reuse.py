"""Reused tasks in a manifest: what is written, what is read back, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mopsjobs.errors import RecordError
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.reuse import Reuse
from mopsjobs.utils.ranges import is_in_ranges, number_ranges
from support.runs import sets_of, study

BUNDLE = f"sha256:{'0' * 64}"


def manifest(*reused: Reuse) -> Manifest:
    """Return the manifest of a job of ten tasks."""
    return Manifest(job_id="more", study=study(sets_of(10)), bundle=BUNDLE, reused=reused)


def decoded(**reused: Any) -> Manifest:
    """Decode a manifest with one source of reused tasks."""
    document = json.loads(manifest().to_json())
    return Manifest.from_json(json.dumps({**document, "reused": [reused]}).encode())


def test_numbers_become_ranges_that_have_these_numbers_alone() -> None:
    numbers = [0, 1, 2, 5, 8, 9]
    ranges = list(number_ranges(numbers))
    assert ranges == [(0, 3), (5, 6), (8, 10)]
    assert [number for number in range(-1, 12) if is_in_ranges(number, ranges)] == numbers
    assert list(number_ranges([])) == []
    assert not is_in_ranges(0, [])


def test_reused_tasks_survive_their_manifest() -> None:
    one, other = Reuse.of("job", BUNDLE, [0, 1, 7]), Reuse.of("old", BUNDLE, [9])
    found = Manifest.from_json(manifest(one, other).to_json())
    assert found.reused == (one, other)
    assert [found.source_of(number) for number in (1, 2, 9)] == [one, None, other]
    assert (one.task_count, list(one.numbers())) == (3, [0, 1, 7])


def test_a_manifest_without_reused_tasks_is_as_before() -> None:
    """Earlier versions read it, and its record has no field more."""
    assert "reused" not in json.loads(manifest().to_json())
    assert not manifest().record_fields()["metadata"].keys() & {"n_reused_tasks", "reused_from"}


def test_the_record_counts_reused_tasks_whatever_the_study_says() -> None:
    """An entry of the study's own metadata with such a name goes apart."""
    own = study(sets_of(3), metadata={"n_reused_tasks": 99, "reused_from": ["me"]})
    reused = (Reuse.of("job", BUNDLE, [0, 2]),)
    job = Manifest(job_id="more", study=own, bundle=BUNDLE, reused=reused)
    metadata = job.record_fields()["metadata"]
    assert (metadata["n_reused_tasks"], metadata["reused_from"]) == (2, ["job"])
    assert metadata["study_metadata"] == {"n_reused_tasks": 99, "reused_from": ["me"]}
    others = Manifest(job_id="more", study=own, bundle=BUNDLE).record_fields()["metadata"]
    assert "n_reused_tasks" not in others


@pytest.mark.parametrize(
    "ranges",
    [[[0, 11]], [[-1, 2]], [[3, 3]], [[4, 2]], [[0, 5], [3, 7]], [[5, 6], [0, 1]], [[0, 1.5]], [[0]], [7], "x", None],
    ids=str,
)
def test_ranges_that_are_not_of_the_study_are_refused(ranges: object) -> None:
    with pytest.raises(RecordError, match="not a manifest"):
        decoded(job_id="job", bundle=BUNDLE, tasks=ranges)


@pytest.mark.parametrize("fields", [{"job_id": "../x"}, {"job_id": 3}, {"bundle": None}], ids=str)
def test_a_source_without_a_valid_id_or_bundle_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(RecordError):
        decoded(**{"job_id": "job", "bundle": BUNDLE, "tasks": [[0, 1]], **fields})

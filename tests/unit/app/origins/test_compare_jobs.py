"""Studies, environments and files of jobs are compared by content."""

from __future__ import annotations

from typing import Any

from mopsjobs.app.origins.compare_jobs import MAX_NAMED, compare_environments, compare_studies
from mopsjobs.ledger.environment import Environment
from support.runs import sets_of, study


def test_equal_studies_have_no_difference() -> None:
    """The order of the parameter sets does not count."""
    assert compare_studies(study(sets_of(3)), study(sets_of(3)[::-1])) == ({}, 0, 0, 3, [], [])


def test_each_field_of_a_study_is_compared() -> None:
    first = study([{"x": 1}], metadata={"a": 1})
    second = study([{"x": 1}], metadata={"a": 2}, scenario="other", n_replicates=3, outputs=["b"], model="m:f")
    assert compare_studies(first, second).fields == {
        "model": ("model:simulate", "m:f"),
        "scenario": (first.scenario, "other"),
        "n_replicates": (1, 3),
        "outputs": (["result.json"], ["b"]),
        "metadata": ({"a": 1}, {"a": 2}),
    }


def test_parameter_sets_of_one_job_are_counted_and_the_first_named() -> None:
    """A set that one job has more often counts, and so does another seed."""
    repeated: list[dict[str, Any]] = [{"x": 1}, {"x": 1}, {"params": {"x": 2}, "seed": 7}]
    found = compare_studies(study(repeated), study([{"x": 1}, {"x": 2}]))
    assert (found.common, found.only_first, found.only_second) == (1, 2, 1)
    assert found.first_sets == [{"params": {"x": 1}, "seed": None}, {"params": {"x": 2}, "seed": 7}]
    assert found.second_sets == [{"params": {"x": 2}, "seed": None}]
    many = compare_studies(study(sets_of(1000)), study([{"y": 1}]))
    assert (many.only_first, len(many.first_sets)) == (1000, MAX_NAMED)


def environment(python: str = "3.12.4", **packages: str) -> Environment:
    return Environment(python, "cpython", "linux-x86_64", None, "1.0", packages)


def test_packages_and_versions_that_differ_are_named() -> None:
    found = compare_environments(
        [environment(numpy="1.26", scipy="1", old="1")], [environment("3.13.0", numpy="2.0", scipy="1", new="1")]
    )
    assert found is not None
    assert found.fields == {"python": ("3.12.4", "3.13.0")}
    assert found.packages == {"new": (None, "1"), "numpy": ("1.26", "2.0"), "old": ("1", None)}


def test_several_environments_of_a_job_are_named_together() -> None:
    """A job that was launched again with another Python has two."""
    found = compare_environments([environment(numpy="1"), environment(numpy="2")], [environment(numpy="2")])
    assert found is not None
    assert found.packages == {"numpy": ("1, 2", "2")}


def test_an_environment_that_was_not_noted_is_not_guessed() -> None:
    assert compare_environments([], [environment()]) is None
    assert compare_environments([environment()], []) is None

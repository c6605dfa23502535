"""Rows of a comparison: what counts as a difference, and how amounts relate to those of the first job."""

from __future__ import annotations

import math
from array import array
from typing import Any

from mopsjobs.cache.job_json import job_fields
from mopsjobs.studies.study import FIELDS
from mopsjobs.web.pages.compare_rows import (
    Cell,
    Missing,
    Row,
    Scalar,
    Side,
    compare_scalar,
    make_row,
    sections,
    summarize_scalars,
)
from mopsjobs.web.site.kept import Results, TableRows


def _side(**fields: Any) -> Side:
    usual = {"job_id": "j", "status": "succeeded", "labels": {}, "metadata": {}, "tasks_completed": 0, "tasks_total": 0}
    return Side({**dict.fromkeys(job_fields()), **usual, **fields})


def _rows(key: str, *sides: Side) -> dict[str, Row]:
    return {row.name: row for section in sections(sides, []) if section.key == key for row in section.rows}


def test_what_is_not_known_makes_no_difference() -> None:
    """A value that a job does not have makes one."""
    row = make_row("Image", ["a", Missing("being read"), "a"])
    assert row is not None
    assert (row.differs, row.is_known, row.cells[1]) == (False, False, Cell("being read", is_weak=True))
    row = make_row("Image", ["a", None])
    assert row is not None
    assert (row.differs, row.cells[1].text) == (True, "none")
    assert make_row("Image", [None, Missing("being read"), None]) is None


def test_values_of_different_types_differ() -> None:
    """`true` and 1 are two values, equal lists are one."""
    for values, differs in (([True, 1], True), ([["a"], ["a"]], False), ([{"a": 1, "b": 2}, {"b": 2, "a": 1}], False)):
        row = make_row("x", values)
        assert row is not None
        assert row.differs is differs


def test_amounts_are_related_to_those_of_the_first_job() -> None:
    """Not if they look the same, or if one is not known."""
    rows = _rows(
        "cost",
        _side(run_seconds=100.0, cpu_seconds=50.0, tasks_completed=8, tasks_failed=2, max_rss_bytes=2**30),
        _side(run_seconds=150.0, cpu_seconds=40.0, tasks_completed=5, tasks_failed=0, max_rss_bytes=2**30 + 1),
        _side(cpu_seconds=50.0),
    )
    assert rows["Run time"].cells == [Cell("1m 40s"), Cell("2m 30s", ["+50 %"]), Cell("not recorded", is_weak=True)]
    assert rows["CPU time per task"].cells[:2] == [Cell("5 s"), Cell("8 s", ["+60 %"])]
    assert [cell.notes for cell in rows["CPU time"].cells] == [(), ["-20 %"], ()]
    assert (rows["Peak memory"].cells[1], rows["Peak memory"].differs) == (Cell("1,024 MiB"), False)


def test_a_field_of_a_study_is_a_row() -> None:
    """Known from the record, if the study is not; one without a title is shown in parts."""
    titles = [field.title for field in FIELDS.values() if field.title is not None]
    assert list(_rows("study", *[_side(metadata=dict.fromkeys(FIELDS, "x"))] * 2))[: len(titles)] == titles


def test_labels_are_compared_one_by_one() -> None:
    rows = _rows("outcome", _side(labels={"exp": "1", "site": "accra"}), _side(labels={"exp": "2", "site": "accra"}))
    assert (rows["Label exp"].differs, rows["Label site"].differs) == (True, False)
    assert [cell.text for cell in rows["Label exp"].cells] == ["1", "2"]


def test_amounts_that_differ_by_less_than_a_tenth_do_not_differ() -> None:
    """Two runs of the same never take the same time. The folded row has both values."""
    sides = (_side(run_seconds=3.65, cpu_efficiency=0.97), _side(run_seconds=3.71, cpu_efficiency=0.965))
    [cost] = [section for section in sections(sides, []) if section.key == "cost"]
    assert cost.differing == 0
    assert cost.folded == [("Run time", "3.65 s to 3.71 s"), ("CPU efficiency", "96 % to 97 %")]
    assert _rows("cost", _side(run_seconds=3.0), _side(run_seconds=3.31))["Run time"].differs


def _results(set_of: list[int], **scalars: list[float]) -> Results:
    ids = [f"set{place}" for place in range(max(set_of) + 1)]
    values = {name: array("d", some) for name, some in scalars.items()}
    return Results(
        0.0,
        (),
        [],
        TableRows(),
        [{} for _ in ids],
        {name: place for place, name in enumerate(ids)},
        array("L", set_of),
        values,
        0,
        [],
        array("L"),
        array("B"),
        [],
    )


def _statistics(**means: float) -> Scalar:
    return Scalar(len(means), 0.0, 0.0, 0.0, means)


def test_statistics_are_those_of_the_tasks_that_have_the_scalar() -> None:
    """Replicates of a set have one mean; a scalar that no task has is left out. One that is not finite is counted."""
    values = [1.0, 3.0, 7.0, math.nan, math.inf]
    found = summarize_scalars(_results([0, 0, 1, 1, 1], x=values, y=[math.nan] * 5), ["x", "y", "z"])
    assert list(found) == ["x"]
    one = found["x"]
    assert (one.tasks, round(one.mean, 6), one.means) == (3, 3.666667, {"set0": 2.0, "set1": 7.0})
    assert (one.low, one.high, one.not_finite) == (1.4, 6.2, 1)


def test_a_difference_is_the_mean_over_shared_sets() -> None:
    """Sets of one job only do not count. The standard error needs two."""
    found = compare_scalar(_statistics(a=1.0, b=2.0, c=100.0), _statistics(a=2.0, b=5.0, d=-100.0))
    assert found == (2, 2.0, 1.0)
    assert compare_scalar(_statistics(a=1.0), _statistics(a=2.0)) == (1, 1.0, None)
    assert compare_scalar(_statistics(a=1.0), _statistics(b=2.0)) == (0, 0.0, None)


def test_differences_of_huge_numbers_are_finite_or_none() -> None:
    sets, middle, error = compare_scalar(_statistics(a=1e300, b=1e300), _statistics(a=-1e300, b=2e300))
    assert sets == 2
    assert math.isfinite(middle)
    assert error is not None
    assert math.isfinite(error)
    assert compare_scalar(_statistics(a=1.7e308), _statistics(a=-1.7e308)) == (0, 0.0, None)

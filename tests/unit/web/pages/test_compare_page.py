"""Rows of a comparison: what counts as a difference, and how amounts relate to those of the first job."""

from __future__ import annotations

import math
from array import array
from typing import Any

from mopsjobs.cache.job_json import job_fields
from mopsjobs.web.pages.compare_page import (
    Cell,
    Missing,
    Row,
    Side,
    contrast_results,
    difference_text,
    make_rows,
    sections,
    summarize_scalars,
)
from mopsjobs.web.site.kept import Results, TableRows


def _rows(*sides: dict[str, Any]) -> dict[str, Row]:
    usual = {"job_id": "j", "status": "succeeded", "labels": {}, "metadata": {}, "tasks_completed": 0, "tasks_total": 0}
    jobs = [Side({**dict.fromkeys(job_fields()), **usual, **fields}) for fields in sides]
    return {row.name: row for section in sections(jobs, []) for row in section.rows}


def test_what_is_not_known_makes_no_difference() -> None:
    """A value that a job does not have makes one."""
    [row] = make_rows("Image", ["a", Missing("being read"), "a"])
    assert (row.differs, row.cells[1]) == (False, Cell("being read", is_weak=True))
    [row] = make_rows("Image", ["a", None])
    assert (row.differs, row.cells[1].text) == (True, "none")
    assert not [*make_rows("Image", [None, Missing("being read"), None]), *make_rows("Image", ["a", "a"])]


def test_amounts_are_related_to_those_of_the_first_job() -> None:
    """Not if they look the same, or differ by less than a tenth, or if one is not known."""
    rows = _rows(
        {"run_seconds": 100.0, "cpu_seconds": 50.0, "tasks_completed": 8, "tasks_failed": 2, "max_rss_bytes": 2**30},
        {"run_seconds": 150.0, "cpu_seconds": 40.0, "tasks_completed": 5, "max_rss_bytes": 2**30 + 1},
        {"cpu_seconds": 50.0},
    )
    assert rows["Run time"].cells == [Cell("1m 40s"), Cell("2m 30s", ["+50 %"]), Cell("not recorded", is_weak=True)]
    assert rows["CPU time per task"].cells[:2] == [Cell("5 s"), Cell("8 s", ["+60 %"])]
    assert [cell.notes for cell in rows["CPU time"].cells] == [(), ["-20 %"], ()]
    assert (rows["Peak memory"].cells[1], rows["Peak memory"].differs) == (Cell("1,024 MiB"), False)  # not of the third
    assert _rows({"run_seconds": 3.65, "cpu_efficiency": 0.97}, {"run_seconds": 3.71, "cpu_efficiency": 0.965}) == {}


def test_labels_are_compared_one_by_one() -> None:
    rows = _rows({"labels": {"exp": "1", "site": "accra"}}, {"labels": {"exp": "2", "site": "accra"}})
    assert [cell.text for cell in rows.pop("Label exp").cells] == ["1", "2"]
    assert rows == {}


def _results(set_of: list[int], **scalars: list[float]) -> Results:
    ids = [f"set{place}" for place in range(max(set_of) + 1)]
    return Results(
        made_at=0.0, state=(), columns=[], rows=TableRows(), sets=[{} for _ in ids],
        set_ids={name: place for place, name in enumerate(ids)}, set_of=array("L", set_of),
        scalars={name: array("d", some) for name, some in scalars.items()}, problems=[],
        tasks=array("L"), seeds=array("Q"), kinds=array("B", [1] * len(set_of)), separates=[],
    )  # fmt: skip


def test_statistics_are_those_of_the_tasks_that_have_the_scalar() -> None:
    """A scalar that no task has is left out. One that is not finite is counted."""
    values = [1.0, 3.0, 7.0, math.nan, math.inf]
    found = summarize_scalars(_results([0, 0, 1, 1, 1], x=values, y=[math.nan] * 5), ["x", "y", "z"])
    assert list(found) == ["x"]
    one = found["x"]
    assert (one.tasks, round(one.mean, 6)) == (3, 3.666667)
    assert (one.low, one.high, one.not_finite) == (1.4, 6.2, 1)


def test_a_difference_is_the_mean_over_shared_sets() -> None:
    """Replicates are paired by seed, and say what that has bought. What has no partner is counted."""
    first = _results([0, 0, 1, 1, 2], x=[1.0, 2.0, 5.0, 7.0, 100.0])._replace(seeds=array("Q", [1, 2, 1, 2, 1]))
    second = first._replace(set_ids={"set0": 0, "set1": 1, "other": 2}, scalars={"x": array("d", [2, 4, 6, 9, 0])})
    found = contrast_results(first, second, ["x"])
    overall = found.overall["x"]
    assert overall is not None
    assert (overall.sets, overall.basis, overall.difference.difference) == (2, "seeds", 1.5)
    assert difference_text(overall) == "+1.5 ± 6.4 in 2 shared sets, 8.5 times less variance by pairs"
    assert found.notes == ["Left out: parameter sets without a partner (1 of the first, 1 of the second)."]
    assert difference_text(contrast_results(first, first, ["x"]).overall["x"]) == "no difference in 3 shared sets"
    alone = contrast_results(first, first._replace(set_ids={"a": 0, "b": 1, "c": 2}), ["x"])
    assert difference_text(alone.overall["x"]) == "no shared parameter set"

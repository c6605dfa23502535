"""Rows of a comparison: what counts as a difference, and how amounts relate to those of the first job."""

from __future__ import annotations

from typing import Any

from mopsjobs.cache.job_json import job_fields
from mopsjobs.web.pages.compare_rows import Cell, Missing, Row, Side, make_row, sections


def _side(**fields: Any) -> Side:
    usual = {"job_id": "j", "status": "succeeded", "labels": {}, "metadata": {}, "tasks_completed": 0, "tasks_total": 0}
    return Side({**dict.fromkeys(job_fields()), **usual, **fields}, None, None)


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

"""The statuses and the table of their order, against tables written out here a second time, by hand."""

from __future__ import annotations

import pytest

from mopsjobs.errors import UsageError
from mopsjobs.registry.status import (
    TRANSITIONS,
    JobStatus,
    parse_status,
    parse_statuses,
    steps,
)

ALL = ("pending", "submitting", "scheduled", "running", "validating", "succeeded", "partial", "failed", "cancelled")
PAIRS = [(JobStatus(before), JobStatus(after)) for before in ALL for after in ALL]

# A row is where a job stands, a column where it may go next. x: allowed.
MATRIX = """
            pending submitting scheduled running validating succeeded partial failed cancelled
pending     .       x          .         .       .          .         .       .      x
submitting  .       .          x         .       .          .         .       x      .
scheduled   .       .          .         x       .          .         .       x      x
running     .       .          .         .       x          x         .       x      x
validating  .       .          .         .       .          x         x       x      .
succeeded   .       .          .         .       .          .         .       .      .
partial     .       .          .         .       .          .         .       .      .
failed      .       .          .         .       .          .         .       .      .
cancelled   .       .          .         .       .          .         .       .      .
"""

# The way an observer who missed steps goes. A pair that is not here has none.
WALKS = {
    ("pending", "submitting"): "submitting",
    ("pending", "scheduled"): "submitting scheduled",
    ("pending", "running"): "submitting scheduled running",
    ("pending", "validating"): "submitting scheduled running validating",
    ("pending", "succeeded"): "submitting scheduled running succeeded",
    ("pending", "partial"): "submitting scheduled running validating partial",
    ("pending", "failed"): "submitting failed",
    ("pending", "cancelled"): "cancelled",
    ("submitting", "scheduled"): "scheduled",
    ("submitting", "running"): "scheduled running",
    ("submitting", "validating"): "scheduled running validating",
    ("submitting", "succeeded"): "scheduled running succeeded",
    ("submitting", "partial"): "scheduled running validating partial",
    ("submitting", "failed"): "failed",
    ("scheduled", "running"): "running",
    ("scheduled", "validating"): "running validating",
    ("scheduled", "succeeded"): "running succeeded",
    ("scheduled", "partial"): "running validating partial",
    ("scheduled", "failed"): "failed",
    ("scheduled", "cancelled"): "cancelled",
    ("running", "validating"): "validating",
    ("running", "succeeded"): "succeeded",
    ("running", "partial"): "validating partial",
    ("running", "failed"): "failed",
    ("running", "cancelled"): "cancelled",
    ("validating", "succeeded"): "succeeded",
    ("validating", "partial"): "partial",
    ("validating", "failed"): "failed",
}


def allowed() -> set[tuple[str, str]]:
    header, *rows = MATRIX.strip().splitlines()
    columns = header.split()
    return {
        (name, column)
        for name, *marks in map(str.split, rows)
        for column, mark in zip(columns, marks, strict=True)
        if mark == "x"
    }


def test_the_statuses_are_the_nine_of_the_contract_in_the_order_of_a_life() -> None:
    """Records of other programs carry exactly these words; listings show them in this order."""
    assert tuple(JobStatus) == ALL


def test_a_transition_is_in_the_table_exactly_if_the_design_allows_it() -> None:
    """All 81 pairs agree with the matrix above."""
    assert {(before, after) for before in JobStatus for after in TRANSITIONS[before]} == allowed()


def test_a_walk_is_the_one_written_here_and_there_is_no_other() -> None:
    """All 81 pairs: the statuses passed through, or None where no way leads. Each step could be taken alone.

    Only a user cancels. An observer never concludes it from what it missed.
    """
    for before, after in PAIRS:
        way = steps(before, after)
        assert (None if way is None else " ".join(way)) == WALKS.get((before, after)), (before, after)
        assert set(zip((before, *(way or ())), way or (), strict=False)) <= allowed(), (before, after)
        assert after is not JobStatus.CANCELLED or way in (("cancelled",), None), before


@pytest.mark.parametrize("text", ["running", "RUNNING", " Running\t", JobStatus.RUNNING])
def test_a_status_is_understood_in_any_case_and_between_blanks(text: str) -> None:
    """What people type is forgiven."""
    assert parse_status(text) is JobStatus.RUNNING


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("failed", {"failed"}),
        ("failed, Partial", {"failed", "partial"}),
        ("failed,failed", {"failed"}),
        ("ACTIVE", {"pending", "submitting", "scheduled", "running", "validating"}),
        ("done", {"succeeded", "partial", "failed", "cancelled"}),
        ("active,done", set(ALL)),
        ("active,failed", {"pending", "submitting", "scheduled", "running", "validating", "failed"}),
    ],
)
def test_a_list_holds_statuses_and_groups(text: str, expected: set[str]) -> None:
    """A comma joins them, whatever their case; repeating one changes nothing."""
    assert parse_statuses(text) == expected


@pytest.mark.parametrize("text", ["", ",", "failed,", "failed,nope", "all", "failed partial"])
def test_a_list_with_a_bad_name_is_refused_with_statuses_and_groups(text: str) -> None:
    """Nothing is left out silently: an empty name is a bad name too."""
    with pytest.raises(UsageError) as caught:
        parse_statuses(text)
    assert all(name in str(caught.value) for name in (*ALL, "active", "done"))

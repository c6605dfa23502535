"""The statuses and the table of their order, against tables written out here a second time, by hand."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mopsjobs.errors import InvalidTransitionError, TerminalStateError, UsageError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.status import TERMINAL, TRANSITIONS, JobStatus, parse_status, parse_statuses, steps
from support.bench import Bench

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
        ("ACTIVE", {"pending", "submitting", "scheduled", "running", "validating"}),
        ("active,done", set(ALL)),
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


# --- What a change makes of a record: its status, the steps in between, merged fields --------------------------------


@pytest.mark.parametrize("before", JobStatus)
@pytest.mark.parametrize("after", JobStatus)
def test_every_move_is_made_or_refused_as_the_table_says(bench: Bench, before: JobStatus, after: JobStatus) -> None:
    """All 81: a no-op onto itself, refused after the end or without a way, else each step in the history once."""
    value = bench.place(status=before)
    way = steps(before, after)
    if before is after:
        assert bench.registry.update_status("a", after).status is before
    elif way is None:
        kind = TerminalStateError if before in TERMINAL else InvalidTransitionError
        with pytest.raises(kind) as caught:
            bench.registry.update_status("a", after)
        assert type(caught.value) is kind
        assert (caught.value.job_id, caught.value.from_status, caught.value.to_status) == ("a", before, after)
    else:
        assert bench.registry.update_status("a", after).status is after
        assert bench.history() == [before, *way]  # what another program had made of it is noted first
        return
    assert bench.bytes() == value
    assert not bench.told


def test_missed_steps_are_walked_in_one_write(bench: Bench) -> None:
    """They share a time and the id of the write, which is one revision."""
    bench.registry.register_job("a")
    bench.now += timedelta(minutes=1)
    job = bench.registry.update_status("a", "succeeded", results_path="out/")
    at = bench.now.isoformat()
    way = ["submitting", "scheduled", "running", "succeeded"]
    assert list(job.transitions[1:]) == [{"status": status, "at": at, "id": "w2"} for status in way]
    assert (bench.line.calls["put"], job.revision, job.write_id, job.results_path) == (1, 2, "w2", "out/")


@pytest.mark.parametrize("end", ["cancelled", "failed"])
def test_an_ended_job_waits_for_nothing(bench: Bench, end: str) -> None:
    """What it waited for, and why it was suspect, goes at its end; all else stays."""
    metadata = {"waits_for": "Unschedulable", "suspect": {"reason": "pod_gone"}, "image": "i:1"}
    bench.place(status="scheduled", metadata=metadata)
    job = bench.registry.update_status("a", end)
    assert {name: value for name, value in job.metadata.items() if value is not None} == {"image": "i:1"}


def test_metadata_and_labels_are_merged_and_other_fields_replaced(bench: Bench) -> None:
    """None unsets, and what is not mentioned stays; an empty object adds nothing."""
    bench.place(metadata={"a": 1, "b": 1}, labels={"x": "1"}, owner="ada", error_code="E", verified_outputs=["o1"])
    job = bench.registry.update_status(
        "a", "running", metadata={"b": 2}, labels={"y": "2"}, error_code=None, verified_outputs=["o2"]
    )
    history = {"label_history": [{"labels": {"y": "2"}, "at": job.updated_at, "by": None, "id": job.write_id}]}
    assert (job.metadata, job.labels) == ({"a": 1, "b": 2, **history}, {"x": "1", "y": "2"})
    assert (job.owner, job.error_code, job.verified_outputs) == ("ada", None, ("o2",))
    assert bench.registry.update_fields("a", metadata={}, labels={}).metadata == job.metadata
    assert bench.registry.update_fields("a", metadata=None).metadata == {}


def test_one_is_not_true(bench: Bench) -> None:
    """Values that only Python takes for equal are a change, and it is written."""
    bench.place(metadata={"a": 1})
    assert bench.registry.update_fields("a", metadata={"a": True}).metadata["a"] is True


def test_what_changes_nothing_writes_nothing(bench: Bench) -> None:
    """Neither a revision nor a time is spent on it."""
    value = bench.place(owner="ada", tasks_completed=3)
    bench.registry.update_status("a", "running", owner="ada")
    bench.registry.update_fields("a", owner="ada")
    bench.registry.update_progress("a", 3, start=True)
    assert (bench.bytes(), bench.line.calls["put"], bench.told) == (value, 0, [])


@pytest.mark.parametrize("call", ["update_status", "finalize_job"])
def test_an_unknown_status_is_a_usage_error_that_lists_the_good_ones(registry: JobRegistry, call: str) -> None:
    """Checked before anything is read: whether there is such a job does not matter."""
    with pytest.raises(UsageError, match=r"invalid status 'runing': expected one of pending, .*Did you mean 'running'"):
        getattr(registry, call)("nobody", "runing")

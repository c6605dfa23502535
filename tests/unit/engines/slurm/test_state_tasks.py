"""What scontrol, sacct and sbatch print, as Slurm 24.11 has printed it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mopsjobs.engines.slurm.state import SlurmShards, parse_sacct, parse_scontrol, parse_submission
from support.slurm_commands import task, waiting

NOON = datetime(2026, 11, 26, 20, tzinfo=UTC)
"""1795723200 seconds after 1970."""


def test_shards_that_wait_are_one_entry() -> None:
    """A command or a comment that looks like a field changes nothing."""
    name = "seir-1.mops-jobs"
    assert parse_scontrol(waiting("ReqNodeNotAvail,_UnavailableNodes:n1")) == [
        SlurmShards(12, name, "PENDING", 0, 4, "ReqNodeNotAvail,_UnavailableNodes:n1", partition="main")
    ]


def test_a_shard_that_began_has_its_end() -> None:
    line = task(2, "FAILED", reason="NonZeroExitCode", exit_code="1:0", restarts=1)
    ended = NOON.replace(minute=1)
    assert parse_scontrol(line) == [
        SlurmShards(12, "seir-1.mops-jobs", "FAILED", 2, 1, "NonZeroExitCode", 1, 0, 1, NOON, ended, "main")
    ]


@pytest.mark.parametrize(
    ("text", "first", "count"), [("0-3%2", 0, 4), ("1,3,5-7", 1, 5), ("0-8:4", 0, 3), ("9", 9, 1), ("x", 0, 1)]
)
def test_a_list_of_tasks_is_counted(text: str, first: int, count: int) -> None:
    line = f"JobId=1 ArrayJobId=1 ArrayTaskId={text} JobName=a JobState=PENDING"
    assert [(one.first, one.shards) for one in parse_scontrol(line)] == [(first, count)]


def test_the_numbers_of_tasks_keep_their_holes() -> None:
    line = "JobId=1 ArrayJobId=1 ArrayTaskId={} JobName=a JobState=PENDING"
    found = [parse_scontrol(line.format(text))[0].numbers for text in ("3,5-7", "0-8:4", "2-3", "9")]
    assert [list(numbers) for numbers in found] == [[3, 5, 6, 7], [0, 4, 8], [2, 3], [9]]
    (accounted,) = parse_sacct("12_[3,5-7%2]|a|CANCELLED|0:0|Unknown|1795723260\n")
    assert list(accounted.numbers) == [3, 5, 6, 7]


def test_lines_of_another_form_are_left_out() -> None:
    assert parse_scontrol("No jobs in the system\nJobId=x JobState=RUNNING\nJobId=1\n\n") == []
    assert parse_sacct("sacct: error\n12_0|a|RUNNING\n") == []


def test_accounts_have_the_ends_of_shards() -> None:
    """`CANCELLED by` has the uid. Shards that never began share a line."""
    text = (
        "12_0|seir-1.mops-jobs|COMPLETED|0:0|1795723200|1795723260\n"
        "12_1|seir-1.mops-jobs|OUT_OF_MEMORY|0:125|1795723200|1795723260\n"
        "12_[2-3%2]|seir-1.mops-jobs|CANCELLED by 1000|0:0|Unknown|1795723260\n"
    )
    found = parse_sacct(text)
    assert [(one.array_id, one.state, one.first, one.shards, one.reason) for one in found] == [
        (12, "COMPLETED", 0, 1, None), (12, "OUT_OF_MEMORY", 1, 1, None), (12, "CANCELLED", 2, 2, "by uid 1000"),
    ]  # fmt: skip
    assert (found[1].signal, found[0].started_at, found[2].started_at) == (125, NOON, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12\n", (12, None)),
        ("12;lab\n", (12, "lab")),
        ("a plugin says hello\n13\n", (13, None)),
        ("", None),
        ("x", None),
    ],
)
def test_sbatch_prints_the_id_of_the_array(text: str, expected: tuple[int, str | None] | None) -> None:
    assert parse_submission(text) == expected

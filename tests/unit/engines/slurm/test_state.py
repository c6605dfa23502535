"""What scontrol, sacct and sbatch print, as Slurm 24.11 has printed it, and the state of a job by that."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mopsjobs.engines.base import EngineTimes, ShardEnd
from mopsjobs.engines.slurm.state import (
    SlurmShards,
    newest,
    parse_sacct,
    parse_scontrol,
    parse_submission,
    state_of,
    times_of,
)
from support.slurm_commands import task, waiting

NOON = datetime(2026, 11, 26, 20, tzinfo=UTC)
"""1795723200 seconds after 1970."""

RUNS = task(0, "RUNNING", end="Unknown")
DONE = task(0, "COMPLETED")


def test_each_line_of_scontrol_is_an_entry() -> None:
    """A command or a comment that looks like a field changes nothing. Lines of another form are left out."""
    name, reason = "seir-1.mops-jobs", "ReqNodeNotAvail,_UnavailableNodes:n1"
    waits = SlurmShards(12, name, "PENDING", (range(4),), reason)
    ended = SlurmShards(12, name, "FAILED", (range(2, 3),), "NonZeroExitCode", 1, 0, 1, NOON, NOON.replace(minute=1))
    failed = task(2, "FAILED", reason="NonZeroExitCode", exit_code="1:0", restarts=1)
    text = f"No jobs in the system\n{waiting(reason)}\nJobId=x JobState=RUNNING\n{failed}\nJobId=1\n\n"
    assert parse_scontrol(text) == [waits, ended]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0-3%2", [0, 1, 2, 3]), ("1,3,5-7", [1, 3, 5, 6, 7]), ("0-8:4", [0, 4, 8]), ("9", [9]), ("x", [0])],
)
def test_a_list_of_tasks_keeps_its_holes(text: str, numbers: list[int]) -> None:
    (found,) = parse_scontrol(f"JobId=1 ArrayJobId=1 ArrayTaskId={text} JobName=a JobState=PENDING")
    assert ([number for part in found.parts for number in part], found.shards) == (numbers, len(numbers))


def test_accounts_have_the_ends_of_shards() -> None:
    """`CANCELLED by` has the uid. Shards that never began share a line, with holes or without."""
    text = (
        "sacct: error\n12_0|a|RUNNING\n"
        "12_1|seir-1.mops-jobs|OUT_OF_MEMORY|0:125|1795723200|1795723260\n"
        "12_[2-3,7%2]|seir-1.mops-jobs|CANCELLED by 1000|0:15|Unknown|1795723260\n"
    )
    ended = NOON.replace(minute=1)
    found = parse_sacct(text)
    assert found == [
        SlurmShards(12, "seir-1.mops-jobs", "OUT_OF_MEMORY", (range(1, 2),), None, 0, 125, 0, NOON, ended),
        SlurmShards(
            12, "seir-1.mops-jobs", "CANCELLED", (range(2, 4), range(7, 8)), "by uid 1000", 0, 15, 0, None, ended
        ),
    ]
    assert state_of(found[1:]).detail == "3 shards were cancelled in Slurm by uid 1000 (CANCELLED)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("12\n", (12, None)), ("12;lab\n", (12, "lab")), ("a plugin says hello\n13\n", (13, None)), ("x", None)],
)
def test_sbatch_prints_the_id_of_the_array(text: str, expected: tuple[int, str | None] | None) -> None:
    assert parse_submission(text) == expected


@pytest.mark.parametrize(
    ("reason", "detail", "is_stuck"),
    [
        ("Priority", "jobs of a higher priority come first", False),
        ("QOSMaxJobsPerUserLimit", "a limit of the QOS is reached", False),
        ("AssocGrpCpuLimit", "a limit of the account is reached", False),
        ("JobHeldUser", "its user holds it; release it: scontrol release 12", True),
        ("DependencyNeverSatisfied", "a job that it depends on has failed, so it never begins", True),
        ("SomethingNew", "Slurm has not started it", False),
        (
            "ReqNodeNotAvail,_UnavailableNodes:n[1-2]",
            "nodes that it needs are down, drained or reserved (UnavailableNodes:n[1-2])",
            False,
        ),
    ],
)
def test_a_job_that_waits_says_why(reason: str, detail: str, *, is_stuck: bool) -> None:
    """In Slurm's word, and in a sentence. A job whose turn never comes is marked as suspect."""
    state = state_of(parse_scontrol(waiting(reason)))
    assert state[:4] == ("pending", reason.partition(",")[0], detail, is_stuck)


@pytest.mark.parametrize(
    ("lines", "phase", "reason", "detail"),
    [
        ([RUNS], "running", None, None),
        ([task(0, "COMPLETING")], "running", None, None),
        ([DONE, task(1, "EXPEDITING")], "running", None, None),
        ([RUNS, waiting()], "running", None, "4 shards wait: no node is free that has what it asks for"),
        ([task(0, "SUSPENDED")], "running", "SUSPENDED", "Slurm has suspended 1 shard"),
        (
            [RUNS, task(1, "NODE_FAIL")], "running", "NODE_FAIL", "1 shard lost its node (NODE_FAIL)",
        ),
        ([DONE, task(1, "COMPLETED")], "succeeded", None, None),
        (
            [DONE, task(1, "TIMEOUT"), task(2, "TIMEOUT")], "failed", "TIMEOUT",
            "2 shards reached the time limit of the job (TIMEOUT); 1 shard completed",
        ),
        ([task(0, "FAILED", exit_code="124:0")], "failed", "TIMEOUT",
         "1 shard stopped ahead of the time limit of the job (TIMEOUT)"),
        ([task(0, "FAILED", exit_code="126:0")], "failed", "SetupFailed",
         "1 shard ended, since the setup failed (SetupFailed)"),
        ([task(0, "FAILED", exit_code="1:0")], "failed", "FAILED", "1 shard failed with exit code 1 (FAILED)"),
        ([task(0, "FAILED", exit_code="0:9")], "failed", "FAILED", "1 shard was killed by signal 9 (FAILED)"),
        ([task(0, "OUT_OF_MEMORY", exit_code="0:125"), task(1, "CANCELLED")], "failed", "OUT_OF_MEMORY",
         "1 shard exceeded the memory of the job (OUT_OF_MEMORY); 1 shard was cancelled in Slurm (CANCELLED)"),
        ([task(0, "PREEMPTED")], "failed", "PREEMPTED",
         "1 shard was ended for jobs of a higher priority (PREEMPTED)"),
        ([task(0, "PENDING", reason="BeginTime", restarts=2, end="Unknown")], "pending", "BeginTime",
         "its time to begin has not come; after a requeue, that takes up to two minutes; requeued 2 times"),
        ([waiting(), task(9, "NODE_FAIL")], "pending", "Resources",
         "no node is free that has what it asks for; 1 shard lost its node (NODE_FAIL)"),
    ],
)  # fmt: skip
def test_shards_that_differ_are_told_by_the_worst(
    lines: list[str], phase: str, reason: str | None, detail: str | None
) -> None:
    assert state_of(parse_scontrol("\n".join(lines)))[:3] == (phase, reason, detail)


def test_lost_shards_are_told_one_by_one() -> None:
    """The ledger then has the tasks that they had in hand."""
    lines = [DONE, task(1, "OUT_OF_MEMORY", exit_code="0:125"), task(3, "FAILED", exit_code="1:0")]
    lost = (ShardEnd(1, "OUT_OF_MEMORY", is_out_of_memory=True), ShardEnd(3, "FAILED", 1))
    assert state_of(parse_scontrol("\n".join(lines))).lost == lost
    assert state_of(parse_scontrol("\n".join([RUNS, *lines[1:]]))).lost == lost


def test_shards_that_were_cancelled_before_they_began_have_lost_nothing() -> None:
    """Slurm gives their end as their start. The others keep their numbers."""
    never = task(4, "CANCELLED", end="1795723200")
    failed = task(5, "NODE_FAIL").replace("ArrayTaskId=5", "ArrayTaskId=5,8-9")
    shards = parse_scontrol(f"{never}\n{failed}")
    assert [end.shard for end in state_of(shards).lost] == [5, 8, 9]
    assert times_of(parse_scontrol(never)).started_at is None
    account = parse_sacct("12_[2-3]|seir-1.mops-jobs|CANCELLED by 1000|0:0|None|1795723260")
    assert (state_of(account).lost, times_of(account).started_at) == ((), None)


def test_a_job_ends_with_its_last_shard() -> None:
    """While a shard is active, there is no end. Shards that wait have no start."""
    assert times_of(parse_scontrol(f"{DONE}\n{RUNS}")) == EngineTimes(NOON, None)
    assert times_of(parse_scontrol(f"{DONE}\n{task(1, 'EXPEDITING')}")) == EngineTimes(NOON, None)
    assert times_of(parse_scontrol(DONE)) == EngineTimes(NOON, NOON.replace(minute=1))
    assert times_of(parse_scontrol(waiting())) == EngineTimes()


def test_the_newest_of_several_arrays_counts() -> None:
    old = parse_scontrol(DONE)
    new = [one._replace(array_id=30) for one in parse_scontrol(waiting())]
    assert newest([*old, *new]) == new
    assert newest([]) == []

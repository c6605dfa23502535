"""The state of a job from the states of its shards, and the words for it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mopsjobs.engines.base import EngineTimes, ShardEnd
from mopsjobs.engines.slurm.state import newest, parse_sacct, parse_scontrol, state_of, times_of
from support.slurm_commands import task, waiting

RUNS = task(0, "RUNNING", end="Unknown")
DONE = task(0, "COMPLETED")


@pytest.mark.parametrize(
    ("reason", "detail"),
    [
        ("Priority", "jobs of a higher priority come first"),
        ("Resources", "no node is free that has what it asks for"),
        ("QOSMaxJobsPerUserLimit", "a limit of the QOS is reached"),
        ("AssocGrpCpuLimit", "a limit of the account is reached"),
        ("JobHeldUser", "its user holds it; release it: scontrol release 12"),
        ("JobHeldAdmin", "an administrator holds it"),
        ("Dependency", "jobs that it depends on have not ended"),
        ("DependencyNeverSatisfied", "a job that it depends on has failed, so it never begins"),
        ("PartitionTimeLimit", "its time limit is above that of the partition"),
        ("SomethingNew", "Slurm has not started it"),
        ("None", "Slurm has not looked at it yet"),
    ],
)
def test_a_job_that_waits_says_why(reason: str, detail: str) -> None:
    """In Slurm's word, and in a sentence."""
    assert state_of(parse_scontrol(waiting(reason)))[:3] == ("pending", reason, detail)


def test_nodes_that_are_missing_are_named() -> None:
    state = state_of(parse_scontrol(waiting("ReqNodeNotAvail,_UnavailableNodes:n[1-2]")))
    assert (state.reason, state.detail) == (
        "ReqNodeNotAvail",
        "nodes that it needs are down, drained or reserved (UnavailableNodes:n[1-2])",
    )


def test_a_requeued_shard_waits_again() -> None:
    state = state_of(parse_scontrol(task(0, "PENDING", reason="BeginTime", restarts=2, end="Unknown")))
    assert state.reason == "BeginTime"
    assert str(state.detail).endswith("after a requeue, that takes up to two minutes; requeued 2 times")


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
        ([waiting(), task(9, "NODE_FAIL")], "pending", "Resources",
         "no node is free that has what it asks for; 1 shard lost its node (NODE_FAIL)"),
    ],
)  # fmt: skip
def test_shards_that_differ_are_told_by_the_worst(
    lines: list[str], phase: str, reason: str | None, detail: str | None
) -> None:
    assert state_of(parse_scontrol("\n".join(lines)))[:3] == (phase, reason, detail)


@pytest.mark.parametrize(("reason", "is_stuck"), [("JobHeldUser", True), ("BadConstraints", True), ("Priority", False)])
def test_a_job_whose_turn_never_comes_is_stuck(reason: str, is_stuck: bool) -> None:
    """By that, it is marked as suspect."""
    assert state_of(parse_scontrol(waiting(reason))).is_stuck == is_stuck


def test_lost_shards_are_told_one_by_one() -> None:
    """The ledger then has the tasks that they had in hand."""
    lines = [DONE, task(1, "OUT_OF_MEMORY", exit_code="0:125"), task(3, "FAILED", exit_code="1:0")]
    lost = (ShardEnd(1, "OUT_OF_MEMORY", is_out_of_memory=True), ShardEnd(3, "FAILED", 1))
    assert state_of(parse_scontrol("\n".join(lines))).lost == lost


def test_shards_that_were_cancelled_before_they_began_have_lost_nothing() -> None:
    """Slurm gives their end as their start. The others keep their numbers."""
    never = task(4, "CANCELLED", end="1795723200")
    failed = task(5, "NODE_FAIL").replace("ArrayTaskId=5", "ArrayTaskId=5,8-9")
    shards = parse_scontrol(f"{never}\n{failed}")
    assert [end.shard for end in state_of(shards).lost] == [5, 8, 9]
    assert times_of(parse_scontrol(never)).started_at is None
    account = parse_sacct("12_[2-3]|seir-1.mops-jobs|CANCELLED by 1000|0:0|None|1795723260")
    assert (state_of(account).lost, times_of(account).started_at) == ((), None)


def test_an_account_names_who_cancelled_a_shard() -> None:
    state = state_of(parse_sacct("12_0|seir-1.mops-jobs|CANCELLED by 1000|0:15|1795723200|1795723260"))
    assert state.detail == "1 shard was cancelled in Slurm by uid 1000 (CANCELLED)"


def test_a_job_ends_with_its_last_shard() -> None:
    """While a shard is active, there is no end. Shards that wait have no start."""
    began = datetime(2026, 11, 26, 20, tzinfo=UTC)
    assert times_of(parse_scontrol(f"{DONE}\n{RUNS}")) == EngineTimes(began, None)
    assert times_of(parse_scontrol(f"{DONE}\n{task(1, 'EXPEDITING')}")) == EngineTimes(began, None)
    assert times_of(parse_scontrol(DONE)) == EngineTimes(began, began.replace(minute=1))
    assert times_of(parse_scontrol(waiting())) == EngineTimes()


def test_the_newest_of_several_arrays_counts() -> None:
    old = parse_scontrol(DONE)
    new = [one._replace(array_id=30) for one in parse_scontrol(waiting())]
    assert newest([*old, *new]) == new
    assert newest([]) == []

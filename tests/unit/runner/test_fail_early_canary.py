"""The first tasks of a job: when the others may begin, and when the job is to end."""

from __future__ import annotations

import itertools

import pytest

from mopsjobs.runner import fail_early as module
from mopsjobs.runner.fail_early import WAIT_SECONDS, Canary, TaskGate, canary_size
from mopsjobs.runner.shard import Shard
from support.cli import Clock
from support.runs import sets_of, study


def _gate(canary: Canary, count: int, most_in_hand: int | None = None) -> TaskGate:
    return TaskGate(enumerate(study(sets_of(count)).tasks()), count, canary, most_in_hand)


def _now(gate: TaskGate) -> list[int]:
    """Return the positions of the tasks that may begin now."""
    return [task[0] for task in itertools.takewhile(lambda task: task is not None, gate) if task is not None]


def _end(gate: TaskGate, *failures: bool) -> None:
    for has_failed in failures:
        gate.note(1, is_final=True, has_failed=has_failed)


@pytest.mark.parametrize(
    ("shard", "total", "size"),
    [
        (Shard("job"), 1000, 0),
        (Shard("job", first=3), 2, 3),
        (Shard("job", scheduler="tcp://here:1"), 101, 1),
        (Shard("job", scheduler="tcp://here:1"), 100, 0),
        (Shard("job", shards=4, wait_for_manifest=True), 101, 1),
        (Shard("job", shards=4, wait_for_manifest=True, first=0), 101, 0),
    ],
)
def test_a_cluster_runs_one_task_first_by_default(shard: Shard, total: int, size: int) -> None:
    assert canary_size(shard, total) == size


def test_the_others_begin_when_the_first_have_ended() -> None:
    gate = _gate(Canary(2), 5)
    assert _now(gate) == [0, 1]
    _end(gate, False)
    assert _now(gate) == []
    _end(gate, True)
    assert _now(gate) == [2, 3, 4]


def test_failures_alone_lead_to_tries_further_on() -> None:
    """The tasks between them are not lost: they come after a success."""
    gate = _gate(canary := Canary(1), 20)
    assert _now(gate) == [0]
    _end(gate, True)
    assert _now(gate) == [5, 10, 15, 1]
    _end(gate, True, True)
    assert _now(gate) == []
    _end(gate, False)
    assert _now(gate) == [2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14, 16, 17, 18, 19]
    assert not canary.has_failed


@pytest.mark.parametrize(("size", "tries"), [(1, 5), (4, 5), (8, 8)])
def test_a_job_ends_after_failures_alone(size: int, tries: int) -> None:
    gate = _gate(canary := Canary(size), 30)
    while _now(gate):
        assert not canary.has_failed
        _end(gate, *[True] * gate.in_hand)
    assert canary.has_failed
    assert canary.tries == tries


def test_one_success_is_enough_for_many_failures() -> None:
    gate = _gate(canary := Canary(8), 30)
    assert len(_now(gate)) == 8
    _end(gate, *[True] * 7, False)
    assert not canary.has_failed
    assert len(_now(gate)) == 22


def test_what_ended_before_counts() -> None:
    """Of another shard, or of an earlier run. Old failures alone never end a job: one has to be new."""
    assert Canary(3, 1, 2).has_passed
    assert not Canary(3, 1, 1).has_passed
    gate = _gate(canary := Canary(1, 0, 9), 30)
    assert len(_now(gate)) == 1
    assert not canary.has_failed
    _end(gate, True)
    assert canary.has_failed


def test_the_others_wait_for_a_limited_time(clock: Clock) -> None:
    gate = TaskGate(enumerate(study(sets_of(3)).tasks()), 3, Canary(1, clock=clock.monotonic))
    assert _now(gate) == [0]
    clock.advance(seconds=WAIT_SECONDS - 1)
    assert _now(gate) == []
    clock.advance(seconds=1)
    assert _now(gate) == [1, 2]


def test_a_pool_has_no_more_tasks_than_it_may() -> None:
    gate = _gate(Canary(0), 5, most_in_hand=2)
    assert _now(gate) == [0, 1]
    _end(gate, True)
    assert _now(gate) == [2]


def test_skipped_tasks_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are kept in memory, whatever the job."""
    monkeypatch.setattr(module, "MAX_SKIPPED", 3)
    gate = _gate(Canary(1), 100)
    assert _now(gate) == [0]
    _end(gate, True)
    assert _now(gate) == [4, 8, 12, 16]

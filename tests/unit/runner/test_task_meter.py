"""What a runner says about its tasks: what they used, when the last one ends, and which ones take too long."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from mopsjobs.ledger.attempt import NO_USAGE, Outcome, Resumed
from mopsjobs.registry.usage import ShardUsage
from mopsjobs.runner.pools.base import TaskAtWork, TaskResult
from mopsjobs.runner.task_meter import TaskMeter
from mopsjobs.studies.study import Task
from support.cli import Clock
from support.existing import existing


class _Events:
    """Keeps the events that it is given."""

    def __init__(self) -> None:
        self.emitted: list[dict[str, Any]] = []

    def emit(self, kind: str, **fields: object) -> None:
        self.emitted.append({"kind": kind, **fields})


class _Pool:
    """A pool whose tasks are set by the test."""

    def __init__(self, workers: int | None) -> None:
        self.workers = workers
        self.is_ready = True
        self.is_waiting = False
        self.tasks: list[TaskAtWork] = []

    def at_work(self) -> list[TaskAtWork]:
        return self.tasks


def _task(number: int) -> Task:
    return Task(number, MappingProxyType({"x": number}), "p" * 64, 1)


def _meter(pool: _Pool, todo: int, clock: Clock, events: _Events | None = None, **more: Any) -> TaskMeter:
    return TaskMeter(
        pool,  # type: ignore[arg-type]
        todo,
        events or _Events(),  # type: ignore[arg-type]
        clock=clock.monotonic,
        wall_clock=lambda: clock.now().timestamp(),
        **more,
    )


def _result(number: int, seconds: float | None, *, is_final: bool = True, **used: Any) -> TaskResult:
    usage = NO_USAGE._replace(seconds=seconds, **used)
    return TaskResult(number, _task(number), {}, None, usage=usage, is_final=is_final)


def _end_twenty(meter: TaskMeter, clock: Clock) -> None:
    """End twenty tasks of 10 s, one each 5 s."""
    for number in range(20):
        clock.advance(seconds=5)
        meter.add(_result(number, 10.0))


@pytest.fixture
def clock() -> Clock:
    """Return a clock that stands."""
    return Clock()


def test_usage_is_that_of_all_attempts(clock: Clock) -> None:
    """Also of those that are tried once more. Workers are held as long as the run takes."""
    meter = _meter(_Pool(4), 10, clock)
    assert meter.measured() == (ShardUsage(None, None, 0.0, None), None)
    meter.add(_result(0, 2.0, user_seconds=1.0, system_seconds=0.5, max_rss_bytes=2**20))
    meter.add(_result(1, 3.0, is_final=False, user_seconds=1.0, max_rss_bytes=2**30))
    meter.add(_result(2, None))
    clock.advance(seconds=5)
    meter.update()
    assert meter.measured()[0] == ShardUsage(2.5, 5.0, 20.0, 2**30)


def test_checkpoints_save_what_an_unwanted_end_would_have_cost(clock: Clock) -> None:
    """Not the work of a program that ends by itself and asks to be started again."""
    meter = _meter(_Pool(1), 1, clock)
    asked = _result(0, 2.0, is_final=False)._replace(outcome=Outcome.PREEMPTED)
    meter.add(asked)
    meter.add(asked._replace(attempt=2, resumed=Resumed(1, "2", 2.0)))
    meter.add(asked._replace(attempt=3, resumed=Resumed(2, "4", 4.0), outcome=Outcome.DIED))
    assert meter.measured()[0].saved_seconds is None
    meter.add(_result(0, 1.0)._replace(attempt=4, resumed=Resumed(2, "4", 4.0)))
    assert meter.measured()[0].saved_seconds == 4.0


def test_the_range_counts_down_and_is_of_the_wall_clock(clock: Clock) -> None:
    """The record gets times of day, and the line on a terminal what is left."""
    pool = _Pool(2)
    meter = _meter(pool, 100, clock)
    _end_twenty(meter, clock)
    start = clock.now().timestamp()
    pool.tasks = [TaskAtWork(number, _task(number), 1, start - 5, None) for number in (20, 21)]
    meter.update()
    forecast, left = meter.measured()[1], meter.left
    assert forecast is not None
    assert left is not None
    assert (forecast.earliest, forecast.latest) == (start + left.earliest, start + left.latest)
    assert 300 < left.earliest <= 400 <= left.latest < 600
    assert (forecast.at_work, forecast.stragglers) == (2, None)
    clock.advance(seconds=0.5)
    meter.update()
    assert meter.left == (left.earliest - 0.5, left.latest - 0.5)


def test_the_range_ends_with_the_tasks_that_may_follow(clock: Clock) -> None:
    """Eighty tasks of 10 s are left to two workers, and four times as many may be needed."""
    pool = _Pool(2)
    meter = _meter(pool, 100, clock, more=240)
    _end_twenty(meter, clock)
    meter.update()
    assert meter.left is not None
    assert 300 < meter.left.earliest <= 400
    assert 1500 < meter.left.latest < 1800


@pytest.mark.parametrize(("limit", "is_late"), [(200.0, True), (390.0, False), (10_000.0, False)])
def test_a_forecast_stays_within_the_time_limit(clock: Clock, limit: float, is_late: bool) -> None:
    """A shard that will not finish before has no forecast, and says so once."""
    pool, events, start = _Pool(2), _Events(), clock.now().timestamp() + 100
    stops_at = start + limit
    meter = _meter(pool, 100, clock, events, stops_at=stops_at, on_late=lambda seconds: f"in {seconds:g} s")
    _end_twenty(meter, clock)
    for _ in range(2):
        pool.tasks = [TaskAtWork(number, _task(number), 1, start - 5, None) for number in (20, 21)]
        meter.update()
        forecast = existing(meter.measured()[1])
        assert (forecast.latest is None, meter.left is None) == (is_late, is_late)
        assert forecast.time_limit == (stops_at if is_late else None)
        assert is_late or (forecast.latest or 0.0) <= stops_at
        clock.advance(seconds=2)
    assert [event["text"] for event in events.emitted] == ([f"in {limit:g} s"] if is_late else [])


def test_a_straggler_is_told_once(clock: Clock) -> None:
    """By an event; the forecast has the oldest one and their number, until they end."""
    pool, events = _Pool(3), _Events()
    meter = _meter(pool, 60, clock, events)
    for number in range(40):
        meter.add(_result(number, 9.0 + number % 3))
    begin = clock.now().timestamp()
    pool.tasks = [TaskAtWork(number, _task(number), 1, begin - 40 * (number - 39), "node") for number in (40, 41)]
    for _ in range(3):
        clock.advance(seconds=2)
        meter.update()
    assert [(event["kind"], event["task"]) for event in events.emitted] == [("straggler", 40), ("straggler", 41)]
    assert events.emitted[0]["text"] == "at work for 42s; 95 % of the finished tasks took at most 11s"
    forecast = existing(meter.measured()[1])
    assert forecast.stragglers is not None
    assert forecast.stragglers[:3] == (2, 41, begin - 80)
    pool.tasks = []
    clock.advance(seconds=2)
    meter.update()
    assert meter.measured()[1] == (None, None, 0, None) or meter.measured()[1].stragglers is None  # type: ignore[union-attr]
    assert len(events.emitted) == 2


def test_the_last_task_hangs_if_it_takes_ten_times_as_long_as_the_others(clock: Clock) -> None:
    """And for a minute. It is told though fewer than 20 tasks have finished; then nothing tells when the run ends."""
    pool, events = _Pool(4), _Events()
    meter = _meter(pool, 17, clock, events)
    for number in range(16):
        clock.advance(seconds=1)
        meter.add(_result(number, 1.0))
    pool.tasks = [TaskAtWork(16, _task(16), 1, clock.now().timestamp(), None)]
    for seconds, hangs in ((59.0, False), (2.0, True), (839.0, True)):
        clock.advance(seconds=seconds)
        meter.update()
        forecast = existing(meter.measured()[1])
        assert (forecast.stragglers is not None) == hangs
        assert (forecast.latest is None) == (meter.left is None) == hangs
    assert [event["text"] for event in events.emitted] == [
        "at work for 1m 1s; 95 % of the finished tasks took at most 1s"
    ]


def test_a_cluster_that_does_not_tell_what_runs_is_estimated(clock: Clock) -> None:
    """Three tasks per thread were sent, and none tells when it began. What ends per second tells how many run."""
    pool = _Pool(None)
    meter = _meter(pool, 200, clock)
    for number in range(100):
        clock.advance(seconds=2.5)
        meter.add(_result(number, 10.0))
        pool.tasks = [TaskAtWork(sent, _task(sent), 1, None, None) for sent in range(number + 1, number + 13)]
        meter.update()
    forecast, left = meter.measured()[1], meter.left
    assert forecast is not None
    assert forecast.at_work == 4
    assert left is not None
    assert left.earliest <= 250 <= left.latest
    assert 700 < (meter.measured()[0].held_core_seconds or 0) < 1_100

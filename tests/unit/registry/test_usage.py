"""Usage and forecasts in records: each shard writes its own, a job's are made of them, and odd values do no harm."""

from __future__ import annotations

import json

import pytest

from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.status import JobStatus
from mopsjobs.registry.transitions import ShardReport, with_shard
from mopsjobs.registry.usage import (
    NO_SHARD_USAGE,
    ShardForecast,
    ShardUsage,
    Stragglers,
    job_forecast,
    shard_usage,
    total_usage,
)
from support.records import AT

FIRST = ShardUsage(10.0, 12.0, 16.0, 2**20)
SECOND = ShardUsage(5.0, 6.0, 16.0, 2**30)
LATE = Stragglers(1, 17, 1_000.0, 9.5)


def _state() -> JobState:
    return JobState(job_id="job", status=JobStatus.RUNNING, created_at=AT, updated_at=AT, tasks_total=100)


def _read(**fields: object) -> JobState:
    """Return a record with more fields, as it is read."""
    return JobState.from_json(json.dumps({**json.loads(_state().to_json()), **fields}).encode())


def _report(usage: ShardUsage | None = None, forecast: ShardForecast | None = None, **more: bool) -> ShardReport:
    return ShardReport(1, 0, usage=usage, forecast=forecast, **more)


def test_each_shard_writes_its_own_usage() -> None:
    """A job's is the sum, and the largest peak. A report without usage leaves what is there."""
    state = with_shard(_state(), 0, 2, _report(FIRST), AT)
    state = with_shard(state, 1, 2, _report(SECOND), AT)
    state = with_shard(state, 1, 2, _report(None), AT)
    again = JobState.from_json(state.to_json())
    assert (shard_usage(again, 0), shard_usage(again, 1), shard_usage(again, 7)) == (FIRST, SECOND, NO_SHARD_USAGE)
    assert total_usage(again) == ShardUsage(15.0, 18.0, 32.0, 2**30)
    assert total_usage(again).cpu_efficiency == 15 / 32


def test_a_job_ends_with_its_last_shard() -> None:
    """Earliest and latest are the greatest of all shards with work left; tasks at work and stragglers are sums."""
    state = with_shard(_state(), 0, 2, _report(forecast=ShardForecast(None, None, 4)), AT)
    state = with_shard(state, 1, 2, _report(forecast=ShardForecast(2_000.0, 3_000.0, 3, LATE)), AT)
    assert job_forecast(state) == ShardForecast(None, None, 7, LATE)
    older = LATE._replace(oldest=3, since=900.0)
    state = with_shard(state, 0, 2, _report(forecast=ShardForecast(2_500.0, 2_600.0, 4, older)), AT)
    assert job_forecast(state) == ShardForecast(2_500.0, 3_000.0, 7, older._replace(tasks=2))
    done = with_shard(state, 1, 2, _report(is_done=True), AT)
    assert job_forecast(done) == ShardForecast(2_500.0, 2_600.0, 4, older)
    assert job_forecast(with_shard(done, 0, 2, _report(is_done=True), AT)) is None


def test_no_shard_knows_the_end_before_all_have_begun() -> None:
    """The tasks of a shard that waits for its turn are in no forecast."""
    state = with_shard(_state(), 0, 2, _report(forecast=ShardForecast(2_000.0, 3_000.0, 4)), AT)
    assert job_forecast(state) == ShardForecast(None, None, 4)
    # A shard that is at work and does not say when it ends leaves the end open, too.
    state = with_shard(state, 1, 2, _report(), AT)
    state = with_shard(state, 0, 2, _report(forecast=ShardForecast(2_000.0, 3_000.0, 4)), AT)
    assert job_forecast(state) == ShardForecast(None, None, 4)


@pytest.mark.parametrize("name", ["usage", "forecast"])
@pytest.mark.parametrize(
    "value", [7, "x", [], {"0": 1}, {"0": [1]}, {"0": [1, 2, 3, "x"]}, {"0": [True, 1, 1, 1]}, {"0": [-1, 1, 1, 1]}]
)
def test_values_of_another_form_keep_a_record_readable(name: str, value: object) -> None:
    """The record is shown without them, and keeps them until a runner writes its own."""
    state = _read(**{name: value})
    assert getattr(state, name) == {}
    assert "shown as empty" in state.foreign[name].reason
    assert json.loads(state.to_json())[name] == value
    assert json.loads(state.evolve(tasks_total=3).to_json())[name] == value
    written = with_shard(state, 0, 1, _report(FIRST, ShardForecast(1.0, 2.0, 3)), AT)
    assert json.loads(written.to_json())["usage"] == {"0": [10.0, 12.0, 16.0, 2**20]}
    assert json.loads(written.to_json())["forecast"] == {"0": [1.0, 2.0, 3]}


def test_half_a_range_is_no_range() -> None:
    """A latest end alone says nothing. An earliest one alone is a time limit, which versions without it read so too."""
    state = _read(forecast={"0": [None, 5.0, 2]}, shards={"0": [0, 0, 0]})
    assert job_forecast(state) == ShardForecast(None, None, 2)
    state = _read(forecast={"0": [5.0, None, 2]}, shards={"0": [0, 0, 0]})
    assert job_forecast(state) == ShardForecast(None, None, 2, time_limit=5.0)


def test_a_job_has_the_last_time_limit_of_its_shards() -> None:
    """It ends with its last shard. The limit of a shard is known before all have begun, and beside its stragglers."""
    first = ShardForecast(None, None, 4, LATE, time_limit=2_000.0)
    state = with_shard(_state(), 0, 3, _report(forecast=first), AT)
    assert json.loads(state.to_json())["forecast"] == {"0": [2_000.0, None, 4, 1, 17, 1_000.0, 9.5]}
    assert job_forecast(JobState.from_json(state.to_json())) == first
    state = with_shard(state, 1, 3, _report(forecast=ShardForecast(None, None, 3, time_limit=2_500.0)), AT)
    state = with_shard(state, 2, 3, _report(forecast=ShardForecast(1_500.0, 1_600.0, 2)), AT)
    assert job_forecast(state) == ShardForecast(None, None, 9, LATE, time_limit=2_500.0)

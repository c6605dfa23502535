"""Reports of a shard: usage goes on where an earlier run left it, and costs no write of its own."""

from __future__ import annotations

import pytest

from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.notes import WAITS_FOR
from mopsjobs.registry.usage import ShardForecast, ShardUsage
from mopsjobs.runner.reporter import CORES_TEXT, Counts, Reporter
from mopsjobs.runner.shard import Shard
from mopsjobs.store.memory import InMemoryVersionedStore


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the threads of reporters from writing, so that the test alone does."""
    monkeypatch.setattr("mopsjobs.runner.reporter.PROGRESS_SECONDS", 3600.0)


@pytest.fixture
def registry() -> JobRegistry:
    made = JobRegistry(InMemoryVersionedStore())
    made.register_job("job", tasks_total=10)
    return made


def _reporter(registry: JobRegistry, shard: int = 0, counts: Counts | None = None) -> Reporter:
    return Reporter(registry, Shard(job_id="job", number=shard, shards=2), counts or Counts(), lambda: None)


def _run(registry: JobRegistry, shard: int, used: ShardUsage, *, is_done: bool = False) -> None:
    """Report one run over a shard."""
    reporter = _reporter(registry, shard)
    reporter.measured = lambda: (used, ShardForecast(1.0, 2.0, 3))
    reporter.finish(is_done=is_done)


def test_a_restart_goes_on_with_the_usage_of_the_record(registry: JobRegistry) -> None:
    """Of its own shard. A run that ends leaves no forecast."""
    _run(registry, 0, ShardUsage(1.0, 2.0, 3.0, 50))
    _run(registry, 1, ShardUsage(10.0, 20.0, 30.0, None))
    _run(registry, 0, ShardUsage(100.0, 200.0, 300.0, 20), is_done=True)
    state = registry.require_job("job")
    assert state.usage == {"0": [101.0, 202.0, 303.0, 50], "1": [10.0, 20.0, 30.0, None]}
    assert state.forecast == {}
    assert state.revision == 4


def test_a_second_attempt_at_the_last_report_counts_nothing_twice(registry: JobRegistry) -> None:
    """The numbers are those of the run, and not what was added since the last report."""
    reporter = _reporter(registry)
    reporter.measured = lambda: (ShardUsage(1.0, 2.0, 3.0, 50), None)
    for _ in range(3):
        reporter.finish(is_done=False)
    assert registry.require_job("job").usage == {"0": [1.0, 2.0, 3.0, 50]}


def test_a_run_that_measures_nothing_writes_no_usage(registry: JobRegistry) -> None:
    """A shard whose tasks were all complete before: what the record has stays."""
    _run(registry, 0, ShardUsage(1.0, 2.0, 3.0, 50))
    reporter = _reporter(registry)
    reporter.finish(is_done=True)
    assert registry.require_job("job").usage == {"0": [1.0, 2.0, 3.0, 50]}


def test_a_job_cancelled_while_it_waited_for_a_core_has_ended(registry: JobRegistry) -> None:
    """Its runner learns so by the next report, also if it has got a core since it read the record last."""
    counts = Counts()
    reporter = _reporter(registry, counts=counts)
    reporter.waits_for = CORES_TEXT
    reporter.report()
    assert registry.require_job("job").metadata[WAITS_FOR] == CORES_TEXT
    registry.cancel_job("job")
    reporter.waits_for = None
    counts.add(completed=1)
    reporter.report()
    assert reporter.ended.is_set()
    state = reporter.finish(is_done=True)
    assert state is not None
    assert state.status == "cancelled"

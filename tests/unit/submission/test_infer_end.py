"""The end of a job whose runner has not reported it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mopsjobs.engines.base import EngineTimes
from mopsjobs.ledger.format import chunk_key, encode_attempts
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.transitions import ShardReport
from mopsjobs.registry.usage import ShardUsage
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.manifest import Manifest, load_manifest, manifest_key
from mopsjobs.studies.outputs import output_key
from mopsjobs.submission.infer_end import RunnerEnd, infer_end
from mopsjobs.submission.session import Session
from mopsjobs.utils.times import parse_time
from support.cli import START
from support.doubles import FaultyStore
from support.engines import add_kubernetes_job
from support.ledgers import BUNDLE, attempt
from support.runs import sets_of, study


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore(InMemoryVersionedStore())


def _lost_job(store: FaultyStore, registry: JobRegistry | None = None) -> JobState:
    """Return a job of eight tasks in two shards. Of shard 1, task 1 is complete, and task 3 has failed."""
    manifest = Manifest(job_id="a", study=study(sets_of(8)), bundle=BUNDLE, only=tuple(range(7)), deferred=(7,))
    store.create_if_absent(manifest_key("a"), manifest.to_json())
    tasks = list(manifest.study.tasks())
    store.create_if_absent(output_key("a", tasks[1], "result.json"), b"{}")
    store.create_if_absent(chunk_key("a", 1, "ab", 0), encode_attempts("a", 1, [attempt(3, "failed")]))
    return add_kubernetes_job(registry or JobRegistry(store), "running", metadata={"k8s_shards": "2"})


def test_what_a_lost_job_used_is_that_of_the_ledger(store: FaultyStore) -> None:
    """Its shard reported before the last attempts ended. What it held its workers for is at least the time of tasks."""
    state, registry = _lost_job(store), JobRegistry(store)
    ended_late = [attempt(0, max_rss_bytes=9 * 2**20), attempt(2, seconds=None, max_rss_bytes=None)]
    store.create_if_absent(chunk_key("a", 0, "ab", 0), encode_attempts("a", 0, ended_late))
    for shard, usage in enumerate((ShardUsage(0.5, 1.0, 1.5, 8), ShardUsage(7.0, 2.0, 30.0, None))):
        state = registry.report_shard("a", shard, 2, ShardReport(0, 0, False, usage=usage))
    session = Session(registry_url="memory:", open_registry=lambda: registry, env={})
    ended = infer_end(state, RunnerEnd(code="LOST", reason="The runner ended"), session).state
    assert ended.usage == {"0": [4.5, 2.5, 2.5, 9 * 2**20], "1": [7.0, 2.5, 30.0, 50 * 2**20]}


def test_an_end_that_a_shard_has_decided_is_the_reason_of_a_lost_job(store: FaultyStore) -> None:
    """The shard told the others to stop, and one of them was lost before it did."""
    registry = JobRegistry(store)
    _lost_job(store)
    state = registry.update_fields("a", error_code="FAILURES", error_message="Ended by --max-failures 0: 1 failed")
    session = Session(registry_url="memory:", open_registry=lambda: registry, env={})
    ended = infer_end(state, RunnerEnd(code="LOST", reason="The runner ended"), session).state
    assert (ended.status, ended.error_code) == ("partial", "FAILURES")
    assert str(ended.error_message).startswith("Ended by --max-failures 0: 1 failed; 6 of 7 tasks left no complete")


@pytest.mark.parametrize("seconds", [18.0, None])
def test_a_job_does_not_end_before_its_last_attempt(store: FaultyStore, seconds: float | None) -> None:
    """Its runner may have left an older trace. Of an attempt that was lost, the start is known."""
    registry = JobRegistry(store, now=lambda: START)
    state = _lost_job(store, registry)
    begun = START + timedelta(minutes=1)
    last = attempt(0, "died", started_at=begun.timestamp(), seconds=seconds)
    store.create_if_absent(chunk_key("a", 0, "ab", 0), encode_attempts("a", 0, [last, attempt(5, "died")]))
    later = JobRegistry(store, now=lambda: START + timedelta(hours=1))
    session = Session(registry_url="memory:", open_registry=lambda: later, env={})
    end = RunnerEnd("LOST", "The runner ended", EngineTimes(ended_at=START + timedelta(seconds=2)))
    ended = infer_end(state, end, session).state
    assert parse_time(str(ended.transitions[-1]["at"])) == begun + timedelta(seconds=seconds or 0)


def test_an_output_of_another_size_than_its_ledger_says_is_not_complete(store: FaultyStore) -> None:
    """A store may keep a part of what a killed runner sent. `validate` and a download say the same of it."""
    state, registry = _lost_job(store), JobRegistry(store)
    tasks = list(Manifest(job_id="a", study=study(sets_of(8)), bundle=BUNDLE).study.tasks())
    for number, content in ((0, b""), (2, b"0123456789")):
        store.create_if_absent(output_key("a", tasks[number], "result.json"), content)
    done = [attempt(number, output_bytes=10) for number in (0, 2)]
    store.create_if_absent(chunk_key("a", 0, "ab", 0), encode_attempts("a", 0, done))
    session = Session(registry_url="memory:", open_registry=lambda: registry, env={})
    validation = infer_end(state, RunnerEnd(code="LOST", reason="The runner ended"), session)
    assert (validation.state.tasks_completed, validation.tasks_verified) == (2, 2)
    assert output_key("a", tasks[0], "result.json") in validation.state.missing_outputs


@pytest.mark.parametrize("end", ["cancelled", "partial"])
def test_an_end_that_stays_counts_what_was_delivered_after_it(store: FaultyStore, end: str) -> None:
    """Outputs, and an attempt that changes no count. Outputs that are deleted lower nothing."""
    registry = JobRegistry(store)
    _lost_job(store)
    state = registry.report_shard("a", 1, 2, ShardReport(1, 1))
    session = Session(registry_url="memory:", open_registry=lambda: registry, env={})
    lost = RunnerEnd("LOST", "The runner ended")
    before = infer_end(registry.cancel_job("a") if end == "cancelled" else state, lost, session).state
    assert (before.status, before.tasks_completed, before.tasks_failed) == (end, 1, 1)
    assert infer_end(before, lost, session).state == before
    tasks = list(load_manifest(store, "a").study.tasks())
    store.create_if_absent(output_key("a", tasks[3], "result.json"), b"{}")
    better = infer_end(before, lost, session).state
    assert (better.status, better.tasks_completed, better.tasks_failed) == (end, 2, 1)
    store.delete(output_key("a", tasks[3], "result.json"))
    store.create_if_absent(chunk_key("a", 1, "ab", 1), encode_attempts("a", 1, [attempt(3, "failed")]))
    noted = infer_end(better, lost, session).state
    assert (noted.tasks_completed, noted.tasks_failed, noted.revision) == (2, 1, better.revision + 1)
    assert infer_end(noted, lost, session).state == noted

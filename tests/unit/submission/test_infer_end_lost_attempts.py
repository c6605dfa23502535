"""The ledger of a job whose shards were lost: which tasks they had in hand."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mopsjobs.engines.base import EngineTimes, ShardEnd
from mopsjobs.ledger.format import chunk_key, encode_attempts
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.transitions import ShardReport
from mopsjobs.registry.usage import ShardUsage
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.manifest import Manifest, manifest_key
from mopsjobs.studies.outputs import output_key
from mopsjobs.submission.infer_end import RunnerEnd, infer_end, record_lost
from mopsjobs.submission.session import Session
from mopsjobs.utils.times import parse_time
from support.cli import START
from support.doubles import FaultyStore
from support.engines import add_kubernetes_job
from support.ledgers import BUNDLE, attempt, attempts_in
from support.runs import sets_of, study

KILLED = ShardEnd(1, "OOMKilled", 137, is_out_of_memory=True)
GONE = ShardEnd(0, "FailedIndexes")


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore(InMemoryVersionedStore())


def _lost_job(store: FaultyStore, registry: JobRegistry | None = None, **notes: str) -> JobState:
    """Return a job of eight tasks in two shards. Of shard 1, task 1 is complete, and task 3 has failed."""
    manifest = Manifest(job_id="a", study=study(sets_of(8)), bundle=BUNDLE, only=tuple(range(7)), deferred=(7,))
    store.create_if_absent(manifest_key("a"), manifest.to_json())
    tasks = list(manifest.study.tasks())
    store.create_if_absent(output_key("a", tasks[1], "result.json"), b"{}")
    store.create_if_absent(chunk_key("a", 1, "ab", 0), encode_attempts("a", 1, [attempt(3, "failed")]))
    metadata = {f"k8s_{name}": value for name, value in {"shards": "2", **notes}.items()}
    return add_kubernetes_job(registry or JobRegistry(store), "running", metadata=metadata)


def _found(store: FaultyStore) -> list[tuple[int, str, str]]:
    attempts = [one for one in attempts_in(store.inner) if one.started_at is None]
    return sorted((one.task, str(one.outcome), "" if one.error is None else one.error.message) for one in attempts)


@pytest.mark.parametrize(
    ("notes", "numbers"),
    [({}, [0, 5]), ({"workers": "2"}, [0, 2, 5]), ({"cpu": "3500m"}, [0, 2, 4, 5]), ({"workers": "x" * 9}, [0, 5])],
)
def test_the_first_open_tasks_of_a_lost_shard_were_in_hand(
    store: FaultyStore, notes: dict[str, str], numbers: list[int]
) -> None:
    """One per worker, without those that have ended or are left to a later resume. Several readers write once."""
    state = _lost_job(store, **notes)
    for _ in range(2):
        record_lost(store, state, [GONE, KILLED])
    found = _found(store)
    assert [task for task, *_ in found] == numbers
    assert found[0] == (0, "lost", "its runner ended: shard 0 FailedIndexes")
    assert (5, "oom", "its runner ended: shard 1 OOMKilled (exit code 137)") in found


def test_a_store_that_is_away_costs_the_ledger_alone(store: FaultyStore) -> None:
    """How the job ends is decided all the same."""
    state = _lost_job(store)
    store.fail_next(1, "create_if_absent")
    record_lost(store, state, [KILLED])
    assert _found(store) == []


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

"""One shard of a job whose store is gone before, while or after it works: nothing is lost, nothing done twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.outputs import results_prefix
from mopsjobs.registry import JobRegistry
from mopsjobs.runner import reporter
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.store.sqlite import SQLiteVersionedStore
from support_cli import LineStore
from support_runs import calls, code, place, record, sets_of, study, until, work


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is written and read more often than a real one, and an outage is looked at sooner."""
    monkeypatch.setattr(reporter, "PROGRESS_SECONDS", 0.02)
    monkeypatch.setattr(reporter, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(reporter, "MAX_PAUSE", 0.1)


@pytest.fixture
def line() -> LineStore:
    """A store across a line that can be cut."""
    return LineStore(InMemoryVersionedStore())


@pytest.fixture
def registry(line: LineStore) -> JobRegistry:
    return JobRegistry(line, sleep=lambda _seconds: None)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return code(tmp_path / "code")


Given = Callable[..., None]


@pytest.fixture
def given(line: LineStore, registry: JobRegistry, model: Path) -> Given:
    """Submits job `job` over some parameter sets, without launching it."""

    def submitted(sets: list[dict[str, Any]], **fields: Any) -> None:
        manifest = place(line, "job", study(sets, **fields), model)
        registry.register_job("job", tasks_total=manifest.tasks_total)

    return submitted


def _results(store: VersionedStore) -> dict[str, bytes]:
    prefix = results_prefix("job")
    return {entry.key[len(prefix) :]: entry.value or b"" for entry in store.scan(prefix)}


def _counts(registry: JobRegistry) -> tuple[str, int, int, int]:
    state = record(registry)
    return state.status, state.tasks_completed, state.tasks_failed, state.tasks_verified


# --- a store that is gone -------------------------------------------------------------------------------------------


def test_an_outage_while_it_works_costs_nothing(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    """The work goes on, what it gives is kept on this disk, and is delivered when the store answers again."""
    noted, gate = tmp_path / "calls", tmp_path / "gate"
    sets = sets_of(12, calls=str(noted))
    sets[11]["gate"] = str(gate)
    given(sets)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(work, line, registry, tmp_path / "job")
        until(lambda: sum(calls(noted).values()) >= 2, "the work to begin")
        line.down = True
        until(lambda: sum(calls(noted).values()) == 12, "the work to go on")
        gate.touch()
        kept = SQLiteVersionedStore(tmp_path / "job" / "outbox.db")
        waiting = until(lambda: list(kept.list_keys("results/")), "outputs in the outbox")
        kept.close()
        line.down = False
        ran, _ = running.result(30)
    assert waiting
    assert ran == ("succeeded", 12, 0, True)
    assert calls(noted) == dict.fromkeys(range(12), 1)
    assert len(_results(line)) == 12
    assert _counts(registry) == ("succeeded", 12, 0, 12)


def test_an_outage_that_outlasts_its_patience_leaves_the_rest_to_the_next_run(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    noted, gate = tmp_path / "calls", tmp_path / "gate"
    given(sets_of(4, calls=str(noted), gate=str(gate)))
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(work, line, registry, tmp_path / "job", patience=0.0)
        until(lambda: len(calls(noted)) == 2, "both workers at work")
        line.down = True
        gate.touch()
        ran, said = running.result(30)
    assert ran == (None, 4, 0, False)
    assert said == ["The registry does not answer; outputs are kept here. Running the job again delivers them."]
    line.down = False
    assert _results(line) == {}
    ran, _ = work(line, registry, tmp_path / "job")
    assert ran == ("succeeded", 4, 0, True)
    assert calls(noted) == dict.fromkeys(range(4), 1)
    assert _counts(registry) == ("succeeded", 4, 0, 4)


def test_a_store_that_comes_only_after_the_start_is_waited_for(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    given(sets_of(3))
    line.down = True
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(work, line, registry, tmp_path / "job")
        before = line.calls["get"]
        until(lambda: line.calls["get"] > before + 2, "it to ask for the manifest")
        line.down = False
        assert running.result(30)[0] == ("succeeded", 3, 0, True)


@pytest.mark.parametrize("method", ["scan", "put", "get"])
def test_a_store_that_fails_at_the_very_end_is_asked_again(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path, method: str
) -> None:
    """All shards are done: whoever is the last must see to the end."""
    given(sets_of(4))
    failed = threading.Event()

    def fails_once(key: str) -> None:
        if key.endswith("state.json") and record(JobRegistry(line.inner)).status == "running":
            state = record(JobRegistry(line.inner))
            if state.shards.get("0", [0, 0, 0])[2] and not failed.is_set():
                failed.set()
                line.fail_next(2, method)

    line.before_put = fails_once
    ran, _ = work(line, registry, tmp_path / "job")
    assert failed.is_set()
    assert ran.status == "succeeded"
    assert _counts(registry) == ("succeeded", 4, 0, 4)


def test_a_registry_that_never_heard_of_the_job_is_told(
    line: LineStore, registry: JobRegistry, model: Path, tmp_path: Path
) -> None:
    """It was gone when the job was submitted: manifest and bundle wait in the job's directory."""
    directory = tmp_path / "job"
    directory.mkdir()
    kept = SQLiteVersionedStore(directory / "outbox.db")
    place(kept, "job", study(sets_of(5)), model)
    kept.close()
    ran, _ = work(line, registry, directory)
    assert ran == ("succeeded", 5, 0, True)
    assert _counts(registry) == ("succeeded", 5, 0, 5)
    assert (record(registry).tasks_total, record(registry).metadata["model"]) == (5, "model:simulate")
    assert len(list(line.list_keys("bundles/"))) == 1
    assert line.get("jobs/job/manifest.json") is not None

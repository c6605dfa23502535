"""A run notes the environment of the model, once, and never waits or fails because of it."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from mopsjobs.errors import StoreAccessError
from mopsjobs.ledger import environment
from mopsjobs.ledger.environment import Environment, EnvironmentNotes, environment_keys, parse_environment
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.base import VersionedStore, VersionToken
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.manifest import load_manifest
from mopsjobs.studies.outputs import output_key
from mopsjobs.submission.relay import deliver
from support.cli import LineStore
from support.runs import MODEL, Given, code, counts, record, results, sets_of, work

pytestmark = pytest.mark.usefixtures("quick_runner")


def notes_of(store: VersionedStore) -> list[Environment]:
    found = [store.get(key) for key in environment_keys(store, "job")]
    return [parse_environment(one.value) for one in found if one is not None]


def test_all_shards_and_later_runs_share_one_note(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    given(sets_of(4))
    for number in (0, 1):
        work(line, registry, tmp_path / f"shard-{number}", number=number, shards=2)
    work(line, registry, tmp_path / "again")
    (note,) = notes_of(line)
    assert note.python == ".".join(map(str, sys.version_info[:3]))
    assert "pytest" in note.packages


def test_a_note_is_there_also_if_the_model_cannot_be_loaded(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    """Then the packages are the likely reason."""
    given(sets_of(1), model="model:nothing")
    with pytest.raises(Exception, match="nothing"):
        work(line, registry, tmp_path / "job")
    assert len(notes_of(line)) == 1


def test_the_interpreter_here_is_not_noted_as_that_of_tasks_on_dask(
    given: Given, line: LineStore, registry: JobRegistry, model: Path, tmp_path: Path
) -> None:
    """The reduce function runs beside the runner. So it may have other packages than the tasks."""
    code(model, f"{MODEL}\ndef count(params, tasks):\n    return len(tasks)\n")
    given(sets_of(1), reduce="model:count")
    (task,) = load_manifest(line, "job").study.tasks()
    line.create_if_absent(output_key("job", task, "result.json"), b"{}")
    work(line, registry, tmp_path / "job", scheduler="tcp://127.0.0.1:9")
    assert "all/reduced-1/result.json" in results(line, "job")
    assert (record(registry).status, notes_of(line)) == ("succeeded", [])


def test_an_interpreter_without_a_description_changes_nothing(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mopsjobs.runner.pools.open_pool.describe_interpreter", lambda python, env: None)
    given(sets_of(2))
    work(line, registry, tmp_path / "job")
    assert counts(registry)[:2] == ("succeeded", 2)
    assert notes_of(line) == []


def test_the_end_of_a_run_waits_for_a_description_only_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "CLOSE_SECONDS", 0.01)
    notes, gate = EnvironmentNotes("job", InMemoryVersionedStore(), InMemoryVersionedStore()), threading.Event()
    notes.describe(gate.wait)
    notes.close()
    gate.set()
    notes.close()


def test_a_note_that_the_store_lacks_waits_in_the_outbox() -> None:
    store, outbox = LineStore(InMemoryVersionedStore()), InMemoryVersionedStore()
    store.down = True
    notes = EnvironmentNotes("job", store, outbox)
    for _ in range(3):
        notes.note({"python": "3.12"})
    notes.close()
    assert [note.python for note in notes_of(outbox)] == ["3.12"]
    store.down = False
    assert deliver(outbox, store, "job", lambda key, reason: None)
    assert [note.python for note in notes_of(store)] == ["3.12"]


@pytest.mark.parametrize("answer", [None, [], 7])
def test_an_invalid_description_is_not_noted(answer: object) -> None:
    """A Dask worker may send anything."""
    store = InMemoryVersionedStore()
    notes = EnvironmentNotes("job", store, InMemoryVersionedStore())
    notes.note(answer)
    notes.close()
    assert notes_of(store) == []


def test_a_note_that_is_refused_stops_no_output(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    """Credentials may be limited to some keys. Outputs and notes do not share them."""

    class WithoutNotes(LineStore):
        def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
            if key.startswith("environments/"):
                raise StoreAccessError("Not allowed to write environments.")
            return super().create_if_absent(key, value)

    given(sets_of(4))
    work(WithoutNotes(line), registry, tmp_path / "job")
    assert counts(registry)[:2] == ("succeeded", 4)
    assert notes_of(line) == []

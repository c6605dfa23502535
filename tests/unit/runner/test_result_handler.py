"""The ledger of a shard that is run in this process: every attempt, as it ended."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines.job_dir import JobDir
from mopsjobs.events.format import parse_chunk
from mopsjobs.ledger.attempt import Attempt
from mopsjobs.ledger.format import parse_chunk_key
from mopsjobs.ledger.scalars import parse_scalars
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.studies.outputs import find_complete_tasks
from support.cli import LineStore
from support.doubles import FaultyStore
from support.ledgers import attempts_in
from support.runs import PATIENCE, Given, calls, code, place, sets_of, study, until, work

pytestmark = pytest.mark.usefixtures("quick_runner")


def _attempts(store: VersionedStore) -> list[Attempt]:
    """Return all attempts in the ledger, by task and start."""
    return sorted(attempts_in(store), key=lambda one: (one.task, one.started_at or 0))


def _ends(store: VersionedStore) -> list[tuple[int, int, str]]:
    return [(one.task, one.attempt, str(one.outcome)) for one in _attempts(store)]


def test_every_attempt_of_a_job_is_in_its_ledger(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    sets = sets_of(5)
    sets[1]["fail"] = True
    sets[2]["die"] = str(tmp_path / "died")
    sets[3]["always_die"] = True
    given(sets)
    work(line, registry, tmp_path / "job")
    assert _ends(line) == [
        (0, 1, "succeeded"),
        (1, 1, "failed"),
        (2, 1, "died"),
        (2, 2, "succeeded"),
        (3, 1, "died"),
        (3, 2, "died"),
        (4, 1, "succeeded"),
    ]
    first, failed, *_ = _attempts(line)
    assert (first.host, first.python) == (platform.node(), platform.python_version())
    assert first.output_bytes == len(json.dumps({"seed": 0, "x": 0})) - 1 + len(str(next(study(sets).tasks()).seed))
    assert None not in (first.started_at, first.seconds, first.user_seconds, first.max_rss_bytes)
    assert failed.error is not None
    assert failed.error[1:] == ("ValueError", "model.py:27", "as asked")
    events = [event for entry in line.scan("events/") for event in parse_chunk(entry.value or b"")]
    (told,) = [event for event in events if event["kind"] == "task_failed" and event["task"] == 1]
    assert told["error_key"] == failed.error.key
    error: Any = told["error"]
    assert error["at"] == "model.py:27"
    assert not list(JobDir(tmp_path / "job").ledger(0).iterdir())
    (entry,) = [entry for entry in line.scan("ledger/") if entry.key.endswith(".scalars.gz")]
    key = parse_chunk_key(entry.key)
    assert key is not None
    scalars = dict(parse_scalars(entry.value or b"", key))
    assert (sorted(scalars), scalars[4]["result.json/x"]) == ([0, 2, 4], 4)


def test_outputs_that_cannot_be_taken_make_a_failed_attempt(
    given: Given, line: LineStore, registry: JobRegistry, model: Path, tmp_path: Path
) -> None:
    code(model, "def simulate(params, seed):\n    return {'a': b''}\n")
    given(sets_of(1), outputs=["a", "b"])
    work(line, registry, tmp_path / "job")
    (one,) = _attempts(line)
    assert one.error is not None
    assert (str(one.outcome), one.error.type, one.error.where) == ("failed", "MissingOutput", None)


def test_what_a_task_has_logged_is_kept_and_stored_first(
    given: Given, line: LineStore, registry: JobRegistry, model: Path, tmp_path: Path
) -> None:
    """A task is complete with the outputs that its study names: a killed runner must not leave those alone."""
    text = "import sys\ndef simulate(params, seed):\n"
    text += "    sys.modules['mops_jobs_worker'].at_work['task']['logged'] = {'peak': 2.5}\n"
    code(model, text + "    return {'a.json': {'x': 1}, 'other': b''}\n")
    given(sets_of(1), outputs=["a.json"])
    stored: list[str] = []
    create = line.create_if_absent

    def note(key: str, value: bytes) -> str | None:
        stored.append(key.rpartition("/")[2])
        return create(key, value)

    line.create_if_absent = note  # type: ignore[method-assign]
    work(line, registry, tmp_path / "job")
    assert [name for name in stored if name in ("a.json", "logged.json", "other")] == ["logged.json", "a.json"]
    (entry,) = [entry for entry in line.scan("ledger/") if entry.key.endswith(".scalars.gz")]
    key = parse_chunk_key(entry.key)
    assert key is not None
    assert parse_scalars(entry.value or b"", key) == [(0, {"a.json/x": 1, "logged.json/peak": 2.5})]


def test_attempts_at_work_of_a_cancelled_job_are_cancelled(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    noted = tmp_path / "calls"
    given(sets_of(8, calls=str(noted), gate=str(tmp_path / "never")))
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(work, line, registry, tmp_path / "job")
        until(lambda: len(calls(noted)) == 2, "both workers at work")
        registry.cancel_job("job")
        running.result(PATIENCE)
    assert _ends(line) == [(0, 1, "cancelled"), (1, 1, "cancelled")]


def test_an_outage_until_the_end_delivers_the_ledger_with_the_outputs(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mopsjobs.ledger.writer.CLOSE_SECONDS", 0.05)
    given(sets_of(3))
    faulty = FaultyStore(line)
    faulty.fail_next(40, "create_if_absent")
    ran, _ = work(faulty, registry, tmp_path / "job")
    assert ran[:4] == ("succeeded", 3, 0, True)
    assert _ends(line) == [(0, 1, "succeeded"), (1, 1, "succeeded"), (2, 1, "succeeded")]


RUNNER = """
import sys
from pathlib import Path
from support.runs import work
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
store = SQLiteVersionedStore(Path(sys.argv[1]) / "store.db")
print(work(store, JobRegistry(store), Path(sys.argv[1]) / "job")[0].status, flush=True)
"""


def _journals(place: Path) -> bytes:
    return b"".join(path.read_bytes() for path in (place / "job/ledger/0").glob("*"))


def test_a_killed_runner_leaves_the_ledger_to_the_next(tmp_path: Path) -> None:
    """What was at work is lost; each task has one attempt that succeeded."""
    store = SQLiteVersionedStore(tmp_path / "store.db")
    registry = JobRegistry(store)
    noted, gate = tmp_path / "calls", tmp_path / "gate"
    sets = sets_of(6, calls=str(noted))
    for one in sets[2:]:
        one["gate"] = str(gate)
    manifest = place(store, "job", study(sets), code(tmp_path / "code"))
    registry.register_job("job", **manifest.record_fields())
    start = [sys.executable, "-c", RUNNER, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(start, stdout=subprocess.PIPE, env=env) as process:
        until(lambda: len(calls(noted)) == 4 and find_complete_tasks(store, manifest).count == 2, "two at work")
        until(lambda: all(begin in _journals(tmp_path) for begin in (b"[2,1,", b"[3,1,")))
        process.send_signal(signal.SIGKILL)
    gate.touch()
    assert subprocess.check_output(start, env=env) == b"succeeded\n"
    ends = _ends(store)
    assert sorted(task for task, _, outcome in ends if outcome == "succeeded") == list(range(6))
    assert [task for task, _, outcome in ends if outcome == "lost"] == [2, 3]
    assert len(ends) == 8

"""Results of attempts: the ledger of a shard that is run in this process, and the thread that sends outputs."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines.job_dir import JobDir
from mopsjobs.errors import StoreUnavailableError
from mopsjobs.events.format import parse_chunk
from mopsjobs.ledger.attempt import Attempt
from mopsjobs.ledger.format import parse_chunk_key
from mopsjobs.ledger.scalars import parse_scalars
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.keys import OUTPUT
from mopsjobs.runner import results as module
from mopsjobs.runner.results import OutputSender
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.studies.outputs import find_complete_tasks
from mopsjobs.submission.relay import deliver
from support.doubles import FaultyStore
from support.ledgers import attempts_in
from support.runs import PATIENCE, Bench, calls, code, place, sets_of, study, until

pytestmark = pytest.mark.usefixtures("quick_runner")


def _attempts(store: VersionedStore) -> list[Attempt]:
    """Return all attempts in the ledger, by task and start."""
    return sorted(attempts_in(store), key=lambda one: (one.task, one.started_at or 0))


def _ends(store: VersionedStore) -> list[tuple[int, int, str]]:
    return [(one.task, one.attempt, str(one.outcome)) for one in _attempts(store)]


def _scalars(store: VersionedStore) -> dict[int, Any]:
    """Return the scalars in all chunks of the ledger, by task."""
    found: dict[int, Any] = {}
    for entry in store.scan("ledger/"):
        key = parse_chunk_key(entry.key)
        if key is not None and key.kind == "scalars":
            found |= dict(parse_scalars(entry.value or b"", key))
    return found


def test_every_attempt_of_a_job_is_in_its_ledger(bench: Bench) -> None:
    sets = sets_of(5)
    sets[1]["fail"] = True
    sets[2]["die"] = str(bench.path / "died")
    sets[3]["always_die"] = True
    bench.given(sets)
    bench.work()
    assert _ends(bench.line) == [
        (0, 1, "succeeded"),
        (1, 1, "failed"),
        (2, 1, "died"),
        (2, 2, "succeeded"),
        (3, 1, "died"),
        (3, 2, "died"),
        (4, 1, "succeeded"),
    ]
    first, failed, *_ = _attempts(bench.line)
    assert (first.host, first.python) == (platform.node(), platform.python_version())
    assert first.output_bytes == len(json.dumps({"seed": 0, "x": 0})) - 1 + len(str(next(study(sets).tasks()).seed))
    assert None not in (first.started_at, first.seconds, first.user_seconds, first.max_rss_bytes)
    assert failed.error is not None
    assert failed.error[1:] == ("ValueError", "model.py:27", "as asked")
    events = [event for entry in bench.line.scan("events/") for event in parse_chunk(entry.value or b"")]
    noted = [str(event["text"]) for event in events if event["kind"] == "runner"]
    again = [text for text in noted if text.endswith(": its worker died (SIGKILL); it is tried again")]
    assert sorted(text[:6] for text in again) == ["task 2", "task 3"]
    (told,) = [event for event in events if event["kind"] == "task_failed" and event["task"] == 1]
    assert told["error_key"] == failed.error.key
    error: Any = told["error"]
    assert error["at"] == "model.py:27"
    assert not list(JobDir(bench.path / "job").ledger(0).iterdir())
    scalars = _scalars(bench.line)
    assert (sorted(scalars), scalars[4]["result.json/x"]) == ([0, 2, 4], 4)


def test_what_a_task_has_logged_is_kept_and_stored_first(bench: Bench) -> None:
    """A task is complete with the outputs that its study names: a killed runner must not leave those alone."""
    text = "import sys\ndef simulate(params, seed):\n"
    text += "    sys.modules['mops_jobs_worker'].at_work['task']['logged'] = {'peak': 2.5}\n"
    code(bench.model, text + "    return {'a.json': {'x': 1}, 'other': b''}\n")
    bench.given(sets_of(1), outputs=["a.json"])
    stored: list[str] = []
    create = bench.line.create_if_absent

    def note(key: str, value: bytes) -> str | None:
        stored.append(key.rpartition("/")[2])
        return create(key, value)

    bench.line.create_if_absent = note  # type: ignore[method-assign]
    bench.work()
    assert [name for name in stored if name in ("a.json", "logged.json", "other")] == ["logged.json", "a.json"]
    assert _scalars(bench.line) == {0: {"a.json/x": 1, "logged.json/peak": 2.5}}


def test_an_outage_until_the_end_delivers_the_ledger_with_the_outputs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mopsjobs.ledger.writer.CLOSE_SECONDS", 0.05)
    bench.given(sets_of(3))
    faulty = FaultyStore(bench.line)
    faulty.fail_next(40, "create_if_absent")
    ran, _ = bench.work(store=faulty)
    assert ran[:4] == ("succeeded", 3, 0, True)
    assert _ends(bench.line) == [(0, 1, "succeeded"), (1, 1, "succeeded"), (2, 1, "succeeded")]


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


# --- the thread that sends outputs -----------------------------------------------------------------------------------


class Held(SQLiteVersionedStore):
    """An embedded store whose first transaction waits, and which notes the keys of each."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.go_on = threading.Event()
        self.is_waiting = threading.Event()
        self.is_gone = False
        self.transactions: list[list[str]] = []

    def create_all_if_absent(self, values: Sequence[tuple[str, bytes]]) -> None:
        self.is_waiting.set()
        assert self.go_on.wait(PATIENCE)
        self.transactions.append([key for key, _ in values])
        if self.is_gone:
            raise StoreUnavailableError("gone")
        super().create_all_if_absent(values)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Held]:
    """Return the store that is held."""
    with closing(Held(tmp_path / "registry.db")) as made:
        yield made


def _sent(store: Held, outbox: InMemoryVersionedStore, tasks: Sequence[Sequence[tuple[str, bytes]]]) -> list[str]:
    """Send the outputs of tasks, all of them while the first is written; return what each was told, in order."""
    told: list[str] = []
    sender = OutputSender(store, outbox, clock=lambda: 0.0)
    for number, outputs in enumerate(tasks):
        sender.put(
            list(outputs),
            lambda number=number: told.append(f"{number} done"),  # type: ignore[misc]
            lambda error, number=number: told.append(f"{number} {type(error).__name__}"),  # type: ignore[misc]
            before=lambda number=number: told.append(f"{number} begins"),  # type: ignore[misc]
        )
        assert store.is_waiting.wait(PATIENCE)
    store.go_on.set()
    sender.finish()
    return told


def test_outputs_that_wait_share_a_transaction(store: Held) -> None:
    """Each task begins before its outputs are written, and is done after that."""
    told = _sent(store, InMemoryVersionedStore(), [[(key, b"1")] for key in "abc"])
    assert store.transactions == [["a"], ["b", "c"]]
    assert told == ["0 begins", "0 done", "1 begins", "2 begins", "1 done", "2 done"]
    assert list(store.list_keys()) == ["a", "b", "c"]


def test_a_transaction_is_bounded(store: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes wait for it."""
    monkeypatch.setattr(module, "MAX_TRANSACTION_BYTES", 20)
    _sent(store, InMemoryVersionedStore(), [[(key, bytes(10))] for key in "abcdef"])
    assert store.transactions == [["a"], ["b", "c"], ["d", "e"], ["f"]]


def test_an_output_that_is_refused_fails_its_own_task_alone(store: Held) -> None:
    told = _sent(store, InMemoryVersionedStore(), [[("a", b"1")], [("b", b"1")], [("/c", b"1")], [("d", b"1")]])
    assert [line for line in told if "begins" not in line] == ["0 done", "1 done", "2 InvalidKeyError", "3 done"]
    assert list(store.list_keys()) == ["a", "b", "d"]


def test_outputs_of_an_outage_are_kept_and_delivered(store: Held) -> None:
    """One attempt is enough to learn of it: the outputs behind go into the outbox at once."""
    outbox = InMemoryVersionedStore()
    store.is_gone = True
    keys = [OUTPUT.key(job="job", param="0" * 64, seed=1, output=name) for name in "abc"]
    told = _sent(store, outbox, [[(key, b"1")] for key in keys])
    assert [line for line in told if "done" in line] == ["0 done", "1 done", "2 done"]
    assert (store.transactions, list(outbox.list_keys())) == ([keys[:1]], keys)
    store.is_gone = False
    with closing(SQLiteVersionedStore(store.path)) as again:
        assert deliver(outbox, again, "job", lambda _key, _error: None)
        assert (list(again.list_keys()), list(outbox.list_keys())) == (keys, [])

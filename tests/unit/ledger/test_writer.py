"""The ledger of a run: in the journal at once, in the store soon, in the outbox at the latest, and nothing twice."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.errors import StoreAccessError, StoreUnavailableError, ValueTooLargeError
from mopsjobs.ledger import writer as ledger_writer
from mopsjobs.ledger.attempt import Attempt, AttemptError, Outcome
from mopsjobs.ledger.writer import Ledger, begun_attempt
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from support.doubles import FaultyStore
from support.ledgers import attempts_in
from support.runs import PATIENCE, until

REASON = AttemptError("0123456789ab", "ValueError", "model.py:3", "bad")


def _ended(task: int, outcome: Outcome = Outcome.SUCCEEDED, attempt: int = 1) -> Attempt:
    error = REASON if outcome is Outcome.FAILED else None
    return Attempt(task, attempt, outcome, 1000.0, 1.5, 1.0, 0.25, 1024, "host", "3.12.1", error, 7)


def _found(store: VersionedStore) -> list[tuple[int, int, str]]:
    """Return task, attempt and outcome of all attempts in a store, in the order of the keys."""
    return [(one.task, one.attempt, str(one.outcome)) for one in attempts_in(store)]


class Stores:
    """A store, an outbox, and a directory for the journal."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = FaultyStore(InMemoryVersionedStore())
        self.outbox = InMemoryVersionedStore()
        self.seconds = 0.0
        self.ledgers: list[Ledger] = []
        self._runs = iter("abcdef")

    def ledger(self, store: VersionedStore | None = None, **more: Any) -> Ledger:
        ledger = Ledger(
            store or self.store, self.outbox, "job", 0, self.directory,
            clock=lambda: self.seconds, new_run=lambda: next(self._runs), **more,
        )  # fmt: skip
        self.ledgers.append(ledger)
        return ledger

    def files(self) -> list[str]:
        return sorted(path.name for path in self.directory.glob("*"))


@pytest.fixture
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stores]:
    """Return stores whose ledgers retry soon. Their threads end with the test: they draw pauses at random."""
    monkeypatch.setattr(ledger_writer, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(ledger_writer, "MAX_PAUSE", 0.01)
    made = Stores(tmp_path / "ledger")
    yield made
    for ledger in made.ledgers:
        ledger.close(0.0)
        ledger._writer.join(PATIENCE)


# --- the usual way --------------------------------------------------------------------------------------------------


def test_attempts_go_into_one_chunk_and_their_file_goes(stores: Stores) -> None:
    ledger = stores.ledger()
    ledger.begin([begun_attempt(0, 1, 1000.0, "host"), begun_attempt(1, 1, 1000.0, "host")])
    ledger.settle(ledger.add(_ended(0), is_settled=False))
    ledger.add(_ended(1, Outcome.FAILED), is_settled=True)
    assert stores.files() == ["a-000000.jsonl"]
    ledger.close()
    ledger.close()
    assert list(stores.store.list_keys()) == ["ledger/job/0.a-000000.attempts.gz"]
    assert _found(stores.store) == [(0, 1, "succeeded"), (1, 1, "failed")]
    assert stores.files() == []


def test_a_chunk_waits_for_the_outputs_of_all_its_attempts(stores: Stores) -> None:
    """Also if the next chunk could be sent."""
    ledger = stores.ledger()
    ticket = ledger.add(_ended(0), is_settled=False)
    ledger.add(_ended(1), is_settled=True)
    with ledger._changed:
        ledger._cut()
    ledger.add(_ended(2), is_settled=True)
    with ledger._changed:
        ledger._cut()
    until(lambda: _found(stores.store) == [(2, 1, "succeeded")])
    ledger.settle(ticket)
    until(lambda: len(_found(stores.store)) == 3)
    ledger.close()
    assert _found(stores.store) == [(0, 1, "succeeded"), (1, 1, "succeeded"), (2, 1, "succeeded")]


def test_a_refused_output_makes_its_attempt_failed(stores: Stores) -> None:
    ledger = stores.ledger()
    ledger.refuse(ledger.add(_ended(0), is_settled=False), REASON)
    ledger.close()
    assert _found(stores.store) == [(0, 1, "failed")]


@pytest.mark.parametrize(("run_seconds", "pause"), [(0.0, 5.0), (10_000.0, 100.0)])
def test_a_chunk_is_cut_after_five_seconds_or_a_share_of_the_run(
    stores: Stores, run_seconds: float, pause: float
) -> None:
    ledger = stores.ledger()
    stores.seconds = run_seconds
    ledger.add(_ended(0), is_settled=True)
    stores.seconds += pause - 0.5
    with ledger._changed:
        ledger._changed.notify()
    ledger.add(_ended(1), is_settled=True)
    assert _found(stores.store) == []
    stores.seconds += 2.0
    with ledger._changed:
        ledger._changed.notify()
    until(lambda: len(_found(stores.store)) == 2)
    ledger.close()


def test_a_full_chunk_is_cut_at_once(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_writer, "MAX_CHUNK_ATTEMPTS", 3)
    ledger = stores.ledger()
    for number in range(7):
        ledger.add(_ended(number), is_settled=True)
    until(lambda: len(_found(stores.store)) == 6)
    ledger.close()
    assert len(list(stores.store.list_keys())) == 3
    assert [task for task, *_ in _found(stores.store)] == list(range(7))


# --- outages and refusals -------------------------------------------------------------------------------------------


def test_an_outage_delays_a_chunk(stores: Stores) -> None:
    ledger = stores.ledger()
    stores.store.fail_next(3, "create_if_absent")
    stores.store.lose_reply_next(1)
    ledger.add(_ended(0), is_settled=True)
    with ledger._changed:
        ledger._cut()
    until(lambda: not stores.files())
    ledger.close()
    assert _found(stores.store) == [(0, 1, "succeeded")]


class Refusing(InMemoryVersionedStore):
    """A store that raises an error at each write."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def create_if_absent(self, key: str, value: bytes) -> Any:
        raise self._error


def test_what_the_store_does_not_take_goes_into_the_outbox_at_the_end(stores: Stores) -> None:
    """Also what killed runs left."""
    _leave(stores, [_ended(5)])
    ledger = stores.ledger(Refusing(StoreUnavailableError("away")))
    ledger.send_left(lambda _task: True)
    for number in range(3):
        ledger.add(_ended(number), is_settled=True)
        with ledger._changed:
            ledger._cut()
    ledger.close(0.05)
    assert sorted(_found(stores.outbox)) == [(number, 1, "succeeded") for number in (0, 1, 2, 5)]
    assert stores.files() == []


def test_a_store_that_forbids_the_ledger_leaves_it_in_the_journal(stores: Stores) -> None:
    """In the outbox, it would keep the job from its end."""
    ledger = stores.ledger(Refusing(StoreAccessError("forbidden")))
    ledger.add(_ended(0), is_settled=True)
    with ledger._changed:
        ledger._cut()
    until(lambda: ledger._writer.failure is not None, "the refusal")
    ledger.close(0.05)
    assert list(stores.outbox.list_keys()) == []
    assert stores.files() == ["a-000000.jsonl"]


def test_a_chunk_that_can_never_be_stored_is_given_up(stores: Stores) -> None:
    ledger = stores.ledger(Refusing(ValueTooLargeError("too large")))
    ledger.add(_ended(0), is_settled=True)
    ledger.close()
    assert stores.files() == []


def test_a_directory_that_cannot_be_written_stops_nothing(stores: Stores, caplog: pytest.LogCaptureFixture) -> None:
    """It is told once, and the ledger goes on in memory."""
    stores.directory.write_text("a file")
    with caplog.at_level(logging.WARNING):
        ledger = stores.ledger()
        for number in range(3):
            ledger.add(_ended(number), is_settled=True)
        ledger.close()
    assert [task for task, *_ in _found(stores.store)] == [0, 1, 2]
    assert len(caplog.records) == 1


# --- runs that were killed ------------------------------------------------------------------------------------------


def _leave(stores: Stores, ended: list[Attempt], begun: list[Attempt] | None = None, *, cut: bool = False) -> None:
    """Leave the journal of a run that was killed."""
    ledger = stores.ledger(Refusing(StoreUnavailableError("away")))
    ledger.begin(begun or [])
    for attempt in ended:
        ledger.write(ledger.add(attempt, is_settled=False))
        if cut:
            with ledger._changed:
                ledger._cut()


def _send_left(stores: Stores, is_complete: Callable[[int], bool]) -> None:
    ledger = stores.ledger()
    ledger.send_left(is_complete)
    ledger.close()


def test_what_a_killed_run_left_is_sent_under_its_own_keys(stores: Stores) -> None:
    """An attempt whose end was not seen, or whose outputs are not there, is lost."""
    _leave(stores, [_ended(0), _ended(1), _ended(2, Outcome.FAILED)], [begun_attempt(3, 1, 1000.0, "host")])
    _send_left(stores, lambda task: task == 0)
    assert list(stores.store.list_keys()) == ["ledger/job/0.a-000000.attempts.gz"]
    assert sorted(_found(stores.store)) == [(0, 1, "succeeded"), (1, 1, "lost"), (2, 1, "failed"), (3, 1, "lost")]
    assert stores.files() == []


def test_what_was_left_is_also_sent_at_the_end_of_a_run(stores: Stores) -> None:
    """A file of another kind stays."""
    _leave(stores, [_ended(0), _ended(1)])
    (stores.directory / "notes.txt").write_text("mine")
    ledger = stores.ledger()
    ledger.write(ledger.add(_ended(1, attempt=2), is_settled=False))
    ledger.settle(ledger.add(_ended(0), is_settled=False))
    ledger.send_left(lambda task: task == 0)
    ledger.close(PATIENCE)
    assert sorted(_found(stores.store)) == [(0, 1, "succeeded"), (1, 1, "lost")]
    assert stores.files() == ["b-000000.jsonl", "notes.txt"]


def test_an_attempt_that_ended_in_the_next_file_is_in_that_alone(stores: Stores) -> None:
    begun = [begun_attempt(number, 1, 1000.0, "host") for number in range(3)]
    _leave(stores, [_ended(0), _ended(1)], begun, cut=True)
    assert len(stores.files()) == 3
    _send_left(stores, lambda _task: True)
    assert sorted(_found(stores.store)) == [(0, 1, "succeeded"), (1, 1, "succeeded"), (2, 1, "lost")]


def test_a_lost_attempt_stays_lost_when_another_completes_its_task(stores: Stores) -> None:
    """The run that finds it may be killed before it has sent the chunk."""
    _leave(stores, [_ended(0)])
    second = stores.ledger(Refusing(StoreUnavailableError("away")))
    second.send_left(lambda _task: False)
    _send_left(stores, lambda _task: True)
    assert _found(stores.store) == [(0, 1, "lost")]


def test_a_chunk_that_was_sent_before_the_kill_is_not_doubled(stores: Stores) -> None:
    _leave(stores, [_ended(0)])
    kept = (stores.directory / "a-000000.jsonl").read_bytes()
    _send_left(stores, lambda _task: True)
    (stores.directory / "a-000000.jsonl").write_bytes(kept)
    _send_left(stores, lambda _task: False)
    assert _found(stores.store) == [(0, 1, "succeeded")]
    assert stores.files() == []


@pytest.mark.parametrize(
    "line", [b'[[7,1,"succ', b"{}\n", b"[7]\n", b'[[-1,1,"failed"]]\n', b"\xff\n", b"[" * 100_000 + b"\n", b"\n"]
)
def test_a_line_that_cannot_be_read_is_left_out(stores: Stores, line: bytes) -> None:
    """For example the last one, which the kill cut."""
    _leave(stores, [_ended(0)])
    with open(stores.directory / "a-000000.jsonl", "ab") as file:
        file.write(line)
    _send_left(stores, lambda _task: True)
    assert _found(stores.store) == [(0, 1, "succeeded")]


WRITER = """
import sys
from pathlib import Path
from mopsjobs.ledger.attempt import Attempt, Outcome
from mopsjobs.ledger.writer import Ledger, begun_attempt
from mopsjobs.store.sqlite.store import SQLiteVersionedStore

root = Path(sys.argv[1])
store, outbox = SQLiteVersionedStore(root / "store.db"), SQLiteVersionedStore(root / "outbox.db")
ledger = Ledger(store, outbox, "job", 0, root / "ledger")
done = {int(key.split("/")[1]) for key in store.list_keys("done/")}
ledger.send_left(lambda task: task in done)
for task in range(10**6):
    if task in done:
        continue
    ledger.begin([begun_attempt(task, 1, 1000.0, None)])
    usage = (0.5, 0.25, 0.0, 4096, None, None)
    ticket = ledger.add(Attempt(task, 1, Outcome.SUCCEEDED, 1000.0, *usage, None, 1), is_settled=False)
    ledger.write(ticket)
    store.create_if_absent(f"done/{task}", b"1")
    ledger.settle(ticket)
    if task % 7 == 0:
        with ledger._changed:
            ledger._cut()
    print(task, flush=True)
"""


def test_a_writer_killed_at_any_point_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Twenty runs, each killed after some more tasks; a last one sends what they left."""
    for run in range(20):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, env={**os.environ}
        ) as process:
            assert process.stdout is not None
            for _ in range(run % 11 + 1):
                assert process.stdout.readline()
            process.send_signal(signal.SIGKILL)
    store, outbox = SQLiteVersionedStore(tmp_path / "store.db"), InMemoryVersionedStore()
    done = {int(key.split("/")[1]) for key in store.list_keys("done/")}
    ledger = Ledger(store, outbox, "job", 0, tmp_path / "ledger")
    ledger.send_left(lambda task: task in done)
    ledger.close(PATIENCE)
    found = [task for task, _, outcome in _found(store) if outcome == "succeeded"]
    assert sorted(found) == sorted(done)
    assert len(done) >= 20
    assert list((tmp_path / "ledger").iterdir()) == []

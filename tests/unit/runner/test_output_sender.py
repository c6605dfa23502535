"""The thread that sends outputs to an embedded store: several tasks share a transaction, and none loses its own end."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from mopsjobs.errors import StoreUnavailableError
from mopsjobs.registry.keys import OUTPUT
from mopsjobs.runner import output_sender
from mopsjobs.runner.output_sender import OutputSender
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from support.runs import PATIENCE


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


def _send(store: Held, outbox: InMemoryVersionedStore, tasks: Sequence[Sequence[tuple[str, bytes]]]) -> list[str]:
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
    told = _send(store, InMemoryVersionedStore(), [[(key, b"1")] for key in "abc"])
    assert store.transactions == [["a"], ["b", "c"]]
    assert told == ["0 begins", "0 done", "1 begins", "2 begins", "1 done", "2 done"]
    assert list(store.list_keys()) == ["a", "b", "c"]


def test_a_transaction_is_bounded(store: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes wait for it."""
    monkeypatch.setattr(output_sender, "MAX_TRANSACTION_BYTES", 20)
    _send(store, InMemoryVersionedStore(), [[(key, bytes(10))] for key in "abcdef"])
    assert store.transactions == [["a"], ["b", "c"], ["d", "e"], ["f"]]


def test_an_output_that_is_refused_fails_its_own_task_alone(store: Held) -> None:
    told = _send(store, InMemoryVersionedStore(), [[("a", b"1")], [("b", b"1")], [("/c", b"1")], [("d", b"1")]])
    assert [line for line in told if "begins" not in line] == ["0 done", "1 done", "2 InvalidKeyError", "3 done"]
    assert list(store.list_keys()) == ["a", "b", "d"]


def test_outputs_of_an_outage_are_kept_and_delivered(store: Held) -> None:
    """One attempt is enough to learn of it: the outputs behind go into the outbox at once."""
    outbox = InMemoryVersionedStore()
    store.is_gone = True
    keys = [OUTPUT.key(job="job", param="0" * 64, seed=1, output=name) for name in "abc"]
    told = _send(store, outbox, [[(key, b"1")] for key in keys])
    assert [line for line in told if "done" in line] == ["0 done", "1 done", "2 done"]
    assert (store.transactions, list(outbox.list_keys())) == ([keys[:1]], keys)
    store.is_gone = False
    with closing(SQLiteVersionedStore(store.path)) as again:
        sender = OutputSender(again, outbox)
        assert sender.deliver("job", lambda _key, _error: None, lambda: False)
        sender.finish()
        assert (list(again.list_keys()), list(outbox.list_keys())) == (keys, [])

"""What bundles and events need of a store, over each backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mopsjobs.bundles.bundle import extract_bundle, store_bundle
from mopsjobs.bundles.packing import pack
from mopsjobs.events.format import parse_chunk
from mopsjobs.events.writer import EventLog
from support.cli import Clock
from support.doubles import FaultyStore
from support.runs import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

    from mopsjobs.store.base import VersionedStore


def test_a_bundle_is_stored_once(store: VersionedStore, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    (root / "b").mkdir(parents=True)
    (root / "a.py").write_text("x")
    (root / "b" / "c").write_text("y")
    line = FaultyStore(store)
    with pack(root) as packed, pack(root) as again:
        assert store_bundle(line, packed) is True
        assert store_bundle(line, again) is False
    assert list(store.list_keys()) == [f"bundles/sha256/{packed.digest[7:]}"]
    assert line.calls["create_if_absent"] == 1, "the second time it is not sent at all"
    code = extract_bundle(store, packed.digest, tmp_path / "code")
    assert (code / "b" / "c").read_text() == "y"


def test_events_arrive_in_order(store: VersionedStore) -> None:
    """All events, in their order, each with time, job, kind, source and a number that grows."""
    log = EventLog(store, "job", source="w", now=Clock().now, flush_seconds=0.001)
    for number in range(300):
        log.emit("log", text=f"line {number}", task=number)
    log.emit("task_failed", task=3, error={"type": "ValueError", "message": "no"})
    assert log.close(PATIENCE)
    values = [store.get(key) for key in store.list_keys("events/")]
    found = [event for value in values if value is not None for event in parse_chunk(value.value)]
    assert [event["seq"] for event in found] == list(range(301))
    assert found[5] == {
        "at": "2026-03-01T12:00:00Z",
        "job_id": "job",
        "kind": "log",
        "source": log.source,
        "seq": 5,
        "text": "line 5",
        "task": 5,
    }
    assert found[300]["error"] == {"type": "ValueError", "message": "no"}

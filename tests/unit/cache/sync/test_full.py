"""Batches of a full sync: as many records as there is room for."""

from __future__ import annotations

from mopsjobs.cache.sync import records
from mopsjobs.registry.job_state import MAX_RECORD_BYTES
from mopsjobs.store.base import Entry, VersionToken

VERSION = VersionToken("0x1")


def test_a_batch_holds_no_more_records_than_there_is_room_for() -> None:
    """Two batches are in memory, and a record may have a megabyte."""
    entries = [Entry(f"jobs/{number:03}/state.json", VERSION, None, MAX_RECORD_BYTES) for number in range(30)]
    batches = list(records._batches(iter(entries)))
    assert [entry for batch in batches for entry in batch] == entries
    assert max(len(batch) for batch in batches) * MAX_RECORD_BYTES <= records.BATCH_BYTES + MAX_RECORD_BYTES
    small = [Entry(f"jobs/{number:05}/state.json", VERSION, None, 1000) for number in range(2 * records.BATCH + 1)]
    assert [len(batch) for batch in records._batches(iter(small))] == [records.BATCH, records.BATCH, 1]

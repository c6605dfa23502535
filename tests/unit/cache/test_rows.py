"""Rows of records: written at less cost to a cache that knows nothing of them, with the same result."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mopsjobs.cache import rows
from mopsjobs.cache.database import open_to_write
from mopsjobs.cache.job_row import JobRow
from mopsjobs.cache.sync_state import SYNCED_AT, set_meta, transaction
from mopsjobs.store.base import VersionToken
from support.cli import foreign, key

TABLES = {
    "job": ", ".join(JobRow._fields),
    "job_label": "job_id, label, value",
    "tally": "*",
    "pruned": "*",
    "ledger": "job_id",
}
BATCHES = ("", "db", "ace", "cf", "xzy", "p")
"""Names of the jobs of each batch: out of order, between known ones, known already, after all others, pruned."""
LOOKED_AT = 0.0
"""Before any registration: a ledger of that time is of an earlier job."""


def _write(cache: sqlite3.Connection, names: str, batch: int) -> None:
    made = []
    for name in names:
        record = foreign(name, owner=f"owner-{batch}", labels={f"batch-{batch}": name, "exp": "1"})
        row = rows.to_row(key(name), name, record.encode(), VersionToken(f"0x{batch}"), batch)
        assert isinstance(row, rows.MirroredJob)
        made.append(row)
    with transaction(cache):
        rows.write_rows(cache, made)


@pytest.mark.parametrize("is_synced", [False, True])
def test_rows_of_a_first_sync_are_those_of_any_other(
    tmp_path: Path, is_synced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With labels and sums, and without ledgers of earlier jobs, whatever the cache had between their keys."""
    found = []
    for name in ("usual", "replacing"):
        if name == "replacing":
            monkeypatch.setattr(rows, "_are_first", lambda *_: False)
        with closing(open_to_write(str(tmp_path / name), "registry")) as cache:
            with transaction(cache):
                cache.execute("INSERT INTO pruned VALUES (?, '0x0')", (key("p"),))
                cache.execute(
                    "INSERT INTO ledger (job_id, looked_at, tasks_total, parameters, varying) VALUES (?, ?, 0, '', '')",
                    ("a", LOOKED_AT),
                )
                if is_synced:
                    set_meta(cache, {SYNCED_AT: "2026-03-01T12:00:00Z"})
            for batch, names in enumerate(BATCHES):
                _write(cache, names, batch)
            found.append(
                {table: sorted(cache.execute(f"SELECT {some} FROM {table}"), key=str) for table, some in TABLES.items()}
            )
    assert found[0] == found[1]
    assert [row[1] for row in sorted(found[0]["job"])] == sorted({*"".join(BATCHES)})
    assert found[0]["ledger"] == found[0]["pruned"] == []

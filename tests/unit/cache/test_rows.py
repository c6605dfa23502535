"""Rows of records, and what goes when they are written."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from mopsjobs.cache import rows
from mopsjobs.cache.database import open_to_write
from mopsjobs.cache.sync_state import transaction
from mopsjobs.store.base import VersionToken
from support.cli import foreign, key


def _write(cache: sqlite3.Connection, names: str, owner: str) -> None:
    made = []
    for name in names:
        record = foreign(name, owner=owner, labels={"by": owner})
        row = rows.to_row(key(name), name, record.encode(), VersionToken(owner), 1)
        assert isinstance(row, rows.MirroredJob)
        made.append(row)
    with transaction(cache):
        rows.write_rows(cache, made)


def test_a_row_replaces_what_the_cache_had_of_its_job(tmp_path: Path) -> None:
    """Labels, the mark of pruning, and the ledger of an earlier job of that id, which was looked at before."""
    with closing(open_to_write(str(tmp_path / "cache.db"), "registry")) as cache:
        cache.execute("INSERT INTO pruned (key, version) VALUES (?, '0x0')", (key("p"),))
        sql = "INSERT INTO ledger (job_id, looked_at, tasks_total, parameters, varying) VALUES ('a', 0.0, 0, '', '')"
        cache.execute(sql)
        _write(cache, "dbp", "ada")
        _write(cache, "ab", "eve")
        labels = dict(cache.execute("SELECT job_id, value FROM job_label"))
        assert labels == dict(cache.execute("SELECT job_id, owner FROM job"))
        assert labels == {"a": "eve", "b": "eve", "d": "ada", "p": "ada"}
        assert cache.execute("SELECT owner, jobs FROM tally ORDER BY owner").fetchall() == [("ada", 2), ("eve", 2)]
        assert cache.execute("SELECT 1 FROM pruned UNION ALL SELECT 1 FROM ledger").fetchall() == []

"""Words of the cache that a shell may complete: ids of jobs, and owners.

Only words that every shell takes as they are. Records may hold anything, and what a shell completes it may expand: an
owner called `$(…)` must not run because somebody pressed Tab.
"""

from __future__ import annotations

import re
import sqlite3

MAX_WORDS = 200
"""More candidates help nobody."""


_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*", re.ASCII)


def job_id_words(connection: sqlite3.Connection, prefix: str) -> list[str]:
    """Ids that begin so; without a prefix those that changed last."""
    if prefix:
        # No id holds U+10FFFF, which does not print: it bounds the ids with this prefix from above.
        sql = "SELECT job_id FROM job WHERE job_id >= ? AND job_id < ? ORDER BY job_id LIMIT ?"
        rows = connection.execute(sql, (prefix, prefix + "\U0010ffff", MAX_WORDS))
    else:
        rows = connection.execute("SELECT job_id FROM job ORDER BY changed_ts DESC LIMIT ?", (MAX_WORDS,))
    return _plain(rows)


def owner_words(connection: sqlite3.Connection, prefix: str) -> list[str]:
    """Owners that begin so."""
    sql = "SELECT DISTINCT owner FROM tally WHERE jobs > 0 AND owner >= ? AND owner < ? ORDER BY owner"
    return _plain(connection.execute(sql, (prefix, prefix + "\U0010ffff")))[:MAX_WORDS]


def _plain(rows: sqlite3.Cursor) -> list[str]:
    return [word for (word,) in rows if _PLAIN.fullmatch(word)]

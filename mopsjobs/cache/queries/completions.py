"""Words of the cache that a shell may complete: job ids and owners.

Only words that no shell expands are returned. A record may hold any text: an owner named `$(…)` must not run when a
user presses Tab.
"""

from __future__ import annotations

import re
import sqlite3

MAX_WORDS = 200
"""More candidates are of no help."""

_PLAIN_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*", re.ASCII)


def job_id_words(connection: sqlite3.Connection, prefix: str) -> list[str]:
    """Return ids that begin with a prefix; without a prefix those that changed last."""
    if prefix:
        # U+10FFFF is in no id, since it does not print. So it bounds the ids with this prefix from above.
        sql = "SELECT job_id FROM job WHERE job_id >= ? AND job_id < ? ORDER BY job_id LIMIT ?"
        rows = connection.execute(sql, (prefix, prefix + "\U0010ffff", MAX_WORDS))
    else:
        rows = connection.execute("SELECT job_id FROM job ORDER BY changed_ts DESC LIMIT ?", (MAX_WORDS,))
    return _plain_words(rows)


def owner_words(connection: sqlite3.Connection, prefix: str) -> list[str]:
    """Return owners that begin with a prefix."""
    sql = "SELECT DISTINCT owner FROM tally WHERE jobs > 0 AND owner >= ? AND owner < ? ORDER BY owner"
    return _plain_words(connection.execute(sql, (prefix, prefix + "\U0010ffff")))[:MAX_WORDS]


def _plain_words(rows: sqlite3.Cursor) -> list[str]:
    """Return the words that no shell expands."""
    return [word for (word,) in rows if _PLAIN_WORD.fullmatch(word)]

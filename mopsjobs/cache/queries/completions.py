"""Words of the cache that a shell may complete: job ids and owners.

Only words that no shell expands are returned. A record may hold any text: an owner named `$(…)` must not run when a
user presses Tab.
"""

from __future__ import annotations

import re
import sqlite3

from mopsjobs.cache.queries.jobs import ABOVE_IDS

MAX_WORDS = 200
"""More candidates are of no help."""

LATEST = "@latest"
"""The newest job."""

_PLAIN_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*", re.ASCII)


def job_id_words(connection: sqlite3.Connection, prefix: str) -> list[str]:
    """Return ids that begin with a prefix; without a prefix those that changed last."""
    return _job_ids(connection, prefix, "")


def job_name_words(connection: sqlite3.Connection, prefix: str) -> list[str]:
    """Return the same for an argument that takes `@latest` too."""
    return _with_latest(prefix, _job_ids(connection, prefix, ""))


def active_job_words(connection: sqlite3.Connection, prefix: str) -> list[str]:
    """Return the same for jobs that have not ended."""
    return _with_latest(prefix, _job_ids(connection, prefix, "is_active = 1 AND "))


def _job_ids(connection: sqlite3.Connection, prefix: str, condition: str) -> list[str]:
    if prefix:
        sql = f"SELECT job_id FROM job WHERE {condition}job_id >= ? AND job_id < ? ORDER BY job_id LIMIT ?"  # noqa: S608 - constant conditions
        rows = connection.execute(sql, (prefix, prefix + ABOVE_IDS, MAX_WORDS))
    else:
        sql = f"SELECT job_id FROM job WHERE {condition}true ORDER BY changed_ts DESC LIMIT ?"  # noqa: S608
        rows = connection.execute(sql, (MAX_WORDS,))
    return _plain_words(rows)


def _with_latest(prefix: str, words: list[str]) -> list[str]:
    """Return the words, and `@latest` if the prefix begins it."""
    return [LATEST, *words] if LATEST.startswith(prefix) else words


def owner_words(connection: sqlite3.Connection, prefix: str) -> list[str]:
    """Return owners that begin with a prefix."""
    sql = "SELECT DISTINCT owner FROM tally WHERE jobs > 0 AND owner >= ? AND owner < ? ORDER BY owner"
    return _plain_words(connection.execute(sql, (prefix, prefix + ABOVE_IDS)))[:MAX_WORDS]


def _plain_words(rows: sqlite3.Cursor) -> list[str]:
    """Return the words that no shell expands."""
    return [word for (word,) in rows if _PLAIN_WORD.fullmatch(word)]

"""Sums over jobs and outputs, per status, namespace and owner, kept beside the jobs.

With a million jobs, reading the sums takes a thousandth of the time of adding up. Triggers would double the cost of
writing a row. So writers change rows within `track_changes`, a batch at a time. See
docs/decisions/0022-sums-counters-and-pruning.md.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence

MAX_KEYS = 500
"""Keys in one query."""

COLUMNS = ("jobs", "verified", "missing", "unchecked")
"""The sums: jobs; outputs that exist, that are missing, and that were not checked."""

SUMS = (
    "SELECT status, coalesce(namespace, ''), coalesce(owner, ''), count(*), sum(outputs_verified),"
    " sum(iif(is_validated, max(outputs_expected - outputs_verified, 0), 0)),"
    " sum(iif(is_validated, 0, max(outputs_expected - outputs_verified, 0))) FROM job"
)

GROUPED = "GROUP BY 1, 2, 3"

_Sums = Counter[tuple[str, str, str, str]]

_ADD_SUMS = (
    f"INSERT INTO tally (status, namespace, owner, {', '.join(COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - constant names
    f" ON CONFLICT DO UPDATE SET {', '.join(f'{name} = {name} + excluded.{name}' for name in COLUMNS)}"
)


@contextlib.contextmanager
def track_changes(connection: sqlite3.Connection, keys: Sequence[str]) -> Iterator[None]:
    """Update the sums by what the block changes in the rows with these keys. The caller holds the transaction."""
    chunks = [keys[start : start + MAX_KEYS] for start in range(0, len(keys), MAX_KEYS)]
    with _track(connection, [(f"key IN ({', '.join('?' * len(chunk))})", chunk) for chunk in chunks]):
        yield


@contextlib.contextmanager
def track_changes_between(connection: sqlite3.Connection, first: str, last: str) -> Iterator[None]:
    """Do the same for all rows from one key to another. It takes less time if the block changes most of them."""
    with _track(connection, [("key BETWEEN ? AND ?", (first, last))]):
        yield


@contextlib.contextmanager
def _track(connection: sqlite3.Connection, parts: Sequence[tuple[str, Sequence[str]]]) -> Iterator[None]:
    """Update the sums by what the block changes in rows that fulfil one of the conditions, each with its values."""
    changes: _Sums = Counter()
    changes.subtract(_sums(connection, parts))
    yield
    changes.update(_sums(connection, parts))
    groups = {key[:3] for key in changes if changes[key]}
    connection.executemany(_ADD_SUMS, [(*group, *(changes[*group, name] for name in COLUMNS)) for group in groups])


def _sums(connection: sqlite3.Connection, parts: Sequence[tuple[str, Sequence[str]]]) -> _Sums:
    sums: _Sums = Counter()
    for condition, values in parts:
        for status, namespace, owner, *found in connection.execute(f"{SUMS} WHERE {condition} {GROUPED}", values):
            sums.update({(status, namespace, owner, name): value for name, value in zip(COLUMNS, found, strict=True)})
    return sums

"""Jobs and their outputs, summed over all that have status, namespace and owner in common.

Kept beside the jobs: with a million of them, reading the sums takes a thousandth of the time that summing up takes. Not
by triggers, which cost as much as writing the row: whoever changes rows does so within `kept`, a batch at a time.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence

KEYS = 500
"""Keys looked up at once."""


COLUMNS = ("jobs", "verified", "missing", "unchecked")
"""What is summed: jobs; outputs that are there, that are not, and that nobody has looked for."""


SUMS = (
    "SELECT status, coalesce(namespace, ''), coalesce(owner, ''), count(*), sum(outputs_verified),"
    " sum(iif(is_validated, max(outputs_expected - outputs_verified, 0), 0)),"
    " sum(iif(is_validated, 0, max(outputs_expected - outputs_verified, 0))) FROM job"
)


GROUPED = "GROUP BY 1, 2, 3"


_Sums = Counter[tuple[str, str, str, str]]


_ADD = (
    f"INSERT INTO tally (status, namespace, owner, {', '.join(COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - ours
    f" ON CONFLICT DO UPDATE SET {', '.join(f'{name} = {name} + excluded.{name}' for name in COLUMNS)}"
)


@contextlib.contextmanager
def kept(connection: sqlite3.Connection, keys: Sequence[str]) -> Iterator[None]:
    """Write or remove the rows with these keys in the block, and the sums follow. The caller holds the transaction."""
    grown: _Sums = Counter()
    grown.subtract(_sums(connection, keys))
    yield
    grown.update(_sums(connection, keys))
    groups = {one[:3] for one in grown if grown[one]}
    connection.executemany(_ADD, [(*group, *(grown[*group, name] for name in COLUMNS)) for group in groups])


def _sums(connection: sqlite3.Connection, keys: Sequence[str]) -> _Sums:
    found: _Sums = Counter()
    for start in range(0, len(keys), KEYS):
        chunk = keys[start : start + KEYS]
        marks = ", ".join("?" * len(chunk))
        for status, namespace, owner, *values in connection.execute(f"{SUMS} WHERE key IN ({marks}) {GROUPED}", chunk):
            found.update({(status, namespace, owner, name): value for name, value in zip(COLUMNS, values, strict=True)})
    return found

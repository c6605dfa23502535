"""Sums over jobs and their outputs, per status, namespace and owner, kept beside the jobs.

With a million jobs, reading the sums takes a thousandth of the time of adding up. Triggers would double the cost of
writing a row. So writers change rows within `track_changes`, a batch at a time. See
docs/decisions/0022-sums-counters-and-pruning.md.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence

MAX_KEYS = 500

MAX_SUMMED = 2**43
"""The most that counts of a job in a sum. So a million jobs fit into 64 bits."""

_NOT_VERIFIED = f"min(max(outputs_expected - outputs_verified, 0), {MAX_SUMMED})"

_EXPRESSIONS = {
    "jobs": "count(*)",
    "verified": f"sum(min(outputs_verified, {MAX_SUMMED}))",
    "missing": f"sum(iif(is_validated, {_NOT_VERIFIED}, 0))",
    "unchecked": f"sum(iif(is_validated, 0, {_NOT_VERIFIED}))",
}

COLUMNS = tuple(_EXPRESSIONS)
"""The sums: jobs, and outputs that exist, that are missing and that were not checked."""

SUMS = f"SELECT status, coalesce(namespace, ''), coalesce(owner, ''), {', '.join(_EXPRESSIONS.values())} FROM job"  # noqa: S608 - constant names

GROUPED = "GROUP BY 1, 2, 3"

FILL = f"INSERT INTO tally {SUMS} {GROUPED}"

_ADD_SUMS = (
    f"INSERT INTO tally (status, namespace, owner, {', '.join(COLUMNS)})"  # noqa: S608 - constant names
    f" VALUES (?, ?, ?{', ?' * len(COLUMNS)})"
    f" ON CONFLICT DO UPDATE SET {', '.join(f'{name} = {name} + excluded.{name}' for name in COLUMNS)}"
)


@contextlib.contextmanager
def track_changes(connection: sqlite3.Connection, keys: Sequence[str]) -> Iterator[None]:
    """Update the sums by what the block changes in the rows with these keys. The caller holds the transaction."""
    chunks = [keys[start : start + MAX_KEYS] for start in range(0, len(keys), MAX_KEYS)]
    changes: dict[tuple[str, str, str], list[int]] = {}
    for sign in (-1, 1):
        for chunk in chunks:
            marks = ", ".join("?" * len(chunk))
            for row in connection.execute(f"{SUMS} WHERE key IN ({marks}) {GROUPED}", chunk):
                known = changes.setdefault(row[:3], [0] * len(COLUMNS))
                known[:] = [count + sign * more for count, more in zip(known, row[3:], strict=True)]
        if sign < 0:
            yield
    connection.executemany(_ADD_SUMS, [(*group, *values) for group, values in changes.items() if any(values)])

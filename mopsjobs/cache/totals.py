"""Sums over jobs, their outputs and what they used, per status, namespace and owner, kept beside the jobs.

With a million jobs, reading the sums takes a thousandth of the time of adding up. Triggers would double the cost of
writing a row. So writers change rows within `track_changes`, a batch at a time. See
docs/decisions/0022-sums-counters-and-pruning.md.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence

MAX_KEYS = 500

WAS_QUEUED = "started_ts IS NOT NULL AND has_history = 1"
"""The condition for a job whose wait for its first task is known."""

HAS_RUN = "started_ts IS NOT NULL AND ended_ts IS NOT NULL"
"""The condition for a job whose run time is known."""

PER_SECOND = 100
"""Sums of seconds are in hundredths, to which records round them: whole numbers stay exact when a job goes again."""

MAX_SUMMED = 2**43
"""The most that counts of a job in a sum: of hundredths, nearly 3,000 years. So a million jobs fit into 64 bits."""


def _used(name: str) -> str:
    return f"json_extract(usage, '$.{name}_seconds')"


def _hundredths(name: str) -> str:
    return f"CAST(round(min({_used(name)} * {PER_SECOND}, {MAX_SUMMED})) AS INTEGER)"


_NOT_VERIFIED = f"min(max(outputs_expected - outputs_verified, 0), {MAX_SUMMED})"

_EXPRESSIONS = {
    "jobs": "count(*)",
    "verified": f"sum(min(outputs_verified, {MAX_SUMMED}))",
    "missing": f"sum(iif(is_validated, {_NOT_VERIFIED}, 0))",
    "unchecked": f"sum(iif(is_validated, 0, {_NOT_VERIFIED}))",
    "queued": f"sum({WAS_QUEUED})",
    "ran": f"sum({HAS_RUN})",
    "measured": "count(usage)",
    "cpu_jobs": f"count({_used('cpu')})",
    "cpu": f"coalesce(sum({_hundredths('cpu')}), 0)",
    "task_jobs": f"count({_used('task')})",
    "task": f"coalesce(sum({_hundredths('task')}), 0)",
    "held_jobs": f"count({_used('held_core')})",
    "held": f"coalesce(sum({_hundredths('held_core')}), 0)",
    "held_with_cpu": f"coalesce(sum(iif({_used('cpu')} IS NULL, NULL, {_hundredths('held_core')})), 0)",
}

COLUMNS = tuple(_EXPRESSIONS)
"""The sums.

They count jobs, and outputs that exist, that are missing and that were not checked. They count jobs with a known queue
time, with a known run time, and with usage. Of each time that usage has, they count the jobs that tell it, and add it
up. The last one is the held time of the jobs that tell their processor time.
"""

SUMS = f"SELECT status, coalesce(namespace, ''), coalesce(owner, ''), {', '.join(_EXPRESSIONS.values())} FROM job"  # noqa: S608 - constant names

GROUPED = "GROUP BY 1, 2, 3"

FILL = f"INSERT INTO tally {SUMS} {GROUPED}"

_ADD_SUMS = (
    f"INSERT INTO tally (status, namespace, owner, {', '.join(COLUMNS)})"  # noqa: S608 - constant names
    f" VALUES (?, ?, ?{', ?' * len(COLUMNS)})"
    f" ON CONFLICT DO UPDATE SET {', '.join(f'{name} = {name} + excluded.{name}' for name in COLUMNS)}"
)


@contextlib.contextmanager
def track_changes(connection: sqlite3.Connection, keys: Sequence[str], *, between: bool = False) -> Iterator[None]:
    """Update the sums by what the block changes in the rows with these keys. The caller holds the transaction.

    With `between`, look at all rows from the first key to the last, which takes less time if most of them change.
    """
    parts: list[tuple[str, Sequence[str]]] = [("key BETWEEN ? AND ?", (keys[0], keys[-1]))] if between else []
    if not between:
        chunks = (keys[start : start + MAX_KEYS] for start in range(0, len(keys), MAX_KEYS))
        parts += [(f"key IN ({', '.join('?' * len(chunk))})", chunk) for chunk in chunks]
    changes: dict[tuple[str, str, str], list[int]] = {}

    for sign in (-1, 1):
        for condition, values in parts:
            for row in connection.execute(f"{SUMS} WHERE {condition} {GROUPED}", values):
                known = changes.setdefault(row[:3], [0] * len(COLUMNS))
                known[:] = [count + sign * more for count, more in zip(known, row[3:], strict=True)]
        if sign < 0:
            yield
    connection.executemany(_ADD_SUMS, [(*group, *values) for group, values in changes.items() if any(values)])

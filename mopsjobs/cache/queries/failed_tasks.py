"""Find the tasks of a job that failed, and say in one line why, by what the cache has of its ledger and its events."""

from __future__ import annotations

import sqlite3
from collections import Counter

from mopsjobs.cache.stored_study import find_duplicates
from mopsjobs.events.format import TASK_FAILED
from mopsjobs.ledger.attempt import FAILED_OUTCOMES
from mopsjobs.utils.text import cut_to_length

MAX_KINDS = 3
"""Kinds of failures that the line names."""

MAX_WORD = 60
"""Characters of a type or a place."""

_WORDS = {"oom": "out of memory", "timeout": "timed out", "died": "died", "lost": "lost"}
"""Outcomes other than `failed`, which has the type of its error."""

_Kind = tuple[str, str | None, str | None, int]
"""An outcome, the type and the place of the error if it is `failed`, and the number of tasks."""

_IS_FAILED = "outcome IN (" + ", ".join(f"'{outcome}'" for outcome in FAILED_OUTCOMES) + ")"

_KINDS_SQL = f"""
    SELECT task, outcome, iif(outcome = 'failed', error_type, NULL) AS type,
        iif(outcome = 'failed', error_where, NULL) AS place
    FROM task WHERE job_id = ? AND {_IS_FAILED}
"""  # noqa: S608 - constant names

_SQL = f"""
    SELECT outcome, type, place, count(*) AS tasks FROM ({_KINDS_SQL})
    GROUP BY 1, 2, 3 ORDER BY tasks DESC, 1, 2, 3
"""  # noqa: S608 - a constant

_FAILED_SQL = f"""
    SELECT task FROM task WHERE job_id = ?1 AND {_IS_FAILED}
    UNION
    SELECT json_extract(body, '$.task') AS number FROM event
    WHERE job_id = ?1 AND kind = ?2 AND typeof(number) = 'integer'
"""  # noqa: S608 - constant names


def describe_failures(connection: sqlite3.Connection, job_id: str, reported: object) -> str | None:
    """Return how many tasks failed, and the most frequent reasons; None if none is known to have failed.

    For example: `40: 38 ValueError in FILE:21, 2 out of memory`, or `38 ValueError in FILE:21`.

    Args:
        connection: the cache.
        job_id: the job.
        reported: how many tasks failed by the record, which is often newer than the ledger; None if it does not say.
    """
    kinds = connection.execute(_SQL, (job_id,)).fetchall()
    if not kinds:
        return None
    kinds = _with_duplicates(connection, job_id, kinds)
    total = sum(count for *_, count in kinds)
    words = [f"{count:,} {_kind(outcome, name, place)}" for outcome, name, place, count in kinds[:MAX_KINDS]]
    if len(kinds) > MAX_KINDS:
        words.append(f"{sum(count for *_, count in kinds[MAX_KINDS:]):,} for other reasons")
    unread = reported - total if isinstance(reported, int) else 0
    if unread > 0:
        words.append(f"{unread:,} not read")
    return words[0] if len(words) == 1 else f"{total + max(unread, 0):,}: {', '.join(words)}"


def failed_tasks(connection: sqlite3.Connection, job_id: str) -> frozenset[int]:
    """Return the numbers of the tasks that failed, by their events and by the ledger if it is mirrored.

    A task of which a later attempt succeeded is among them.
    """
    rows = connection.execute(_FAILED_SQL, (job_id, TASK_FAILED))
    return frozenset(task for (task,) in rows)


def _with_duplicates(connection: sqlite3.Connection, job_id: str, kinds: list[_Kind]) -> list[_Kind]:
    """Return the kinds with the tasks that repeat a failed task, and share its failure."""
    duplicates = find_duplicates(connection, job_id)
    if not duplicates:
        return kinds
    counts = Counter({(outcome, name, place): count for outcome, name, place, count in kinds})
    kind_of = {task: tuple(kind) for task, *kind in connection.execute(_KINDS_SQL, (job_id,))}
    counts.update(kind_of[first] for first in duplicates.values() if first in kind_of)
    return [(outcome, name, place, count) for (outcome, name, place), count in counts.most_common()]


def _kind(outcome: str, error_type: str | None, place: str | None) -> str:
    if outcome != "failed":
        return _WORDS[outcome]
    name = cut_to_length(error_type or "failed", MAX_WORD)
    return name if place is None else f"{name} in {cut_to_length(place, MAX_WORD)}"

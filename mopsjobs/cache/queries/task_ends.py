"""How the tasks of a job ended: which are run again, and with how much memory, and in one line why some failed."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from mopsjobs.cache.queries.ledgers import IS_FAILED
from mopsjobs.cache.stored_study import find_duplicates
from mopsjobs.events.format import TASK_FAILED
from mopsjobs.ledger.attempt import Outcome
from mopsjobs.utils.text import cut_to_length

MAX_KINDS = 3
"""Kinds of failures that the line names."""

MAX_WORD = 60
"""Characters of a type or a place."""

_WORDS = {"oom": "out of memory", "timeout": "timed out", "died": "died", "lost": "lost"}
"""Outcomes other than `failed`, which has the type of its error."""

_Kind = tuple[str, str | None, str | None, int]
"""An outcome, the type and the place of the error if it is `failed`, and the number of tasks."""

_KINDS_SQL = f"""
    SELECT task, outcome, iif(outcome = 'failed', error_type, NULL) AS type,
        iif(outcome = 'failed', error_where, NULL) AS place
    FROM task WHERE job_id = ? AND {IS_FAILED}
"""  # noqa: S608 - constant names

_SQL = f"""
    SELECT outcome, type, place, count(*) AS tasks FROM ({_KINDS_SQL})
    GROUP BY 1, 2, 3 ORDER BY tasks DESC, 1, 2, 3
"""  # noqa: S608 - a constant

_FAILED_SQL = f"""
    SELECT task FROM task WHERE job_id = ?1 AND {IS_FAILED}
    UNION
    SELECT json_extract(body, '$.task') AS number FROM event
    WHERE job_id = ?1 AND kind = ?2 AND typeof(number) = 'integer'
"""  # noqa: S608 - constant names


class MemoryEnds(NamedTuple):
    """The tasks of a job that ended as `oom`."""

    tasks: int
    peak: int | None
    """The most memory that one of them was seen to have, in bytes; None if unknown."""


def last_ends(connection: sqlite3.Connection, job_id: str) -> list[tuple[int, str, str | None]]:
    """Return task, outcome and signature of the error of each task that has ended, by its last attempt."""
    sql = "SELECT task, outcome, error_key FROM task WHERE job_id = ?"
    return connection.execute(sql, (job_id,)).fetchall()


def output_sizes(connection: sqlite3.Connection, job_id: str) -> dict[tuple[str, str], int]:
    """Return the bytes of the outputs of tasks, by parameter id and seed, as far as the cache has the ledger of a job.

    A task that several attempts have done with different sizes is left out: the outputs are those of any of them.
    """
    rows = connection.execute(
        "SELECT param_id, task.seed, min(attempt.output_bytes) FROM attempt JOIN task USING (job_id, task)"
        " JOIN parameter_set AS one ON one.job_id = task.job_id AND one.first_task = task.first_task"
        " WHERE attempt.job_id = ? AND attempt.outcome = ? GROUP BY attempt.task"
        " HAVING count(attempt.output_bytes) = count(*) AND count(DISTINCT attempt.output_bytes) = 1",
        (job_id, str(Outcome.SUCCEEDED)),
    )
    return {(param_id, str(seed)): size for param_id, seed, size in rows}


def count_lost(connection: sqlite3.Connection, job: Mapping[str, Any]) -> int:
    """Count the tasks that were complete at the end of a job, and that its complete ledger does not call succeeded.

    No attempt tells the end of a reused task. Without its outputs, it is missing.
    """
    if job["is_active"]:
        return 0
    job_id, completed = str(job["job_id"]), int(job["tasks_completed"] or 0)
    row = connection.execute(
        "SELECT (SELECT count(*) FROM task WHERE job_id = ?1 AND outcome = ?2) FROM ledger"
        " WHERE job_id = ?1 AND is_complete",
        (job_id, str(Outcome.SUCCEEDED)),
    ).fetchone()
    lost = 0 if row is None else completed - int(row[0])
    return max(0, lost - len(find_duplicates(connection, job_id))) if lost > 0 else 0


def memory_ends(connection: sqlite3.Connection, job_id: str) -> MemoryEnds:
    """Count the tasks of a job that ended as `oom`, as far as the cache has its ledger."""
    sql = "SELECT count(*), max(max_rss_bytes) FROM task WHERE job_id = ? AND outcome = ?"
    return MemoryEnds(*connection.execute(sql, (job_id, str(Outcome.OOM))).fetchone())


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

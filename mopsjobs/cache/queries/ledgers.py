"""The ledgers of jobs as the cache has them, and how their tasks ended: which are run again, and why some failed."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Container, Mapping
from typing import Any, NamedTuple

from mopsjobs.cache.stored_study import StoredStudy, find_duplicates
from mopsjobs.cache.sync_state import read_one_state
from mopsjobs.events.format import TASK_FAILED
from mopsjobs.ledger.attempt import FAILED_OUTCOMES, Outcome
from mopsjobs.registry.status import JobStatus
from mopsjobs.utils.text import cut_to_length

BY_LEDGER = "ledger"
"""A basis: attempts tell the outcomes of a job's tasks."""

BY_OUTPUTS = "outputs"
"""A basis: the job has no ledger, and its outputs tell which tasks succeeded."""

IS_FAILED = "outcome IN (" + ", ".join(f"'{outcome}'" for outcome in FAILED_OUTCOMES) + ")"
"""The condition for an attempt, or the last one of a task, that failed."""

ALL_PROBLEMS = "query 'SELECT * FROM ledger_problems'"
"""The command that names all chunks of ledgers that cannot be read, or not whole."""

MAX_HOSTS = 10_000
"""A large job on a cluster has some hundred. Every writer of the registry can name more."""

MAX_KINDS = 3

MAX_WORD = 60

_WORDS = {"oom": "out of memory", "timeout": "timed out", "died": "died", "lost": "lost"}
"""Outcomes other than `failed`, which has the type of its error."""

_KIND = "outcome, iif(outcome = 'failed', error_type, NULL), iif(outcome = 'failed', error_where, NULL)"
"""An outcome, and if it is `failed`, the type and the place of the error."""

_FAILED_SQL = f"""
    SELECT task FROM task WHERE job_id = ?1 AND {IS_FAILED}
    UNION
    SELECT json_extract(body, '$.task') AS number FROM event
    WHERE job_id = ?1 AND kind = ?2 AND typeof(number) = 'integer'
"""  # noqa: S608 - constant names


class Ledger(NamedTuple):
    """The mirror of the ledger of a job."""

    synced_ts: float
    """When it was last listed, in seconds since 1970."""
    is_complete: bool
    """Whether the job has ended, and no more attempts are expected."""
    basis: str
    tasks_total: int
    """Of an adaptive study: those that are needed as far as its tasks with rows tell."""
    parameters: list[str]
    varying: list[str]
    """The parameters that do not have the same value in all sets."""
    task_ranges: str | None
    """The tasks of a child job: see `StoredStudy`."""
    seeds: str
    outputs_lost: int
    """Tasks whose outputs were lost since the end of the job, when it was last validated from this machine."""
    precision: str | None
    """What an adaptive study asks for, as its file has it in JSON; None if it names a number of replicates."""
    chunks: int
    """Chunks that were read, or that cannot be read."""
    problems: int
    """Chunks that cannot be read, or not whole."""

    @property
    def has_all_ends(self) -> bool:
        """Return whether it tells how each attempt ended: it is there, and each chunk was read."""
        return self.basis == BY_LEDGER and not self.problems


def read_ledger(connection: sqlite3.Connection, job_id: str) -> Ledger | None:
    """Return what the cache knows of the ledger of a job; None if no look at it has ended.

    The connection is left in a transaction, so that tasks that are read later are of the same moment.
    """
    read_one_state(connection)
    row = connection.execute(
        "SELECT synced_ts, is_complete, basis, tasks_total, parameters, varying, task_ranges, seeds,"
        " outputs_lost, precision, count(ledger_chunk.name), count(ledger_chunk.problem)"
        " FROM ledger LEFT JOIN ledger_chunk USING (job_id)"
        " WHERE ledger.job_id = ? AND synced_ts IS NOT NULL GROUP BY ledger.job_id",
        (job_id,),
    ).fetchone()
    if row is None:
        return None
    ledger = Ledger._make(row)
    parameters, varying = json.loads(row[4]), json.loads(row[5])
    if ledger.precision is not None:
        study = StoredStudy(connection, job_id, ledger.tasks_total, ledger.task_ranges, ledger.seeds, ledger.precision)
        ledger = ledger._replace(tasks_total=study.count_tasks())
    return ledger._replace(is_complete=bool(ledger.is_complete), parameters=parameters, varying=varying)


def note_lost_outputs(connection: sqlite3.Connection, job_id: str, count: int) -> None:
    """Note how many tasks of a job have lost their outputs, if the cache has its ledger: no attempt tells it."""
    connection.execute("UPDATE ledger SET outputs_lost = ? WHERE job_id = ?", (count, job_id))


def count_chunks(connection: sqlite3.Connection, job_id: str) -> int:
    """Count the chunks of the ledger of a job that the cache has."""
    row = connection.execute("SELECT count(*) FROM ledger_chunk WHERE job_id = ?", (job_id,)).fetchone()
    return int(row[0])


def hosts_of(connection: sqlite3.Connection, job_id: str) -> list[str]:
    """Return the names of the machines that ran attempts at the tasks of a job, sorted; none without a ledger."""
    sql = "SELECT DISTINCT host FROM attempt WHERE job_id = ? AND host IS NOT NULL ORDER BY host LIMIT ?"
    return [host for (host,) in connection.execute(sql, (job_id, MAX_HOSTS))]


def reusing_jobs(connection: sqlite3.Connection, sources: Container[str]) -> dict[str, list[str]]:
    """Map those of these jobs whose outputs other jobs reuse to the ids of these. It looks at all records."""
    by_source: dict[str, list[str]] = {}
    rows = connection.execute(
        "SELECT job_id, value FROM job, json_each(record, '$.metadata.reused_from')"
        " WHERE instr(record, '\"reused_from\"') ORDER BY job_id"
    )
    for job_id, source in rows:
        if source in sources:
            by_source.setdefault(source, []).append(job_id)
    return by_source


def complete_ledgers(connection: sqlite3.Connection) -> set[str]:
    """Return the jobs of whose tasks all attempts are in the cache."""
    sql = "SELECT job_id FROM ledger WHERE is_complete AND basis = ?"
    return {job_id for (job_id,) in connection.execute(sql, (BY_LEDGER,))}


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


def count_succeeded(connection: sqlite3.Connection, job_id: str) -> int:
    """Count the tasks that succeeded, as far as the cache knows."""
    sql = "SELECT count(*) FROM task WHERE job_id = ? AND outcome = ?"
    return int(connection.execute(sql, (job_id, str(Outcome.SUCCEEDED))).fetchone()[0])


def count_lost(connection: sqlite3.Connection, job: Mapping[str, Any]) -> int:
    """Count the tasks that have lost their outputs since the end of a job, as a validation or its ledger tells.

    A complete ledger does not call all tasks succeeded that were complete at the end: no attempt tells the end of a
    reused task. Without its outputs, it is missing.
    """
    job_id, completed = str(job["job_id"]), int(job["tasks_completed"] or 0)
    ledger = read_ledger(connection, job_id)
    if job["is_active"] or ledger is None:
        return 0
    lost = completed - count_succeeded(connection, job_id) if ledger.is_complete else 0
    return max(ledger.outputs_lost, lost - len(find_duplicates(connection, job_id)) if lost > 0 else 0)


def memory_ends(connection: sqlite3.Connection, job_id: str) -> MemoryEnds:
    """Count the tasks of a job that ended as `oom`, as far as the cache has its ledger."""
    sql = "SELECT count(*), max(max_rss_bytes) FROM task WHERE job_id = ? AND outcome = ?"
    return MemoryEnds(*connection.execute(sql, (job_id, str(Outcome.OOM))).fetchone())


def describe_failures(connection: sqlite3.Connection, job_id: str, reported: object, *, is_active: bool) -> str | None:
    """Return how many tasks failed, and the most frequent reasons; None if none is known to have failed.

    For example: `40: 38 ValueError in FILE:21, 2 out of memory`, or `1 died, tried again`.

    Args:
        connection: the cache.
        job_id: the job.
        reported: how many tasks failed by the record, which is often newer than the ledger; None if it does not say.
        is_active: whether the job has not ended. More tasks than the record counts are then tried again.
    """
    counts: Counter[tuple[str, str | None, str | None]] = Counter()
    # A task that repeats another one has no row, and shares its failure.
    repeated = json.dumps(list(find_duplicates(connection, job_id).values()))
    for source, values in (("task", ()), ("json_each(?) AS first CROSS JOIN task ON task = first.value", (repeated,))):
        sql = f"SELECT {_KIND}, count(*) FROM {source} WHERE job_id = ? AND {IS_FAILED} GROUP BY 1, 2, 3"  # noqa: S608 - constant names
        for *kind, count in connection.execute(sql, (*values, job_id)):
            counts[tuple(kind)] += count
    kinds, total = counts.most_common(), counts.total()
    row = connection.execute("SELECT status FROM job WHERE job_id = ?", (job_id,)).fetchone()
    if not total or (not reported and row == (JobStatus.SUCCEEDED,)):  # by an attempt that the cache has not read
        return None
    words = [f"{count:,} {_kind(*kind)}" for kind, count in kinds[:MAX_KINDS]]
    if len(kinds) > MAX_KINDS:
        words.append(f"{sum(count for _, count in kinds[MAX_KINDS:]):,} for other reasons")
    unread = reported - total if isinstance(reported, int) else 0
    if unread > 0:
        words.append(f"{unread:,} not read")
    text = words[0] if len(words) == 1 else f"{total + max(unread, 0):,}: {', '.join(words)}"
    if is_active and unread < 0:
        text += ", tried again" if reported == 0 else f"; {-unread:,} of them tried again"
    return text


def failed_tasks(connection: sqlite3.Connection, job_id: str) -> frozenset[int]:
    """Return the numbers of the tasks that failed, by their events and by the ledger if it is mirrored.

    A task of which a later attempt succeeded is among them.
    """
    rows = connection.execute(_FAILED_SQL, (job_id, TASK_FAILED))
    return frozenset(task for (task,) in rows)


def _kind(outcome: str, error_type: str | None, place: str | None) -> str:
    if outcome != "failed":
        return _WORDS[outcome]
    name = cut_to_length(error_type or "failed", MAX_WORD)
    return name if place is None else f"{name} in {cut_to_length(place, MAX_WORD)}"

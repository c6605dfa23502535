"""Families of jobs in the cache: a job with the jobs that it was resumed from, and those that it was resumed as."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from mopsjobs.cache.job_json import deferred_tasks
from mopsjobs.cache.queries.jobs import ABOVE_IDS, ids_with_prefix
from mopsjobs.errors import AmbiguousJobError
from mopsjobs.registry.notes import PRECISION
from mopsjobs.utils.times import parse_time

if TYPE_CHECKING:
    from mopsjobs.registry.job_state import JobState

MAX_MEMBERS = 1000
"""Members that are read. Any program may register a million children of one job."""

_MEMBERS = """
    WITH RECURSIVE member(job_id) AS (
        VALUES (?) UNION SELECT job.job_id FROM member CROSS JOIN job ON job.parent_job_id = member.job_id
    )
    SELECT job.job_id, job.parent_job_id, job.status, job.tasks_total, job.tasks_completed,
        CASE json_type(record, '$.metadata.n_deferred_tasks')
            WHEN 'integer' THEN max(0, json_extract(record, '$.metadata.n_deferred_tasks')) ELSE 0 END,
        job.created_ts, job.usage, json_type(record, '$.metadata.precision') IS NOT NULL
    FROM member CROSS JOIN job USING (job_id) LIMIT ?
"""


class Member(NamedTuple):
    """A job of a family."""

    job_id: str
    parent_job_id: str | None
    status: str
    tasks_total: int
    tasks_completed: int
    tasks_deferred: int
    created: float
    usage: str | None = None
    """What its tasks used, as the column of the cache has it."""
    is_adaptive: bool | int = False
    """Whether decisions tell which tasks it needs. Then it has those of its parent too, among its reused tasks."""


class Family(NamedTuple):
    """Two jobs or more, of which each but the first was made to continue another one."""

    members: tuple[Member, ...]
    children: tuple[str, ...]
    """The ids of the children of the job whose family this is."""
    newest: str
    tasks_total: int | None
    """Tasks of the whole study; None if unknown."""
    tasks_completed: int | None
    """Those of them that are done, by whichever job; None if unknown."""
    usage: dict[str, float | None]
    """What the tasks of all its jobs used: the fields of `job_json`."""

    def to_json(self) -> dict[str, object]:
        """Return the family as scripts get it."""
        return {
            "tasks_total": self.tasks_total,
            "tasks_completed": self.tasks_completed,
            "usage": self.usage,
            "newest": self.newest,
            "children": list(self.children),
            "jobs": [{name: getattr(member, name) for name in Member._fields[:5]} for member in self.members],
        }


def read_members(connection: sqlite3.Connection, job_id: str) -> list[Member]:
    """Return the members of a job's family that the cache has, parents before their children."""
    eldest, seen = job_id, {job_id}
    while len(seen) < MAX_MEMBERS:
        row = connection.execute("SELECT parent_job_id FROM job WHERE job_id = ?", (eldest,)).fetchone()
        if row is None or row[0] is None or row[0] in seen:
            break
        eldest = row[0]
        seen.add(eldest)
    return [Member(*row) for row in connection.execute(_MEMBERS, (eldest, MAX_MEMBERS))]


def read_family(connection: sqlite3.Connection, job_id: str) -> Family | None:
    """Return the family of a job; None if the cache has no other member."""
    return make_family(job_id, read_members(connection, job_id))


def make_family(job_id: str, members: Iterable[Member]) -> Family | None:
    """Return the family of a job from its members; None if there is only one.

    A child has the tasks that its parent lacked. So what the newest job lacks or has left to a later resume, the family
    lacks. That of an adaptive study has all tasks.
    """
    by_id = {member.job_id: member for member in members}
    if len(by_id) < 2:
        return None
    from mopsjobs.registry.usage import add_usage, usage_fields, usage_from_json  # here: few jobs have a family

    parents = {member.parent_job_id for member in by_id.values()}
    leaves = [member for member in by_id.values() if member.job_id not in parents]
    newest = max(leaves or by_id.values(), key=lambda member: (member.created, member.job_id))
    eldest_total = next((member.tasks_total for member in by_id.values() if member.parent_job_id is None), 0)
    total = newest.tasks_total if newest.is_adaptive else eldest_total
    # A child that only reduces has no tasks: its parent lacked none.
    is_all_done = any(
        member.tasks_completed >= member.tasks_total > 0 and not member.tasks_deferred for member in by_id.values()
    )
    is_known = total > 0 and (newest.tasks_total > 0 or newest.status == "succeeded" or is_all_done)
    lacking = newest.tasks_total - newest.tasks_completed + newest.tasks_deferred
    return Family(
        members=tuple(by_id.values()),
        children=tuple(member.job_id for member in by_id.values() if member.parent_job_id == job_id),
        newest=newest.job_id,
        tasks_total=total or None,
        tasks_completed=max(0, total - lacking) if is_known else None,
        usage=usage_fields(add_usage(usage_from_json(member.usage) for member in by_id.values())),
    )


def member_from_state(state: JobState) -> Member:
    """Return a record as a member of a family."""
    from mopsjobs.registry.usage import usage_json

    return Member(
        state.job_id,
        state.parent_job_id,
        str(state.status),
        state.tasks_total,
        state.tasks_completed,
        deferred_tasks(state.metadata),
        parse_time(state.created_at).timestamp(),
        usage_json(state),
        PRECISION in state.metadata,
    )


def find_by_prefix(connection: sqlite3.Connection, prefix: str) -> tuple[str, str] | None:
    """Return the only id that begins with a prefix, or the newest of the only family, with a note that says so.

    Returns:
        None if no id begins with it.

    Raises:
        AmbiguousJobError: if several ids begin with it, and are not all of one family.
    """
    candidates = ids_with_prefix(connection, prefix)
    if not candidates:
        return None
    if len(candidates) == 1:
        return candidates[0], f"{prefix} is short for {candidates[0]}"
    newest = _newest_of_prefix(connection, prefix, candidates[0])
    if newest is None:
        raise AmbiguousJobError(f"Several jobs begin with {prefix}.", job_id=prefix, candidates=candidates)
    return newest, f"{prefix} is short for {newest}, the newest of its family"


def _newest_of_prefix(connection: sqlite3.Connection, prefix: str, first: str) -> str | None:
    """Return the newest job of the family of the first id with a prefix if all others belong to it too, else None."""
    family = read_family(connection, first)
    if family is None:
        return None
    ids = {member.job_id for member in family.members}
    rows = connection.execute(
        "SELECT job_id FROM job WHERE job_id >= ? AND job_id < ? LIMIT ?", (prefix, prefix + ABOVE_IDS, len(ids) + 1)
    )
    return family.newest if all(row[0] in ids for row in rows) else None

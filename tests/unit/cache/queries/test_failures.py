"""Jobs with failed tasks, against plain Python, and the groups of these tasks, as the cache keeps them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from mopsjobs.cache import database
from mopsjobs.cache.pruning import delete_ledgers
from mopsjobs.cache.queries import failures
from mopsjobs.cache.queries.failures import JobFailures, keep_failures, last_failures, read_failures
from mopsjobs.cache.queries.filters import Filter, is_one_of
from mopsjobs.cache.sync.ledger import sync_ledger
from mopsjobs.registry.status import TERMINAL
from support.cached_jobs import STATUSES, Job, fill, made_of
from support.cli import Cli, Remote
from support.ledgers import ERROR, Ledger, add_job, attempt


@pytest.fixture
def mirror(cli: Cli, remote: Remote) -> Iterator[sqlite3.Connection]:
    """Yield an empty cache, open to write."""
    cli.ok("sync", "-q")
    connection = database.open_to_write(str(cli.cache), cli.app().settings.registry_id)
    yield connection
    connection.close()


@pytest.fixture
def read(remote: Remote, mirror: sqlite3.Connection) -> Callable[[], JobFailures]:
    """Return a function that mirrors the ledger of `job`, and reads its failures."""

    def mirrored() -> JobFailures:
        mirror.commit()
        sync_ledger(remote.store.inner, mirror, "job")
        found = read_failures(mirror, "job")
        mirror.commit()
        assert found is not None
        return found[0]

    return mirrored


def add(remote: Remote, sets: list[object], **fields: object) -> None:
    add_job(remote.jobs, "job", sets, **fields)  # type: ignore[arg-type]


def test_replicates_of_a_set_are_one_set(remote: Remote, read: Callable[[], JobFailures]) -> None:
    """Sets with the same parameters and other seeds too. 4 sets of 30 tasks give no condition."""
    sets: list[object] = [{"params": {"n": number}, "seed": seed} for seed in range(30) for number in range(4)]
    add(remote, sets)
    Ledger(remote.store.inner)(*(attempt(task, "failed" if task % 4 == 3 else "succeeded") for task in range(120)))
    [group] = read().groups
    assert (group.size, group.separates) == (30, [])


def test_nothing_is_suspected_before_all_tasks_have_ended(remote: Remote, read: Callable[[], JobFailures]) -> None:
    """Tasks to come may tell what further sets would. Afterwards the region is suspected."""
    add(remote, [{"params": {"n": number % 5 * 10, "m": number // 5}} for number in range(20)])
    write = Ledger(remote.store.inner)
    write(*(attempt(task, "failed" if task % 5 > 1 and task > 9 else "succeeded") for task in range(1, 20)))
    assert read().groups[0].suspected == []
    write(attempt(0))
    [suspected] = read().groups[0].suspected
    assert (suspected["condition"], suspected["failed_sets"]) == ("n > 15 and m > 1", 6)


def test_tasks_of_a_child_job_are_found_in_their_sets(remote: Remote, read: Callable[[], JobFailures]) -> None:
    """A child has some of the tasks of the study; those that are not its own do not count."""
    remote.jobs.register_job("parent")
    add(remote, [{"params": {"n": number}} for number in range(60)], only=range(0, 60, 2))
    Ledger(remote.store.inner)(*(attempt(task, "failed" if task > 40 else "succeeded") for task in range(0, 60, 2)))
    [group] = read().groups
    assert group.separates[0]["condition"] == "n > 40"
    assert (group.separates[0]["failed"], group.separates[0]["passed"]) == (9, 0)


def test_cancelled_tasks_have_neither_failed_nor_succeeded(remote: Remote, read: Callable[[], JobFailures]) -> None:
    """Outcomes without an error are groups of their own: out of memory, lost."""
    add(remote, [{"params": {"n": number}} for number in range(6)])
    outcomes = ("oom", "cancelled", "lost", "died", "timeout", "succeeded")
    Ledger(remote.store.inner)(*(attempt(task, outcome) for task, outcome in enumerate(outcomes)))
    found = read()
    assert {group.key for group in found.groups} == {"oom", "lost", "died", "timeout"}
    assert (found.failed, found.total) == (4, 6)


def test_errors_without_number_are_bounded(
    remote: Remote, read: Callable[[], JobFailures], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model may give each task an error of its own: the largest groups are kept, the others counted."""
    monkeypatch.setattr(failures, "MAX_GROUPS", 3)
    monkeypatch.setattr(failures, "MAX_SEEN_GROUPS", 5)
    add(remote, [{"params": {"n": number}} for number in range(20)])
    Ledger(remote.store.inner)(
        *(attempt(task, "failed", error=ERROR._replace(key=f"{min(task, 12):012x}")) for task in range(20))
    )
    found = read()
    assert (len(found.groups), found.more_groups, found.failed) == (3, 2, 20)


@pytest.mark.parametrize(("name", "most"), [("MAX_COMPARED_TASKS", 19), ("MAX_COMPARED_BYTES", 100)])
def test_a_study_that_is_too_large_is_not_compared(
    remote: Remote, read: Callable[[], JobFailures], monkeypatch: pytest.MonkeyPatch, name: str, most: int
) -> None:
    """Its groups are there, without conditions, and the result says so."""
    monkeypatch.setattr(failures, name, most)
    add(remote, [{"params": {"n": number}} for number in range(20)])
    Ledger(remote.store.inner)(*(attempt(task, "failed" if task > 9 else "succeeded") for task in range(20)))
    found = read()
    assert found.left_out is None
    assert [group.separates for group in found.groups] == [[]]


def test_what_is_kept_goes_with_the_ledger(remote: Remote, mirror: sqlite3.Connection) -> None:
    """It is read again while nothing more is known, and removed with the job."""
    add(remote, [{"params": {"n": number}} for number in range(4)])
    write = Ledger(remote.store.inner)
    write(attempt(0, "failed"))
    sync_ledger(remote.store.inner, mirror, "job")
    assert last_failures(mirror, "job") is None
    found = read_failures(mirror, "job")
    assert found is not None
    made, state = found
    assert state is not None
    keep_failures(mirror, "job", made, state)
    assert last_failures(mirror, "job") == (made, True)
    assert read_failures(mirror, "job") == (made, None)
    mirror.commit()
    write(attempt(1, "failed"))
    sync_ledger(remote.store.inner, mirror, "job")
    assert last_failures(mirror, "job") == (made, False)
    delete_ledgers(mirror, ["job"])
    assert mirror.execute("SELECT count(*) FROM failure_summary").fetchone() == (0,)
    keep_failures(mirror, "job", made, state)
    assert mirror.execute("SELECT count(*) FROM failure_summary").fetchone() == (0,), "the job is gone"
    assert read_failures(mirror, "job") is None


JOBS = st.lists(
    made_of(
        status=STATUSES, tasks_failed=st.integers(0, 2), changed=st.integers(0, 9), owner=st.sampled_from([None, "ada"])
    ),
    max_size=20,
)


def numbered(jobs: Sequence[Job]) -> dict[str, Job]:
    return {f"{number:02}": job for number, job in enumerate(jobs)}


@given(jobs=JOBS, since=st.none() | st.integers(0, 9), owner=st.none() | st.just("ada"), limit=st.integers(0, 6))
@settings(max_examples=150)
def test_the_last_changed_jobs_with_failures_are_found(
    cache: sqlite3.Connection, jobs: list[Job], since: int | None, owner: str | None, limit: int
) -> None:
    """Failed and partial ones, and those with failed tasks that were cancelled or go on. All of them are counted."""
    fill(cache, numbered(jobs))
    expected = [
        (-job.changed, f"{number:02}")
        for number, job in enumerate(jobs)
        if (job.status in ("failed", "partial") or (job.status != "succeeded" and job.tasks_failed))
        and (since is None or job.changed >= since or job.status not in TERMINAL)
        and (owner is None or job.owner == owner)
    ]
    conditions = () if owner is None else (is_one_of("owner", owner),)
    found = failures.jobs_with_failures(cache, Filter(since=since, conditions=conditions), limit, resumed=True)
    assert found == ([job_id for _, job_id in sorted(expected)][: limit or None], len(expected))


MEMBERS = st.lists(
    st.tuples(st.integers(0, 7), st.sampled_from(["failed", "succeeded", "cancelled", "running"]), st.booleans()),
    min_size=1,
    max_size=8,
)
"""Jobs that each continue one of the others, or nothing: its place, the status, and whether it leaves tasks."""


@given(members=MEMBERS)
@settings(max_examples=150)
def test_a_failure_is_open_until_a_resume_takes_all_its_tasks(
    cache: sqlite3.Connection, members: list[tuple[int, str, bool]]
) -> None:
    """A resume that leaves some is followed to those that continue it; a cancelled one takes nothing up.

    Records may name each other in a circle, and say anything of what they leave: a text counts as none.
    """
    jobs = [
        Job(status, parent=f"{of:02}", tasks_failed=1, deferred=1 if defers else (0, "x", None)[of % 3])
        for of, status, defers in members
    ]
    fill(cache, numbered(jobs))

    def is_taken_up(job: str, seen: frozenset[str] = frozenset()) -> bool:
        children = [
            number
            for number, (parent, status, _) in enumerate(members)
            if f"{parent:02}" == job and status != "cancelled" and f"{number:02}" not in seen
        ]
        return any(
            not members[number][2] or is_taken_up(f"{number:02}", seen | {f"{number:02}"}) for number in children
        )

    expected = {
        f"{number:02}"
        for number, (_, status, _) in enumerate(members)
        if status != "succeeded" and not is_taken_up(f"{number:02}")
    }
    found, total = failures.jobs_with_failures(cache, Filter(), 0, resumed=False)
    assert (set(found), total) == (expected, len(expected))

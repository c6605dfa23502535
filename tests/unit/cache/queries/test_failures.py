"""Groups of failed tasks, and the conditions that separate them, as the cache keeps them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator

import pytest

from mopsjobs.cache import database
from mopsjobs.cache.pruning import delete_ledgers
from mopsjobs.cache.queries import failures
from mopsjobs.cache.queries.failures import JobFailures, keep_failures, last_failures, read_failures
from mopsjobs.cache.sync.ledger import sync_ledger
from support.cli import Cli, Remote
from support.ledgers import ERROR, Ledger, add_job, attempt


@pytest.fixture
def cache(cli: Cli, remote: Remote) -> Iterator[sqlite3.Connection]:
    """Yield an empty cache, open to write."""
    cli.ok("sync", "-q")
    connection = database.open_to_write(str(cli.cache), cli.app().settings.registry_id)
    yield connection
    connection.close()


@pytest.fixture
def read(remote: Remote, cache: sqlite3.Connection) -> Callable[[], JobFailures]:
    """Return a function that mirrors the ledger of `job`, and reads its failures."""

    def mirrored() -> JobFailures:
        cache.commit()
        sync_ledger(remote.store.inner, cache, "job")
        found = read_failures(cache, "job")
        cache.commit()
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


def test_what_is_kept_goes_with_the_ledger(remote: Remote, cache: sqlite3.Connection) -> None:
    """It is read again while nothing more is known, and removed with the job."""
    add(remote, [{"params": {"n": number}} for number in range(4)])
    write = Ledger(remote.store.inner)
    write(attempt(0, "failed"))
    sync_ledger(remote.store.inner, cache, "job")
    assert last_failures(cache, "job") is None
    found = read_failures(cache, "job")
    assert found is not None
    made, state = found
    assert state is not None
    keep_failures(cache, "job", made, state)
    assert last_failures(cache, "job") == (made, True)
    assert read_failures(cache, "job") == (made, None)
    cache.commit()
    write(attempt(1, "failed"))
    sync_ledger(remote.store.inner, cache, "job")
    assert last_failures(cache, "job") == (made, False)
    delete_ledgers(cache, ["job"])
    assert cache.execute("SELECT count(*) FROM failure_summary").fetchone() == (0,)
    keep_failures(cache, "job", made, state)
    assert cache.execute("SELECT count(*) FROM failure_summary").fetchone() == (0,), "the job is gone"
    assert read_failures(cache, "job") is None


def test_a_group_has_the_hours_of_its_failures(
    remote: Remote, read: Callable[[], JobFailures], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In their order, with the number of tasks that failed in each; at most the last ones are kept."""
    add(remote, [{"params": {"n": number}} for number in range(5)])
    starts = (7200.0, 3600.0, 7300.0, 90000.0, None)
    Ledger(remote.store.inner)(*(attempt(task, "failed", started_at=at, seconds=0.0) for task, at in enumerate(starts)))
    [group] = read().groups
    assert group.hours == [[1, 1], [2, 2], [25, 1]]
    assert group.size == 5
    monkeypatch.setattr(failures, "MAX_HOURS", 2)
    monkeypatch.setattr(failures, "VERSION", 0)
    [group] = read().groups
    assert group.hours == [[2, 2], [25, 1]]

"""Shards that do not reach the registry leave files, and a delivery that may stop anywhere brings them there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mopsjobs.errors import StoreUnavailableError
from mopsjobs.ledger.retry_policy import RetryPolicy
from mopsjobs.submission import shard_drop
from mopsjobs.submission.offline import deliver_shards
from mopsjobs.submission.shard_drop import ShardDrop
from support.drops import Site, counts
from support.engines import COMPLETE, FAILED, GONE, RUNNING, state_of
from support.ledgers import attempts_in
from support.runs import calls, results, sets_of

ONCE = RetryPolicy(retries=0)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_the_outputs_and_counts_of_each_shard_are_delivered(site: Site) -> None:
    """Its attempts, events and usage too. All shards are done, so the outputs decide when Slurm has forgotten the job.

    A second delivery changes nothing, and nothing stays.
    """
    site.submit(sets_of(4))
    site.work(0)
    state = site.deliver()
    assert counts(state) == ("running", 2, 0)
    assert site.deliver() == state
    site.work(1)
    state = site.deliver()
    assert counts(state) == ("validating", 4, 0)
    assert state.heartbeat_at is None
    assert state.usage.keys() == {"0", "1"}
    assert len(results(site.store)) == 4
    assert [str(one.outcome) for one in attempts_in(site.store)] == ["succeeded"] * 4
    assert counts(site.reconcile(GONE)) == ("succeeded", 4, 0)
    assert not site.directory.drop.exists()


def test_the_record_of_the_job_alone_tells_of_its_state(site: Site) -> None:
    """A shard sees its own tasks only, so neither its announcements nor its states are delivered."""
    site.submit(sets_of(2))
    before = [key for key in site.store.list_keys() if key.startswith("changes/")]
    site.work(0)
    site.deliver()
    assert [key for key in site.store.list_keys() if key.startswith("changes/")] == before
    events = [entry.value or b"" for entry in site.store.scan("events/")]
    assert not [event for event in events if b'"kind":"state"' in event]


def test_a_delivery_that_stops_anywhere_is_completed_by_the_next(site: Site) -> None:
    """Before each write of the store. Counts are never ahead of outputs, and no task is lost or runs again."""
    site.submit([*sets_of(3), {"x": 3, "fail": True}])
    site.work(0)
    site.work(1)
    steps = 0
    while True:
        site.store.left = steps
        try:
            site.reconcile(COMPLETE)
            break
        except StoreUnavailableError:
            steps += 1
        site.store.left = float("inf")
        seen = state_of(site.registry, "job")
        assert len(results(site.store)) >= seen.tasks_completed
    site.store.left = float("inf")
    assert steps > 3
    assert counts(state_of(site.registry, "job")) == ("partial", 3, 1)
    assert len(results(site.store)) == 3
    assert len(attempts_in(site.store)) == 4
    assert deliver_shards(state_of(site.registry, "job"), site.session, COMPLETE)
    assert not site.directory.drop.exists()


def test_a_delivery_that_is_killed_between_two_removals_is_completed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is removed after it was delivered."""
    site.submit(sets_of(4))
    site.work(0)
    site.work(1)
    site.reconcile(RUNNING)
    site.registry.finalize_job("job", "succeeded")
    removals, kill_at = 0, 0
    delete = ShardDrop.delete

    def killed(store: ShardDrop, key: str) -> bool:
        nonlocal removals
        if removals == kill_at:
            raise KeyboardInterrupt
        removals += 1
        return delete(store, key)

    monkeypatch.setattr(shard_drop.DirectoryVersionedStore, "delete", killed)
    while site.directory.drop.exists():
        removals = 0
        try:
            site.deliver(is_over=True)
        except KeyboardInterrupt:
            kill_at += 1
        assert len(results(site.store)) == 4
    assert kill_at > 0


def test_a_shard_that_is_started_again_runs_no_task_again(site: Site) -> None:
    """Although its outputs were delivered, as far as there were some."""
    site.submit([{"x": 0}, {"x": 1}, {"x": 2, "needs": str(site.calls.parent / "there")}])
    site.work(0, policy=ONCE)
    site.deliver()
    (site.calls.parent / "there").touch()
    site.work(0)
    site.work(1)
    assert calls(site.calls) == {0: 1, 1: 1, 2: 2}
    assert counts(site.reconcile(COMPLETE)) == ("succeeded", 3, 0)


def test_what_a_cancelled_job_has_stored_is_delivered_once_it_has_stopped(site: Site) -> None:
    """Its record stays as it is."""
    site.submit(sets_of(4))
    site.work(0)
    state = site.registry.cancel_job("job")
    deliver_shards(state, site.session, RUNNING)
    assert site.directory.drop.exists()
    assert deliver_shards(state, site.session, COMPLETE).status == "cancelled"
    assert len(results(site.store)) == 2
    assert not site.directory.drop.exists()


def test_reconcile_delivers_what_an_ended_job_has_left(site: Site) -> None:
    """Its shards had not stopped when it was cancelled. A file of a writer that was killed goes with the drop."""
    site.submit(sets_of(4))
    site.work(0)
    site.registry.cancel_job("job")
    (site.directory.drop / "0" / "p0123456789abcdef").touch()
    assert site.reconcile(COMPLETE).status == "cancelled"
    assert len(results(site.store)) == 2
    assert not site.directory.drop.exists()


def test_the_error_of_a_shard_is_that_of_the_job(site: Site) -> None:
    """It comes after what Slurm says."""
    site.submit([{"x": 0}, {"x": 1, "fail": True}])
    site.work(1, policy=ONCE)
    state = site.reconcile(FAILED)
    assert counts(state) == ("failed", 0, 1)
    assert state.error_code == FAILED.reason
    assert "ValueError: as asked" in str(state.error_message)


def test_first_tasks_and_failures_count_in_each_shard_alone(site: Site) -> None:
    """A shard does not wait for another one, whose record it does not see. One that ends early ends alone."""
    site.submit([{"x": number, "fail": number % 2 == 1} for number in range(12)])
    said = site.work(1, first=1, policy=ONCE)
    assert not [line for line in said if "Waiting" in line]
    assert calls(site.calls) == {1: 1, 3: 1, 5: 1, 7: 1, 9: 1}
    site.work(0, max_failures="2")
    state = site.reconcile(COMPLETE)
    assert counts(state) == ("partial", 6, 5)
    assert "Ended by --first 1" in str(state.error_message)


def test_files_are_for_their_owner_alone(site: Site) -> None:
    site.submit(sets_of(2))
    site.work(0)
    modes = {os.stat(os.path.join(root, name)).st_mode & 0o077 for root, _, names in os.walk(site.directory.drop)
             for name in (".", *names)}  # fmt: skip
    assert modes == {0}

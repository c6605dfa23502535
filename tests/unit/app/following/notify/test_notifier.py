"""Who is told what of which job, by its status and the rule; and claims, by which one watcher sends it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from mopsjobs.app.following.notify import claims
from mopsjobs.app.following.notify.claims import Claim, Settled
from mopsjobs.app.following.notify.notifier import covers, occasions_of
from mopsjobs.app.run.notify_rules import Rule
from mopsjobs.store.memory import InMemoryVersionedStore
from support.cli import START, Clock


def rule(**fields: Any) -> Rule:
    made = Rule("team", "slack")
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def job(**fields: Any) -> dict[str, Any]:
    usual = {"status": "running", "is_active": True, "suspect": None, "owner": "ada", "labels": {}}
    return {**usual, "tasks_total": 100, "tasks_completed": 0, "tasks_failed": 0, **fields}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, []),
        ({"suspect": "no_update"}, ["suspect"]),
        ({"tasks_failed": 9}, []),
        ({"tasks_failed": 10}, ["failures"]),
        ({"tasks_completed": 91, "tasks_failed": 9}, []),
        ({"tasks_completed": 81, "tasks_failed": 9}, ["failures"]),
        ({"tasks_total": 3, "tasks_completed": 2, "tasks_failed": 1}, ["failures"]),
        ({"tasks_total": 3, "tasks_failed": 2}, []),
        ({"tasks_total": None, "tasks_failed": 9}, []),
        ({"tasks_failed": 10, "suspect": "pod_gone"}, ["failures", "suspect"]),
        ({"status": "succeeded", "is_active": False}, ["end"]),
        ({"status": "cancelled", "is_active": False, "tasks_failed": 50}, ["end"]),
    ],
)
def test_what_is_told_follows_the_state(fields: dict[str, Any], expected: list[str]) -> None:
    """A rate counts from ten ended tasks on, or from all tasks of a smaller job. An end tells all else."""
    assert occasions_of(rule(), job(**fields)) == expected


@pytest.mark.parametrize("status", ["succeeded", "partial", "failed", "cancelled"])
def test_a_rule_may_tell_of_failed_jobs_only(status: str) -> None:
    """`failed` tells of failed and partial jobs; a cancelled one was ended by a user."""
    found = occasions_of(rule(occasions=("failed",)), job(status=status, is_active=False))
    assert found == (["end"] if status in ("partial", "failed") else [])


@pytest.mark.parametrize("occasion", ["end", "failures", "suspect"])
def test_a_rule_tells_only_what_it_is_for(occasion: str) -> None:
    """Each word of `on` selects one event."""
    events = [job(tasks_failed=10), job(suspect="no_update"), job(status="failed", is_active=False)]
    assert {one for each in events for one in occasions_of(rule(occasions=(occasion,)), each)} == {occasion}


@pytest.mark.parametrize(
    ("fields", "names", "is_covered"),
    [
        ({"jobs": "named"}, (), False),
        ({"jobs": "named"}, ("other",), False),
        ({"jobs": "named"}, ("team",), True),
        ({"jobs": "mine"}, (), True),
        ({"jobs": "all"}, (), True),
        ({"jobs": "all", "labels": ("exp=7",)}, (), True),
        ({"jobs": "all", "labels": ("exp",)}, (), True),
        ({"jobs": "all", "labels": ("exp=8",)}, (), False),
        ({"jobs": "all", "labels": ("exp=7", "other")}, (), False),
        ({"jobs": "all", "labels": ("exp=8",)}, ("team",), True),
    ],
)
def test_a_rule_covers_its_jobs(fields: dict[str, Any], names: tuple[str, ...], *, is_covered: bool) -> None:
    """Jobs that name it, jobs of the user, or all; with all of its labels. A job that names it needs none."""
    assert covers(rule(**fields), job(labels={"exp": "7"}), names, "ada") is is_covered


@pytest.mark.parametrize("user", ["eve", None])
def test_the_jobs_of_others_are_not_mine(user: str | None) -> None:
    """Nor are those of anyone, where the user has no name."""
    assert not covers(rule(jobs="mine"), job(), (), user)
    assert not covers(rule(jobs="mine"), job(owner=None), (), user)


KEY = claims.claim_key("job", "end", "0123456789abcdef")


@pytest.fixture(name="store")
def _store() -> InMemoryVersionedStore:
    return InMemoryVersionedStore()


def claim(store: InMemoryVersionedStore, clock: Clock) -> Claim | Settled:
    return claims.claim(store, KEY, clock.now)


def won(store: InMemoryVersionedStore, clock: Clock) -> Claim:
    found = claim(store, clock)
    assert isinstance(found, Claim)
    return found


def test_a_dead_sender_is_replaced_by_one_watcher(store: InMemoryVersionedStore, clock: Clock) -> None:
    """After the lease one watcher takes the claim over; the mark of the old sender, should it live, has no effect."""
    dead = won(store, clock)
    clock.moment = START + claims.LEASE
    heir = won(store, clock)
    assert heir.attempt == 2
    assert claim(store, clock) == Settled(is_final=False)
    claims.mark(store, dead, clock.now, is_sent=False)
    assert json.loads(store.get(KEY).value)["state"] == "sending"  # type: ignore[union-attr]
    claims.mark(store, heir, clock.now, is_sent=True)
    assert claim(store, clock) == Settled(is_final=True)


@pytest.mark.parametrize("minutes", [-10, 10])
def test_clocks_that_differ_take_nothing_over(store: InMemoryVersionedStore, clock: Clock, minutes: int) -> None:
    """A watcher whose clock is as wrong as clocks may be does not take a sender at work for dead."""
    won(store, clock)
    clock.advance(minutes=minutes)
    assert claim(store, clock) == Settled(is_final=False)


def test_a_failed_attempt_is_repeated_later_and_not_for_ever(store: InMemoryVersionedStore, clock: Clock) -> None:
    """Five attempts, each after a pause; then the message is given up."""
    for attempt in range(1, claims.MAX_ATTEMPTS + 1):
        mine = won(store, clock)
        assert mine.attempt == attempt
        claims.mark(store, mine, clock.now, is_sent=False)
        if attempt < claims.MAX_ATTEMPTS:
            assert claim(store, clock) == Settled(is_final=False)
        clock.moment += claims.RETRY
    assert claim(store, clock) == Settled(is_final=True)


def test_senders_that_die_each_time_end_too(store: InMemoryVersionedStore, clock: Clock) -> None:
    """A message that kills each sender is sent five times at most."""
    attempts = 0
    for _ in range(10):
        attempts += isinstance(claim(store, clock), Claim)
        clock.moment += claims.LEASE
    assert attempts == claims.MAX_ATTEMPTS


@pytest.mark.parametrize(
    "value", [b"", b"[]", b"{}", b'{"state": "sending", "attempt": "x", "at": "never"}', b"\xff", b"[" * 1000]
)
def test_a_claim_that_cannot_be_read_sends_nothing(store: InMemoryVersionedStore, clock: Clock, value: bytes) -> None:
    """Another program may have written it. One message less is better than one in each sync."""
    store.create_if_absent(KEY, value)
    assert claim(store, clock) == Settled(is_final=True)


def test_the_lease_is_longer_than_clocks_differ() -> None:
    """By the differences that all of mops-jobs allows for, and by the time that a write may take."""
    assert timedelta(minutes=10) < claims.LEASE <= timedelta(minutes=30)

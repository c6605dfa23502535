"""Claims: of many watchers one sends a message; a dead sender's is taken over once, after the clocks allow it."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from mopsjobs.app.following.notify import claims
from mopsjobs.app.following.notify.claims import Claim, Settled
from mopsjobs.store.memory import InMemoryVersionedStore
from support.cli import START, Clock

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

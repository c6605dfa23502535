"""Claims of notifications over every backend: of many watchers at once, one sends."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mopsjobs.app.following.notify import claims
from support.cli import Clock

if TYPE_CHECKING:
    from mopsjobs.store.base import VersionedStore
    from support.servers import Backend

WATCHERS = 16
KEY = claims.claim_key("job", "end", "0123456789abcdef")


def test_one_of_sixteen_watchers_gets_a_claim(backend: Backend) -> None:
    """A new one, and then one whose sender has died. The mark of the winner settles it for all."""
    clock, store = Clock(), backend.open()
    for attempt in (1, 2):
        [won] = [found for found in _at_once(store, clock) if isinstance(found, claims.Claim)]
        assert won.attempt == attempt
        clock.moment += claims.LEASE
    claims.mark(store, won, clock.now, is_sent=True)
    assert _at_once(store, clock) == [claims.Settled(is_final=True)] * WATCHERS


def _at_once(store: VersionedStore, clock: Clock) -> list[claims.Claim | claims.Settled]:
    """Return what each of the watchers gets, which begin at once."""
    start = threading.Barrier(WATCHERS)

    def claim(_number: int) -> claims.Claim | claims.Settled:
        start.wait()
        return claims.claim(store, KEY, clock.now)

    with ThreadPoolExecutor(WATCHERS) as watchers:
        return list(watchers.map(claim, range(WATCHERS)))

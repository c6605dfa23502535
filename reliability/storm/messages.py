"""Notifications in a storm: each is claimed by many processes, and the note of a process is its recipient."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta

from mopsjobs.app.following.notify import claims
from mopsjobs.store.base import VersionedStore
from mopsjobs.utils.times import utc_now
from reliability.storm.store_history import Line, Log

RECIPIENT = "5" * 16

SENDING_SECONDS = 0.05
"""How long a recipient takes: meanwhile, others look at the claim."""


def tell(store: VersionedStore, job: str, log: Log, now: Callable[[], datetime]) -> None:
    """Claim the message of a job, note that it was sent, and mark the claim.

    Raises:
        StoreError: if the store does not answer.
    """
    key = claims.claim_key(job, "end", RECIPIENT)
    claimed = claims.claim(store, key, now)
    if isinstance(claimed, claims.Claim):
        log.note(sent=key)
        time.sleep(SENDING_SECONDS)
        claims.mark(store, claimed, now, is_sent=True)


def told_later(store: VersionedStore, max_clock: float) -> Counter[str]:
    """Do as a watcher long after the storm: send what is left, and count it, by key.

    Args:
        store: the store, on a line without faults.
        max_clock: seconds by which clocks were off.
    """
    later = timedelta(seconds=max_clock) + claims.LEASE
    again: Counter[str] = Counter()
    for key in list(store.list_keys(claims.PREFIX)):
        again[key] = 0
        while isinstance(claimed := claims.claim(store, key, lambda: utc_now() + later), claims.Claim):
            again[key] += 1
            claims.mark(store, claimed, lambda: utc_now() + later, is_sent=True)
    return again


def judge(logs: Iterable[Iterable[Line]], again: Counter[str], counts: Counter[str]) -> Iterator[str]:
    """Yield a sentence for each message that was sent twice without a crash, or not at all.

    Args:
        logs: the notes of the processes.
        again: what a later watcher has sent, by key.
        counts: takes the figures.
    """
    sent = Counter(str(line["sent"]) for log in logs for line in log if "sent" in line)
    counts["messages"] += len(again)
    counts["messages sent again after a crash or a lost reply"] += sum(sent[key] and again[key] for key in again)
    for key in sorted(again.keys() | sent.keys()):
        if sent[key] > 1 or again[key] > 1:
            yield f"{key} was sent {sent[key]} times in the storm, and {again[key]} times after it."
        if sent[key] + again[key] == 0:
            yield f"{key} was never sent."

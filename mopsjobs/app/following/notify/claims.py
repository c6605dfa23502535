"""Claims: a key in the store beside each message, so that one of many watchers sends it.

The key names the job, what is told, and a digest of the recipient. The watcher that creates it sends the message, and
then marks the key as sent. A sender that dies in between leaves the mark `sending`. `LEASE` is longer than clocks
differ. After it, another watcher takes the claim over by compare-and-swap, and sends again. So a message arrives at
least once, and once without a crash. A failed attempt is repeated after `RETRY`, up to `MAX_ATTEMPTS`.

The keys lie under a prefix of their own, which no listing of jobs and no sync reads. See
docs/decisions/0073-notifications.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from mopsjobs.errors import RecordError
from mopsjobs.registry.announcements import MAX_CLOCK_SKEW, MAX_WRITE_DELAY
from mopsjobs.registry.keys import CLAIM
from mopsjobs.store.base import VersionedStore, VersionToken
from mopsjobs.utils.json_strict import read_json
from mopsjobs.utils.times import parse_time, record_time

PREFIX = CLAIM.prefix

LEASE = MAX_CLOCK_SKEW + MAX_WRITE_DELAY
"""After this time, a sender that has not marked its claim counts as dead."""

RETRY = timedelta(minutes=5)
"""Time between a failed attempt and the next one."""

MAX_ATTEMPTS = 5

WINDOW = timedelta(hours=24)
"""An end longer ago is not told any more, so its claim has no use."""

SENDING, SENT, UNSENT = "sending", "sent", "failed"


class Claim(NamedTuple):
    """A message that this process is to send."""

    key: str
    version: VersionToken
    attempt: int


class Settled(NamedTuple):
    """A message that needs nothing more from this process for now."""

    is_final: bool
    """Whether it was sent, or given up. Otherwise another process is at it, or the next attempt is not due."""


def claim_key(job_id: str, occasion: str, recipient: str) -> str:
    """Return the key of a message.

    Args:
        job_id: the job.
        occasion: why it is told of, such as its end.
        recipient: the digest of the recipient.
    """
    return CLAIM.key(job=job_id, claim=f"{occasion}-{recipient}")


def failure_key(sweep: str, day: str, occasion: str, recipient: str) -> str:
    """Return the key of the message about the first failure in a sweep on a day. Others of that day have the same.

    Args:
        sweep: the name of the sweep.
        day: the day, as times of records begin.
        occasion: as of `claim_key`.
        recipient: the digest of the recipient.
    """
    digest = hashlib.blake2b(sweep.encode(), digest_size=16).hexdigest()
    return claim_key(f"sweep-{digest}", f"{occasion}-{day}", recipient)


def claim(store: VersionedStore, key: str, now: Callable[[], datetime]) -> Claim | Settled:
    """Claim a message, unless another process has.

    If the reply to the write is lost, the claim counts as that of a dead sender: a later attempt takes it over.

    Raises:
        StoreError: if the store does not answer, or refuses the write.
    """
    created = store.create_if_absent(key, _value(SENDING, 1, now()))
    if created is not None:
        return Claim(key, created, 1)
    found = store.get(key)
    if found is None:  # removed meanwhile
        return Settled(is_final=False)
    state, attempt, at = _read(found.value)
    if state == SENT or (state == UNSENT and attempt >= MAX_ATTEMPTS):
        return Settled(is_final=True)
    if now() - at < (LEASE if state == SENDING else RETRY):
        return Settled(is_final=False)
    if attempt >= MAX_ATTEMPTS:
        return Settled(is_final=True)
    version = store.put(key, _value(SENDING, attempt + 1, now()), found.version)
    return Settled(is_final=False) if version is None else Claim(key, version, attempt + 1)


def mark(store: VersionedStore, claimed: Claim, now: Callable[[], datetime], *, is_sent: bool) -> None:
    """Mark a claim as sent or as failed. Another process that has taken it over keeps it.

    Raises:
        StoreError: if the store does not answer. Then another process sends the message again.
    """
    store.put(claimed.key, _value(SENT if is_sent else UNSENT, claimed.attempt, now()), claimed.version)


def _value(state: str, attempt: int, at: datetime) -> bytes:
    return json.dumps({"state": state, "attempt": attempt, "at": record_time(at)}).encode()


def _read(value: bytes) -> tuple[str, int, datetime]:
    """Return what a claim says. One that is not readable counts as sent: a message less is better than a storm."""
    try:
        document = read_json(value)
        assert isinstance(document, dict)  # noqa: S101 - caught below, as the other mistakes
        return str(document["state"]), int(document["attempt"]), parse_time(str(document["at"]))
    except (RecordError, AssertionError, KeyError, TypeError, ValueError):
        return SENT, MAX_ATTEMPTS, datetime.max.replace(tzinfo=UTC)

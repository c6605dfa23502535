"""Compare-and-swap, made usable: read, apply a function, put; after a lost race back off and read again.

No leases: a writer that dies holds nothing. The price is that a write may have to be tried again, so `fn` must be pure.

The delicate case is a write whose reply was lost. It comes back as a conflict with one's own write, and a naive loop
then applies `fn` twice, or reports an illegal transition that never was (slatedb#766, icechunk#2099, hudi#14373 and
azure-sdk-for-net#35632 each met it). Only the caller knows how its effect looks in the bytes, so the caller passes
`already_applied`; without it an unknown outcome is reported as such, never guessed.
"""

from __future__ import annotations

import random as _random
import time
from collections.abc import Callable
from typing import NamedTuple

from mopsjobs.errors import KeyNotFoundError, StoreError, StoreUnavailableError, TooManyRetriesError
from mopsjobs.store.base import Versioned, VersionedStore, VersionToken
from mopsjobs.utils.backoff import Backoff

ATTEMPTS = 24
"""Races that may be lost in a row. With the delays below, some 45 s of them at most, half of that on average."""

BASE_SECONDS = 0.05
"""Longest first delay: about two round trips to a store in the same region, the time in which a rival finishes."""

CAP_SECONDS = 3.0
"""Longest delay of all. Longer ones would let one writer starve while others come and go."""

OUTAGES = 3
"""Writes with an unknown outcome that one update may look into before it reports the outage."""

_DOUBT = "The write of {key} may or may not have landed: look before you repeat it."

Apply = Callable[[bytes], "bytes | None"]
Landed = Callable[[bytes], bool]
BeforeWrite = Callable[[], None]
Sleep = Callable[[float], None]
Random = Callable[[], float]


class CasResult(NamedTuple):
    """What an update came to. `written` is False when `fn` saw nothing to change."""

    value: bytes
    version: VersionToken
    written: bool
    attempts: int


def update(  # noqa: PLR0913 - two calls back more than most
    store: VersionedStore,
    key: str,
    fn: Apply,
    *,
    already_applied: Landed | None = None,
    leaves_permanent_trace: Landed = lambda _value: False,
    before_write: BeforeWrite = lambda: None,
    on_conflict: BeforeWrite = lambda: None,
    attempts: int = ATTEMPTS,
    sleep: Sleep = time.sleep,
    random: Random = _random.random,
) -> CasResult:
    """Replace the value of `key` by `fn(value)`, however many others do the same at the same time.

    Args:
        store: where the key lives.
        key: an existing key.
        fn: a pure function from the current bytes to the new ones, or to None when nothing is to be changed. It is
            called once per attempt. What it raises passes through, and nothing was written; unless an earlier attempt
            may have landed, which only `leaves_permanent_trace` can rule out.
        already_applied: returns True for bytes that hold the effect of this update. It is asked after each conflict
            and each lost reply, to recognise an own write. A caller that passes it guarantees that `fn` may be applied
            again to bytes without the effect.
        leaves_permanent_trace: returns True for bytes made by `fn` if `already_applied` still recognises this update
            after other writers change the value.
        before_write: called before each attempt to write. What it raises counts as raised by the write itself.
        on_conflict: called after each put that lost the race.
        attempts: how many puts may lose the race before `TooManyRetriesError`.
        sleep: waits that many seconds.
        random: a number from 0 to 1.

    Raises:
        KeyNotFoundError: there is no such key.
        TooManyRetriesError: every attempt lost the race. Nothing was written.
        StoreUnavailableError: the store is out of reach. The hint says when the write may have landed all the same.
    """
    backoff = Backoff(BASE_SECONDS, CAP_SECONDS, random=random, sleep=sleep)
    outages, unsure = 0, False
    doubt: Versioned | None = None
    value: bytes | None = b""
    for attempt in range(1, attempts + 1):
        current = _get(store, key, in_doubt=unsure)
        if attempt > 1 and already_applied is not None and already_applied(current.value):
            return CasResult(current.value, current.version, written=True, attempts=attempt)
        if doubt is not None and current.version != doubt.version:
            if already_applied is None:
                raise _unknown_outcome(key)
            # It cannot land over this version any more; but it may have, and have lost its trace to a later write.
            unsure = value is None or not leaves_permanent_trace(value)
            doubt = None
        value = _applied(fn, current.value, key, in_doubt=unsure)
        if value is None:
            return CasResult(current.value, current.version, written=False, attempts=attempt)
        is_write = False
        try:
            before_write()
            is_write = True
            version = store.put(key, value, current.version)
        except StoreUnavailableError as error:
            outages += 1
            if not error.sent and not unsure:
                raise
            if outages >= OUTAGES or error.silent:
                raise _unknown_outcome(key, error) from error
            doubt, unsure = current, True
        except StoreError as error:
            raise _with_doubt(error, key, in_doubt=unsure, is_write=is_write) from error.__cause__
        else:
            if version is not None:
                return CasResult(value, version, written=True, attempts=attempt)
            on_conflict()
        if attempt < attempts:
            backoff.wait()
    raise _unknown_outcome(key) if unsure else _lost(key, attempts)


def create(
    store: VersionedStore,
    key: str,
    value: bytes,
    *,
    already_applied: Landed | None = None,
    before_write: BeforeWrite = lambda: None,
    sleep: Sleep = time.sleep,
    random: Random = _random.random,
) -> CasResult | None:
    """Create `key`; None when somebody else has created it.

    Takes `already_applied`, `before_write`, `sleep` and `random` as `update` does.

    Raises:
        StoreUnavailableError: the store is out of reach. The hint says when the write may have landed all the same.
    """
    backoff = Backoff(BASE_SECONDS, CAP_SECONDS, random=random, sleep=sleep)
    for attempt in range(1, OUTAGES + 1):
        is_write = False
        try:
            before_write()
            is_write = True
            version = store.create_if_absent(key, value)
        except StoreUnavailableError as error:
            if not error.sent and attempt == 1:
                raise
            if attempt == OUTAGES or error.silent:
                raise _unknown_outcome(key, error) from error
            try:
                found = store.get(key)
            except StoreError:
                raise _unknown_outcome(key, error) from error
            if found is not None:
                if already_applied is None:
                    raise _unknown_outcome(key, error) from error
                return _own(found, already_applied, attempt)
            backoff.wait()
            continue
        except StoreError as error:
            raise _with_doubt(error, key, in_doubt=attempt > 1, is_write=is_write) from error.__cause__
        if version is not None:
            return CasResult(value, version, written=True, attempts=attempt)
        # A key that exists can be our own doing only if an earlier attempt, here or below, was answered by silence.
        if already_applied is None:
            if attempt > 1:
                raise _unknown_outcome(key)
            return None
        try:
            found = store.get(key)
        except StoreError as error:
            raise _with_doubt(error, key, in_doubt=attempt > 1, is_write=False) from error.__cause__
        return None if found is None else _own(found, already_applied, attempt)
    raise AssertionError("unreachable: the last attempt returns or raises")


def _get(store: VersionedStore, key: str, *, in_doubt: bool) -> Versioned:
    """The current value. `in_doubt`: an earlier write may have landed, so an outage now leaves that open."""
    try:
        current = store.get(key)
    except StoreUnavailableError as error:
        if in_doubt:
            raise _unknown_outcome(key, error) from error
        raise
    except StoreError as error:
        raise _with_doubt(error, key, in_doubt=in_doubt, is_write=False) from error.__cause__
    if current is None:
        raise KeyNotFoundError(f"There is no {key}.")
    return current


def _applied(fn: Apply, value: bytes, key: str, *, in_doubt: bool) -> bytes | None:
    """What `fn` makes of the value. `in_doubt`: an earlier write may have landed, so a refusal now would be false."""
    try:
        return fn(value)
    except Exception as error:
        if in_doubt:
            raise _unknown_outcome(key) from error
        raise


def _lost(key: str, attempts: int) -> TooManyRetriesError:
    return TooManyRetriesError(
        f"Lost the race for {key} {attempts} times in a row; nothing was written.",
        key=key,
        attempts=attempts,
        hint="Many writers are at this record. Try again in a minute.",
    )


def _own(found: Versioned, already_applied: Landed, attempt: int) -> CasResult | None:
    return (
        CasResult(found.value, found.version, written=True, attempts=attempt) if already_applied(found.value) else None
    )


def _with_doubt(error: StoreError, key: str, *, in_doubt: bool, is_write: bool) -> StoreError:
    """The error; it tells that a write may have landed: an earlier one, or the one whose own reply makes no sense.

    A refusal for want of permission or of room, on the other hand, says that nothing was written.
    """
    if in_doubt or (is_write and type(error) is StoreError):
        error.hint = " ".join(filter(None, (error.hint, _DOUBT.format(key=key))))
    return error


def _unknown_outcome(key: str, cause: StoreUnavailableError | None = None) -> StoreUnavailableError:
    return StoreUnavailableError(
        str(cause) if cause is not None else f"The reply to the write of {key} was lost.",
        hint=_DOUBT.format(key=key),
    )

"""Compare-and-swap: read a value, apply a function, write it back; after a lost race wait and read again.

There are no leases, so a writer that dies holds nothing. In exchange a write may need several attempts, so `fn` must be
pure. See docs/decisions/0001-compare-and-swap-not-leases.md.

The delicate case is a write that landed and whose reply was lost. The next attempt conflicts with the writer's own
write. A naive loop then applies `fn` twice, or reports an illegal transition (slatedb#766, icechunk#2099, hudi#14373
and azure-sdk-for-net#35632 each met it). Only the caller knows how its effect looks in the bytes, so it passes an
`Update`. Without one, an unknown outcome is reported as such. See docs/decisions/0002-lost-replies.md.
"""

from __future__ import annotations

import random as _random
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from mopsjobs.errors import KeyNotFoundError, StoreError, StoreUnavailableError, TooManyRetriesError
from mopsjobs.store.base import Versioned, VersionedStore, VersionToken
from mopsjobs.utils.backoff import Backoff

ATTEMPTS = 24
"""Races that an update may lose in a row. With the delays below, this takes at most 45 s, and half of it on average."""

BASE_SECONDS = 0.05
"""Longest first delay: two round trips to a store in the same region, in which a competing writer finishes."""

CAP_SECONDS = 3.0
"""Longest delay of all. Longer ones would let one writer starve while others come and go."""

OUTAGES = 3
"""Lost replies in one update or creation, after which the outage is reported."""

_DOUBT = "The write of {key} may or may not have landed: look before you repeat it."

Apply = Callable[[bytes], "bytes | None"]
Sleep = Callable[[float], None]
Random = Callable[[], float]


class CasResult(NamedTuple):
    """The outcome of an update. `written` is False if `fn` saw nothing to change."""

    value: bytes
    version: VersionToken
    written: bool
    attempts: int


class Update(Protocol):
    """The functions by which a caller recognises its own update and acts around each write.

    A caller that passes one guarantees that `fn` may be applied again to a value without the effect of the update.
    """

    def already_applied(self, value: bytes) -> bool:
        """Return True for a value that holds the effect of this update. Called after conflicts and lost replies."""

    def leaves_permanent_trace(self, value: bytes) -> bool:
        """Return True if `already_applied` still recognises this update after other writers change the value.

        Called with values that `fn` returned.
        """

    def on_read(self, current: Versioned) -> None:
        """Take note of the current value. Called after each read by `update`."""

    def before_write(self) -> None:
        """Prepare a write. Called before each one; an error from here counts as an error of the write."""


class LostReplyTracker:
    """Track whether a write to one key may have landed although its reply was lost."""

    def __init__(self, key: str) -> None:
        self.may_have_landed = False
        self._is_untraceable = False
        """Whether an earlier write may have landed whose trace a later write may have removed."""
        self._key = key
        self._lost = 0
        self._last: Versioned | None = None
        """The last write whose reply was lost: its value, and the version that it was to replace."""

    def add(self, error: StoreUnavailableError, write: Versioned | None = None) -> None:
        """Note that the reply to a write was lost.

        Raises:
            StoreUnavailableError: if nothing was sent, if the store was silent, or if too many replies were lost.
        """
        self._lost += 1
        if not error.sent and not self.may_have_landed:
            raise error
        if self._lost >= OUTAGES or error.silent:
            raise self.unknown_outcome(error) from error
        self._last, self.may_have_landed = write, True

    def settle(self, current: Versioned, update: Update | None) -> None:
        """Look whether the lost write can still land: it cannot over another version than the one it was to replace.

        Raises:
            StoreUnavailableError: if the version has changed, and the caller cannot tell by whom.
        """
        if self._last is None or self._last.version == current.version:
            return
        if update is None:
            raise self.unknown_outcome()
        # It may have landed, and a later write may have removed its trace. What is found of one write says nothing of
        # an earlier one.
        self._is_untraceable = self._is_untraceable or not update.leaves_permanent_trace(self._last.value)
        self.may_have_landed = self._is_untraceable
        self._last = None

    def with_doubt(self, error: StoreError, *, is_write: bool) -> StoreError:
        """Return the error, with the hint that a write may have landed if one may.

        This is an earlier write, or the one whose own reply was unexpected. A refusal for lack of permission or of
        room, on the other hand, says that nothing was written.
        """
        if self.may_have_landed or (is_write and type(error) is StoreError):
            error.hint = " ".join(filter(None, (error.hint, _DOUBT.format(key=self._key))))
        return error

    def unknown_outcome(self, cause: StoreUnavailableError | None = None) -> StoreUnavailableError:
        """Return the error which says that a write may or may not have landed."""
        return StoreUnavailableError(
            str(cause) if cause is not None else f"The reply to the write of {self._key} was lost.",
            hint=_DOUBT.format(key=self._key),
        )


def update(
    store: VersionedStore,
    key: str,
    fn: Apply,
    callbacks: Update | None = None,
    *,
    attempts: int = ATTEMPTS,
    base_seconds: float = BASE_SECONDS,
    sleep: Sleep = time.sleep,
    random: Random = _random.random,
) -> CasResult:
    """Replace the value of `key` by `fn(value)`, while any number of other writers do the same.

    Args:
        store: where the key lives.
        key: an existing key.
        fn: a pure function from the current bytes to the new ones, or to None if nothing is to change. It is called
            once per attempt. Its errors pass through, and nothing was written; unless an earlier attempt may have
            landed, which only `leaves_permanent_trace` can rule out.
        callbacks: recognises this update after a conflict or a lost reply; None if the bytes cannot tell.
        attempts: writes that may lose the race before `TooManyRetriesError`.
        base_seconds: longest delay after the first lost race. The delays grow from there to `CAP_SECONDS`.
        sleep: waits for a number of seconds.
        random: returns a number from 0 to 1.

    Raises:
        KeyNotFoundError: if the key does not exist.
        TooManyRetriesError: if every attempt lost the race. Nothing was written.
        StoreUnavailableError: if the store is out of reach. The hint says if the write may have landed all the same.
    """
    backoff = Backoff(base_seconds, CAP_SECONDS, random=random, sleep=sleep)
    replies = LostReplyTracker(key)
    for attempt in range(1, attempts + 1):
        current = _get(store, key, replies)
        if callbacks is not None:
            callbacks.on_read(current)
        if attempt > 1 and callbacks is not None and callbacks.already_applied(current.value):
            return CasResult(current.value, current.version, written=True, attempts=attempt)
        replies.settle(current, callbacks)
        value = _apply(fn, current.value, replies)
        if value is None:
            return CasResult(current.value, current.version, written=False, attempts=attempt)
        is_write = False
        try:
            if callbacks is not None:
                callbacks.before_write()
            is_write = True
            version = store.put(key, value, current.version)
        except StoreUnavailableError as error:
            replies.add(error, Versioned(value, current.version))
        except StoreError as error:
            raise replies.with_doubt(error, is_write=is_write) from error.__cause__
        else:
            if version is not None:
                return CasResult(value, version, written=True, attempts=attempt)
        if attempt < attempts:
            backoff.wait()
    if replies.may_have_landed:
        raise replies.unknown_outcome()
    raise TooManyRetriesError(
        f"Lost the race for {key} {attempts} times in a row; nothing was written.",
        key=key,
        attempts=attempts,
        hint="Many writers change this record. Try again in a minute.",
    )


def create(
    store: VersionedStore,
    key: str,
    value: bytes,
    callbacks: Update | None = None,
    *,
    sleep: Sleep = time.sleep,
    random: Random = _random.random,
) -> CasResult | None:
    """Create `key`; return None if another writer has created it.

    Takes `callbacks`, `sleep` and `random` as `update` does.

    Raises:
        StoreUnavailableError: if the store is out of reach. The hint says if the write may have landed all the same.
    """
    backoff = Backoff(BASE_SECONDS, CAP_SECONDS, random=random, sleep=sleep)
    replies = LostReplyTracker(key)
    while True:
        is_write = False
        try:
            if callbacks is not None:
                callbacks.before_write()
            is_write = True
            version = store.create_if_absent(key, value)
        except StoreUnavailableError as error:
            replies.add(error)
            try:
                found = store.get(key)
            except StoreError:
                raise replies.unknown_outcome(error) from error
            if found is None:
                backoff.wait()
                continue
            if callbacks is None:
                raise replies.unknown_outcome(error) from error
            return _own_creation(found, callbacks, backoff.failures + 1)
        except StoreError as error:
            raise replies.with_doubt(error, is_write=is_write) from error.__cause__
        if version is not None:
            return CasResult(value, version, written=True, attempts=backoff.failures + 1)
        # The key exists. This writer can have created it only in an earlier attempt, here or below, without a reply.
        if callbacks is None:
            if replies.may_have_landed:
                raise replies.unknown_outcome()
            return None
        try:
            found = store.get(key)
        except StoreError as error:
            raise replies.with_doubt(error, is_write=False) from error.__cause__
        return None if found is None else _own_creation(found, callbacks, backoff.failures + 1)


def _get(store: VersionedStore, key: str, replies: LostReplyTracker) -> Versioned:
    """Return the current value.

    Raises:
        KeyNotFoundError: if the key does not exist.
        StoreError: if the value cannot be read. The hint says if an earlier write may have landed.
    """
    try:
        current = store.get(key)
    except StoreUnavailableError as error:
        if replies.may_have_landed:
            raise replies.unknown_outcome(error) from error
        raise
    except StoreError as error:
        raise replies.with_doubt(error, is_write=False) from error.__cause__
    if current is None:
        raise KeyNotFoundError(f"Key {key} not found.")
    return current


def _apply(fn: Apply, value: bytes, replies: LostReplyTracker) -> bytes | None:
    """Return `fn(value)`. If an earlier write may have landed, an error of `fn` would be misleading.

    Raises:
        StoreUnavailableError: if `fn` raises, and an earlier write may have landed.
    """
    try:
        return fn(value)
    except Exception as error:
        if replies.may_have_landed:
            raise replies.unknown_outcome() from error
        raise


def _own_creation(found: Versioned, callbacks: Update, attempts: int) -> CasResult | None:
    """Return the result of a creation, if the value is that of this writer."""
    if not callbacks.already_applied(found.value):
        return None
    return CasResult(found.value, found.version, written=True, attempts=attempts)

"""Keep values that cost much to make: the last ones that were asked for, in memory."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

MAX_SHARE = 0.05
"""The share of time for one value, at most: what costs a second is computed again after 20."""


class LastUsed(Generic[T]):
    """The values that were asked for last. Several threads may use it."""

    def __init__(self, size: int, max_bytes: float = math.inf, bytes_of: Callable[[T], float] = lambda _: 0) -> None:
        """Prepare.

        Args:
            size: how many values are kept.
            max_bytes: the memory that all of them may take. The last one is kept in any case.
            bytes_of: returns the memory that a value takes.
        """
        self._size, self._max_bytes, self._bytes_of = size, max_bytes, bytes_of
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable) -> T | None:
        """Return a value; None if it is not kept."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Hashable, value: T) -> None:
        """Keep a value."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._size or (len(self._values) > 1 and self._held() > self._max_bytes):
                self._values.popitem(last=False)

    def _held(self) -> float:
        return sum(map(self._bytes_of, self._values.values()))


class _Made(NamedTuple, Generic[T]):
    state: Hashable
    value: T
    made_at: float
    cost: float


class _Slot(Generic[T]):
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.made: _Made[T] | None = None


class Memo(Generic[T]):
    """Values that are made again when what they are made from has changed."""

    def __init__(self, monotonic: Callable[[], float], size: int) -> None:
        """Prepare.

        Args:
            monotonic: a clock, in seconds.
            size: how many values are kept.
        """
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._slots: LastUsed[_Slot[T]] = LastUsed(size)

    def get(
        self,
        key: Hashable,
        state: Hashable,
        make: Callable[[], T],
        *,
        max_age: float = math.inf,
        max_share: float = MAX_SHARE,
    ) -> T:
        """Return the value of a key; make it again if the state has changed, but not too often.

        Other threads that ask for it wait meanwhile.

        Args:
            key: what is asked for.
            state: changes with what the value is made from.
            make: computes the value.
            max_age: seconds until it is made again without a change.
            max_share: the share of time for it, at most.
        """
        with self._lock:
            slot = self._slots.get(key) or _Slot()
            self._slots.put(key, slot)
        with slot.lock:
            made, now = slot.made, self._monotonic()
            age = math.inf if made is None else now - made.made_at
            if made is not None and age <= max_age and (made.state == state or age < made.cost / max_share):
                return made.value
            value = make()
            end = self._monotonic()
            slot.made = _Made(state, value, end, end - now)
            return value

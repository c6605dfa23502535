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


class Memo(Generic[T]):
    """Values that are made again when what they are made from has changed."""

    def __init__(self, monotonic: Callable[[], float], size: int) -> None:
        """Prepare.

        Args:
            monotonic: a clock, in seconds.
            size: how many values are kept.
        """
        self._monotonic = monotonic
        self._last_used: LastUsed[_Made[T]] = LastUsed(size)

    def get(self, key: Hashable, state: Hashable, make: Callable[[], T]) -> T:
        """Return the value of a key; make it again if the state has changed, but not too often.

        Args:
            key: what is asked for.
            state: changes with what the value is made from.
            make: computes the value.
        """
        made = self._last_used.get(key)
        now = self._monotonic()
        if made is not None and (made.state == state or now - made.made_at < made.cost / MAX_SHARE):
            return made.value
        value = make()
        end = self._monotonic()
        self._last_used.put(key, _Made(state, value, end, end - now))
        return value

"""Keep values that cost much to compute, until what they are made from changes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

MAX_SHARE = 0.05
"""The share of time for one value, at most: what costs a second is computed again after 20."""


class _Kept(NamedTuple, Generic[T]):
    state: Hashable
    value: T
    made_at: float
    cost: float


class Memo(Generic[T]):
    """The values that were asked for last."""

    def __init__(self, monotonic: Callable[[], float], size: int) -> None:
        """Prepare.

        Args:
            monotonic: a clock, in seconds.
            size: how many values are kept.
        """
        self._monotonic = monotonic
        self._size = size
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, _Kept[T]] = OrderedDict()

    def get(self, key: Hashable, state: Hashable, make: Callable[[], T]) -> T:
        """Return the value of a key; make it again if the state has changed, but not too often.

        Args:
            key: what is asked for.
            state: changes with what the value is made from.
            make: computes the value.
        """
        with self._lock:
            kept = self._kept.get(key)
        now = self._monotonic()
        if kept is not None and (kept.state == state or now - kept.made_at < kept.cost / MAX_SHARE):
            return kept.value
        value = make()
        end = self._monotonic()
        with self._lock:
            self._kept[key] = _Kept(state, value, end, end - now)
            self._kept.move_to_end(key)
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return value

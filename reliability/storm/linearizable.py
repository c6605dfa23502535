"""Is a history of concurrent calls linearizable? A small checker, since no package index of Python has one.

Wing and Gong's search ("Testing and Verifying Concurrent Objects", 1993) with Lowe's memory of what was tried ("Testing
for Linearizability", 2017). It puts the calls into one order, each between its start and its end. In that order, a
sequential model gives every answer that was given. tests/resilience/test_storm.py holds it against trying all orders.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

State = Hashable
Step = Callable[[State, "Hashable"], tuple[State, ...]]
"""From a state and a call, its answer included, to the states after it: none if no such answer was possible.

What starts with a state and a call that only observes gives a state that knows no less.
"""


class Operation(NamedTuple):
    """One call as its caller saw it."""

    start: float
    """Seconds on one clock for all callers. It took effect not before this."""
    end: float
    """It took effect not after this. `math.inf`: unknown when, or whether at all."""
    call: Hashable
    observes: bool = False
    """Whether it leaves every state as it is, so that nothing is lost by letting it happen as soon as it may."""


def unexplained(history: Sequence[Operation], initial: State, step: Step) -> Operation | None:
    """Return the first call, by its start, that no order tried gets past; None if the history is linearizable.

    Args:
        history: all calls on one object. Of several objects, each is checked by itself (Herlihy and Wing, 1990).
        initial: the object's state before all of them.
        step: the model.
    """
    ended = sorted((one for one in history if one.end < math.inf), key=lambda one: one.start)
    open_ended = sorted((one for one in history if one.end == math.inf), key=lambda one: one.start)
    search = _Search([*ended, *open_ended], len(ended), step)
    seen: set[tuple[int, State]] = {(0, initial)}
    todo = list(seen)
    furthest = 0
    while todo:
        done, state = todo.pop()
        passed = search.passed(done)
        if passed == len(ended):
            return None
        furthest = max(furthest, passed)
        for following in search.following(done, state, passed):
            if following not in seen:
                seen.add(following)
                todo.append(following)
    return ended[furthest]


class _Search:
    """The calls: first those that ended, then the others, each by their start. A number's bits are a set of them."""

    def __init__(self, calls: list[Operation], ended: int, step: Step) -> None:
        self._calls = calls
        self._ended = ended
        self._step = step

    def passed(self, done: int) -> int:
        """Return how many calls that ended are done without a gap, from the first."""
        missing = ~done & ((1 << self._ended) - 1)
        return (missing & -missing).bit_length() - 1 if missing else self._ended

    def following(self, done: int, state: State, passed: int) -> list[tuple[int, State]]:
        """Return where one more call leads; the most promising last."""
        found: list[tuple[int, State]] = []
        for number in self._next(done, passed):
            one = self._calls[number]
            states = self._step(state, one.call)
            if states and one.observes:
                return [(done | 1 << number, states[0])]
            found += [(done | 1 << number, after) for after in states]
        found.reverse()
        return found

    def _next(self, done: int, passed: int) -> Iterator[int]:
        """Yield the calls that may come next: those that started before every call that is not done ended."""
        deadline = math.inf
        for number in range(passed, self._ended):
            if self._calls[number].start > deadline:
                break
            if not done >> number & 1:
                deadline = min(deadline, self._calls[number].end)
                yield number
        tried: set[Hashable] = set()
        for number in range(self._ended, len(self._calls)):
            one = self._calls[number]
            if one.start > deadline:
                break
            # Of two equal calls that never ended, the earlier one can do whatever the later one can.
            if not done >> number & 1 and one.call not in tried:
                tried.add(one.call)
                yield number

"""Connections over a network, and a process that forks.

Parent and child would have the same sockets, and each would take for its own whatever reply comes first: the value of
another key, or the word that a write has landed. So a child leaves its parent's connections alone, and makes its own.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Connections(Protocol):
    """What is connected to a server."""

    def begin_anew(self) -> None:
        """Forget every connection without a word to the server, and make others when they are needed."""


_EVERY: weakref.WeakSet[Connections] = weakref.WeakSet()


def begin_anew_in_children(connections: Connections) -> None:
    """From now on, each child that this process forks begins with connections of its own."""
    _EVERY.add(connections)


def _begin_anew() -> None:
    for connections in _EVERY:
        connections.begin_anew()


os.register_at_fork(after_in_child=_begin_anew)

"""The orders of a process of a storm."""

from __future__ import annotations

from typing import NamedTuple


class Spec(NamedTuple):
    """The orders of a process."""

    name: str
    url: str
    log: str
    cache: str
    seed: str
    operations: int
    first: int = 0
    """Number of its first operation: one that follows a killed one goes on where the others are."""
    seconds: float = 600.0
    """After so long it begins no other operation."""
    clock: float = 0.0
    """Seconds by which its clock is off."""
    commands: bool = True
    """Whether some operations are runs of the command."""
    mutation: str = ""
    """What is wrong with it on purpose: a name in `MUTATIONS`, of its backend."""

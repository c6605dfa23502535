"""What every trial is given and what it gives back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


class PromiseBroken(AssertionError):  # noqa: N818 - what the report says, not an error of mops-jobs
    """Something that mops-jobs promises did not hold. The text tells what, and how to have it again."""


def hold(kept: bool, broken: str) -> None:
    """Raise `PromiseBroken` with the text, unless the promise was kept."""
    if not kept:
        raise PromiseBroken(broken)


@dataclass(frozen=True)
class Trial:
    """One run of one kind: everything that is random in it comes from `seed`.

    `scale` is 1 for the whole of it, and less for the quick part that the tests run.
    """

    directory: Path
    seed: int
    scale: float = 1.0
    steps: int | None = None
    """Of sequences over each store, in place of what `scale` says."""
    stores: tuple[str, ...] = ()
    """Stores of sequences; none for all."""

    def times(self, whole: int, least: int = 1) -> int:
        """Return how often to do what the whole trial does `whole` times."""
        return max(least, round(whole * self.scale))


@dataclass(frozen=True)
class Figure:
    """One line of the report: what was counted, and the count."""

    what: str
    count: int | str


def in_turn(cases: Iterable[tuple[str, Callable[[], Iterator[Figure]]]]) -> Iterator[Figure]:
    """Yield the figures of named parts of a trial, of which one that breaks ends none of the others.

    Raises:
        PromiseBroken: if a part has, at the end.
    """
    broken: list[str] = []
    for name, part in cases:
        begun = time.monotonic()
        try:
            for figure in part():
                yield Figure(f"{name}: {figure.what}", figure.count)
        except PromiseBroken as error:
            yield Figure(f"{name}: BROKEN", str(error))
            broken.append(f"{name}: {error}")
        yield Figure(f"{name}: seconds", round(time.monotonic() - begun))
    hold(not broken, "; ".join(broken))

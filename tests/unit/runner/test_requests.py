"""The requests of a job: the ranges hold the counts that were taken at a real Azurite."""

from __future__ import annotations

import pytest

from mopsjobs.runner.requests import Load, count_requests
from mopsjobs.studies.costs import Range


def load(tasks: int, seconds: float, size: int, *, outputs: int = 1, packed: bool = True, shards: int = 1) -> Load:
    return Load(
        Range(tasks, tasks), Range(seconds, seconds), Range(size * tasks, size * tasks), outputs, packed, shards
    )


@pytest.mark.parametrize(
    ("tasks", "seconds", "size", "writes", "listings", "reads"),
    [
        (1_000, 1.5, 12, 19, 5, 15),
        (10_000, 7, 12, 33, 5, 25),
        (100, 11, 20, 33, 5, 22),
        (24, 49, 20, 56, 5, 36),
        (20, 2, 100_000, 37, 3, 13),
        (100, 11, 40_000, 33, 5, 24),
    ],
)
def test_ranges_hold_what_was_counted(
    tasks: int, seconds: float, size: int, writes: int, listings: int, reads: int
) -> None:
    """The first two are those of docs/reference/limits.md. The others were counted in the same way."""
    found = count_requests(load(tasks, seconds, size))
    for counted, (low, high) in zip((writes, listings, reads), found, strict=True):
        assert low <= counted <= high


def test_requests_grow_with_time_not_with_tasks() -> None:
    """A million outputs of 1 KB are packs; with their own objects, each is a write. A day writes some hundred packs."""
    assert count_requests(load(1_000_000, 600, 1_000)).writes.high < 2_500
    assert count_requests(load(1_000_000, 600, 1_000, packed=False)).writes.low > 1_000_000
    assert count_requests(load(1_000, 600, 100_000)).writes.low > 1_000
    day = count_requests(load(400, 86_400, 1_000)).writes
    assert day.high < 5_000
    assert count_requests(load(400, 86_400, 1_000, shards=4)).writes.high > day.high
